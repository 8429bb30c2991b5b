"""The rows: what is set up, written and timed for each figure."""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import arena as arenas
from tests.bench import churn, cni, floor, world
from tests.bench.arena import Arena
from tests.bench.figures import Figure, quantile, summarize
from tests.bench.observer import Observer, Sign, signs_of_endpoint, signs_of_removal
from tests.bench.world import Endpoint, Sizes

_PAUSE_S = 0.02  # between two timed changes: each is the first after quiet
_SETTLE_S = 3.0  # after a start, the status of every endpoint is written to the store
_SEEN_WITHIN_S = 20.0
_PROBE_RATE = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run and how much. rows: numbers of the table in the product contract, and names of the others.

    changes: timed changes per figure. cold_starts, restarts: how often. idle_s: how long nothing happens.
    """

    rows: frozenset[str]
    sizes: Sizes
    set_members: int = 100_000
    large: int = 4000
    small: int = 100
    changes: int = 200
    cold_starts: int = 3
    restarts: int = 3
    idle_s: float = 60.0
    churn_s: float = 60.0
    profile: Path | None = None
    is_on_disk: bool = False


Say = Callable[[str], None]


async def run(plan: Plan, say: Say, figures: list[Figure]) -> None:
    """The figures of the wanted rows are in `figures`; those measured before something failed are there too."""
    if plan.rows & {"1", "4", "5", "6", "memory", "idle", "churn"}:
        figures += await _run_main(plan, say)
    if "2" in plan.rows:
        figures.append(await _run_growth(plan, say))
    if "3" in plan.rows:
        figures.append(await _run_sets(plan, say))
    if "cni" in plan.rows:
        figures += await cni.run(plan.sizes, plan.changes, say, is_on_disk=plan.is_on_disk)


# --- Rows 1, 4, 5, 6, memory, idle and churn: one world ---


async def _run_main(plan: Plan, say: Say) -> list[Figure]:
    sizes = plan.sizes
    figures: list[Figure] = []
    async with arenas.opened(sizes.local + sizes.spare, plan.profile, is_on_disk=plan.is_on_disk) as arena:
        count = await arena.store(world.documents(sizes))
        say(f"{count} keys stored, {sizes.local + sizes.spare} interfaces made")
        cold_s = await _time_cold_starts(arena, plan.cold_starts if "5" in plan.rows else 1)
        say(f"cold starts: {', '.join(f'{value:.2f} s' for value in cold_s)}; {_status(arena)}")
        await asyncio.sleep(_SETTLE_S)
        if "memory" in plan.rows:
            figures.append(_memory(arena))
        shared: list[float] = []
        own: list[float] = []
        policy_s: list[float] = []
        if "1" in plan.rows:
            shared, own = await _time_endpoints(arena, plan, say)
        if "4" in plan.rows:
            policy_s = await _time_policies(arena, plan)
        if "churn" in plan.rows:
            first = sizes.local
            figures += await churn.run(arena, range(first + 2, first + sizes.spare), plan.churn_s)
            say("churn done")
        if "6" in plan.rows:
            figures += await _time_restarts(arena, plan, say)
        if "idle" in plan.rows:
            figures.append(await _watch_idle(arena, plan.idle_s))
        arena.stop_agent()
        say("floors")
        state = floor.read_state()
        store_s = await floor.time_store(arena.client, world.local_endpoint(0).value, plan.changes)
        if shared:
            figures = _endpoint_figures(plan, shared, own, _endpoint_floor(plan, state, store_s)) + figures
        if policy_s:
            chain_s = floor.time_chains(state, (_chain_of_policy(state),), 30)
            figures.append(_policy_figure(plan, policy_s, store_s, chain_s))
        if "5" in plan.rows:
            figures.append(_cold_figure(arena, cold_s, state))
    return figures


def _status(arena: Arena) -> str:
    return arena.agent.status if arena.agent is not None else "no agent"


async def _time_cold_starts(arena: Arena, rounds: int) -> list[float]:
    durations: list[float] = []
    for number in range(rounds):
        if number:
            arena.stop_agent()
            arena.wipe_kernel()
        durations.append((await arena.start_agent()).ready_s)
    return durations


async def _time_endpoints(arena: Arena, plan: Plan, say: Say) -> tuple[list[float], list[float]]:
    """Returns the latencies of endpoints with a policy stack that others have, and of those with one of their own."""
    first = plan.sizes.local
    numbers = [first + 2 + number % (plan.sizes.spare - 2) for number in range(plan.changes)]
    with Observer() as observer:
        shared = await time_creations(arena, observer, [world.local_endpoint(number) for number in numbers])
        lonely = [world.lonely_endpoint(number, variant) for variant, number in enumerate(numbers)]
        own = await time_creations(arena, observer, lonely)
        say(f"{len(shared) + len(own)} endpoints written, {observer.overruns_count} announcements lost")
    return shared, own


async def time_creations(arena: Arena, observer: Observer, endpoints: Sequence[Endpoint]) -> list[float]:
    """Returns seconds from before each endpoint's put to the last of its signs; each is deleted again, untimed."""
    latencies = []
    for endpoint in endpoints:
        signs = signs_of_endpoint(endpoint.interface, endpoint.address)
        latencies.append(await _time_put(arena, observer, (endpoint.key, endpoint.value), signs))
        await asyncio.sleep(_PAUSE_S)
        gone = observer.expect(signs_of_removal(endpoint.interface, endpoint.address))
        await arena.client.delete(endpoint.key)
        await _seen(arena, observer, gone)
        await asyncio.sleep(_PAUSE_S)
    return latencies


