"""A lab: virtual hosts in network namespaces on one fabric, with etcd, agents, BIRD and workloads. Shell.

    with Lab("demo") as lab:
        lab.up(hosts=2)
        web = lab.add_workload(lab.hosts[0], "web", profiles=["open"])
        client = lab.add_workload(lab.hosts[1], "client", profiles=["open"])
        web.listen(80)
        assert client.connect(web.ipv4, 80).ok

Nothing outside the lab's own namespaces and directory is touched. Whatever an earlier lab of the same name left
behind, however it ended, the next `up` or `down` removes.
"""

from __future__ import annotations

import contextlib
import operator
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from felix.errors import DataError, EnvironmentFault
from felix.ipam.draft import StoredBlock
from felix.ipam.records import Handle, parse_handle
from felix.ipam.release import Release, find_ordinals, plan_release
from felix.lab import documents, names, namespace, process
from felix.lab.documents import EndpointIntent
from felix.lab.host import AGENT_COMMAND, Host
from felix.lab.mesos.containers import kill_marked
from felix.lab.place import Place, wait_until
from felix.lab.process import ProcessRecord
from felix.lab.state import RUN_ROOT, StateDirectory, WorkloadRecord
from felix.lab.store import Document, Json, LabStore
from felix.model.keys import BlockKey, format_handle_key, format_key
from felix.model.net import Net, parse_address, parse_net

_PROGRAMS = ("ip", "etcd", "bird")
_FORWARDING = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/default/forwarding": "1",
}


class Workload(Place):
    """A container stand-in: a namespace with one interface `eth0`, on a veth whose other end its host holds."""

    def __init__(self, record: WorkloadRecord, namespace_name: str, responder: Path) -> None:
        super().__init__(record.name, namespace_name, responder, {})
        self.record = record
        self.ipv4 = record.ipv4
        self.ipv6 = record.ipv6
        self.interface = record.interface


