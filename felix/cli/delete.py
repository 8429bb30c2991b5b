"""`felix delete`: resources by name, or those of a manifest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, NoReturn

from felix.cli.connection import CONNECTION_HELP, add_connection_options, run_with_etcd
from felix.cli.kinds import KINDS_HELP, find_kind
from felix.cli.manifest import Item, Sheet, read_manifest
from felix.cli.pools import warn_of_use
from felix.cli.store import (
    DEFAULT_NAMESPACE,
    POLICY_KINDS,
    Stored,
    Write,
    find_spellings,
    find_stored,
    list_stored,
    write_all,
)
from felix.cli.write import FILE_HELP, Conflict, Refusal
from felix.config.exits import ExitCode
from felix.datastore.etcd import EtcdClient
from felix.errors import DataError
from felix.model.keys import NAMESPACED_KINDS, PLURAL_BY_KIND, ResourceKey
from felix.model.shape import Flaw

BUILT_IN_TIERS = frozenset({"default", "kube-admin", "kube-baseline"})
_EXAMPLE = f"""\
examples:
  felix delete gnp allow-web
  felix delete np allow-web allow-dns -n shop
  felix delete -f policy.yaml --skip-not-exists

{KINDS_HELP}

{CONNECTION_HELP}"""


class Target(NamedTuple):
    """One resource to be deleted. tier: of a policy, if known. revision: the only one to delete, empty: any."""

    key: ResourceKey
    tier: str
    revision: str


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`felix delete` is known to the parser."""
    parser = subparsers.add_parser(
        "delete",
        help="delete resources",
        description="Deletes resources: all that are named, or none.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", metavar="KIND", nargs="?", help="kind of the resources")
    parser.add_argument("names", metavar="NAME", nargs="*", default=[], help="their names")
    parser.add_argument("-f", "--filename", action="append", default=[], metavar="FILE", help=FILE_HELP)
    parser.add_argument("-R", "--recursive", action="store_true", help="go into folders of folders")
    parser.add_argument(
        "-n", "--namespace", default=DEFAULT_NAMESPACE, help="of kinds that have one (default: default)"
    )
    parser.add_argument("--skip-not-exists", action="store_true", help="what is gone already is no error")
    add_connection_options(parser)
    parser.set_defaults(func=partial(_delete, refuse=parser.error))


def _delete(arguments: argparse.Namespace, refuse: Callable[[str], NoReturn]) -> int:
    if bool(arguments.filename) == bool(arguments.kind):
        refuse("give KIND NAME..., or -f FILE")
    if arguments.filename:
        sheets = read_manifest(arguments.filename, is_recursive=arguments.recursive)
        targets = [_read_target(sheet, item, arguments.namespace) for sheet in sheets for item in sheet.items]
    else:
        kind = find_kind(arguments.kind)
        if not arguments.names:
            refuse(f"give the name of the {kind} to delete")
        namespace = arguments.namespace if kind in NAMESPACED_KINDS else ""
        targets = [Target(ResourceKey(kind, namespace, name), "", "") for name in arguments.names]
    return run_with_etcd(arguments, lambda client: _delete_all(client, targets, is_skipping=arguments.skip_not_exists))


def _read_target(sheet: Sheet, item: Item, namespace: str) -> Target:
    """Returns which resource an item of a manifest is; the rest of it does not matter."""
    document = item.value if isinstance(item.value, dict) else {}
    kind, metadata = document.get("kind"), document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name = metadata.get("name")
    if not isinstance(kind, str) or kind not in PLURAL_BY_KIND or not isinstance(name, str) or not name:
        raise DataError(sheet.explain(item, Flaw((), "", "expected kind and metadata.name of a resource")))
    own, spec = metadata.get("namespace"), document.get("spec")
    where = (own if isinstance(own, str) and own else namespace) if kind in NAMESPACED_KINDS else ""
    tier = spec.get("tier") if isinstance(spec, dict) else ""
    revision = metadata.get("resourceVersion")
    return Target(
        ResourceKey(kind, where, name),
        tier if isinstance(tier, str) else "",
        revision if isinstance(revision, str) else "",
    )


async def _delete_all(client: EtcdClient, targets: Sequence[Target], *, is_skipping: bool) -> int:
    found = await find_stored(client, [find_spellings(target.key, target.tier) for target in targets])
    pairs = list(zip(targets, found, strict=True))
    missing = [target.key for target, stored in pairs if stored is None]
    present = [(target, stored) for target, stored in pairs if stored is not None]
    try:
        if missing and not is_skipping:
            raise Refusal("\n".join(f"{key}: does not exist" for key in missing))
        for target, stored in present:
            _check_revision(target, stored)
            await _check_tier(client, stored.key, [one.key for _, one in present])
        if not await write_all(client, [Write(stored.key, None, stored.revision) for _, stored in present]):
            raise Conflict("somebody wrote these resources meanwhile; look at them again with felix get")
    except (Conflict, Refusal) as error:
        print(f"felix: {error}\nNothing was deleted.", file=sys.stderr)
        return ExitCode.CONFLICT if isinstance(error, Conflict) else ExitCode.FAILED
    kinds = {stored.key.kind for _, stored in present}
    what = f"'{kinds.pop()}' resource(s)" if len(kinds) == 1 else "resource(s)"
    print(f"Successfully deleted {len(present)} {what}")
    await warn_of_use(client, [stored for _, stored in present])
    return ExitCode.OK


def _check_revision(target: Target, stored: Stored) -> None:
    if target.revision and target.revision != str(stored.revision):
        raise Conflict(f"{target.key}: was changed meanwhile, its version is {stored.revision}, not {target.revision}")


async def _check_tier(client: EtcdClient, key: ResourceKey, going: Sequence[ResourceKey]) -> None:
    """Raises Refusal for tiers that are built in, or have policies that stay: what these meant would change."""
    if key.kind != "Tier":
        return
    if key.name in BUILT_IN_TIERS:
        raise Refusal(f"{key}: is built in")
    for kind in sorted(POLICY_KINDS):
        policies, _ = await list_stored(client, kind)
        for policy in policies:
            spec = (policy.document or {}).get("spec")
            if isinstance(spec, dict) and spec.get("tier") == key.name and policy.key not in going:
                raise Refusal(f"{key}: has policies, for one {policy.key}; delete them first")
