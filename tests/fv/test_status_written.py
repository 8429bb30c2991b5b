"""What the agent writes for others, read as Calico's own tools read it."""

from __future__ import annotations

import json
import re

import pytest

from felix.lab.store import Document
from tests.support.fv import Fleet

pytestmark = pytest.mark.fv

STATUS = "/calico/felix/v2/no-region/host"


def endpoint_key(host: str, name: str, namespace: str = "blue") -> str:
    return f"{STATUS}/{host}/workload/cni/{namespace}%2f{name}/endpoint/eth0"


def read(fleet: Fleet, key: str) -> Document | None:
    stored = fleet.lab.store.get(key)
    return None if stored is None else stored[0]


def test_endpoint_status_follows_the_interface_and_goes_with_the_endpoint(fleet: Fleet) -> None:
    key = endpoint_key("h1", "noted")
    workload = fleet.add("noted", fleet.h1, "blue", "33")
    try:
        fleet.wait(lambda: read(fleet, key) == {"status": "up"}, f"{key} to be up")
        fleet.h1.configure(f"link set {workload.interface} down")
        fleet.wait(lambda: read(fleet, key) == {"status": "down"}, f"{key} to be down")
        fleet.h1.configure(f"link set {workload.interface} up")
        fleet.wait(lambda: read(fleet, key) == {"status": "up"}, f"{key} to be up")
    finally:
        fleet.remove("noted")
    fleet.wait(lambda: read(fleet, key) is None, f"{key} to be gone")


def test_endpoint_status_of_each_host_stands_below_its_own_name(fleet: Fleet) -> None:
    expected = {
        endpoint_key("h1", "client"),
        endpoint_key("h1", "guest", "red"),
        endpoint_key("h1", "near"),
        endpoint_key("h2", "far", "red"),
    }

    def found() -> dict[str, Document]:
        rows = fleet.lab.store.list_prefix(f"{STATUS}/")
        return {key: document for key, document in rows.items() if "/workload/" in key}

    fleet.wait(lambda: found() == {key: {"status": "up"} for key in expected}, "all endpoints to be up")


def test_agent_status_is_leased_and_its_last_one_stays(fleet: Fleet) -> None:
    for host in fleet.lab.hosts:
        printed = fleet.lab.fabric.run(["etcdctl", "get", "-w", "json", f"{STATUS}/{host.name}/status"]).stdout
        (row,) = json.loads(printed)["kvs"]
        left = json.loads(
            fleet.lab.fabric.run(["etcdctl", "lease", "timetolive", "-w", "json", f"{row['lease']:x}"]).stdout
        )
        assert 0 < left["ttl"] <= left["granted-ttl"] == 90

        last = fleet.lab.fabric.run(
            ["etcdctl", "get", "-w", "json", f"{STATUS}/{host.name}/last_reported_status"]
        ).stdout
        (kept,) = json.loads(last)["kvs"]
        assert kept.get("lease", 0) == 0
        for key in ("status", "last_reported_status"):
            document = read(fleet, f"{STATUS}/{host.name}/{key}")
            assert document is not None
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", str(document["time"]))
            assert float(str(document["uptime"])) >= 0
            assert isinstance(document["first_update"], bool)


def test_endpoint_file_stands_exactly_while_the_endpoint_is_enforced(fleet: Fleet) -> None:
    workload = fleet.add("filed", fleet.h1, "blue", "34")
    file = fleet.h1.directory / "status" / "endpoint-status" / "cni blue%2Ffiled eth0"
    try:
        fleet.wait(file.exists, "the endpoint's file")
        stored = fleet.lab.store.get(workload.record.key)
        assert stored is not None
        spec = stored[0]["spec"]
        assert isinstance(spec, dict)
        assert json.loads(file.read_text()) == {
            "ifaceName": workload.interface,
            "mac": spec["mac"],
            "ipv4Nets": ["192.168.1.34/32"],
            "ipv6Nets": ["fd00:192:168::1:22/128"],
        }
        fleet.h1.configure(f"link set {workload.interface} down")
        fleet.wait(lambda: not file.exists(), "the file to be gone")
        fleet.h1.configure(f"link set {workload.interface} up")
        fleet.wait(file.exists, "the endpoint's file")
    finally:
        fleet.remove("filed")
    fleet.wait(lambda: not file.exists(), "the file to be gone")
