"""Making and removing container interfaces in the kernel.

Whatever happens inside a container's namespace happens in a thread that was made for it and ends there: a namespace
belongs to a thread, so neither the caller's thread nor one of a pool is ever in the wrong one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from types import TracebackType
from typing import TypeVar

from felix.attach.render import (
    LOOPBACK_INDEX,
    STANDBY_METRIC,
    VETH,
    LinkFacts,
    RouteSpec,
    is_pair,
    parse_address,
    parse_link,
    parse_nsid,
    parse_route,
    plan_routes,
    render_address,
    render_address_dump,
    render_address_removal,
    render_creation,
    render_link_question,
    render_link_removal,
    render_link_up,
    render_namespace_question,
    render_neighbour,
    render_route,
    render_route_dump,
)
from felix.attach.veth import NoNamespace, Taken, Veth, VethSpec, find_problem, format_mac, pack_mac
from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import NETLINK_ROUTE, Refusal, parse_messages
from felix.errors import DataError, EnvironmentFault, FelixError, KernelRefused
from felix.model.net import Net

T = TypeVar("T")

_BUFFER_BYTES = 1 << 18  # a container has a handful of addresses and routes
_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703
_ATTEMPTS = 3  # a name can be taken and given up by others while we look
_SYSCTL_ROOT = "/proc/sys"
_IPV6_ROOT = f"{_SYSCTL_ROOT}/net/ipv6"
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A container's network namespace, held open until `close`; a context.

    The kernel keeps a held namespace even when its last process ends and its path vanishes.
    name: as it was given, for texts. inode: the namespace's number, never that of another one while this is open.
    fd: the open descriptor.
    """

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        self.inode = os.fstat(fd).st_ino

    def close(self) -> None:
        """The namespace is no longer held; it may be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_namespace(path: str, pid: int = 0) -> Namespace:
    """Returns the namespace at `path`, or, when that is empty, that of process `pid`.

    Raises NoNamespace when it is missing, is not a network namespace, or is the calling thread's own.
    """
    if not path and pid <= 0:
        raise NoNamespace("no network namespace given; give the path of one, or the id of a process in it")
    name = path or f"/proc/{pid}/ns/net"
    fd = -1
    try:
        if not stat.S_ISREG(os.stat(name).st_mode):  # opening a device or a pipe could do something
            raise NoNamespace(f"{name} is no network namespace but another kind of file")
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if fcntl.ioctl(fd, _NS_GET_NSTYPE) != _CLONE_NEWNET:
            raise NoNamespace(f"{name} is a namespace, but not of the network")
        if os.path.samestat(os.fstat(fd), os.stat("/proc/thread-self/ns/net")):
            raise NoNamespace(f"{name} is the host's own network namespace; a container needs one of its own")
        namespace = Namespace(name, fd)
        fd = -1
    except OSError as error:
        raise NoNamespace(_why_no_namespace(name, path, pid, error)) from error
    except ValueError as error:  # a zero byte in the path
        raise NoNamespace(f"{name!r} cannot be a path: {error}") from error
    finally:
        if fd >= 0:
            os.close(fd)
    return namespace


def apply_veth(namespace: Namespace, spec: VethSpec) -> Veth:
    """The container has the interface, up, with addresses, routes and neighbours, and its lo is up.

    Idempotent: an interface inside whose other end is our host end is completed (and loses host addresses that are not
    in `spec`). A veth of the host end's name that leads elsewhere is replaced: the name is computed from the container
    and its interface, so it is what an earlier life of the same container left.
    Where another interface has the container's default route, that one stays the first choice, ours stands behind it.
    Works in the calling thread's namespace, blocks for a few milliseconds, for a worker thread; its namespace never
    changes. Raises DataError (the spec cannot be made), Taken (another interface has one of the names), KernelRefused,
    PeerError, EnvironmentFault (a permission). What this call made is gone again then (lo stays up); an interface that
    was there before stays.
    """
    problem = find_problem(spec)
    if problem is not None:
        raise DataError(f"interface of {namespace.name}: {problem}")
    with closing(open_route_socket()) as outside:
        is_new = _create(outside, namespace, spec)
        is_complete = False
        try:
            host = _complete_host_end(outside, spec, is_new)
            inside = call_inside(namespace, lambda: _complete_inside(namespace, spec, is_new))
            is_complete = True
        finally:
            if is_new and not is_complete:
                with contextlib.suppress(FelixError):  # the first failure is the one to tell
                    _remove(outside, spec.host_end)
    return Veth(host.index, inside.index, format_mac(inside.mac), inside.mtu, is_new)


def remove_veth(host_end: str) -> bool:
    """There is no such veth any more, at both ends; returns whether there was. May be repeated.

    Blocks for tens of milliseconds: the kernel waits for its readers. Raises Taken when the interface is no veth,
    KernelRefused when the kernel refuses.
    """
    with closing(open_route_socket()) as outside:
        return _remove(outside, host_end)


def call_inside(namespace: Namespace, function: Callable[[], T]) -> T:
    """Returns what `function` returns, or raises what it raises, in a thread of its own inside the namespace."""

    def enter_and_call() -> T:
        if _libc.setns(namespace.fd, _CLONE_NEWNET) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise EnvironmentFault(f"cannot enter network namespace {namespace.name}: {reason}; run as root")
        return function()

    with ThreadPoolExecutor(1, f"inside {namespace.inode}") as thread:
        return thread.submit(enter_and_call).result()


def open_route_socket() -> NetlinkSocket:
    """Returns a route socket of the calling thread's namespace, with buffers for the answers about one interface.

    Raises EnvironmentFault when the process may not have another socket.
    """
    try:
        return NetlinkSocket(NETLINK_ROUTE, _BUFFER_BYTES)
    except OSError as error:
        raise EnvironmentFault(f"cannot open a netlink socket: {error.strerror}") from error


def find_link(netlink: NetlinkSocket, name: str) -> LinkFacts | None:
    """Returns the interface of that name in the socket's namespace. Raises KernelRefused, PeerError."""
    answer = netlink.get(render_link_question(name))
    if not isinstance(answer, Refusal):
        return parse_link(answer)
    if answer in (errno.ENODEV, errno.ERANGE):  # ERANGE: a name of more than 15 characters
        return None
    raise _refused(f"reading interface {name}", answer)


