"""Apply, create, replace: the whole manifest is judged first, then each document is written whole or not at all."""

from __future__ import annotations

import argparse
import asyncio
import enum
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from felix.calc.limits import read_limits, read_source_rate
from felix.cli.connection import CONNECTION_HELP, add_connection_options, run_with_etcd
from felix.cli.fill import fill_document
from felix.cli.manifest import Item, Sheet, read_manifest
from felix.cli.pools import POOL, find_overlap, list_pools
from felix.cli.store import DEFAULT_NAMESPACE, Document, Stored, Write, find_spellings, find_stored, write_all
from felix.clock import wall_s
from felix.config.exits import ExitCode
from felix.datastore.etcd import EtcdClient
from felix.errors import DataError
from felix.model.codec import encode
from felix.model.keys import NAMESPACED_KINDS, ResourceKey
from felix.model.policies import DEFAULT_TIER
from felix.model.records import (
    GlobalNetworkPolicy,
    IPPool,
    NetworkPolicy,
    Policy,
    ResourceRecord,
    WorkloadEndpoint,
)
from felix.model.shape import Flaw, simplify
from felix.model.validate import Judgement, judge
from felix.model.values import policy_tier

ATTEMPTS = 5
FILE_HELP = "a file, a folder, or - for standard input; may be repeated"


class Verb(enum.Enum):
    """What is done; the value is its past tense."""

    APPLY = "applied"
    CREATE = "created"
    REPLACE = "replaced"


DESCRIPTION_BY_VERB = {
    Verb.APPLY: "Creates resources, and changes those that exist.",
    Verb.CREATE: "Creates resources; refuses those that exist.",
    Verb.REPLACE: "Changes resources; refuses those that do not exist.",
}


class Order(NamedTuple):
    """One resource to be written, as found right. tier: of policies, else empty."""

    sheet: Sheet
    item: Item
    document: Document
    record: ResourceRecord
    key: ResourceKey
    tier: str


class Conflict(DataError):
    """Somebody else changed the resource meanwhile; nothing of its document was written."""


class Refusal(DataError):
    """What is stored does not allow the change; nothing of its document was written."""


def add_write_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], verb: Verb, text: str, example: str
) -> argparse.ArgumentParser:
    """Returns the parser of a verb that writes manifests, which the parser of commands knows now."""
    name = verb.name.lower()
    parser = subparsers.add_parser(
        name,
        help=text,
        description=f"{DESCRIPTION_BY_VERB[verb]} The whole manifest is checked before anything is written.",
        epilog=f"examples:\n{example}\n\n{CONNECTION_HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-f", "--filename", action="append", required=True, metavar="FILE", help=FILE_HELP)
    parser.add_argument("-R", "--recursive", action="store_true", help="go into folders of folders")
    parser.add_argument(
        "-n", "--namespace", default=DEFAULT_NAMESPACE, help="of resources that name none (default: default)"
    )
    parser.add_argument("--allow-unknown", action="store_true", help="keep fields that Felix does not know")
    if verb is Verb.CREATE:
        parser.add_argument("--skip-exists", action="store_true", help="leave alone what is there already")
    add_connection_options(parser)
    parser.set_defaults(func=lambda arguments: run_write(arguments, verb))
    return parser


def run_write(arguments: argparse.Namespace, verb: Verb) -> int:
    """Does what `verb` says with the manifest; returns the exit code, after a message for people."""
    sheets = read_manifest(arguments.filename, is_recursive=arguments.recursive)
    orders, messages = judge_sheets(sheets, arguments.namespace, allow_unknown=arguments.allow_unknown)
    if messages:
        raise DataError("\n".join(messages) + "\nNothing was written.")
    is_skipping = getattr(arguments, "skip_exists", False)
    return run_with_etcd(arguments, lambda client: _write_sheets(client, orders, verb, is_skipping=is_skipping))


