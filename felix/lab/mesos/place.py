"""Which agent an application instance goes to, and the task that it becomes there. Pure.

Offers are taken in turn, so that instances spread. One that no offer can hold waits; that is no failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from felix.lab.marathon import Application
from felix.lab.mesos.types import (
    ContainerInfo,
    DiscoveryInfo,
    DiscoveryPort,
    DiscoveryPorts,
    IpAddress,
    NetworkInfo,
    Resources,
    TaskInfo,
    label_records,
)


@dataclass(frozen=True, slots=True)
class Offer:
    """What an agent has left. ports: first and last one that it offers; used: those of them that are taken."""

    host: str
    cpus: float
    mem: float
    ports: tuple[int, int]
    used: frozenset[int] = frozenset()


def place(app: Application, offers: Sequence[Offer], start: int) -> tuple[Offer, tuple[int, ...]] | None:
    """Returns the offer that the instance takes, looking from number `start` on, and its host ports; None: it waits."""
    for turn in range(len(offers)):
        offer = offers[(start + turn) % len(offers)]
        if offer.cpus + 1e-9 < app.program.cpus or offer.mem < app.program.mem:
            continue
        ports = _choose_ports(app, offer)
        if ports is not None:
            return offer, ports
    return None


def make_task(app: Application, task_id: str, ports: Sequence[int], default_network: str = "") -> TaskInfo:
    """Returns the task of an instance as Marathon makes it. ports: those of the host that it got.

    default_network: the CNI network of those that name none.
    """
    container = ContainerInfo()
    if app.has_address:
        info = NetworkInfo((IpAddress(),), app.groups, label_records(dict(app.labels)), app.network or default_network)
        container = ContainerInfo(network_infos=(info,))
    return TaskInfo(
        task_id=task_id,
        name=app.task_name,
        command=app.program.command,
        environment={**_port_variables(ports), **app.program.environment, "MARATHON_APP_ID": f"/{app.path}"},
        resources=Resources(app.program.cpus, app.program.mem, tuple(ports)),
        container=container,
        discovery=_discovery(app),
        source=app.id,
    )


def _choose_ports(app: Application, offer: Offer) -> tuple[int, ...] | None:
    """Returns the host ports; None when the offer lacks one. Without requirePorts, numbers are only a wish."""
    first, last = offer.ports
    taken = set(offer.used)
    chosen: list[int] = []
    for port in app.program.ports:
        number = port.number if app.program.require_ports else 0
        if number == 0:
            # Far from the well-known ones, as most of an agent's offer is.
            number = next((free for free in range(max(first, 31000), last + 1) if free not in taken), 0)
        if number in taken or not first <= number <= last:
            return None
        taken.add(number)
        chosen.append(number)
    return tuple(chosen)


def _port_variables(ports: Sequence[int]) -> dict[str, str]:
    if not ports:
        return {}
    numbered = {f"PORT{index}": str(port) for index, port in enumerate(ports)}
    return {"PORT": str(ports[0]), "PORTS": ",".join(map(str, ports)), **numbered}


def _discovery(app: Application) -> DiscoveryInfo | None:
    if not (app.has_address and app.discovery):
        return None
    ports = tuple(DiscoveryPort(port.number, port.name, port.protocol) for port in app.discovery)
    return DiscoveryInfo(app.task_name, ports=DiscoveryPorts(ports))
