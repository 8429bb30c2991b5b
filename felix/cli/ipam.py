"""`felix ipam`: which addresses are in use, whether all is consistent, and giving back what leaked."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from felix.cli.connection import CONNECTION_HELP, add_connection_options, run_with_etcd
from felix.cli.grid import render_grid
from felix.collect.apply import make_fence, put_fence, reclaim_host
from felix.collect.read import read_endpoints
from felix.config.exits import ExitCode
from felix.datastore.etcd import EtcdClient
from felix.datastore.fence import Fence, parse_fence
from felix.errors import DataError
from felix.ipam import read
from felix.ipam.apply import Allocator
from felix.ipam.audit import Audit, Leak, audit, intersect_leaks
from felix.ipam.faults import Stale
from felix.ipam.records import IpamConfig
from felix.ipam.release import Release
from felix.ipam.usage import BlockUsage, PoolUsage, find_borrowed, measure
from felix.model.keys import LOST_HOSTS, ResourceKey, format_key
from felix.model.net import Net, parse_address, parse_net

_EXAMPLES = f"""\
examples:
  felix ipam show --show-blocks              how full pools and blocks are
  felix ipam show --ip 192.168.1.5           who holds an address
  felix ipam show -o json                    pools with their blocks, for scripts
  felix ipam check -o report.json            what leaked or does not agree; exit code 1 if there is something
  felix ipam release --ip 192.168.1.5        nobody holds that address any more; refused while an endpoint has it
  felix ipam release --handle net1.web       nor any other of that container
  felix ipam release --from-report a.json --from-report b.json
                                             what both reports call a leak, and still is one
  felix ipam release --host h7 --force       h7 is lost: its endpoints and addresses go now; refused while it lives
  felix ipam configure --strict-affinity true

