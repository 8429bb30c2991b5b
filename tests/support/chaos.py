"""Containers that a runtime attaches and detaches with real plug-in processes, while everything around them breaks."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import threading
import time
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from felix.errors import FelixError
from felix.lab.host import Host
from felix.lab.lab import Lab
from felix.lab.names import ETCD_PORT, FABRIC_ADDRESS_V4
from felix.lab.place import Place
from tests.support.cni import Runtime
from tests.support.relay import Relay

_GIVE_UP_S = 60.0  # a runtime asks for DEL until it succeeds; longer than all troubles together
_TROUBLES = 20
_CONF = {"ipam": {"type": "felix-ipam", "assign_ipv4": True, "assign_ipv6": True}, "agent_timeout": 4}


class Registry:
    """Which container has which address, as far as plug-ins have answered.

    complaints: what should not have been. count_by_name: how often what happened, of all containers.
    """

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.count_by_name: dict[str, int] = {}
        self._lock = threading.Lock()
        self._holder_by_address: dict[str, str] = {}

    def take(self, container: str, addresses: Iterable[str]) -> None:
        """An answer says that the container has these addresses."""
        with self._lock:
            for address in addresses:
                other = self._holder_by_address.setdefault(address, container)
                if other != container:
                    self.complaints.append(f"{address} was given to {container} while {other} had it")

    def leave(self, container: str) -> None:
        """Somebody begins to detach the container: from now on its addresses may be another's."""
        with self._lock:
            for address in [one for one, holder in self._holder_by_address.items() if holder == container]:
                del self._holder_by_address[address]

    def complain(self, text: str) -> None:
        with self._lock:
            self.complaints.append(text)

    def note(self, name: str) -> None:
        with self._lock:
            self.count_by_name[name] = self.count_by_name.get(name, 0) + 1

    def addresses(self) -> dict[str, str]:
        """Returns the container of each address."""
        with self._lock:
            return dict(self._holder_by_address)


@dataclass
class Outcome:
    """How a plug-in process ended. code: None when it was killed. document: what it printed."""

    code: int | None
    document: dict[str, Any]
    text: str

    @property
    def addresses(self) -> list[str]:
        return [str(one["address"]).partition("/")[0] for one in self.document.get("ips", [])]


class Container:
    """One container and the runtime's thread for it. chance: of this container alone, so that a seed says all."""

    def __init__(self, host: Host, place: Place, folder: str, registry: Registry, chance: random.Random) -> None:
        self.name = place.name
        self.place = place
        self.result: dict[str, Any] = {}
        self._registry = registry
        self._chance = chance
        prefix = ("nsenter", f"--net=/run/netns/{host.namespace}", "--")
        self._runtime = Runtime(
            (folder,),
            netns=f"/run/netns/{place.namespace}",
            socket=str(host.rundir / "felix.sock"),
            prefix=prefix,
            container=place.name,
        )

    @property
    def addresses(self) -> list[str]:
        """What its last successful ADD answered."""
        return [str(one["address"]).partition("/")[0] for one in self.result.get("ips", [])]

    def live(self) -> None:
        """The container came, stayed for a moment, and went; perhaps more than once."""
        for _ in range(self._chance.choice((1, 1, 2))):
            self.start()
            time.sleep(self._chance.uniform(0, 0.1))
            self.stop()

    def start(self) -> None:
        """The container is attached. After every ADD that did not succeed comes DEL, until that succeeds."""
        deadline = time.monotonic() + _GIVE_UP_S
        trouble = 0.5
        while True:
            outcome = self._add(trouble)
            if outcome is not None:
                self._registry.take(self.name, outcome.addresses)
                self.result = outcome.document
                if len(outcome.addresses) != 2:
                    self._registry.complain(f"{self.name} got {outcome.addresses}")
                if self._chance.random() < 0.1:
                    again = self._call("ADD")  # refused; but told again to a plug-in that asked two agents
                    if again.code == 0 and again.addresses != outcome.addresses:
                        self._registry.complain(f"a second ADD of {self.name} had another answer: {again.text}")
                return
            self.stop()
            trouble /= 2
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} cannot be attached within {_GIVE_UP_S:g} s")

    def stop(self) -> None:
        """DEL has succeeded, after all kinds of DEL that did not, and at times more than once."""
        self._registry.leave(self.name)
        self.result = {}
        if self._chance.random() < 0.15:
            self._call("DEL", self._chance.uniform(0, 0.08))
        beside = self._spawn("DEL") if self._chance.random() < 0.1 else None
        self._delete()
        if beside is not None:
            self._end(beside, "DEL beside DEL")
        if self._chance.random() < 0.15:
            self._registry.note("DEL again")
            self._delete()

    def check(self) -> Outcome:
        """Returns how CHECK ends."""
        return self._call("CHECK", prev=self.result)

    def _add(self, trouble: float) -> Outcome | None:
        """Returns ADD's answer, if it can be believed: nobody asked for DEL meanwhile."""
        chance = self._chance.random()
        if chance < 0.6 * trouble:
            outcome = self._call("ADD", self._chance.uniform(0, 0.15))
            self._registry.note("ADD killed" if outcome.code is None else "ADD done before the kill")
        elif chance < trouble:
            process = self._spawn("ADD")
            time.sleep(self._chance.uniform(0, 0.1))
            self._call("DEL")
            self._end(process, "ADD beside DEL")
            self._registry.note("ADD beside DEL")
            return None
        else:
            outcome = self._call("ADD")
            self._registry.note("ADD done" if outcome.code == 0 else "ADD failed")
        return outcome if outcome.code == 0 else None

    def _delete(self) -> None:
        deadline = time.monotonic() + _GIVE_UP_S
        while (outcome := self._call("DEL")).code != 0:
            self._registry.note("DEL failed")
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} cannot be detached within {_GIVE_UP_S:g} s: {outcome.text}")
            time.sleep(0.05)
        self._registry.note("DEL done")

    def _call(
        self, command: str, kill_after_s: float | None = None, prev: Mapping[str, object] | None = None
    ) -> Outcome:
        process = self._spawn(command, prev)
        if kill_after_s is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(kill_after_s)
            process.kill()  # its own process, which is reaped below
        return self._end(process, command)

    def _spawn(self, command: str, prev: Mapping[str, object] | None = None) -> subprocess.Popen[bytes]:
        conf = self._runtime.conf("1.0.0", **_CONF, **({"prevResult": prev} if prev else {}))
        one = self._runtime
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": one.container,
            "CNI_NETNS": one.netns,
            "CNI_IFNAME": one.interface,
            "CNI_PATH": ":".join(one.folders),
        }
        process = subprocess.Popen(
            [*one.prefix, str(one.find("felix-cni"))],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(conf).encode())
        process.stdin.close()
        return process

    def _end(self, process: subprocess.Popen[bytes], what: str) -> Outcome:
        assert process.stdout is not None
        with process.stdout as output:
            text = output.read().decode()
        number = process.wait()
        document = {}
        if number >= 0:
            with suppress(ValueError):
                document = json.loads(text or "{}")
        if "has a defect" in text or "Traceback" in text:
            self._registry.complain(f"{what} of {self.name}: {text}")
        return Outcome(None if number < 0 else number, document, text)


