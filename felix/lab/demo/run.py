"""The whole demonstration, from the building of the lab to the look for what is left. Shell."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass

from felix.lab.demo import leaks, stages
from felix.lab.demo.report import Chapter, Report, render_cells, render_checks, render_wrong
from felix.lab.demo.world import Say, World
from felix.lab.lab import Lab, check_machine
from felix.lab.own import DEFAULT_NAME, find_own_command, name_option
from felix.lab.process import ProcessRecord

PAGE_PORT, MASTER_PORT = 9001, 5050


@dataclass(frozen=True, slots=True)
class Options:
    """How it is run. stage: 1 to 3 for one alone, 0 for everything. keep: all stays up until Ctrl-C or SIGTERM."""

    name: str = DEFAULT_NAME
    stage: int = 0
    keep: bool = False
    page_port: int = PAGE_PORT
    master_port: int = MASTER_PORT


class Demo:
    """One run in a lab. `report` has what was expected and seen so far."""

    def __init__(self, lab: Lab, options: Options, say: Say) -> None:
        self.report = Report()
        self._lab = lab
        self._options = options
        self._say = say

    async def run(self) -> Report:
        """Returns the report. The lab is gone afterwards, whatever happened; raises KeyboardInterrupt on a signal."""
        check_machine()
        self._lab.down()  # what an earlier one left behind is no leak of this one
        before, started = leaks.read_machine(), time.monotonic()
        records: list[ProcessRecord] = []
        end = Chapter("teardown", "Teardown, and what is left")
        try:
            async with _watch_signals() as ended, World(self._lab, self._say, *self._ports) as world:
                self.report.page = world.page
                self._say(_WHERE.format(page=world.page, master=world.master_page))
                await _do_unless(ended, self._show(world))
                self.report.seconds = time.monotonic() - started
                if self._options.keep:
                    self._invite()
                    await ended.wait()
                await self._end_tasks(world, end)
                records = list(self._lab.processes.values())
        finally:
            self._lab.down()
        end.checks += leaks.check_machine(self._lab, before, records)
        self._add(end)
        self._say(f"\n{summarise(self.report)}")
        if not self._options.keep:
            self._say(_NEXT.format(felix=find_own_command(), option=name_option(self._lab.name)))
        return self.report

    @property
    def _ports(self) -> tuple[int, int]:
        return self._options.page_port, self._options.master_port

    async def _show(self, world: World) -> None:
        one = self._options.stage
        life: dict[str, object] = {}
        if one in {0, 1}:
            await self._tell(stages.run_before(world))
            life = world.life(stages.BEFORE)
        if one in {0, 2}:
            await self._tell(stages.run_shared(world))
        if one == 0:
            await self._tell(stages.run_mixed(world, life))
        if one in {0, 3}:
            await self._tell(stages.run_isolated(world))
            await self._tell(stages.run_narrowed(world))
            await self._tell(stages.run_moved(world))
        if one == 0:
            await self._tell(stages.run_lookups(world))

    async def _end_tasks(self, world: World, end: Chapter) -> None:
        """Applications are deleted as people delete them, group by group; then nothing of them is left in the lab."""
        started = time.monotonic()
        self._say(f"\n{end.title}")
        for scope in dict.fromkeys(path.partition("/")[0] for path in world.master.apps()):
            world.master.remove(scope)
        await world.master.wait_idle()
        end.checks += await asyncio.to_thread(leaks.check_lab, self._lab)
        end.seconds = time.monotonic() - started

    async def _tell(self, step: Coroutine[None, None, Chapter]) -> None:
        started = time.monotonic()
        chapter = await step
        chapter.seconds = time.monotonic() - started
        self._add(chapter)

    def _add(self, chapter: Chapter) -> None:
        self.report.chapters.append(chapter)
        self._say("\n".join(f"  {line}" for line in _describe(chapter)))

    def _invite(self) -> None:
        names = {"felix": find_own_command(), "option": name_option(self._lab.name), "page": self.report.page}
        self._say(f"\n{summarise(self.report)}\n{_LOOK_AROUND.format(**names)}")


def summarise(report: Report) -> str:
    """Returns the last line."""
    return f"{report.right} of {report.total} as expected, {report.seconds:.0f} s."


def _describe(chapter: Chapter) -> Iterator[str]:
    others = [cell for cell in chapter.cells if cell.target.startswith("stage-")]
    own = [cell for cell in chapter.cells if cell not in others]
    for cells in (own, others):
        yield from render_cells(cells)
    yield from render_checks(chapter.checks)
    yield from render_wrong(chapter)
    right = len(chapter.cells) + len(chapter.checks) - len(chapter.wrong)
    ways = Counter(cell.by for cell in chapter.cells)
    tried = "".join(f"{count} by {way}, " for way, count in ways.items())
    shown = f" ({tried}{len(chapter.checks)} others)" if tried else ""
    yield f"{right} of {right + len(chapter.wrong)} as expected{shown}, {chapter.seconds:.1f} s"


@contextlib.asynccontextmanager
async def _watch_signals() -> AsyncIterator[asyncio.Event]:
    """Yields what is set when SIGINT or SIGTERM comes."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    try:
        yield ended
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _do_unless(ended: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """The work is done; raises KeyboardInterrupt when it was cut short."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(ended.wait())
    try:
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise KeyboardInterrupt
        working.result()
    finally:
        for task in (working, waiting):
            task.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)


_WHERE = """
The page, live, all stages: {page}
The simulated Mesos:        {master}

Each table has sources as rows and targets as columns: on the left whom they must reach, on the right whom they did,
by TCP, by ICMP, and as the page says (which knows of probes only). What is not as expected has a `!`.
Each target is tried from its `own host`, too, from the `other host`, and from `outside`, where no Felix is."""

_NEXT = """
To have all of it stay up, with its page: {felix} lab demo --keep{option}, or make demo KEEP=1
What it shows, and how: docs/star.md"""

_LOOK_AROUND = """
All of it stays up until Ctrl-C. Look at {page}, or in another terminal:
  {felix} lab mesos status{option}
  {felix} lab mesos exec{option} probe-a.star-iso -- ping -c1 probe-b.star-iso.marathon.mesos
  {felix} lab exec{option} h1 -- felix status
  {felix} lab exec{option} h1 -- ip route
  {felix} lab exec{option} h1 -- nft list table inet felix
  {felix} lab exec{option} fabric -- felix get profiles -o wide
  {felix} lab exec{option} fabric -- dig +noall +answer @10.0.0.1 probe-a.star-iso.marathon.mesos
  {felix} lab exec{option} fabric -- curl -s http://10.0.0.254:8080/v2/tasks
change something, and watch the page:
  {felix} lab exec{option} fabric -- felix apply -f demo/star-1-narrow.yaml
  {felix} lab exec{option} fabric -- curl -s -X DELETE http://10.0.0.254:8080/v2/groups/star-before?force=true
  {felix} lab stop{option} h1 --kill     # and: {felix} lab start{option} h1"""
