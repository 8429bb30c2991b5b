"""The steps of the demonstration: three stages, mixed mode, groups that change while tasks run, two lookups. Shell.

Each step is a chapter of the report. What stage 3 needs of the others it does without when they are left out.
"""

from __future__ import annotations

import asyncio
import copy
import json
import socket
import time
from collections.abc import Sequence
from functools import partial

from felix.lab.demo import expected as tables
from felix.lab.demo.expected import COLLECT, OUTSIDE, PROBES, Expected, rename, without_rows
from felix.lab.demo.report import ICMP, TCP, Cell, Chapter, Check
from felix.lab.demo.trying import ask_on, fetch, try_tcp
from felix.lab.demo.world import FILES, PROBE_PORT, World
from felix.lab.marathon import load_document
from felix.lab.mesos.types import Container
from felix.lab.names import RESOLVER_V4
from felix.lab.place import Place
from felix.lab.probe import echo

BEFORE, SHARED, ISOLATED = "star-before", "star", "star-iso"
TITLE_BY_GROUP = {
    BEFORE: "1 before",
    SHARED: "2 public",
    ISOLATED: "3 isolated",
}
HTTP_PORT = 8123
_FREE_PORT = 7777  # nothing says that it is used; inside a group it is open


async def run_before(world: World) -> Chapter:
    """Stage 1: two of four probes run, because they want the same port of two hosts."""
    chapter = world.begin("1", "Stage 1, before: containers share their hosts' addresses, four probes want port 9000")
    await world.deploy(BEFORE, load_document(FILES / "stars-before.json"))
    running = world.running(BEFORE)
    probes = [name for name in PROBES if name in running]
    waiting = [one for one in world.master.waiting() if one.startswith(f"{BEFORE}/")]
    chapter.checks += [
        Check("as many probes run as there are hosts, two of four", len(probes) == 2, ", ".join(probes)),
        Check("the others wait for an offer", len(waiting) == 2, ", ".join(waiting)),
        Check("the collector runs on port 9001 beside them", COLLECT in running, ""),
    ]
    if len(probes) == 2 and COLLECT in running:
        missing = [name for name in PROBES if name not in probes]
        names = [f"probe-{name.lower()}-{BEFORE}.marathon.mesos" for name in missing]
        expected = name_running(probes)
        await asyncio.to_thread(world.show, BEFORE, _urls(BEFORE), TITLE_BY_GROUP[BEFORE], expected)
        await _measure(world, chapter, BEFORE, expected)
        chapter.checks.append(await _check_graph(world, running[COLLECT], 2, 2))
        found = [await _resolve(world, running[COLLECT], name) for name in names]
        chapter.checks.append(Check("who waits has no name", found == ["", ""], ", ".join(filter(None, found))))
    return chapter


async def run_shared(world: World) -> Chapter:
    """Stage 2: all run, each with an address of its own, and reach each other."""
    chapter = world.begin("2", "Stage 2, one address per container, all in the group public")
    await _run_group(world, chapter, SHARED, tables.ALL_PUBLIC, file="stars.json", edges=12)
    return chapter


async def run_mixed(world: World, before: dict[str, object]) -> Chapter:
    """Stage 1 goes on beside stage 2. before: what `World.life` said of it before stage 2 came."""
    chapter = world.begin("mixed", "Mixed mode: stage 1 and stage 2 on the same hosts at once")
    running = world.running(BEFORE)
    probes = [name for name in PROBES if name in running]
    if len(probes) == 2 and COLLECT in running:
        await _measure(world, chapter, BEFORE, name_running(probes))
    same = world.life(BEFORE) == before
    shared = world.running(SHARED)
    shown = f"{len(running)} of stage 1, {len(shared)} of stage 2"
    chapter.checks += [
        Check("nothing of stage 1 was moved or started again", same, ""),
        Check("both stages run", (len(running), len(shared)) == (3, 5), shown),
    ]
    return chapter


async def run_isolated(world: World) -> Chapter:
    """Stage 3: two groups of two, and a collector that is in both."""
    chapter = world.begin("3", "Stage 3, isolated: A and B in star-1, C and D in star-2, the collector in all groups")
    await _run_group(world, chapter, ISOLATED, tables.ISOLATED, file="stars-isolated.json", edges=4)
    running = world.running(ISOLATED)
    if len(running) == 5:
        chapter.cells += await _measure_others(world, running)
        chapter.checks += await _check_free_port(world, running)
    return chapter


