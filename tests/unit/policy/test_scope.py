"""Which selectors a policy's texts become."""

from __future__ import annotations

import pytest

from felix.model.records import WorkloadEndpoint
from felix.policy.scope import endpoint_labels, network_set_labels, policy_selector, rule_selectors
from felix.selector.parse import SelectorError
from tests.unit.policy.build import make_entity, make_record

IN_BLUE = 'projectcalico.org/namespace == "blue"'


@pytest.mark.parametrize(
    ("namespace", "members", "expected"),
    [
        ("", {}, (None, None)),
        ("", {"selector": "has(a)"}, ("has(a)", None)),
        ("", {"selector": "all()"}, ("all()", None)),
        ("", {"notSelector": "has(a)"}, (None, "has(a)")),
        ("blue", {}, (None, None)),
        ("blue", {"nets": ["10.0.0.0/8"]}, (None, None)),
        ("blue", {"notNets": ["10.0.0.0/8"], "ports": [80]}, (None, None)),
        ("blue", {"selector": "has(a)"}, (f"{IN_BLUE} && has(a)", None)),
        ("blue", {"selector": "a == '1' || has(b)"}, (f'{IN_BLUE} && (a == "1" || has(b))', None)),
        ("blue", {"selector": "all()"}, (IN_BLUE, None)),
        ("blue", {"notSelector": "has(a)"}, (IN_BLUE, "has(a)")),
        ("blue", {"nets": ["10.0.0.0/8"], "notSelector": "has(a)"}, (IN_BLUE, "has(a)")),
        ("blue", {"namespaceSelector": "team == 'x'"}, ('pcns.team == "x"', None)),
        ("blue", {"namespaceSelector": "all()"}, ("has(projectcalico.org/namespace)", None)),
        ("blue", {"namespaceSelector": "global()"}, ("!has(projectcalico.org/namespace)", None)),
        (
            "blue",
            {"namespaceSelector": "has(team)", "selector": "has(a)", "notSelector": "has(b)"},
            ("has(pcns.team) && has(a)", "has(b)"),
        ),
        (
            "",
            {"namespaceSelector": "!(t in {'x'}) || all()", "selector": "has(a)"},
            ('(!pcns.t in {"x"} || has(projectcalico.org/namespace)) && has(a)', None),
        ),
        ("", {"namespaceSelector": "a == 'all()'"}, ('pcns.a == "all()"', None)),
    ],
)
def test_rule_selectors_of_an_entity_are_bounded_as_calico_bounds_them(
    namespace: str, members: dict[str, object], expected: tuple[str | None, str | None]
) -> None:
    positive, negative = rule_selectors(namespace, make_entity(**members))
    assert (positive and positive.text, negative and negative.text) == expected


@pytest.mark.parametrize(
    ("namespace", "selector", "namespace_selector", "expected"),
    [
        ("", "", "", "all()"),
        ("", "has(a)", "", "has(a)"),
        ("", "has(a)", "all()", "has(projectcalico.org/namespace) && has(a)"),
        ("", "", "global()", "!has(projectcalico.org/namespace)"),
        ("", "", "x == 'y'", 'pcns.x == "y"'),
        ("blue", "", "", IN_BLUE),
        ("blue", "has(a) || has(b)", "", f"{IN_BLUE} && (has(a) || has(b))"),
    ],
)
def test_policy_selector_stays_in_its_namespace(
    namespace: str, selector: str, namespace_selector: str, expected: str
) -> None:
    assert policy_selector(namespace, selector, namespace_selector).text == expected


def test_rule_selectors_of_no_selector_raise() -> None:
    with pytest.raises(SelectorError):
        rule_selectors("", make_entity(namespaceSelector="a ="))


def test_endpoint_labels_tell_where_it_is_and_cannot_be_forged() -> None:
    forged = {"a": "1", "pcns.team": "x", "pcsa.b": "y", "projectcalico.org/namespace": "red"}
    endpoint = make_record(WorkloadEndpoint, "w", {"orchestrator": "cni"}, "blue", forged)
    assert endpoint_labels(endpoint) == {
        "a": "1",
        "projectcalico.org/namespace": "blue",
        "projectcalico.org/orchestrator": "cni",
    }
    assert network_set_labels("", forged) == {"a": "1"}
    assert network_set_labels("red", {"b": "2"}) == {"b": "2", "projectcalico.org/namespace": "red"}
