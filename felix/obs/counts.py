"""What the agent answers to who asks what policies did."""

from __future__ import annotations

import msgspec


class PolicyCount(msgspec.Struct, frozen=True, omit_defaults=True):
    """Packets that opened a flow and met a rule; of one rule, or of all of a policy with the same action.

    kind: of the policy, or Profile. direction: ingress or egress. rule: index in the policy's list of that direction,
    None for all. packets, bytes: since the policy is in use on this host, or since the table was made.
    """

    kind: str
    namespace: str
    name: str
    tier: str
    direction: str
    action: str
    packets: int
    bytes: int
    rule: int | None = None
