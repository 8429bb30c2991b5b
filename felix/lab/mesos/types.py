"""What Mesos calls things, as JSON says them: tasks, NetworkInfo, statuses, and the simulator's record of a container.

Field names are those of Mesos 0.26 to 1.11 (mesos.proto as JSON); lists and objects that are empty are left out.
Nothing here is shared with the plug-ins: what tries them should not make their mistakes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from felix.errors import DataError
from felix.lab.process import ProcessRecord
from felix.model.net import parse_address

NET_MODULES = "net-modules"
CNI = "cni"


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """A value that never changes; what is at its default is not written."""


class Label(Record, frozen=True):
    """One label."""

    key: str
    value: str = ""


class Labels(Record, frozen=True):
    """Labels, in the wrapping that Mesos gives them."""

    labels: tuple[Label, ...] = ()


class IpAddress(Record, frozen=True):
    """An address that is asked for, or one that a container has. Both empty: any one IPv4 address."""

    protocol: str = ""
    ip_address: str = ""


class PortMapping(Record, frozen=True):
    """A port of the host that leads into the container; handed on, never programmed by the simulator."""

    host_port: int
    container_port: int
    protocol: str = ""


class NetworkInfo(Record, frozen=True):
    """One network interface of a container: what is asked for, or what was given.

    name: the CNI network. protocol, ip_address: the flat form of Mesos 0.25, refused like in later versions.
    """

    ip_addresses: tuple[IpAddress, ...] = ()
    groups: tuple[str, ...] = ()
    labels: Labels = Labels()
    name: str = ""
    port_mappings: tuple[PortMapping, ...] = ()
    protocol: str = ""
    ip_address: str = ""


class ContainerInfo(Record, frozen=True):
    """What is asked of a container; no network_infos: it shares its host's network."""

    type: str = "MESOS"
    network_infos: tuple[NetworkInfo, ...] = ()


class ExecutorInfo(Record, frozen=True):
    """A framework's own executor. Its container, not the task's, is the one that counts."""

    executor_id: str
    container: ContainerInfo = ContainerInfo()


class DiscoveryPort(Record, frozen=True):
    """A port on which a task can be found."""

    number: int
    name: str = ""
    protocol: str = "tcp"


class DiscoveryPorts(Record, frozen=True):
    """Ports, in the wrapping that Mesos gives them."""

    ports: tuple[DiscoveryPort, ...] = ()


class DiscoveryInfo(Record, frozen=True):
    """How a task wants to be found."""

    name: str
    visibility: str = "FRAMEWORK"
    ports: DiscoveryPorts = DiscoveryPorts()


class Resources(Record, frozen=True):
    """What a task takes of an agent. mem in MiB; ports: of the host, in order."""

    cpus: float = 0.1
    mem: float = 32.0
    ports: tuple[int, ...] = ()


class TaskInfo(Record, frozen=True):
    """A task to run. command: for a shell. source: which application it is an instance of."""

    task_id: str
    name: str
    command: str
    environment: dict[str, str] = {}
    resources: Resources = Resources()
    container: ContainerInfo = ContainerInfo()
    executor: ExecutorInfo | None = None
    discovery: DiscoveryInfo | None = None
    labels: Labels = Labels()
    source: str = ""

    @property
    def executor_id(self) -> str:
        """The executor's id; the command executor's is the task's."""
        return self.executor.executor_id if self.executor else self.task_id

    @property
    def network_infos(self) -> tuple[NetworkInfo, ...]:
        """What is asked of the network, from the executor if the framework brought one."""
        return (self.executor.container if self.executor else self.container).network_infos


class ContainerId(Record, frozen=True):
    """The id of a container, in the wrapping that Mesos gives it."""

    value: str


class ContainerStatus(Record, frozen=True):
    """What an agent knows of a container's network."""

    network_infos: tuple[NetworkInfo, ...] = ()
    container_id: ContainerId | None = None


class TaskStatus(Record, frozen=True):
    """One status update. timestamp: seconds since 1970. No container_status: there never was a network."""

    task_id: str
    slave_id: str
    state: str
    timestamp: float
    message: str = ""
    reason: str = ""
    container_status: ContainerStatus | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether no other update can follow."""
        return self.state not in {"TASK_STAGING", "TASK_RUNNING"}

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses, in order."""
        infos = self.container_status.network_infos if self.container_status else ()
        return tuple(address.ip_address for info in infos for address in info.ip_addresses)


class Phase(StrEnum):
    """How far a container has come. What is neither `running` nor `gone` is destroyed when an agent recovers."""

    CREATED = "created"
    PREPARED = "prepared"
    FORKED = "forked"
    ISOLATED = "isolated"
    RUNNING = "running"
    CLEANING = "cleaning"
    GONE = "gone"


class Attachment(msgspec.Struct):
    """One CNI network of a container: everything that DEL needs. config: as the plug-in got it; result: its answer."""

    network: str
    interface: str
    config: dict[str, object]
    result: dict[str, object] = {}


class Container(msgspec.Struct):
    """One container as it is check-pointed, before and after each step that leaves something outside.

    uid: made for this launch; everything that is allocated for it can be given back by it. networked: whether it has a
    namespace of its own. door: by which isolator. networks: what is reported as its network.
    """

    id: str
    uid: str
    framework_id: str
    task: TaskInfo
    phase: Phase = Phase.CREATED
    networked: bool = False
    door: str = ""
    addresses: list[str] = []
    networks: list[NetworkInfo] = []
    attachments: list[Attachment] = []
    process: ProcessRecord | None = None
    statuses: list[TaskStatus] = []
    is_kill_asked: bool = False

    @property
    def state(self) -> str:
        """The state that was reported last."""
        return self.statuses[-1].state if self.statuses else "TASK_STAGING"

    @property
    def is_live(self) -> bool:
        """Whether it has anything outside that must be cleaned up one day."""
        return self.phase is not Phase.GONE


def parse_task(document: object) -> TaskInfo:
    """Returns the task of a JSON value; raises DataError naming the field that cannot be used."""
    try:
        return msgspec.convert(document, TaskInfo)
    except msgspec.ValidationError as error:
        raise DataError(f"task cannot be used: {error}") from error


def address_record(address: str) -> IpAddress:
    """Returns an address, given with or without prefix length, as a status reports it: without."""
    net = parse_address(address.partition("/")[0])
    return IpAddress(protocol=f"IPv{net.version}", ip_address=net.address)


def label_records(labels: Mapping[str, str]) -> Labels:
    """Returns labels in Mesos' form, sorted by key."""
    return Labels(tuple(Label(key, value) for key, value in sorted(labels.items())))
