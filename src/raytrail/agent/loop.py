"""tail -> publish: runs on every node. While the broker is away nothing is read: the file is the buffer."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

import msgspec

from raytrail.agent.flight import InFlight
from raytrail.config import HEARTBEAT_SECONDS, AgentConfig
from raytrail.errors import PublishError
from raytrail.event import Chunk
from raytrail.pubsub import Publisher
from raytrail.tail import Checkpoint, Tailer

log = logging.getLogger(__name__)
Progress = Callable[[int], None]
Current = Callable[[], AgentConfig]
IDLE_SECONDS, BUSY_SECONDS = 0.5, 0.05  # the longest wait of a round: for files that grow, for answers of the broker


async def drain(
    tailer: Tailer, checkpoint: Checkpoint, publisher: Publisher, config: AgentConfig, progress: Progress
) -> int:
    """Publish what is there now, telling `progress` the bytes done. Return the bytes of unfinished last lines."""
    stop = asyncio.Event()
    stop.set()
    config = msgspec.structs.replace(config, drain_seconds=math.inf)
    return await run(tailer, checkpoint, publisher, lambda: config, stop, progress=progress)


async def run(
    tailer: Tailer,
    checkpoint: Checkpoint,
    publisher: Publisher,
    current: Current,
    stop: asyncio.Event,
    *,
    progress: Progress = lambda _: None,
) -> int:
    """Publish what is new until `stop`, then what is left. Return the bytes that remain. `current` may change."""
    shipper = _Shipper(tailer, checkpoint, publisher, current, progress)
    try:
        while not stop.is_set():
            await shipper.round(IDLE_SECONDS)
        await shipper.finish()
    finally:
        await shipper.aclose()
    return tailer.unread_bytes()


class _Shipper:
    """Round after round: read what there is room for, send it, settle what the broker has answered, report."""

    def __init__(
        self, tailer: Tailer, checkpoint: Checkpoint, publisher: Publisher, current: Current, progress: Progress
    ) -> None:
        self._tailer, self._checkpoint, self._flight = tailer, checkpoint, InFlight(publisher)
        self._current, self._progress = current, progress
        self._reports: list[Chunk] = []
        """Still to be sent. No file holds them."""
        self._report_at = time.monotonic() + self._report_seconds()
        self._retry_at = 0.0
        """Nothing is sent before this time: the broker failed."""
        self._away = False
        """Whether the broker's last answer was a failure."""

    async def round(self, idle_seconds: float) -> bool:
        """Do what can be done now. Return whether everything is published."""
        all_sent = await self._send(idle_seconds)
        await self._settle()
        if self._checkpoint.due:
            await asyncio.to_thread(self._checkpoint.commit)
        # asked last: what was under way may have filled all room until just now
        done = all_sent and not (self._flight or self._reports or self._tailer.behind or self._must_wait())
        if time.monotonic() >= self._report_at and not self._reports:
            await self._report()
        return done

    async def finish(self) -> None:
        """Publish what is left, then the last report, for `drain_seconds` at most."""
        ends_at = time.monotonic() + self._current().drain_seconds
        await asyncio.to_thread(self._tailer.look, last=True)
        if await self._send_all(ends_at):
            await self._report()
            await self._send_all(ends_at)

    async def aclose(self) -> None:
        """Give up what is under way, and write down what was acknowledged."""
        await self._flight.cancel()
        await asyncio.to_thread(self._checkpoint.commit)

    async def _send_all(self, ends_at: float) -> bool:
        while time.monotonic() < ends_at:
            if await self.round(BUSY_SECONDS):
                return True
        return False

    def _must_wait(self) -> bool:
        return time.monotonic() < self._retry_at

    def _measure_room(self) -> int:
        """Return how many bytes may be read now, or 0 where they are not worth a round."""
        most = self._current().in_flight_bytes
        room = most - self._flight.bytes
        worth = max(most // 4, self._tailer.config.chunk_bytes)
        return 0 if self._must_wait() or (self._flight and room < worth) else room

    async def _send(self, idle_seconds: float) -> bool:
        """Read and send as much as there is room for. Return whether the files were looked at and held no more."""
        if not (room := self._measure_room()):
            return False
        wait_seconds = 0.0 if self._flight or self._reports else idle_seconds
        taken = await asyncio.to_thread(self._tailer.take, room, wait_seconds)
        chunks, self._reports = self._reports + (taken or []), []
        for chunk in chunks:
            self._flight.send(chunk)
        return taken is not None and not chunks

    async def _settle(self) -> None:
        """Acknowledge what the broker has stored. Have the rest read again."""
        if not (self._flight or self._must_wait()):
            return
        for chunk, error in await self._flight.ended(BUSY_SECONDS):
            if error is None:
                self._checkpoint.acknowledge(chunk.segments)
                self._progress(len(chunk.data) if chunk.segments else 0)
            elif isinstance(error, PublishError) and error.retryable:
                self._send_again(chunk, error)
            else:
                raise error
            self._away = error is not None

    def _send_again(self, chunk: Chunk, error: PublishError) -> None:
        retry_seconds = self._current().retry_seconds
        if not self._away:
            log.warning("%s; trying again every %g seconds", error, retry_seconds)
        self._retry_at = time.monotonic() + retry_seconds
        if chunk.segments:
            self._tailer.rewind(chunk.segments)
        else:
            self._reports.append(chunk)

    async def _report(self) -> None:
        reports = await asyncio.to_thread(self._tailer.reports)
        self._reports += reports  # beside one that was due in the very round that found all published
        self._report_at = time.monotonic() + self._report_seconds()

    def _report_seconds(self) -> float:
        return min(self._current().report_seconds, HEARTBEAT_SECONDS)
