"""Labels and hashes, by the vectors that Mesos-DNS's own tests have, and what may be a name at all."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from felix.dns.names import (
    agent_tail,
    clean_wild,
    hash5,
    is_below,
    is_name,
    mangle_label,
    mangle_name,
    normalize_address,
    reverse_name,
)

BOTH = {
    "": "",
    "a": "a",
    "-": "",
    "a---": "a",
    "---a---": "a",
    "---a---b": "a---b",
    "a.b.c.d.e": "a-b-c-d-e",
    "a.c.d_de.": "a-c-d-de",
    "abc123-": "abc123",
    "abc--123": "abc--123",
    "r29f.dev.angrypigs": "r29f-dev-angrypigs",
    "probe-a.star": "probe-a-star",
    "hello" + 58 * "-" + "f": "hellof",
}
RFC1123 = {
    "4abc123": "4abc123",
    "-4abc123": "4abc123",
    "fd%gsf---gs7-f$gs--d7fddg-123": "fdgsf---gs7-fgs--d7fddg-123",
    "fd%gsf---gs7-f$gs--d7fddg" + 4 * "1234567890" + "123456789-123": None,
    "%%fdgsf---gs7-fgs--d7fddg123456789012345678901234567890123456789---123": (
        "fdgsf---gs7-fgs--d7fddg1234567890123456789012345678901234567891"
    ),
    "##fdgsf---gs7-fgs--d7fddg123456789012345678901234567890123456789-": (
        "fdgsf---gs7-fgs--d7fddg123456789012345678901234567890123456789"
    ),
    "hello" + 56 * "-" + "f": "hello" + 56 * "-" + "f",
}
RFC952 = {
    "4abc123": "abc123",
    "-4abc123": "abc123",
    "89fdgsf---gs7-fgs--d7fddg-123": "fdgsf---gs7-fgs--d7fddg1",
    "89fdgsf---gs7-fgs--d7fddg---123": "fdgsf---gs7-fgs--d7fddg1",
    "89fdgsf---gs7-fgs--d7fddg-": "fdgsf---gs7-fgs--d7fddg",
    "chronos with a space AND MIXED CASE-2.0.1": "chronoswithaspaceandmixe",
    "chronos with a space AND----------MIXED--": "chronoswithaspaceandmixe",
    "hello" + 56 * "-" + "f": "hellof",
}


@pytest.mark.parametrize(
    ("text", "label"), [(text, label) for text, label in {**BOTH, **RFC1123}.items() if label is not None]
)
def test_label_by_rfc1123_is_that_of_mesos_dns(text: str, label: str) -> None:
    assert mangle_label(text) == label


@pytest.mark.parametrize(("text", "label"), {**BOTH, **RFC952}.items())
def test_label_by_rfc952_is_that_of_mesos_dns(text: str, label: str) -> None:
    assert mangle_label(text, is_rfc952=True) == label


@pytest.mark.parametrize(
    ("text", "name"),
    {
        "...": "",
        ".a..c.": "a.c",
        "(@ host . com": "host.com",
        "MiXeDcase.CoM": "mixedcase.com",
        "pod_123$abc.marathon-0.6.0-dev.mesos": "pod-123abc.marathon-0.6.0-dev.mesos",
    }.items(),
)
def test_name_of_a_framework_has_a_label_for_each_part(text: str, name: str) -> None:
    assert mangle_name(text) == name


def test_name_by_rfc952_loses_parts_of_digits() -> None:
    name = mangle_name("pod_123$abc.marathon-0.6.0-dev.mesos", is_rfc952=True)
    assert name == "pod-123abc.marathon-0.dev.mesos"


@given(st.text(), st.booleans())
def test_label_of_anything_is_empty_or_good(text: str, is_rfc952: bool) -> None:
    label = mangle_label(text, is_rfc952=is_rfc952)
    assert set(label) <= set(string.ascii_lowercase + string.digits + "-")
    assert len(label) <= (24 if is_rfc952 else 63)
    assert not label.startswith("-")
    assert label == "" or is_name(label)
    if is_rfc952:
        assert not label[:1].isdigit()


def test_hash_is_that_of_mesos_dns() -> None:
    assert hash5("test") == "iffe9"


def test_agent_tail_is_behind_the_last_dash_in_small_letters() -> None:
    assert agent_tail("20160107-001256-134875658-5050-27524-S3") == "s3"
    assert agent_tail("S0") == "s0"


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", "A", "a b", "-a", "a-", "é", "a" * 64, ".".join(["a" * 63] * 4), "a\\b"]
)
def test_text_that_is_no_name_is_none(text: str) -> None:
    assert not is_name(text)


def test_underscores_may_be_anywhere_in_a_name() -> None:
    assert is_name("_nginx_prod._tcp.marathon.mesos")


def test_is_below_knows_borders_of_labels() -> None:
    assert is_below("mesos", "mesos")
    assert is_below("a.mesos", "mesos")
    assert not is_below("amesos", "mesos")


def test_wildcards_are_left_out() -> None:
    assert clean_wild("bob.*.mesos") == "bob.mesos"


def test_reverse_names_are_those_of_the_rfcs() -> None:
    assert reverse_name("10.13.17.95") == "95.17.13.10.in-addr.arpa"
    assert reverse_name("2001:db8::1") == "1." + 23 * "0." + "8.b.d.0.1.0.0.2.ip6.arpa"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("FD00::0:1", "fd00::1"),
        ("fe80::1%eth0", ""),
        ("x", ""),
    ],
)
def test_addresses_are_kept_in_one_form(text: str, address: str) -> None:
    assert normalize_address(text) == address
