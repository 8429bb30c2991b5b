"""Which sessions a host has and what passes them, decided from the datastore's objects."""

from __future__ import annotations

import pytest

from felix.dataplane.bird.context import build_context, router_id
from felix.dataplane.bird.peers import parse_duration_s, parse_peer, protocol_name
from felix.dataplane.bird.types import BirdOptions, BuiltContext, Secret, Session
from tests.support.bird import Json, make_inputs, node, pools, resource

PEER = "BGPPeer"
CONFIGURATION = "BGPConfiguration"


def build(*resources: Json, hostname: str = "h1", options: BirdOptions | None = None) -> BuiltContext:
    return build_context(make_inputs([*pools(), *resources], hostname=hostname), options)


def sessions_of(built: BuiltContext) -> dict[str, Session]:
    return {session.name: session for session in built.context.sessions}


def test_mesh_reaches_every_other_host_in_families_both_have() -> None:
    built = build(node(1), node(2), node(3, ipv6Address=""))

    assert sessions_of(built).keys() == {"Mesh_10_0_0_2", "Mesh_10_0_0_3", "Mesh_fd00_10__2"}
    assert built.problems == ()


@pytest.mark.parametrize("pair", [(1, 2), (2, 10), (9, 10)])
def test_mesh_of_two_hosts_has_exactly_one_that_dials(pair: tuple[int, int]) -> None:
    nodes = [node(number) for number in pair]
    passive = [
        session.is_passive
        for number in pair
        for session in build(*nodes, hostname=f"h{number}").context.sessions
        if session.version == 4
    ]

    assert sorted(passive) == [False, True]


def test_mesh_that_is_switched_off_leaves_peers_alone() -> None:
    built = build(
        node(1),
        node(2),
        resource(CONFIGURATION, "default", nodeToNodeMeshEnabled=False),
        resource(PEER, "tor", peerIP="10.0.0.99", asNumber=64999),
    )

    assert sessions_of(built).keys() == {"Global_10_0_0_99"}


def test_mesh_leaves_out_route_reflectors_on_both_sides() -> None:
    nodes = [node(1), node(2), node(3, routeReflectorClusterID="1.0.0.1")]

    assert all("_3" not in name for name in sessions_of(build(*nodes)))
    assert sessions_of(build(*nodes, hostname="h3")) == {}


def test_peer_that_is_also_in_the_mesh_has_one_session_and_the_peer_wins() -> None:
    built = build(node(1), node(2), resource(PEER, "two", node="h1", peerIP="10.0.0.2", keepaliveTime="10s"))

    assert sessions_of(built).keys() == {"Node_10_0_0_2", "Mesh_fd00_10__2"}
    session = sessions_of(built)["Node_10_0_0_2"]
    assert (session.neighbor_as, session.keepalive_time_s) == (64512, 10)


def test_peer_for_another_host_or_at_our_own_address_gives_no_session() -> None:
    built = build(
        node(1),
        resource(PEER, "other", node="h2", peerIP="10.0.0.99", asNumber=1),
        resource(PEER, "unselected", nodeSelector="rack == 'a'", peerIP="10.0.0.98", asNumber=1),
        resource(PEER, "self", peerIP="10.0.0.1", asNumber=1),
    )

    assert built.context.sessions == ()
    assert built.problems == ()


def test_selected_peers_are_met_from_both_sides_unless_manual() -> None:
    nodes = [node(1, {"role": "leaf"}), node(2, {"role": "spine"})]
    off = resource(CONFIGURATION, "default", nodeToNodeMeshEnabled=False)
    automatic = resource(PEER, "p", nodeSelector="role == 'leaf'", peerSelector="role == 'spine'")
    manual = resource(PEER, "p", nodeSelector="role == 'leaf'", peerSelector="role == 'spine'", reversePeering="Manual")

    assert sessions_of(build(*nodes, off, automatic)).keys() == {"Node_10_0_0_2", "Node_fd00_10__2"}
    assert sessions_of(build(*nodes, off, automatic, hostname="h2")).keys() == {"Node_10_0_0_1", "Node_fd00_10__1"}
    assert sessions_of(build(*nodes, off, manual)).keys() == {"Node_10_0_0_2", "Node_fd00_10__2"}
    assert sessions_of(build(*nodes, off, manual, hostname="h2")) == {}


