"""Integers in order, of which the next one from any point is found without a walk over all.

A sorted list in chunks: a search bisects twice, an insertion moves at most one chunk.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

CHUNK_LIMIT = 1024


class SortedKeys:
    """A set of integers that knows, for any integer, which of its own comes next."""

    __slots__ = ("_chunks", "_firsts")

    def __init__(self) -> None:
        self._chunks: list[list[int]] = []  # none is empty; all of one chunk lies below all of the next
        self._firsts: list[int] = []  # the least key of each chunk

    def add(self, key: int) -> None:
        """`key` is in the set; it must not have been before."""
        if not self._chunks:
            self._chunks.append([key])
            self._firsts.append(key)
            return
        at = max(0, bisect_right(self._firsts, key) - 1)
        chunk = self._chunks[at]
        chunk.insert(bisect_left(chunk, key), key)
        self._firsts[at] = chunk[0]
        if len(chunk) > CHUNK_LIMIT:
            half = len(chunk) // 2
            self._chunks.insert(at + 1, chunk[half:])
            self._firsts.insert(at + 1, chunk[half])
            del chunk[half:]

    def remove(self, key: int) -> None:
        """`key` is no longer in the set; it must have been."""
        at = bisect_right(self._firsts, key) - 1
        chunk = self._chunks[at]
        del chunk[bisect_left(chunk, key)]
        if chunk:
            self._firsts[at] = chunk[0]
        else:
            del self._chunks[at]
            del self._firsts[at]

    def find_from(self, start: int) -> int | None:
        """Returns the least key that is not below `start`, or None."""
        at = max(0, bisect_right(self._firsts, start) - 1)
        if at < len(self._chunks):
            chunk = self._chunks[at]
            inside = bisect_left(chunk, start)
            if inside < len(chunk):
                return chunk[inside]
        return self._firsts[at + 1] if at + 1 < len(self._firsts) else None
