"""Throttle and retry: when to act, with time as a plain number."""

from __future__ import annotations

import pytest

from felix.reconcile.retry import BackOff, RetryQueue
from felix.reconcile.throttle import Throttle


def test_throttle_after_quiet_lets_a_burst_through_at_once() -> None:
    throttle = Throttle(interval_s=0.1, burst=3, now=0.0)
    for _ in range(3):
        assert throttle.wait_s(0.0) == 0.0
        throttle.take(0.0)
    assert throttle.wait_s(0.0) == pytest.approx(0.1)


def test_throttle_after_the_burst_admits_one_per_interval() -> None:
    throttle = Throttle(interval_s=0.1, burst=1, now=0.0)
    throttle.take(0.0)
    assert throttle.wait_s(0.04) == pytest.approx(0.06)
    assert throttle.wait_s(0.1001) == 0.0


def test_throttle_after_long_quiet_holds_no_more_than_its_burst() -> None:
    throttle = Throttle(interval_s=0.1, burst=2, now=0.0)
    for _ in range(2):
        throttle.take(1000.0)
    assert throttle.wait_s(1000.0) == pytest.approx(0.1)


def test_retry_queue_after_failures_in_a_row_waits_twice_as_long_up_to_the_most() -> None:
    queue: RetryQueue[str] = RetryQueue(BackOff(first_s=1.0, most_s=3.0))
    assert [queue.note_failed("a", 0.0, 1.0) for _ in range(4)] == [1.0, 2.0, 3.0, 3.0]


def test_retry_queue_when_due_hands_out_once_and_remembers_failures() -> None:
    queue: RetryQueue[str] = RetryQueue(BackOff(first_s=1.0))
    queue.note_failed("a", 0.0, 1.0)
    assert queue.take_due(0.9) == []
    assert queue.next_due_at() == 1.0
    assert queue.take_due(1.0) == ["a"]
    assert queue.take_due(5.0) == []
    assert queue.note_failed("a", 5.0, 1.0) == 2.0


def test_retry_queue_after_success_starts_anew() -> None:
    queue: RetryQueue[str] = RetryQueue(BackOff(first_s=1.0))
    queue.note_failed("a", 0.0, 1.0)
    queue.note_done("a")
    assert len(queue) == 0
    assert queue.note_failed("a", 0.0, 0.0) == 0.5