{CONNECTION_HELP}"""

_RULE = """\
An agent puts these right by itself, except what is kept, handles of unreadable blocks and missing claims, once they
have been so for IPAMLeakGracePeriod (900 s unless set otherwise); felix_collector_leader is 1 on that agent."""

Act = Callable[[EtcdClient, argparse.Namespace], Awaitable[int]]


class _FenceRow(msgspec.Struct, frozen=True):
    """A host that was given up as lost. at: RFC 3339. state: cleaning or done."""

    host: str
    at: str
    by: str
    state: str


class _Report(Audit, frozen=True):
    """What `check` tells. fences: hosts that were given up and are not back; no problem of addresses."""

    fences: tuple[_FenceRow, ...] = ()


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`felix ipam` and its verbs are known to the parser."""
    parser = subparsers.add_parser(
        "ipam",
        help="addresses: who has which, leaks, configuration",
        description="Address management: pools, blocks, who holds which address.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    show = _add_verb(verbs, "show", "show how full pools are, or who holds an address", _show)
    show.add_argument("--ip", metavar="ADDRESS", help="who holds this address")
    show.add_argument("--show-blocks", action="store_true", help="the blocks of each pool too")
    show.add_argument("--show-borrowed", action="store_true", help="addresses out of blocks of other hosts")
    show.add_argument("--show-configuration", action="store_true", help="how addresses are given out")
    show.add_argument("-o", "--output", choices=("ps", "json"), default="ps", help="as a table (default) or as JSON")

    check = _add_verb(verbs, "check", "look for leaks and for what does not agree", _check)
    check.add_argument(
        "-o", "--output", metavar="FILE", help="write a report as JSON too; - or json for standard output alone"
    )
    check.add_argument("--show-all-ips", action="store_true", help="name everything, not only the first ten of a kind")

    release = _add_verb(verbs, "release", "give back addresses", _release)
    what = release.add_mutually_exclusive_group(required=True)
    what.add_argument("--ip", metavar="ADDRESS", action="append", help="this address; may be repeated")
    what.add_argument("--handle", metavar="NAME", help="all addresses of this handle")
    what.add_argument("--host", metavar="NAME", help="all endpoints, addresses and blocks of this lost host")
    text = "leaks of a report of felix ipam check; of several, those that all name"
    what.add_argument("--from-report", metavar="FILE", action="append", help=text)
    release.add_argument(
        "--force",
        action="store_true",
        help="a host's even though its Node exists, never while its agent lives; addresses even though endpoints have"
        " them",
    )

    configure = _add_verb(verbs, "configure", "change how addresses are given out", _configure)
    configure.add_argument("--strict-affinity", "--strictaffinity", type=_boolean, metavar="true|false")
    configure.add_argument("--auto-allocate-blocks", type=_boolean, metavar="true|false")
    configure.add_argument("--max-blocks-per-host", type=_count, metavar="N", help="of each family; 0 is 20")


def _add_verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, act: Act
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=_pick_examples(name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_connection_options(parser)
    parser.set_defaults(func=lambda arguments: run_with_etcd(arguments, lambda client: act(client, arguments)))
    return parser


def _pick_examples(verb: str) -> str:
    """Returns the examples of one verb, with the lines that belong to them, and where etcd is looked for."""
    lines, is_meant = ["examples:"], False
    for line in _EXAMPLES.partition("\n\n")[0].splitlines()[1:]:
        if line.startswith("  felix"):
            is_meant = line.startswith(f"  felix ipam {verb} ")
        if is_meant:
            lines.append(line)
    return "\n".join([*lines, "", CONNECTION_HELP])


async def _show(client: EtcdClient, arguments: argparse.Namespace) -> int:
    if arguments.ip:
        return await _show_address(client, _parse_ip(arguments.ip))
    if arguments.show_configuration:
        config, _ = await read.find_config(client)
        _print_configuration(config, arguments.output)
        return ExitCode.OK
    inventory = await read.read_inventory(client)
    if arguments.show_borrowed:
        borrowed = list(find_borrowed(inventory.blocks))
        rows = [(one.address, one.node, one.block, one.owner, one.holder) for one in borrowed]
        head = ("IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "ALLOCATED-TO")
        sys.stdout.write(_json(borrowed) if arguments.output == "json" else render_grid(head, rows))
        return ExitCode.OK
    pools = measure(inventory.pools, inventory.blocks)
    if arguments.output == "json":
        sys.stdout.write(_json(pools))
        return ExitCode.OK
    usage: list[tuple[str, ...]] = []
    for pool in pools:
        usage.append(_usage_row("IP Pool" if pool.name else "No pool", pool))
        if arguments.show_blocks:
            usage += [_usage_row("Block", block) for block in pool.blocks]
    sys.stdout.write(render_grid(("GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS FREE"), usage))
    return ExitCode.OK


async def _show_address(client: EtcdClient, address: Net) -> int:
    stored = next(iter((await read.read_blocks_around(client, [address])).values()), None)
    if stored is not None and stored.problem is not None:
        raise DataError(f"the block of {address.address} cannot be read: {stored.problem}")
    block = stored.block if stored is not None else None
    holder = block.find_holder(address.value - block.net.value) if block is not None else None
    if holder is None:
        print(f"{address.address} is not assigned")
        return ExitCode.FAILED
    print(f"IP {address.address} is in use\nAttributes:\n  handle: {holder.handle or ''}")
    for name, value in sorted(holder.attributes.items()):
        print(f"  {name}: {value}")
    return ExitCode.OK


async def _check(client: EtcdClient, arguments: argparse.Namespace) -> int:
    found = audit(await read.read_inventory(client))
    pairs, _ = await client.list_prefix(LOST_HOSTS)
    fences = [_FenceRow(one.host, one.at, one.by, one.state.value) for one in map(parse_fence, pairs)]
    report = _Report(**msgspec.structs.asdict(found), fences=tuple(fences))
    text = _json(report)
    if arguments.output in ("-", "json"):
        sys.stdout.write(text)
    else:
        _print_audit(report, 10**9 if arguments.show_all_ips else 10)
        if arguments.output:
            _write(Path(arguments.output), text)
    return ExitCode.FAILED if found.problems else ExitCode.OK


async def _release(client: EtcdClient, arguments: argparse.Namespace) -> int:
    allocator = Allocator(client)
    if arguments.from_report:
        return await _release_leaks(client, allocator, arguments.from_report)
    if arguments.handle:
        if not arguments.force:
            await _refuse_used(client, handle=arguments.handle)
        released = await allocator.release_handle(arguments.handle)
        if not released:
            print(f"felix: handle {arguments.handle} holds no address", file=sys.stderr)
            return ExitCode.FAILED
    elif arguments.host:
        released = await _release_host(client, arguments.host, is_forced=arguments.force)
    else:
        wanted = [_parse_ip(text) for text in arguments.ip]
        if not arguments.force:
            await _refuse_used(client, addresses=wanted)
        released = await allocator.release([Release(address) for address in wanted])
        missing = [address.address for address in wanted if address not in released]
        for text in missing:
            print(f"felix: {text} is not assigned", file=sys.stderr)
        if released:
            _print_released(released)
        return ExitCode.FAILED if missing else ExitCode.OK
    _print_released(released)
    return ExitCode.OK


async def _refuse_used(client: EtcdClient, addresses: Sequence[Net] = (), handle: str = "") -> None:
    """Raises DataError when an endpoint has one of these addresses, or one of the handle's: two would have it then."""
    inventory = await read.read_inventory(client)
    wanted = list(addresses)
    for stored in inventory.blocks.values() if handle else ():
        block = stored.block
        if block is not None:
            wanted += [
                parse_address(block.address(ordinal)) for ordinal, holder in block.held() if holder.handle == handle
            ]
    for address in wanted:
        if users := inventory.users_by_address.get(address):
            remedy = "detach its container, or give --force; felix get workloadendpoint -A -o wide shows who has which"
            raise DataError(f"{address.address} is in use by {', '.join(users)}: {remedy}. Nothing was released")


async def _refuse_unknown(client: EtcdClient, host: str) -> None:
    """Raises DataError when nothing of etcd is about the host: its name may be a slip, and its fence would stay."""
    inventory = await read.read_inventory(client)
    names = {*inventory.hosts, *(one.host for one in inventory.endpoints.values())}
    names |= {key.host for key in inventory.affinities}
    for stored in inventory.blocks.values():
        block = stored.block
        names |= {holder.node for _, holder in block.held()} if block is not None else set()
    if host not in names and await client.get(Fence(host).key) is None:
        raise DataError(f"nobody knows a host {host}: it has no Node, endpoint, block or address; see felix get node")


async def _release_host(client: EtcdClient, host: str, *, is_forced: bool) -> list[Net]:
    """The host is given up, and has neither endpoints nor addresses; returns these. Raises DataError while it lives."""
    await _refuse_unknown(client, host)
    if not is_forced and await client.get(format_key(ResourceKey("Node", "", host))) is not None:
        reason = f"its addresses may be in use; felix delete node {host}, or give --force"
        raise DataError(f"there is a Node {host}: {reason}")
    endpoints = await read_endpoints(client, host)
    fence = await put_fence(client, make_fence(host, f"felix ipam release on {socket.gethostname()}", endpoints), ())
    if fence is None:
        reason = "its agent says so in etcd; stop it and wait until ReportingTTLSecs (90 s) are over"
        raise DataError(f"host {host} lives: {reason}. Nothing was released")
    gone = await reclaim_host(client, fence, endpoints, ())
    if gone.endpoints:
        print(f"Deleted {len(gone.endpoints)} workload endpoint(s) of {host}")
    return list(gone.addresses)


async def _release_leaks(client: EtcdClient, allocator: Allocator, names: Sequence[str]) -> int:
    """What all reports call wrong and still is wrong is mended: leaks, empty handles, claims that do not hold."""
    reports = [_read_report(name) for name in names]
    now = audit(await read.read_inventory(client))
    leaks = intersect_leaks([now, *reports])
    released = await _release_each(allocator, leaks)
    handles = [name for name in now.empty_handles if all(name in one.empty_handles for one in reports)]
    for name in handles:
        await allocator.release_handle(name)
    claims = [claim for claim in now.orphan_affinities if all(claim in one.orphan_affinities for one in reports)]
    for claim in claims:
        await allocator.release_affinity(claim.host, parse_net(claim.block))
    _print_released(released)
    if handles or claims:
        print(f"Removed {len(handles)} empty handle(s) and {len(claims)} claim(s) of blocks")
    return ExitCode.OK


async def _release_each(allocator: Allocator, leaks: Sequence[Leak]) -> list[Net]:
    """Returns the addresses that were given back; those that somebody was given just now are named and kept."""
    by_block: dict[str, list[Release]] = {}
    for leak in leaks:
        one = Release(parse_address(leak.ip), leak.handle, leak.sequence_number or None)
        by_block.setdefault(leak.block, []).append(one)
    released: list[Net] = []
    for group in by_block.values():
        try:
            released += await allocator.release(group)
        except Stale:
            for one in group:
                try:
                    released += await allocator.release([one])
                except Stale as error:
                    print(f"warning: {error}", file=sys.stderr)
    return released


async def _configure(client: EtcdClient, arguments: argparse.Namespace) -> int:
    wanted = {
        "strict_affinity": arguments.strict_affinity,
        "auto_allocate_blocks": arguments.auto_allocate_blocks,
        "max_blocks": arguments.max_blocks_per_host,
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    if not given:
        raise DataError("give --strict-affinity, --auto-allocate-blocks or --max-blocks-per-host")
    config = await Allocator(client).configure(lambda old: replace(old, **given))
    _print_configuration(config, "ps")
    return ExitCode.OK


def _print_configuration(config: IpamConfig, form: str) -> None:
    values = {
        "StrictAffinity": config.strict_affinity,
        "AutoAllocateBlocks": config.auto_allocate_blocks,
        "MaxBlocksPerHost": config.max_blocks,
    }
    rows = [(name, str(value).lower()) for name, value in values.items()]
    sys.stdout.write(_json(values) if form == "json" else render_grid(("PROPERTY", "VALUE"), rows))


def _print_released(released: Sequence[Net]) -> None:
    print(f"Successfully released {len(released)} address(es)" + "".join(f"\n  {one.address}" for one in released))


def _print_audit(found: _Report, limit: int) -> None:
    print(f"Revision {found.revision}: {found.blocks} blocks, {found.allocated} addresses given out,")
    print(f"{found.in_use} addresses of workload endpoints and tunnels.\n")
    _print_rows("given out, and nobody has it", [f"{one.ip}: {_explain(one)}" for one in found.leaks], limit)
    for text, uses in (
        ("in use, and not given out", found.not_allocated),
        ("in use, and in no pool", found.outside_pools),
        ("in use more than once", found.duplicates),
    ):
        _print_rows(text, [f"{one.ip}: {', '.join(one.users)}" for one in uses], limit)
    _print_rows("handles without addresses", found.empty_handles, limit)
    counts = [f"{one.handle} in {one.block}: {one.counted}, not {one.allocated}" for one in found.wrong_counts]
    _print_rows("handles that count wrong", counts, limit)
    claims = [f"{one.block} by {one.host}: {one.reason}" for one in (*found.orphan_affinities, *found.unclaimed)]
    _print_rows("claims of blocks that do not hold", claims, limit)
    _print_rows("blocks that cannot be read", found.unreadable, limit)
    fences = [f"{one.host}: since {one.at}, by {one.by}, {one.state}" for one in found.fences]
    _print_rows("hosts given up as lost, which have to clean up before they take part again", fences, limit)
    if any(not leak.kept for leak in found.leaks) or found.empty_handles or found.wrong_counts:
        print(f"\n{_RULE}")
    print(f"\n{found.problems} problem(s)" + (", see felix ipam release --help" if found.problems else ""))


def _explain(leak: Leak) -> str:
    kept = f"; kept: {leak.kept}" if leak.kept else ""
    return f"handle {leak.handle or 'none'}, host {leak.node or 'unknown'}, block {leak.block}: {leak.reason}{kept}"


def _print_rows(text: str, rows: Sequence[str], limit: int) -> None:
    print(f"{len(rows):6} {text}")
    for row in rows[:limit]:
        print(f"         {row}")
    if len(rows) > limit:
        print(f"         ... and {len(rows) - limit} more; --show-all-ips names them")


def _usage_row(kind: str, one: PoolUsage | BlockUsage) -> tuple[str, ...]:
    free = one.total - one.used
    shares = [f"{_number(count)} ({round(100 * count / one.total)}%)" for count in (one.used, free)]
    return (kind, one.cidr, _number(one.total), *shares)


def _number(count: int) -> str:
    return str(count) if count < 10_000_000 else f"{count:.5g}"


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def _read_report(name: str) -> Audit:
    try:
        return msgspec.json.decode(Path(name).read_bytes(), type=Audit)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{name} is no report of felix ipam check -o: {error}") from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error


def _parse_ip(text: str) -> Net:
    try:
        return parse_address(text)
    except ValueError as error:
        raise DataError(f"{text!r} is not one address; expected one like 192.168.1.5 or fd00::5") from error


def _boolean(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise argparse.ArgumentTypeError(f"{text!r}: expected true or false")
    return text.lower() == "true"


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) > 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 0 to 1000000")
    return int(text)
