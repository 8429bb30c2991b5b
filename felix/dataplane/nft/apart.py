"""Large changes of one set in parts, each a transaction; what is a member before and after always is one. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from felix.dataplane.nft.elements import KEY_BYTES
from felix.dataplane.nft.types import Element, SetChange


def split_apart(change: SetChange, limit: int) -> list[SetChange]:
    """Returns parts of at most `limit` elements, together the whole change, that may take effect one after the other.

    What belongs together stays together, however much it is: a range and all that it replaces or that replace it,
    a key and its other value. With 0.0.0.0/0 in front of 50 000 prefixes that is one transaction of 50 001.
    """
    parts: list[SetChange] = []
    removed: list[Element] = []
    added: list[Element] = []
    for gone, new in _find_wholes(change):
        if (removed or added) and len(removed) + len(added) + len(gone) + len(new) > limit:
            parts.append(SetChange(change.set, change.shape, tuple(removed), tuple(added)))
            removed, added = [], []
        removed += gone
        added += new
    if removed or added:
        parts.append(SetChange(change.set, change.shape, tuple(removed), tuple(added)))
    return parts


def _find_wholes(change: SetChange) -> Iterator[tuple[list[Element], list[Element]]]:
    """Yields what goes and what comes of each group that overlaps in itself and with no other."""
    width = KEY_BYTES[change.shape]
    steps = [(element.key[:width], element.key[-width:], 0, element) for element in change.removed]
    steps += [(element.key[:width], element.key[-width:], 1, element) for element in change.added]
    steps.sort(key=lambda step: step[:3])
    whole: tuple[list[Element], list[Element]] = ([], [])
    end = b""
    for first, last, side, element in steps:
        if first > end and (whole[0] or whole[1]):
            yield whole
            whole = ([], [])
        whole[side].append(element)
        end = max(end, last)
    if whole[0] or whole[1]:
        yield whole
