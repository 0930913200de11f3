"""
The way an agent publishes.

It has one broker, its figures, and a place for the lines that the broker will never take.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import msgspec

from raytrail.errors import BrokerUnavailable, ChunkRefused, RaytrailError
from raytrail.event import LOG, Chunk, Segment
from raytrail.pubsub import Publisher, PubSub

_LEAST_LOG_BYTES = 1024

log = logging.getLogger(__name__)


class Outlet:
    """
    A publisher that no line can stop.

    A chunk that the broker refuses for good is halved until it is known which lines it refuses. Those are stored as
    dead letters, each a chunk of its own, and named in the log. The rest is published. Logs are halved anywhere, down
    to a kilobyte.

    Args:
        pubsub: The broker. It is the outlet's to close.
        dead_letters: Makes the place for refused lines. It is called when there is one.
        patient: Take every failure for one that passes, a wrong password too. Otherwise do so only after the first
            chunk that was stored.
    """

    def __init__(self, pubsub: PubSub, dead_letters: Callable[[], PubSub], *, patient: bool = False) -> None:
        self.in_flight_bytes = 0
        self.failures = 0
        """Chunks that were not stored, and are sent again."""
        self.refused_events = 0
        self.refused_bytes = 0
        self.failure = ""
        """The broker's last error, as long as nothing was stored since."""
        self.stored_at = time.monotonic()
        """When it last stored something, or at first when this was made."""
        self._pubsub = pubsub
        self._make_dead_letters = dead_letters
        self._patient = patient
        self._dead_letters: PubSub | None = None
        self._under_way: dict[PubSub, int] = {pubsub: 0}  # of each broker, one that was replaced included

    async def publish(self, chunk: Chunk) -> None:
        """
        Publish one chunk, whatever it takes.

        Raises:
            PublishError: It was not stored. Send all of it again. The store knows the ranges of chunks that are sent
                twice.
            ConfigError: The broker does not let us in, or the like, and never did.
        """
        pubsub = self._pubsub
        self._under_way[pubsub] += 1
        self.in_flight_bytes += len(chunk.data)
        try:
            await self._publish(pubsub, chunk)
        except RaytrailError as error:
            self.failures += 1
            self.failure = str(error)
            if error.retryable or not self._patient:
                raise
            raise BrokerUnavailable(str(error)) from error
        else:
            self.failure, self.stored_at, self._patient = "", time.monotonic(), True
        finally:
            self.in_flight_bytes -= len(chunk.data)
            self._under_way[pubsub] -= 1
            if pubsub is not self._pubsub and not self._under_way[pubsub]:
                del self._under_way[pubsub]
                await pubsub.aclose()

    async def change(self, pubsub: PubSub) -> None:
        """Publish to another broker from now on. Chunks under way at the old one end there. Then it is closed."""
        old, self._pubsub = self._pubsub, pubsub
        self._under_way[pubsub] = 0
        if not self._under_way[old]:
            del self._under_way[old]
            await old.aclose()

    async def aclose(self) -> None:
        """Close the broker and the dead letters. Safe to call twice."""
        for pubsub in [*self._under_way, *filter(None, [self._dead_letters])]:
            await pubsub.aclose()

    async def _publish(self, publisher: Publisher, chunk: Chunk) -> None:
        try:
            await publisher.publish(chunk)
        except ChunkRefused as error:
            middle = _middle(chunk)
            if not middle:
                await self._bury(chunk, error)
                return
            for half in _halves(chunk, middle):
                await self._publish(publisher, half)

    async def _bury(self, chunk: Chunk, error: ChunkRefused) -> None:
        if self._dead_letters is None:
            self._dead_letters = self._make_dead_letters()
        await self._dead_letters.publish(chunk)
        self.refused_events += 1
        self.refused_bytes += len(chunk.data)
        log.error("%s; %s is kept with the dead letters, and shows as missing in the ledger", error, _where(chunk))


def _middle(chunk: Chunk) -> int:
    """Return where to halve a chunk's lines, or 0 where there is only one line."""
    if chunk.event_type == LOG:
        return len(chunk.data) // 2 if len(chunk.data) > _LEAST_LOG_BYTES else 0
    middle = 0
    for _ in range(chunk.data.count(b"\n") // 2):
        middle = chunk.data.index(b"\n", middle) + 1
    return middle


def _halves(chunk: Chunk, middle: int) -> Iterator[Chunk]:
    """Yield what of a chunk is before `middle`, then the rest."""
    before: list[Segment] = []
    after: list[Segment] = []
    at = 0
    for segment in chunk.segments:
        cut = min(max(middle - at, 0), segment.length)
        if cut:
            before.append(segment._replace(length=cut))
        if cut < segment.length:
            after.append(segment._replace(start=segment.start + cut, length=segment.length - cut))
        at += segment.length
    for segments, data in ((before, chunk.data[:middle]), (after, chunk.data[middle:])):
        yield msgspec.structs.replace(chunk, segments=tuple(segments), data=data)


def _where(chunk: Chunk) -> str:
    kind = f"a line of {len(chunk.data)} bytes ({chunk.event_type})"
    return f"{kind} at offset {chunk.segments[0].start} of {chunk.segments[0].file}" if chunk.segments else kind