class Lab:
    """One lab. Creating the object touches nothing; it sees whatever lab of that name is up."""

    def __init__(self, name: str = "demo", run_root: Path = RUN_ROOT) -> None:
        self.name = names.check_lab_name(name)
        self.directory = run_root / name
        self._prefix = names.namespace_prefix(name)
        self._state = StateDirectory(name, run_root)
        # etcd names its socket after the address in the URL, relative to where it was started.
        self.store = LabStore(self.directory / "etcd" / f"localhost:{names.ETCD_PORT}")
        self.etcd_endpoint = f"http://{names.FABRIC_ADDRESS_V4}:{names.ETCD_PORT}"
        self.fabric = Place("fabric", f"{self._prefix}fabric", self._responder, self._etcd_environment())

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    @property
    def hosts(self) -> list[Host]:
        """The virtual hosts, first one first."""
        state = self._state.read()
        return [self._host(number, is_apart=state.is_apart) for number in range(1, state.hosts + 1)]

    @property
    def workloads(self) -> dict[str, Workload]:
        """All workloads by name."""
        return {name: self._workload(record) for name, record in self._state.read().workloads.items()}

    def is_up(self) -> bool:
        """Whether the lab has hosts."""
        return self._state.read().hosts > 0

    def up(
        self,
        hosts: int = 2,
        *,
        agents: bool = True,
        bird: bool = True,
        vxlan_mode: str = "Never",
        is_apart: bool = False,
        agent_command: Sequence[str] = AGENT_COMMAND,
    ) -> None:
        """The lab stands: fabric, etcd with the basic documents, hosts, and on each BIRD and agent as asked for.

        What was there of the same name is gone. The agents have been started, see `Host.wait_agent_ready`.
        vxlan_mode: of both pools. is_apart: whether hosts with even numbers are in another subnet than the others, with
        a router between that knows of no container.
        """
        check_machine()
        names.host_addresses(hosts)  # refuses a number of hosts that cannot be
        addresses = [names.host_addresses(number) for number in range(1, hosts + 1)]
        self.down()
        with self._state.change() as state:
            state.hosts, state.is_apart = hosts, is_apart
        (self.directory / "etcd").mkdir()
        namespace.create_namespaces([self.fabric.namespace, *(f"{self._prefix}{host.name}" for host in addresses)])
        self._build_fabric(is_apart=is_apart)
        self.start_etcd(wait=False)
        self._start_responder()
        for host in self.hosts:
            host.prepare()
            self._plug_in(host)
        self.store.wait_ready(10.0)
        for key, document in documents.cluster_documents(vxlan_mode).items():
            self.store.put(key, document)
        for host in self.hosts:
            for key, document in documents.host_documents(host.addresses).items():
                self.store.put(key, document)
            if bird:
                host.start_bird()
            if agents:
                host.start_agent(agent_command)

    def down(self) -> None:
        """Nothing of the lab is left: programs, namespaces with their interfaces, files. Harmless when repeated."""
        check_root()
        for record in self._state.read().processes.values():
            process.stop(record, signal.SIGKILL)
        kill_marked(self.directory)  # tasks of simulated Mesos agents
        found = namespace.list_namespaces(self._prefix)
        for pid in namespace.find_processes(found):
            stray = process.identify(pid, "stray")
            if stray and pid != os.getpid():
                process.stop(stray, signal.SIGKILL)
        namespace.delete_namespaces(found)
        shutil.rmtree(self.directory, ignore_errors=True)

    def host(self, name: str) -> Host:
        """Returns the host of that name; raises DataError when there is none."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise DataError(f"lab {self.name} has no host {name!r}; see: felix lab status --name {self.name}")

    def place(self, name: str) -> Place:
        """Returns the host, the workload or the `fabric` of that name; raises DataError when there is none."""
        places: list[Place] = [self.fabric, *self.hosts, *self.workloads.values()]
        for place in places:
            if place.name == name:
                return place
        raise DataError(f"lab {self.name} has no host or workload {name!r}; see: felix lab status --name {self.name}")

    def apply(self, document: Document) -> int:
        """The v3 resource is in etcd as given; returns the revision."""
        return self.store.put(documents.key_of(document), document)

    def start_etcd(self, *, wait: bool = True) -> None:
        """etcd runs on the fabric with the data it had; answers when `wait`."""
        peer = "http://127.0.0.1:2380"
        command = [
            *("etcd", "--name=lab", "--data-dir=data", "--logger=zap", "--log-level=warn", "--unsafe-no-fsync"),
            f"--listen-client-urls={self.etcd_endpoint},unix://localhost:{names.ETCD_PORT}",
            f"--advertise-client-urls={self.etcd_endpoint}",
            *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=lab={peer}"),
            *("--heartbeat-interval=20", "--election-timeout=200"),
        ]
        directory = self.directory / "etcd"
        self.store.socket_path.unlink(missing_ok=True)
        record = process.spawn(
            "etcd", self.fabric.command(command), self.fabric.program_environment(), directory / "etcd.log", directory
        )
        with self._state.change() as state:
            state.processes["etcd"] = record
        if wait:
            self.store.wait_ready(10.0)

    def stop_etcd(self, number: int = signal.SIGTERM) -> None:
        """etcd does not run; its data stays."""
        record = self._state.read().processes.get("etcd")
        if record:
            process.stop(record, number)

    def send_etcd_signal(self, number: int) -> None:
        """etcd has been sent a signal, such as SIGSTOP; nothing when it does not run."""
        record = self._state.read().processes.get("etcd")
        if record:
            process.send_signal(record, number)

    def adopt(self, role: str, record: ProcessRecord) -> None:
        """The program belongs to the lab: it ends with it."""
        with self._state.change() as state:
            state.processes[role] = record

    @property
    def processes(self) -> dict[str, ProcessRecord]:
        """All programs of the lab, by what they are; one that has ended may be among them."""
        return dict(self._state.read().processes)

    def set_link(self, host: Host, *, up: bool) -> None:
        """The host's cable to the fabric is plugged in or pulled out."""
        self.fabric.configure(f"link set {host.name} {'up' if up else 'down'}")

    def add_workload(
        self,
        host: Host,
        name: str,
        *,
        profiles: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        ipv4: str | None = "",
        ipv6: str | None = "",
        namespace_name: str = "default",
        ports: Sequence[Mapping[str, Json]] = (),
        extra: Mapping[str, Json] | None = None,
        write_endpoint: bool = True,
    ) -> Workload:
        """The workload exists, is wired to the host, and etcd has its endpoint and its addresses' allocation.

        ipv4, ipv6: the address to use, empty for the next free one of the host's block, None for no address.
        extra: further fields of the endpoint's spec. Reachable only once the host's agent has made it so.
        """
        if names.check_workload_name(name) in self.workloads:
            raise DataError(f"lab {self.name} has a workload {name!r} already")
        asked = ((host.addresses.block_v4, ipv4), (host.addresses.block_v6, ipv6))
        addresses = [self._allocate(block, name, host.name, wanted) for block, wanted in asked if wanted is not None]
        intent = EndpointIntent(
            *(name, host.name, namespace_name, tuple(addresses), profiles, labels or {}, ports, extra or {})
        )
        document = documents.endpoint_document(intent)
        record = WorkloadRecord(
            name=name,
            host=host.name,
            interface=names.host_end(name),
            ipv4=next((address for address in addresses if ":" not in address), ""),
            ipv6=next((address for address in addresses if ":" in address), ""),
            key=documents.key_of(document),
        )
        workload = self._workload(record)
        with self._state.change() as state:
            state.workloads[name] = record
        namespace.create_namespaces([workload.namespace])
        self.plug_in_workload(name)
        if write_endpoint:
            self.store.put(record.key, document)
        return workload

    def plug_in_workload(self, name: str) -> None:
        """The workload, which has no interface, has one again, with its addresses, on a veth that its host holds."""
        workload = self.workloads[name]
        self.host(workload.record.host).configure(
            f"link add {workload.interface} address {names.HOST_END_MAC} up type veth"
            f" peer name eth0 netns {workload.namespace} address {names.workload_mac(name)}"
        )
        workload.configure(*_workload_commands(workload.record))

    def remove_workload(self, name: str) -> None:
        """Neither workload nor endpoint nor allocation exists; harmless when they did not."""
        record = self._state.read().workloads.get(name)
        if record is None:
            return
        self.store.delete(record.key)
        workload = self._workload(record)
        workload.close_listeners()
        for pid in namespace.find_processes([workload.namespace]):
            stray = process.identify(pid, name)
            if stray:
                process.stop(stray, signal.SIGKILL)
        with contextlib.suppress(EnvironmentFault):  # the host end may be gone
            self.host(record.host).configure(f"link del {record.interface}")
        namespace.delete_namespaces([workload.namespace])
        for address in filter(None, (record.ipv4, record.ipv6)):
            self._release(address, name)
        with self._state.change() as state:
            state.workloads.pop(name, None)

    @property
    def _responder(self) -> Path:
        return self.directory / "responder.ctl"

    def _host(self, number: int, *, is_apart: bool) -> Host:
        addresses = names.host_addresses(number, is_apart=is_apart)
        return Host(f"{self._prefix}{addresses.name}", addresses, self._state)

    def _workload(self, record: WorkloadRecord) -> Workload:
        return Workload(record, f"{self._prefix}w-{record.name}", self._responder)

    def _etcd_environment(self) -> dict[str, str]:
        return {
            "DATASTORE_TYPE": "etcdv3",
            "ETCD_ENDPOINTS": self.etcd_endpoint,
            "FELIX_DATASTORETYPE": "etcdv3",
            "FELIX_ETCDENDPOINTS": self.etcd_endpoint,
            "ETCDCTL_ENDPOINTS": self.etcd_endpoint,
            "ETCDCTL_API": "3",
        }

    def _build_fabric(self, *, is_apart: bool) -> None:
        # A machine that forwards hands that down to new namespaces; one subnet must not be routed at all.
        sysctls = _FORWARDING if is_apart else {"net/ipv4/ip_forward": "0"}
        namespace.write_sysctls(self.fabric.namespace, sysctls)
        self.fabric.configure("link set lo up")
        for subnet in (names.NEAR, names.FAR) if is_apart else (names.NEAR,):
            self.fabric.configure(
                f"link add {subnet.bridge} type bridge forward_delay 0 mcast_snooping 0",
                f"addr add {subnet.gateway_v4}/{subnet.ipv4.length} dev {subnet.bridge}",
                f"addr add {subnet.gateway_v6}/{subnet.ipv6.length} dev {subnet.bridge} nodad",
                f"link set {subnet.bridge} up",
            )

    def _plug_in(self, host: Host) -> None:
        namespace.write_sysctls(host.namespace, _FORWARDING)
        subnet = host.addresses.subnet
        self.fabric.configure(
            f"link add {host.name} type veth peer name eth0 netns {host.namespace}",
            f"link set {host.name} master {subnet.bridge} up",
        )
        host.configure(
            "link set lo up",
            "link set eth0 up",
            f"addr add {host.ipv4}/{subnet.ipv4.length} dev eth0",
            f"addr add {host.ipv6}/{subnet.ipv6.length} dev eth0 nodad",
            f"route add default via {subnet.gateway_v4}",
            f"route add default via {subnet.gateway_v6}",
        )

    def _start_responder(self) -> None:
        program = Path(__file__).with_name("responder.py")
        command = [sys.executable, "-S", "-E", str(program), str(self._responder)]
        record = process.spawn("responder", command, {}, self.directory / "responder.log", self.directory)
        with self._state.change() as state:
            state.processes["responder"] = record
        wait_until(self._responder.exists, 5.0, f"the responder; see {self.directory}/responder.log")

    def _allocate(self, own_block: Net, workload: str, host: str, wanted: str) -> str:
        block = self._find_block(wanted) if wanted else own_block
        while True:
            stored = self._read_block(block) if block else None
            if stored is None:
                return parse_address(wanted).address  # outside all blocks: nobody to ask
            plan = documents.plan_take(stored, self._read_handle(workload), host, wanted)
            if plan is None:
                raise DataError(f"{block} cannot give {wanted or 'another address'} to {workload}: it is in use")
            draft, address = plan
            if self.store.commit(draft):
                return address

    def _release(self, address: str, workload: str) -> None:
        block = self._find_block(address)
        while stored := self._read_block(block) if block else None:
            held = find_ordinals(stored.block, [Release(parse_address(address))]) if stored.block else []
            handle = self._read_handle(workload)
            if not held or self.store.commit(plan_release(stored, held, {handle.name: handle})):
                return

    def _read_block(self, block: Net) -> StoredBlock | None:
        found = self.store.read(format_key(BlockKey(block)))
        return StoredBlock(block, found[1], found[0]) if found else None

    def _read_handle(self, workload: str) -> Handle:
        name = documents.handle_id(workload)
        found = self.store.read(format_handle_key(name))
        return parse_handle(name, *found) if found else Handle(name)

    def _find_block(self, address: str) -> Net | None:
        wanted = parse_address(address)
        length = 26 if wanted.version == 4 else 122
        pool = names.POOL_V4 if wanted.version == 4 else names.POOL_V6
        return parse_net(f"{wanted.address}/{length}") if operator.contains(pool, wanted) else None


