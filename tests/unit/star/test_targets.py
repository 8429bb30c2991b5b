"""URLs of probes: which are taken, where they lead, and what is said of others."""

from __future__ import annotations

import pytest

from felix.star.faults import BadInput
from felix.star.targets import TARGETS_MOST, Place, complete_url, parse_place, parse_urls


def test_urls_with_blanks_and_doubles_come_out_once_in_order() -> None:
    assert parse_urls(" http://b/status,, http://a/status ,http://b/status,") == ["http://b/status", "http://a/status"]


def test_urls_that_are_empty_are_no_targets() -> None:
    assert parse_urls("") == []


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://10.0.0.7:9000/status", Place("http", "10.0.0.7", 9000)),
        ("https://star.example/", Place("https", "star.example", 443)),
        ("http://[fd00::7]/status", Place("http", "fd00::7", 80)),
        ("tcp://db:5432", Place("tcp", "db", 5432)),
        ("foo.baz.com:80", Place("http", "foo.baz.com", 80)),
    ],
)
def test_url_leads_to_its_place(url: str, place: Place) -> None:
    assert parse_place(url) == place


def test_url_without_scheme_is_http() -> None:
    assert complete_url("foo.baz.com:80") == "http://foo.baz.com:80"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://a/", "scheme 'ftp'"),
        ("http://", "no host"),
        ("http://a b/", "no host"),
        ("http://a:99999/", "Port out of range"),
        ("tcp://db", "no port"),
        ("http://[fd00::7/", "Invalid IPv6 URL"),
        ("http://a/" + "x" * 3000, "3009 characters"),
    ],
)
def test_url_that_leads_nowhere_is_refused_with_its_reason(url: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        parse_urls(url)


def test_urls_too_many_are_refused() -> None:
    with pytest.raises(BadInput, match="start several"):
        parse_urls(",".join(f"http://10.0.0.1:{port}/" for port in range(1, TARGETS_MOST + 2)))
