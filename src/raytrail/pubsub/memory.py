"""Chunks within one process, as ``memory://name``, for tests and for trying things out."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator
from typing import ClassVar

from raytrail.errors import ConfigError
from raytrail.event import Chunk
from raytrail.pubsub import Delivery, Guarantee
from raytrail.pubsub.url import shown_whole


class _Log:
    """What was published under one name, and what each group has acknowledged of it."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.acked: dict[str, set[int]] = defaultdict(set)
        self.reading: set[str] = set()
        self._waiting: set[asyncio.Future[None]] = set()
        self._lock = threading.Lock()

    def append(self, chunk: Chunk) -> None:
        with self._lock:
            self.chunks.append(chunk)
            waiting, self._waiting = self._waiting, set()
        for future in waiting:
            # the reader may run in another thread's event loop
            future.get_loop().call_soon_threadsafe(_wake, future)

    async def grown_beyond(self, count: int) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            if len(self.chunks) > count:
                return
            self._waiting.add(future)
        try:
            await future
        finally:
            with self._lock:
                self._waiting.discard(future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class MemoryPubSub:
    """
    All connections of this process to one name share one log, which the process keeps to its end.

    A group has one reader at a time. A second reader is refused with a ``ConfigError``.
    """

    guarantee: Guarantee = "at-least-once"

    _logs: ClassVar[defaultdict[str, _Log]] = defaultdict(_Log)  # the broker: it outlives its connections

    def __init__(self, url: str) -> None:
        name = url.removeprefix("memory://")
        if not name or name == url or set(name) & set("/?#"):
            raise ConfigError(
                f"{shown_whole(url)!r} names no log; write memory://name, without '/', '?' and '#' in the name"
            )
        self._name = name
        self._log = self._logs[name]

    async def publish(self, chunk: Chunk) -> None:
        """Append one chunk."""
        self._log.append(chunk)

    async def subscribe(self, group: str, *, from_start: bool = False) -> AsyncGenerator[Delivery, None]:
        """
        Yield all chunks that `group` has not acknowledged, in the order published.

        Args:
            group: Who reads.
            from_start: Forget what the group has acknowledged.

        Raises:
            ConfigError: Somebody reads as that group already.
        """
        log = self._log
        if group in log.reading:
            raise ConfigError(
                f"group {group!r} of memory://{self._name} is being read, and has one reader at a time; "
                f"close that one, or read as another group"
            )
        log.reading.add(group)
        try:
            if from_start:
                log.acked[group] = set()
            acked, index = log.acked[group], 0
            while True:
                await log.grown_beyond(index)
                if index not in acked:

                    async def ack(index: int = index) -> None:
                        acked.add(index)

                    yield Delivery(log.chunks[index], ack)
                index += 1
        finally:
            log.reading.remove(group)

    async def aclose(self) -> None:
        """Drop nothing: the log belongs to the process."""
