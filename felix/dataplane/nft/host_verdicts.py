"""What policy at the host's own interfaces does to the first packet of a flow: see `verdicts`.

The order is that of the hooks: untracked policy, policy before translation, and then what is for the host, from it, or
passed on. Nothing is denied that a failsafe lets pass, be it as a first packet or as an answer: connection tracking
takes connections up in the middle too, and then says of an answer that it was first.
"""

from __future__ import annotations

from felix.calc.desired import Action, HostStacks, Stack
from felix.dataplane.nft.chains import ChainBook
from felix.dataplane.nft.hosts import HostDispatch
from felix.dataplane.nft.names import (
    FORWARD_EGRESS,
    FORWARD_INGRESS,
    HOST_EGRESS,
    HOST_INGRESS,
    PRE_DNAT,
    PRE_DNAT_AGAIN,
    UNTRACKED_EGRESS,
    UNTRACKED_INGRESS,
    is_inward,
    policy_chain,
    segment_chain,
    stack_chain,
)
from felix.model.keys import ResourceKey
from felix.policy.compiled import CompiledView
from felix.policy.evaluate import Direction
from felix.policy.host_settings import HostSettings
from felix.policy.packet import Packet


class ClosedChains:
    """Which parts of stacks are closed on one way of packets."""

    def __init__(self, chains: ChainBook, way: str) -> None:
        self._chains = chains
        self._way = way

    def is_policy_closed(self, key: ResourceKey) -> bool:
        """See `policy.compiled.Closed`."""
        return self._chains.is_closed(policy_chain(self._way, key))

    def is_rest_closed(self, rest: Stack) -> bool:
        """See `policy.compiled.Closed`."""
        names = stack_chain(self._way, rest), segment_chain(self._way, rest)
        return any(map(self._chains.is_closed, names))


class HostVerdicts:
    """Asks host endpoints by interface; what has none lets everything pass.

    first: a packet as it came; packet: the same behind a translation of its destination.
    """

    def __init__(self, settings: HostSettings, view: CompiledView, hosts: HostDispatch, chains: ChainBook) -> None:
        self._settings = settings
        self._view = view
        self._hosts = hosts
        self._chains = chains

    @property
    def has_any(self) -> bool:
        """Whether some interface has a host endpoint."""
        return bool(self._hosts.endpoints)

    def is_received(self, interface: str, first: Packet, packet: Packet) -> bool:
        """Whether the host itself gets the packet."""
        stacks = self._hosts.find_stacks(interface)
        return stacks is None or self._is_received(stacks, first, packet)

    def is_sent(self, interface: str, first: Packet, packet: Packet) -> bool:
        """Whether a packet of the host itself leaves."""
        stacks = self._hosts.find_stacks(interface)
        return stacks is None or self._is_sent(stacks, first, packet)

    def is_entering(self, interface: str, first: Packet, packet: Packet) -> bool:
        """Whether a packet comes in that is to be passed on."""
        stacks = self._hosts.find_stacks(interface)
        return stacks is None or self._is_entering(stacks, first, packet)

    def is_leaving(self, interface: str, packet: Packet) -> bool:
        """Whether a packet goes out that is passed on."""
        stacks = self._hosts.find_stacks(interface)
        return stacks is None or self._is_leaving(stacks, packet)

    def is_allowed_everywhere(self, first: Packet, packet: Packet, *, enters: bool, leaves: bool) -> bool:
        """Whether no interface denies the packet. enters, leaves: it may come from outside, may go there."""
        return all(
            not (
                enters and leaves and not (self._is_received(one, first, packet) and self._is_sent(one, first, packet))
            )
            and not (enters and not self._is_entering(one, first, packet))
            and not (leaves and not self._is_leaving(one, packet))
            for one in self._hosts.distinct_stacks
        )

    def _is_received(self, stacks: HostStacks, first: Packet, packet: Packet) -> bool:
        if self._settings.is_failsafe_untracked(packet, is_inward=True):
            return True
        early = self._decide_early(stacks, first)
        return early if early is not None else self._decide(HOST_INGRESS, stacks.ingress, packet) is Action.ALLOW

    def _is_sent(self, stacks: HostStacks, first: Packet, packet: Packet) -> bool:
        if self._settings.is_failsafe_untracked(packet, is_inward=False):
            return True
        if not self._settings.is_failsafe_untracked(first, is_inward=False):
            untracked = self._decide(UNTRACKED_EGRESS, stacks.untracked_egress, first)
            if untracked is not None:
                return untracked is Action.ALLOW
        return self._decide(HOST_EGRESS, stacks.egress, packet) is Action.ALLOW

    def _is_entering(self, stacks: HostStacks, first: Packet, packet: Packet) -> bool:
        early = self._decide_early(stacks, first)
        if early is not None:
            return early
        return self._decide(FORWARD_INGRESS, stacks.forward_ingress, packet) is not Action.DENY

    def _is_leaving(self, stacks: HostStacks, packet: Packet) -> bool:
        return self._decide(FORWARD_EGRESS, stacks.forward_egress, packet) is not Action.DENY

    def _decide_early(self, stacks: HostStacks, first: Packet) -> bool | None:
        """Returns what is decided before it is known where a packet goes; None: nothing."""
        if not self._settings.is_failsafe_untracked(first, is_inward=True):
            untracked = self._decide(UNTRACKED_INGRESS, stacks.untracked_ingress, first)
            if untracked is not None:
                return untracked is Action.ALLOW
        if stacks.pre_dnat is None or self._settings.is_failsafe(first, is_inward=True):
            return None
        for way in (PRE_DNAT, PRE_DNAT_AGAIN):  # what the first allowed, the second is asked again
            decided = self._decide(way, stacks.pre_dnat, first)
            if decided is Action.DENY:
                return False
        return None if decided is None else True

    def _decide(self, way: str, stack: Stack | None, packet: Packet) -> Action | None:
        if stack is None:
            return None
        direction = Direction.INGRESS if is_inward(way) else Direction.EGRESS
        return self._view.decide(stack, direction, packet, closed_on(self._chains, way))


def closed_on(chains: ChainBook, way: str) -> ClosedChains | None:
    """Returns which parts of stacks are closed on that way; None if no chain is."""
    return ClosedChains(chains, way) if chains.has_closed else None
