from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from felix.calc.desired import Action, CompiledPolicy, CompiledRule, Stack, StackTier
from felix.dataplane.nft.names import EGRESS, INGRESS, address_set, comment, policy_chain, stack_chain
from felix.dataplane.nft.render import render_table
from felix.dataplane.nft.stack import render_policy, render_stack
from felix.dataplane.nft.types import ElementShape, NftConfig
from felix.model.keys import ResourceKey

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,100}")
_texts = st.text(st.characters(), max_size=300)


@given(name=_texts, namespace=_texts, tier=_texts, set_id=_texts)
def test_names_of_anything_are_plain_words(name: str, namespace: str, tier: str, set_id: str) -> None:
    key = ResourceKey("NetworkPolicy", namespace, name)
    stack = Stack((StackTier(tier, (key,), Action.PASS),), ())
    for text in (policy_chain(INGRESS, key), stack_chain(EGRESS, stack), address_set(set_id, ElementShape.IPV4)):
        assert _NAME.fullmatch(text)


@given(name=_texts, namespace=_texts, tier=_texts)
def test_text_of_any_policy_holds_nothing_but_its_own_rules(name: str, namespace: str, tier: str) -> None:
    key = ResourceKey("NetworkPolicy", namespace, name)
    policy = CompiledPolicy((CompiledRule(Action.DENY), CompiledRule(Action.PASS)), ())
    stack = Stack((StackTier(tier, (key, key._replace(name=name + "x")), Action.DENY),), ())
    rendered = render_stack(NftConfig(), INGRESS, stack, {key: policy})
    text = render_table((), [*rendered.chains.items(), ("p", render_policy(NftConfig(), INGRESS, key, policy))])
    assert re.fullmatch(r'[A-Za-z0-9_.:/()= {}",;\n\t-]*', text)
    for line in text.split("\n"):
        assert line.count('"') in (0, 2, 4, 6)
        for quoted in re.findall(r'"([^"]*)"', line):
            assert len(quoted.encode()) < 128


def test_policies_with_the_same_readable_part_have_chains_of_their_own() -> None:
    keys = [
        ResourceKey("NetworkPolicy", "a", "b.c"),
        ResourceKey("NetworkPolicy", "a.b", "c"),
        ResourceKey("GlobalNetworkPolicy", "", "a.b.c"),
        ResourceKey("GlobalNetworkPolicy", "", "x" * 60),
        ResourceKey("GlobalNetworkPolicy", "", "x" * 61),
    ]
    chains = {policy_chain(direction, key) for key in keys for direction in (INGRESS, EGRESS)}
    assert len(chains) == 10


def test_comment_keeps_readable_words_and_drops_what_could_end_it() -> None:
    assert comment('a "quoted"\nname\\') == '"a _quoted__name_"'
