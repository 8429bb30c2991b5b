"""The door `net-modules`: an isolator that asks two plug-ins, IPAM and virtualizer, one call at a time. Shell."""

from __future__ import annotations

import asyncio
from typing import Protocol

from felix.lab.mesos import wanted as shapes
from felix.lab.mesos.program import PlugInFailed, Program, read_answer
from felix.lab.mesos.types import NET_MODULES, Container, NetworkInfo, TaskInfo, address_record
from felix.lab.mesos.wanted import Wanted, read_wanted


class Isolator(Protocol):
    """What an agent asks of its network isolator. It changes the container's record; the agent check-points that."""

    door: str

    def wants(self, task: TaskInfo) -> bool:
        """Whether the task asks for a network of its own; if not, nothing else is ever called for it."""

    async def prepare(self, container: Container) -> None:
        """All that can be had before there is a process is had."""

    async def isolate(self, container: Container, pid: int) -> None:
        """The namespace of the process is wired; addresses and networks of the record are what will be reported."""

    async def cleanup(self, container: Container) -> None:
        """Nothing that prepare or isolate made is left, however far they came. May be repeated."""

    def libprocess_ip(self, container: Container) -> str:
        """Returns the address that the executor is told to use."""


class NetModules:
    """net-modules as its defects should have been mended.

    Every launch has a uid, known before the first call. Whatever fails, everything is given back by that uid, and only
    after the endpoint is gone: no address is free while somebody still uses it, nobody else's is ever given back.
    """

    door = NET_MODULES

    def __init__(self, hostname: str, ipam: Program, virtualizer: Program, parallel_calls: int = 1) -> None:
        self._hostname = hostname
        self._ipam = ipam
        self._virtualizer = virtualizer
        self._turn = asyncio.Semaphore(parallel_calls)

    def wants(self, task: TaskInfo) -> bool:
        """Whether there is a NetworkInfo."""
        return bool(task.network_infos)

    async def prepare(self, container: Container) -> None:
        """The addresses are allocated: reserved ones first, as asked, then those of any kind."""
        wanted = read_wanted(container.task.network_infos)
        addresses: list[str] = []
        if wanted.has_static:
            await self._ask(self._ipam, "reserve", shapes.reserve_request(self._hostname, container.uid, wanted))
            addresses += [*wanted.static_v4, *wanted.static_v6]
        if wanted.has_auto:
            request = shapes.allocate_request(self._hostname, container.uid, wanted)
            addresses += _read_allocated(await self._ask(self._ipam, "allocate", request), wanted)
        container.addresses = addresses
        container.networks = [NetworkInfo(ip_addresses=tuple(address_record(address) for address in addresses))]

    async def isolate(self, container: Container, pid: int) -> None:
        """The virtualizer has wired the process's namespace."""
        wanted = read_wanted(container.task.network_infos)
        request = shapes.isolate_request(self._hostname, container.id, pid, container.addresses, wanted)
        await self._ask(self._virtualizer, "isolate", request)

    async def cleanup(self, container: Container) -> None:
        """Endpoint gone, then addresses given back by uid."""
        await self._ask(self._virtualizer, "cleanup", shapes.cleanup_request(self._hostname, container.id))
        await self._ask(self._ipam, "release", shapes.release_request(container.uid))

    def libprocess_ip(self, container: Container) -> str:
        """Returns the first address."""
        return container.addresses[0]

    async def _ask(self, program: Program, verb: str, request: bytes) -> dict[str, object]:
        async with self._turn:
            status, answer = await program.run(request)
        return read_answer(program.name, verb, status, answer)


def _read_allocated(answer: dict[str, object], wanted: Wanted) -> list[str]:
    found: list[str] = []
    for key, version, number in (("ipv4", "IPv4", wanted.auto_v4), ("ipv6", "IPv6", wanted.auto_v6)):
        listed = answer.get(key) or []
        if not isinstance(listed, list) or len(listed) < number:
            raise PlugInFailed(f"allocate: {key}: expected {number} addresses, saw {listed!r}")
        try:
            records = [address_record(str(address)) for address in listed]
        except ValueError as error:
            raise PlugInFailed(f"allocate: {key}: not an address in {listed!r}") from error
        if any(record.protocol != version for record in records):
            raise PlugInFailed(f"allocate: {key}: expected addresses of {version}, saw {listed!r}")
        found += [record.ip_address for record in records]
    return found