async def run_narrowed(world: World) -> Chapter:
    """A group gets other rules while its tasks run, and gets the old ones back."""
    chapter = world.begin("custom", "star-1 lets in TCP 9000 only: ping stops, the graph stays, no task starts anew")
    running, before = world.running(ISOLATED), world.life(ISOLATED)
    if len(running) != 5:
        chapter.checks.append(Check("all five of stage 3 run", False, ", ".join(running)))
        return chapter
    original = await asyncio.to_thread(world.read_resource, "profile", "star-1")
    source, target = world.place(running["A"]), world.target(running["B"])
    target.place.listen(_FREE_PORT)
    with (
        await asyncio.to_thread(source.open, target.address, _FREE_PORT, "tcp", 5.0) as forbidden,
        await asyncio.to_thread(source.open, target.address, PROBE_PORT, "tcp", 5.0) as allowed,
    ):
        await asyncio.to_thread(echo, forbidden, 5.0)
        world.say("  $ felix apply -f demo/star-1-narrow.yaml")
        await asyncio.to_thread(world.felix, "apply", "-f", str(FILES / "star-1-narrow.yaml"))
        stopped_s, cut_s = await asyncio.gather(
            world.tries.wait_icmp(source, target.address, is_open=False), asyncio.to_thread(_wait_cut, forbidden)
        )
        answer = await asyncio.to_thread(ask_on, allowed, 5.0)
    target.place.close_listeners()
    chapter.checks += [
        _check_prompt("ping from A to B has stopped", stopped_s),
        _check_prompt(f"a connection from A to B that was open, to port {_FREE_PORT}, is cut", cut_s),
        Check(f"one to port {PROBE_PORT} goes on", answer == "ok", answer),
    ]
    with_stage_2 = _fit(world, tables.ISOLATED)
    await _measure(world, chapter, ISOLATED, with_stage_2, _fit(world, tables.ISOLATED_NARROW_PING))
    chapter.checks.append(await _check_graph(world, running[COLLECT], 4, 4))
    await asyncio.to_thread(world.felix, "apply", "-f", "-", stdin=json.dumps(original))
    elapsed_s = await world.tries.wait_icmp(source, target.address, is_open=True)
    chapter.checks += [
        _check_prompt("with the rules as they were, ping is back", elapsed_s),
        Check("nothing was started again", world.life(ISOLATED) == before),
    ]
    return chapter


async def run_moved(world: World) -> Chapter:
    """A container gets another group while it runs."""
    chapter = world.begin("move", "D moves from star-2 to star-1 and back, and no task starts anew")
    running, before = world.running(ISOLATED), world.life(ISOLATED)
    if len(running) != 5:
        chapter.checks.append(Check("all five of stage 3 run", False, ", ".join(running)))
        return chapter
    original = await asyncio.to_thread(_find_endpoint, world, running["D"])
    endpoint = copy.deepcopy(original)
    spec = endpoint["spec"]
    assert isinstance(spec, dict)
    spec["profiles"] = ["star-1" if one == "star-2" else one for one in spec["profiles"]]
    world.say(f"  $ felix apply -f -     # the endpoint of D, with profiles: {', '.join(spec['profiles'])}")
    source, target = world.place(running["A"]), world.target(running["D"])
    expected = _fit(world, tables.ISOLATED_MOVED)
    await asyncio.to_thread(world.show, ISOLATED, _urls(ISOLATED), TITLE_BY_GROUP[ISOLATED], expected)
    await asyncio.to_thread(world.felix, "apply", "-f", "-", stdin=json.dumps(endpoint))
    elapsed_s, seen_s = await asyncio.gather(
        world.tries.wait_icmp(source, target.address, is_open=True), _time_page(world, expected)
    )
    chapter.checks += [_check_prompt("A reaches D", elapsed_s), _check_prompt("the page shows it", seen_s)]
    await _measure(world, chapter, ISOLATED, expected)
    chapter.checks.append(await _check_graph(world, running[COLLECT], 4, 6))
    await asyncio.to_thread(world.show, ISOLATED, _urls(ISOLATED), TITLE_BY_GROUP[ISOLATED], tables.ISOLATED)
    await asyncio.to_thread(world.felix, "apply", "-f", "-", stdin=json.dumps(original))
    elapsed_s, seen_s = await asyncio.gather(
        world.tries.wait_icmp(source, target.address, is_open=False), _time_page(world, tables.ISOLATED)
    )
    chapter.checks += [
        _check_prompt("D is back in star-2, A does not reach it", elapsed_s),
        _check_prompt("the page shows stage 3 as it was", seen_s),
        Check("nothing was started again", world.life(ISOLATED) == before),
    ]
    return chapter


