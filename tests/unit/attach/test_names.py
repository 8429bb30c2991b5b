"""Names and documents that follow from who a container is: one each, whatever anybody calls things."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from felix.attach.agent import find_own_addresses
from felix.attach.check import Place, check_attach, check_attributes, check_handle
from felix.attach.endpoint import ANNOTATION, EndpointIntent, find_attachment, render_document
from felix.attach.names import Attached, endpoint_key, handle_name, host_interface, host_profile, make_mac, profile_name
from felix.attach.profiles import GROUP_LABEL, choose_profiles, make_profiles
from felix.attach.types import AttachRequest, Code, DetachRequest, Refusal, bound_deadline, parse_request
from felix.model.codec import decode
from felix.model.net import parse_net
from felix.model.records import WorkloadEndpoint
from felix.model.validate import judge
from felix.selector.parse import parse

WHO = Attached("cni", "c1", "eth0")
PLACE = Place("h1")
NETS = (parse_net("192.0.2.1"), parse_net("fd00::1"))


def make(**fields: object) -> AttachRequest:
    asked = {"network": "net1", "container": "c1", "netns": "/run/netns/a", "ipv4": 1, **fields}
    return msgspec.convert(asked, AttachRequest)


def test_endpoint_name_doubles_dashes_so_that_no_two_share_one() -> None:
    first = endpoint_key("h-1", Attached("cni", "a", "b-eth0"), "default")
    second = endpoint_key("h-1", Attached("cni", "a-b", "eth0"), "default")
    assert (first.name, second.name) == ("h--1-cni-a-b--eth0", "h--1-cni-a--b-eth0")


def test_handle_has_calicos_form() -> None:
    assert handle_name("Net1", WHO) == "net1.c1"
    assert handle_name("net1", Attached("cni", "c1", "eth1")) == "net1.c1.eth1"


def test_interface_and_mac_follow_from_the_container_alone() -> None:
    names = {
        host_interface("cali", namespace, Attached(orchestrator, container, interface))
        for orchestrator in ("cni", "mesos")
        for namespace in ("default", "other")
        for container in ("c1", "c2")
        for interface in ("eth0", "eth1")
    }
    assert len(names) == 16
    assert all(len(name) == 15 and name.startswith("cali") for name in names)
    assert host_interface("cali", "default", WHO) == host_interface("cali", "default", WHO)
    mac = make_mac("h1", WHO)
    assert mac == make_mac("h1", WHO) != make_mac("h2", WHO)
    assert int(mac[:2], 16) & 0b11 == 0b10  # locally administered, one interface


@given(st.text(max_size=300), st.text(max_size=300))
def test_profiles_of_different_groups_are_different_and_valid(one: str, other: str) -> None:
    names = profile_name(one), profile_name(other)
    assert (one == other) == (names[0] == names[1])
    assert names == (profile_name(one), profile_name(other))
    assert profile_name(names[0]) != names[0] or names[0] == one  # nobody can ask for the name that another one got
    for document in make_profiles(make(groups=[one, other]), "h1", NETS, 0.0).values():
        assert judge(document).errors == []
    parse(f"has({GROUP_LABEL}{names[0]})")


@pytest.mark.parametrize(
    "name", ["projectcalico-default-allow", "", "a" * 64, "a.x0123456789abcdef", "-a", "ä", "a/b", "default_h2"]
)
def test_name_that_no_group_may_have_is_replaced(name: str) -> None:
    assert profile_name(name) != name


def test_group_cannot_have_the_profile_of_a_host() -> None:
    for node in ("h2", "h" * 64):
        assert host_profile(node) not in (profile_name(f"default_{node}"), profile_name(f"host/default_{node}"))


def test_profiles_are_in_the_order_of_net_modules() -> None:
    request = make(groups=["b", "public", "a"], profiles=["own", "b"])
    assert choose_profiles(request, "h1") == ("default_h1", "public", "b", "a", "own")
    assert choose_profiles(make(groups=[]), "h1") == ("default_h1",)
    assert choose_profiles(make(), "h1") == ("net1",)
    assert choose_profiles(make(groups=[], network_profile=True), "h1") == ("default_h1", "net1")
    assert choose_profiles(make(network_profile=False), "h1") == ()


def test_profiles_say_what_net_modules_and_calicos_plug_in_say() -> None:
    made = make_profiles(make(groups=["blue", "public"], network_profile=True), "h1", NETS, 0.0)
    allow = {"action": "Allow"}
    nets = {"nets": ["192.0.2.1/32", "fd00::1/128"]}
    assert {key.name: document["spec"] for key, document in made.items()} == {
        "default_h1": {"ingress": [{**allow, "source": nets}], "egress": [{**allow, "destination": nets}]},
        "public": {"labelsToApply": {"group.felix/public": ""}, "ingress": [allow], "egress": [allow]},
        "blue": {
            "labelsToApply": {"group.felix/blue": ""},
            "ingress": [{**allow, "source": {"selector": "has(group.felix/blue)"}}],
            "egress": [allow],
        },
        "net1": {
            "labelsToApply": {"net1": ""},
            "ingress": [{**allow, "source": {"selector": "has(net1)"}}],
            "egress": [allow],
        },
    }


def test_host_without_addresses_lets_nobody_in() -> None:
    made = make_profiles(make(groups=[]), "h1", (), 0.0)
    assert [document["spec"] for document in made.values()] == [{"ingress": [], "egress": []}]


def test_endpoint_is_read_back_as_it_was_meant() -> None:
    limits = {"ingressBandwidth": 10**6, "egressPacketRate": 100, "dscp": "EF"}
    request = make(labels={"app": "web"}, ports=[{"name": "http", "port": 80}], ipv6=1, qosControls=limits)
    given = {parse_net("10.0.0.9"): "uid-1"}
    intent = EndpointIntent("h1", request, WHO, "net1.c1", "cali1", "02:00:00:00:00:01", ("net1",), 77, 0.0, given)
    chosen = (parse_net("fd00::7"), parse_net("10.0.0.7"))
    decoded = decode(intent.key, render_document(intent, chosen))
    assert decoded.problems == ()
    assert isinstance(decoded.record, WorkloadEndpoint)
    assert msgspec.to_builtins(decoded.record.spec.qos_controls) == limits
    one = find_attachment(intent.key, decoded.record, "h1", 5)
    assert one is not None
    assert (one.who, one.host_interface, one.revision, one.note.netns) == (WHO, "cali1", 5, 77)
    assert [str(net) for net in one.addresses] == ["10.0.0.9/32", "10.0.0.7/32", "fd00::7/128"]
    assert {release.address.address: release.handle for release in one.releases} == {
        "10.0.0.9": "uid-1",
        "10.0.0.7": "net1.c1",
        "fd00::7": "net1.c1",
    }
    assert {release.address.address for release in one.own_releases} == {"10.0.0.7", "fd00::7"}
    assert find_attachment(intent.key, decoded.record, "h2") is None


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[1]", '{"network":"n","container":"c","interface":"i","handle":1}', '{"x":' + "[" * 100_000, None],
)
def test_endpoint_with_a_note_that_cannot_be_read_is_nobodys_to_remove(text: str | None) -> None:
    intent = EndpointIntent("h1", make(), WHO, "net1.c1", "cali1", "", (), 77, 0.0)
    document = msgspec.json.decode(render_document(intent, ()))
    document["metadata"]["annotations"] = {ANNOTATION: text} if text is not None else {}
    record = decode(intent.key, msgspec.json.encode(document)).record
    assert record is not None
    assert find_attachment(intent.key, record, "h1") is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"container": "../x"}, "container"),
        ({"container": ""}, "container"),
        ({"container": "a" * 128}, "container"),
        ({"network": "a b"}, "network"),
        ({"namespace": "a/b"}, "namespace"),
        ({"orchestrator": "é"}, "orchestrator"),
        ({"interface": "a" * 16}, "interface"),
        ({"interface": "e/0"}, "interface"),
        ({"netns": ""}, "netns"),
        ({"netns": "run/netns/a"}, "absolute"),
        ({"netns": "/" * 5000}, "at most 4095"),
        ({"node": "h2"}, "this is host h1"),
        ({"given": ["169.254.1.1"]}, "the gateway"),
        ({"addresses": ["fe80::ecee:eeff:feee:eeee"]}, "only the link"),
        ({"ipv4": 0}, "expected 1 to 16"),
        ({"ipv4": 10, "ipv6": 10}, "expected 1 to 16"),
        ({"qosControls": {"egressBandwidth": 5}}, "qosControls.egressBandwidth: '5': is not from 1000 to"),
        ({"qosControls": {"ingressBandwidth": 10**6, "ingressBurst": 10**11}}, "qosControls.ingressBurst"),
        ({"qosControls": {"dscp": "best"}}, "qosControls.dscp: 'best': is neither 0-63 nor"),
        ({"addresses": ["10.0.0.0/24"]}, "addresses"),
        ({"addresses": ["ten"]}, "addresses"),
        ({"addresses": ["10.0.0.1"], "given": ["10.0.0.1"]}, "stands there twice"),
        ({"mac": "01:00:00:00:00:00"}, "mac"),
        ({"mac": "nonsense"}, "mac"),
        ({"mtu": 10}, "mtu"),
        ({"labels": {"": "x"}}, "labels"),
        ({"labels": {"group.felix/blue": ""}}, "ask for the group instead"),
        ({"groups": [""]}, "groups"),
        ({"pools": ["x" * 2000]}, "pools"),
        ({"profiles": ["a b"]}, "profiles"),
        ({"profiles": [f"p{number}" for number in range(65)]}, "at most 64"),
        ({"groups": [f"g{number}" for number in range(65)]}, "at most 64"),
    ],
)
def test_request_that_cannot_be_meant_is_refused_with_its_field(fields: dict[str, object], words: str) -> None:
    with pytest.raises(Refusal, match=words) as refused:
        check_attach(make(**fields), PLACE)
    assert refused.value.code is Code.INVALID


def test_container_that_asks_for_no_mtu_gets_what_the_host_chooses() -> None:
    place = PLACE._replace(mtu=1430)
    assert (check_attach(make(), place).mtu, check_attach(make(mtu=1300), place).mtu) == (1430, 1300)
    assert check_attach(make(), PLACE).mtu == 0


def test_ipv6_on_a_host_without_it_is_refused() -> None:
    with pytest.raises(Refusal, match="no IPv6"):
        check_attach(make(ipv6=1), PLACE._replace(has_ipv6=False))
    assert check_attach(make(), PLACE._replace(has_ipv6=False)).handle == "net1.c1"


@pytest.mark.parametrize("handle", ["", "a/b", "a\nb", "x" * 2000])
def test_handle_that_cannot_be_one_is_refused(handle: str) -> None:
    with pytest.raises(Refusal, match="handle"):
        check_handle(handle)


@pytest.mark.parametrize(
    "attributes",
    [{"node": "h2"}, {"endpoint": "default/x"}, {"": "x"}, {"x": "y" * 2000}, dict.fromkeys("abcdefghijklmnopq", "")],
)
def test_attributes_that_only_the_agent_may_write_or_nobody_can_keep_are_refused(attributes: dict[str, str]) -> None:
    with pytest.raises(Refusal, match="attributes"):
        check_attributes(attributes)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"container":1}',
        b'{"container":"c","colour":1}',
        b"[" * 100000,
        b'{"network":"n","container":"c","qosControls":{"egressBandwith":1000}}',
    ],
)
def test_body_that_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal, match="the request cannot be used") as refused:
        parse_request(body, DetachRequest)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"contaner":"c"}', "contaner: unknown field; did you mean container?"),
        (
            b'{"container":"c","qosControls":{"egressPacketRat":5}}',
            "qosControls.egressPacketRat: unknown field; did you mean egressPacketRate?",
        ),
        (b'{"zzzz":1}', "zzzz: unknown field"),
    ],
)
def test_misspelt_field_of_a_request_is_named_with_the_nearest_one(body: bytes, reason: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_request(body, AttachRequest)
    assert str(refused.value) == f"the request cannot be used: {reason}"


def test_deadline_is_bounded() -> None:
    assert bound_deadline(3.0) == 3.0
    assert bound_deadline(1e9) == 120.0
    with pytest.raises(Refusal, match="deadline_s"):
        parse_request(b'{"container":"c","deadline_s":0}', DetachRequest)


def test_own_addresses_are_those_that_lead_to_the_datastore() -> None:
    assert [net.address for net in find_own_addresses(["http://127.0.0.1:2379", "http://etcd.example:2379"])] == [
        "127.0.0.1"
    ]
