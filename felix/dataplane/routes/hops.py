"""Which prefixes of other hosts are reached by which interface."""

from __future__ import annotations

from collections.abc import Iterable

from felix.dataplane.routes.types import Hop
from felix.model.net import Net


class Hops:
    """The way to each prefix, and the prefixes by each interface."""

    def __init__(self) -> None:
        self._hop_by_net: dict[Net, Hop] = {}
        self._nets_by_interface: dict[str, dict[Net, None]] = {}

    def set_hop(self, net: Net, hop: Hop | None) -> None:
        """The prefix is reached so from now on, or by no way (None)."""
        before = self._hop_by_net.pop(net, None)
        if before is not None:
            nets = self._nets_by_interface[before.interface]
            del nets[net]
            if not nets:
                del self._nets_by_interface[before.interface]
        if hop is not None:
            self._hop_by_net[net] = hop
            self._nets_by_interface.setdefault(hop.interface, {})[net] = None

    def find_hop(self, net: Net) -> Hop | None:
        """Returns the way to the prefix, None if there is none."""
        return self._hop_by_net.get(net)

    def nets_by(self, interface: str) -> Iterable[Net]:
        """Returns the prefixes that are reached by `interface`."""
        return self._nets_by_interface.get(interface, ())
