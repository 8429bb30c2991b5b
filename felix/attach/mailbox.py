"""What could not be undone and is owed: tried again until it succeeds. Shell."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn

from felix.attach.names import Attached
from felix.attach.watch import Gate
from felix.errors import FelixError, PeerError
from felix.model.keys import ResourceKey

log = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.5
_MOST_RETRY_S = 10.0


@dataclass(frozen=True, slots=True)
class Debt:
    """What is to be done once etcd answers. who: whose endpoint it is about; None: about addresses alone."""

    who: Attached | None
    pay: Callable[[], Awaitable[object]]


def address_debt(handle: str) -> str:
    """Returns the key of what is owed about the addresses that a handle was perhaps given."""
    return f"addresses of {handle}"


class Debts:
    """What could not be undone, by a key of its own; each is tried until it succeeds or somebody else has done it."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._debt_by_key: dict[ResourceKey | str, Debt] = {}
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._debt_by_key)

    def owe(self, key: ResourceKey | str, who: Attached | None, pay: Callable[[], Awaitable[object]]) -> None:
        """`pay` will be called until it succeeds."""
        self._debt_by_key[key] = Debt(who, pay)
        self._news.set()

    def has(self, key: ResourceKey | str) -> bool:
        """Whether the debt is still owed."""
        return key in self._debt_by_key

    def forget(self, key: ResourceKey | str) -> bool:
        """The debt is somebody else's now; returns whether there was one."""
        return self._debt_by_key.pop(key, None) is not None

    async def settle(self, key: ResourceKey | str) -> None:
        """The debt is not owed any more; raises what paying it raises, it is owed still then."""
        debt = self._debt_by_key.get(key)
        if debt is not None:
            await debt.pay()
            self.forget(key)

    def of(self, who: Attached) -> list[ResourceKey]:
        """Returns the endpoints of a container that are owed."""
        return [key for key, debt in self._debt_by_key.items() if debt.who == who and isinstance(key, ResourceKey)]

    async def run(self) -> NoReturn:
        """Pays until cancelled."""
        wait_s = _FIRST_RETRY_S
        while True:
            if not self._debt_by_key:
                self._news.clear()
                await self._news.wait()
                wait_s = _FIRST_RETRY_S
            await self._gate.wait_open()
            for key, debt in list(self._debt_by_key.items()):
                try:
                    await debt.pay()
                except (PeerError, OSError) as error:
                    log.debug("%s is owed: %s", key, error)
                except FelixError as error:
                    log.error("%s cannot be undone, see felix ipam check: %s", key, error)
                    self.forget(key)
                else:
                    self.forget(key)
            if self._debt_by_key:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _MOST_RETRY_S)
