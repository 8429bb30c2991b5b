"""A start without the datastore leaves nothing open that somebody opened while no agent ran."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from felix.lab.place import wait_until
from tests.support.fv import ENVIRONMENT, Fleet

pytestmark = pytest.mark.fv

_CUT = (
    "add table ip cut; add chain ip cut out { type filter hook output priority -400; };"
    "add rule ip cut out ip daddr 10.0.0.254 tcp dport 2379 drop"
)
_POLICY = """
{kind: GlobalNetworkPolicy, name: closed, spec: {selector: grade == 'gold', types: [Ingress], ingress: [
  {action: Deny, protocol: TCP, destination: {ports: [81]}}, {action: Allow}]}}
"""


@pytest.fixture
def orphaned(fleet: Fleet) -> Iterator[Fleet]:
    """No agent runs on the first host, and none there can reach the datastore until the test ends."""
    with fleet.stored(_POLICY):
        fleet.h1.stop_agent(signal.SIGKILL)
        fleet.h1.run(["nft", _CUT])
        yield fleet
        fleet.h1.run(["nft", "delete table ip cut"])
        fleet.h1.start_agent(environment=ENVIRONMENT)
        fleet.h1.wait_agent_ready(30.0)
        fleet.check_packets(allowed=["tcp 80 to near"], denied=["tcp 81 to near"])


@pytest.mark.parametrize(
    "mischief",
    [
        "flush table inet felix",
        "flush chain inet felix forward-ingress",
        "insert rule inet felix gate-to accept",
        "add table inet felix { flags dormant; }",
        "delete table inet felix",
        "delete table inet felix; add table inet felix; add chain inet felix foreign",
    ],
)
def test_table_that_was_opened_guards_again_before_the_datastore_is_there(orphaned: Fleet, mischief: str) -> None:
    orphaned.h1.run(["nft", mischief])
    assert orphaned.is_open("tcp 81 to near")

    orphaned.h1.start_agent(environment=ENVIRONMENT)
    wait_until(lambda: bool(orphaned.status(orphaned.h1)), 20.0, "the agent answers")
    wait_until(lambda: not orphaned.is_open("tcp 81 to near"), 20.0, "what policy denies is closed")
    assert not orphaned.is_open("tcp 81 to near")


def test_table_that_guards_stays_as_it_is_without_the_datastore(orphaned: Fleet) -> None:
    orphaned.h1.start_agent(environment=ENVIRONMENT)
    wait_until(lambda: bool(orphaned.status(orphaned.h1)), 20.0, "the agent answers")
    orphaned.check_packets(allowed=["tcp 80 to near"], denied=["tcp 81 to near"])
