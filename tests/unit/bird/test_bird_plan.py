"""What would change in BIRD's file, shown without secrets."""

from __future__ import annotations

from felix.dataplane.bird.context import build_context
from felix.dataplane.bird.plan import plan_bird
from felix.dataplane.bird.types import BirdContext, BirdOptions, Secret
from tests.support.bird import make_inputs, node, resource


def guarded(password: str) -> BirdContext:
    reference = {"secretKeyRef": {"name": "n", "key": "k"}}
    peer = resource("BGPPeer", "tor", peerIP="10.0.0.99", asNumber=1, password=reference)
    options = BirdOptions(secret_by_key={("n", "k"): Secret(password)})
    return build_context(make_inputs([node(1), peer]), options).context


def test_plan_of_what_is_there_already_is_empty() -> None:
    context = guarded("hunter2")

    again = plan_bird(context, plan_bird(context, "").text)

    assert (again.is_empty, again.list_changes()) == (True, [])


def test_plan_shows_what_changes_but_no_password() -> None:
    before = plan_bird(build_context(make_inputs([node(1)])).context, "").text

    plan = plan_bird(guarded("hunter2"), before)

    assert "+protocol bgp Global_10_0_0_99 from session {" in plan.list_changes()
    assert 'password "hunter2";' in plan.text
    assert "hunter2" not in "\n".join(plan.list_changes())


def test_plan_of_another_password_alone_is_not_empty_and_has_another_digest() -> None:
    first = plan_bird(guarded("hunter2"), "")

    second = plan_bird(guarded("hunter3"), first.text)

    assert not second.is_empty
    assert second.digest != first.digest
