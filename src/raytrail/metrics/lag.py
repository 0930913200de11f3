"""How far a history is behind its broker: in chunks or bytes where the broker counts them, in seconds always."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone

from prometheus_client.core import GaugeMetricFamily, Metric

from raytrail.errors import RaytrailError
from raytrail.pubsub.backlog import Backlog
from raytrail.pubsub.groups import OwnGroup

_MEASURE_SECONDS = 5.0
_ASKED_SECONDS = 300.0
"""How long after somebody has read the figures the broker is still asked for more."""
_END_BYTES = 4096
"""How much of a chunk's end is searched for the time of its last event."""
_TIME = re.compile(rb'"timestamp": ?(?:(\d{10})\b|"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d))')


class Lag:
    """
    What is known of it. Any thread may collect.

    The seconds are the age of the newest event that was stored, while something waits. After a pause the newest event
    is old, so they are never more than the time since nothing waited.
    """

    def __init__(self) -> None:
        self._backlog: Backlog | None = None
        self._events, self._chunks, self._bytes = 0, 0, 0
        self._newest = 0.0
        self._idle_at = time.time()
        self._asked_at: float | None = None
        self._queue_length: Callable[[], int] = int

    def follow_queue(self, length: Callable[[], int]) -> None:
        """Count, from now on, the chunks that wait here, too."""
        self._queue_length = length

    def note_stored(self, lines: bytes, events: int) -> None:
        """Count a chunk that was stored, with its lines, and how many events they are."""
        self._chunks += 1
        self._bytes += len(lines)
        self._events += events
        if events:
            # a clock that is ahead must not hide for how long nothing came
            self._newest = max(self._newest, min(_last_time(lines), time.time()))

    async def measure(self, broker: OwnGroup, group: str) -> None:
        """Ask the broker again and again, while somebody reads the figures."""
        while True:
            if self._asked_at is not None and time.monotonic() - self._asked_at < _ASKED_SECONDS:
                try:
                    self._backlog = await broker.backlog(group)
                except RaytrailError:
                    self._backlog = None  # reading from it fails, too, which is counted and logged
            self._note_idle()
            await asyncio.sleep(_MEASURE_SECONDS)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, without a sample where nothing is known."""
        self._asked_at = time.monotonic()
        backlog = self._backlog or Backlog()
        for name, meaning, value in (
            ("behind_chunks", "Messages at the broker that are not stored yet, where it counts them.", backlog.chunks),
            ("behind_bytes", "Bytes at the broker that are not stored yet, where it counts them.", backlog.bytes),
            ("behind_events", "Events in them, if they are like those that were stored before.", self._events_behind()),
            (
                "behind_seconds",
                "Age of the newest event that was stored, while others wait. 0: none do.",
                self._seconds(),
            ),
            ("newest_event_timestamp_seconds", "When the newest stored event happened. 0: none yet.", self._newest),
        ):
            metric = GaugeMetricFamily(f"raytrail_history_{name}", meaning)
            if value is not None:
                metric.add_metric([], value)
            yield metric

    def _events_behind(self) -> float | None:
        if self._backlog is None or not self._chunks:
            return None
        if self._backlog.bytes is not None:
            return self._backlog.bytes * self._events / max(1, self._bytes)
        return (self._backlog.chunks or 0) * self._events / self._chunks

    def _seconds(self) -> float:
        self._note_idle()
        now = time.time()
        return max(0.0, now - max(self._newest, self._idle_at)) if self._waits() else 0.0

    def _waits(self) -> bool:
        return self._queue_length() > 0 or not (self._backlog or Backlog()).is_empty

    def _note_idle(self) -> None:
        if not self._waits():
            self._idle_at = time.time()


def _last_time(lines: bytes) -> float:
    """Return when the last event of a chunk happened, in seconds since 1970; 0 where it does not say."""
    written = lines.rfind(b'"timestamp":', -_END_BYTES if len(lines) > _END_BYTES else 0)
    match = _TIME.match(lines, written) if written >= 0 else None
    if match is None:
        return 0.0
    if match[1]:
        return float(match[1])
    try:
        return datetime.fromisoformat(match[2].decode()).replace(tzinfo=timezone.utc).timestamp()
    except ValueError:  # a 30th of February
        return 0.0
