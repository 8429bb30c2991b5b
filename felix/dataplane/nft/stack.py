"""Policies and stacks of policies as chains of nft rules.

A policy is one chain per direction that every stack jumps to. One that can Pass is different: where Pass leads depends
on the stack, and a chain that is jumped to cannot know its caller, so its rules are written into the stack's own chain
and Pass is a `goto` to the chain of the following tiers. Such chains are shared by all stacks with that remainder.

The kernel follows at most 16 jumps and gotos: an endpoint whose tiers pass more than about twelve times in a row is
refused by the kernel and stays closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

from felix.calc.desired import Action, CompiledPolicy, CompiledRule, Stack
from felix.dataplane.nft.counters import count_statements
from felix.dataplane.nft.host_rules import allow_statement, deny_statement_on, is_silent, matches_on, render_failsafes
from felix.dataplane.nft.names import (
    EGRESS,
    INGRESS,
    PRE_DNAT_AGAIN,
    STAGED,
    UNTRACKED_EGRESS,
    UNTRACKED_EGRESS_AGAIN,
    UNTRACKED_INGRESS,
    UNTRACKED_INGRESS_AGAIN,
    comment,
    is_inward,
    policy_chain,
    segment_chain,
    stack_chain,
)
from felix.dataplane.nft.statements import log_statement
from felix.dataplane.nft.types import Lines, NftConfig
from felix.model.keys import ResourceKey
from felix.policy.staged import is_staged

DENIED_COUNTER = "denied"
ENCAPSULATED_COUNTER = "encapsulated"
PROFILE = "Profile"
CLOSED: Lines = (
    f'counter name "{DENIED_COUNTER}" drop comment {comment("closed: the rules were refused by the kernel")}',
)
"""The lines of a chain whose real rules the kernel does not take."""
UNTRIED: Lines = (f"return comment {comment('not tried: the rules were refused by the kernel')}",)
"""The same for rules that are only tried."""


@dataclass(slots=True)
class RenderedStack:
    """Chains of one stack: lines by name, the one that endpoints go to last; and the policies that they jump to, each
    with the direction of its chain.
    """

    chains: dict[str, Lines] = field(default_factory=dict)
    jumped: dict[tuple[str, ResourceKey], None] = field(default_factory=dict)


def closed_lines(chain: str) -> Lines:
    """Returns the lines of that chain while its real ones are not there: it drops, unless it never decides."""
    return UNTRIED if chain.startswith(f"{STAGED}-") else CLOSED


def rules_of(policy: CompiledPolicy, direction: str) -> tuple[CompiledRule, ...]:
    """Returns the rules of one direction."""
    return policy.ingress if is_inward(direction) else policy.egress


def is_passing(policy: CompiledPolicy, direction: str) -> bool:
    """Whether a rule of that direction passes to the next tier."""
    return any(rule.action is Action.PASS for rule in rules_of(policy, direction))


def is_jumped(key: ResourceKey, policy: CompiledPolicy, direction: str) -> bool:
    """Whether stacks jump to a chain of this policy's own: it has rules, and Pass leads nowhere special."""
    is_apart = key.kind == PROFILE or is_staged(key.kind)
    return bool(rules_of(policy, direction)) and (is_apart or not is_passing(policy, direction))


def render_policy(config: NftConfig, direction: str, key: ResourceKey, policy: CompiledPolicy) -> Lines:
    """Returns the lines of a policy's own chain. A Pass in it returns to the caller: of profiles, to the next one."""
    return _render_rules(config, direction, key, policy, "return")


def render_stack(
    config: NftConfig, direction: str, stack: Stack, policies: Mapping[ResourceKey, CompiledPolicy]
) -> RenderedStack:
    """Returns the chains of a stack. policies: what is known; a missing policy denies, a missing profile is skipped."""
    rendered = RenderedStack()
    if direction not in (INGRESS, EGRESS):
        lines = _render_host(config, direction, stack, policies, rendered)
    else:
        ahead = _render_encapsulated(config) if direction == EGRESS else ()
        lines = (_states(config), *ahead, *_render_segment(config, direction, stack, policies, rendered))
    rendered.chains[stack_chain(direction, stack)] = lines
    return rendered


def render_closed(config: NftConfig, direction: str, reason: str) -> Lines:
    """Returns the lines of an interface of the host that lets nothing pass but failsafes and what is open already."""
    return (_states(config), *render_failsafes(config, direction), _render_denied(config, direction, reason))


def _states(config: NftConfig) -> str:
    first = "0x1 : drop, " if config.drop_invalid else ""
    return f"ct state vmap {{ {first}0x2 : accept, 0x4 : accept }}"


