"""The row of the CNI plug-in: how long ADD takes, one at a time and many at once, where that goes, and what is left."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from felix.datastore.etcd import EtcdClient
from felix.datastore.types import PutOp
from felix.ipam.block import parse_block
from felix.lab.documents import key_of, resource
from felix.model.keys import HANDLES, BlockKey, parse_key
from tests.bench import arena as arenas
from tests.bench import world
from tests.bench.arena import Agent
from tests.bench.figures import Figure, quantile, summarize
from tests.bench.world import Sizes
from tools.launchers import ROOT

_PLUGIN = ROOT / ".venv" / "bin" / "felix-cni"
_POOLS = (("v4", "10.80.0.0/16"), ("v6", "fd00:80::/64"))
_ALONE = 120
_AT_ONCE = 20
_ROUNDS = 5
_FLOORS = 30
_PAUSE_S = 0.01
_STEPS = ("allocate", "veth", "enforce")
_GOAL_MS, _PYTHON_GOAL_MS = 60.0, 25.0
_METRIC = "felix_attach_seconds"


@dataclass(frozen=True, slots=True)
class _Box:
    """A container: its id, and the process whose network namespace it lives in."""

    name: str
    holder: int


class _Runtime:
    """Calls the plug-in as a runtime does, for one network of both families."""

    def __init__(self, directory: Path) -> None:
        conf = {
            "cniVersion": "1.0.0",
            "name": "net1",
            "type": "felix-cni",
            "agent_socket": str(directory / "run" / "felix.sock"),
            "ipam": {"type": "felix-ipam", "assign_ipv4": True, "assign_ipv6": True},
        }
        self._conf = json.dumps(conf).encode()

    def call(self, command: str, box: _Box) -> float:
        """Returns the seconds from before the process starts until it has ended; its success is required."""
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": box.name,
            "CNI_NETNS": f"/proc/{box.holder}/ns/net",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(_PLUGIN.parent),
        }
        began_at = time.perf_counter()
        done = subprocess.run([_PLUGIN], env=environment, input=self._conf, capture_output=True, check=False)
        took_s = time.perf_counter() - began_at
        assert done.returncode == 0, f"{command} of {box.name}: {done.stdout.decode()} {done.stderr.decode()}"
        return took_s


class _Steps:
    """The milliseconds that the agent spent on attaching, by step, since this was made: means, as its metrics have."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._sums, self._counts = self._read()

    def means(self) -> dict[str, float]:
        sums, counts = self._read()
        return {
            labels.partition('"')[2].partition('"')[0]: 1000
            * (value - self._sums.get(labels, 0.0))
            / (counts[labels] - self._counts.get(labels, 0.0))
            for labels, value in sums.items()
        }

    def _read(self) -> tuple[dict[str, float], dict[str, float]]:
        return self._agent.read_samples(f"{_METRIC}_sum"), self._agent.read_samples(f"{_METRIC}_count")


async def run(sizes: Sizes, changes: int, say: Callable[[str], None], *, is_on_disk: bool) -> list[Figure]:
    """Returns the figures of a host that has as many other endpoints as `sizes` says."""
    async with arenas.opened(sizes.local, is_on_disk=is_on_disk) as arena:
        await arena.store(world.documents(replace(sizes, remote=0, spare=0)))
        await arena.store(_pools())
        agent = await arena.start_agent()
        await asyncio.sleep(3.0)  # the status of every endpoint is written after a start
        holders = [arena.hold_namespace() for _ in range(_AT_ONCE + 1)]
        runtime = _Runtime(arena.directory)
        resident = _Box("resident", holders.pop())  # a network whose first container comes costs its chains, once
        await asyncio.to_thread(runtime.call, "ADD", resident)
        steps = _Steps(agent)
        alone_s, deletions_s = await asyncio.to_thread(_time_alone, runtime, holders, changes)
        alone_steps, steps = steps.means(), _Steps(agent)
        together_s = await asyncio.to_thread(_time_together, runtime, holders)
        together_steps = steps.means()
        await asyncio.to_thread(runtime.call, "DEL", resident)
        left = await _count_left(arena.client, sizes.local)
        floors = await asyncio.to_thread(_time_floors, holders)
        floors["store"] = await _time_store(arena.client)
    say(f"{len(alone_s)} ADDs alone, p50 {_p50_ms(alone_s):.1f} ms; {len(together_s)} of {_AT_ONCE} at once")
    return _figures(sizes, (alone_s, deletions_s, together_s), (alone_steps, together_steps), floors, left)