async def run_lookups(world: World) -> Chapter:
    """The two lookups of the slides, on every host, by glibc in a container, and through the HTTP interface."""
    chapter = world.begin("names", "The slides' lookups: nginx_prod.marathon.mesos and _nginx_prod._tcp.marathon.mesos")
    await asyncio.to_thread(world.felix, "apply", "-f", str(FILES / "slides-pool.yaml"))
    world.lab.fabric.configure(f"route replace 10.13.17.0/24 via {world.lab.hosts[0].ipv4}")
    await world.deploy("nginx_prod", load_document(FILES / "nginx.json"), is_app=True)
    name, service, address, port = (
        *("nginx_prod.marathon.mesos", "_nginx_prod._tcp.marathon.mesos"),
        *("10.13.17.95", 8181),
    )
    for host in world.lab.hosts:
        found = await _wait_for(world, host.ipv4, name, address)
        chapter.checks.append(Check(f"{name} A is {address}, says {host.name}", found == [address], ", ".join(found)))
        services = [line.split() for line in await _dig(world, host.ipv4, service, "SRV")]
        ports = [words[2] for words in services]
        targets = [one for words in services for one in await _dig(world, host.ipv4, words[3], "A")]
        is_right = (ports, targets) == ([str(port)], [address])
        seen = ", ".join(" ".join(words) for words in services)
        chapter.checks.append(Check(f"{service} SRV is {address}:{port}, says {host.name}", is_right, seen))
    asker = world.container("page/collect")
    if asker is not None:
        answers = await _ask_inside(world, asker, name)
        text = f"a container's glibc, dig and HTTP say the same, asking {RESOLVER_V4} of its host"
        shown = ", ".join(f"{way} {found}" for way, found in answers.items())
        chapter.checks.append(Check(text, set(answers.values()) == {address}, shown))
    outcome = await asyncio.to_thread(_retry_tcp, world.lab.fabric, address, port)
    chapter.checks.append(Check(f"{address}:{port} answers from outside", outcome == "ok", outcome))
    return chapter


# --- Parts ---


async def _run_group(world: World, chapter: Chapter, group: str, expected: Expected, *, file: str, edges: int) -> None:
    await world.deploy(group, load_document(FILES / file))
    running = world.running(group)
    hosts = {name: world.host_of(one).name for name, one in running.items()}
    addresses = {name: one.statuses[-1].addresses[0] for name, one in running.items()}
    shown = ", ".join(f"{name} {addresses[name]} on {hosts[name]}" for name in running)
    chapter.checks.append(
        Check("all five run, each with an address of its own", len(set(addresses.values())) == 5, shown)
    )
    if len(running) != 5:
        return
    most = max(list(hosts.values()).count(host) for host in hosts.values())
    chapter.checks.append(Check("one host has several listeners on port 9000", most > 1, f"{most} containers"))
    if not world.running(SHARED):
        expected = without_rows(expected, "stage 2")
    await asyncio.to_thread(world.show, group, _urls(group), TITLE_BY_GROUP[group], expected)
    await _measure(world, chapter, group, expected)
    chapter.checks.append(await _check_graph(world, running[COLLECT], 4, edges))


async def _measure(
    world: World, chapter: Chapter, group: str, expected: Expected, by_icmp: Expected | None = None
) -> None:
    """The chapter has all cells by TCP, by ICMP, and as the page says; the page first, it knows when all listen."""
    on_page = await world.settle(group, expected)
    running = world.running(group)
    sources = {name: world.place(one) for name, one in running.items()} | {OUTSIDE: world.lab.fabric}
    if shared := world.container(f"{SHARED}/probe-a"):
        sources["stage 2"] = world.place(shared)
    targets = {name: world.target(one) for name, one in running.items()}
    by_tcp, by_ping = await asyncio.gather(
        world.tries.measure(expected, sources, targets, TCP),
        world.tries.measure(by_icmp or expected, sources, targets, ICMP),
    )
    chapter.cells += [*by_tcp, *by_ping, *on_page]


async def _measure_others(world: World, running: dict[str, Container]) -> list[Cell]:
    """Returns what containers of stage 3 reach of the stages before, as far as those run."""
    others = {"stage-2": world.container(f"{SHARED}/probe-b")}
    others["stage-1"] = next((one for name, one in world.running(BEFORE).items() if name in PROBES), None)
    targets = {name: world.target(one) for name, one in others.items() if one is not None}
    expected = {pair: value for pair, value in tables.FROM_ISOLATED.items() if pair[1] in targets}
    sources = {name: world.place(running[name]) for name in PROBES}
    cells = [await world.tries.measure(expected, sources, targets, way) for way in (TCP, ICMP)]
    return [cell for listed in cells for cell in listed]


async def _check_free_port(world: World, running: dict[str, Container]) -> list[Check]:
    """Returns whether another port than 9000 is open inside a group, and nowhere else."""
    place, target = world.place(running["A"]), world.target(running["A"])
    place.listen(_FREE_PORT)
    try:
        inside, outside = [
            await asyncio.to_thread(world.place(running[name]).connect, target.address, _FREE_PORT, "tcp", timeout_s)
            for name, timeout_s in (("B", 5.0), ("C", 1.0))
        ]
    finally:
        place.close_listeners()
    return [
        Check(f"any other port is open inside a group, {_FREE_PORT} from B to A", inside.ok, inside.outcome),
        Check(f"and closed to others, {_FREE_PORT} from C to A", outside.outcome == "timeout", outside.outcome),
    ]


