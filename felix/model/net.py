"""Addresses and prefixes as small tuples: what the whole program computes with.

`ipaddress` objects are several times larger and slower; they are used here to parse and print, and nowhere else.
"""

from __future__ import annotations

import functools
import ipaddress
from typing import NamedTuple


class Net(NamedTuple):
    """A prefix in network form: `value` has no bit set behind `length`.

    version: 4 or 6. value: the address as an integer. length: 0-32 or 0-128.
    """

    version: int
    value: int
    length: int

    @property
    def bits(self) -> int:
        """The number of bits of an address of this family: 32 or 128."""
        return 32 if self.version == 4 else 128

    @property
    def is_address(self) -> bool:
        """Whether this is one single address (/32 or /128)."""
        return self.length == self.bits

    @property
    def last(self) -> int:
        """The highest address inside, as an integer."""
        return self.value | ((1 << (self.bits - self.length)) - 1)

    @property
    def packed(self) -> bytes:
        """The address in network byte order: 4 or 16 bytes."""
        return self.value.to_bytes(self.bits // 8, "big")

    @property
    def address(self) -> str:
        """The address without its length, as usually printed."""
        return format_address(self.version, self.value)

    def __contains__(self, other: object) -> bool:
        """Whether `other`, a Net, lies wholly inside."""
        if not isinstance(other, Net) or other.version != self.version or other.length < self.length:
            return False
        return other.value >> (self.bits - self.length) == self.value >> (self.bits - self.length)

    def overlaps(self, other: Net) -> bool:
        """Whether the two have an address in common."""
        return self.version == other.version and self.value <= other.last and other.value <= self.last

    def __str__(self) -> str:
        return f"{self.address}/{self.length}"


def format_address(version: int, value: int) -> str:
    """Returns the usual text of an address given as an integer."""
    return str(ipaddress.IPv4Address(value) if version == 4 else ipaddress.IPv6Address(value))


@functools.lru_cache(maxsize=65536)
def parse_net(text: str) -> Net:
    """Returns the prefix that `text` names; host bits are cleared, a bare address becomes /32 or /128.

    Raises ValueError with the reason when the text is no address or prefix (scoped IPv6 addresses are not).
    """
    if "%" in text:
        raise ValueError(f"{text!r} has a zone; give the address without %interface")
    network = ipaddress.ip_network(text.strip(), strict=False)
    return Net(network.version, int(network.network_address), network.prefixlen)


def parse_address(text: str) -> Net:
    """Returns the single address that `text` names (with or without /32, /128) as a Net.

    Raises ValueError when the text is no address, or a prefix of several addresses.
    """
    net = parse_net(text)
    if not net.is_address:
        raise ValueError(f"{text!r} is a prefix of several addresses; give one address")
    return net