def _pools() -> Iterator[tuple[str, bytes]]:
    documents = [resource("IPPool", name, {"cidr": cidr}) for name, cidr in _POOLS]
    documents.append(resource("Node", world.HOST, {"bgp": {"ipv4Address": "192.0.2.1/24"}}))
    for document in documents:
        yield key_of(document), json.dumps(document).encode()


def _time_alone(runtime: _Runtime, holders: Sequence[int], changes: int) -> tuple[list[float], list[float]]:
    """Returns the seconds of each ADD and each DEL, one at a time."""
    added, deleted = [], []
    for number in range(min(changes, _ALONE)):
        box = _Box(f"alone{number}", holders[number % len(holders)])
        added.append(runtime.call("ADD", box))
        time.sleep(_PAUSE_S)
        deleted.append(runtime.call("DEL", box))
        time.sleep(_PAUSE_S)
    return added, deleted


def _time_together(runtime: _Runtime, holders: Sequence[int]) -> list[float]:
    """Returns the seconds of each ADD of several rounds, all of a round at once."""
    seen: list[float] = []
    with ThreadPoolExecutor(len(holders)) as pool:
        for number in range(_ROUNDS):
            boxes = [_Box(f"together{number}-{holder}", holder) for holder in holders]
            seen += pool.map(lambda box: runtime.call("ADD", box), boxes)
            list(pool.map(lambda box: runtime.call("DEL", box), boxes))
            time.sleep(10 * _PAUSE_S)
    return seen


async def _count_left(client: EtcdClient, local: int) -> dict[str, float]:
    """Returns how much etcd and kernel have of containers, though none is there."""
    pairs, _ = await client.list_prefix("/calico/")
    own = {f"cali{number}" for number in range(local)}
    names = [line.split()[1].partition("@")[0] for line in _ask("ip", "-o", "link").splitlines()]
    routes = [line for family in ("-4", "-6") for line in _ask("ip", family, "route").splitlines()]
    blocks = [parse_block(key.block, pair.value) for pair in pairs if isinstance(key := parse_key(pair.key), BlockKey)]
    return {
        "addresses": float(sum(len(list(block.held())) for block in blocks if hasattr(block, "held"))),
        "handles": float(sum(pair.key.startswith(HANDLES) for pair in pairs)),
        "endpoints": float(sum("/workloadendpoints/" in pair.key for pair in pairs) - local),
        "links": float(sum(_is_of_container([name], own) for name in names)),
        "routes": float(sum(_is_of_container(line.split(), own) for line in routes)),
    }


def _is_of_container(route: Sequence[str], others: Set[str]) -> bool:
    return any(word.startswith("cali") and word not in others for word in route)


