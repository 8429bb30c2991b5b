"""A policy that the kernel does not take closes its endpoints; the one before it does not stay in force instead."""

from __future__ import annotations

import pytest
import yaml

from felix.lab.place import wait_until
from tests.support.fv import Fleet, make_path

pytestmark = pytest.mark.fv

_TIERS = 20  # the kernel follows 16 jumps


def _tiers() -> str:
    documents = []
    for number in range(_TIERS):
        denies = "{action: Deny, protocol: TCP, destination: {ports: [80]}}, " if number == _TIERS - 1 else ""
        documents += [
            f"{{kind: Tier, name: t{number}, spec: {{order: {number + 1}}}}}",
            f"{{kind: GlobalNetworkPolicy, name: t{number}.p, spec: {{tier: t{number}, selector: grade == 'gold',"
            f" types: [Ingress], ingress: [{denies}{{action: Pass}}]}}}}",
        ]
    return "\n---\n".join(documents)


def test_endpoint_whose_new_policy_is_too_deep_is_closed_and_says_so(fleet: Fleet) -> None:
    assert fleet.is_open("tcp 80 to near")
    paths = []
    try:
        for document in yaml.safe_load_all(_tiers()):
            fleet.put(document["kind"], document["name"], document["spec"])
            paths.append(make_path(document["kind"], "", document["name"]))
        wait_until(lambda: "refuses its chains" in fleet.endpoint_status("near")[1], 20.0, "the refusal")
        fleet.forget_connections()
        fleet.check_packets(allowed=["guest tcp 80 to client"], denied=["tcp 80 to near", "tcp 81 to near"])
    finally:
        for path in paths:
            fleet.lab.store.delete(path)
    fleet.wait_up("near")
    wait_until(lambda: fleet.is_open("tcp 80 to near"), 20.0, "near is open again")
