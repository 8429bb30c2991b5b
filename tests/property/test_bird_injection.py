"""No text out of the datastore becomes a statement of BIRD's configuration."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from felix.dataplane.bird.context import build_context
from felix.dataplane.bird.render import is_quotable, quote, render_bird
from felix.dataplane.bird.types import BirdOptions, Secret
from tests.support.bird import make_inputs, node, pools, resource

EVIL = "protocol static evil { ipv4; }"
BREAKERS = ['"', "\n", ";", "}", "{", "#", "\\", "/*", "*/", "\x00", "\r", "\u2028"]
texts = st.lists(st.one_of(st.sampled_from([*BREAKERS, EVIL]), st.text(max_size=6)), max_size=6).map("".join)


def statements(text: str) -> list[str]:
    """The structure that BIRD sees: comments and the insides of quoted texts taken away."""
    without_comments = re.sub(r"#[^\n]*", "", re.sub(r'"[^"\n]*"', '""', text))
    assert without_comments.count('"') % 2 == 0
    return re.findall(
        r"^(?:protocol|filter|function|template|define|include|log)\b[^\n]*", without_comments, re.MULTILINE
    )


@given(texts, texts, texts, texts, texts)
def test_no_text_of_any_object_adds_a_statement(name: str, secret: str, interface: str, value: str, cidr: str) -> None:
    plain = render_of("name", "secret", "eth0", "1:2", "10.0.0.0/8")
    evil = render_of(name, secret, interface, value, cidr)

    allowed = set(statements(plain))
    assert [statement for statement in statements(evil) if statement not in allowed] == []
    assert [line for line in evil.splitlines() if "evil" in line and not is_harmless(line)] == []


def is_harmless(line: str) -> bool:
    """Whether a line can hold foreign text: a comment, or between quotes."""
    return line.startswith("#") or re.fullmatch(r'\s*(password|interface) .*"', line.rstrip(";")) is not None


def render_of(name: str, secret: str, interface: str, value: str, cidr: str) -> str:
    documents = [
        node(1),
        resource("Node", name, {"x": name}, bgp={"ipv4Address": cidr, "routeReflectorClusterID": value}),
        *pools(),
        resource("IPPool", name, cidr=cidr),
        resource(
            *("BGPPeer", name or "p"),
            peerIP="10.0.0.99",
            asNumber=1,
            password={"secretKeyRef": {"name": "n", "key": "k"}},
            filters=[name],
            reachableBy=cidr,
        ),
        resource("BGPPeer", f"{name}2", peerIP=cidr[:64], asNumber=1, nodeSelector=name, peerSelector=value),
        resource(
            *("BGPFilter", name),
            importV4=[
                {"action": "Accept", "interface": interface},
                {"action": "Accept", "cidr": cidr[:43], "matchOperator": "In", "communities": {"values": [value]}},
                {"action": "Accept", "operations": [{"addCommunity": {"value": value[:32]}}]},
            ],
        ),
        resource(
            *("BGPConfiguration", "default"),
            ignoredInterfaces=[interface],
            communities=[{"name": name, "value": "1:2"}],
            prefixAdvertisements=[{"cidr": cidr, "communities": [value, name]}],
        ),
    ]
    options = BirdOptions(secret_by_key={("n", "k"): Secret(secret)})
    text = render_bird(build_context(make_inputs(documents), options).context)
    return re.sub(r"\bfilter_\w*_import4\b", "filter_import4", text)


@given(st.text())
def test_quoted_text_is_refused_or_reads_back_the_same(text: str) -> None:
    if is_quotable(text):
        assert re.fullmatch(r'"([^"\n\\]*|[^"\n]*)"', quote(text))
        assert quote(text)[1:-1] == text
    else:
        assert any(not " " <= char <= "~" or char == '"' for char in text) or not 1 <= len(text) <= 200
