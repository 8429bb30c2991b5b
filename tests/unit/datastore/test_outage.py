"""An outage is told once a minute, however often it strikes."""

from __future__ import annotations

from felix.datastore.outage import Outage


def test_outage_of_many_failures_is_told_once_a_minute() -> None:
    outage = Outage()
    told = [now for now in range(0, 180, 5) if outage.note_failed(OSError("away"), now)]
    assert told == [0, 60, 120]
    assert outage.failure == "away"
    assert outage.note_well() == 36
    assert outage.note_well() == 0
    assert outage.failure == ""


def test_outage_that_comes_and_goes_is_told_once_a_minute() -> None:
    outage = Outage()
    told = []
    for now in range(0, 120, 10):
        told += [now] if outage.note_failed(OSError("away"), now) else []
        outage.note_well()
    assert told == [0, 60]
