"""Chunks under way: many at once to one publisher, each heard of when it has ended."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from raytrail.event import Chunk
from raytrail.pubsub import Publisher


class InFlight:
    """
    The chunks that are being published.

    `asyncio.wait` would look at all that is under way each time that one ends, so each tells of itself.
    """

    def __init__(self, publisher: Publisher) -> None:
        self.bytes = 0
        """The bytes of the lines that are under way."""
        self._publisher = publisher
        self._sent: dict[asyncio.Future[None], Chunk] = {}
        self._ended: deque[asyncio.Future[None]] = deque()
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._sent)

    def send(self, chunk: Chunk) -> None:
        """Begin to publish a chunk."""
        future: asyncio.Future[None] = asyncio.ensure_future(self._publisher.publish(chunk))
        self._sent[future] = chunk
        self.bytes += len(chunk.data)
        future.add_done_callback(self._hear)

    async def ended(self, seconds: float) -> list[tuple[Chunk, BaseException | None]]:
        """Wait so long at most for some to end, and return them, each with what it failed of, if it did."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)
        self._news.clear()
        ended = []
        while self._ended:
            future = self._ended.popleft()
            chunk = self._sent.pop(future)
            self.bytes -= len(chunk.data)
            ended.append((chunk, future.exception()))
        return ended

    async def cancel(self) -> None:
        """Give up what is under way."""
        for future in self._sent:
            future.cancel()
        await asyncio.gather(*self._sent, return_exceptions=True)

    def _hear(self, future: asyncio.Future[None]) -> None:
        self._ended.append(future)
        self._news.set()
