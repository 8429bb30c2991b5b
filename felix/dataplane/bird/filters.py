"""BGPFilter → functions of the BIRD configuration. Pure.

A rule that cannot be understood becomes one that rejects everything from there on: it fails closed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from felix.dataplane.bird.types import FilterFunction, FilterRule
from felix.errors import Problem, shorten
from felix.model.bgp import FilterOperation
from felix.model.bgp import FilterRule as StoredRule
from felix.model.keys import ResourceKey
from felix.model.net import parse_net
from felix.model.records import BGPFilter

_INTERFACE = re.compile(r"[A-Za-z0-9_.@:*?-]{1,15}")
_COMMUNITY = re.compile(r"[0-9]{1,10}(:[0-9]{1,10}){1,2}")
_NAME_LIMIT = 64
_DENY = FilterRule((), (), "reject")


def function_name(filter_name: str, direction: str, version: int) -> str:
    """Returns the function's name: letters, digits and `_`, at most 64, different for different filters."""
    plain = re.sub(r"[^A-Za-z0-9]", "_", filter_name)
    if plain != filter_name or len(plain) > 32:
        plain = f"{plain[:32]}_{hashlib.sha256(filter_name.encode()).hexdigest()[:16]}"
    return f"filter_{plain}_{direction}{version}"[:_NAME_LIMIT]


def build_functions(name: str, source: BGPFilter) -> tuple[list[FilterFunction], list[Problem]]:
    """Returns the filter's functions (only for directions and families that have rules), and what is wrong with it."""
    key = ResourceKey("BGPFilter", "", name)
    spec = source.spec
    functions: list[FilterFunction] = []
    problems: list[Problem] = []
    directions: tuple[tuple[str, int, Sequence[StoredRule]], ...] = (
        ("import", 4, spec.import_v4),
        ("export", 4, spec.export_v4),
        ("import", 6, spec.import_v6),
        ("export", 6, spec.export_v6),
    )
    for direction, version, rules in directions:
        if not rules:
            continue
        built: list[FilterRule] = []
        for index, rule in enumerate(rules):
            try:
                built.append(build_rule(rule, version))
            except ValueError as reason:
                problems.append(
                    Problem(
                        subject=str(key),
                        field=f"spec.{direction}V{version}[{index}]",
                        value=shorten(rule),
                        reason=f"{reason}; everything that reaches this rule is rejected",
                    )
                )
                built.append(_DENY)
        functions.append(FilterFunction(function_name(name, direction, version), key, tuple(built)))
    return functions, problems


def build_rule(rule: StoredRule, version: int) -> FilterRule:
    """Returns one rule with BIRD's expressions; raises ValueError with the reason when it cannot be expressed."""
    if rule.operations and rule.action != "Accept":
        raise ValueError("operations need action Accept")
    conditions = [*_prefix_conditions(rule, version), *_attribute_conditions(rule)]
    operations = [text for operation in rule.operations for text in _operation(operation)]
    return FilterRule(tuple(conditions), tuple(operations), rule.action.lower())


def community_operation(value: str) -> str:
    """Returns the statement that adds a community `aa:nn` or a large one `aa:nn:mm`; raises ValueError."""
    parts = _community(value)
    return f"bgp_{'large_' if len(parts) == 3 else ''}community.add(({', '.join(map(str, parts))}))"


def _prefix_conditions(rule: StoredRule, version: int) -> Iterable[str]:
    low, high = _lengths(rule, version)
    if not rule.cidr:
        if rule.match_operator or rule.prefix_length is not None:
            raise ValueError("matchOperator and prefixLength need a cidr")
        return
    net = parse_net(rule.cidr)
    if net.version != version:
        raise ValueError(f"{rule.cidr} is not IPv{version}")
    if high < net.length:
        raise ValueError(f"prefixLength up to {high} is never met inside {net}")
    pattern = f"{net}{{{max(low, net.length)},{high}}}"
    match rule.match_operator:
        case "In":
            yield f"net ~ [ {pattern} ]"
        case "NotIn":
            yield f"! (net ~ [ {pattern} ])"
        case "Equal":
            yield f"net = {net}"
        case "NotEqual":
            yield f"net != {net}"
        case None:
            raise ValueError("a cidr needs a matchOperator")
    if rule.prefix_length is not None and rule.match_operator in {"Equal", "NotEqual"}:
        yield f"net.len >= {low}"
        yield f"net.len <= {high}"


def _lengths(rule: StoredRule, version: int) -> tuple[int, int]:
    bits = 32 if version == 4 else 128
    if rule.prefix_length is None:
        return 0, bits
    low = 0 if rule.prefix_length.min is None else rule.prefix_length.min
    high = bits if rule.prefix_length.max is None else rule.prefix_length.max
    if not 0 <= low <= high <= bits:
        raise ValueError(f"prefixLength {low}-{high} does not lie in 0-{bits}")
    return low, high


def _attribute_conditions(rule: StoredRule) -> Iterable[str]:
    if rule.source:
        yield "source = RTS_BGP"
    if rule.interface:
        if not _INTERFACE.fullmatch(rule.interface):
            raise ValueError(f"interface {shorten(rule.interface)!r} is no interface name or pattern")
        yield f'ifname ~ "{rule.interface}"'
    if rule.peer_type:
        yield "is_ebgp" if rule.peer_type == "eBGP" else "! is_ebgp"
    for value in rule.communities.values if rule.communities else ():
        parts = _community(value)
        yield f"({', '.join(map(str, parts))}) ~ bgp_{'large_' if len(parts) == 3 else ''}community"
    if rule.as_path_prefix:
        yield f"bgp_path ~ [= {' '.join(str(check_as(number)) for number in rule.as_path_prefix)} * =]"
    if rule.priority is not None:
        yield f"krt_metric = {_priority(rule.priority)}"


def _operation(operation: FilterOperation) -> Iterable[str]:
    if operation.add_community is not None:
        yield community_operation(operation.add_community.value)
    if operation.prepend_as_path is not None:
        # Each statement puts one number in front, so the last one comes first.
        for number in reversed(operation.prepend_as_path.prefix):
            yield f"bgp_path.prepend({check_as(number)})"
    if operation.set_priority is not None:
        yield f"krt_metric = {_priority(operation.set_priority.value)}"


def check_as(number: int) -> int:
    """Returns the AS number; raises ValueError when it is outside 1-4294967295."""
    if not 1 <= number <= 0xFFFFFFFF:
        raise ValueError(f"AS number {number} does not lie in 1-4294967295")
    return number


def _priority(number: int) -> int:
    if not 1 <= number <= 2147483646:
        raise ValueError(f"priority {number} does not lie in 1-2147483646")
    return number


def _community(value: str) -> tuple[int, ...]:
    if not _COMMUNITY.fullmatch(value):
        raise ValueError(f"community {shorten(value)!r} is neither aa:nn nor aa:nn:mm")
    parts = tuple(int(part) for part in value.split(":"))
    limit = 0xFFFF if len(parts) == 2 else 0xFFFFFFFF
    if any(part > limit for part in parts):
        raise ValueError(f"community {value} has a part above {limit}")
    return parts
