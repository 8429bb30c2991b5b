"""What the kernel has in our table: the listing for structure, netlink dumps for elements, and counters."""

from __future__ import annotations

from felix.dataplane.nft.base import declare
from felix.dataplane.nft.listing import parse_listing
from felix.dataplane.nft.types import Count, ElementShape, KernelTable, NftPort
from felix.errors import KernelRefused

_ATTEMPTS = 3
_SHAPE_BY_DECLARATION = {(("map" if shape.is_map else "set"), declare(shape)): shape for shape in ElementShape}


def read_table(port: NftPort) -> KernelTable:
    """Returns the whole own table; only that table is looked at, never anybody else's.

    What changes meanwhile is announced to the watch, which therefore has to be open before.
    Raises KernelRefused or PeerError when it cannot be read.
    """
    for attempt in range(_ATTEMPTS):
        table = parse_listing(port.list_table())
        try:
            for (kind, name), lines in table.objects.items():
                shape = _SHAPE_BY_DECLARATION.get((kind, lines))
                if shape is not None:
                    table.elements[name] = port.dump(name, shape)
        except KernelRefused:  # a set that was listed has gone since
            if attempt == _ATTEMPTS - 1:
                raise
            continue
        return table
    raise AssertionError("unreachable")


def read_counters(port: NftPort) -> dict[str, Count]:
    """Returns dropped packets by reason (see `base.COUNTERS`). Raises KernelRefused, PeerError."""
    return port.count()
