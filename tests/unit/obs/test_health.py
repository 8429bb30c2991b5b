"""Alive is progress, ready is doing the job; both are judged at the moment of the question."""

import pytest

from felix.obs.health import Health, Verdict, render_states


class Time:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_health_without_components_is_live_and_not_ready() -> None:
    health = Health(Time())
    assert health.is_live()
    assert not health.is_ready()


def test_component_silent_too_long_is_neither_live_nor_ready_and_recovers() -> None:
    clock = Time()
    health = Health(clock)
    part = health.component("dataplane", 10.0)
    part.set_ready(True)
    clock.now += 10.0
    assert health.is_live()
    assert health.is_ready()
    clock.now += 0.1
    assert not health.is_live()
    assert not health.is_ready()
    assert "silent for 10 s, allowed are 10 s" in health.states()[0].detail
    part.beat()
    assert health.is_ready()


def test_component_not_ready_yet_keeps_the_agent_live() -> None:
    health = Health(Time())
    health.component("a", 10.0).set_ready(True)
    health.component("b", 10.0)
    assert health.is_live()
    assert not health.is_ready()


def test_optional_component_that_is_down_leaves_the_agent_ready() -> None:
    health = Health(Time())
    health.component("dataplane").set_ready(True)
    health.component("bgp", counts=False).set_ready(False, "BIRD does not answer")
    assert health.is_ready()
    assert "BIRD does not answer" in render_states(health.states())


def test_question_at_the_moment_of_asking_can_take_readiness_away() -> None:
    health = Health(Time())
    part = health.component("dataplane")
    part.set_ready(True)
    age_s = 0.0
    part.ask_with(lambda: Verdict(age_s < 5, f"oldest change waits {age_s:g} s"))
    assert health.is_ready()
    age_s = 6.0
    assert not health.is_ready()
    assert "oldest change waits 6 s" in render_states(health.states())


def test_override_timeouts_apply_at_once_and_can_be_taken_back() -> None:
    clock = Time()
    health = Health(clock, {"a": 1.0})
    health.component("a", 10.0)
    clock.now += 5.0
    assert not health.is_live()
    health.override_timeouts({})
    assert health.is_live()
    health.override_timeouts({"a": 0.0})
    clock.now += 1000.0
    assert health.is_live()


def test_component_of_a_name_that_is_taken_is_refused() -> None:
    health = Health(Time())
    health.component("a")
    with pytest.raises(ValueError, match="already"):
        health.component("a")
