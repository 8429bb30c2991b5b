"""What each verb of net-modules checks, in which order and with which words, and what it asks the agent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from felix.plugins.ask import NoAgent, Refused
from felix.plugins.mesos.request import ADDRESSES_LIMIT, REQUEST_LIMIT, BadRequest, parse_request
from felix.plugins.mesos.verbs import ALREADY_CONFIGURED, VERBS, Answer, Failed

UID = "0f6b3c0e-6a0b-4f4e-9d3e-2b1a5c7d8e9f"
OTHER = "1f6b3c0e-6a0b-4f4e-9d3e-2b1a5c7d8e9f"
ALLOCATE: dict[str, Any] = {"uid": UID, "hostname": "h1", "num_ipv4": 1, "num_ipv6": 0}
RESERVE: dict[str, Any] = {"uid": UID, "hostname": "h1", "ipv4_addrs": ["10.1.0.7"]}
ISOLATE: dict[str, Any] = {"hostname": "h1", "container_id": "c1", "pid": 7, "ipv4_addrs": ["10.1.0.7"]}
CLEANUP: dict[str, Any] = {"hostname": "h1", "container_id": "c1"}
IS_MESOS = {"orchestrator": "mesos"}


class Asked:
    """Answers as an agent would, and notes what it was asked. answers: by route, in order, errors are raised."""

    def __init__(self, **answers: Any) -> None:
        self.calls: list[tuple[str, Answer]] = []
        self._answers = {f"/v1/{name.replace('_', '/')}": answer for name, answer in answers.items()}

    def __call__(self, route: str, body: Answer, is_repeatable: bool) -> object:
        self.calls.append((route, body))
        answer = self._answers.get(route, {})
        answer = answer.pop(0) if isinstance(answer, list) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer


def _refusal(verb: str, args: dict[str, Any]) -> str:
    """Returns with which words a verb refuses, before it asks anybody."""
    asked = Asked()
    with pytest.raises(BadRequest) as caught:
        VERBS[verb](args, asked)
    assert asked.calls == []
    return str(caught.value)


def _without(args: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in args.items() if name not in names}


# --- The frame ---


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "Request is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"\xff\xfe\x00", "Request is not JSON: "),
        (b"[" * 100000, "Request is not JSON: "),
        (b"9" * 5000, "Request is not JSON: "),
        (b"[]", "Request must be a JSON object, not: list"),
        (b"null", "Request must be a JSON object, not: NoneType"),
        (b"{}", "Missing command"),
        (b'{"command": null, "args": {}}', "Missing command"),
        (b'{"command": "isolate"}', "Missing args"),
        (b'{"command": "isolate", "args": null}', "Missing args"),
        (b'{"command": "prepare"}', "Missing args"),
        (b'{"command": "prepare", "args": {}}', "Unknown command: prepare"),
        (b'{"command": ["isolate"], "args": {}}', 'Unknown command: ["isolate"]'),
        (b'{"command": "isolate", "args": []}', "args must be a JSON object, not: list"),
        (b" " * (REQUEST_LIMIT + 1), "Request is too long: more than 1048576 bytes"),
    ],
)
def test_request_that_is_none_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_request(data, frozenset(VERBS))
    assert str(caught.value).startswith(text)


# --- allocate ---


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"uid": None, "hostname": None}, "Missing uid"),
        ({"uid": "", "hostname": None}, "Missing uid"),
        ({"uid": "net1.c1", "hostname": None}, "Invalid UID: net1.c1"),
        ({"uid": 5}, "Invalid UID: 5"),
        ({"hostname": None, "num_ipv4": None}, "Missing hostname"),
        ({"hostname": "h 1\n", "num_ipv4": None}, "Invalid hostname: h 1\n"),
        ({"hostname": {}}, "Invalid hostname: {}"),
        ({"num_ipv4": None, "num_ipv6": None}, "Missing num_ipv4"),
        ({"num_ipv4": "1", "num_ipv6": None}, "Missing num_ipv6"),
        ({"num_ipv4": "1"}, "num_ipv4 must be an integer"),
        ({"num_ipv4": 1.5}, "num_ipv4 must be an integer"),
        ({"num_ipv4": True}, "num_ipv4 must be an integer"),
        ({"num_ipv6": []}, "num_ipv6 must be an integer"),
        ({"num_ipv4": -1}, "num_ipv4 must be 0 to 16, not: -1"),
        ({"num_ipv6": ADDRESSES_LIMIT + 1}, "num_ipv6 must be 0 to 16, not: 17"),
    ],
)
def test_allocate_checks_its_arguments_in_order(change: dict[str, Any], text: str) -> None:
    assert _refusal("allocate", ALLOCATE | change) == text


def test_allocate_asks_for_all_at_once_with_the_uid_as_handle() -> None:
    asked = Asked(ipam_allocate={"addresses": ["10.1.0.1/32", "10.1.0.2/32", "fd00::1/128"]})
    answer = VERBS["allocate"](ALLOCATE | {"num_ipv4": 2, "num_ipv6": 1}, asked)
    assert answer == {"ipv4": ["10.1.0.1", "10.1.0.2"], "ipv6": ["fd00::1"]}
    attributes = {"orchestrator": "mesos", "felix.use": "pending"}
    body = {"handle": UID, "attributes": attributes, "ipv4": 2, "ipv6": 1, "addresses": []}
    assert asked.calls == [("/v1/ipam/allocate", body)]


@pytest.mark.parametrize("uid", [UID.upper(), UID.replace("-", "")])
def test_uid_in_another_spelling_is_the_same_handle(uid: str) -> None:
    asked = Asked()
    VERBS["release"]({"uid": uid}, asked)
    assert asked.calls[0][1]["handle"] == UID


@pytest.mark.parametrize(
    "labels",
    [
        [{"key": "ipv4_addrs", "value": "['10.1.0.8', '10.1.0.9']"}],
        [{"key": "ipv4_addrs", "value": '["10.1.0.8", "10.1.0.9"]'}],
        {"ipv4_addrs": "['10.1.0.8', '10.1.0.9']"},
        {"ipv4_addrs": ["10.1.0.8", "10.1.0.9"]},
        {"labels": [{"key": "ipv4_addrs", "value": "['10.1.0.8', '10.1.0.9']"}]},
    ],
)
def test_label_ipv4_addrs_is_answered_after_the_chosen_ones_and_counts(labels: object) -> None:
    asked = Asked(ipam_allocate={"addresses": ["10.1.0.8/32", "10.1.0.9/32", "10.1.0.1/32"]})
    answer = VERBS["allocate"](ALLOCATE | {"num_ipv4": 3, "labels": labels}, asked)
    assert answer == {"ipv4": ["10.1.0.1", "10.1.0.8", "10.1.0.9"], "ipv6": []}
    assert asked.calls[0][1]["ipv4"] == 1


def test_more_static_addresses_than_asked_for_are_all_had() -> None:
    asked = Asked(ipam_allocate={"addresses": ["10.1.0.8/32", "10.1.0.9/32"]})
    labels = {"ipv4_addrs": ["10.1.0.8", "10.1.0.9"]}
    assert VERBS["allocate"](ALLOCATE | {"labels": labels}, asked)["ipv4"] == ["10.1.0.8", "10.1.0.9"]
    assert asked.calls[0][1]["ipv4"] == 0


def test_label_ipv6_addrs_does_the_same_for_ipv6() -> None:
    asked = Asked(ipam_allocate={"addresses": ["10.1.0.1/32", "fd00::8/128"]})
    answer = VERBS["allocate"](ALLOCATE | {"num_ipv6": 1, "labels": {"ipv6_addrs": "['FD00:0::8']"}}, asked)
    assert answer == {"ipv4": ["10.1.0.1"], "ipv6": ["fd00::8"]}


def test_defect_eval_of_a_label_is_a_refusal_and_runs_nothing() -> None:
    label = "__import__('os').system('touch /tmp/felix-was-here')"
    text = _refusal("allocate", ALLOCATE | {"labels": [{"key": "ipv4_addrs", "value": label}]})
    assert text == f"Label ipv4_addrs is no list of IP addresses: {label}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("[", "Label ipv4_addrs is no list of IP addresses: ["),
        ("(" * 3000, "Label ipv4_addrs is no list of IP addresses: ((("),
        ("[" * 5000, "Label ipv4_addrs is too long: 5000 characters"),
        ("'10.1.0.7'", "IP addresses must be provided as JSON list, not: str"),
        ("{'10.1.0.7'}", "IP addresses must be provided as JSON list, not: set"),
        ("['fd00::7']", "IPv6 address must not be placed in IPv4 address field."),
        ("[7]", "IP address could not be parsed: 7"),
        ("[{1}]", 'IP address could not be parsed: "{1}"'),
    ],
)
def test_label_that_is_no_list_of_addresses_is_refused(value: str, text: str) -> None:
    assert _refusal("allocate", ALLOCATE | {"labels": {"ipv4_addrs": value}}).startswith(text)


def test_nothing_asked_for_is_nothing_allocated() -> None:
    asked = Asked()
    assert VERBS["allocate"](ALLOCATE | {"num_ipv4": 0}, asked) == {"ipv4": [], "ipv6": []}
    assert asked.calls == []


@pytest.mark.parametrize(
    "failure",
    [Refused("no address is free", 409, "exhausted"), NoAgent("no answer", is_sent=True), {"addresses": []}, "?", {}],
)
def test_defect_1_allocate_that_fails_gives_back_all_of_the_launch_with_what_was_reserved(failure: object) -> None:
    asked = Asked(ipam_allocate=failure)
    with pytest.raises((Refused, NoAgent, Failed)):
        VERBS["allocate"](ALLOCATE, asked)
    assert asked.calls[1:] == [("/v1/ipam/release", {"handle": UID, "attributes": IS_MESOS})]


def test_failure_to_give_back_does_not_hide_why_allocate_failed() -> None:
    asked = Asked(ipam_allocate=Refused("no address is free", 409, "exhausted"), ipam_release=NoAgent("gone"))
    with pytest.raises(Refused, match="no address is free"):
        VERBS["allocate"](ALLOCATE, asked)


@pytest.mark.parametrize(
    "addresses", [["10.1.0.1/32"], ["10.1.0.1/32", "10.1.0.2/32", "10.1.0.3/32"], ["10.1.0.1/32", "fd00::1/128"]]
)
def test_defect_count_that_nobody_checked_other_numbers_than_asked_for_are_a_failure(addresses: list[str]) -> None:
    with pytest.raises(Failed, match=r"10\.1\.0\.1.*, which is not what was asked for"):
        VERBS["allocate"](ALLOCATE | {"num_ipv4": 2}, Asked(ipam_allocate={"addresses": addresses}))


# --- reserve ---


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"uid": None, "hostname": None}, "Missing uid"),
        ({"hostname": None, "ipv4_addrs": 5}, "Missing hostname"),
        ({"ipv4_addrs": "10.1.0.7"}, "IP addresses must be provided as JSON list, not: str"),
        ({"ipv4_addrs": ["10.1.0"]}, "IP address could not be parsed: 10.1.0"),
        ({"ipv4_addrs": ["10.1.0.7/32"]}, "IP address could not be parsed: 10.1.0.7/32"),
        ({"ipv4_addrs": [167837703]}, "IP address could not be parsed: 167837703"),
        ({"ipv6_addrs": ["fe80::1%eth0"]}, "IP address could not be parsed: fe80::1%eth0"),
        ({"ipv4_addrs": ["fd00::7"]}, "IPv6 address must not be placed in IPv4 address field."),
        ({"ipv6_addrs": ["10.1.0.7"]}, "IPv4 address must not be placed in IPv6 address field."),
        ({"ipv4_addrs": ["10.1.0.7", "10.1.0.7"]}, "IP address is given twice: 10.1.0.7"),
        ({"ipv4_addrs": ["10.1.0.7"] * 17}, "Too many IP addresses: 17; 16 is the most"),
        ({"ipv4_addrs": []}, "Must provide at least one IPv4 or IPv6 address."),
        ({"ipv4_addrs": None}, "Must provide at least one IPv4 or IPv6 address."),
    ],
)
def test_reserve_checks_its_arguments_in_order(change: dict[str, Any], text: str) -> None:
    assert _refusal("reserve", RESERVE | change) == text


def test_reserve_asks_for_both_families_at_once() -> None:
    asked = Asked(ipam_allocate={"addresses": ["10.1.0.7/32", "fd00::7/128"]})
    assert VERBS["reserve"](RESERVE | {"ipv6_addrs": ["fd00::7"]}, asked) == {}
    assert asked.calls[0][1]["addresses"] == ["10.1.0.7", "fd00::7"]


def test_reserve_of_a_taken_address_names_it() -> None:
    refused = Refused("10.1.0.8 is held by net1.c1 on h2", 409, "conflict")
    with pytest.raises(Refused) as caught:
        VERBS["reserve"](RESERVE | {"ipv4_addrs": ["10.1.0.7", "10.1.0.8"]}, Asked(ipam_allocate=refused))
    assert str(caught.value) == "IP '10.1.0.8' already in use."


@pytest.mark.parametrize("code", ["invalid", "exhausted", "conflict", "unavailable", "internal"])
def test_defect_pool_not_found_and_all_else_the_agent_refuses_is_said_as_it_is(code: str) -> None:
    with pytest.raises(Refused, match="no pool covers it"):
        VERBS["reserve"](RESERVE, Asked(ipam_allocate=Refused("no pool covers it", 400, code)))


# --- release ---


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({}, "Must supply either uid or ips."),
        ({"uid": None, "ips": None}, "Must supply either uid or ips."),
        ({"uid": UID, "ips": ["10.1.0.7"]}, "Supply either uid or ips, not both."),
        ({"uid": 5}, "uid must be a string"),
        ({"uid": "net1.c1"}, "Invalid UID: net1.c1"),
        ({"ips": "10.1.0.7"}, "IP addresses must be provided as JSON list, not: str"),
        ({"ips": ["10.1.0"]}, "IP address could not be parsed: 10.1.0"),
    ],
)
def test_release_checks_its_arguments_in_order(args: dict[str, Any], text: str) -> None:
    assert _refusal("release", args) == text


def test_release_by_ips_is_of_both_families_and_only_of_what_mesos_has() -> None:
    asked = Asked()
    assert VERBS["release"]({"ips": ["10.1.0.7", "fd00::7"]}, asked) == {}
    assert asked.calls == [("/v1/ipam/release", {"attributes": IS_MESOS, "addresses": ["10.1.0.7", "fd00::7"]})]


def test_release_of_no_ips_asks_nobody() -> None:
    asked = Asked()
    assert VERBS["release"]({"ips": []}, asked) == {}
    assert asked.calls == []


# --- isolate ---


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"container_id": None, "hostname": None}, "Missing container_id"),
        ({"container_id": "../x"}, "Invalid container_id: ../x"),
        ({"hostname": None, "pid": None}, "Missing hostname"),
        ({"pid": None, "ipv4_addrs": 5}, "Missing pid"),
        ({"pid": 0}, "Invalid pid: 0"),
        ({"pid": "7"}, "Invalid pid: 7"),
        ({"pid": True}, "Invalid pid: true"),
        ({"pid": 1 << 40}, "Invalid pid: 1099511627776"),
        ({"ipv4_addrs": ["x"]}, "IP address could not be parsed: x"),
        ({"ipv6_addrs": ["10.1.0.7"]}, "IPv4 address must not be placed in IPv6 address field."),
        ({"ipv4_addrs": None, "netgroups": 5}, "Must provide at least one IPv4 or IPv6 address."),
        ({"netgroups": "a"}, "Must provide list of netgroups."),
        ({"netgroups": {"a": 1}}, "Must provide list of netgroups."),
        ({"netgroups": ["a", 5]}, "Invalid netgroup: 5"),
        ({"netgroups": [""]}, "Invalid netgroup: "),
        ({"netgroups": ["a"] * 65}, "Too many netgroups: 65; 64 is the most"),
        ({"labels": 5}, "labels: must be a list of keys and values or an object, not: int"),
    ],
)
def test_isolate_checks_its_arguments_in_order(change: dict[str, Any], text: str) -> None:
    assert _refusal("isolate", ISOLATE | change) == text


def test_isolate_attaches_with_the_addresses_and_groups_that_it_was_given() -> None:
    asked = Asked()
    args = ISOLATE | {
        "ipv6_addrs": ["fd00::7"],
        "netgroups": ["b", "a", "b"],
        "labels": [{"key": "team/x", "value": "/blue"}, {"key": "ipv4_addrs", "value": "['10.1.0.7']"}],
    }
    assert VERBS["isolate"](args, asked) == {}
    body = {
        "network": "mesos",
        "container": "c1",
        "interface": "eth0",
        "pid": 7,
        "orchestrator": "mesos",
        "namespace": "default",
        "labels": {"team.x": "blue"},
        "groups": ["b", "a"],
        "given": ["10.1.0.7", "fd00::7"],
    }
    assert asked.calls == [("/v1/attach", body)]


@pytest.mark.parametrize("netgroups", [None, []])
def test_container_without_groups_is_attached_with_none(netgroups: object) -> None:
    asked = Asked()
    VERBS["isolate"](ISOLATE | {"netgroups": netgroups}, asked)
    assert asked.calls[0][1]["groups"] == []


def test_label_of_calico_says_the_namespace() -> None:
    asked = Asked()
    VERBS["isolate"](ISOLATE | {"labels": {"projectcalico.org/namespace": "/Prod/web"}}, asked)
    assert asked.calls[0][1]["namespace"] == "prod.web"
    assert asked.calls[0][1]["labels"] == {}


def test_container_that_is_attached_otherwise_is_already_configured() -> None:
    refused = Refused("c1/eth0 is attached already, with another process", 409, "conflict")
    with pytest.raises(Failed) as caught:
        VERBS["isolate"](ISOLATE, Asked(attach=refused))
    assert str(caught.value) == ALREADY_CONFIGURED
    assert caught.value.detail == str(refused)


def test_address_that_another_endpoint_has_is_said_as_it_is() -> None:
    refused = Refused("10.1.0.7 is the address of endpoint default/x", 409, "conflict")
    with pytest.raises(Refused, match=r"10\.1\.0\.7 is the address of endpoint default/x"):
        VERBS["isolate"](ISOLATE, Asked(attach=refused))


# --- cleanup ---


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"container_id": None, "hostname": None}, "Missing container_id"),
        ({"hostname": None}, "Missing hostname"),
        ({"container_id": 5}, "Invalid container_id: 5"),
    ],
)
def test_cleanup_checks_its_arguments_in_order(change: dict[str, Any], text: str) -> None:
    assert _refusal("cleanup", CLEANUP | change) == text


def test_cleanup_detaches_and_leaves_the_rest_to_the_agent() -> None:
    asked = Asked()
    assert VERBS["cleanup"](CLEANUP, asked) == {}
    assert asked.calls == [
        ("/v1/detach", {"container": "c1", "interface": "eth0", "orchestrator": "mesos"}),
    ]


def test_request_as_net_modules_really_sends_it_is_understood() -> None:
    sent = {
        "args": {
            "container_id": "ba11",
            "hostname": "172.17.0.5",
            "ipv4_addrs": ["192.168.0.3"],
            "netgroups": ["star-1"],
            "pid": 3789,
        },
        "command": "isolate",
    }
    verb, args = parse_request(json.dumps(sent).encode(), frozenset(VERBS))
    asked = Asked()
    VERBS[verb](args, asked)
    assert asked.calls[0][1]["given"] == ["192.168.0.3"]
