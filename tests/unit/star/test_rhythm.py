"""Beats do not drift, tries do not pile up."""

from __future__ import annotations

import pytest

from felix.star.faults import BadInput
from felix.star.rhythm import next_beat, pick_timeout


@pytest.mark.parametrize(
    ("now_s", "beat_s"),
    [(100.0, 105.0), (100.2, 105.0), (104.9, 105.0), (105.1, 110.0), (133.0, 135.0)],
    ids=["at once", "quick", "just in time", "late", "far too late"],
)
def test_next_beat_is_a_multiple_of_the_interval_and_not_past(now_s: float, beat_s: float) -> None:
    assert next_beat(100.0, now_s, 5.0) == beat_s


def test_beats_of_uneven_work_stay_on_the_grid() -> None:
    due = 0.0
    for work_s in (0.3, 1.7, 0.0, 0.99, 2.5) * 20:
        due = next_beat(due, due + work_s, 1.0)
        assert due == int(due)


def test_timeout_by_default_is_the_interval_and_at_most_two_seconds() -> None:
    assert pick_timeout(5.0, None, "--t") == 2.0
    assert pick_timeout(0.5, None, "--t") == 0.5


def test_timeout_longer_than_the_interval_is_refused_by_name() -> None:
    assert pick_timeout(5.0, 5.0, "--t") == 5.0
    with pytest.raises(BadInput, match="--t 6 is longer than the interval of 5 s"):
        pick_timeout(5.0, 6.0, "--t")
