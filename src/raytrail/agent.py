"""tail -> publish: runs on every node. While the broker is away nothing is read: the file is the buffer."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

import msgspec

from raytrail.config import HEARTBEAT_SECONDS, AgentConfig
from raytrail.errors import PublishError
from raytrail.event import Chunk
from raytrail.pubsub import Publisher
from raytrail.pubsub.flight import InFlight
from raytrail.tail import Checkpoint, Tailer

log = logging.getLogger(__name__)
Progress = Callable[[int], None]
Current = Callable[[], AgentConfig]
IDLE_SECONDS, BUSY_SECONDS = 0.5, 0.05  # how long a round waits for news: of the files, or of what is under way


async def drain(
    tailer: Tailer, checkpoint: Checkpoint, publisher: Publisher, config: AgentConfig, progress: Progress
) -> int:
    """Publish what is there now, telling `progress` the bytes done; return those of unfinished last lines."""
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
    """Publish what is new until `stop`, then what is left; return the bytes that remain. `current` may change."""
    flight, reports = InFlight(publisher), list[Chunk]()  # `in_flight_bytes` at most, or one longer chunk
    report_at, retry_at, ends = time.monotonic() + _report_seconds(current()), 0.0, math.inf
    away = reported = False
    try:
        while (now := time.monotonic()) < ends:
            config = current()
            if stop.is_set() and ends == math.inf:
                ends = now + min(config.drain_seconds, 1e9)  # not infinite again
                await asyncio.to_thread(tailer.look, last=True)
            chunks, looked = list[Chunk](), False
            room, least = config.in_flight_bytes - flight.bytes, config.in_flight_bytes // 4
            if now >= retry_at and (room >= max(least, tailer.config.chunk_bytes) or not flight):
                wait = 0.0 if flight or reports else BUSY_SECONDS if stop.is_set() else IDLE_SECONDS
                taken = await asyncio.to_thread(tailer.take, room, wait)
                chunks, reports, looked = reports + (taken or []), [], taken is not None
            for chunk in chunks:
                flight.send(chunk)
            for chunk, error in await flight.ended(BUSY_SECONDS) if flight or now < retry_at else ():
                if error is None:
                    checkpoint.acknowledge(chunk.segments)
                    progress(len(chunk.data) if chunk.segments else 0)
                elif isinstance(error, PublishError) and error.retryable:
                    if not away:
                        log.warning("%s; trying again every %g seconds", error, config.retry_seconds)
                    tailer.rewind(chunk.segments)
                    reports += () if chunk.segments else (chunk,)
                    retry_at = time.monotonic() + config.retry_seconds
                else:
                    raise error
                away = error is not None
            if checkpoint.due:
                await asyncio.to_thread(checkpoint.commit)
            # looked: what was under way may have filled all room until just now
            left = chunks or flight or reports or tailer.behind or now < retry_at
            nothing_left = ends < math.inf and looked and not left  # told to stop before that was looked for
            if nothing_left and reported:
                break
            if (nothing_left or now >= report_at) and not reports:
                reports = await asyncio.to_thread(tailer.reports)
                report_at = now + _report_seconds(config)
                reported = nothing_left
    finally:
        await flight.cancel()
        await asyncio.to_thread(checkpoint.commit)
    return tailer.unread_bytes()


def _report_seconds(config: AgentConfig) -> float:
    return min(config.report_seconds, HEARTBEAT_SECONDS)
