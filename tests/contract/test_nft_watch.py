"""Who changed our table: own transactions are silent, foreign ones name their program."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import subprocess
from collections.abc import Awaitable, Callable

import pytest

from felix.calc.desired import DesiredDelta, MemberDelta, Stack
from felix.dataplane.nft.apply import NftWorker, apply_fill, apply_structure
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.read import read_table
from felix.dataplane.nft.types import Culprit, KernelTable, NftConfig
from felix.dataplane.nft.watch import NftWatch
from felix.model.net import Net
from tests.model.namespaces import enter_private_network, join_network, open_network
from tests.model.nft_worlds import endpoint

pytestmark = pytest.mark.fv
_WAIT_S = 5.0
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, linux/proc_ns.h


class _Scene:
    """A programmed table, a watch on it, and what the watch said."""

    def __init__(self) -> None:
        self.culprits: asyncio.Queue[Culprit] = asyncio.Queue()
        self.plan = NftPlan(NftConfig())
        self.plan.replace_believed(KernelTable())
        descriptor = open_network()
        self.worker = NftWorker(lambda: join_network(descriptor))
        self.watch = NftWatch(self.culprits.put_nowait)
        self._descriptor = descriptor

    async def apply(self, delta: DesiredDelta) -> None:
        self.plan.on_delta(delta)
        fill = self.plan.plan_fill()
        self.plan.absorb_fill(fill, await self.worker.call(apply_fill, fill))
        structure = self.plan.plan_structure()
        self.plan.absorb_structure(structure, await self.worker.call(apply_structure, structure))
        assert self.plan.is_settled

    async def said(self) -> Culprit:
        return await asyncio.wait_for(self.culprits.get(), _WAIT_S)

    def close(self) -> None:
        self.watch.close()
        self.worker.close()
        os.close(self._descriptor)


def _run(body: Callable[[_Scene], Awaitable[None]]) -> None:
    async def play() -> None:
        scene = _Scene()
        try:
            scene.watch.open()
            one = endpoint(1, Stack((), ()), Stack((), ()))
            await scene.apply(DesiredDelta(endpoints={one.key: one}))
            await body(scene)
        finally:
            scene.close()

    with concurrent.futures.ThreadPoolExecutor(1, initializer=enter_private_network) as thread:
        thread.submit(asyncio.run, play()).result()


def _nft(text: str) -> int:
    """Changes the ruleset as a stranger does; returns the process id."""
    with subprocess.Popen(["nft", "-f", "-"], stdin=subprocess.PIPE, text=True) as process:
        process.communicate(text)
    assert process.returncode == 0
    return process.pid


def _check_culprit(culprit: Culprit, pid: int) -> None:
    """The kernel gives the process id of its first PID namespace, which in a container is not the one seen here."""
    is_first_namespace = os.stat("/proc/self/ns/pid").st_ino == _FIRST_PID_NAMESPACE
    assert culprit == Culprit(pid if is_first_namespace else culprit.pid, "nft")


@pytest.mark.parametrize(
    "text",
    ["flush ruleset", "flush chain inet felix gate-from", "delete element inet felix claimed { cali1 }"],
)
def test_foreign_change_is_announced_with_its_program_and_repaired(text: str) -> None:
    async def body(scene: _Scene) -> None:
        pid = _nft(text)
        _check_culprit(await scene.said(), pid)
        scene.plan.replace_believed(await scene.worker.call(read_table))
        assert not scene.plan.is_settled
        await scene.apply(DesiredDelta())

    _run(body)


def test_own_changes_and_tables_of_others_are_silent() -> None:
    async def body(scene: _Scene) -> None:
        members = {Net(4, 0x0A000000 + number, 32) for number in range(5_000)}
        await scene.apply(DesiredDelta(sets={"s": True}, members={"s": MemberDelta(members, set())}))
        _nft("table inet other { chain c { accept; }; }")
        two = endpoint(2, Stack((), ()), Stack((), ()))
        await scene.apply(DesiredDelta(endpoints={two.key: two}))
        pid = _nft("add chain inet felix stranger")  # comes after all others, so nothing else was said before
        _check_culprit(await scene.said(), pid)
        assert scene.culprits.empty()

    _run(body)
