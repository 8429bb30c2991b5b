"""New connections that one source may open, as annotations of policies say, with real packets."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from felix.calc.limits import BURST_ANNOTATION, RATE_ANNOTATION
from felix.lab.probe import echo
from felix.lab.store import Document
from tests.support.fv import Fleet
from tests.support.load import (
    count_delivered,
    count_openings,
    flooding,
    measure_answers,
    open_connections,
    read_conntrack,
)
from tests.support.nft import count_dropped

pytestmark = [pytest.mark.fv, pytest.mark.alone]
_PER_S, _FLOOD_S = 3000, 1.0
_RATE, _BURST = 50, 50
_OPEN: Document = {"selector": "role == 'server'", "types": ["Ingress"], "ingress": [{"action": "Allow"}]}


@contextmanager
def annotated(fleet: Fleet, rate: object, burst: int = 100, kind: str = "GlobalNetworkPolicy") -> Iterator[None]:
    """While inside, a policy lets everything in to servers, from each source so many connections a second."""
    namespace = {"namespace": "blue"} if kind == "NetworkPolicy" else {}
    annotations = {RATE_ANNOTATION: str(rate), BURST_ANNOTATION: str(burst)}
    manifest = {"kind": kind, "name": "default.calm", **namespace, "annotations": annotations, "spec": _OPEN}
    before = _flood_chains(fleet)
    with fleet.stored(json.dumps(manifest)):
        yield
    fleet.wait(lambda: _flood_chains(fleet) == before, "the rate to go", 20.0)


@pytest.mark.parametrize("kind", ["syn", "udp", "icmp"])
def test_flood_against_an_endpoint_whose_policy_is_annotated_keeps_nobody_else_out(fleet: Fleet, kind: str) -> None:
    client, guest, near, h1 = (fleet.sites[name] for name in ("client", "guest", "near", "h1"))
    for port, protocol in ((5353, "udp"), (8092, "tcp")):
        near.place.listen(port, protocol)
    with annotated(fleet, _RATE, _BURST):
        fleet.forget_connections()
        dropped = count_dropped(fleet.h1, "flooding")
        with flooding(kind, client, near, per_s=_PER_S, seconds=_FLOOD_S):
            answers = measure_answers(guest, near, 5353, 60)
            opened = [one for version in (4, 6) for one in open_connections(guest, near, version, 8092, 5)]
        tracked = read_conntrack(h1)
        assert count_dropped(fleet.h1, "flooding") > dropped + _PER_S * _FLOOD_S / 4
    for one in opened:
        one.close()
    assert answers[-1] < 1.0  # every question was answered
    assert len(opened) == 10
    assert tracked < 10 * _RATE


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["GlobalNetworkPolicy", "NetworkPolicy"])
def test_annotated_rate_holds_for_each_source_towards_each_endpoint(fleet: Fleet, kind: str, version: int) -> None:
    client, guest, near, far = (fleet.sites[name] for name in ("client", "guest", "near", "far"))
    with annotated(fleet, 1, 6, kind):
        started = time.monotonic()
        reached = count_openings(client, near, version, 12)
        assert 6 <= reached <= 7 + (time.monotonic() - started)
        assert count_openings(guest, near, version, 6) == 6  # of another source
        assert count_openings(near, client, version, 12) == 12  # in the other direction
        reached = count_openings(client, far, version, 12)  # towards another endpoint, which is in another namespace
        assert reached == 12 if kind == "NetworkPolicy" else 6 <= reached < 12
    assert count_openings(client, near, version, 12) == 12


def test_setting_and_annotation_hold_both(fleet: Fleet) -> None:
    client, near = fleet.sites["client"], fleet.sites["near"]
    fleet.restart_agent({"FELIX_NEWCONNECTIONRATEPERSOURCE": "1", "FELIX_NEWCONNECTIONBURSTPERSOURCE": "8"})
    for burst, expected in ((100, range(4, 12)), (4, range(3, 7))):
        fleet.h1.run(["nft", "flush", "set", "inet", "felix", "flood-sources4"])
        with annotated(fleet, 1, burst):
            assert count_openings(client, near, 4, 20) in expected
    fleet.restart_agent({})


def test_annotation_that_comes_changes_and_goes_leaves_open_connections(fleet: Fleet) -> None:
    client, near = fleet.sites["client"], fleet.sites["near"]
    near.place.listen(8092)
    before = _flood_chains(fleet)
    kept = [client.place.open(near.address(version), 8092) for version in (4, 6)]
    for rate, burst in ((1, 1), (1, 8), (1_000_000, 1_000_000), (1, 2)):
        with annotated(fleet, rate, burst):
            assert _flood_chains(fleet) - before == {f"flood-{rate}-{burst}", "flood-endpoints"}
            for one in kept:
                echo(one)
            assert (count_openings(client, near, 4, 8) == 8) == (burst >= 8)
    for one in kept:
        echo(one)
        one.close()
    assert _flood_chains(fleet) == before


@pytest.mark.parametrize("rate", ["50/s", "", "-1"])
def test_annotation_that_nobody_can_use_is_named_and_its_policy_enforced(fleet: Fleet, rate: str) -> None:
    with annotated(fleet, rate):
        problems = str(fleet.status(fleet.h1)["problems"])
        assert f"metadata.annotations[{RATE_ANNOTATION}]" in problems
        assert "default.calm" in problems
        fleet.check(("client tcp 80 to near",), ())
        assert count_openings(fleet.sites["client"], fleet.sites["near"], 4, 120) == 120


@pytest.mark.parametrize("version", [4, 6])
def test_stream_of_datagrams_that_nobody_answers_is_one_connection(fleet: Fleet, version: int) -> None:
    with annotated(fleet, 1, 2):
        assert count_delivered(fleet.sites["client"], fleet.sites["near"], version, 40, 0.2) == 40


def _flood_chains(fleet: Fleet) -> set[str]:
    listed = fleet.h1.run(["nft", "list", "chains", "inet"]).stdout
    return {word for word in listed.split() if word.startswith("flood-")}
