"""What rules do to the packets that they match, as nft text."""

from __future__ import annotations

import re

from felix.dataplane.nft.types import DenyAction, NftConfig
from felix.model.keys import ResourceKey

REJECT_CHAIN = "rejected"
"""Where denied packets go that are to be answered: nft lists a `reject` by itself differently in each family."""

_PREFIX_CHARACTERS = 127
_UNPLAIN_PREFIX = re.compile(r"[^A-Za-z0-9_.:/ +-]")
_SPECIFIER = re.compile("%[tknp]")
_KIND_WORDS = {
    "GlobalNetworkPolicy": "gnp",
    "NetworkPolicy": "np",
    "StagedGlobalNetworkPolicy": "sgnp",
    "StagedNetworkPolicy": "snp",
    "Profile": "profile",
}
_USUAL_BURST = 5  # nft leaves it out when it lists


def deny_statement(config: NftConfig) -> str:
    """Returns what ends a packet that policy denies."""
    return "drop" if config.deny is DenyAction.DROP else f"goto {REJECT_CHAIN}"


def log_statement(config: NftConfig, tier: str, key: ResourceKey) -> str:
    """Returns what a Log rule of a policy in `tier`, or of a profile, does.

    Of the prefix, `%t` becomes the tier, `%k` the kind, `%n` the name and `%p` the name behind its namespace.
    """
    path = f"{key.namespace}/{key.name}" if key.namespace else key.name
    said = {"%t": tier or "profile", "%k": _KIND_WORDS.get(key.kind, key.kind), "%n": key.name, "%p": path}
    body = _SPECIFIER.sub(lambda found: said[found[0]], config.log_prefix.removesuffix(": "))
    ending = ": " if config.log_prefix.endswith(": ") else ""
    prefix = _UNPLAIN_PREFIX.sub("_", body)[: _PREFIX_CHARACTERS - len(ending)] + ending
    statement = f'log prefix "{prefix}" level info'
    if config.log_rate is None:
        return statement
    rate = config.log_rate
    burst = "" if rate.burst == _USUAL_BURST else f" burst {rate.burst} packets"
    return f"limit rate {rate.packets}/{rate.unit}{burst} {statement}"
