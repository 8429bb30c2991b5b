"""Mesos-DNS's records from a Mesos master's state: tasks, frameworks, agents, masters."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

from felix.dns.names import (
    MAX_LABEL,
    agent_tail,
    hash5,
    is_name,
    mangle_label,
    mangle_name,
    normalize_address,
    reverse_name,
)
from felix.dns.state import Agent, Place, State, Task, parse_place, read_task
from felix.dns.zone import Record, Zone, address_record
from felix.errors import Problem, shorten

IP_SOURCES = ("netinfo", "mesos", "host")
PROBLEMS_LIMIT = 100


class MesosOptions(NamedTuple):
    """How records are made. masters: `host:port`, as configured. has_reverse: whether addresses have names, too."""

    domain: str = "mesos"
    masters: tuple[str, ...] = ()
    sources: tuple[str, ...] = IP_SOURCES
    is_rfc952: bool = False
    has_reverse: bool = True


class ListedTask(NamedTuple):
    """A task that has names, for `/v1/enumerate`. owner: of its records in the zone."""

    name: str
    id: str
    owner: Hashable


class ListedFramework(NamedTuple):
    """A framework and its tasks, for `/v1/enumerate`."""

    name: str
    tasks: tuple[ListedTask, ...]


Addresses = Mapping[str, Sequence[str]]
"""What hosts' names stand for, where the state names hosts instead of addresses."""


class MesosNames:
    """Keeps in `zone` what a master's state says. Attributes are for reading."""

    def __init__(self, zone: Zone, options: MesosOptions) -> None:
        self.frameworks: tuple[ListedFramework, ...] = ()
        self.problems: tuple[Problem, ...] = ()
        self._zone = zone
        self._options = options
        self._mark_by_owner: dict[Hashable, int] = {}

    def apply(self, state: State, addresses: Addresses | None = None) -> Iterator[None]:
        """Once exhausted, the zone has what `state` says and nothing else of Mesos; pauses between owners.

        addresses: of hosts that `find_hosts` named. Tasks that did not change are not looked into.
        """
        known = addresses or {}
        problems = list(state.problems)
        marks: dict[Hashable, int] = {}
        addresses_by_agent = {agent.id: _resolve(agent.place.host, known) for agent in state.agents}
        self._put(marks, ("masters",), 0, self._iterate_masters(state.leader))
        for agent in state.agents:
            self._put(marks, ("agent", agent.id), 0, self._iterate_agent(agent, addresses_by_agent[agent.id]))
            yield
        taken = {address for one in addresses_by_agent.values() for address in one}
        agents_mark = hash(frozenset(addresses_by_agent.items()))
        listed: list[ListedFramework] = []
        for at, framework in enumerate(state.frameworks):
            owner = ("framework", at, framework.id)
            label = mangle_name(framework.name, is_rfc952=self._options.is_rfc952)
            self._put(marks, owner, 0, self._iterate_framework(label, framework.host, known))
            if not label and framework.tasks:
                text = "has no character that can be in a name, so its tasks have no names"
                problems.append(Problem("state.frameworks", "name", shorten(framework.name), text))
            tasks: list[ListedTask] = []
            for raw in framework.tasks if label else ():
                task = read_task(raw)
                if isinstance(task, Problem):
                    problems.append(task)
                    continue
                agent_addresses = addresses_by_agent.get(task.slave_id)
                if not task.is_running or agent_addresses is None:
                    continue
                one: Hashable = ("task", framework.id or framework.name, task.id)
                mark = hash((raw, label, agents_mark))
                if self._mark_by_owner.get(one) != mark:
                    records = _TaskRecords(task, label, agent_addresses, self._options, taken)
                    records.fill(problems)
                    self._zone.put(one, records.records)
                marks[one] = mark
                tasks.append(ListedTask(task.name, task.id, one))
                yield
            listed.append(ListedFramework(framework.name, tuple(tasks)))
        for gone in [owner for owner in self._mark_by_owner if owner not in marks]:
            self._zone.put(gone, ())
            yield
        self._mark_by_owner = marks
        self.frameworks = tuple(listed)
        self.problems = tuple(problems[:PROBLEMS_LIMIT])

    def _put(self, marks: dict[Hashable, int], owner: Hashable, mark: int, records: Iterator[Record]) -> None:
        self._zone.put(owner, [record for record in records if is_name(record.name)])
        marks[owner] = mark

    def _iterate_masters(self, leader: Place) -> Iterator[Record]:
        """Yields names of the masters, by their place in the configured list, repeated ones left out."""
        domain = self._options.domain
        address = normalize_address(leader.host)
        if address:
            yield address_record(f"leader.{domain}", address)
        for protocol in ("tcp", "udp"):
            yield Record(f"_leader._{protocol}.{domain}", "SRV", f"leader.{domain}", leader.port)
        numbered: list[str] = []
        for text in self._options.masters:
            place = parse_place(text)
            master = normalize_address(place.host) if place else ""
            if master and master not in numbered:
                numbered.append(master)
        if address and address not in numbered:
            numbered.append(address)
        for number, master in enumerate(numbered):
            yield address_record(f"master.{domain}", master)
            yield address_record(f"master{number}.{domain}", master)

    def _iterate_agent(self, agent: Agent, addresses: Sequence[str]) -> Iterator[Record]:
        name = f"slave.{self._options.domain}"
        yield from (address_record(name, address) for address in addresses)
        if agent.place.port:
            yield Record(f"_slave._tcp.{self._options.domain}", "SRV", name, agent.place.port)

    def _iterate_framework(self, label: str, host: Place, known: Addresses) -> Iterator[Record]:
        addresses = _resolve(host.host, known)
        if not label or not addresses:
            return
        name = f"{label}.{self._options.domain}"
        yield from (address_record(name, address) for address in addresses)
        if host.port:
            yield Record(f"_framework._tcp.{name}", "SRV", name, host.port)