def _render_host(
    config: NftConfig,
    direction: str,
    stack: Stack,
    policies: Mapping[ResourceKey, CompiledPolicy],
    rendered: RenderedStack,
) -> Lines:
    """Returns the lines of an interface of the host itself; what decides is a chain of its own, so that it alone is
    closed when the kernel refuses it, and failsafes are not.
    """
    lines = [] if direction in (UNTRACKED_INGRESS, UNTRACKED_EGRESS) else [_states(config)]
    lines += render_failsafes(config, direction)
    again = UNTRACKED_INGRESS_AGAIN if is_inward(direction) else UNTRACKED_EGRESS_AGAIN
    for condition, way, tiers in (("ct state 0x40 ", again, stack.untracked), ("", PRE_DNAT_AGAIN, stack.pre_dnat)):
        if tiers:
            earlier = Stack(tiers, (), Action.PASS)
            chain = segment_chain(way, earlier)
            rendered.chains[chain] = _render_segment(config, way, earlier, policies, rendered)
            lines.append(f"{condition}jump {chain}")
    chain = segment_chain(direction, stack)
    rendered.chains[chain] = _render_segment(config, direction, stack, policies, rendered)
    return (*lines, f"goto {chain}")


def _render_encapsulated(config: NftConfig) -> Lines:
    """Returns lines that drop packets in packets, which would carry anything past the policy of their sender."""
    lines = []
    if not config.allows_vxlan:
        lines.append(f'udp dport {config.vxlan_port} counter name "{ENCAPSULATED_COUNTER}" drop')
    if not config.allows_ipip:
        lines.append(f'meta l4proto 4 counter name "{ENCAPSULATED_COUNTER}" drop')
    return tuple(lines)


def _render_segment(
    config: NftConfig,
    direction: str,
    rest: Stack,
    policies: Mapping[ResourceKey, CompiledPolicy],
    rendered: RenderedStack,
) -> Lines:
    """Returns the lines that decide what `rest` decides, and adds the chains that they go to."""
    lines: list[str] = []
    for position, tier in enumerate(rest.tiers):
        after = rest._replace(tiers=rest.tiers[position + 1 :])
        leads_on = ""
        for key in tier.policies:
            policy = policies.get(key)
            if is_staged(key.kind):
                if policy is not None and rules_of(policy, direction) and not is_silent(direction):
                    rendered.jumped[direction, key] = None
                    lines.append(f"jump {policy_chain(direction, key)}")
                continue
            if policy is None:
                lines.append(_render_denied(config, direction, f"{key} is missing or unreadable"))
                return tuple(lines)
            if is_passing(policy, direction):
                if not leads_on:
                    leads_on = segment_chain(direction, after)
                    if leads_on not in rendered.chains:
                        rendered.chains[leads_on] = _render_segment(config, direction, after, policies, rendered)
                lines += _render_rules(config, direction, key, policy, f"goto {leads_on}")
            elif rules_of(policy, direction):
                rendered.jumped[direction, key] = None
                lines.append(f"jump {policy_chain(direction, key)}")
        match tier.default_action:
            case Action.DENY:
                lines.append(_render_denied(config, direction, f"end of tier {tier.name}"))
                return tuple(lines)
            case Action.PASS if leads_on:
                lines.append(f"goto {leads_on}")
                return tuple(lines)
            case Action.PASS:
                continue
            case Action.ALLOW | Action.LOG:
                raise ValueError(f"tier {tier.name}: {tier.default_action} is no default action")
    for key in rest.profiles:
        policy = policies.get(key)
        if policy is not None and rules_of(policy, direction):
            rendered.jumped[direction, key] = None
            lines.append(f"jump {policy_chain(direction, key)}")
    if rest.ending is Action.DENY:
        lines.append(_render_denied(config, direction, "no policy or profile allows"))
    return tuple(lines)


def _render_denied(config: NftConfig, direction: str, reason: str) -> str:
    return f'counter name "{DENIED_COUNTER}" {deny_statement_on(config, direction)} comment {comment(reason)}'


def _render_rules(
    config: NftConfig, direction: str, key: ResourceKey, policy: CompiledPolicy, pass_statement: str
) -> Lines:
    lines: list[str] = []
    rules = rules_of(policy, direction)
    way = INGRESS if is_inward(direction) else EGRESS
    for number, counters in enumerate(count_statements(config, way, key, rules)):
        rule = rules[number]
        if is_staged(key.kind):
            if rule.action is not Action.LOG:
                lines += _render_rule(direction, rule, counters, "return", comment_of(key, number, rule))
            continue
        match rule.action:
            case Action.ALLOW:
                statement = allow_statement(direction)
            case Action.DENY:
                statement = deny_statement_on(config, direction)
            case Action.PASS:
                statement = pass_statement
            case Action.LOG:
                statement = log_statement(config, policy.tier, key)
            case _:
                assert_never(rule.action)
        lines += _render_rule(direction, rule, counters, statement, comment_of(key, number, rule))
    return tuple(lines)


def _render_rule(direction: str, rule: CompiledRule, counters: tuple[str, ...], statement: str, note: str) -> list[str]:
    counting = "" if is_silent(direction) else "".join(f'counter name "{name}" ' for name in counters)
    return [f"{match} {counting}{statement} comment {note}".lstrip() for match in matches_on(direction, rule)]


def comment_of(key: ResourceKey, number: int, rule: CompiledRule) -> str:
    """Returns the comment of a rule: whose it is, and what its author says about it."""
    return comment(f"{key} {number}; {rule.note}" if rule.note else f"{key} {number}")