async def _time_put(arena: Arena, observer: Observer, pair: tuple[str, bytes], signs: set[Sign]) -> float:
    seen = observer.expect(signs)
    began_at = time.perf_counter()
    await arena.client.put(*pair)
    return await _seen(arena, observer, seen) - began_at


async def _seen(arena: Arena, observer: Observer, moment: asyncio.Future[float]) -> float:
    try:
        async with asyncio.timeout(_SEEN_WITHIN_S):
            return await moment
    except TimeoutError as error:
        raise AssertionError(f"never announced: {sorted(observer.missing)}; {arena.read_log()}") from error


def _endpoint_floor(plan: Plan, state: floor.State, store_s: Sequence[float]) -> dict[str, float]:
    first = plan.sizes.local
    endpoints = [world.local_endpoint(first + number) for number in range(2, min(plan.sizes.spare, 52))]
    chains = floor.find_chains(state, "cali0")
    parts = {
        "store": store_s,
        "netlink": floor.time_kernel(endpoints, chains, _PAUSE_S),
        "chains": floor.time_chains(state, chains, 30),
        "programs": floor.time_tools(endpoints, chains),
    }
    return {f"floor_{name}_p50_ms": 1000 * statistics.median(times_s) for name, times_s in parts.items()}


def _endpoint_figures(plan: Plan, shared: list[float], own: list[float], least: dict[str, float]) -> list[Figure]:
    where = f"{plan.sizes.local} local, {plan.sizes.remote} remote"
    plain = least["floor_store_p50_ms"] + least["floor_netlink_p50_ms"]
    text = "floor: put to watch, and one element batch with one route message"
    return [
        *_latency_figures("1", f"endpoint in etcd to enforced, {where}", shared, (5.0, 20.0, plain, text), least),
        *_latency_figures(
            "1",
            "the same where its policies are a new combination",
            own,
            (5.0, 20.0, plain + least["floor_chains_p50_ms"], f"{text}, and libnftables writing its chains"),
            {},
        ),
    ]


def _latency_figures(
    row: str,
    name: str,
    latencies_s: Sequence[float],
    goals: tuple[float, float, float, str],
    detail: Mapping[str, float],
) -> list[Figure]:
    """Returns median and p99. goals: of both in ms, the floor, and what that is."""
    summary = summarize(latencies_s)
    middle, slow = summary.pop("p50_ms"), summary.pop("p99_ms")
    goal, slow_goal, least, text = goals
    return [
        Figure(row, f"{name}, p50", "ms", middle, goal, least, text, {**summary, **detail}),
        Figure(row, f"{name}, p99", "ms", slow, slow_goal),
    ]


async def _time_policies(arena: Arena, plan: Plan) -> list[float]:
    """Returns seconds from before the put of a policy with another port to its chain's new rules."""
    latencies = []
    with Observer() as observer:
        for number in range(plan.changes):
            which = world.ZONES + number % max(1, plan.sizes.policies - world.ZONES)
            key, value = world.policy(which, port=2000 + number)
            seen = observer.expect_rule(f"default.p{which}-")
            began_at = time.perf_counter()
            await arena.client.put(key, value)
            latencies.append(await _seen(arena, observer, seen) - began_at)
            await asyncio.sleep(_PAUSE_S)
    return latencies