def name_running(probes: Sequence[str]) -> dict[tuple[str, str], bool]:
    """Returns stage 1's table for the two probes that run."""
    return rename(tables.SHARED_ADDRESSES, dict(zip(("X", "Y"), probes, strict=True)))


def _fit(world: World, expected: Expected) -> dict[tuple[str, str], bool]:
    return dict(expected) if world.running(SHARED) else without_rows(expected, "stage 2")


def _urls(group: str) -> dict[str, str]:
    """Returns the addresses of a stage's probes, as the applications name them themselves."""
    joint = "-" if group == BEFORE else "."
    return {name: f"http://probe-{name.lower()}{joint}{group}.marathon.mesos:{PROBE_PORT}/status" for name in PROBES}


async def _check_graph(world: World, collector: Container, nodes: int, edges: int) -> Check:
    seen = await world.count_graph(collector, nodes, edges)
    text = f"the stage's own page has {nodes} nodes and {edges} edges that are reachable"
    return Check(text, seen == (nodes, edges), f"{seen[0]} and {seen[1]}")


def _check_prompt(text: str, elapsed_s: float | None) -> Check:
    if elapsed_s is None:
        return Check(text, False, "never")
    seen = "before the command had ended" if elapsed_s < 0.0005 else f"{elapsed_s * 1000:.0f} ms after the command"
    return Check(text, True, seen)


def _find_endpoint(world: World, container: Container) -> dict[str, object]:
    documents = world.lab.store.list_prefix("/calico/resources/v3/projectcalico.org/workloadendpoints/")
    for document in documents.values():
        spec, metadata = document["spec"], document["metadata"]
        if isinstance(spec, dict) and isinstance(metadata, dict) and spec.get("workload") == container.id:
            return world.read_resource("workloadendpoint", str(metadata["name"]), "-n", str(metadata["namespace"]))
    raise LookupError(f"container {container.id} has no endpoint")


async def _dig(world: World, server: str, name: str, kind: str) -> list[str]:
    words = ["dig", "+short", "+time=1", "+tries=3", f"@{server}", name, kind]
    done = await asyncio.to_thread(partial(world.lab.fabric.run, words, check=False))
    return [line for line in done.stdout.splitlines() if line and not line.startswith(";")]


async def _wait_for(world: World, server: str, name: str, wanted: str) -> list[str]:
    """Returns the addresses of a name once it is that one, or when waiting has been in vain."""
    deadline = time.monotonic() + 10.0
    while True:
        found = await _dig(world, server, name, "A")
        if found == [wanted] or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.1)


async def _resolve(world: World, container: Container, name: str) -> str:
    """Returns the address that glibc finds inside the container, empty for none."""
    place = world.place(container)
    done = await asyncio.to_thread(partial(place.run, ["getent", "ahostsv4", name], check=False))
    return done.stdout.split()[0] if done.stdout.split() else ""


async def _ask_inside(world: World, container: Container, name: str) -> dict[str, str]:
    """Returns the address of a name as a container hears it: by glibc, by dig, by HTTP."""
    place = world.place(container)
    dug = await asyncio.to_thread(partial(place.run, ["dig", "+short", "+time=1", "+tries=3", name], check=False))
    told = await asyncio.to_thread(fetch, place, RESOLVER_V4, HTTP_PORT, f"/v1/hosts/{name}")
    return {
        "glibc": await _resolve(world, container, name),
        "dig": " ".join(dug.stdout.split()),
        "HTTP": " ".join(str(one.get("ip")) for one in told) if isinstance(told, list) else "",
    }


async def _time_page(world: World, expected: Expected) -> float | None:
    """Returns the seconds until the page's own data are as expected; None when they never were."""
    started = time.monotonic()
    cells = await world.settle(ISOLATED, expected)
    return time.monotonic() - started if all(cell.is_right for cell in cells) else None


def _wait_cut(connection: socket.socket) -> float | None:
    """Returns the seconds until nothing comes back on a connection any more; None when something always does."""
    started = time.monotonic()
    while (elapsed_s := time.monotonic() - started) < 10.0:
        try:
            echo(connection, 1.0)
        except OSError:
            return elapsed_s
        time.sleep(0.01)
    return None


def _retry_tcp(place: Place, address: str, port: int) -> str:
    deadline = time.monotonic() + 10.0
    while (outcome := try_tcp(place, address, port, 1.0)) != "ok" and time.monotonic() < deadline:
        time.sleep(0.1)
    return outcome
