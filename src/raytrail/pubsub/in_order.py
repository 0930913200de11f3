"""
The order in which chunks are stored, kept here for all brokers.

Many chunks are published at once, in the order in which they were read. One that fails is sent again by whoever
published it. The chunks that wait behind it fail with it: none of them overtakes it, and a broker that is away is
waited for once, not once for each of them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from raytrail.errors import BrokerUnavailable, RaytrailError
from raytrail.event import Chunk

Waiting = tuple[Chunk, "asyncio.Future[None]"]
"""A chunk, and what its publisher waits for."""


class Turn:
    """
    Lets chunks onto a connection one after another; what the broker says of them is waited for outside of it.

    Whoever waits for it, while something fails, is given that error.
    """

    def __init__(self) -> None:
        self.failure: RaytrailError | None = None
        """Why the connection was given up last."""
        self._failed_at = -math.inf
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        began = time.monotonic()
        await self._lock.acquire()
        if self.failure is not None and began <= self._failed_at:
            self._lock.release()
            raise self.failure

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()

    def fail(self, error: RaytrailError) -> None:
        """Have all fail that wait for their turn."""
        self._failed_at, self.failure = time.monotonic(), error


class Batches:
    """
    Gathers the chunks that come while others are being stored, and stores them together.

    Args:
        store: Sends a batch, and settles each of its chunks once that is stored. All of them fail with what it raises.
        shown: The broker, for people.
        most_bytes: Most bytes of lines of a batch; a single longer chunk is one, too.
        linger_seconds: How long a batch is waited for to be full.
    """

    def __init__(
        self,
        store: Callable[[list[Waiting]], Awaitable[None]],
        shown: str,
        most_bytes: float = math.inf,
        linger_seconds: float = 0,
    ) -> None:
        self._store, self._shown = store, shown
        self._most_bytes, self._linger_seconds = most_bytes, linger_seconds
        self._waiting: list[Waiting] = []
        self._waiting_bytes = 0
        self._full = asyncio.Event()
        self._storing: asyncio.Task[None] | None = None

    async def publish(self, chunk: Chunk) -> None:
        """Have one chunk stored with those that come at the same time, and wait until it is."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((chunk, stored))
        self._waiting_bytes += len(chunk.data)
        if self._waiting_bytes >= self._most_bytes:
            self._full.set()
        if self._storing is None or self._storing.done():
            self._storing = asyncio.create_task(self._store_all())
        await stored

    async def _store_all(self) -> None:
        while self._waiting:
            batch: list[Waiting] = []
            try:
                await self._linger()
                batch = self._take()
                await self._store(batch)
            except BaseException as error:
                self._fail(batch, error)
                if not isinstance(error, RaytrailError):
                    raise

    async def _linger(self) -> None:
        if self._linger_seconds:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._full.wait(), self._linger_seconds)

    def _take(self) -> list[Waiting]:
        count = size = 0
        for chunk, _ in self._waiting:
            if count and size + len(chunk.data) > self._most_bytes:
                break
            count, size = count + 1, size + len(chunk.data)
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        self._waiting_bytes -= size
        if self._waiting_bytes < self._most_bytes:
            self._full.clear()
        return batch

    def _fail(self, batch: list[Waiting], error: BaseException) -> None:
        closing = BrokerUnavailable(f"{self._shown} is being closed; publish it again")
        failed, self._waiting, self._waiting_bytes = [*batch, *self._waiting], [], 0
        settle((stored for _, stored in failed), error if isinstance(error, Exception) else closing)

    async def finish(self) -> None:
        """Wait until all is stored, or has failed."""
        if self._storing is not None and not self._storing.done():
            await asyncio.wait([self._storing])

    async def cancel(self) -> None:
        """Give up what is being stored and what waits; all of it fails."""
        if self._storing is not None and not self._storing.done():
            self._storing.cancel()
            await asyncio.gather(self._storing, return_exceptions=True)
        self._fail([], asyncio.CancelledError())  # what came while it was being cancelled


def settle(publishers: Iterable[asyncio.Future[None]], error: Exception | None = None) -> None:
    """Let those that still wait go on, or fail with `error`."""
    for publisher in publishers:
        if not publisher.done():
            if error is None:
                publisher.set_result(None)
            else:
                publisher.set_exception(error)