def _policy_figure(plan: Plan, latencies: list[float], store_s: Sequence[float], chain_s: Sequence[float]) -> Figure:
    summary = summarize(latencies)
    least = 1000 * (statistics.median(store_s) + statistics.median(chain_s))
    return Figure(
        "4",
        f"one rule of a policy changed to chain replaced, {plan.sizes.policies} policies, p50",
        "ms",
        summary.pop("p50_ms"),
        goal=10.0,
        floor=least,
        floor_text="floor: put to watch, and libnftables replacing that chain",
        detail=summary,
    )


def _chain_of_policy(state: floor.State) -> str:
    """Returns the name of some policy's chain."""
    return "policy-in-default.p" + state.nft.partition("chain policy-in-default.p")[2].split()[0]


def _cold_figure(arena: Arena, cold_s: Sequence[float], state: floor.State) -> Figure:
    loads = []
    for _ in range(3):
        arena.wipe_kernel()
        loads.append(floor.time_load(state))
    least = statistics.median(loads)
    return Figure(
        "5",
        "cold start, median",
        "s",
        statistics.median(cold_s),
        goal=3 * least + 1.0,
        floor=least,
        floor_text="floor: the same state by nft -f and ip -batch, goal: three times that and a second",
        detail={"min_s": min(cold_s), "max_s": max(cold_s), "count": len(cold_s)},
    )


def _memory(arena: Arena) -> Figure:
    agent = arena.agent
    assert agent is not None
    return Figure(
        "memory", "resident after a cold start", "MB", agent.rss_mb, 150.0, detail={"peak_MB": agent.peak_rss_mb}
    )


# --- Row 6 ---


async def _time_restarts(arena: Arena, plan: Plan, say: Say) -> list[Figure]:
    packets = await _start_packets(arena, plan)
    ready_s: list[float] = []
    writes = 0.0
    with Observer() as observer:
        for number in range(plan.restarts):
            arena.stop_agent(signal.SIGKILL if number % 2 else signal.SIGTERM)
            ready_s.append((await arena.start_agent()).ready_s)
            await asyncio.sleep(1.0)
            assert arena.agent is not None
            writes += sum(arena.agent.kernel_writes().values())
        announced = sum(observer.counts.values())
    outcome = json.loads((await asyncio.to_thread(packets.communicate))[0].splitlines()[-1])
    say(f"restarts: {', '.join(f'{value:.2f} s' for value in ready_s)}; packets {outcome}")
    lost = outcome["sent"] - outcome["received"]
    gap = {"packets_sent": outcome["sent"], "longest_gap_ms": outcome["longest_gap_ms"]}
    return [
        Figure(
            "6", "warm restart to ready, median", "s", statistics.median(ready_s), 3.0, detail={"max_s": max(ready_s)}
        ),
        Figure("6", "kernel writes of all restarts, as the agents count", "", writes, 0.0),
        Figure("6", "changes of table and routes, as the kernel announces", "", float(announced), 0.0),
        Figure("6", "packets lost in all restarts, of 1 000 a second", "", float(lost), 0.0, detail=gap),
    ]


async def _start_packets(arena: Arena, plan: Plan) -> subprocess.Popen[str]:
    """Two workloads talk through this host's policy at 1 000 packets a second, and the first has arrived."""
    ends = [world.local_endpoint(plan.sizes.local + number, {"app": "probe", "role": "probe"}) for number in range(2)]
    holders = [arena.attach(end.interface, end.address) for end in ends]
    await arena.client.put(*world.probe_policy())
    with Observer() as observer:
        for end in ends:
            await _time_put(arena, observer, (end.key, end.value), signs_of_endpoint(end.interface, end.address))
    packets = arena.start(["tests.bench.packets", *map(str, holders), ends[1].address, str(_PROBE_RATE)])
    assert packets.stdout is not None
    line = await asyncio.wait_for(asyncio.to_thread(packets.stdout.readline), 20)
    assert line == "flowing\n", f"no packet arrives: {line!r}"
    await asyncio.sleep(1.0)
    return packets


