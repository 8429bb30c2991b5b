"""What the agent is asked for, from configurations as people and runtimes write them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from felix.attach.types import AttachRequest, DetachRequest, GcRequest
from felix.plugins.cni.call import Call
from felix.plugins.cni.conf import Conf, check_version, find_version, parse_conf, refuse_unsupported
from felix.plugins.cni.refusal import (
    DECODING_FAILURE,
    INCOMPATIBLE_VERSION,
    INVALID_CONFIG,
    UNSUPPORTED_FIELD,
    CniError,
    code_for,
)
from felix.plugins.cni.request import attach_body, detach_body, gc_body

MESOS = "org.apache.mesos"


def _conf(**fields: object) -> Conf:
    return parse_conf(json.dumps({"cniVersion": "1.0.0", "name": "net1", "type": "felix-cni"} | fields).encode())


def _call(args: str = "") -> Call:
    return Call(
        {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": "parent.child",
            "CNI_NETNS": "/run/netns/x",
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": args,
        }
    )


def _body(args: str = "", given: tuple[str, ...] = (), /, **fields: object) -> AttachRequest:
    """The body as the agent understands it: fields that it does not know are an error."""
    return msgspec.convert(attach_body(_call(args), _conf(**fields), list(given)), AttachRequest)


def _mesos(**info: object) -> dict[str, Any]:
    return {"args": {MESOS: {"network_info": info}}}


def test_plain_configuration_asks_for_one_ipv4_address() -> None:
    body = _body()
    assert (body.network, body.container, body.interface) == ("net1", "parent.child", "eth0")
    assert (body.netns, body.namespace, body.labels) == ("/run/netns/x", "default", {})
    assert (body.ipv4, body.ipv6, body.addresses, body.given, body.pools) == (1, 0, (), (), ())
    assert body.default_route
    assert body.groups is None
    assert body.has_network_profile
    assert not body.forwarding


def test_ipam_section_chooses_families_and_pools() -> None:
    ipam = {
        "type": "calico-ipam",
        "assign_ipv4": "false",
        "assign_ipv6": "true",
        "ipv4_pools": ["10.1.0.0/16"],
        "ipv6_pools": ["six"],
    }
    body = _body(ipam=ipam)
    assert (body.ipv4, body.ipv6, body.pools) == (0, 1, ("10.1.0.0/16", "six"))


def test_ipam_section_that_assigns_nothing_is_refused() -> None:
    with pytest.raises(CniError, match="neither IPv4 nor IPv6") as caught:
        _body(ipam={"assign_ipv4": False})
    assert caught.value.code == INVALID_CONFIG


def test_settings_of_the_interface_are_passed_on() -> None:
    body = _body(
        mtu=1400,
        container_settings={"allow_ip_forwarding": True},
        include_default_routes=False,
        ports=[{"name": "http", "protocol": "TCP", "port": 80}],
        profiles=["web"],
        runtimeConfig={"mac": "02:00:00:00:00:07"},
    )
    assert (body.mtu, body.forwarding, body.default_route, body.mac) == (1400, True, False, "02:00:00:00:00:07")
    assert body.ports[0].port == 80
    assert body.profiles == ("web",)
    assert not body.has_network_profile


@pytest.mark.parametrize(
    ("runtime", "configured", "expected"),
    [
        ({}, {}, None),
        ({"bandwidth": None}, {}, None),
        ({"bandwidth": {"ingressRate": 0, "ingressBurst": 0}}, {}, None),
        ({"bandwidth": {"ingressRate": 10**6}}, {}, {"ingressBandwidth": 10**6}),
        (
            {"bandwidth": {"ingressRate": 10**6, "ingressBurst": 10**5, "egressRate": 10**7, "egressBurst": 2**31 - 1}},
            {},
            {"ingressBandwidth": 10**6, "ingressBurst": 10**5, "egressBandwidth": 10**7, "egressBurst": 2**31 - 1},
        ),
        ({}, {"egressPacketRate": 5000}, {"egressPacketRate": 5000}),
        (
            {"bandwidth": {"egressRate": 10**7}},
            {"egressBandwidth": 10**6, "egressBurst": 10**5, "ingressBandwidth": 10**8, "dscp": "EF"},
            {"egressBandwidth": 10**7, "ingressBandwidth": 10**8, "dscp": "EF"},
        ),
    ],
)
def test_bandwidth_of_the_runtime_and_limits_of_the_network_are_those_of_the_endpoint(
    runtime: dict[str, object], configured: dict[str, object], expected: dict[str, object] | None
) -> None:
    body = _body(runtimeConfig=runtime, qosControls=configured)
    assert (body.qos_controls and msgspec.to_builtins(body.qos_controls)) == expected


@pytest.mark.parametrize(
    ("bandwidth", "words"),
    [
        ({"ingressBurst": 10**6}, 'there is no "ingressRate"'),
        ({"egressRate": -1}, 'egressRate" is -1; it cannot be negative'),
        ({"egressRate": 10**6, "egressBurst": -8}, 'egressBurst" is -8; it cannot be negative'),
    ],
)
def test_bandwidth_that_cannot_be_meant_is_refused(bandwidth: dict[str, object], words: str) -> None:
    with pytest.raises(CniError, match=words) as caught:
        _body(runtimeConfig={"bandwidth": bandwidth})
    assert caught.value.code == INVALID_CONFIG


@pytest.mark.parametrize(
    ("fields", "args", "wanted"),
    [
        ({}, "IP=10.1.0.9", ("10.1.0.9",)),
        ({"args": {"cni": {"ips": ["10.1.0.8/24"]}}}, "IP=10.1.0.9", ("10.1.0.8",)),
        (
            {"args": {"cni": {"ips": ["10.1.0.8"]}}, "runtimeConfig": {"ips": ["10.1.0.7"]}},
            "IP=10.1.0.9",
            ("10.1.0.7",),
        ),
        (_mesos(ip_addresses=[{"ip_address": "10.1.0.6"}]), "IP=10.1.0.9", ("10.1.0.6",)),
        (_mesos(ip_address="10.1.0.6", protocol="IPv4"), "", ("10.1.0.6",)),
        ({"runtimeConfig": {"ips": ["10.1.0.7", "10.1.0.7/32", "FD00::7"]}}, "", ("10.1.0.7", "fd00::7")),
    ],
)
def test_requested_addresses_come_from_the_strongest_source(
    fields: dict[str, object], args: str, wanted: tuple[str, ...]
) -> None:
    assert _body(args, **fields).addresses == wanted


def test_requested_address_replaces_the_automatic_one_of_its_family_only() -> None:
    body = _body("IP=10.1.0.9", ipam={"assign_ipv6": True})
    assert (body.ipv4, body.ipv6) == (0, 1)


@pytest.mark.parametrize("text", ["10.1.0", "x", "10.1.0.7/99", "10.1.0.300"])
def test_requested_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(CniError, match="is no address") as caught:
        _body(runtimeConfig={"ips": [text]})
    assert caught.value.code == INVALID_CONFIG


def test_given_addresses_replace_all_that_the_agent_would_choose() -> None:
    body = _body("IP=10.1.0.9", ("10.9.0.2",), ipam={"type": "host-local", "assign_ipv6": True})
    assert (body.given, body.addresses, body.ipv4, body.ipv6) == (("10.9.0.2",), (), 0, 0)


def test_mesos_labels_become_labels_as_calico_writes_them() -> None:
    labels = [{"key": "DCOS_SPACE", "value": "/a/b/c"}, {"key": "a b", "value": "-x/.y-"}, {"key": "empty"}]
    body = _body(**_mesos(labels={"labels": labels}))
    assert body.labels == {"DCOS_SPACE": "a.b.c", "a-b": "x.y", "empty": ""}


def test_mesos_label_of_the_namespace_sets_it() -> None:
    body = _body(**_mesos(labels={"labels": [{"key": "projectcalico.org/namespace", "value": "prod"}]}))
    assert (body.namespace, body.labels) == ("prod", {})


def test_mesos_groups_replace_the_profile_of_the_network() -> None:
    body = _body(**_mesos(groups=["star-1", "public"]))
    assert body.groups == ("star-1", "public")
    assert not body.has_network_profile


def test_mesos_demand_for_ipv6_is_met() -> None:
    body = _body(**_mesos(ip_addresses=[{"protocol": "IPv6"}]))
    assert (body.ipv4, body.ipv6) == (1, 1)


def test_mesos_demand_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(CniError) as caught:
        _body(**_mesos(ip_address="10.1.0.7", protocol="IPv6"))
    assert caught.value.code == INVALID_CONFIG


def test_labels_of_cni_args_are_labels() -> None:
    assert _body(args={"cni": {"labels": [{"key": "app", "value": "web"}]}}).labels == {"app": "web"}


@pytest.mark.parametrize(
    "fields",
    [
        {"mtu": "1400"},
        {"mtu": True},
        {"ipam": []},
        {"ipam": {"assign_ipv4": "yes"}},
        {"ipam": {"ipv4_pools": [7]}},
        {"args": []},
        {"args": {MESOS: []}},
        {"args": {"cni": {"labels": [{"value": "x"}]}}},
        {"runtimeConfig": []},
        {"container_settings": {"allow_ip_forwarding": 1}},
        {"include_default_routes": "perhaps"},
        {"ports": [80]},
        {"qosControls": []},
        {"runtimeConfig": {"bandwidth": 10**6}},
        {"runtimeConfig": {"bandwidth": {"ingressRate": "1M"}}},
        {"runtimeConfig": {"bandwidth": {"ingressRate": 1e6}}},
        {"runtimeConfig": {"bandwidth": {"egressRate": True}}},
    ],
)
def test_field_of_a_wrong_kind_is_named(fields: dict[str, object]) -> None:
    with pytest.raises(CniError) as caught:
        _body(**fields)
    assert caught.value.code == DECODING_FAILURE


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", DECODING_FAILURE),
        (b"{", DECODING_FAILURE),
        (b"[]", DECODING_FAILURE),
        (b"\xff", DECODING_FAILURE),
        (b"[" * 100_000, DECODING_FAILURE),
        (b'{"name": "n", "cniVersion": 1}', DECODING_FAILURE),
        (b'{"name": 1}', DECODING_FAILURE),
        (b'{"cniVersion": "1.0.0"}', INVALID_CONFIG),
        (b'{"name": ""}', INVALID_CONFIG),
        (b'{"name": "a/b"}', INVALID_CONFIG),
        (b'{"name": "n", "plugins": []}', INVALID_CONFIG),
    ],
)
def test_configuration_that_cannot_be_used_is_refused(raw: bytes, code: int) -> None:
    with pytest.raises(CniError) as caught:
        parse_conf(raw)
    assert caught.value.code == code


def test_configuration_without_version_is_of_the_first() -> None:
    assert parse_conf(b'{"name": "n"}').version == "0.1.0"
    assert find_version(b"{") == ""


@pytest.mark.parametrize("version", ["0.0.9", "0.3.2", "1.2.0", "2.0.0", "x"])
def test_configuration_of_an_unknown_version_is_refused_with_the_known_ones(version: str) -> None:
    conf = parse_conf(json.dumps({"name": "n", "cniVersion": version}).encode())
    with pytest.raises(CniError) as caught:
        check_version(conf)
    assert caught.value.code == INCOMPATIBLE_VERSION
    assert version in caught.value.details
    assert "1.1.0" in caught.value.details


@pytest.mark.parametrize(
    "fields",
    [
        {"dataplane_options": {"type": "grpc"}},
        {"feature_control": {"floating_ips": True}},
        {"feature_control": {"ip_addrs_no_ipam": True}},
        {"runtimeConfig": {"deviceID": "0000:00:1f.6"}},
        {"runtimeConfig": {"ipRanges": [[{"subnet": "10.1.0.0/16"}]]}},
    ],
)
def test_field_that_would_mislead_if_ignored_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(CniError) as caught:
        refuse_unsupported(_conf(**fields))
    assert caught.value.code == UNSUPPORTED_FIELD


def test_settings_of_kubernetes_and_the_datastore_are_ignored() -> None:
    fields: dict[str, object] = {
        "datastore_type": "etcdv3",
        "etcd_endpoints": "http://127.0.0.1:2379",
        "kubernetes": {"kubeconfig": "/x"},
        "policy": {"type": "k8s"},
        "feature_control": {"floating_ips": False},
        "capabilities": {"portMappings": True, "bandwidth": True},
        "runtimeConfig": {"portMappings": [{"hostPort": 80}]},
    }
    refuse_unsupported(_conf(**fields))
    assert _body(**fields) == _body()


def test_time_of_a_call_is_policy_setup_timeout_if_said() -> None:
    assert _conf().timeout_s == 30
    assert _conf(agent_timeout=7).timeout_s == 7
    assert _conf(agent_timeout=7, policy_setup_timeout_seconds=9).timeout_s == 9
    assert _conf(policy_setup_timeout_seconds=0).timeout_s == 30
    assert _conf(policy_setup_timeout_seconds=1e6).timeout_s == 120
    with pytest.raises(CniError, match="negative"):
        assert _conf(agent_timeout=-1).timeout_s


def test_detach_says_who_and_nothing_else() -> None:
    body = msgspec.convert(detach_body(_call(), _conf()), DetachRequest)
    assert (body.network, body.container, body.interface, body.release) == ("net1", "parent.child", "eth0", True)


def test_gc_passes_on_what_is_valid() -> None:
    body = gc_body(_conf(**{"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}))
    assert [one.container for one in msgspec.convert(body, GcRequest).valid] == ["c1"]


def test_gc_reads_the_older_name_and_a_list_that_is_null() -> None:
    assert gc_body(_conf(**{"cni.dev/attachments": [{"containerID": "c1", "ifname": "eth0"}]}))["valid"]
    assert gc_body(_conf(**{"cni.dev/valid-attachments": None}))["valid"] == []


@pytest.mark.parametrize("fields", [{}, {"cni.dev/valid-attachments": [{"containerID": "c1"}]}])
def test_gc_that_does_not_say_what_is_valid_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(CniError, match="nothing was removed") as caught:
        gc_body(_conf(**fields))
    assert caught.value.code == INVALID_CONFIG


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("invalid", 7),
        ("not-found", 8),
        ("unavailable", 11),
        ("timeout", 11),
        ("conflict", 101),
        ("exhausted", 102),
        ("differs", 103),
        ("forbidden", 104),
        ("internal", 100),
        ("a word of later", 100),
    ],
)
def test_words_of_the_agent_have_codes(word: str, code: int) -> None:
    assert code_for(word) == code


def test_error_document_has_what_the_specification_names() -> None:
    document = json.loads(CniError(7, "missing network name", "say it").render("1.0.0"))
    assert document == {"cniVersion": "1.0.0", "code": 7, "msg": "missing network name", "details": "say it"}
    assert "cniVersion" not in json.loads(CniError(6, "x").render(""))
