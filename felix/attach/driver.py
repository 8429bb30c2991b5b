"""Attaching and detaching containers: addresses, endpoint, interface, enforcement; and all of it undone. Shell.

An attach takes these steps, and answers only after the last:

    open the namespace ─▶ addresses, profiles and endpoint in one transaction ─▶ interface ─▶ the kernel enforces it

Whatever fails, what this attach made is removed again: the interface, then endpoint and addresses in one transaction.
What cannot be removed because etcd is away is owed, and paid as soon as it answers; if the agent dies meanwhile, what
stands in etcd is found by its annotation, and goes when its interface has been missing for a while.

A call that the agent's own end interrupts undoes nothing: the same request, asked of the next agent, completes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from felix.attach import apply, read
from felix.attach.apply import Namespace
from felix.attach.check import Place, Wanted, check_attach, check_network, check_who
from felix.attach.endpoint import Attachment, name_of
from felix.attach.etcd import EndpointStore, Present
from felix.attach.index import AttachmentIndex
from felix.attach.mailbox import Debts, address_debt
from felix.attach.names import DEFAULT_NAMESPACE, Attached, endpoint_key, handle_name, host_interface
from felix.attach.types import AttachAnswer, AttachRequest, Code, DetachAnswer, DetachRequest, Refusal, bound_deadline
from felix.attach.veth import HOST_MAC, Taken, Veth, VethSpec
from felix.attach.watch import EnforcementWatch, Gate, Lanes
from felix.clock import monotonic_s
from felix.datastore.faults import EtcdUnavailable
from felix.errors import FelixError, PeerError
from felix.model.keys import ResourceKey
from felix.model.net import Net

log = logging.getLogger(__name__)

_RETRY_S = 0.2
_UNDO_S = 5.0  # how long an answer waits for what is being undone
_CLOSE_S = 1.0
_THREADS = 4  # the kernel changes interfaces one at a time; more would only wait in it
_CONVERGE_S = 2.0
_ENDING = "the agent is ending; ask the next one"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kernel:
    """What is done to interfaces; each blocks for some milliseconds."""

    open: Callable[[str, int], Namespace] = apply.open_namespace
    make: Callable[[Namespace, VethSpec], Veth] = apply.apply_veth
    remove: Callable[[str], bool] = apply.remove_veth
    read: Callable[[Namespace, VethSpec], list[str]] = read.read_veth


@dataclass(slots=True)
class _Made:
    """What an attach has made so far, or may have.

    is_undoable: whether what stands of the container is this attach's to remove; not what an earlier one completed.
    veth: the host's end, empty when none was made. tried: addresses with which the endpoint was written, perhaps.
    is_unsure: whether such a write got no answer. took_ms: by step.
    """

    network: str
    attachment: Attachment | None = None
    is_undoable: bool = False
    veth: str = ""
    is_undoing: bool = False
    tried: set[Net] = field(default_factory=set)
    is_unsure: bool = False
    took_ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """The time that is spent inside is noted."""
        started_at = monotonic_s()
        yield
        self.took_ms[step] = round((monotonic_s() - started_at) * 1000, 2)


class AttachService:
    """Attaches and detaches the containers of one host. Nothing but these tasks writes the endpoints of this index.

    on_done: called with the milliseconds of each step of every attach that succeeded.
    """

    def __init__(
        self,
        place: Place,
        endpoints: EndpointStore,
        index: AttachmentIndex,
        *,
        gate: Gate,
        enforcement: EnforcementWatch,
        kernel: Kernel | None = None,
        on_done: Callable[[Mapping[str, float]], None] = lambda _: None,
    ) -> None:
        self.debts = Debts(gate)
        self.endpoints = endpoints
        self.index = index
        self.gate = gate
        self.place = place
        self._enforcement = enforcement
        self._kernel = kernel or Kernel()
        self._on_done = on_done
        self._threads = ThreadPoolExecutor(_THREADS, "attach")
        self._lanes: Lanes[tuple[str, str]] = Lanes()
        self._attaching: dict[Attached, dict[asyncio.Task[AttachAnswer], _Made]] = {}
        self._claims: dict[str | Net, Attached] = {}  # interfaces and given addresses of attaches under way
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closing = False

    async def close(self) -> None:
        """Nothing is under way any more, after a second at most; what had been made stays, for the next agent."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_S)
        self._threads.shutdown(wait=False)

    # --- Calls ---

    async def attach(self, request: AttachRequest) -> AttachAnswer:
        """The container is attached and its policy in force; or nothing of it is there. Raises Refusal, FelixError."""
        started_at = monotonic_s()
        wanted = check_attach(request, self.place)
        made = _Made(wanted.request.network)
        task = self._start(self._attach(wanted, made), f"attach {wanted.who}")
        running = self._attaching.setdefault(wanted.who, {})
        running[task] = made
        try:
            answer = await self._wait(task, bound_deadline(request.deadline_s) + _UNDO_S)
        finally:
            running.pop(task, None)
            if not running and self._attaching.get(wanted.who) is running:
                del self._attaching[wanted.who]
        steps = ", ".join(f"{name} {value:.1f}" for name, value in made.took_ms.items())
        total_ms = made.took_ms["total"] = round((monotonic_s() - started_at) * 1000, 2)
        self._on_done(made.took_ms)
        log.info("attached %s: %s, %.1f ms (%s)", wanted.who, ", ".join(answer.addresses), total_ms, steps)
        return answer

    async def detach(self, request: DetachRequest) -> DetachAnswer:
        """The container is not attached to the network, and an attach of it that was under way has ended."""
        who = check_who(request.orchestrator, request.container, request.interface)
        if request.network:
            check_network(request.network)
        for running, made in self._attaching.get(who, {}).items():
            if not made.is_undoing and request.network in ("", made.network):
                running.cancel()
        task = self._start(self._detach(request, who), f"detach {who}")
        return await self._wait(task, bound_deadline(request.deadline_s) + _UNDO_S)

    async def check(self, request: AttachRequest) -> list[str]:
        """Returns what differs from what was attached. Raises Refusal when nothing is."""
        # What the host would choose today for one that asked for no MTU says nothing of what it chose then.
        wanted = check_attach(request, self.place._replace(mtu=0), least=0)
        try:
            async with asyncio.timeout(bound_deadline(request.deadline_s)), self._lane(wanted.who):
                await self.gate.wait_open()
                return await self._compare(wanted)
        except TimeoutError:
            raise self._explain_delay(f"{wanted.who} could not be checked") from None

    async def remove(self, one: Attachment, is_meant: Callable[[], bool] = lambda: True) -> list[Net]:
        """The attachment is gone, with its addresses, if `is_meant` still when it is this call's turn."""
        async with self._lane(one.who):
            current = self.index.get(one.key)
            return await self._erase(current, release=True) if current is not None and is_meant() else []

    async def bounded(self, work: Callable[[], Coroutine[Any, Any, T]], deadline_s: float) -> T:
        """Returns what `work` returns, which begins when anything may. Raises Refusal after the deadline."""
        limit_s = bound_deadline(deadline_s)

        async def run() -> T:
            try:
                async with asyncio.timeout(limit_s):
                    await self.gate.wait_open()
                    return await self._whole(work())
            except TimeoutError:
                raise self._explain_delay(f"not done within {limit_s:g} s") from None

        return await self._wait(self._start(run(), "addresses"), limit_s + _UNDO_S)

    def is_attaching(self, who: Attached) -> bool:
        """Whether an attach of that name is under way."""
        return who in self._attaching

    # --- Attach ---

    async def _attach(self, wanted: Wanted, made: _Made) -> AttachAnswer:
        """Everything within the deadline, or undone in the same turn."""
        deadline_s = bound_deadline(wanted.request.deadline_s)
        try:
            async with asyncio.timeout(deadline_s) as clock, self._lane(wanted.who):
                try:
                    with self._claimed(wanted):
                        return await self._make(wanted, made)
                except BaseException:
                    made.is_undoing = True
                    if not clock.expired():
                        clock.reschedule(None)
                    if not self._is_closing:
                        await self._undo(wanted, made)
                    raise
        except TimeoutError:
            what = f"{wanted.who} was not attached within {deadline_s:.3g} s"
            if made.attachment is None or self.gate.obstacle:
                raise self._explain_delay(what) from None
            reason = self._enforcement.explain(made.attachment)
            raise Refusal(Code.TIMEOUT, f"{what}: {reason}; what had been made is removed") from None
        except asyncio.CancelledError:
            if self._is_closing:
                raise
            raise Refusal(Code.CONFLICT, f"{wanted.who} was detached before it was attached") from None

    @contextmanager
    def _claimed(self, wanted: Wanted) -> Iterator[None]:
        """No other container is attached with the same host's end or the same given addresses. Raises Refusal."""
        claims: list[str | Net] = [wanted.interface, *wanted.given]
        for claim in claims:
            if self._claims.get(claim, wanted.who) != wanted.who:
                raise Refusal(Code.CONFLICT, f"{claim} is being given to {self._claims[claim]}")
        for one in self.index.find_interface(wanted.interface):
            if one.who != wanted.who:
                raise Refusal(Code.CONFLICT, f"{wanted.interface} is the interface of endpoint {name_of(one.key)}")
        self._claims |= dict.fromkeys(claims, wanted.who)
        try:
            yield
        finally:
            for claim in claims:
                del self._claims[claim]

    async def _make(self, wanted: Wanted, made: _Made) -> AttachAnswer:
        request = wanted.request
        await self.gate.wait_open()
        with await self._in_thread(lambda: self._kernel.open(request.netns, request.pid)) as namespace:
            with made.timed("allocate"):
                one = made.attachment = await self._store(wanted, namespace, made)
            spec = wanted.veth(one.mac, one.host_interface, one.addresses)
            with made.timed("veth"):
                made.veth = spec.host_end if made.is_undoable else ""
                veth = await self._in_thread(lambda: self._kernel.make(namespace, spec))
            with made.timed("enforce"):
                await self._enforcement.wait_enforced(one)
        return AttachAnswer(
            endpoint=name_of(one.key),
            host_interface=one.host_interface,
            host_mac=HOST_MAC,
            interface=wanted.who.interface,
            mac=veth.mac,
            mtu=veth.mtu,
            addresses=[str(net) for net in one.addresses],
            gateways=[net.address for net in spec.gateways],
            took_ms=made.took_ms,
            is_new=made.is_undoable,
        )

    async def _store(self, wanted: Wanted, namespace: Namespace, made: _Made) -> Attachment:
        """Returns the endpoint, stored with its addresses: the one that is there already, or a new one."""
        key = endpoint_key(self.place.node, wanted.who, wanted.request.namespace)
        while True:
            await self.gate.wait_open()
            try:
                if self.debts.forget(key):
                    made.is_undoable = True  # half of an attach that failed: what is there is not kept if this fails
                await self._clear(wanted.who, key, namespace)
                known = await self.endpoints.look(wanted)
                if known.endpoint is not None and known.endpoint.note.netns != namespace.inode:
                    _check_leavable(wanted, known.endpoint)
                    log.info("%s has a new namespace: what it had in the former one is removed", wanted.who)
                    await self._erase(known.endpoint, release=True)
                    known.endpoint = None
                if known.endpoint is not None:
                    return await self._take_over(wanted, known.endpoint, namespace, made)
                if known.is_foreign:
                    raise Refusal(Code.CONFLICT, f"endpoint {name_of(key)} is there, and was not made by this agent")
                # What is owed about addresses under this handle ends first: it would take those that are given now.
                await self._whole(self.debts.settle(address_debt(wanted.handle)))
                made.is_undoable = True
                seen = self._enforcement.seen_revision(key)
                written = await self._whole(self.endpoints.write(wanted, known, namespace.inode, made.tried))
                return replace(written, revision=seen + 1)
            except Present:
                continue
            except EtcdUnavailable as error:
                made.is_unsure |= not error.is_unsent
                log.debug("%s: %s; tried again", wanted.who, error)
                await asyncio.sleep(_RETRY_S)

    async def _clear(self, who: Attached, key: ResourceKey, namespace: Namespace) -> None:
        """Nothing stands of the container under other endpoints. Raises Refusal if one is of this namespace."""
        for other in self.debts.of(who):
            await self.endpoints.erase_key(other)
            self.debts.forget(other)
        for one in self.index.find(who):
            if one.key == key:
                continue
            if one.note.netns == namespace.inode:
                raise Refusal(
                    Code.CONFLICT, f"{who} is attached already, as endpoint {name_of(one.key)}; detach it first"
                )
            await self._erase(one, release=True)

    async def _take_over(self, wanted: Wanted, one: Attachment, namespace: Namespace, made: _Made) -> Attachment:
        """Returns the endpoint that is there, if it is what the request asks for; whether it is whole is noted."""
        lacking = _find_lacking(wanted, one)
        if lacking:
            raise Refusal(Code.CONFLICT, f"{wanted.who} is attached already, otherwise: {'; '.join(lacking)}")
        spec = wanted.veth(one.mac, one.host_interface, one.addresses)
        if not made.is_undoable:
            made.is_undoable = bool(await self._in_thread(lambda: self._kernel.read(namespace, spec)))
        return one

    async def _undo(self, wanted: Wanted, made: _Made) -> None:
        """Nothing is left of what this attach made; or it is owed."""
        if not made.is_undoable:
            return
        key = endpoint_key(self.place.node, wanted.who, wanted.request.namespace)
        if made.veth:
            try:
                await self._in_thread(lambda: self._kernel.remove(made.veth))
            except FelixError as error:
                log.error("interface %s of %s is left, and closed: %s", made.veth, wanted.who, error)
        unsure = made.tried if made.is_unsure or made.attachment is None else ()
        try:
            await self.endpoints.erase_key(key, unsure)
        except PeerError as error:
            log.warning("endpoint of %s cannot be removed yet: %s", wanted.who, error)
            self.debts.owe(key, wanted.who, lambda: self._pay(key, wanted.who, unsure))

    async def _pay(self, key: ResourceKey, who: Attached, unsure: Collection[Net]) -> None:
        """What an attach that failed may have left in etcd is gone; unless a later one has taken it over."""
        async with self._lane(who):
            if self.debts.has(key):
                await self.endpoints.erase_key(key, unsure)
                self.debts.forget(key)

    # --- Detach ---

    async def _detach(self, request: DetachRequest, who: Attached) -> DetachAnswer:
        deadline_s = bound_deadline(request.deadline_s)
        removed: list[str] = []
        try:
            async with asyncio.timeout(deadline_s), self._lane(who):
                while True:
                    await self.gate.wait_open()
                    try:
                        was_there = await self._take_away(request, who, removed)
                    except EtcdUnavailable:
                        await asyncio.sleep(_RETRY_S)
                    else:
                        break
        except TimeoutError:
            raise self._explain_delay(f"{who} was not detached within {deadline_s:g} s") from None
        if was_there or removed:
            log.info("detached %s: %s", who, ", ".join(removed) or "no address to give back")
        return DetachAnswer(was_there or bool(removed), removed)

    async def _take_away(self, request: DetachRequest, who: Attached, removed: list[str]) -> bool:
        """Nothing is left of the container; returns whether there was an endpoint. removed: gets its addresses."""
        found = [one for one in self.index.find(who) if request.network in ("", one.note.network)]
        for key in self.debts.of(who):
            removed += _texts(await self.endpoints.erase_key(key))
            self.debts.forget(key)
        for one in found:
            removed += _texts(await self._erase(one, release=request.release))
        if not self.index.find(who):  # an attach may have ended between interface and endpoint
            name = host_interface(self.place.prefix, DEFAULT_NAMESPACE, who)
            if not self.index.find_interface(name) and name not in self._claims:
                with contextlib.suppress(Taken):
                    await self._in_thread(lambda: self._kernel.remove(name))
        handles = {one.note.handle for one in found} | {handle_name(request.network, who) for _ in request.network[:1]}
        for handle in sorted(handles) if request.release else ():
            removed += _texts(await self.endpoints.release_handle(handle, who))
        return bool(found)

    async def _erase(self, one: Attachment, *, release: bool) -> list[Net]:
        """The interface is gone, and then, in one transaction, the endpoint and its addresses."""
        await self._in_thread(lambda: self._kernel.remove(one.host_interface))
        released = await self._whole(self.endpoints.erase(one, release=release, with_given=True))
        self.index.on_record(one.key, None, 0)  # the watch says so too, but a moment later
        return released

    # --- Check ---

    async def _compare(self, wanted: Wanted) -> list[str]:
        request = wanted.request
        one = self.index.get(endpoint_key(self.place.node, wanted.who, request.namespace))
        if one is None:
            raise Refusal(Code.NOT_FOUND, f"{wanted.who} is not attached to {request.network}")
        differences = _find_lacking(wanted, one)
        with await self._in_thread(lambda: self._kernel.open(request.netns, request.pid)) as namespace:
            spec = wanted.veth(one.mac, one.host_interface, one.addresses)
            differences += await self._in_thread(lambda: self._kernel.read(namespace, spec))
        try:
            async with asyncio.timeout(_CONVERGE_S):
                await self._enforcement.wait_enforced(one)
        except TimeoutError:
            differences.append(self._enforcement.explain(one))
        return differences

    # --- How work is done ---

    def _start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """The work runs, whoever waits for it."""
        if self._is_closing:
            work.close()
            raise Refusal(Code.UNAVAILABLE, _ENDING)
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_done_task)
        return task

    def _on_done_task(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may be gone

    async def _wait(self, task: asyncio.Task[T], limit_s: float) -> T:
        await asyncio.wait([task], timeout=limit_s)
        if not task.done():
            raise Refusal(Code.TIMEOUT, f"{task.get_name()}: no end within {limit_s:g} s; it is still being undone")
        if task.cancelled():
            raise Refusal(Code.UNAVAILABLE, _ENDING)
        return task.result()

    def _lane(self, who: Attached) -> AbstractAsyncContextManager[None]:
        """Only one at a time works on a container."""
        return self._lanes.enter((who.orchestrator, who.container))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Returns what `call` returns, from a thread; what has begun is waited for, also when this is cancelled."""
        return await self._whole(asyncio.get_running_loop().run_in_executor(self._threads, call))

    async def _whole(self, work: Awaitable[T]) -> T:
        """Returns what `work` returns. It is never cut off in the middle: then nobody would know what it did."""
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._is_closing:
                task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()
            raise

    def _explain_delay(self, what: str) -> Refusal:
        return Refusal(Code.UNAVAILABLE, f"{what}: {self.gate.obstacle or 'etcd does not answer'}; try again")


def _check_leavable(wanted: Wanted, former: Attachment) -> None:
    """Raises Refusal when clearing the former namespace would give back what the request says it was given."""
    held = [net.address for net in wanted.given if former.note.handles.get(net.address)]
    if held:
        text = f"{wanted.who} is attached already, in another namespace, with {', '.join(held)}; detach it first"
        raise Refusal(Code.CONFLICT, text)


def _find_lacking(wanted: Wanted, one: Attachment) -> list[str]:
    """Returns what of the request the endpoint that is there does not have."""
    request = wanted.request
    lacking = []
    if one.note.network != request.network:
        lacking.append(f"its network is {one.note.network}")
    missing = [net.address for net in (*wanted.addresses, *wanted.given) if net not in one.addresses]
    if missing:
        lacking.append(f"it does not have {', '.join(missing)}")
    if request.ipv4 or request.ipv6:
        for version, count in ((4, request.ipv4), (6, request.ipv6)):
            named = sum(net.version == version for net in (*wanted.addresses, *wanted.given))
            has = sum(net.version == version for net in one.addresses)
            if has != named + count:
                lacking.append(f"it has {has} addresses of IPv{version}, not {named + count}")
    if request.mac and request.mac.lower() != one.mac:
        lacking.append(f"its MAC address is {one.mac}")
    return lacking


def _texts(nets: list[Net]) -> list[str]:
    return [net.address for net in nets]
