"""The delta tracker against two plain dictionaries."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from felix.reconcile.delta import DeltaTracker

KEYS = st.integers(0, 5)
VALUES = st.integers(0, 2)
STEPS: st.SearchStrategy[list[Any]] = st.lists(
    st.one_of(
        st.tuples(st.just("want"), KEYS, VALUES),
        st.tuples(st.just("drop"), KEYS, st.just(0)),
        st.tuples(st.just("present"), KEYS, VALUES),
        st.tuples(st.just("absent"), KEYS, st.just(0)),
        st.tuples(st.just("believe"), st.dictionaries(KEYS, VALUES), st.just(0)),
        st.tuples(st.just("replace"), st.dictionaries(KEYS, VALUES), st.just(0)),
    ),
    max_size=40,
)


@given(STEPS)
def test_delta_tracker_after_any_steps_equals_difference_of_two_dictionaries(steps: list[Any]) -> None:
    tracker: DeltaTracker[int, int] = DeltaTracker()
    desired: dict[int, int] = {}
    believed: dict[int, int] = {}
    for verb, key, value in steps:
        match verb:
            case "want":
                tracker.set_desired(key, value)
                desired[key] = value
            case "drop":
                tracker.drop_desired(key)
                desired.pop(key, None)
            case "present":
                tracker.note_present(key, value)
                believed[key] = value
            case "absent":
                tracker.note_absent(key)
                believed.pop(key, None)
            case "believe":
                tracker.replace_believed(key.items())
                believed = dict(key)
            case "replace":
                tracker.replace_desired(key)
                desired = dict(key)
        updates = dict(tracker.pending_updates())
        assert updates == {k: v for k, v in desired.items() if k not in believed or believed[k] != v}
        assert set(tracker.pending_deletes()) == believed.keys() - desired.keys()
        assert tracker.updates_count == len(updates)
        assert tracker.is_settled == (desired == believed)
        assert dict(tracker.desired) == desired
        assert dict(tracker.believed) == believed


@given(STEPS)
def test_delta_tracker_after_doing_everything_pending_is_settled(steps: list[Any]) -> None:
    tracker: DeltaTracker[int, int] = DeltaTracker()
    for verb, key, value in steps:
        match verb:
            case "want":
                tracker.set_desired(key, value)
            case "present":
                tracker.note_present(key, value)
            case "drop":
                tracker.drop_desired(key)
    for key, value in list(tracker.pending_updates()):
        tracker.note_present(key, value)
    for key in list(tracker.pending_deletes()):
        tracker.note_absent(key)
    assert tracker.is_settled
    assert dict(tracker.believed) == dict(tracker.desired)
