"""The newest state, for any number of readers at any speed: who is slow misses what was in between, no more."""

from __future__ import annotations

import asyncio


class Feed:
    """Holds the newest text and its number, which grows with every change."""

    def __init__(self) -> None:
        self.version = 0
        self.text = b""
        self.is_closed = False
        self._news = asyncio.Event()

    def publish(self, text: bytes) -> bool:
        """Readers get `text`, unless they have it already; returns whether it is new."""
        if text == self.text:
            return False
        self.version += 1
        self.text = text
        self._wake()
        return True

    def close(self) -> None:
        """Readers end."""
        self.is_closed = True
        self._wake()

    async def wait_after(self, version: int) -> None:
        """Returns when there is something newer than `version`, or nothing will come any more."""
        while self.version <= version and not self.is_closed:
            await self._news.wait()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
