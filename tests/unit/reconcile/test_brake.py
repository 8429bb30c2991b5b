"""When deletions need a person's word."""

from __future__ import annotations

import pytest

from felix.reconcile.brake import find_hold


@pytest.mark.parametrize(("leaving", "in_force"), [(0, 0), (10, 10), (11, 22), (500, 1000)])
def test_hold_few_or_up_to_half_leave_none(leaving: int, in_force: int) -> None:
    assert find_hold([f"cali{n}" for n in range(leaving)], in_force) is None


@pytest.mark.parametrize(("leaving", "in_force"), [(11, 11), (11, 21), (501, 1000)])
def test_hold_many_and_most_leave_is_held_whatever_the_order(leaving: int, in_force: int) -> None:
    names = [f"cali{n:03}" for n in range(leaving)]

    hold = find_hold(names[::-1], in_force)

    assert hold is not None
    assert hold.leaving == tuple(names)


def test_hold_shown_says_how_many_and_which() -> None:
    assert str(find_hold([f"cali{n:02}" for n in range(11)], 12)) == (
        "11 of 12 endpoints would go at once (cali00, cali01, cali02, cali03, cali04, ...)"
    )