def _time_floors(holders: Sequence[int]) -> dict[str, list[float]]:
    """Returns the seconds of an interpreter that does nothing, and of `ip -batch` making what a container needs."""
    python = _PLUGIN.read_text().partition("\n")[0].removeprefix("#!").split()
    starts, veths = [], []
    for number in range(_FLOORS):
        began_at = time.perf_counter()
        subprocess.run([*python, "-c", "pass"], env={}, check=True)
        starts.append(time.perf_counter() - began_at)
        time.sleep(_PAUSE_S)
        holder, name, address = holders[number % len(holders)], f"floor{number}", f"10.81.0.{number}"
        outside = [
            f"link add {name} address ee:ee:ee:ee:ee:ee type veth peer name eth0 netns {holder}",
            f"link set {name} up",
            f"route add {address}/32 dev {name} proto 80",
            f"-6 route add fd00:81::{number}/128 dev {name} proto 80",
        ]
        inside = [
            "link set lo up",
            "link set eth0 up",
            f"addr add {address}/32 dev eth0",
            f"addr add fd00:81::{number}/128 dev eth0 nodad",
            "route add 169.254.1.1 dev eth0 scope link",
            "route add default via 169.254.1.1 dev eth0",
            "neigh replace 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent",
        ]
        began_at = time.perf_counter()
        arenas.run_batch(outside)
        _ask("nsenter", "-t", str(holder), "-n", "ip", "-batch", "-", text="\n".join(inside))
        veths.append(time.perf_counter() - began_at)
        arenas.run_batch([f"link delete {name}"])
        time.sleep(_PAUSE_S)
    return {"python": starts, "ip_batch": veths}


async def _time_store(client: EtcdClient) -> list[float]:
    """Returns the seconds of one transaction that writes as many keys as an attach does."""
    seen = []
    for number in range(_FLOORS):
        writes = [PutOp(f"/bench/{part}/{number}", b"x" * size) for part, size in enumerate((4000, 4000, 100, 1000))]
        began_at = time.perf_counter()
        await client.txn((), writes)
        seen.append(time.perf_counter() - began_at)
        await asyncio.sleep(_PAUSE_S)
    return seen


def _figures(
    sizes: Sizes,
    seen: tuple[Sequence[float], Sequence[float], Sequence[float]],
    steps: tuple[Mapping[str, float], Mapping[str, float]],
    floors: Mapping[str, Sequence[float]],
    left: Mapping[str, float],
) -> list[Figure]:
    alone_s, deletions_s, together_s = seen
    least = {name: 1000 * statistics.median(times_s) for name, times_s in floors.items()}
    alone, together = summarize(alone_s), summarize(together_s)
    where = f"{sizes.local} other endpoints"
    floor_text = "floor: an interpreter that does nothing, one transaction, and ip -batch making interface and routes"
    split = _split(alone_s, steps[0], least["python"])
    crowd = _split(together_s, steps[1], least["python"])
    goals = sum(least.values())
    return [
        Figure("cni", f"CNI ADD, {where}, p50", "ms", alone.pop("p50_ms"), _GOAL_MS, goals, floor_text, split),
        Figure("cni", "CNI ADD, p99", "ms", alone.pop("p99_ms"), detail={**alone, "del_p50_ms": _p50_ms(deletions_s)}),
        Figure("cni", "… of which the interpreter's start, p50", "ms", least["python"], _PYTHON_GOAL_MS, detail=least),
        Figure("cni", f"CNI ADD, {_AT_ONCE} at once, p50", "ms", together.pop("p50_ms"), detail=crowd),
        Figure("cni", f"CNI ADD, {_AT_ONCE} at once, p99", "ms", together.pop("p99_ms"), detail=together),
        Figure("cni", "left of all containers afterwards", "", sum(left.values()), 0.0, detail=left),
    ]


def _split(times_s: Sequence[float], steps: Mapping[str, float], python_ms: float) -> dict[str, float]:
    """Returns the mean of all, of the agent's steps and its rest, and what remains beside an interpreter's start."""
    mean_ms = 1000 * statistics.fmean(times_s)
    named = {f"{step}_ms": steps[step] for step in _STEPS}
    rest_ms = steps["total"] - sum(named.values())
    plugin_ms = mean_ms - python_ms - steps["total"]
    return {"mean_ms": mean_ms, "python_ms": python_ms, "plugin_ms": plugin_ms, **named, "agent_rest_ms": rest_ms}


def _p50_ms(times_s: Sequence[float]) -> float:
    return 1000 * quantile(times_s, 0.5)


def _ask(*command: str, text: str = "") -> str:
    return subprocess.run(command, input=text, text=True, check=True, capture_output=True).stdout
