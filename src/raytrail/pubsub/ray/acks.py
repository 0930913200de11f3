"""The acking reader's end: it reports what it has, and sees to it that it is alone."""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict

import msgspec

from raytrail.errors import ConfigError
from raytrail.pubsub.ray.gcs import Gcs
from raytrail.pubsub.ray.wire import BEAT_SECONDS, Report, Topic, read_reports

_ACK_SECONDS = 0.1
_JOIN_SECONDS = 2.5


class Acks:
    """The acking reader's end: it says what it has, and that it is there."""

    def __init__(self, topic: Topic, gcs: Gcs) -> None:
        self._topic, self._gcs = topic, gcs
        self._told_at = -math.inf
        self.acked: defaultdict[str, list[int]] = defaultdict(list)
        self.missed: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)

    async def join(self) -> None:
        """Listen for another reader of the group until one would have been heard."""
        await self._gcs.subscribe(self._topic.acks)
        ends = time.monotonic() + _JOIN_SECONDS
        while (remaining := ends - time.monotonic()) > 0:
            for report in read_reports((payload for _, payload in await self._gcs.poll(remaining)), self._topic):
                if report.group == self._topic.group:
                    raise self.taken()

    def meet(self, payload: bytes) -> None:
        """Leave where two have joined at the same moment, and the other comes first by name."""
        for report in read_reports([payload], self._topic):
            if report.group == self._topic.group and report.reader < self._gcs.subscriber_id:
                raise self.taken()

    def taken(self) -> ConfigError:
        """Return the error of a second reader."""
        return ConfigError(
            f"group {self._topic.group!r} at {self._topic.shown} is being read, and has one reader at a time; "
            f"stop that one, or read as another group"
        )

    async def keep(self) -> None:
        """Tell what is acked soon, and that we are there every second; until cancelled."""
        while True:
            if self.acked or self.missed or time.monotonic() - self._told_at >= BEAT_SECONDS:
                await self.tell()
            await asyncio.sleep(_ACK_SECONDS)

    async def tell(self) -> None:
        """Report what there is to report."""
        acked, self.acked = self.acked, defaultdict(list)
        missed, self.missed = self.missed, defaultdict(list)
        self._told_at = time.monotonic()
        report = Report(str(self._topic.group), self._gcs.subscriber_id, not self._gcs.polling, acked, missed)
        await self._gcs.publish(self._topic.acks, msgspec.msgpack.encode(report))
