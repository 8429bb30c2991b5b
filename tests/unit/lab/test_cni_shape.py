"""What a CNI result must look like in each version: what is right passes, and every slip is named."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from felix.errors import DataError
from felix.lab.cni.conformance import make_config, pick_config
from felix.lab.cni.shape import VERSIONS, addresses_of, find_error_faults, find_result_faults, routes_of
from felix.lab.cni.verdict import Report, Topic, render_verdict

_NETNS = "/run/netns/x"
_OLD: dict[str, Any] = {
    "cniVersion": "0.2.0",
    "ip4": {"ip": "10.1.0.7/32", "gateway": "169.254.1.1", "routes": [{"dst": "0.0.0.0/0"}]},
    "ip6": {"ip": "fd00::7/128"},
    "dns": {"nameservers": ["10.0.0.1"]},
}
_NEW: dict[str, Any] = {
    "cniVersion": "0.4.0",
    "interfaces": [
        {"name": "cali1", "mac": "ee:ee:ee:ee:ee:ee"},
        {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": _NETNS},
    ],
    "ips": [
        {"version": "4", "address": "10.1.0.7/32", "gateway": "169.254.1.1", "interface": 1},
        {"version": "6", "address": "fd00::7/128", "interface": 1},
    ],
    "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
    "dns": {},
}


def _result(version: str) -> dict[str, Any]:
    """Returns a right result of that version."""
    result = copy.deepcopy(_OLD if version in {"0.1.0", "0.2.0"} else _NEW)
    result["cniVersion"] = version
    if version in {"1.0.0", "1.1.0"}:
        for ip in result["ips"]:
            del ip["version"]
    if version == "1.1.0":
        result["interfaces"][1]["mtu"] = 1500
        result["routes"][0]["mtu"] = 1400
    return result


def _faults(version: str, result: dict[str, Any]) -> str:
    return "; ".join(find_result_faults(version, result, _NETNS, "eth0"))


@pytest.mark.parametrize("version", VERSIONS)
def test_result_of_a_version_passes_in_that_version_alone(version: str) -> None:
    result = _result(version)

    assert _faults(version, result) == ""
    assert addresses_of(result) == ["10.1.0.7/32", "fd00::7/128"]
    assert routes_of(result) == ["0.0.0.0/0"]
    for other in VERSIONS:
        if other != version:
            assert "cniVersion is" in _faults(other, result)


def test_result_of_the_first_version_may_leave_its_version_out() -> None:
    result = _result("0.1.0")
    del result["cniVersion"]
    assert _faults("0.1.0", result) == ""


@pytest.mark.parametrize(
    ("version", "path", "value", "fault"),
    [
        ("0.2.0", ("ip4", "ip"), "10.1.0.7", "ip4.ip is '10.1.0.7', not an address with prefix length"),
        ("0.2.0", ("ip4", "ip"), "fd00::7/128", "not of IPv4"),
        ("0.2.0", ("ips",), [], "has 'ips', which this version does not know"),
        ("0.4.0", ("interfaces", 1, "sandbox"), "/run/netns/other", "none is 'eth0' with sandbox"),
        ("0.4.0", ("interfaces", 1, "mac"), None, "interfaces[1] has no mac"),
        ("0.4.0", ("interfaces", 0, "mac"), "ee:ee", "interfaces[0].mac is 'ee:ee'"),
        ("0.4.0", ("interfaces", 0, "mtu"), 1500, "has 'mtu', which this version does not know"),
        ("0.4.0", ("ips", 0, "version"), None, 'ips[0].version is None, not "4" or "6"'),
        ("0.4.0", ("ips", 0, "version"), "6", "not of IPv6"),
        ("0.4.0", ("ips", 0, "interface"), 0, "ips[0].interface is 0, but the container's interface is number 1"),
        ("0.4.0", ("ips",), [], "ips: no address"),
        ("1.0.0", ("ips", 0, "version"), "4", "has 'version', which this version does not know"),
        ("1.0.0", ("routes", 0, "dst"), "10.1.0.7/8", "routes[0].dst"),
        ("1.0.0", ("routes", 0, "mtu"), 1500, "has 'mtu', which this version does not know"),
        ("1.0.0", ("dns", "server"), "10.0.0.1", "dns has 'server'"),
    ],
)
def test_slip_in_a_result_is_named(version: str, path: tuple[str | int, ...], value: object, fault: str) -> None:
    result = _result(version)
    place: Any = result
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value

    assert fault in _faults(version, result)


def test_result_of_an_address_plugin_names_no_interfaces() -> None:
    result = _result("1.0.0")
    assert "an address plug-in makes none" in "; ".join(find_result_faults("1.0.0", result, "", ""))
    del result["interfaces"]
    for ip in result["ips"]:
        del ip["interface"]
    assert find_result_faults("1.0.0", result, "", "") == []


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (None, "stdout is not one JSON object"),
        ({"msg": "x"}, "code is None"),
        ({"code": 0, "msg": "x"}, "code is 0"),
        ({"code": True, "msg": "x"}, "code is True"),
        ({"code": 4, "msg": ""}, "msg is not a text"),
        ({"code": 4, "msg": "x", "details": {}}, "details is not a text"),
        ({"code": 4, "msg": "x", "why": "y"}, "has 'why'"),
        ({"code": 4, "msg": "x", "cniVersion": 1}, "cniVersion is not a text"),
    ],
)
def test_slip_in_an_error_is_named(error: dict[str, Any] | None, fault: str) -> None:
    assert fault in "; ".join(find_error_faults(error))


def test_error_of_the_right_form_passes() -> None:
    assert find_error_faults({"cniVersion": "1.0.0", "code": 4, "msg": "missing", "details": "CNI_NETNS"}) == []


def test_part_of_a_list_is_the_one_of_the_plugin() -> None:
    own: dict[str, Any] = {"type": "bridge", "ipam": {"type": "host-local"}}
    whole: dict[str, Any] = {"cniVersion": "1.0.0", "name": "n", "plugins": [own, {"type": "portmap"}]}

    assert pick_config(whole, "bridge", "f") == {**own, "name": "n"}
    assert pick_config(whole, "host-local", "f") == {**own, "name": "n"}
    assert pick_config({"name": "n", "type": "other", "cniVersion": "1.0.0"}, "mine", "f")["type"] == "other"
    with pytest.raises(DataError, match="f: no plug-in of type 'ptp' in it"):
        pick_config(whole, "ptp", "f")
    with pytest.raises(DataError, match="expected an object with name and type"):
        pick_config([whole], "bridge", "f")


def test_plugin_that_is_not_known_has_no_configuration(tmp_path: Any) -> None:
    assert make_config("macvlan", None, tmp_path) is None


def test_report_counts_and_shows_what_failed() -> None:
    topic = Topic("ADD", "1.0.0")
    good = topic.judge("works", "exit 0", "exit 0", is_right=True)
    bad = topic.judge("is quick", "soon", "late", is_right=False)
    left_out = topic.skip("is pretty", "yes", "nobody can tell")

    report = Report("mine", ["1.0.0"], [good, bad, left_out])

    assert report.summary() == "mine: 1 pass, 1 fail, 1 skip; it speaks 1.0.0"
    assert report.document()["summary"] == {"pass": 1, "fail": 1, "skip": 1}
    assert not report.is_good
    assert Report("mine", ["1.0.0"], [good, left_out]).is_good
    assert not Report("mine", ["1.0.0"], [left_out]).is_good
    assert render_verdict(bad).splitlines()[1:] == ["      expected: soon", "      seen:     late"]
    assert render_verdict(left_out).startswith("skip  ADD      1.0.0   is pretty ")
