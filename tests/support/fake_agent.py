"""A small agent for tests of plug-ins: HTTP on a Unix socket, attachments and addresses in memory, faults on demand.

It keeps to the outward behaviour of the agent's API; tests that use it run on the real agent too, under tests/fv.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

Body = dict[str, Any]
Reply = tuple[int, object]
HANG = "hang"
"""As an answer: the request is read, and nothing is ever said."""
DROP = "drop"
"""As an answer: the request is read, and the connection ends."""
DIE = "die"
"""As an answer: the request is done, and the connection ends."""

_POOLS = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "192.168.0.0/16", "fd00::/8")]


class No(Exception):
    """A refusal. status of HTTP, code: the API's word."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.reply: Reply = (status, {"error": text, "code": code})


class FakeAgent:
    """Listens at `path` while the context lasts. requests: what was asked, as (route, body).

    answers: by route, what is said instead of what the memory says: (status, value), raw bytes, HANG, DROP, or a list
    of those of which each is used once.
    """

    def __init__(self, path: Path, *, size: int = 64) -> None:
        self.path = path
        self.requests: list[tuple[str, Body]] = []
        self.answers: dict[str, Any] = {}
        self.holders: dict[str, tuple[str, Mapping[str, str]]] = {}
        """By address: the handle, and the attributes."""
        self.attachments: dict[tuple[str, str, str], Body] = {}
        """By orchestrator, container and interface: the request that made it."""
        self._free = {4: list(_hosts("10.1.0.0/24", size)), 6: list(_hosts("fd00:10::/120", size))}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> FakeAgent:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(5)
        self._listener.close()
        self.path.unlink(missing_ok=True)
        for thread in self._threads:
            thread.join(5)

    def asked(self, route: str) -> list[Body]:
        """Returns the bodies that were sent to a route."""
        return [body for asked, body in self.requests if asked == route]

    def held(self, handle: str) -> list[str]:
        """Returns the addresses of a handle."""
        return [address for address, (holder, _) in self.holders.items() if holder == handle]

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            route, body = _read_request(connection)
            with self._lock:
                self.requests.append((route, body))
                said = self.answers.get(route)
                if isinstance(said, list):
                    said = said.pop(0) if said else None
                if said is None:
                    said = self._answer(route, body)
                elif said == DIE:
                    self._answer(route, body)
                    said = DROP
            if said == HANG:
                self._ended.wait()
            elif isinstance(said, bytes):
                connection.sendall(said)
            elif said != DROP:
                content = json.dumps(said[1]).encode()
                head = (
                    f"HTTP/1.0 {said[0]} x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
                )
                connection.sendall(head.encode() + content)

    def _answer(self, route: str, body: Body) -> Reply:
        verbs: dict[str, Callable[[Body], object]] = {
            "/v1/attach": self._attach,
            "/v1/detach": self._detach,
            "/v1/check": self._check,
            "/v1/gc": self._gc,
            "/v1/ready-to-attach": lambda _: {},
            "/v1/status": lambda _: {"host": "h1"},
            "/v1/ipam/allocate": self._allocate,
            "/v1/ipam/release": self._release,
            "/v1/ipam/find": lambda asked: {"addresses": [_net(one) for one in self.held(asked["handle"])]},
        }
        if route not in verbs:
            return 404, {"error": f"no such route: {route}", "code": "not-found"}
        if body.get("node", "h1") != "h1":
            return 400, {"error": f"node: {body['node']!r}: this is host h1", "code": "invalid"}
        try:
            return 200, verbs[route](body)
        except No as error:
            return error.reply

    def _attach(self, body: Body) -> Body:
        key = (body.get("orchestrator", "cni"), body["container"], body.get("interface", "eth0"))
        there = self.attachments.get(key)
        is_new = there is None
        if there is None:
            for address in body.get("given", []):
                for other, attachment in self.attachments.items():
                    if address in attachment["all"]:
                        raise No(409, "conflict", f"{address} is used by container {other[1]}")
            got = self._allocate(
                {
                    "handle": _handle(body),
                    "ipv4": body.get("ipv4", 0),
                    "ipv6": body.get("ipv6", 0),
                    "addresses": body.get("addresses", []),
                }
            )["addresses"]
            there = {"body": _identity(body), "all": [*body.get("given", []), *(one.split("/")[0] for one in got)]}
            handles = {one: self.holders[one][0] for one in there["all"] if one in self.holders}
            self.attachments[key] = there | {"handles": handles}
        elif there["body"] != _identity(body):
            raise No(409, "conflict", f"{key[1]}/{key[2]} is attached already, otherwise")
        return {
            "endpoint": f"default/h1-{key[0]}-{key[1]}-{key[2]}",
            "host_interface": "cali0123456789a",
            "host_mac": "ee:ee:ee:ee:ee:ee",
            "interface": key[2],
            "mac": body.get("mac") or "0a:00:00:00:00:01",
            "mtu": body.get("mtu") or 1500,
            "addresses": [_net(one) for one in there["all"]],
            "gateways": ["169.254.1.1", "fe80::ecee:eeff:feee:eeee"],
            "took_ms": {"allocate": 1.0, "veth": 1.0, "enforce": 1.0},
            "is_new": is_new,
        }

    def _detach(self, body: Body) -> Body:
        key = (body.get("orchestrator", "cni"), body["container"], body.get("interface", "eth0"))
        there = self.attachments.pop(key, None)
        released = []
        if there is not None and body.get("release", True):
            for address, handle in there["handles"].items():
                if address in self.holders and self.holders[address][0] == handle:
                    self._free_again(address)
                    released.append(address)
        return {"was_there": there is not None, "released": released}

    def _check(self, body: Body) -> Body:
        key = (body.get("orchestrator", "cni"), body["container"], body.get("interface", "eth0"))
        there = self.attachments.get(key)
        if there is None:
            raise No(404, "not-found", f"container {body['container']} has no interface {key[2]} of Felix")
        return {"differences": []}

    def _gc(self, body: Body) -> Body:
        valid = {(one["container"], one["interface"]) for one in body["valid"]}
        network, orchestrator = body["network"], body.get("orchestrator", "cni")
        gone = [
            key
            for key, one in self.attachments.items()
            if key[0] == orchestrator and one["body"]["network"] == network and key[1:] not in valid
        ]
        released: list[str] = []
        for orchestrator, container, interface in gone:
            body = {"orchestrator": orchestrator, "container": container, "interface": interface}
            released += self._detach(body)["released"]
        handles = {_handle({"network": network, "container": one, "interface": two}) for one, two in valid}
        strays = {
            handle for handle, _ in self.holders.values() if handle.startswith(f"{network}.") and handle not in handles
        }
        for handle in strays:
            released += self._release({"handle": handle})["released"]
        return {"detached": [f"{key[1]}/{key[2]}" for key in gone], "released": released, "failures": []}

    def _allocate(self, body: Body) -> Body:
        wanted = [str(ipaddress.ip_address(one.split("/")[0])) for one in body.get("addresses", [])]
        for address in wanted:
            if not any(ipaddress.ip_address(address) in pool for pool in _POOLS):
                raise No(400, "invalid", f"{address} is in no enabled pool")
            if address in self.holders:
                raise No(409, "conflict", f"{address} is held by {self.holders[address][0]}")
        counts = {4: body.get("ipv4", 0), 6: body.get("ipv6", 0)}
        free = {version: [one for one in pool if one not in wanted] for version, pool in self._free.items()}
        for version, count in counts.items():
            if count > len(free[version]):
                raise No(409, "exhausted", f"no IPv{version} address is free: {len(self._free[version])} left")
        got = [*wanted, *free[4][: counts[4]], *free[6][: counts[6]]]
        for address in got:
            self.holders[address] = (body["handle"], dict(body.get("attributes", {})))
            for pool in self._free.values():
                if address in pool:
                    pool.remove(address)
        return {"addresses": [_net(one) for one in got]}

    def _release(self, body: Body) -> Body:
        handle, asked = body.get("handle", ""), body.get("addresses")
        released = []
        for address, (holder, attributes) in list(self.holders.items()):
            is_meant = address in asked if asked is not None else bool(handle)
            is_ours = not handle or holder == handle
            if any(address in there["handles"] for there in self.attachments.values()):
                continue  # its detach frees it
            if is_meant and is_ours and body.get("attributes", {}).items() <= attributes.items():
                self._free_again(address)
                released.append(address)
        return {"released": released}

    def _free_again(self, address: str) -> None:
        del self.holders[address]
        self._free[6 if ":" in address else 4].append(address)


def _read_request(connection: socket.socket) -> tuple[str, Body]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise OSError("the request ended early")
        data += piece
    head, _, content = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    length = next((int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:")), 0)
    while len(content) < length:
        content += connection.recv(65536)
    return lines[0].split(" ")[1], json.loads(content) if content else {}


def _identity(body: Body) -> Body:
    return {name: value for name, value in body.items() if name != "deadline_s"}


def _handle(body: Body) -> str:
    interface = body.get("interface", "eth0")
    return (f"{body['network']}.{body['container']}" + ("" if interface == "eth0" else f".{interface}")).lower()


def _net(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"


def _hosts(net: str, size: int) -> Iterator[str]:
    addresses = ipaddress.ip_network(net).hosts()
    return (str(next(addresses)) for _ in range(min(size, 254)))