def judge_sheets(sheets: Sequence[Sheet], namespace: str, *, allow_unknown: bool) -> tuple[list[Order], list[str]]:
    """Returns what to write, and everything that forbids it; warnings go to standard error."""
    orders: list[Order] = []
    messages: list[str] = []
    line_by_key: dict[ResourceKey, str] = {}
    for sheet in sheets:
        for item in sheet.items:
            judgement = judge(item.value)
            errors = judgement.errors if allow_unknown else judgement.unknown + judgement.errors
            messages += [sheet.explain(item, flaw) for flaw in errors]
            for flaw in judgement.warnings + (judgement.unknown if allow_unknown else []):
                print(f"warning: {sheet.explain(item, flaw)}", file=sys.stderr)
            if errors:
                continue
            order = _make_order(sheet, item, judgement, namespace)
            if order is None:
                messages.append(
                    sheet.explain(item, Flaw((), "", "has unknown fields inside rules; they would be lost"))
                )
                continue
            place = sheet.explain(item, Flaw((), "", ""))
            if order.key in line_by_key:
                messages.append(sheet.explain(item, Flaw((), "", f"is there twice; before: {line_by_key[order.key]}")))
            line_by_key[order.key] = place.rsplit(":", 2)[0]
            messages += [sheet.explain(item, flaw) for flaw in _find_limit_flaws(order)]
            orders.append(order)
    return orders, messages


def _find_limit_flaws(order: Order) -> list[Flaw]:
    """Returns what is wrong with the limits of an endpoint or a policy: the agent would go on without them."""
    match order.record:
        case WorkloadEndpoint(spec=spec):
            _, problems = read_limits(order.key, spec.qos_controls)
            return [Flaw(tuple(one.field.split(".")), one.value, one.reason) for one in problems]
        case GlobalNetworkPolicy() | NetworkPolicy() as policy:
            _, problems = read_source_rate(order.key, policy)
            names = [one.field.partition("[")[2].rstrip("]") for one in problems]
            paths = [("metadata", "annotations", name) for name in names]
            return [Flaw(path, one.value, one.reason) for path, one in zip(paths, problems, strict=True)]
    return []


def _make_order(sheet: Sheet, item: Item, judgement: Judgement, namespace: str) -> Order | None:
    record = judgement.record
    document = simplify(item.value)
    if record is None or not isinstance(document, dict):
        return None
    kind = type(record).__name__
    where = (record.metadata.namespace or namespace) if kind in NAMESPACED_KINDS else ""
    key = ResourceKey(kind, where, record.metadata.name)
    return Order(sheet, item, document, record, key, record.spec.tier if isinstance(record, Policy) else "")


async def _write_sheets(client: EtcdClient, orders: Sequence[Order], verb: Verb, *, is_skipping: bool) -> int:
    sheets: dict[tuple[str, int], list[Order]] = {}
    for order in orders:
        sheets.setdefault((order.sheet.source, order.sheet.number), []).append(order)
    done: list[Order] = []
    same = 0
    for group in sheets.values():
        try:
            written = await _write_group(client, group, verb, is_skipping=is_skipping)
        except (Conflict, Refusal) as error:
            print(f"felix: {error}", file=sys.stderr)
            if done or len(orders) > len(group):
                print(f"{verb.value} {len(done)} of {len(orders)} resources, then stopped", file=sys.stderr)
            return ExitCode.CONFLICT if isinstance(error, Conflict) else ExitCode.FAILED
        same += len(group) - written
        done += group
    print(_summary(done, same, verb))
    await _warn_of_missing_tiers(client, orders)
    return ExitCode.OK


async def _warn_of_missing_tiers(client: EtcdClient, orders: Sequence[Order]) -> None:
    """Standard error has a line for each policy of a tier that is not there: its order is not what was meant."""
    named = [order for order in orders if policy_tier(order.tier) != DEFAULT_TIER]
    stored = await find_stored(client, [[ResourceKey("Tier", "", order.tier)] for order in named]) if named else []
    for order, tier in zip(named, stored, strict=True):
        if tier is None:
            reason = "this tier does not exist; its policies stand behind all others and end in Deny"
            flaw = Flaw(("spec", "tier"), order.tier, reason)
            print(f"warning: {order.sheet.explain(order.item, flaw)}", file=sys.stderr)


