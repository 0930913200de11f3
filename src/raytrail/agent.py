"""tail -> publish: runs on every node. While the broker is away nothing is read: the file is the buffer."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

import msgspec

from raytrail.config import AgentConfig
from raytrail.errors import PublishError
from raytrail.event import Chunk
from raytrail.pubsub import Publisher
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
    publishing: dict[asyncio.Future[None], Chunk] = {}  # `in_flight_bytes` at most, or one longer chunk
    reports: list[Chunk] = []
    report_at, retry_at, ends = time.monotonic() + current().report_seconds, 0.0, math.inf
    away = reported = False
    try:
        while (now := time.monotonic()) < ends:
            config = current()
            if stop.is_set() and ends == math.inf:
                ends = now + min(config.drain_seconds, 1e9)  # not infinite again
                await asyncio.to_thread(tailer.look)
            chunks, looked = list[Chunk](), False
            room = config.in_flight_bytes - sum(len(chunk.data) for chunk in publishing.values())
            if now >= retry_at and (room >= tailer.config.chunk_bytes or not publishing):
                idle = BUSY_SECONDS if stop.is_set() else IDLE_SECONDS
                chunks = reports + await asyncio.to_thread(tailer.take, room, 0 if publishing or reports else idle)
                reports, looked = [], True
            publishing |= {asyncio.ensure_future(publisher.publish(chunk)): chunk for chunk in chunks}
            if publishing:
                await asyncio.wait(publishing, timeout=BUSY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            elif now < retry_at:
                await asyncio.sleep(BUSY_SECONDS)
            for future in [future for future in publishing if future.done()]:
                chunk, error = publishing.pop(future), future.exception()
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
            left = chunks or publishing or reports or tailer.behind or now < retry_at
            nothing_left = stop.is_set() and looked and not left
            if nothing_left and reported:
                break
            if (nothing_left or now >= report_at) and not reports:
                reports, report_at = await asyncio.to_thread(tailer.reports), now + config.report_seconds
                reported = nothing_left
    finally:
        for future in publishing:
            future.cancel()
        await asyncio.gather(*publishing, return_exceptions=True)
        await asyncio.to_thread(checkpoint.commit)
    return tailer.unread_bytes()
