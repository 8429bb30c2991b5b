"""What a container interface is to be, without a kernel."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from felix.attach.render import LinkFacts, RouteSpec, is_pair, plan_routes
from felix.attach.veth import GATEWAY_V4, HOST_MAC, VethSpec, find_problem, link_local_of
from felix.model.net import Net, parse_net

V4, V6 = parse_net("10.1.0.7"), parse_net("fd00::7")
SPEC = VethSpec("cali0123456789a", "eth0", addresses=(V4, V6))
GATEWAY_V6 = parse_net("fe80::ecee:eeff:feee:eeee")


@pytest.mark.parametrize(
    ("mac", "address"), [(HOST_MAC, "fe80::ecee:eeff:feee:eeee"), ("02:00:00:00:00:0A", "fe80::ff:fe00:a")]
)
def test_link_local_of_a_mac_is_what_the_kernel_makes_of_it(mac: str, address: str) -> None:
    assert link_local_of(mac) == parse_net(address)


@pytest.mark.parametrize(
    ("addresses", "gateways"),
    [((), ()), ((V4,), (GATEWAY_V4,)), ((V6,), (GATEWAY_V6,)), ((V6, V4), (GATEWAY_V4, GATEWAY_V6))],
)
def test_gateways_are_those_of_the_families_with_an_address(
    addresses: tuple[Net, ...], gateways: tuple[Net, ...]
) -> None:
    assert replace(SPEC, addresses=addresses).gateways == gateways


def test_routes_reach_the_gateway_before_they_lead_through_it() -> None:
    assert plan_routes(SPEC) == (
        RouteSpec(4, GATEWAY_V4, None),
        RouteSpec(4, None, GATEWAY_V4),
        RouteSpec(6, None, GATEWAY_V6),
    )
    assert plan_routes(replace(SPEC, default_route=False)) == (RouteSpec(4, GATEWAY_V4, None),)


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, addresses=()),
        replace(SPEC, mac="02:00:00:00:00:01", mtu=9000),
        replace(SPEC, mtu=576, addresses=(V4,)),
        replace(SPEC, interface="eth0.1-x_y@z"),
    ],
)
def test_spec_that_can_be_made_has_no_problem(spec: VethSpec) -> None:
    assert find_problem(spec) is None


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (replace(SPEC, host_end="cali0123456789ab"), "host_end"),
        (replace(SPEC, host_end=""), "host_end"),
        *(
            (replace(SPEC, interface=name), "interface")
            for name in ("a/b", "..", "lo", "all", "e h", "e%d", "é", "a:b")
        ),
        (replace(SPEC, mac="02:00:00:00:00"), "mac: .*no MAC"),
        (replace(SPEC, mac="01:00:00:00:00:01"), "mac: .*unicast"),
        (replace(SPEC, mac="00:00:00:00:00:00"), "mac: .*unicast"),
        (replace(SPEC, host_mac=""), "host_mac"),
        (replace(SPEC, mtu=67, addresses=()), "mtu: 67"),
        (replace(SPEC, mtu=1279), "between 1280"),
        (replace(SPEC, mtu=65536), "mtu: 65536"),
        (replace(SPEC, mtu=-1), "mtu: -1"),
        (replace(SPEC, addresses=(parse_net("10.1.0.0/24"),)), "addresses: 10.1.0.0/24 is a prefix"),
        (replace(SPEC, addresses=(V4, V6, V4)), "addresses: 10.1.0.7/32 stands there twice"),
    ],
)
def test_spec_that_no_host_can_make_has_a_problem_that_names_the_field(spec: VethSpec, reason: str) -> None:
    assert re.search(reason, find_problem(spec) or "")


@pytest.mark.parametrize(
    ("host", "inside", "nsid", "expected"),
    [
        ({}, {}, 0, True),
        ({}, {}, 1, False),
        ({"peer_nsid": -1}, {}, -1, False),
        ({"peer_index": 9}, {}, 0, False),
        ({}, {"peer_index": 9}, 0, False),
        ({"kind": "macvlan"}, {}, 0, False),
        ({}, {"kind": "macvlan"}, 0, False),
    ],
)
def test_two_links_are_a_pair_only_when_each_names_the_other_and_the_namespace(
    host: dict[str, Any], inside: dict[str, Any], nsid: int, expected: bool
) -> None:
    here = LinkFacts(5, "cali1", "veth", b"", 1500, True, peer_index=2, peer_nsid=0)
    there = LinkFacts(2, "eth0", "veth", b"", 1500, True, peer_index=5, peer_nsid=0)
    assert is_pair(replace(here, **host), replace(there, **inside), nsid) is expected
