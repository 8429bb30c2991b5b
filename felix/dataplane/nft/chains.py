"""Which chains are wanted: those of stacks that endpoints have, and of policies that those jump to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from felix.calc.desired import CompiledPolicy, Stack
from felix.dataplane.nft.names import DIRECTIONS, EGRESS, INGRESS, is_inward, policy_chain
from felix.dataplane.nft.stack import closed_lines, is_jumped, render_policy, render_stack, rules_of
from felix.dataplane.nft.types import Lines, NftConfig
from felix.model.keys import ResourceKey
from felix.reconcile.delta import DeltaTracker

DirectedStack = tuple[str, Stack]


class ChainBook:
    """Wanted and believed lines by chain, base chains included; counts who uses what.

    Chains that the kernel refused are wanted closed until their lines change.
    """

    def __init__(self, config: NftConfig, base: Mapping[str, Lines]) -> None:
        self._config = config
        self._tracker: DeltaTracker[str, Lines] = DeltaTracker()
        self._base = dict(base)
        self._policies: dict[ResourceKey, CompiledPolicy] = {}
        self._endpoints_by_stack: dict[DirectedStack, int] = {}
        self._chains_by_stack: dict[DirectedStack, tuple[str, ...]] = {}
        self._users_by_chain: dict[str, int] = {}
        self._stacks_by_policy: dict[ResourceKey, dict[DirectedStack, None]] = {}
        self._stale: dict[DirectedStack, None] = {}
        self._rendered_by_chain: dict[str, CompiledPolicy] = {}
        self._refused: dict[str, Lines] = {}
        self.refusals_version = 0  # changes when chains are closed or opened again
        for name, lines in base.items():
            self._tracker.set_desired(name, lines)

    @property
    def tracker(self) -> DeltaTracker[str, Lines]:
        """Wanted and believed lines by chain; only believed state may be changed by the caller."""
        return self._tracker

    @property
    def policies(self) -> Mapping[ResourceKey, CompiledPolicy]:
        """What was told by `set_policy`."""
        return self._policies

    def is_base(self, chain: str) -> bool:
        """Whether the chain belongs to the table and not to any endpoint."""
        return chain in self._base

    def set_policy(self, key: ResourceKey, policy: CompiledPolicy | None) -> None:
        """The rules of a policy or profile are these; None: it does not exist."""
        old = self._policies.get(key)
        if old == policy:
            return
        if policy is None:
            del self._policies[key]
        else:
            self._policies[key] = policy
        for way in (INGRESS, EGRESS):
            inward = is_inward(way)
            if old is not None and policy is not None:
                if rules_of(old, way) == rules_of(policy, way):
                    continue
                if is_jumped(key, old, way) and is_jumped(key, policy, way):
                    for direction in DIRECTIONS:
                        if is_inward(direction) is inward and policy_chain(direction, key) in self._users_by_chain:
                            self._render_policy_chain(direction, key)
                    continue
            for stack in self._stacks_by_policy.get(key, ()):
                if is_inward(stack[0]) is inward:
                    self._stale[stack] = None

    def add_user(self, stack: DirectedStack) -> None:
        """One more endpoint has this stack."""
        self._endpoints_by_stack[stack] = self._endpoints_by_stack.get(stack, 0) + 1
        if self._endpoints_by_stack[stack] == 1:
            for key in _policies_of(stack[1]):
                self._stacks_by_policy.setdefault(key, {})[stack] = None
            self._stale[stack] = None

    def drop_user(self, stack: DirectedStack) -> None:
        """One endpoint less has this stack."""
        self._endpoints_by_stack[stack] -= 1
        if self._endpoints_by_stack[stack] == 0:
            del self._endpoints_by_stack[stack]
            for key in _policies_of(stack[1]):
                stacks = self._stacks_by_policy[key]
                stacks.pop(stack, None)
                if not stacks:
                    del self._stacks_by_policy[key]
            self._stale[stack] = None

    def want_apart(self, chain: str, lines: Lines) -> None:
        """A chain that belongs to no stack is wanted with these lines; refused, it only drops."""
        self._want(chain, lines)

    def drop_apart(self, chain: str) -> None:
        """That chain is not wanted."""
        if self._refused.pop(chain, None) is not None:
            self.refusals_version += 1
        self._tracker.drop_desired(chain)

    def settle(self) -> None:
        """Wanted chains are those of the stacks and policies told; call it after a group of changes."""
        for stack in self._stale:
            self._render_stack_chains(stack)
        self._stale.clear()

    def close_chain(self, chain: str, lines: Lines) -> None:
        """`lines` were refused, `chain` now only drops, and it stays so until other lines are wanted."""
        self._refused[chain] = lines
        self.refusals_version += 1
        self._tracker.note_present(chain, closed_lines(chain))
        if self._tracker.desired.get(chain) == lines:
            self._tracker.set_desired(chain, closed_lines(chain))

    def forgive(self) -> None:
        """Chains that were refused are wanted with their real lines again."""
        for chain, lines in self._refused.items():
            if self._tracker.desired.get(chain) == closed_lines(chain):
                self._tracker.set_desired(chain, lines)
        self.refusals_version += bool(self._refused)
        self._refused.clear()

    def closed_chains(self) -> Iterable[str]:
        """Returns the wanted chains that are closed because their lines were refused."""
        return [chain for chain in self._refused if self.is_closed(chain)]

    @property
    def has_closed(self) -> bool:
        """Whether some chain may be closed."""
        return bool(self._refused)

    def is_closed(self, chain: str) -> bool:
        """Whether the chain is wanted and closed because its lines were refused."""
        return chain in self._refused and self._tracker.desired.get(chain) == closed_lines(chain)

    def stacks_with(self, chain: str) -> list[DirectedStack]:
        """Returns the stacks that use `chain`. Looks at all stacks; for reports only."""
        return [stack for stack, chains in self._chains_by_stack.items() if chain in chains]

    def find_policy(self, chain: str) -> ResourceKey | None:
        """Returns the policy whose own chain this is. Looks at all policies; for reports only."""
        for key in self._policies:
            if any(policy_chain(direction, key) == chain for direction in DIRECTIONS):
                return key
        return None

    def _want(self, chain: str, lines: Lines) -> None:
        refused = self._refused.get(chain)
        if refused is not None and refused == lines:
            lines = closed_lines(chain)
        elif refused is not None:
            del self._refused[chain]
            self.refusals_version += 1
        self._tracker.set_desired(chain, lines)

    def _render_policy_chain(self, direction: str, key: ResourceKey) -> None:
        chain, policy = policy_chain(direction, key), self._policies[key]
        if self._rendered_by_chain.get(chain) is not policy:
            self._rendered_by_chain[chain] = policy
            self._want(chain, render_policy(self._config, direction, key, policy))

    def _render_stack_chains(self, directed: DirectedStack) -> None:
        direction, stack = directed
        used: dict[str, None] = {}
        if directed in self._endpoints_by_stack:
            rendered = render_stack(self._config, direction, stack, self._policies)
            for way, key in rendered.jumped:
                used[policy_chain(way, key)] = None
                self._render_policy_chain(way, key)
            for chain, lines in rendered.chains.items():
                used[chain] = None
                self._want(chain, lines)
        before = self._chains_by_stack.pop(directed, ())
        for chain in used:
            self._users_by_chain[chain] = self._users_by_chain.get(chain, 0) + 1
        for chain in before:
            self._users_by_chain[chain] -= 1
            if not self._users_by_chain[chain]:
                del self._users_by_chain[chain]
                self._rendered_by_chain.pop(chain, None)
                if self._refused.pop(chain, None) is not None:
                    self.refusals_version += 1
                self._tracker.drop_desired(chain)
        if used:
            self._chains_by_stack[directed] = tuple(used)


def _policies_of(stack: Stack) -> dict[ResourceKey, None]:
    tiers = (*stack.tiers, *stack.untracked, *stack.pre_dnat)
    keys = dict.fromkeys(key for tier in tiers for key in tier.policies)
    keys.update(dict.fromkeys(stack.profiles))
    return keys
