"""How counters of policies are shown."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from felix.__main__ import main
from felix.calc.desired import Action
from felix.cli.policy import render_counts
from felix.config.exits import ExitCode
from felix.dataplane.nft.counters import Counted
from felix.dataplane.nft.types import Count
from felix.model.keys import ResourceKey
from felix.obs.metrics import Metrics
from felix.obs.serve import serve_local_api
from felix.policy_counts import OTHERS, SERIES_LIMIT, make_counts, show_counts

WEB = ResourceKey("NetworkPolicy", "blue", "default.web")
OPEN = ResourceKey("Profile", "", "open")
COUNTED = {
    "a": Counted(WEB, "default", "ingress", Action.ALLOW),
    "b": Counted(WEB, "default", "ingress", Action.ALLOW, 2),
    "c": Counted(OPEN, "", "egress", Action.DENY),
    "gone": Counted(OPEN, "", "egress", Action.PASS),
}
COUNTS = {"a": Count(7, 420), "b": Count(3, 180), "c": Count(0, 0), "spoofed": Count(5, 1)}


def test_counters_are_listed_by_policy_and_direction() -> None:
    assert list(render_counts(make_counts(COUNTED, COUNTS))) == [
        "POLICY                           TIER     DIRECTION  RULE  ACTION  PACKETS  BYTES",
        "NetworkPolicy(blue/default.web)  default  ingress    all   Allow         7    420",
        "NetworkPolicy(blue/default.web)  default  ingress    2     Allow         3    180",
        "Profile(open)                             egress     all   Deny          0      0",
    ]


def test_counters_become_metrics_of_policies_but_not_of_rules() -> None:
    metrics = Metrics()
    show_counts(metrics, make_counts(COUNTED, COUNTS), COUNTS)
    assert metrics.policy_packets.value("NetworkPolicy", "blue", "default.web", "ingress", "Allow") == 7
    assert metrics.dropped_packets.value("spoofed") == 5
    show_counts(metrics, [], {})
    assert metrics.policy_packets.value("NetworkPolicy", "blue", "default.web", "ingress", "Allow") == 0


def test_counters_of_very_many_policies_are_bounded_series() -> None:
    keys = [ResourceKey("Profile", "", f"p{number}") for number in range(SERIES_LIMIT + 10)]
    counted = {key.name: Counted(key, "", "ingress", Action.ALLOW) for key in keys}
    counts = {key.name: Count(1, 1) for key in keys}
    metrics = Metrics()
    show_counts(metrics, make_counts(counted, counts), counts)
    (family,) = metrics.policy_packets.collect()
    assert len(family.samples) == SERIES_LIMIT + 1
    assert metrics.policy_packets.value(OTHERS, "", OTHERS, "ingress", "Allow") == 10


async def test_counters_of_a_name_that_nothing_has_are_a_no_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FELIX_RUNDIR", str(tmp_path))

    async def answer(_: Mapping[str, str]) -> object:
        return msgspec.to_builtins(make_counts(COUNTED, COUNTS))

    door = await serve_local_api(tmp_path / "felix.sock", {"/v1/policy-counters": answer})
    try:
        assert await asyncio.to_thread(main, ["policy", "counters", "open", "opne"]) == ExitCode.FAILED
    finally:
        await door.close()
    said = capsys.readouterr()
    assert "Profile(open)" in said.out
    assert said.err.startswith("felix: no policy or profile opne is in use on this host and counted; see: felix get")