def find_hosts(state: State) -> set[str]:
    """Returns the hosts that the state names instead of giving addresses; `apply` wants to know them."""
    hosts = {agent.place.host for agent in state.agents} | {framework.host.host for framework in state.frameworks}
    return {host for host in hosts if host and not normalize_address(host)}


def _resolve(host: str, known: Addresses) -> tuple[str, ...]:
    address = normalize_address(host)
    return (address,) if address else tuple(known.get(host, ()))


class _TaskRecords:
    """Makes the records of one task. label: of its framework. taken: addresses of agents, which tasks do not name."""

    def __init__(self, task: Task, label: str, agent: tuple[str, ...], options: MesosOptions, taken: set[str]) -> None:
        self.records: list[Record] = []
        self._task = task
        self._framework = label
        self._agent = agent
        self._options = options
        self._taken = taken

    def fill(self, problems: list[Problem]) -> None:
        """`records` has all of the task; names that cannot be are among `problems`."""
        task, options = self._task, self._options
        given = task.discovery_name
        mangled = mangle_label(given or task.name, is_rfc952=options.is_rfc952)
        addresses = task.find_addresses(options.sources, self._agent)
        # As Mesos-DNS: with DiscoveryInfo under the name as it was given, too; that one may have dots and underscores.
        for name in dict.fromkeys((given.lower(), mangled) if given else (mangled,)):
            if not is_name(f"{name}.{self._framework}.{options.domain}"):
                if name == mangled:
                    text = "nothing of it can be in a name"
                    problems.append(Problem(f"task {shorten(task.id)}", "name", shorten(given or task.name), text))
                continue
            self._add_names(name, addresses)
        if options.has_reverse and mangled:
            name = f"{mangled}.{self._framework}.{options.domain}"
            if is_name(name):
                free = (address for address in addresses if address not in self._taken)
                self.records += [Record(reverse_name(address), "PTR", name) for address in free]
        self.records = [record for record in self.records if is_name(record.name)]

    def _add_names(self, name: str, addresses: Sequence[str]) -> None:
        task, framework, domain = self._task, self._framework, self._options.domain
        mark = f"-{hash5(task.id)}-{agent_tail(task.slave_id)}"
        above, dot, last = name.rpartition(".")
        canonical = f"{above}{dot}{last[: max(1, MAX_LABEL - len(mark))].rstrip('-')}{mark}"
        for one in (name, canonical):
            self._add_addresses(f"{one}.{framework}.{domain}", addresses)
            self._add_addresses(f"{one}.{framework}.slave.{domain}", self._agent)
        on_agent = f"{canonical}.{framework}.slave.{domain}"
        for port in task.ports:
            for protocol in ("tcp", "udp"):
                if not task.discovery_name:
                    self._add_service(f"_{name}._{protocol}.{framework}.{domain}", on_agent, port)
                self._add_service(f"_{name}._{protocol}.{framework}.slave.{domain}", on_agent, port)
        for given in task.discovery_ports if task.discovery_name else ():
            own = f"{canonical}.{framework}.{domain}"
            label = mangle_label(given.name or "", is_rfc952=self._options.is_rfc952)
            spoken = mangle_label(given.protocol or "", is_rfc952=self._options.is_rfc952)
            for protocol in (spoken,) if spoken else ("tcp", "udp"):
                service = f"_{name}._{protocol}.{framework}.{domain}"
                self._add_service(service, own, given.number)
                if label:
                    self._add_service(f"_{label}.{service}", own, given.number)

    def _add_addresses(self, name: str, addresses: Sequence[str]) -> None:
        self.records += [address_record(name, address) for address in addresses]

    def _add_service(self, name: str, target: str, port: int) -> None:
        if is_name(target):
            self.records.append(Record(name, "SRV", target, port))
