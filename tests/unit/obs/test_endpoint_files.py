"""Endpoint files: what a CNI plug-in waits for."""

from __future__ import annotations

import json
from pathlib import Path

from felix.calc.desired import LocalEndpoint, Stack
from felix.model.keys import ResourceKey
from felix.model.net import parse_net
from felix.obs.endpoint_files import EndpointFiles, format_file_name, render_endpoint_file

NOTHING = Stack((), ())
ENDPOINT = LocalEndpoint(
    key=ResourceKey("WorkloadEndpoint", "prod", "h1-cni-abc-eth0"),
    interface="cali123",
    addresses=(parse_net("10.65.0.2"), parse_net("fd00::2")),
    mac="ee:ee:ee:ee:ee:ee",
    ingress=NOTHING,
    egress=NOTHING,
    revision=7,
)


def test_file_name_with_odd_characters_is_escaped_as_a_path_segment() -> None:
    assert format_file_name("cni", "prod", "a b/c,d", "eth0") == "cni prod%2Fa%20b%2Fc%2Cd eth0"


def test_endpoint_file_when_rendered_holds_interface_mac_and_both_families() -> None:
    assert json.loads(render_endpoint_file(ENDPOINT)) == {
        "ifaceName": "cali123",
        "mac": "ee:ee:ee:ee:ee:ee",
        "ipv4Nets": ["10.65.0.2/32"],
        "ipv6Nets": ["fd00::2/128"],
    }


def test_endpoint_files_after_a_restart_leave_right_files_untouched_and_drop_stale_ones(tmp_path: Path) -> None:
    before = EndpointFiles(tmp_path)
    before.load()
    before.put("right", b"1")
    before.put("stale", b"2")
    inode = (tmp_path / "endpoint-status" / "right").stat().st_ino
    (tmp_path / "endpoint-status" / ".half").write_bytes(b"")

    after = EndpointFiles(tmp_path)
    after.load()
    after.put("right", b"1")
    after.keep_only({"right"})

    assert sorted(path.name for path in (tmp_path / "endpoint-status").iterdir()) == ["right"]
    assert (tmp_path / "endpoint-status" / "right").stat().st_ino == inode


def test_endpoint_files_when_dropped_twice_are_simply_gone(tmp_path: Path) -> None:
    files = EndpointFiles(tmp_path)
    files.load()
    files.put("a", b"1")
    (tmp_path / "endpoint-status" / "a").unlink()
    files.drop("a")
    files.drop("a")
    assert list((tmp_path / "endpoint-status").iterdir()) == []
