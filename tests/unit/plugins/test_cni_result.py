"""Results of every version: each can be read, each can be written, and nothing is said that a version does not know."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from felix.plugins.cni.refusal import DECODING_FAILURE, INCOMPATIBLE_VERSION, CniError
from felix.plugins.cni.result import Result, addresses_of, parse_result, render_result
from felix.plugins.cni.versions import SUPPORTED, is_before

OLD = ("0.1.0", "0.2.0")


def _dual() -> Result:
    return Result(
        [
            {"name": "cali1", "mac": "ee:ee:ee:ee:ee:ee", "mtu": 1400},
            {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x", "mtu": 1400},
        ],
        [
            {"address": "10.1.0.7/32", "gateway": "169.254.1.1", "interface": 1},
            {"address": "fd00::7/128", "gateway": "fe80::ecee:eeff:feee:eeee", "interface": 1},
        ],
        [{"dst": "0.0.0.0/0", "gw": "169.254.1.1", "mtu": 1400}, {"dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee"}],
        {"nameservers": ["10.0.0.53"], "search": ["felix"]},
    )


@pytest.mark.parametrize("version", OLD)
def test_result_in_an_old_version_has_one_address_per_family_with_its_routes(version: str) -> None:
    document = render_result(_dual(), version)
    assert document == {
        "cniVersion": version,
        "ip4": {
            "ip": "10.1.0.7/32",
            "gateway": "169.254.1.1",
            "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
        },
        "ip6": {
            "ip": "fd00::7/128",
            "gateway": "fe80::ecee:eeff:feee:eeee",
            "routes": [{"dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee"}],
        },
        "dns": {"nameservers": ["10.0.0.53"], "search": ["felix"]},
    }


@pytest.mark.parametrize("version", OLD)
def test_result_in_an_old_version_takes_the_first_address_of_several(version: str) -> None:
    result = Result([], [{"address": "10.1.0.7/32"}, {"address": "10.1.0.8/32"}], [], {})
    assert render_result(result, version)["ip4"] == {"ip": "10.1.0.7/32"}


@pytest.mark.parametrize("version", OLD)
def test_result_without_address_in_an_old_version_is_refused(version: str) -> None:
    with pytest.raises(CniError) as caught:
        render_result(Result([{"name": "eth0", "sandbox": "/x"}], [], [], {}), version)
    assert caught.value.code == INCOMPATIBLE_VERSION


@pytest.mark.parametrize("version", [one for one in SUPPORTED if one not in OLD])
def test_result_names_the_family_of_addresses_only_before_1_0_0(version: str) -> None:
    ips: Any = render_result(_dual(), version)["ips"]
    families = [ip.get("version") for ip in ips]
    assert families == (["4", "6"] if is_before(version, "1.0.0") else [None, None])


@pytest.mark.parametrize("version", [one for one in SUPPORTED if one not in OLD])
def test_result_tells_mtu_of_interfaces_and_routes_only_from_1_1_0_on(version: str) -> None:
    document: Any = render_result(_dual(), version)
    tells = [*(one.get("mtu") for one in document["interfaces"]), document["routes"][0].get("mtu")]
    assert tells == ([1400] * 3 if version == "1.1.0" else [None] * 3)
    assert [one["mac"] for one in document["interfaces"]] == ["ee:ee:ee:ee:ee:ee", "02:00:00:00:00:01"]


@pytest.mark.parametrize(("before", "after"), list(itertools.product(SUPPORTED, SUPPORTED)))
def test_result_read_from_one_version_can_be_said_in_every_other(before: str, after: str) -> None:
    read = parse_result(render_result(_dual(), before), before)
    document = render_result(read, after)
    again = parse_result(document, after)
    assert document["cniVersion"] == after
    assert [ip["address"] for ip in again.ips] == ["10.1.0.7/32", "fd00::7/128"]
    assert [ip["gateway"] for ip in again.ips] == ["169.254.1.1", "fe80::ecee:eeff:feee:eeee"]
    assert [route["dst"] for route in again.routes] == ["0.0.0.0/0", "::/0"]
    assert again.dns == _dual().dns


@pytest.mark.parametrize("version", SUPPORTED)
def test_result_that_was_read_is_said_alike_in_its_own_version(version: str) -> None:
    document = render_result(_dual(), version)
    assert render_result(parse_result(document, version), version) == document


def test_result_that_names_its_version_is_read_by_that_one() -> None:
    read = parse_result({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.7/24"}}, "1.0.0")
    assert read.ips == [{"address": "10.1.0.7/24"}]


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ([], DECODING_FAILURE),
        (None, DECODING_FAILURE),
        ({"cniVersion": "9.0.0"}, INCOMPATIBLE_VERSION),
        ({"cniVersion": 1}, INCOMPATIBLE_VERSION),
        ({"cniVersion": "1.0.0", "ips": "10.1.0.7/32"}, DECODING_FAILURE),
        ({"cniVersion": "1.0.0", "ips": [{"gateway": "10.1.0.1"}]}, DECODING_FAILURE),
        ({"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.7/32", "interface": "0"}]}, DECODING_FAILURE),
        ({"cniVersion": "1.0.0", "routes": [7]}, DECODING_FAILURE),
        ({"cniVersion": "0.2.0", "ip4": "10.1.0.7/32"}, DECODING_FAILURE),
        ({"cniVersion": "0.2.0", "ip4": {}}, DECODING_FAILURE),
        ({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.7/32", "routes": {}}}, DECODING_FAILURE),
    ],
)
def test_result_that_is_none_is_refused(document: object, code: int) -> None:
    with pytest.raises(CniError) as caught:
        parse_result(document, "1.0.0")
    assert caught.value.code == code


def test_addresses_of_an_interface_leave_out_those_of_others() -> None:
    result = _dual()
    result.interfaces.append({"name": "eth0", "mac": "02:00:00:00:00:02"})
    result.interfaces.append({"name": "eth1", "sandbox": "/run/netns/x"})
    result.ips += [
        {"address": "10.2.0.1/24", "interface": 2},
        {"address": "10.3.0.1/24", "interface": 3},
        {"address": "10.4.0.1/24", "interface": 99},
        {"address": "10.5.0.1/24"},
    ]
    assert addresses_of(result, "eth0") == ["10.1.0.7/32", "fd00::7/128", "10.4.0.1/24", "10.5.0.1/24"]