def test_reflector_has_clients_but_not_in_its_cluster_nor_across_systems() -> None:
    nodes = [
        node(1, routeReflectorClusterID="1.0.0.1"),
        node(2, routeReflectorClusterID="1.0.0.1"),
        node(3, routeReflectorClusterID="1.0.0.2"),
        node(4),
        node(5, asNumber=65000),
    ]
    built = build(*nodes, resource(PEER, "all", peerSelector="all()"))

    clients = {name for name, session in sessions_of(built).items() if session.is_client and session.version == 4}
    assert clients == {"Global_10_0_0_3", "Global_10_0_0_4"}
    assert sessions_of(built)["Global_10_0_0_4"].cluster_id == "1.0.0.1"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"asNumber": 64512}, ""),
        ({"asNumber": 64999}, "self"),
        ({"asNumber": 64512, "nextHopMode": "Self"}, "self"),
        ({"asNumber": 64999, "nextHopMode": "Keep"}, "keep"),
        ({"asNumber": 64999, "keepOriginalNextHop": True}, "keep"),
        ({"asNumber": 64512, "localASNumber": 65000}, "self"),
    ],
)
def test_next_hop_follows_mode_and_kind_of_session(spec: dict[str, object], expected: str) -> None:
    built = build(node(1), resource(PEER, "tor", None, peerIP="10.0.0.99", **spec))

    assert sessions_of(built)["Global_10_0_0_99"].next_hop == expected


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"peerIP": "10.0.0.99"}, "asNumber is missing"),
        ({"peerIP": "nowhere", "asNumber": 1}, "nowhere"),
        ({"peerIP": "10.0.0.99:70000", "asNumber": 1}, "port '70000'"),
        ({"peerIP": "10.0.0.99", "asNumber": 1, "node": "h1", "nodeSelector": "all()"}, "exclude each other"),
        ({"peerIP": "10.0.0.99", "asNumber": 1, "peerSelector": "all()"}, "exclude each other"),
        ({"asNumber": 1}, "neither peerIP nor peerSelector"),
        ({"peerSelector": "== nothing"}, ""),
        ({"localWorkloadSelector": "all()", "asNumber": 1}, "localWorkloadSelector"),
        ({"peerIP": "10.0.0.99", "asNumber": 1, "maxRestartTime": "2h"}, "longer than 4095 s"),
        ({"peerIP": "10.0.0.99", "asNumber": 1, "password": {"secretKeyRef": {"name": "n", "key": "k"}}}, "secret 'n'"),
    ],
)
def test_peer_that_cannot_be_used_is_named_and_the_others_stay(spec: dict[str, object], reason: str) -> None:
    good = resource(PEER, "good", peerIP="10.0.0.50", asNumber=64999)
    built = build(node(1), resource(PEER, "bad", None, **spec), good)

    assert sessions_of(built).keys() == {"Global_10_0_0_50"}
    assert [problem.subject for problem in built.problems] == ["BGPPeer(bad)"]
    assert reason in built.problems[0].reason


def test_reachable_by_of_the_wrong_family_is_named_and_the_session_stays() -> None:
    built = build(node(1), resource(PEER, "tor", peerIP="10.0.0.99", asNumber=1, reachableBy="fd00::1"))

    assert sessions_of(built).keys() == {"Global_10_0_0_99"}
    assert built.problems[0].field == "spec.reachableBy"


def test_password_is_in_the_session_and_in_no_printed_form() -> None:
    options = BirdOptions(secret_by_key={("n", "k"): Secret("hunter2 hunter2")})
    spec = {"peerIP": "10.0.0.99", "asNumber": 1, "password": {"secretKeyRef": {"name": "n", "key": "k"}}}

    built = build(node(1), resource(PEER, "tor", None, **spec), options=options)

    assert sessions_of(built)["Global_10_0_0_99"].password == "hunter2 hunter2"
    assert "hunter2" not in repr(built)
    assert "hunter2" not in repr(options)


def test_password_that_bird_could_not_read_is_refused_without_being_shown() -> None:
    options = BirdOptions(secret_by_key={("n", "k"): Secret('pass"; log stderr all;')})
    spec = {"peerIP": "10.0.0.99", "asNumber": 1, "password": {"secretKeyRef": {"name": "n", "key": "k"}}}

    built = build(node(1), resource(PEER, "tor", None, **spec), options=options)

    assert built.context.sessions == ()
    assert "log stderr" not in repr(built.problems)


def test_host_without_a_node_still_announces_nothing_and_says_so() -> None:
    built = build(node(2))

    assert built.context.sessions == ()
    assert [problem.subject for problem in built.problems] == ["Node(h1)"]


def test_node_with_unreadable_address_is_left_out_of_the_mesh_alone() -> None:
    built = build(node(1), node(2, ipv4Address="10.0.0.2000"), node(3))

    assert sessions_of(built).keys() == {"Mesh_10_0_0_3", "Mesh_fd00_10__2", "Mesh_fd00_10__3"}
    assert (built.problems[0].subject, built.problems[0].field) == ("Node(h2)", "spec.bgp.ipv4Address")