def is_veth_of(outside: NetlinkSocket, namespace: Namespace, host: LinkFacts, inside: LinkFacts) -> bool:
    """Whether `inside`, of that namespace, is the other end of `host`."""
    answer = outside.get(render_namespace_question(namespace.fd))
    if isinstance(answer, Refusal):
        raise _refused(f"asking for network namespace {namespace.name}", answer)
    return is_pair(host, inside, parse_nsid(answer))


def _create(outside: NetlinkSocket, namespace: Namespace, spec: VethSpec) -> bool:
    """Both ends exist; returns False when they did before."""
    creation = render_creation(spec, namespace.fd)
    for _ in range(_ATTEMPTS):
        (refusal,) = outside.transact([creation])
        if refusal is None:
            return True
        if refusal != errno.EEXIST:
            raise _refused(f"creating interface {spec.host_end} with {spec.interface} in {namespace.name}", refusal)
        inside = call_inside(namespace, lambda: _find_link_here(spec.interface))
        host = find_link(outside, spec.host_end)
        if inside is not None:
            if host is not None and is_veth_of(outside, namespace, host, inside):
                return False
            raise Taken(
                f"interface {spec.interface} exists already in network namespace {namespace.name}: "
                f"{_describe(inside)}, whose other end is not {spec.host_end}; "
                "detach the container from its other network, or ask for another name"
            )
        if host is not None:
            _remove(outside, spec.host_end)
    raise KernelRefused(f"interface {spec.host_end}: others kept taking its name while it was being made; try again")


def _complete_host_end(outside: NetlinkSocket, spec: VethSpec, is_new: bool) -> LinkFacts:
    """The host end is up and will have its link-local address, the container's gateway, as soon as it has a carrier."""
    if spec.has_ipv6:
        conf = f"{_IPV6_ROOT}/conf/{spec.host_end}"
        # The agent sets these too when it has seen the interface; by then duplicate detection could have begun.
        _mend({f"{conf}/disable_ipv6": "0", f"{conf}/addr_gen_mode": "0", f"{conf}/accept_dad": "0"})
    host = find_link(outside, spec.host_end)
    if host is None:
        raise KernelRefused(f"interface {spec.host_end} vanished while it was being set up; try again")
    if not is_new:
        mac = spec.host_mac if pack_mac(spec.host_mac) != host.mac else ""
        mtu = spec.mtu if spec.mtu != host.mtu else 0
        _transact(outside, f"interface {spec.host_end}", [("its state", render_link_up(host.index, mac, mtu))])
    return host


def _complete_inside(namespace: Namespace, spec: VethSpec, is_new: bool) -> LinkFacts:
    """In a thread inside: the container's end has all of `spec`."""
    subject = f"interface {spec.interface} in network namespace {namespace.name}"
    with closing(open_route_socket()) as netlink:
        link = find_link(netlink, spec.interface)
        if link is None:
            raise KernelRefused(f"{subject} vanished while it was being set up; try again")
        _mend(_settings(spec))
        mac = spec.mac if spec.mac and pack_mac(spec.mac) != link.mac else ""
        mtu = spec.mtu if spec.mtu != link.mtu else 0
        steps = [
            ("lo", render_link_up(LOOPBACK_INDEX)),
            ("its state", render_link_up(link.index, mac, mtu)),
        ]
        if not is_new:
            stale = _read_addresses(netlink, link.index) - set(spec.addresses)
            steps += [(f"address {one}", render_address_removal(link.index, one)) for one in sorted(stale)]
        steps += [(f"address {one}", render_address(link.index, one)) for one in spec.addresses]
        steps += [
            (f"neighbour {one.address}", render_neighbour(link.index, one, spec.host_mac)) for one in spec.gateways
        ]
        routes = plan_routes(spec)
        wanted = steps + [(f"route by {route.gateway or 'link'}", render_route(link.index, route)) for route in routes]
        answers = _transact(netlink, subject, wanted, tolerated_from=len(steps))
        refused = [route for route, answer in zip(routes, answers[len(steps) :], strict=True) if answer is not None]
        if refused:
            present = _read_routes(netlink, link.index, {one.version for one in refused})
            standby = [replace(one, metric=STANDBY_METRIC + link.index) for one in refused if one not in present]
            _transact(netlink, subject, [("a route", render_route(link.index, one)) for one in standby])
        return replace(link, mac=pack_mac(mac) if mac else link.mac, mtu=mtu or link.mtu)


