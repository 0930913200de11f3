"""How fast events may leave: token buckets that delay, and drop nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from raytrail.ray_event import FILE_TYPES

ALL = "ALL"
"""Stands for all event types together."""


class _Bucket:
    """Holds what may be spent in one second. It may be overdrawn once, and is then shut until that is made good."""

    def __init__(self, per_second: float) -> None:
        self._per_second = self._level = per_second
        self._at = time.monotonic()

    def wait_seconds(self) -> float:
        """Return how long it is shut."""
        now = time.monotonic()
        self._level = min(self._per_second, self._level + (now - self._at) * self._per_second)
        self._at = now
        return 0.0 if self._level > 0 else -self._level / self._per_second + 1e-6

    def spend(self, amount: float) -> None:
        self._level -= amount


class Limits:
    """
    The limits of one destination.

    Args:
        events_per_second: By event type, or `ALL`.
        bytes_per_second: The same.
    """

    def __init__(self, events_per_second: Mapping[str, float], bytes_per_second: Mapping[str, float]) -> None:
        self._events = {event_type: _Bucket(rate) for event_type, rate in events_per_second.items()}
        self._bytes = {event_type: _Bucket(rate) for event_type, rate in bytes_per_second.items()}

    @property
    def shared(self) -> bool:
        """True if all types share one."""
        return ALL in self._events or ALL in self._bytes

    def wait_seconds(self, event_type: str) -> float:
        """Return how long no more of a type may be read, or 0 where it may be now."""
        return max((bucket.wait_seconds() for bucket, _ in self._find_buckets(event_type, 0, 0)), default=0.0)

    def spend(self, event_type: str, events: int, size: int) -> None:
        """Note that so many events of a type, of `size` bytes, were read."""
        for bucket, amount in self._find_buckets(event_type, events, size):
            bucket.spend(amount)

    def _find_buckets(self, event_type: str, events: int, size: int) -> Iterator[tuple[_Bucket, int]]:
        # an event that Ray posted tells what a file's event does, and shares its limit
        names = dict.fromkeys((event_type, FILE_TYPES.get(event_type, event_type), ALL))
        for buckets, amount in ((self._events, events), (self._bytes, size)):
            for name in names:
                if name in buckets:
                    yield buckets[name], amount
