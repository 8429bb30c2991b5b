"""What is asked on the local API about containers, as routes: bodies in, answers or refusals out. Shell."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from felix.attach.driver import AttachService
from felix.attach.lease import AddressLeases
from felix.attach.sweep import Cleaner
from felix.attach.types import (
    Addresses,
    AllocateRequest,
    AttachRequest,
    CheckAnswer,
    Code,
    DetachRequest,
    FindRequest,
    GcRequest,
    Refusal,
    Released,
    ReleaseRequest,
    parse_request,
)
from felix.attach.veth import NoNamespace, Taken
from felix.errors import DataError, FelixError, PeerError
from felix.ipam.faults import AddressTaken, Exhausted, NoPool, NotInPool, NotReleasable, Stale
from felix.model.net import Net
from felix.obs.serve import Act, Answer, Reply

log = logging.getLogger(__name__)

R = TypeVar("R")
_CODE_BY_FAULT: Sequence[tuple[tuple[type[Exception], ...], Code]] = (
    ((Exhausted, NoPool), Code.EXHAUSTED),
    ((NotInPool,), Code.INVALID),
    ((AddressTaken, Stale, NotReleasable, Taken), Code.CONFLICT),
    ((NoNamespace,), Code.NOT_FOUND),
    ((DataError,), Code.INVALID),
    ((PeerError,), Code.UNAVAILABLE),
)


class AttachRoutes:
    """The routes of one agent. on_refusal: told the code of each refusal."""

    def __init__(
        self, service: AttachService, leases: AddressLeases, cleaner: Cleaner, on_refusal: Callable[[str], None]
    ) -> None:
        self._service = service
        self._leases = leases
        self._cleaner = cleaner
        self._on_refusal = on_refusal

    def answers(self) -> Mapping[str, Answer]:
        """Returns what GET asks."""
        return {"/v1/ready-to-attach": self._show_ready}

    def acts(self) -> Mapping[str, Act]:
        """Returns what POST asks."""
        return {
            "/v1/attach": self._act(AttachRequest, self._service.attach),
            "/v1/detach": self._act(DetachRequest, self._service.detach),
            "/v1/check": self._act(AttachRequest, self._check),
            "/v1/gc": self._act(GcRequest, self._cleaner.collect),
            "/v1/ipam/allocate": self._act(AllocateRequest, self._allocate),
            "/v1/ipam/release": self._act(ReleaseRequest, self._release),
            "/v1/ipam/find": self._act(FindRequest, self._find),
        }

    def _act(self, wanted: type[R], call: Callable[[R], Awaitable[object]]) -> Act:
        async def answer(body: bytes) -> object:
            try:
                return await call(parse_request(body, wanted))
            except Exception as error:  # whatever it is, whoever asked gets an answer that programs can read
                refusal = translate(error)
                self._on_refusal(refusal.code.value)
                if refusal.code is Code.INTERNAL:
                    log.exception("%s failed", wanted.__name__)
                else:
                    log.info("%s refused, %s: %s", wanted.__name__, refusal.code.value, refusal)
                return Reply(refusal.document(), refusal.status)

        return answer

    async def _show_ready(self, _: Mapping[str, str]) -> object:
        obstacle = self._service.gate.obstacle
        if not obstacle:
            return {}
        refusal = Refusal(Code.UNAVAILABLE, obstacle)
        return Reply(refusal.document(), refusal.status)

    async def _check(self, request: AttachRequest) -> CheckAnswer:
        differences = await self._service.check(request)
        if differences:
            raise Refusal(Code.DIFFERS, "; ".join(differences), tuple(differences))
        return CheckAnswer([])

    async def _allocate(self, request: AllocateRequest) -> Addresses:
        return Addresses(
            _texts(await self._service.bounded(lambda: self._leases.allocate(request), request.deadline_s))
        )

    async def _release(self, request: ReleaseRequest) -> Released:
        released = await self._service.bounded(lambda: self._leases.release(request), request.deadline_s)
        return Released([net.address for net in released])

    async def _find(self, request: FindRequest) -> Addresses:
        return Addresses(
            _texts(await self._service.bounded(lambda: self._leases.find(request.handle), request.deadline_s))
        )


def translate(error: Exception) -> Refusal:
    """Returns how an error is answered."""
    if isinstance(error, Refusal):
        return error
    for kinds, code in _CODE_BY_FAULT:
        if isinstance(error, kinds):
            return Refusal(code, str(error))
    return Refusal(Code.INTERNAL, str(error) if isinstance(error, FelixError) else f"{type(error).__name__}: {error}")


def _texts(nets: Sequence[Net]) -> list[str]:
    return [str(net) for net in sorted(nets, key=lambda net: net.version)]
