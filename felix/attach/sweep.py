"""Removing what nobody asks to be removed: attachments without interface, and what a list does not name. Shell."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from felix.attach.check import check_network, check_who
from felix.attach.driver import AttachService
from felix.attach.endpoint import Attachment
from felix.attach.lease import AddressLeases
from felix.attach.names import Attached, handle_name
from felix.attach.types import Code, GcAnswer, GcRequest, Refusal, bound_deadline
from felix.clock import monotonic_s
from felix.errors import FelixError
from felix.model.keys import ResourceKey
from felix.model.net import Net

log = logging.getLogger(__name__)

_LOOK_S = 30.0
_AT_ONCE = 8  # the kernel lets go of interfaces together, and waits as long for many as for one


class Cleaner:
    """Detaches what is not wanted any more, though nobody says so container by container.

    has_interface: whether the host has an interface of that name. grace_s: how long an attachment may be without its
    interface before it is removed; 0: for ever.
    """

    def __init__(
        self, service: AttachService, leases: AddressLeases, has_interface: Callable[[str], bool], grace_s: float
    ) -> None:
        self._service = service
        self._leases = leases
        self._has_interface = has_interface
        self.grace_s = grace_s
        self._missing_since: dict[ResourceKey, float] = {}

    async def run(self) -> NoReturn:
        """Looks now and then for attachments without interface, until cancelled."""
        while True:
            await asyncio.sleep(max(0.1, min(_LOOK_S, self.grace_s / 4)) if self.grace_s else _LOOK_S)
            await self._service.gate.wait_open()
            await self.sweep(monotonic_s())

    async def sweep(self, now: float) -> list[str]:
        """What has been without its interface for too long is gone; returns who that was.

        A container that ended while nobody looked, or before a reboot, has no interface any more. Call it only when
        everything stored and all interfaces are known.
        """
        if not self.grace_s:
            return []
        missing = {one.key: one for one in self._service.index if self._is_missing(one)}
        self._missing_since = {key: self._missing_since.get(key, now) for key in missing}
        gone = []
        for key, since in list(self._missing_since.items()):
            if now - since < self.grace_s:
                continue
            one = missing[key]
            try:
                released = await self._service.remove(one, partial(self._is_missing, one))
            except (FelixError, OSError) as error:
                log.warning("%s has no interface any more and cannot be removed: %s", one.who, error)
                continue
            self._missing_since.pop(key, None)
            gone.append(str(one.who))
            texts = ", ".join(net.address for net in released)
            log.warning(
                "%s has had no interface for %.0f s: removed, with %s", one.who, now - since, texts or "nothing"
            )
        return gone

    async def collect(self, request: GcRequest) -> GcAnswer:
        """Everything of the network on this host is gone that the request does not name; failures do not stop it."""
        check_network(request.network)
        valid = {check_who(request.orchestrator, one.container, one.interface) for one in request.valid}
        try:
            async with asyncio.timeout(bound_deadline(request.deadline_s)):
                await self._service.gate.wait_open()
                return await self._collect(request, valid)
        except TimeoutError:
            reason = self._service.gate.obstacle or "it takes too long"
            raise Refusal(Code.UNAVAILABLE, f"network {request.network} was not cleaned up: {reason}") from None

    async def _collect(self, request: GcRequest, valid: set[Attached]) -> GcAnswer:
        detached: list[str] = []
        released: list[str] = []
        failures: list[str] = []
        used: set[Net] = set()
        leaving = []
        for one in self._service.index:
            is_meant = one.note.network == request.network and one.who.orchestrator == request.orchestrator
            if is_meant and one.who not in valid:
                leaving.append(one)
            else:
                used.update(one.addresses)
        for start in range(0, len(leaving), _AT_ONCE):
            some = leaving[start : start + _AT_ONCE]
            answers = await asyncio.gather(*(self._service.remove(one) for one in some), return_exceptions=True)
            for one, answer in zip(some, answers, strict=True):
                if isinstance(answer, (FelixError, OSError)):
                    failures.append(f"{one.who}: {answer}")
                    used.update(one.addresses)
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    detached.append(str(one.who))
                    released += [net.address for net in answer]
        handles = frozenset(handle_name(request.network, who) for who in valid)
        try:
            strays = await self._service.endpoints.find_strays(request.network, handles, frozenset(used))
            released += [net.address for net in await self._leases.take_back(strays)]
        except (FelixError, OSError) as error:
            failures.append(f"addresses of {request.network}: {error}")
        return GcAnswer(detached, released, failures)

    def _is_missing(self, one: Attachment) -> bool:
        return not self._has_interface(one.host_interface) and not self._service.is_attaching(one.who)
