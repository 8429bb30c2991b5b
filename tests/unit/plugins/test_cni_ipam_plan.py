"""How addresses look under plug-ins that make networks of their own."""

from __future__ import annotations

import pytest

from felix.plugins.cni.ipam.plan import handle_of, parse_gateways, place_address, plan_routes
from felix.plugins.cni.refusal import INVALID_CONFIG, CniError


def test_handle_has_the_form_that_calico_uses() -> None:
    assert handle_of("net1", "C1", "eth0") == "net1.c1"
    assert handle_of("net1", "c1", "eth1") == "net1.c1.eth1"


def test_address_without_gateway_stands_alone() -> None:
    assert place_address("10.9.0.7/32", []) == {"address": "10.9.0.7/32"}
    assert place_address("fd00::7/128", []) == {"address": "fd00::7/128"}
    assert plan_routes({}, [], [{"address": "10.9.0.7/32"}]) == []


def test_address_with_gateway_is_in_its_subnet_and_has_a_default_route() -> None:
    gateways = parse_gateways({"gateway": ["10.9.0.1/24", "fd00::1/64"]})
    ips = [place_address("10.9.0.7/32", gateways), place_address("fd00::7/128", gateways)]
    assert ips == [
        {"address": "10.9.0.7/24", "gateway": "10.9.0.1"},
        {"address": "fd00::7/64", "gateway": "fd00::1"},
    ]
    assert plan_routes({}, gateways, ips) == [
        {"dst": "0.0.0.0/0", "gw": "10.9.0.1"},
        {"dst": "::/0", "gw": "fd00::1"},
    ]
    assert plan_routes({}, gateways, ips[:1]) == [{"dst": "0.0.0.0/0", "gw": "10.9.0.1"}]


def test_routes_of_the_configuration_replace_the_default() -> None:
    gateways = parse_gateways({"gateway": "10.9.0.1/24"})
    ips = [place_address("10.9.0.7/32", gateways)]
    assert plan_routes({"routes": []}, gateways, ips) == []
    assert plan_routes({"routes": [{"dst": "10.0.0.0/8", "other": 1}]}, gateways, ips) == [{"dst": "10.0.0.0/8"}]
    with pytest.raises(CniError, match="has no dst"):
        plan_routes({"routes": [{"gw": "10.9.0.1"}]}, gateways, ips)


def test_address_is_placed_in_the_subnet_that_has_it() -> None:
    gateways = parse_gateways({"gateway": ["10.9.0.1/25", "10.9.0.129/25"]})
    assert place_address("10.9.0.7/32", gateways) == {"address": "10.9.0.7/25", "gateway": "10.9.0.1"}
    assert place_address("10.9.0.200/32", gateways) == {"address": "10.9.0.200/25", "gateway": "10.9.0.129"}


@pytest.mark.parametrize("gateway", ["10.9.0.1", "x", "10.9.0.1/33", ["10.9.0.1/24", "10.9.0.130/25"]])
def test_gateway_that_cannot_be_one_is_refused(gateway: object) -> None:
    with pytest.raises(CniError) as caught:
        parse_gateways({"gateway": gateway})
    assert caught.value.code == INVALID_CONFIG


def test_address_outside_of_the_gateways_subnet_is_refused() -> None:
    with pytest.raises(CniError, match=r"10\.8\.0\.7 is in no subnet .* 10\.9\.0\.0/24"):
        place_address("10.8.0.7/32", parse_gateways({"gateway": "10.9.0.1/24"}))
