"""What a selector says, as a tree of small immutable nodes: canonical text, a compiled test, and what it requires.

Nodes are values: two trees are equal exactly when their canonical texts are. Nodes are made by the functions
`all_of`, `any_of`, `negation` and by the parser; these flatten and collapse, so that a tree has one form only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

NAMESPACE_LABEL = "projectcalico.org/namespace"

Labels = Mapping[str, str]
Test = Callable[[Labels], bool]
# label -> the values it may have (None: any value) in every label set that the selector matches. Empty set: no match.
Restrictions = dict[str, frozenset[str] | None]


@dataclass(frozen=True, slots=True)
class Compare:
    """`label == value`, or one of the operators `!=`, `contains`, `starts with`, `ends with`."""

    label: str
    operator: str
    value: str


@dataclass(frozen=True, slots=True)
class Member:
    """`label in {...}` or, `negated`, `label not in {...}`; values sorted and distinct, possibly none."""

    label: str
    values: tuple[str, ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class Has:
    """`has(label)`."""

    label: str


@dataclass(frozen=True, slots=True)
class All:
    """`all()`."""


@dataclass(frozen=True, slots=True)
class Global:
    """`global()`: things that are in no namespace."""


@dataclass(frozen=True, slots=True)
class Not:
    """`!operand`; the operand is never a Not."""

    operand: Node


@dataclass(frozen=True, slots=True)
class And:
    """Two or more operands, none of them an And, in the order given."""

    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Two or more operands, none of them an Or, in the order given."""

    operands: tuple[Node, ...]


Node = Compare | Member | Has | All | Global | Not | And | Or


def negation(operand: Node) -> Node:
    """Returns the opposite of a node; a double negation vanishes."""
    return operand.operand if isinstance(operand, Not) else Not(operand)


def all_of(operands: Sequence[Node]) -> Node:
    """Returns what matches when all of one or more operands do; conjunctions inside are flattened."""
    flat = [inner for node in operands for inner in (node.operands if isinstance(node, And) else (node,))]
    return flat[0] if len(flat) == 1 else And(tuple(flat))


def any_of(operands: Sequence[Node]) -> Node:
    """Returns what matches when any of one or more operands does; disjunctions inside are flattened."""
    flat = [inner for node in operands for inner in (node.operands if isinstance(node, Or) else (node,))]
    return flat[0] if len(flat) == 1 else Or(tuple(flat))


def render(node: Node) -> str:
    """Returns the canonical text of a tree; parsing it gives an equal tree."""
    match node:
        case Compare(label, operator, value):
            return f"{label} {operator} {_quote(value)}"
        case Member(label, values, negated):
            return f"{label} {'not in' if negated else 'in'} {{{', '.join(map(_quote, values))}}}"
        case Has(label):
            return f"has({label})"
        case All():
            return "all()"
        case Global():
            return "global()"
        case Not(operand):
            return f"!{_render_inside(operand, (And, Or))}"
        case And(operands):
            return " && ".join(_render_inside(operand, (Or,)) for operand in operands)
        case Or(operands):
            return " || ".join(render(operand) for operand in operands)
        case _:
            assert_never(node)


def _render_inside(node: Node, parenthesised: tuple[type, ...]) -> str:
    return f"({render(node)})" if isinstance(node, parenthesised) else render(node)


def _quote(value: str) -> str:
    # A literal holds at most one kind of quote, because there are no escapes.
    return f"'{value}'" if '"' in value else f'"{value}"'