def test_listen_port_of_one_host_is_used_by_itself_and_by_the_others() -> None:
    nodes = [node(1), node(2), resource(CONFIGURATION, "node.h2", listenPort=1790)]

    assert sessions_of(build(*nodes))["Mesh_10_0_0_2_port_1790"].neighbor_port == 1790
    assert sessions_of(build(*nodes, hostname="h2"))["Mesh_10_0_0_1"].local_port == 1790


def test_pools_decide_what_is_announced_and_what_is_written() -> None:
    documents = [
        resource("IPPool", "plain", cidr="10.1.0.0/16"),
        resource("IPPool", "quiet", cidr="10.2.0.0/16", disableBGPExport=True),
        resource("IPPool", "unused", cidr="10.3.0.0/16", disabled=True),
        resource("IPPool", "tunnel", cidr="10.4.0.0/16", vxlanMode="CrossSubnet"),
    ]
    blocks = ["10.1.0.0/26", "10.1.9.9/32"]
    family = build_context(make_inputs([node(1), *documents], blocks=blocks)).context.families[0]

    assert [str(net) for net in family.pools] == ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"]
    assert [str(net) for net in family.exported_pools] == ["10.1.0.0/16", "10.4.0.0/16"]
    assert [str(net) for net in family.unprogrammed_pools] == ["10.4.0.0/16"]
    assert [str(net) for net in family.own_blocks] == ["10.1.0.0/26"]


def test_routes_of_all_pools_are_left_to_others_when_told_so() -> None:
    built = build(node(1), resource(CONFIGURATION, "default", programClusterRoutes="Disabled"))

    assert all(family.unprogrammed_pools == family.pools for family in built.context.families)


def test_what_is_not_supported_is_named_and_everything_else_done() -> None:
    built = build(
        node(1),
        node(2),
        resource("IPPool", "ipip", cidr="10.9.0.0/16", ipipMode="Always"),
        resource(CONFIGURATION, "default", serviceClusterIPs=[{"cidr": "10.96.0.0/12"}], ipv4NormalRoutePriority=512),
    )

    assert len(built.context.sessions) == 2
    assert [(problem.subject, problem.field) for problem in built.problems] == [
        ("IPPool(ipip)", "spec.ipipMode"),
        ("BGPConfiguration(default)", "spec.serviceClusterIPs"),
        ("BGPConfiguration(default)", "spec.ipv4NormalRoutePriority"),
    ]


def test_filter_that_is_missing_closes_the_sessions_that_name_it() -> None:
    built = build(
        node(1),
        resource(PEER, "a", peerIP="10.0.0.98", asNumber=1, filters=["gone"]),
        resource(PEER, "b", peerIP="10.0.0.99", asNumber=1),
    )

    closed = {name: session.is_closed for name, session in sessions_of(built).items()}
    assert closed == {"Global_10_0_0_98": True, "Global_10_0_0_99": False}
    assert built.problems[0].subject == "BGPFilter(gone)"


def test_router_id_without_ipv4_is_the_same_each_time_and_differs_between_hosts() -> None:
    nodes = [resource("Node", name, bgp={"ipv6Address": "fd00::1"}) for name in ("a", "b")]

    first, again, other = (router_id(make_inputs(nodes, hostname=name)) for name in ("a", "a", "b"))

    assert first == again != other


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", ("10.0.0.1", 0)),
        ("10.0.0.1:1179", ("10.0.0.1", 1179)),
        ("fd00::1", ("fd00::1", 0)),
        ("[fd00::1]:1179", ("fd00::1", 1179)),
        ("[fd00::1]", ("fd00::1", 0)),
    ],
)
def test_peer_address_is_read_in_every_form(text: str, expected: tuple[str, int]) -> None:
    address, port = parse_peer(text)

    assert (address.address, port) == expected


@pytest.mark.parametrize("text", ["", ":", "10.0.0.1:x", "10.0.0.1:0", "[fd00::1]:99999", "fd00::1%eth0", "10.0.0.0/8"])
def test_peer_address_of_no_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_peer(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("", 0), ("0", 0), ("90s", 90), ("1h2m3s", 3723), ("1.5s", 2), ("1ms", 1)]
)
def test_duration_is_read_in_whole_seconds(text: str, seconds: int) -> None:
    assert parse_duration_s(text) == seconds


def test_protocol_names_of_different_neighbours_differ() -> None:
    names = {
        protocol_name("Mesh", "10.0.0.1", 179),
        protocol_name("Mesh", "10.0.0.1", 1790),
        protocol_name("Node", "10.0.0.1", 179),
        protocol_name("Mesh", "fd00::1", 179),
    }

    assert len(names) == 4
