"""tail -> publish: runs on every node. While the broker is away nothing is read: the file is the buffer."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from raytrail.config import AgentConfig
from raytrail.errors import PublishError
from raytrail.event import Chunk
from raytrail.pubsub import Publisher
from raytrail.tail import Checkpoint, Tailer

log = logging.getLogger(__name__)
Progress = Callable[[int], None]
IDLE_SECONDS, BUSY_SECONDS = 0.5, 0.05  # how long a round waits for news: of the files, or of what is under way


async def drain(
    tailer: Tailer, checkpoint: Checkpoint, publisher: Publisher, config: AgentConfig, progress: Progress
) -> int:
    """Publish what is there now, telling `progress` the bytes done; return those of unfinished last lines."""
    stop = asyncio.Event()
    stop.set()
    return await run(tailer, checkpoint, publisher, config, stop, drain_seconds=math.inf, progress=progress)


async def run(
    tailer: Tailer,
    checkpoint: Checkpoint,
    publisher: Publisher,
    config: AgentConfig,
    stop: asyncio.Event,
    *,
    drain_seconds: float,
    progress: Progress = lambda _: None,
) -> int:
    """Publish what is new until `stop`, what is left for `drain_seconds`; return the bytes that remain."""
    publishing: dict[asyncio.Future[None], Chunk] = {}  # `in_flight_bytes` at most, or one longer chunk
    reports: list[Chunk] = []
    report_at, retry_at, ends = time.monotonic() + config.report_seconds, 0.0, math.inf
    away = reported = False
    try:
        while (now := time.monotonic()) < ends:
            if stop.is_set() and ends == math.inf:
                ends = now + min(drain_seconds, 1e9)  # not infinite again
                await asyncio.to_thread(tailer.look)
            chunks, looked = list[Chunk](), False
            room = config.in_flight_bytes - sum(len(chunk.data) for chunk in publishing.values())
            if now >= retry_at and (room >= tailer.config.chunk_bytes or not publishing):
                idle = not (stop.is_set() or publishing or reports)
                chunks = reports + await asyncio.to_thread(tailer.take, room, IDLE_SECONDS if idle else 0)
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
            nothing_left = stop.is_set() and looked and not (chunks or publishing or reports or now < retry_at)
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