def _summary(done: Sequence[Order], same: int, verb: Verb) -> str:
    kinds = Counter(order.key.kind for order in done)
    what = f"'{next(iter(kinds))}' resource(s)" if len(kinds) == 1 else "resource(s)"
    if verb is Verb.CREATE:  # what exists is never written, so whatever was right already was left alone
        return f"Successfully created {len(done) - same} {what}" + (f" ({same} existed already)" if same else "")
    return f"Successfully {verb.value} {len(done)} {what}" + (f" ({same} unchanged)" if same else "")


async def _check_pools(client: EtcdClient, group: Sequence[Order]) -> None:
    """Raises Refusal for a pool that shares addresses with another one, stored or of the same document."""
    pools = [order for order in group if order.key.kind == POOL]
    if not pools:
        return
    documents = {one.key: one.document for one in await list_pools(client)}
    documents |= {order.key: order.document for order in pools}
    for order in pools:
        overlap = find_overlap(order.key, order.document, documents.items())
        if overlap:
            raise Refusal(order.sheet.explain(order.item, Flaw(("spec", "cidr"), _cidr(order), overlap)))


async def _write_group(client: EtcdClient, group: Sequence[Order], verb: Verb, *, is_skipping: bool) -> int:
    """Returns how many of the resources of one document were written; the others were right already."""
    await _check_pools(client, group)
    for attempt in range(ATTEMPTS):
        stored = await find_stored(client, [find_spellings(order.key, order.tier) for order in group])
        now = datetime.fromtimestamp(wall_s(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        plans = [
            _plan(order, old, verb, now) for order, old in zip(group, stored, strict=True) if not (is_skipping and old)
        ]
        writes = [plan for plan in plans if plan is not None]
        if not writes or await write_all(client, writes):
            return len(writes)
        await asyncio.sleep(0.02 * attempt)
    names = ", ".join(str(order.key) for order in group[:3])
    raise Conflict(f"{names}: others keep writing it at the same time; try again")


def _plan(order: Order, old: Stored | None, verb: Verb, now: str) -> Write | None:
    """Returns the write that makes `order` true, None when it is. Raises Conflict or Refusal."""
    wanted = order.record.metadata.resource_version
    if old is None:
        if verb is Verb.REPLACE:
            raise _refuse(order, "does not exist; create it with felix apply or felix create")
        document = fill_document(order.document, order.record, order.key.namespace, None, now)
        return Write(order.key, document, 0)
    if verb is Verb.CREATE:
        raise _refuse(order, "exists already; change it with felix apply or felix replace")
    if wanted and wanted != str(old.revision):
        flaw = Flaw(("metadata", "resourceVersion"), wanted, f"was changed meanwhile, its version is {old.revision}")
        raise Conflict(order.sheet.explain(order.item, flaw) + "\nRead it again with felix get -o yaml.")
    _check_unchangeable(order, old)
    document = fill_document(order.document, order.record, order.key.namespace, old.document, now)
    document["metadata"] = {**_metadata(document), "name": old.key.name}
    is_same = msgspec.json.decode(encode(document)) == old.document
    return None if is_same else Write(old.key, document, old.revision)


def _check_unchangeable(order: Order, old: Stored) -> None:
    """Raises Refusal when the order changes what may never change: the addresses of a pool."""
    if order.key.kind != "IPPool" or old.document is None:
        return
    spec, before = order.document.get("spec"), old.document.get("spec")
    if not isinstance(spec, dict) or not isinstance(before, dict):
        return
    for field in ("cidr", "blockSize"):
        if spec.get(field) and before.get(field) and spec[field] != before[field]:
            flaw = Flaw(("spec", field), spec[field], f"cannot be changed, it is {before[field]}; make a new pool")
            raise Refusal(order.sheet.explain(order.item, flaw))


def _cidr(order: Order) -> str:
    assert isinstance(order.record, IPPool)
    return order.record.spec.cidr


def _refuse(order: Order, reason: str) -> Refusal:
    return Refusal(order.sheet.explain(order.item, Flaw((), "", reason)))


def _metadata(document: Document) -> Document:
    metadata = document["metadata"]
    assert isinstance(metadata, dict)
    return metadata
