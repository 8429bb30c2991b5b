"""Who owns what several claim."""

from __future__ import annotations

import itertools

import pytest

from felix.calc.claims import Claims
from felix.model.keys import ResourceKey

A, B, C = (ResourceKey("WorkloadEndpoint", "default", name) for name in "abc")


@pytest.mark.parametrize("order", list(itertools.permutations([A, B, C])))
def test_claims_in_any_order_lowest_key_wins(order: tuple[ResourceKey, ...]) -> None:
    claims: Claims[str] = Claims()
    for key in order:
        claims.set_claims(key, ["cali1"])
    assert claims.find_winner("cali1") == A


def test_claims_winner_gone_next_wins_and_all_losers_are_touched() -> None:
    claims: Claims[str] = Claims()
    for key in (A, B, C):
        claims.set_claims(key, ["cali1"])
    assert claims.set_claims(A, []) == {B, C}
    assert claims.find_winner("cali1") == B
    assert claims.set_claims(C, []) == set()
    assert claims.set_claims(B, ["cali2"]) == set()
    assert (claims.find_winner("cali1"), claims.find_winner("cali2")) == (None, B)
    claims.set_claims(B, [])
    assert len(claims) == 0


def test_claims_lower_key_arrives_old_winner_is_touched() -> None:
    claims: Claims[str] = Claims()
    claims.set_claims(B, ["cali1", "cali2"])
    assert claims.set_claims(A, ["cali2", "cali2"]) == {B}
    assert (claims.find_winner("cali1"), claims.find_winner("cali2")) == (B, A)
