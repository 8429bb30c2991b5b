"""The lab of the demonstration: two hosts, the simulated master, a name server on each host, the page. Shell."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from felix.errors import PeerError
from felix.lab.demo.expected import COLLECT, PROBES, Expected, between_probes
from felix.lab.demo.report import PAGE, Cell, Chapter, make_cells
from felix.lab.demo.trying import Target, Tries, fetch, post
from felix.lab.host import Host
from felix.lab.lab import Lab
from felix.lab.marathon import load_document
from felix.lab.mesos.agent import Limits
from felix.lab.mesos.cluster import Settings, let_executors_in
from felix.lab.mesos.dns import start_name_servers
from felix.lab.mesos.master import Master
from felix.lab.mesos.serve import MasterServer
from felix.lab.mesos.types import Container
from felix.lab.names import POOL_V4
from felix.lab.place import Place
from felix.lab.process import ProcessRecord
from felix.lab.relay import Relay

FILES = Path(__file__).parents[3] / "demo"
PROBE_PORT, COLLECT_PORT = 9000, 9001
DNS_PORT = 53
_PAGE_APP = "page/collect"
_SETTLE_S = 30.0
_LOOK_S = 0.1
Say = Callable[[str], None]


class World:
    """Everything that the stages need. Enter it with `async with`; what it made is gone only after `lab.down()`.

    page: where a browser on this machine sees all stages. records: programs that were started, to see that they end.
    """

    def __init__(self, lab: Lab, say: Say, page_port: int, master_port: int) -> None:
        self.lab = lab
        self.say = say
        self.tries = Tries()
        self.master = Master(lab, Settings(has_dns=True, limits=Limits(start_s=20.0, registration_s=20.0)))
        self.page = ""
        self.master_page = ""
        self.records: list[ProcessRecord] = []
        self._ports = (page_port, master_port)
        self._page_address = ""
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> World:
        started = time.monotonic()
        await asyncio.to_thread(self._build)
        try:
            await self._open()
        except BaseException:
            await self.__aexit__()
            raise
        self.say(
            f"Two hosts with Felix, BIRD and a name server each, etcd, and a simulated Mesos master:"
            f" {time.monotonic() - started:.1f} s"
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        self.tries.close()

    def _build(self) -> None:
        lab = self.lab
        lab.up(hosts=2, agents=False)
        let_executors_in(lab)
        for host in lab.hosts:
            host.start_agent()
        # As on the machine of the original demo: whoever is outside knows one agent as the way to the containers.
        lab.fabric.configure(f"route add {POOL_V4} via {lab.hosts[0].ipv4}")
        for host in lab.hosts:
            host.wait_agent_ready(30.0)

    async def _open(self) -> None:
        await self._stack.enter_async_context(self.master)
        server = MasterServer(self.master)
        self._stack.push_async_callback(server.close)
        self.master_page = await server.open(self._ports[1])
        start_name_servers(self.lab)
        self.master.put("page", load_document(FILES / "page.json"))
        await self.master.wait_idle()
        container = self.container(_PAGE_APP)
        if container is None:
            raise PeerError(f"the page's collector does not run: {'; '.join(self.master.failures.values())}")
        self._page_address = container.statuses[-1].addresses[0]
        relay = await self._stack.enter_async_context(
            Relay(self.lab.fabric, self._page_address, COLLECT_PORT, self._ports[0])
        )
        self.page = relay.url
        await asyncio.to_thread(self._wait_page)

    def begin(self, name: str, title: str) -> Chapter:
        """A part of the demonstration begins; whoever looks on knows which."""
        self.say(f"\n{title}")
        return Chapter(name, title)

    # --- What runs where ---

    def container(self, app: str) -> Container | None:
        """Returns the running container of an application."""
        for _, one in self.master.cluster.containers:
            if one.is_live and one.state == "TASK_RUNNING" and one.task.source == app:
                return one
        return None

    def running(self, group: str) -> dict[str, Container]:
        """Returns the running containers of a stage: `A` to `D` and `collect`, those that run."""
        names = {f"{group}/probe-{letter.lower()}": letter for letter in PROBES} | {f"{group}/{COLLECT}": COLLECT}
        found = {name: self.container(app) for app, name in names.items()}
        return {name: one for name, one in found.items() if one is not None}

    def place(self, container: Container) -> Place:
        """Returns the network of a container."""
        return self.master.cluster.place_of(container)

    def target(self, container: Container) -> Target:
        """Returns where a container listens, whether probe or collector."""
        hosts = self.lab.hosts
        own = next(agent.host for agent, held in self.master.cluster.containers if held is container)
        other = next(host for host in hosts if host.name != own.name)
        port = COLLECT_PORT if container.task.source.endswith(COLLECT) else PROBE_PORT
        return Target(self.place(container), container.statuses[-1].addresses[0], port, own, other)

    def host_of(self, container: Container) -> Host:
        """Returns the host on which a container runs."""
        return next(agent.host for agent, held in self.master.cluster.containers if held is container)

    def life(self, group: str) -> dict[str, object]:
        """Returns what is another one as soon as anything of a stage has been started again or moved."""
        return {
            name: (one.id, one.process, one.statuses[-1].addresses, len(one.statuses))
            for name, one in self.running(group).items()
        }

    async def deploy(self, path: str, document: object, *, is_app: bool = False) -> None:
        """The group or application is as the document says; raises PeerError when that failed."""
        number = self.master.put(path, document, is_app=is_app)
        await self.master.wait_idle()
        if failure := self.master.failures.get(number):
            raise PeerError(f"deployment of /{path}: {failure}")

    # --- The page ---

    def show(self, group: str, urls: Mapping[str, str], title: str, expected: Expected) -> None:
        """The page asks these probes of a stage, shows them under `title`, and judges what they see."""
        wanted = between_probes(expected)
        for name, url in urls.items():
            judged = {f"{group}/{target}": value for (source, target), value in wanted.items() if source == name}
            resource = {"id": f"{group}/{name}", "url": url, "label": name, "group": title, "expected": judged}
            post(self.lab.fabric, self._page_address, COLLECT_PORT, "/resources", resource)

    async def settle(self, group: str, expected: Expected) -> list[Cell]:
        """Returns the cells as the page's own data has them, once they are right, or when waiting has been in vain."""
        wanted = between_probes(expected)
        deadline = time.monotonic() + _SETTLE_S
        while True:
            cells = make_cells(wanted, PAGE, await asyncio.to_thread(self._read_page, group))
            if all(cell.is_right for cell in cells) or time.monotonic() > deadline:
                return cells
            await asyncio.sleep(_LOOK_S)

    def _read_page(self, group: str) -> dict[tuple[str, str], str]:
        matrix = fetch(self.lab.fabric, self._page_address, COLLECT_PORT, "/matrix")
        words = {"reachable": "ok", "blocked": "timeout"}
        assert isinstance(matrix, dict)
        return {
            (edge["from"].removeprefix(f"{group}/"), edge["to"].removeprefix(f"{group}/")): _word(edge, words)
            for edge in matrix["edges"]
            if edge["from"].startswith(f"{group}/")
        }

    async def count_graph(self, collector: Container, nodes: int, edges: int) -> tuple[int, int]:
        """Returns how many nodes answer and how many edges are reachable on a stage's own page, once it is that."""
        deadline = time.monotonic() + _SETTLE_S
        address = collector.statuses[-1].addresses[0]
        while True:
            matrix = await asyncio.to_thread(fetch, self.lab.fabric, address, COLLECT_PORT, "/matrix")
            assert isinstance(matrix, dict)
            seen = (matrix["summary"]["answering"], matrix["summary"]["reachable"])
            if seen == (nodes, edges) or time.monotonic() > deadline:
                return seen
            await asyncio.sleep(_LOOK_S)

    def _wait_page(self) -> None:
        deadline = time.monotonic() + _SETTLE_S
        while True:
            try:
                fetch(self.lab.fabric, self._page_address, COLLECT_PORT, "/matrix", 1.0)
            except PeerError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    # --- The operator's command line ---

    def felix(self, *words: str, stdin: str | None = None) -> str:
        """Returns what `felix WORDS` says on the fabric; raises EnvironmentFault with its error."""
        return self.lab.fabric.run([sys.executable, "-m", "felix", *words], stdin=stdin).stdout

    def read_resource(self, *words: str) -> dict[str, object]:
        """Returns a resource as `felix get` has it, without its version, so that it can be applied at any time."""
        document: dict[str, object] = json.loads(self.felix("get", *words, "-o", "json"))
        metadata = document["metadata"]
        assert isinstance(metadata, dict)
        metadata.pop("resourceVersion", None)
        return document


def _word(edge: Mapping[str, str], words: Mapping[str, str]) -> str:
    """Returns what the page says of an edge in the words of the other ways to try; `timeout` only for silence."""
    state = words.get(edge["state"], edge["state"])
    return edge.get("outcome") or state if state == "timeout" else state
