"""A host in memory on which containers are attached: a store that can fail, a kernel of names, an agent that enforces.

The agent sees every change of the store at once, and an endpoint is up as soon as its host end is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from felix.attach.agent import AttachParts, AttachPorts
from felix.attach.apply import Namespace
from felix.attach.driver import Kernel
from felix.attach.index import AttachmentIndex
from felix.attach.types import AttachRequest, DetachRequest
from felix.attach.veth import NoNamespace, Veth, VethSpec
from felix.calc.desired import LocalEndpoint, Stack
from felix.dataplane.cycle import EndpointCondition, EndpointReport
from felix.datastore.faults import EtcdUnavailable
from felix.datastore.types import Compare, KeyValue, Op, TxnResult
from felix.model.codec import decode
from felix.model.keys import HANDLES, ResourceKey, parse_key
from tests.model.fake_store import FakeStore
from tests.support.ipam import check_laws, pool, read_blocks, resource

NODE = "h1"
_EMPTY = Stack((), ())


class FlakyStore(FakeStore):
    """A store of which single calls, or all from one on, get no answer. calls: so far."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.lost: Callable[[int], str] = lambda _: ""
        self.before_txn: Callable[[], None] = lambda: None
        self.late: list[tuple[Sequence[Compare], Sequence[Op]]] = []

    async def deliver_late(self) -> None:
        """Transactions that got no answer, because they were on their way, are carried out, if they still can be."""
        for compares, operations in self.late:
            await super().txn(compares, operations)

    async def txn(self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        self.calls += 1
        self.before_txn()
        how = self.lost(self.calls)
        await asyncio.sleep(0)
        if how == "unsent":
            raise EtcdUnavailable("away", is_unsent=True)
        if how == "late":
            self.late.append((compares, success))
            raise EtcdUnavailable("away")
        result = await super().txn(compares, success, failure)
        if how == "unanswered":
            raise EtcdUnavailable("away")
        return result

    async def list_prefix(self, prefix: str) -> tuple[list[KeyValue], int]:
        self.calls += 1
        if self.lost(self.calls):
            raise EtcdUnavailable("away")
        return await super().list_prefix(prefix)


class FakeNamespace(Namespace):
    """A namespace that is only a number."""

    def __init__(self, name: str, inode: int) -> None:
        self.name, self.inode, self.fd = name, inode, -1


class FakeKernel:
    """Host ends and whose they are. failures: what opening, making, removing or reading raises."""

    def __init__(self, on_change: Callable[[str], None]) -> None:
        self.inode_by_path = {f"/run/netns/{name}": number for number, name in enumerate("abc", 101)}
        self.spec_by_end: dict[str, tuple[int, VethSpec]] = {}
        self.failures: dict[str, Exception] = {}
        self.made = 0
        self._on_change = on_change

    def port(self) -> Kernel:
        return Kernel(self._open, self._make, self._remove, self._read)

    def _open(self, path: str, pid: int) -> Namespace:
        self._fail("open")
        if path not in self.inode_by_path:
            raise NoNamespace(f"{path} is missing")
        return FakeNamespace(path, self.inode_by_path[path])

    def _make(self, namespace: Namespace, spec: VethSpec) -> Veth:
        self._fail("make")
        self.made += 1
        is_new = self.spec_by_end.get(spec.host_end) != (namespace.inode, spec)
        self.spec_by_end[spec.host_end] = namespace.inode, spec
        self._on_change(spec.host_end)
        return Veth(5, 2, spec.mac, spec.mtu or 1500, is_new)

    def _remove(self, host_end: str) -> bool:
        self._fail("remove")
        was_there = self.spec_by_end.pop(host_end, None) is not None
        self._on_change(host_end)
        return was_there

    def _read(self, namespace: Namespace, spec: VethSpec) -> list[str]:
        self._fail("read")
        return [] if self.spec_by_end.get(spec.host_end) == (namespace.inode, spec) else ["it is not there"]

    def _fail(self, step: str) -> None:
        if step in self.failures:
            raise self.failures[step]


class AttachWorld:
    """One host, and everything that attaches on it. is_enforcing: whether endpoints ever get up."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.store = FlakyStore()
        for key, value in (
            pool("p4", "10.0.0.0/24"),
            pool("p6", "fd00::/112"),
            resource("Node", NODE, {"bgp": {"ipv4Address": "192.0.2.1/24"}, "addresses": [{"address": "fd01::1"}]}),
        ):
            self.store.put(key, value)
        self.kernel = FakeKernel(self._on_link)
        self.obstacle = ""
        self.is_enforcing = True
        self.codes: list[str] = []
        self.start_agent()

    def start_agent(self) -> None:
        """Another agent runs on the host: it knows what is stored, and nothing else."""
        self.index = AttachmentIndex(NODE)
        ports = AttachPorts(
            lambda: self.obstacle,
            self.look,
            lambda name: name in self.kernel.spec_by_end,
            on_refusal=self.codes.append,
        )
        self.parts = AttachParts(NODE, self.store, self.index, ports, self.kernel.port())
        self.service = self.parts.service
        self.store.observe = self.tell_agent
        self.tell_agent()

    def tell_agent(self) -> None:
        """The agent knows what is stored."""
        endpoints = {
            key: pair
            for path, pair in self.store.pairs.items()
            if isinstance(key := parse_key(path), ResourceKey) and key.kind == "WorkloadEndpoint"
        }
        for gone in [one.key for one in self.index if one.key not in endpoints]:
            self.index.on_record(gone, None, 0)
        for key, pair in endpoints.items():
            self.index.on_record(key, decode(key, pair.value).record, pair.mod_revision)
        self.parts.enforcement.on_cycle(endpoints)

    def set_obstacle(self, text: str) -> None:
        self.obstacle = text
        self.service.gate.on_news()

    async def attach(self, container: str = "c1", **fields: object) -> dict[str, object]:
        asked = {"network": "net1", "netns": "/run/netns/a", "ipv4": 1, "container": container, **fields}
        answer = await self.service.attach(msgspec.convert(asked, AttachRequest))
        found: dict[str, object] = msgspec.to_builtins(answer)
        return found

    async def detach(self, container: str = "c1", **fields: object) -> list[str]:
        asked = {"network": "net1", "container": container, **fields}
        return (await self.service.detach(msgspec.convert(asked, DetachRequest))).released

    async def post(self, route: str, **body: object) -> tuple[int, dict[str, object]]:
        """Returns status and document that the local API answers."""
        answer = await self.parts.routes.acts()[route](msgspec.json.encode(body))
        status = getattr(answer, "status", 200)
        document: dict[str, object] = msgspec.to_builtins(getattr(answer, "value", answer))
        return status, document

    # --- What there is ---

    @property
    def values(self) -> dict[str, bytes]:
        return {path: pair.value for path, pair in self.store.pairs.items()}

    @property
    def endpoints(self) -> list[str]:
        return [path.rpartition("/")[2] for path in self.values if "/workloadendpoints/" in path]

    @property
    def held(self) -> dict[str, str]:
        """Handle by address."""
        blocks = read_blocks({path: value for path, value in self.values.items() if "/assignment/" in path})
        return {
            block.address(ordinal): str(holder.handle) for block in blocks.values() for ordinal, holder in block.held()
        }

    def profile(self, name: str) -> dict[str, object]:
        path = f"/calico/resources/v3/projectcalico.org/profiles/{name}"
        found: dict[str, object] = msgspec.json.decode(self.values[path])["spec"]
        return found

    def profiles_of(self, endpoint: str, namespace: str = "default") -> object:
        path = f"/calico/resources/v3/projectcalico.org/workloadendpoints/{namespace}/{endpoint}"
        return msgspec.json.decode(self.values[path])["spec"]["profiles"]

    def check_whole(self, container: str = "c1") -> None:
        """The container is attached, wholly, and nothing else is there."""
        check_laws(self.values)
        assert self.endpoints == [f"h1-cni-{container}-eth0"]
        (one,) = self.index
        assert set(self.held) == {net.address for net in one.addresses}
        assert set(self.kernel.spec_by_end) == {one.host_interface}
        assert self.kernel.spec_by_end[one.host_interface][1].addresses == one.addresses

    def check_nothing(self) -> None:
        """Nothing of any container is there."""
        check_laws(self.values)
        assert self.endpoints == []
        assert self.held == {}
        assert self.kernel.spec_by_end == {}
        assert not [path for path in self.values if path.startswith(HANDLES)]
        assert len(self.service.debts) == 0

    def look(self, key: ResourceKey) -> tuple[LocalEndpoint | None, EndpointReport | None]:
        one = self.index.get(key)
        if one is None or not self.is_enforcing:
            return None, None
        is_up = one.host_interface in self.kernel.spec_by_end
        condition = EndpointCondition.UP if is_up else EndpointCondition.DOWN
        endpoint = LocalEndpoint(key, one.host_interface, one.addresses, one.mac, _EMPTY, _EMPTY, one.revision)
        return endpoint, EndpointReport(condition, True)

    def _on_link(self, name: str) -> None:
        """Interfaces come and go in threads; the agent's loop is told."""
        self.loop.call_soon_threadsafe(
            lambda: self.parts.enforcement.on_cycle(one.key for one in self.index if one.host_interface == name)
        )
