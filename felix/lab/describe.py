"""What there is of a lab, for people and programs. Shell."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from felix.lab.host import Host
from felix.lab.lab import Lab


class HostStatus(msgspec.Struct, frozen=True):
    """One virtual host, as `felix lab status` prints it."""

    name: str
    ipv4: str
    ipv6: str
    blocks: list[str]
    agent: bool
    ready: bool
    bird: bool
    directory: str


class WorkloadStatus(msgspec.Struct, frozen=True):
    """One workload, as `felix lab status` prints it."""

    name: str
    host: str
    ipv4: str
    ipv6: str
    interface: str


class LabStatus(msgspec.Struct, frozen=True):
    """A whole lab, as `felix lab status -o json` prints it."""

    name: str
    etcd: str
    etcd_socket: str
    hosts: list[HostStatus]
    workloads: list[WorkloadStatus]


def describe(lab: Lab) -> LabStatus:
    """Returns what there is of a lab now."""
    return LabStatus(
        name=lab.name,
        etcd=lab.etcd_endpoint,
        etcd_socket=str(lab.store.socket_path),
        hosts=[_describe_host(host) for host in lab.hosts],
        workloads=[
            WorkloadStatus(name=one.name, host=one.record.host, ipv4=one.ipv4, ipv6=one.ipv6, interface=one.interface)
            for one in lab.workloads.values()
        ],
    )


def _describe_host(host: Host) -> HostStatus:
    ready = host.is_agent_ready()  # of one that somebody started by hand, too
    return HostStatus(
        name=host.name,
        ipv4=host.ipv4,
        ipv6=host.ipv6,
        blocks=[str(host.addresses.block_v4), str(host.addresses.block_v6)],
        agent=ready or host.is_running("agent"),
        ready=ready,
        bird=host.is_running("bird"),
        directory=str(host.directory),
    )


def print_status(status: LabStatus) -> None:
    """Standard output has tables of hosts and workloads."""
    print(f"lab {status.name}, etcd {status.etcd} on the fabric\n")
    hosts = [
        (host.name, host.ipv4, host.ipv6, ", ".join(host.blocks), _agent_word(host), "runs" if host.bird else "-")
        for host in status.hosts
    ]
    _print_table(("HOST", "IPV4", "IPV6", "BLOCKS", "AGENT", "BIRD"), hosts)
    if status.workloads:
        print()
        rows = [(one.name, one.host, one.ipv4, one.ipv6, one.interface) for one in status.workloads]
        _print_table(("WORKLOAD", "HOST", "IPV4", "IPV6", "INTERFACE"), rows)


def _agent_word(host: HostStatus) -> str:
    if not host.agent:
        return "-"
    return "ready" if host.ready else "not ready"


def _print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