def _settings(spec: VethSpec) -> dict[str, str]:
    """Returns the values under /proc/sys that the container's namespace needs, by path.

    A runtime may have switched IPv6 off in the namespace (`all.disable_ipv6`, which new interfaces inherit): it is
    switched on where the container has an address, and stays off elsewhere. ip_forward is written even when it is not
    wanted, for a new namespace takes it over from the host, which forwards.
    """
    forwarding = str(int(spec.forwarding))
    settings = {f"{_SYSCTL_ROOT}/net/ipv4/ip_forward": forwarding}
    if spec.has_ipv6:
        conf = f"{_IPV6_ROOT}/conf"
        settings[f"{conf}/lo/disable_ipv6"] = "0"
        settings[f"{conf}/{spec.interface}/disable_ipv6"] = "0"
        settings[f"{conf}/{spec.interface}/accept_dad"] = "0"
        settings[f"{conf}/all/forwarding"] = forwarding
    return settings


def _mend(value_by_path: dict[str, str]) -> None:
    """The files have those values, of the calling thread's namespace; only what is not right is written."""
    for path, value in value_by_path.items():
        try:
            with open(path, "rb", buffering=0) as file:
                if file.read(64).strip() == value.encode():
                    continue
            with open(path, "wb", buffering=0) as file:
                file.write(value.encode())
        except OSError as error:
            remedy = "has this kernel IPv6?" if error.errno == errno.ENOENT else "mount /proc/sys writable, run as root"
            raise EnvironmentFault(f"cannot set {path} to {value}: {error.strerror}; {remedy}") from error


def _transact(
    netlink: NetlinkSocket, subject: str, steps: list[tuple[str, bytes]], tolerated_from: int | None = None
) -> list[Refusal | None]:
    """All steps are done; raises KernelRefused for the first that is not. From that index EEXIST is only reported."""
    answers = netlink.transact([request for _, request in steps])
    for position, ((step, _), answer) in enumerate(zip(steps, answers, strict=True)):
        is_tolerated = tolerated_from is not None and position >= tolerated_from and answer == errno.EEXIST
        if answer is not None and not is_tolerated:
            raise _refused(f"{subject}: setting {step}", answer)
    return answers


def _read_addresses(netlink: NetlinkSocket, index: int) -> set[Net]:
    found: set[Net] = set()
    for datagram in netlink.dump(render_address_dump(index)):
        found |= {net for one in parse_messages(datagram) if (net := parse_address(one, index)) is not None}
    return found


def _read_routes(netlink: NetlinkSocket, index: int, versions: set[int]) -> list[RouteSpec]:
    return [
        route
        for version in sorted(versions)
        for datagram in netlink.dump(render_route_dump(index, version))
        for one in parse_messages(datagram)
        if (route := parse_route(one, index)) is not None
    ]


def _find_link_here(name: str) -> LinkFacts | None:
    with closing(open_route_socket()) as netlink:
        return find_link(netlink, name)


def _remove(outside: NetlinkSocket, host_end: str) -> bool:
    link = find_link(outside, host_end)
    if link is None:
        return False
    if link.kind != VETH or link.name != host_end:  # a question for a name also finds alternative names
        raise Taken(f"interface {host_end} is {_describe(link)}, not a container's; it stays, remove it by hand")
    (refusal,) = outside.transact([render_link_removal(link.index)])
    if refusal is not None and refusal != errno.ENODEV:
        raise _refused(f"removing interface {host_end}", refusal)
    return refusal is None


def _describe(link: LinkFacts) -> str:
    kind = link.kind or "a device without kind"
    return f"{kind} {link.name}, number {link.index}, address {format_mac(link.mac) or 'none'}"


def _refused(act: str, refusal: Refusal) -> FelixError:
    text = f"{act}: {os.strerror(refusal)}" + (f" ({refusal.text})" if refusal.text else "")
    return EnvironmentFault(f"{text}; run as root") if refusal == errno.EPERM else KernelRefused(text)


def _why_no_namespace(name: str, path: str, pid: int, error: OSError) -> str:
    if error.errno == errno.ENOTTY:
        return f"{name} is a file, but no namespace (where this agent runs, nothing is mounted on it)"
    if not path and error.errno in (errno.ENOENT, errno.ESRCH):
        return f"process {pid} does not exist (any more), so it has no network namespace"
    if error.errno == errno.ENOENT:
        return f"network namespace {path} does not exist"
    return f"{name} cannot be opened as network namespace: {error.strerror}"
