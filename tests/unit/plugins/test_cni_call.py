"""The environment of a call, checked as the reference plug-ins check it."""

from __future__ import annotations

import pytest

from felix.plugins.cni.call import check_names, is_name, known_args, parse_call
from felix.plugins.cni.refusal import BAD_ENVIRONMENT, CniError

FULL = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/c1",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/a:/b",
}


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("ADD", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
        ("CHECK", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
        ("DEL", "CNI_CONTAINERID,CNI_IFNAME,CNI_PATH"),
        ("GC", "CNI_PATH"),
        ("STATUS", "CNI_PATH"),
    ],
)
def test_call_without_variables_names_all_that_are_missing(command: str, missing: str) -> None:
    with pytest.raises(CniError) as caught:
        parse_call({"CNI_COMMAND": command})
    assert str(caught.value) == f"required env variables [{missing}] missing"
    assert caught.value.code == BAD_ENVIRONMENT


def test_call_with_an_empty_variable_counts_it_as_missing() -> None:
    with pytest.raises(CniError, match=r"\[CNI_NETNS\] missing"):
        parse_call(FULL | {"CNI_NETNS": ""})


def test_call_of_version_needs_nothing_else() -> None:
    assert parse_call({"CNI_COMMAND": "VERSION"}).command == "VERSION"


def test_call_of_an_unknown_command_is_refused() -> None:
    with pytest.raises(CniError, match="unknown CNI_COMMAND: UPDATE") as caught:
        parse_call(FULL | {"CNI_COMMAND": "UPDATE"})
    assert caught.value.code == BAD_ENVIRONMENT


def test_call_with_all_variables_is_read() -> None:
    call = parse_call(FULL | {"CNI_ARGS": "IP=10.1.0.7", "CNI_NETNS_OVERRIDE": "TRUE"})
    assert (call.container, call.netns, call.interface) == ("c1", "/run/netns/c1", "eth0")
    assert call.path == ("/a", "/b")
    assert call.skips_netns_check
    check_names(call)


@pytest.mark.parametrize("name", ["c1", "A", "parent.child", "a_b-c.d", "0" * 64])
def test_container_with_letters_that_are_allowed_is_taken(name: str) -> None:
    check_names(parse_call(FULL | {"CNI_CONTAINERID": name}))


@pytest.mark.parametrize("name", ["-c", ".c", "_c", "a/b", "a b", "ä", "a\n", "../etc"])
def test_container_with_other_letters_is_refused(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(CniError, match="invalid characters in containerID") as caught:
        check_names(parse_call(FULL | {"CNI_CONTAINERID": name}))
    assert caught.value.code == BAD_ENVIRONMENT


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a" * 16, "too long"),
        (".", r"is \. or \.\."),
        ("..", r"is \. or \.\."),
        ("a/b", "contains"),
        ("a:b", "contains"),
        ("a b", "contains"),
        ("a\tb", "contains"),
    ],
)
def test_interface_that_cannot_be_called_so_is_refused(name: str, reason: str) -> None:
    with pytest.raises(CniError, match=reason) as caught:
        check_names(parse_call(FULL | {"CNI_IFNAME": name}))
    assert caught.value.code == BAD_ENVIRONMENT


def test_args_that_nobody_knows_are_refused_unless_told_to_ignore() -> None:
    with pytest.raises(CniError, match="K8S_POD_NAME") as caught:
        known_args("IP=10.1.0.7;K8S_POD_NAME=x", ("IP",))
    assert caught.value.code == BAD_ENVIRONMENT
    assert known_args("IgnoreUnknown=1;IP=10.1.0.7;K8S_POD_NAME=x", ("IP",)) == {"IP": "10.1.0.7"}
    assert known_args("IP=10.1.0.7;;IgnoreUnknown=true", ("IP",)) == {"IP": "10.1.0.7"}
    assert known_args("", ("IP",)) == {}


def test_args_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(CniError, match="is no pair"):
        known_args("IP", ("IP",))
