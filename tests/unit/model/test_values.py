"""What single values mean: protocols, ports, peers, durations, names."""

from __future__ import annotations

import pytest

from felix.model.endpoints import WorkloadEndpointSpec
from felix.model.net import parse_address
from felix.model.shape import format_path, show
from felix.model.values import (
    PeerAddress,
    duration_s,
    is_port_name,
    parse_peer_address,
    parse_ports,
    policy_name,
    protocol_number,
    workload_endpoint_name,
)


@pytest.mark.parametrize(
    ("given", "number"),
    [
        *(("TCP", 6), ("tcp", 6), ("ICMPv6", 58), ("UDPLite", 136), (1, 1), (255, 255), ("17", 17)),
        *((0, None), (256, None), (-1, None), ("", None), ("TCP ", None), ("٦", None), ("999999999", None)),
    ],
)
def test_protocol_is_read_by_name_and_number(given: int | str, number: int | None) -> None:
    assert protocol_number(given) == number


@pytest.mark.parametrize(
    ("given", "ports"),
    [
        *((80, (80, 80)), ("80", (80, 80)), ("80:90", (80, 90)), (0, (0, 0)), ("1:65535", (1, 65535))),
        *((-1, None), (65536, None), ("90:80", None), ("80-90", None), ("http", None), ("", None), ("80:", None)),
    ],
)
def test_ports_are_read_as_number_and_range(given: int | str, ports: tuple[int, int] | None) -> None:
    assert parse_ports(given) == ports


def test_port_name_is_neither_number_nor_range() -> None:
    assert [is_port_name(text) for text in ("http", "80", "80:90", "a b", "", 80)] == [True, *[False] * 5]


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.1", "10.0.0.1", None),
        ("10.0.0.1:1179", "10.0.0.1", 1179),
        ("fd00::1", "fd00::1", None),
        ("[fd00::1]:1179", "fd00::1", 1179),
        ("[fd00::1]", "fd00::1", None),
    ],
)
def test_peer_address_has_a_port_or_none(text: str, host: str, port: int | None) -> None:
    assert parse_peer_address(text) == PeerAddress(parse_address(host), port)


@pytest.mark.parametrize(
    "text", ["", "x", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:99999", "[fd00::1", "10.0.0.1/32", "[fd00::1]x"]
)
def test_peer_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_peer_address(text)


def test_duration_is_in_seconds() -> None:
    assert [duration_s(text) for text in ("1m30s", "0.5s", "250ms", "0", "")] == [90.0, 0.5, 0.25, 0.0, None]
    with pytest.raises(ValueError, match="no duration"):
        duration_s("30")


def test_policy_name_loses_the_prefix_of_its_own_tier_only() -> None:
    assert policy_name("default.a", "") == "a"
    assert policy_name("ops.a", "ops") == "a"
    assert policy_name("ops.a", "") == "ops.a"
    assert policy_name("default.", "") == "default."


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (WorkloadEndpointSpec("cni", node="a-b", container_id="c", endpoint="eth0"), "a--b-cni-c-eth0"),
        (WorkloadEndpointSpec("k8s", node="n", pod="p-1", endpoint="eth0"), "n-k8s-p--1-eth0"),
        (WorkloadEndpointSpec("libnetwork", node="n", workload="w", endpoint="e"), "n-libnetwork-libnetwork-e"),
        (WorkloadEndpointSpec("mesos", node="n", workload="w-1", endpoint="e"), "n-mesos-w--1-e"),
    ],
)
def test_workload_endpoint_name_doubles_dashes(spec: WorkloadEndpointSpec, name: str) -> None:
    assert workload_endpoint_name(spec) == name


def test_path_and_value_are_shown_in_one_printable_line() -> None:
    assert format_path(("spec", "ingress", 2, "source", "nets", 0)) == "spec.ingress[2].source.nets[0]"
    assert format_path(("metadata", "labels", "a.b/c\n")) == r"metadata.labels['a.b/c\n']"
    assert show("a\nb") == r"'a\nb'"
    assert len(show("x" * 1000)) == 100
