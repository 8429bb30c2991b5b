"""`felix get`: what is stored, as tables for people and as documents for `felix apply`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

from felix.cli import output
from felix.cli.connection import CONNECTION_HELP, add_connection_options, run_with_etcd
from felix.cli.kinds import KINDS_HELP, find_kind
from felix.cli.store import DEFAULT_NAMESPACE, Document, Stored, find_spellings, find_stored, list_stored
from felix.config.exits import ExitCode
from felix.datastore.etcd import EtcdClient
from felix.model.keys import NAMESPACED_KINDS, ResourceKey

_EXAMPLE = f"""\
examples:
  felix get gnp                         a table of all global policies
  felix get wep -A -o wide              workload endpoints of all namespaces
  felix get np allow-web -n shop -o yaml
  felix get ippool,tier -o json > backup.json

{KINDS_HELP}

{CONNECTION_HELP}"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`felix get` is known to the parser."""
    parser = subparsers.add_parser(
        "get",
        help="show resources",
        description="Shows resources.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", metavar="KIND", help="one kind, or several separated by commas")
    parser.add_argument("names", metavar="NAME", nargs="*", default=[], help="only these")
    parser.add_argument("-o", "--output", choices=output.FORMATS, default="ps", help="form of the output (default: ps)")
    parser.add_argument(
        "-n", "--namespace", default=DEFAULT_NAMESPACE, help="of kinds that have one (default: default)"
    )
    parser.add_argument("-A", "-a", "--all-namespaces", action="store_true", help="of all namespaces")
    add_connection_options(parser)
    parser.set_defaults(func=partial(_get, refuse=parser.error))


def _get(arguments: argparse.Namespace, refuse: Callable[[str], NoReturn]) -> int:
    kinds = [find_kind(alias) for alias in arguments.kind.split(",")]
    if len(kinds) > 1 and arguments.names:
        refuse("names go with one kind only; leave them away, or name one kind")
    if arguments.names and arguments.all_namespaces and kinds[0] in NAMESPACED_KINDS:
        refuse("a name is looked for in one namespace; give -n NAMESPACE instead of -A")
    return run_with_etcd(arguments, lambda client: _show(client, kinds, arguments))


async def _show(client: EtcdClient, kinds: Sequence[str], arguments: argparse.Namespace) -> int:
    if arguments.names:
        return await _show_named(client, kinds[0], arguments)
    documents: list[Document] = []
    revision = 0
    for position, kind in enumerate(kinds):
        namespace = "" if arguments.all_namespaces or kind not in NAMESPACED_KINDS else arguments.namespace
        resources, revision = await list_stored(client, kind, namespace)
        _warn_of_unreadable(resources)
        if arguments.output in {"yaml", "json"}:
            documents.append(output.export_list(kind, resources, revision))
        else:
            sys.stdout.write("\n" if position and arguments.output != "name" else "")
            sys.stdout.write(_render(kind, resources, arguments))
    if len(documents) == 1:
        sys.stdout.write(output.render_document(documents[0], arguments.output))
    elif documents:
        # One list of everything, as one document of JSON or YAML.
        items = [item for document in documents for item in _items(document)]
        metadata = {"resourceVersion": str(revision)}
        whole = {**documents[0], "kind": "List", "metadata": metadata, "items": items}
        sys.stdout.write(output.render_document(whole, arguments.output))
    return ExitCode.OK


async def _show_named(client: EtcdClient, kind: str, arguments: argparse.Namespace) -> int:
    namespace = arguments.namespace if kind in NAMESPACED_KINDS else ""
    keys = [ResourceKey(kind, namespace, name) for name in arguments.names]
    found = await find_stored(client, [find_spellings(key) for key in keys])
    resources = [one for one in found if one is not None]
    _warn_of_unreadable(resources)
    if arguments.output in {"yaml", "json"} and len(resources) == 1 and len(keys) == 1:
        sys.stdout.write(output.render_document(output.export_document(resources[0]), arguments.output))
    elif arguments.output in {"yaml", "json"}:
        revision = max((one.revision for one in resources), default=0)
        sys.stdout.write(output.render_document(output.export_list(kind, resources, revision), arguments.output))
    elif resources:
        sys.stdout.write(_render(kind, resources, arguments))
    for key, one in zip(keys, found, strict=True):
        if one is None:
            print(f"felix: {key}: does not exist", file=sys.stderr)
    return ExitCode.OK if len(resources) == len(keys) else ExitCode.FAILED


def _render(kind: str, resources: Sequence[Stored], arguments: argparse.Namespace) -> str:
    if arguments.output == "name":
        return output.render_names(resources)
    is_wide = arguments.output == "wide"
    return output.render_table(kind, resources, is_wide=is_wide, has_namespaces=arguments.all_namespaces or is_wide)


def _items(document: Document) -> list[object]:
    items = document["items"]
    assert isinstance(items, list)
    return items


def _warn_of_unreadable(resources: Sequence[Stored]) -> None:
    for one in resources:
        if one.document is None:
            print(f"warning: {one.key}: what is stored is no JSON mapping", file=sys.stderr)