def compile_test(node: Node) -> Test:
    """Returns a function that says whether labels satisfy the tree; it is pure and never raises."""
    match node:
        case Compare():
            return _compile_compare(node)
        case Member(label, values, negated):
            allowed = frozenset(values)
            if negated:
                return lambda labels: labels.get(label) not in allowed
            return lambda labels: labels.get(label) in allowed
        case Has(label):
            return lambda labels: label in labels
        case All():
            return lambda labels: True
        case Global():
            return lambda labels: NAMESPACE_LABEL not in labels
        case Not(operand):
            inner = compile_test(operand)
            return lambda labels: not inner(labels)
        case And(operands):
            return _compile_all([compile_test(operand) for operand in operands])
        case Or(operands):
            return _compile_any([compile_test(operand) for operand in operands])
        case _:
            assert_never(node)


def _compile_compare(node: Compare) -> Test:
    label, value = node.label, node.value
    match node.operator:
        case "==":
            return lambda labels: labels.get(label) == value
        case "!=":
            return lambda labels: labels.get(label) != value
        case "contains":
            return lambda labels: label in labels and value in labels[label]
        case "starts with":
            return lambda labels: label in labels and labels[label].startswith(value)
        case "ends with":
            return lambda labels: label in labels and labels[label].endswith(value)
    raise AssertionError(f"unknown operator {node.operator!r}")


def _compile_all(tests: list[Test]) -> Test:
    if len(tests) == 2:
        first, second = tests
        return lambda labels: first(labels) and second(labels)

    def matches(labels: Labels) -> bool:
        for test in tests:  # not all(): a generator doubles the time
            if not test(labels):
                break
        else:
            return True
        return False

    return matches


def _compile_any(tests: list[Test]) -> Test:
    if len(tests) == 2:
        first, second = tests
        return lambda labels: first(labels) or second(labels)

    def matches(labels: Labels) -> bool:
        for test in tests:
            if test(labels):
                break
        else:
            return False
        return True

    return matches


def find_restrictions(node: Node) -> Restrictions:
    """Returns labels that must be present, and with which values, for the tree to match; it may say less than is true.

    Only what follows from `==`, `in`, `has` and the text operators is found, through `&&`, and through `||` where
    every operand restricts the same label. An empty set of values means that the tree matches nothing.
    """
    match node:
        case Compare(label, "==", value):
            return {label: frozenset((value,))}
        case Compare(label, operator, _):
            return {} if operator == "!=" else {label: None}
        case Member(label, values, negated):
            return {} if negated else {label: frozenset(values)}
        case Has(label):
            return {label: None}
        case And(operands):
            return _restrict_all([find_restrictions(operand) for operand in operands])
        case Or(operands):
            return _restrict_any([find_restrictions(operand) for operand in operands])
        case All() | Global() | Not():
            return {}
        case _:
            assert_never(node)


def _restrict_all(parts: list[Restrictions]) -> Restrictions:
    merged: Restrictions = {}
    for part in parts:
        for label, values in part.items():
            known = merged.get(label)
            merged[label] = values if known is None else known if values is None else known & values
    return merged


def _restrict_any(parts: list[Restrictions]) -> Restrictions:
    merged = dict(parts[0])
    for part in parts[1:]:
        for label, known in list(merged.items()):
            if label not in part:
                del merged[label]
                continue
            values = part[label]
            merged[label] = None if known is None or values is None else known | values
    return merged


def prefix_labels(node: Node, prefix: str) -> Node:
    """Returns the tree as a selector of namespaces reads on things inside them.

    Every label gets `prefix`; `all()` becomes "in some namespace", `global()` "in none".
    """
    match node:
        case Compare(label, operator, value):
            return Compare(prefix + label, operator, value)
        case Member(label, values, negated):
            return Member(prefix + label, values, negated)
        case Has(label):
            return Has(prefix + label)
        case All():
            return Has(NAMESPACE_LABEL)
        case Global():
            return Not(Has(NAMESPACE_LABEL))
        case Not(operand):
            return negation(prefix_labels(operand, prefix))
        case And(operands):
            return all_of([prefix_labels(operand, prefix) for operand in operands])
        case Or(operands):
            return any_of([prefix_labels(operand, prefix) for operand in operands])
        case _:
            assert_never(node)
