"""What the agent tells the world: files, status, metrics and log follow the cycles, and nothing of the past stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest

from felix.dataplane.bird.serve import BirdReport
from felix.dataplane.bird.types import BirdState, ChannelState, ProtocolState
from felix.dataplane.cycle import Cycle, EndpointCondition, EndpointReport
from felix.dataplane.driver import Driver, DriverConfig, DriverCounts
from felix.dataplane.nft.apply import NftCalls
from felix.errors import Problem
from felix.intake import EndpointIdentity, Intake
from felix.obs.log import LogCounts
from felix.obs.metrics import Metrics
from felix.report import AgentReport
from tests.support.desired import local_endpoint
from tests.unit.dataplane.fake_world import FakeWorld

A = local_endpoint("a", "calia", "10.1.0.1")
UP = EndpointReport(EndpointCondition.UP, True)
ERROR = EndpointReport(EndpointCondition.ERROR, False, "its policy is not in the kernel yet")
NODE = "/calico/resources/v3/projectcalico.org/nodes/n1"


class Desk:
    """A report with an endpoint `a` that intake knows, and files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.metrics = Metrics()
        self.intake = Intake("h1")
        self.intake.identities[A.key] = EndpointIdentity("cni", "default", "w-a", "eth0")
        self.report = AgentReport(self.metrics, self.intake)
        self.report.open_files(str(folder))
        self.files = folder / "endpoint-status"
        self.driver = Driver(DriverConfig(), FakeWorld(), lambda cycle: None, lambda family, program: None)
        self.driver.board.on_delta({A.key: A}, 0.0)

    def cycle(self, report: EndpointReport | None) -> None:
        self.report.on_cycle(Cycle(revision=5, endpoints={A.key: report}), self.driver)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.files.iterdir())

    def has(self, line: str) -> bool:
        return line in generate_latest(self.metrics.registry).decode().splitlines()


@pytest.fixture
async def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_endpoint_file_stands_only_while_the_endpoint_is_up(desk: Desk) -> None:
    for report, names in ((ERROR, []), (UP, ["cni default%2Fw-a eth0"]), (ERROR, []), (UP, [""]), (None, [])):
        desk.cycle(report)
        assert len(desk.names()) == len(names)


async def test_endpoint_with_another_address_gets_another_file_content(desk: Desk) -> None:
    desk.cycle(UP)
    desk.driver.board.on_delta({A.key: local_endpoint("a", "calia", "10.1.0.7")}, 0.0)
    desk.cycle(UP)
    assert "10.1.0.7" in (desk.files / desk.names()[0]).read_text()


async def test_endpoint_with_another_identity_leaves_nothing_under_its_former_one(desk: Desk) -> None:
    desk.cycle(UP)
    desk.intake.identities[A.key] = EndpointIdentity("cni", "default", "w-b", "eth0")
    desk.cycle(UP)
    assert desk.names() == ["cni default%2Fw-b eth0"]


async def test_gone_endpoint_is_forgotten_and_its_count_falls(desk: Desk) -> None:
    desk.cycle(UP)
    assert desk.has('felix_endpoints{status="up"} 1.0')
    del desk.intake.identities[A.key]
    desk.cycle(None)
    assert desk.names() == []
    assert desk.has('felix_endpoints{status="up"} 0.0')


async def test_same_error_is_logged_once(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        desk.cycle(ERROR)
    assert len([one for one in caplog.records if "not in the kernel" in one.getMessage()]) == 1


async def test_files_of_an_earlier_run_go_after_the_first_whole_cycle_and_not_before(desk: Desk) -> None:
    (desk.files / "cni default%2Fold eth0").write_text("{}")
    desk.report.open_files(str(desk.files.parent))
    desk.cycle(UP)
    assert len(desk.names()) == 2
    desk.report.on_complete()
    assert desk.names() == ["cni default%2Fw-a eth0"]


def test_empty_prefix_makes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = AgentReport(Metrics(), Intake("h1"))
    report.open_files("")
    report.on_complete()
    assert list(tmp_path.iterdir()) == []


async def test_problems_are_counted_by_kind_and_end(desk: Desk) -> None:
    bad = Problem(NODE, "spec", "x", "wrong")
    desk.report.on_problems({NODE: (bad, bad)})
    assert desk.has('felix_problems{kind="nodes"} 2.0')
    desk.report.on_problems({NODE: (bad,)})
    assert desk.has('felix_problems{kind="nodes"} 1.0')
    desk.report.on_problems({NODE: ()})
    assert desk.has('felix_problems{kind="nodes"} 0.0')
    assert desk.report.problems == []


async def test_session_that_is_gone_is_no_metric_any_more(desk: Desk) -> None:
    channel = ChannelState("ipv4", "UP", 3, 4, 3)
    session = ProtocolState("mesh_1", "BGP", "up", "", "", bgp_state="Established", channels=(channel,))
    desk.report.on_bird(BirdReport(BirdState("2", "", "", (session,))))
    assert desk.has('felix_bgp_peer_up{peer="mesh_1"} 1.0')
    assert desk.has('felix_bgp_routes{direction="imported",peer="mesh_1"} 3.0')
    desk.report.on_bird(BirdReport(None, None, "BIRD does not answer"))
    assert desk.has("felix_bird_up 0.0")
    assert "mesh_1" not in generate_latest(desk.metrics.registry).decode()


async def test_fault_of_bird_is_logged_when_it_begins_and_not_again(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        desk.report.on_bird(BirdReport(None, None, "BIRD does not answer"))
    assert len([one for one in caplog.records if "does not answer" in one.getMessage()]) == 1


async def test_counts_kept_elsewhere_are_shown_and_never_fall(desk: Desk) -> None:
    counts = DriverCounts(reads_by_family={"nft": 2}, lost_by_family={"routes": 1}, flushed=7, revoked=5)
    desk.report.on_counts(counts, NftCalls(runs=3, run_errors=1), LogCounts())
    desk.report.on_counts(DriverCounts(), NftCalls(), LogCounts())
    assert desk.has('felix_kernel_reads{family="nft"} 2.0')
    assert desk.has('felix_netlink_overruns{family="routes"} 1.0')
    assert desk.has('felix_conntrack_entries_removed{reason="left"} 7.0')
    assert desk.has('felix_conntrack_entries_removed{reason="denied"} 5.0')
    assert desk.has("felix_nft_errors 1.0")
