"""From the rules of one record to compiled rules and the address sets that they need."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from felix.calc.desired import DENY_ALL, CompiledPolicy, CompiledRule, EntityMatch, SetRef
from felix.calc.limits import read_source_rate
from felix.errors import Problem
from felix.model.keys import ResourceKey, format_key
from felix.model.records import Policy, Profile, Rule
from felix.model.values import policy_tier
from felix.policy.rules import ScopedEntity, ScopedRule, scope_rule
from felix.policy.staged import is_staged
from felix.selector.parse import Selector, parse

RuleSource = Policy | Profile


class NamedPorts(NamedTuple):
    """The ports that endpoints have under a name: of those that the selector matches."""

    selector: Selector
    name: str

    @property
    def id(self) -> str:
        """Names the set of these ports; equal ones have the same, in all policies and after restarts."""
        return f"{self.name}@{self.selector.id}"


class Draft(NamedTuple):
    """Compiled rules whose references to sets all have their flags false, and the selectors of those sets, distinct.

    ports: those of port sets, distinct.
    problems: rules that cannot be used, each of which stands in `policy` as one that denies everything; and what
        cannot be used of its annotations.
    """

    policy: CompiledPolicy
    selectors: tuple[Selector, ...]
    ports: tuple[NamedPorts, ...]
    problems: tuple[Problem, ...]


class _Needs(NamedTuple):
    selectors: dict[Selector, None]
    ports: dict[NamedPorts, None]


def compile_rules(key: ResourceKey, source: RuleSource) -> Draft:
    """Returns the rules of both directions; the namespace of `key` bounds what their selectors see."""
    needs = _Needs({}, {})
    problems: list[Problem] = []

    def compile_direction(field: str, rules: Iterable[Rule]) -> tuple[CompiledRule, ...]:
        compiled = []
        for index, rule in enumerate(rules):
            scoped = scope_rule(key.namespace, rule)
            if scoped.fault:
                problems.append(Problem(format_key(key), f"spec.{field}[{index}]", "", scoped.fault))
                compiled.append(DENY_ALL)
            else:
                compiled.append(_compile_rule(scoped, needs, _describe(rule), _identify(rule)))
        return tuple(compiled)

    policy = CompiledPolicy(
        ingress=compile_direction("ingress", source.spec.ingress),
        egress=compile_direction("egress", source.spec.egress),
        tier="" if isinstance(source, Profile) else policy_tier(source.spec.tier),
    )
    if not isinstance(source, Profile) and not is_staged(key.kind):
        problems += read_source_rate(key, source)[1]
    return Draft(policy, tuple(needs.selectors), tuple(needs.ports), tuple(problems))


def _describe(rule: Rule) -> str:
    annotations = rule.metadata.annotations if rule.metadata is not None else {}
    return ", ".join(f"{name}={value}" for name, value in sorted(annotations.items()))


def _identify(rule: Rule) -> str:
    return hashlib.blake2b(msgspec.json.encode(rule, order="sorted"), digest_size=5).hexdigest()


def _compile_rule(rule: ScopedRule, needs: _Needs, note: str, rule_id: str) -> CompiledRule:
    return CompiledRule(
        action=rule.action,
        ip_version=rule.ip_version,
        protocol=rule.protocol,
        not_protocol=rule.not_protocol,
        icmp=rule.icmp,
        not_icmp=rule.not_icmp,
        source=_compile_entity(rule.source, needs),
        destination=_compile_entity(rule.destination, needs),
        note=note,
        id=rule_id,
    )


def _compile_entity(entity: ScopedEntity, needs: _Needs) -> EntityMatch:
    # Who is in a port set is in the set of its selector too, so that need not be asked besides.
    selector = None if entity.port_names and entity.ports is None else entity.selector
    for one in (selector, entity.not_selector):
        if one is not None:
            needs.selectors[one] = None
    return EntityMatch(
        nets=entity.nets,
        not_nets=entity.not_nets,
        sets=_refer(selector),
        not_sets=_refer(entity.not_selector),
        ports=entity.ports,
        not_ports=entity.not_ports,
        port_sets=_refer_ports(entity.selector, entity.port_names, needs),
        not_port_sets=_refer_ports(entity.selector, entity.not_port_names, needs),
    )


def _refer_ports(selector: Selector | None, names: Iterable[str], needs: _Needs) -> tuple[str, ...]:
    wanted = [NamedPorts(selector or parse(""), name) for name in names]
    needs.ports.update(dict.fromkeys(wanted))
    return tuple(ports.id for ports in wanted)


def _refer(selector: Selector | None) -> tuple[SetRef, ...]:
    return () if selector is None else (SetRef(selector.id, nets4=False, nets6=False),)


def resolve_sets(policy: CompiledPolicy, get_ref: Callable[[str], SetRef]) -> CompiledPolicy:
    """Returns the policy with the references that `get_ref` gives for the ids of its sets; itself if none differs."""
    ingress = tuple(_resolve_rule(rule, get_ref) for rule in policy.ingress)
    egress = tuple(_resolve_rule(rule, get_ref) for rule in policy.egress)
    is_same = all(one is other for one, other in zip(ingress + egress, policy.ingress + policy.egress, strict=True))
    return policy if is_same else dataclasses.replace(policy, ingress=ingress, egress=egress)


def _resolve_rule(rule: CompiledRule, get_ref: Callable[[str], SetRef]) -> CompiledRule:
    source, destination = _resolve_entity(rule.source, get_ref), _resolve_entity(rule.destination, get_ref)
    if source is rule.source and destination is rule.destination:
        return rule
    return dataclasses.replace(rule, source=source, destination=destination)


def _resolve_entity(entity: EntityMatch, get_ref: Callable[[str], SetRef]) -> EntityMatch:
    sets = tuple(get_ref(ref.id) for ref in entity.sets)
    not_sets = tuple(get_ref(ref.id) for ref in entity.not_sets)
    if sets == entity.sets and not_sets == entity.not_sets:
        return entity
    return dataclasses.replace(entity, sets=sets, not_sets=not_sets)