class Cable:
    """One host's way to etcd: a relay on the fabric, in a thread of its own."""

    def __init__(self, lab: Lab) -> None:
        self._loop = asyncio.new_event_loop()
        self._relay = Relay(ETCD_PORT, FABRIC_ADDRESS_V4)
        self._thread = threading.Thread(target=lambda: lab.fabric.call(self._loop.run_forever), name="cable")
        self._thread.start()
        self.mend()

    @property
    def environment(self) -> dict[str, str]:
        """What leads an agent through this cable."""
        return {"FELIX_ETCDENDPOINTS": self._relay.endpoint}

    def mend(self) -> None:
        self._do(self._relay.mend())

    def cut(self) -> None:
        self._do(self._relay.cut())

    def swallow(self) -> None:
        self._loop.call_soon_threadsafe(self._relay.swallow)

    def close(self) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)


class Trouble:
    """Makes one trouble after the other in a thread of its own until `end`. said: which, in order."""

    def __init__(self, lab: Lab, cables: Mapping[str, Cable], chance: random.Random) -> None:
        self.said: list[str] = []
        self.failures: list[BaseException] = []
        self._lab = lab
        self._cables = cables
        self._chance = chance
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trouble")

    def __enter__(self) -> Trouble:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Everything runs and is connected again; no further trouble comes."""
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        acts = [self._kill_agent, self._kill_agent, self._end_agent, self._pause_etcd, self._kill_etcd]
        acts += [self._cut, self._swallow, self._unplug]
        try:
            while len(self.said) < _TROUBLES and not self._is_over.wait(self._chance.uniform(0.2, 0.9)):
                act = self._chance.choice(acts)
                host = self._chance.choice(self._lab.hosts)
                self.said.append(f"{act.__name__.strip('_')} {host.name}")
                act(host)
        except (FelixError, OSError, AssertionError) as failure:
            self.failures.append(failure)

    def _wait(self, most_s: float) -> None:
        self._is_over.wait(self._chance.uniform(0, most_s))

    def _kill_agent(self, host: Host) -> None:
        host.stop_agent(signal.SIGKILL)
        self._wait(0.3)
        host.start_agent(environment=self._cables[host.name].environment)

    def _end_agent(self, host: Host) -> None:
        host.stop_agent(signal.SIGTERM)
        host.start_agent(environment=self._cables[host.name].environment)

    def _pause_etcd(self, _: Host) -> None:
        self._lab.send_etcd_signal(signal.SIGSTOP)
        try:
            self._wait(0.8)
        finally:
            self._lab.send_etcd_signal(signal.SIGCONT)

    def _kill_etcd(self, _: Host) -> None:
        self._lab.stop_etcd(signal.SIGKILL)
        self._wait(0.5)
        self._lab.start_etcd()

    def _cut(self, host: Host) -> None:
        """The host's connections to etcd are reset, and no new one is taken for a while."""
        self._cables[host.name].cut()
        self._wait(0.5)
        self._cables[host.name].mend()

    def _swallow(self, host: Host) -> None:
        """Nothing passes on the host's connections to etcd, and then they are reset."""
        self._cables[host.name].swallow()
        self._wait(0.5)
        self._cables[host.name].cut()
        self._cables[host.name].mend()

    def _unplug(self, host: Host) -> None:
        """Packets between the host and etcd are lost for a while."""
        self._lab.set_link(host, up=False)
        try:
            self._wait(0.5)
        finally:
            self._lab.set_link(host, up=True)
