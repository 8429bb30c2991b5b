"""Plans into the kernel: one worker thread that owns libnftables and a netlink socket, and the steps that run on it.

Structure is written as netlink messages of our own; what those have no words for goes through libnftables as text. A
refused transaction changes nothing, so the culprit is looked for: of our own messages the kernel names it, else by
halves. Chains that the kernel does not take are left as a single drop, elements it does not take are left out, and
everything else goes in within the same call.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import logging
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

import nftables

from felix.dataplane.netlink.apply import BUFFER_BYTES, NetlinkSocket
from felix.dataplane.netlink.message import NETLINK_NETFILTER
from felix.dataplane.nft.apart import split_apart
from felix.dataplane.nft.elements import (
    pack_changes,
    parse_counters,
    parse_elements,
    request_counters,
    request_elements,
)
from felix.dataplane.nft.extras import is_guard, is_hooked
from felix.dataplane.nft.objects import pack_counters
from felix.dataplane.nft.render import render_write
from felix.dataplane.nft.stack import closed_lines
from felix.dataplane.nft.transaction import PackedWrite, find_culprits, name_sets, pack_write
from felix.dataplane.nft.types import (
    TABLE,
    ApplyResult,
    CleanupPlan,
    Count,
    ElementShape,
    FillPlan,
    Lines,
    NftPort,
    ObjectName,
    RefusedChange,
    SetChange,
    StructurePlan,
    TableWrite,
    WriteRefusal,
)
from felix.errors import EnvironmentFault, KernelRefused, PeerError, ResyncRequired, shorten

_log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

_TRANSACTION_OBJECTS = 1000  # a longer one would hold the kernel's nf_tables lock for a noticeable time
_TRANSACTION_ELEMENTS = 20_000
_NAMING_ROUNDS = 3  # the kernel names all at once; more rounds are for what only shows then
_ERROR_CHARACTERS = 300
_STALE = frozenset({errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EBUSY})


@dataclass(slots=True)
class NftCalls:
    """How often nf_tables was called and refused: transactions of structure, of elements, and listings.

    texts: transactions of structure that had to go through libnftables, because they are not encoded here.
    """

    runs: int = 0
    texts: int = 0
    run_errors: int = 0
    changes: int = 0
    change_errors: int = 0
    lists: int = 0
    list_errors: int = 0


class Kernel:
    """The real kernel, in the network namespace of the thread that makes it; only that thread may use it."""

    def __init__(self, calls: NftCalls, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._calls = calls
        self._set_names = name_sets(secrets.token_hex(4))
        try:
            self._tool = nftables.Nftables()
            self._socket = NetlinkSocket(NETLINK_NETFILTER, buffer_bytes)
        except OSError as error:
            raise EnvironmentFault(f"nf_tables: {error}; libnftables and the kernel's nf_tables are needed") from error
        self._tool.set_stateless_output(True)
        self._tool.set_terse_output(True)
        self._tool.set_handle_output(False)
        # Names of numbers come from files of the host and differ between versions; numbers do not.
        self._tool.set_numeric_proto_output(True)
        self._tool.set_numeric_prio_output(True)
        self._tool.set_numeric_symbol_output(True)
        self._tool.set_numeric_time_output(True)

    def close(self) -> None:
        """The netlink socket is closed; libnftables goes with the object."""
        self._socket.close()

    def run(self, text: str) -> str:
        """See NftPort.run."""
        code, _, error = self._tool.cmd(text)
        self._calls.runs += 1
        self._calls.run_errors += code != 0
        return "" if code == 0 else _first_error(error) or f"libnftables: failed with {code}"

    def write(self, write: TableWrite) -> WriteRefusal | None:
        """See NftPort.write. What is not encoded here goes through libnftables."""
        packed = pack_write(write, self._set_names)
        if packed is None or sum(map(len, packed.messages)) > self._socket.send_limit_bytes:
            self._calls.texts += 1
            reason = self.run(render_write(write))
            return WriteRefusal(reason) if reason else None
        refusal = self._write(packed)
        self._calls.runs += 1
        self._calls.run_errors += refusal is not None
        return refusal

    def _write(self, packed: PackedWrite) -> WriteRefusal | None:
        try:
            answers = self._socket.transact(packed.messages)
        except OSError as error:  # the socket is broken: nothing was applied
            return WriteRefusal(str(error))
        except ResyncRequired:  # only refusals have that many answers, and one is enough for nothing to be applied
            return WriteRefusal("more of it was refused than the kernel had room to say")
        refused = {position: _reason(answer) for position, answer in enumerate(answers[1:-1]) if answer}
        if refused:
            return WriteRefusal(next(iter(refused.values())), find_culprits(packed, refused))
        frame = answers[0] or answers[-1]
        return WriteRefusal(_reason(frame)) if frame else None

    def list_table(self) -> str:
        """See NftPort.list_table."""
        code, output, error = self._tool.cmd(f"list table inet {TABLE}")
        self._calls.lists += 1
        if code == 0:
            return str(output)
        if "No such file or directory" in error:
            return ""
        self._calls.list_errors += 1
        raise KernelRefused(f"nft: listing table inet {TABLE}: {_first_error(error)}")

    def change(self, changes: Sequence[SetChange]) -> list[RefusedChange]:
        """See NftPort.change."""
        refused = self._change(changes)
        self._calls.changes += 1
        self._calls.change_errors += bool(refused)
        return refused

    def _change(self, changes: Sequence[SetChange]) -> list[RefusedChange]:
        messages, parts = pack_changes(changes)
        try:
            answers = self._socket.transact(messages)
        except OSError as error:  # the batch was too large to be sent, or the socket is broken: nothing was applied
            return [RefusedChange(change, str(error)) for change in changes]
        refused = [
            RefusedChange(part, _reason(answer), answer in _STALE)
            for part, answer in zip(parts, answers[1:-1], strict=True)
            if answer
        ]
        frame = answers[0] or answers[-1]
        if frame and not refused:
            return [RefusedChange(change, _reason(frame)) for change in changes]
        return refused

    def set_counters(self, made: Sequence[str], removed: Sequence[str]) -> str:
        """See NftPort.set_counters."""
        try:
            answers = self._socket.transact(pack_counters(made, removed))
        except OSError as error:
            return str(error)
        return next((_reason(answer) for answer in answers if answer), "")

    def dump(self, set_: str, shape: ElementShape) -> dict[bytes, str]:
        """See NftPort.dump."""
        return parse_elements(shape, self._socket.dump(request_elements(set_)))

    def count(self) -> dict[str, Count]:
        """See NftPort.count."""
        return parse_counters(self._socket.dump(request_counters()))


def _reason(answer: int) -> str:
    text = getattr(answer, "text", "")
    return f"{os.strerror(answer)} {text}".rstrip()


def _first_error(error: str) -> str:
    """Returns the first complaint of libnftables without the lines that draw where it is."""
    for line in error.splitlines():
        if "Error:" in line or "rror:" in line:
            return shorten(line[line.index("rror:") + 5 :].strip(), _ERROR_CHARACTERS)
    return shorten(error.strip(), _ERROR_CHARACTERS)


class NftWorker:
    """One thread, in which everything that touches nf_tables happens, one thing after the other.

    enter: called in the thread before anything else, for example to change the network namespace.
    """

    def __init__(self, enter: Callable[[], None] | None = None) -> None:
        self._enter = enter
        self._kernel: Kernel | None = None
        self._executor = concurrent.futures.ThreadPoolExecutor(1, "nft", initializer=enter or _nothing)
        self.thread_id = 0
        self.calls = NftCalls()

    async def call(self, function: Callable[Concatenate[NftPort, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns what `function(kernel, …)` returned in the worker. A cancelled caller does not stop what has begun.

        Raises EnvironmentFault when the kernel or libnftables is missing, and whatever `function` raises.
        """
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._executor, lambda: self._run(function, *args, **kwargs)))

    def call_blocking(self, function: Callable[Concatenate[NftPort, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for callers without a loop (the command line, tests); waits."""
        return self._executor.submit(lambda: self._run(function, *args, **kwargs)).result()

    def close(self) -> None:
        """What has begun is finished, and the thread is gone; the table stays."""
        if self._kernel is not None:
            self._executor.submit(self._kernel.close).result()
        self._executor.shutdown(wait=True)

    def _run(self, function: Callable[Concatenate[NftPort, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._kernel is None:
            self._kernel = Kernel(self.calls)
            self.thread_id = threading.get_native_id()
        return function(self._kernel, *args, **kwargs)


def _nothing() -> None:
    return None


# --- Steps ---


def apply_fill(port: NftPort, plan: FillPlan) -> ApplyResult:
    """The base chains stand, sets are declared and filled, as far as the kernel agrees.

    With `error` in the result nothing that depends on it may be written: plan the structure only without.
    """
    result = ApplyResult()
    try:
        is_declared = _declare(port, plan, result) and _set_counters(port, plan.counters, (), result)
    except PeerError as error:
        result.error, result.needs_read = f"declaring sets and base chains: {error}", True
        return result
    if is_declared:
        _write_elements(port, plan.changes, result)
    return result


def _declare(port: NftPort, plan: FillPlan, result: ApplyResult) -> bool:
    objects, chains = plan.objects, (*plan.chains, *plan.guards)
    rebuilds, existing = plan.rebuilds, plan.existing
    while objects or chains or rebuilds:
        some, objects = objects[:_TRANSACTION_OBJECTS], objects[_TRANSACTION_OBJECTS:]
        refusal = port.write(TableWrite(some, chains, frozenset(existing), rebuilds))
        if refusal:
            result.error, result.needs_read = f"declaring sets and base chains: {refusal}", True
            return False
        result.objects += [name for name, _ in some]
        result.chains += [name for name, _ in chains]
        chains, existing, rebuilds = (), (), False
    return True


def apply_structure(port: NftPort, plan: StructurePlan) -> ApplyResult:
    """Chains have their lines, or drop where the kernel does not take those; then packets are led to them.

    Chains of features that the kernel does not take are empty, or not there if they would hang on a hook; existing
    ones that guard interfaces of the host stay as they were.
    """
    result = ApplyResult()
    try:
        is_written = _write_plan(port, plan, result) and _write_extras(port, plan.extras, plan.existing, result)
        if is_written:
            _write_elements(port, plan.dispatch, result)
        if is_written and not result.error and not result.refused:
            _write_extras(port, plan.unguarding, plan.existing, result)
    except PeerError as error:
        result.error, result.needs_read = f"writing chains: {error}", True
    return result


def _write_plan(port: NftPort, plan: StructurePlan, result: ApplyResult) -> bool:
    chains = plan.chains
    if len(chains) > _TRANSACTION_OBJECTS:
        new = [item for item in chains if item[0] not in plan.existing]
        if not _declare_closed(port, new, result):
            return False
        for start in range(0, len(new), _TRANSACTION_OBJECTS):
            if not _write_chains(port, new[start : start + _TRANSACTION_OBJECTS], frozenset(dict(new)), result):
                return False
        chains = tuple(item for item in chains if item[0] in plan.existing)
    return _write_chains(port, chains, plan.existing, result)


def apply_cleanup(port: NftPort, plan: CleanupPlan) -> ApplyResult:
    """Chains and objects that nothing refers to are gone, or none of them and `error` says why."""
    result = ApplyResult()
    counters = tuple(name.name for name in plan.objects if name.kind == "counter")
    others = tuple(name for name in plan.objects if name.kind != "counter")
    if plan.chains or others:
        try:
            refusal = port.write(TableWrite(removed_chains=plan.chains, removed_objects=others))
        except PeerError as error:
            refusal = WriteRefusal(str(error))
        if refusal:
            result.error, result.needs_read = f"removing unused chains and sets: {refusal}", True
            return result
        result.chains, result.objects = list(plan.chains), list(others)
    _set_counters(port, (), counters, result)
    return result


def _set_counters(port: NftPort, made: Sequence[str], removed: Sequence[str], result: ApplyResult) -> bool:
    """Makes or removes counters in transactions of bounded size; returns False, with `error`, if one was refused."""
    both = [(name, True) for name in made] + [(name, False) for name in removed]
    for start in range(0, len(both), _TRANSACTION_OBJECTS):
        some = both[start : start + _TRANSACTION_OBJECTS]
        try:
            refusal = port.set_counters(
                [name for name, is_new in some if is_new], [name for name, new in some if not new]
            )
        except PeerError as error:
            refusal = str(error)
        if refusal:
            result.error, result.needs_read = f"counters of policies: {refusal}", True
            return False
        result.objects += [ObjectName("counter", name) for name, _ in some]
    return True


def apply_teardown(port: NftPort) -> str:
    """The table is gone and nothing is protected any more; returns why not, or nothing. For uninstalling only."""
    return port.run(f"add table inet {TABLE}\ndelete table inet {TABLE}\n")


# --- Chains ---

NamedLines = Sequence[tuple[str, Lines]]


def _declare_closed(port: NftPort, chains: NamedLines, result: ApplyResult) -> bool:
    """New chains exist and drop, so that others may refer to them before their own lines are written."""
    for start in range(0, len(chains), _TRANSACTION_OBJECTS):
        some = [(name, closed_lines(name)) for name, _ in chains[start : start + _TRANSACTION_OBJECTS]]
        refusal = port.write(TableWrite(chains=tuple(some)))
        if refusal:
            result.error, result.needs_read = f"declaring chains: {refusal}", True
            return False
    return True


def _write_chains(port: NftPort, chains: NamedLines, existing: frozenset[str], result: ApplyResult) -> bool:
    """Writes all chains at once, or finds the ones that do not go and closes them; returns False if nothing works."""
    if not chains:
        return True
    refusal = port.write(TableWrite(chains=tuple(chains), existing=existing))
    if not refusal:
        result.chains += [name for name, _ in chains]
        return True
    if refusal.reason_by_chain and _write_others(port, chains, existing, refusal, result):
        return True
    _log.warning("nft: a transaction of %d chains was refused (%s); looking for the culprit", len(chains), refusal)
    new = [item for item in chains if item[0] not in existing]
    return _declare_closed(port, new, result) and _write_halves(port, chains, str(refusal), result)


def _write_others(
    port: NftPort, chains: NamedLines, existing: frozenset[str], refusal: WriteRefusal, result: ApplyResult
) -> bool:
    """Writes all chains but those that the kernel named, which are closed; returns False if that does not help."""
    reason_by_chain = dict(refusal.reason_by_chain)
    for _ in range(_NAMING_ROUNDS):
        some = ((name, closed_lines(name) if name in reason_by_chain else lines) for name, lines in chains)
        again = port.write(TableWrite(chains=tuple(some), existing=existing))
        if again is None:
            for name, reason in reason_by_chain.items():
                _log.error("nft: chain %s only drops now, the kernel refused its rules: %s", name, reason)
            result.closed.update(reason_by_chain)
            result.chains += [name for name, _ in chains if name not in reason_by_chain]
            return True
        if again.reason_by_chain.keys() <= reason_by_chain.keys():
            return False
        reason_by_chain.update(again.reason_by_chain)
    return False


def _write_halves(port: NftPort, chains: NamedLines, refusal: str, result: ApplyResult) -> bool:
    """Writes chains that all exist, after writing them together has failed with `refusal`."""
    if len(chains) == 1:
        ((name, _),) = chains
        trouble = port.write(TableWrite(chains=((name, closed_lines(name)),), existing=frozenset((name,))))
        if trouble:  # not even a drop goes in: it is not this chain's fault
            result.error, result.needs_read = f"writing chain {name}: {refusal}; closing it: {trouble}", True
            return False
        _log.error("nft: chain %s only drops now, the kernel refused its rules: %s", name, refusal)
        result.closed[name] = refusal
        return True
    middle = len(chains) // 2
    for half in (chains[:middle], chains[middle:]):
        again = port.write(TableWrite(chains=tuple(half), existing=frozenset(dict(half))))
        if not again:
            result.chains += [name for name, _ in half]
        elif not _write_halves(port, half, str(again), result):
            return False
    return True


def _write_extras(port: NftPort, chains: NamedLines, existing: frozenset[str], result: ApplyResult) -> bool:
    """Writes all chains of features, or leaves out those that do not go; returns False if nothing works."""
    if not chains:
        return True
    refusal = port.write(TableWrite(chains=tuple(chains), existing=existing))
    if not refusal:
        result.chains += [name for name, _ in chains]
        return True
    if len(chains) > 1:
        middle = len(chains) // 2
        return _write_extras(port, chains[:middle], existing, result) and _write_extras(
            port, chains[middle:], existing, result
        )
    ((name, lines),) = chains
    present = [name] if name in existing else []
    trouble: WriteRefusal | None = None
    if present and is_guard(name):
        pass
    elif not is_hooked(lines):
        trouble = port.write(TableWrite(chains=((name, ()),), existing=existing))
    elif present:
        trouble = port.write(TableWrite(removed_chains=tuple(present)))
    if trouble:
        result.error, result.needs_read = f"writing chain {name}: {refusal}; leaving it out: {trouble}", True
        return False
    _log.error("nft: chain %s is left out, the kernel refused its rules: %s", name, refusal)
    result.skipped[name] = str(refusal)
    return True


# --- Elements ---


def _write_elements(port: NftPort, changes: Sequence[SetChange], result: ApplyResult) -> None:
    """Writes changes in transactions of bounded size.

    The change of one set is torn only if it alone exceeds, and then so that no address that stays a member is none
    in between: see `split_apart`.
    """
    group: list[SetChange] = []
    size = 0
    for change in _bounded(changes):
        count = len(change.removed) + len(change.added)
        if group and size + count > _TRANSACTION_ELEMENTS:
            if not _write_group(port, group, result):
                return
            group, size = [], 0
        group.append(change)
        size += count
    if group:
        _write_group(port, group, result)


def _bounded(changes: Sequence[SetChange]) -> list[SetChange]:
    bounded: list[SetChange] = []
    for change in changes:
        if len(change.removed) + len(change.added) <= _TRANSACTION_ELEMENTS:
            bounded.append(change)
        else:
            bounded += split_apart(change, _TRANSACTION_ELEMENTS)
    return bounded


def _write_group(port: NftPort, group: Sequence[SetChange], result: ApplyResult) -> bool:
    """Writes one transaction, or finds the elements that do not go; returns False if the outcome is unknown."""
    try:
        refused = port.change(group)
        if not refused:
            result.changes += group
            return True
        _log.warning("nft: a transaction of elements was refused (%s); looking for the culprit", refused[0].reason)
        _write_element_halves(port, group, refused[0], result)
    except PeerError as error:
        result.error, result.needs_read = f"writing elements: {error}", True
        return False
    return True


def _write_element_halves(
    port: NftPort, group: Sequence[SetChange], refusal: RefusedChange, result: ApplyResult
) -> None:
    """Writes changes that together have failed with `refusal`."""
    if len(group) == 1:
        (change,) = group
        keys = dict.fromkeys(element.key for element in (*change.removed, *change.added))
        if len(keys) == 1:
            _log.error("nft: element %s of %s was refused: %s", next(iter(keys)).hex(), change.set, refusal.reason)
            result.refused.append(refusal._replace(change=change))
            result.needs_read = result.needs_read or refusal.is_stale
            return
        halves = [[half] for half in _split_by_key(change, list(keys))]
    else:
        middle = len(group) // 2
        halves = [list(group[:middle]), list(group[middle:])]
    for half in halves:
        refused = port.change(half)
        if not refused:
            result.changes += half
        else:
            _write_element_halves(port, half, refused[0], result)


def _split_by_key(change: SetChange, keys: list[bytes]) -> list[SetChange]:
    """Returns two changes that together are `change`; a key's going and coming stay together."""
    first = frozenset(keys[: len(keys) // 2])
    return [
        SetChange(
            change.set,
            change.shape,
            tuple(element for element in change.removed if (element.key in first) is side),
            tuple(element for element in change.added if (element.key in first) is side),
        )
        for side in (True, False)
    ]
