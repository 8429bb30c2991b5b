"""What tests read from the table of a host."""

from __future__ import annotations

import re

from felix.lab.place import Place


def count_dropped(place: Place, counter: str) -> int:
    """Returns the packets that a counter of the table has seen."""
    found = re.search(r"packets (\d+)", place.run(["nft", "list", "counter", "inet", "felix", counter]).stdout)
    assert found
    return int(found[1])
