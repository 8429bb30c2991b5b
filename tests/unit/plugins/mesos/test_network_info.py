"""NetworkInfo of every age: what it says, what it asks for, what is refused and how that is said."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from felix.plugins.mesos.network_info import (
    STATUS_LABEL,
    BadNetworkInfo,
    Demand,
    Form,
    IpAddress,
    Json,
    NetworkInfo,
    PortMapping,
    count_demand,
    find_form,
    make_status,
    parse_network_info,
    parse_network_infos,
    read_status_addresses,
    render_network_info,
    render_status,
)

FLAT: Json = {"ip_address": "10.1.0.7", "groups": ["a"], "labels": {"labels": [{"key": "k", "value": "v"}]}}
LISTED: Json = {"ip_addresses": [{"ip_address": "10.1.0.7"}, {"protocol": "IPv6"}], "groups": ["a", "b"]}
NAMED: Json = {
    "ip_addresses": [{"protocol": "IPv4"}],
    "name": "net1",
    "port_mappings": [{"host_port": 8080, "container_port": 80, "protocol": "tcp"}],
}


def test_form_of_0_25_has_one_address_beside_groups_and_labels() -> None:
    info = parse_network_info(FLAT)
    assert info == NetworkInfo((IpAddress("", "10.1.0.7"),), ("a",), {"k": "v"})
    assert render_network_info(info, Form.FLAT) == FLAT


def test_form_of_0_26_has_several_addresses() -> None:
    info = parse_network_info(LISTED)
    assert info == NetworkInfo((IpAddress("", "10.1.0.7"), IpAddress("IPv6")), ("a", "b"))
    assert render_network_info(info, Form.LISTED) == LISTED


def test_form_of_1_0_has_a_name_and_port_mappings() -> None:
    info = parse_network_info(NAMED)
    assert info == NetworkInfo((IpAddress("IPv4"),), name="net1", port_mappings=(PortMapping(8080, 80, "tcp"),))
    assert render_network_info(info, Form.NAMED) == NAMED


@pytest.mark.parametrize(
    ("document", "form", "demand"),
    [
        ({}, Form.FLAT, Demand(ipv4=1)),
        ({"protocol": "IPv6"}, None, Demand(ipv6=1)),
        ({"ip_address": "fd00::7"}, None, Demand(addresses=("fd00::7",))),
        ({}, None, Demand()),
        ({"ip_addresses": [{}]}, None, Demand(ipv4=1)),
        ({"ip_addresses": [{}, {"protocol": "IPv4"}, {"protocol": "IPv6"}]}, None, Demand(ipv4=2, ipv6=1)),
        (
            {"ip_addresses": [{"ip_address": "10.1.0.7"}, {}, {"ip_address": "FD00:0::7"}]},
            None,
            Demand(ipv4=1, addresses=("10.1.0.7", "fd00::7")),
        ),
        ({"ip_addresses": [{"protocol": "IPv4", "ip_address": "10.1.0.7"}]}, None, Demand(addresses=("10.1.0.7",))),
    ],
)
def test_demand_is_counted_per_family_with_static_addresses_apart(
    document: Json, form: Form | None, demand: Demand
) -> None:
    assert count_demand([parse_network_info(document, form=form)]) == demand


def test_protocol_that_mesos_1_4_filled_in_by_default_does_not_overrule_the_address() -> None:
    document: Json = {"name": "net1", "ip_addresses": [{"protocol": "IPv4", "ip_address": "fd00::7"}]}
    assert parse_network_info(document).ip_addresses == (IpAddress("IPv6", "fd00::7"),)


def test_flat_address_beside_the_list_that_repeats_it_counts_once() -> None:
    document: Json = {"protocol": "IPv4", "ip_address": "10.1.0.7", "ip_addresses": [{"ip_address": "10.1.0.7"}]}
    assert count_demand([parse_network_info(document)]) == Demand(addresses=("10.1.0.7",))


def test_fields_of_later_versions_are_ignored() -> None:
    assert parse_network_info({"ip_addresses": [{}], "bandwidth": {"egress": 7}}) == NetworkInfo((IpAddress(),))


@pytest.mark.parametrize(
    ("document", "form", "field"),
    [
        ([], None, "network_info: must be an object, not list"),
        ({"protocol": "IPv5"}, None, "network_info.protocol: 'IPv5' is neither IPv4 nor IPv6"),
        ({"protocol": "IPv4", "ip_address": "fd00::7"}, None, "network_info.protocol: is IPv4, but fd00::7 is IPv6"),
        ({"ip_address": "10.1.0"}, None, "network_info.ip_address: '10.1.0' is no IP address"),
        ({"ip_address": 7}, None, "network_info.ip_address: must be text, not int"),
        ({"ip_address": "fe80::1%eth0"}, None, "network_info.ip_address: 'fe80::1%eth0' is no IP address"),
        ({"ip_addresses": {}}, None, "network_info.ip_addresses: must be a list, not dict"),
        ({"ip_addresses": [{}, "x"]}, None, "network_info.ip_addresses[1]: must be an object, not str"),
        ({"ip_addresses": [{}] * 65}, None, "network_info.ip_addresses: has 65 entries; 64 is the most"),
        (
            {"ip_addresses": [{"protocol": "IPv6", "ip_address": "10.1.0.7"}]},
            None,
            "network_info.ip_addresses[0].protocol: is IPv6, but 10.1.0.7 is IPv4",
        ),
        ({"groups": "a"}, None, "network_info.groups: must be a list, not str"),
        ({"groups": [None, 5]}, None, "network_info.groups[1]: must be text, not int"),
        ({"labels": {"labels": [5]}}, None, "network_info.labels.labels[0]: must be an object with key and value"),
        ({"labels": 5}, None, "network_info.labels: must be a list of keys and values or an object, not: int"),
        ({"name": {}}, None, "network_info.name: must be text, not dict"),
        ({"port_mappings": [{"host_port": 1}]}, None, "network_info.port_mappings[0].container_port: must be a port"),
        ({"port_mappings": [{"host_port": 65536}]}, None, "network_info.port_mappings[0].host_port: must be a port"),
        ({"ip_addresses": [{}]}, Form.FLAT, "network_info.ip_addresses: Mesos 0.25 has one address"),
        ({"ip_address": "10.1.0.7"}, Form.NAMED, "network_info.ip_address: Mesos 1.0 has no such field any more"),
        (
            {"ip_address": "10.1.0.7", "ip_addresses": [{}]},
            None,
            "network_info.ip_address: 10.1.0.7 is not among its ip_addresses",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_field(document: object, form: Form | None, field: str) -> None:
    with pytest.raises(BadNetworkInfo) as caught:
        parse_network_info(document, form=form)
    assert str(caught.value).startswith(field)


def test_field_of_a_list_of_infos_has_its_index() -> None:
    with pytest.raises(BadNetworkInfo, match=r"^network_infos\[1\]\.protocol: "):
        parse_network_infos([{}, {"protocol": "x"}])


@pytest.mark.parametrize(
    ("info", "form", "field"),
    [
        (NetworkInfo(name="net1"), Form.LISTED, r"network_info\.name: Mesos 0\.26"),
        (NetworkInfo(port_mappings=(PortMapping(1, 1),)), Form.FLAT, r"network_info\.port_mappings: Mesos 0\.25"),
        (NetworkInfo((IpAddress(), IpAddress())), Form.FLAT, r"network_info\.ip_addresses: Mesos 0\.25 has one"),
        (NetworkInfo(), Form.LABEL, r"network_info: Mesos before 0\.25"),
    ],
)
def test_what_a_form_cannot_say_is_refused_with_its_field(info: NetworkInfo, form: Form, field: str) -> None:
    with pytest.raises(BadNetworkInfo, match=f"^{field}"):
        render_network_info(info, form)


@pytest.mark.parametrize(
    ("version", "form"),
    [
        ("0.23.0", Form.LABEL),
        ("0.24.1", Form.LABEL),
        ("0.25.0", Form.FLAT),
        ("0.26.0", Form.LISTED),
        ("0.28.2", Form.LISTED),
        ("1.0.0", Form.NAMED),
        ("1.11.0", Form.NAMED),
    ],
)
def test_version_of_mesos_tells_the_form(version: str, form: Form) -> None:
    assert find_form(version) is form


@pytest.mark.parametrize("version", ["0.22.0", "", "one", "1", "1.x"])
def test_version_without_networks_is_refused(version: str) -> None:
    with pytest.raises(BadNetworkInfo, match=r"^version: "):
        find_form(version)


@pytest.mark.parametrize("form", list(Form))
def test_status_reports_the_address_in_every_form(form: Form) -> None:
    status = render_status([make_status(["10.1.0.7"])], form)
    assert read_status_addresses(json.loads(json.dumps(status))) == ["10.1.0.7"]


def test_status_before_0_25_is_a_label() -> None:
    status = render_status([make_status(["10.1.0.7"])], Form.LABEL)
    assert status == {"labels": {"labels": [{"key": STATUS_LABEL, "value": "10.1.0.7"}]}}
    assert read_status_addresses({"labels": [{"key": STATUS_LABEL, "value": "10.1.0.8"}]}) == ["10.1.0.8"]


def test_status_before_0_25_cannot_say_two_addresses() -> None:
    with pytest.raises(BadNetworkInfo, match=r"^network_infos: .* not 2"):
        render_status([make_status(["10.1.0.7", "fd00::7"])], Form.LABEL)


def test_status_says_protocol_and_keeps_name_groups_and_labels_of_the_request() -> None:
    request = NetworkInfo((IpAddress(),), ("a",), {"k": "v"}, "net1")
    assert render_network_info(make_status(["10.1.0.7", "FD00::7"], request)) == {
        "ip_addresses": [
            {"protocol": "IPv4", "ip_address": "10.1.0.7"},
            {"protocol": "IPv6", "ip_address": "fd00::7"},
        ],
        "groups": ["a"],
        "labels": {"labels": [{"key": "k", "value": "v"}]},
        "name": "net1",
    }


def test_status_of_mesos_own_isolator_with_a_length_at_the_address_is_understood() -> None:
    infos = [{"name": "net1", "ip_addresses": [{"protocol": "IPv6", "ip_address": "fd00::7/64"}]}]
    assert read_status_addresses({"container_status": {"network_infos": infos}}) == ["fd00::7"]


@pytest.mark.parametrize("status", [{}, {"container_status": {}}, {"labels": []}, {"container_status": None}])
def test_status_without_network_reports_nothing(status: Json) -> None:
    assert read_status_addresses(status) == []


TEXTS = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=8)
ADDRESSES = st.one_of(
    st.sampled_from([IpAddress(), IpAddress("IPv4"), IpAddress("IPv6")]),
    st.ip_addresses(v=4).map(lambda address: IpAddress("IPv4", str(address))),
    st.ip_addresses(v=6).map(lambda address: IpAddress("IPv6", str(address))),
)
INFOS = st.builds(
    NetworkInfo,
    st.lists(ADDRESSES, max_size=4).map(tuple),
    st.lists(TEXTS, max_size=3).map(tuple),
    st.dictionaries(TEXTS, TEXTS, max_size=3),
    TEXTS,
    st.lists(st.builds(PortMapping, st.integers(0, 65535), st.integers(0, 65535), TEXTS), max_size=2).map(tuple),
)


@given(INFOS)
def test_what_is_written_is_read_again_in_the_form_of_1_0(info: NetworkInfo) -> None:
    assert parse_network_info(json.loads(json.dumps(render_network_info(info)))) == info


@given(INFOS)
def test_what_is_written_is_read_again_in_the_form_of_0_26(info: NetworkInfo) -> None:
    info = info._replace(name="", port_mappings=())
    assert parse_network_info(json.loads(json.dumps(render_network_info(info, Form.LISTED)))) == info


@given(INFOS, ADDRESSES)
def test_what_is_written_is_read_again_in_the_form_of_0_25(info: NetworkInfo, address: IpAddress) -> None:
    info = info._replace(name="", port_mappings=(), ip_addresses=(address,))
    document = json.loads(json.dumps(render_network_info(info, Form.FLAT)))
    assert parse_network_info(document, form=Form.FLAT) == info


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "ip_addresses ip_address protocol groups labels name port_mappings key value host_port".split()
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_understood_or_refused_with_a_field(document: object) -> None:
    refused = ""
    try:
        parse_network_info(document)
    except BadNetworkInfo as error:
        refused = str(error)
    assert not refused or refused.startswith("network_info")