async def _watch_idle(arena: Arena, idle_s: float) -> Figure:
    agent = arena.agent
    assert agent is not None
    await asyncio.sleep(3.0)
    with Observer() as observer:
        before_s, writes = agent.cpu_s, sum(agent.kernel_writes().values())
        await asyncio.sleep(idle_s)
        used_s = agent.cpu_s - before_s
        wrote = sum(agent.kernel_writes().values()) - writes
        announced = sum(observer.counts.values())
    return Figure(
        "idle",
        f"processor time when nothing happens for {idle_s:.0f} s",
        "%",
        100 * used_s / idle_s,
        goal=1.0,
        detail={"kernel_writes": wrote, "announced_changes": announced},
    )


# --- Row 2 ---


async def _run_growth(plan: Plan, say: Say) -> Figure:
    medians: list[float] = []
    for local in (plan.small, plan.large):
        sizes = Sizes(local, plan.sizes.remote, plan.sizes.policies, plan.sizes.spare)
        async with arenas.opened(local + sizes.spare, plan.profile, is_on_disk=plan.is_on_disk) as arena:
            await arena.store(world.documents(sizes))
            await arena.start_agent()
            await asyncio.sleep(_SETTLE_S)
            numbers = [local + number % sizes.spare for number in range(plan.changes)]
            with Observer() as observer:
                seen = await time_creations(arena, observer, [world.local_endpoint(number) for number in numbers])
            arena.stop_agent()
        medians.append(quantile(seen, 0.5))
        say(f"{local} local endpoints: p50 {1000 * medians[-1]:.2f} ms, p99 {1000 * quantile(seen, 0.99):.2f} ms")
    return Figure(
        "2",
        f"the same at {plan.large} local endpoints against {plan.small}",
        "times",
        medians[1] / medians[0],
        goal=1.3,
        detail={f"at_{plan.small}_p50_ms": 1000 * medians[0], f"at_{plan.large}_p50_ms": 1000 * medians[1]},
    )


# --- Row 3 ---


async def _run_sets(plan: Plan, say: Say) -> Figure:
    members = plan.set_members
    sizes = Sizes(local=world.APPS, remote=100, policies=world.APPS, spare=0, set_members=members)
    async with arenas.opened(sizes.local, plan.profile, is_on_disk=plan.is_on_disk) as arena:
        await arena.store(world.documents(sizes))
        agent = await arena.start_agent()
        say(f"sets of {members}: ready after {agent.ready_s:.2f} s, {agent.rss_mb:.0f} MB")
        await asyncio.sleep(_SETTLE_S)
        state = floor.read_state()
        set_ = _find_set(state, world.local_endpoint(0).address)
        new = [world.remote_endpoint(20 * (1000 + number)) for number in range(plan.changes)]
        latencies = []
        with Observer() as observer:
            for endpoint in new:
                sign = ("element", set_, floor.packed(endpoint.address))
                latencies.append(await _time_put(arena, observer, (endpoint.key, endpoint.value), {sign}))
                await asyncio.sleep(_PAUSE_S)
        arena.stop_agent()
        store_s = await floor.time_store(arena.client, new[0].value, plan.changes)
        fresh = [world.remote_endpoint(20 * (5000 + number)).address for number in range(50)]
        element_s = floor.time_element(set_, fresh)
        tool_s = floor.time_element_tool(set_, fresh[:3])
    summary = summarize(latencies)
    least = statistics.median(store_s) + statistics.median(element_s)
    return Figure(
        "3",
        f"remote endpoint to set member, {members} members and an interval set of {members}, p50",
        "ms",
        summary.pop("p50_ms"),
        goal=3.0,
        floor=1000 * least,
        floor_text="floor: put to watch, and one element batch",
        detail={
            **summary,
            "floor_store_p50_ms": 1000 * statistics.median(store_s),
            "floor_netlink_p50_ms": 1000 * statistics.median(element_s),
            "floor_nft_program_p50_ms": 1000 * statistics.median(tool_s),
        },
    )


def _find_set(state: floor.State, address: str) -> str:
    """Returns the name of the set of single addresses in which `address` is."""
    for block in state.nft.split("\tset ")[1:]:
        name = block.split()[0]
        if name.startswith("a4-") and f" {address}," in block.replace("\n", " ").replace("}", ","):
            return name
    raise AssertionError(f"no set has {address}")
