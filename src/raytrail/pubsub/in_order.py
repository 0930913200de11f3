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
        give_up: Called with the error of a batch, once all that fails with it has been told.
    """

    def __init__(
        self,
        store: Callable[[list[Waiting]], Awaitable[None]],
        shown: str,
        most_bytes: float = math.inf,
        linger_seconds: float = 0,
        give_up: Callable[[Exception], Awaitable[None]] | None = None,
    ) -> None:
        self._store, self._shown, self._give_up = store, shown, give_up
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
                if batch := self._take():
                    await self._store(batch)
            except BaseException as error:  # also when it is cancelled: nobody is left waiting
                failure = error if isinstance(error, Exception) else closing(self._shown)
                self._fail(batch, failure)
                if self._give_up is not None:
                    await self._give_up(failure)
                if not isinstance(error, RaytrailError):
                    raise

    async def _linger(self) -> None:
        if self._linger_seconds:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._full.wait(), self._linger_seconds)

    def _take(self) -> list[Waiting]:
        # a publisher that was cancelled waits no more, and publishes its chunk again
        self._waiting = [(chunk, stored) for chunk, stored in self._waiting if not stored.done()]
        count = size = 0
        for chunk, _ in self._waiting:
            if count and size + len(chunk.data) > self._most_bytes:
                break
            count, size = count + 1, size + len(chunk.data)
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        self._waiting_bytes = sum(len(chunk.data) for chunk, _ in self._waiting)
        if self._waiting_bytes < self._most_bytes:
            self._full.clear()
        return batch

    def _fail(self, batch: list[Waiting], error: Exception) -> None:
        failed, self._waiting, self._waiting_bytes = [*batch, *self._waiting], [], 0
        settle((stored for _, stored in failed), error)

    async def finish(self) -> None:
        """Wait until all is stored, or has failed."""
        if self._storing is not None and not self._storing.done():
            await asyncio.wait([self._storing])

    async def cancel(self) -> None:
        """Give up what is being stored and what waits; all of it fails."""
        if self._storing is not None and not self._storing.done():
            self._storing.cancel()
            await asyncio.gather(self._storing, return_exceptions=True)
        self._fail([], closing(self._shown))  # what came while it was being cancelled


def closing(shown: str) -> BrokerUnavailable:
    """Return the error of chunks whose broker is being closed."""
    return BrokerUnavailable(f"{shown} is being closed; publish it again")


def settle(publishers: Iterable[asyncio.Future[None]], error: Exception | None = None) -> None:
    """Let those that still wait go on, or fail with `error`."""
    for publisher in publishers:
        if not publisher.done():
            if error is None:
                publisher.set_result(None)
            else:
                publisher.set_exception(error)