def check_root() -> None:
    """Raises EnvironmentFault when this is not the superuser, whom namespaces need."""
    if os.geteuid() != 0:
        raise EnvironmentFault("a lab needs root, for network namespaces; try again with sudo")


def check_machine() -> None:
    """Raises EnvironmentFault that names what a lab needs and this machine lacks."""
    check_root()
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        raise EnvironmentFault(f"a lab needs the programs {', '.join(missing)}; 'make setup' installs them")


def _workload_commands(record: WorkloadRecord) -> list[str]:
    commands = ["link set lo up", "link set eth0 up"]
    if record.ipv4:
        commands += [
            f"addr add {record.ipv4}/32 dev eth0",
            f"route add {names.GATEWAY_V4} dev eth0 scope link",
            f"route add default via {names.GATEWAY_V4} dev eth0",
            # A host without a default route never answers for the gateway: the entry makes it independent of that.
            f"neigh replace {names.GATEWAY_V4} lladdr {names.HOST_END_MAC} dev eth0 nud permanent",
        ]
    if record.ipv6:
        commands += [
            f"addr add {record.ipv6}/128 dev eth0 nodad",
            f"route add default via {names.GATEWAY_V6} dev eth0",
            f"neigh replace {names.GATEWAY_V6} lladdr {names.HOST_END_MAC} dev eth0 nud permanent",
        ]
    return commands
