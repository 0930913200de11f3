"""The agent's end: it publishes, and waits for the acking reader's reports."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
import uuid

from raytrail.errors import BrokerUnavailable, RaytrailError
from raytrail.event import Chunk
from raytrail.pubsub.in_order import Batches, Waiting, closing, settle
from raytrail.pubsub.ray.gcs import POLL_SECONDS, Gcs
from raytrail.pubsub.ray.wire import MESSAGE_BYTES, Report, Topic, pack, read_reports

_BEHIND_TIMEOUTS = 10  # so long a reader that says it is behind is waited for


class _Silence(BrokerUnavailable):
    """Nobody acknowledges, over a connection that is as good as ever."""


class Sender:
    """The agent's end: one message at a time, in order; each chunk's publisher waits until it is acknowledged."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._producer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._number = self._after = 0
        self._batches = Batches(self._send, topic.shown, MESSAGE_BYTES, give_up=self._give_up)
        self._unacked: dict[int, tuple[float, asyncio.Future[None]]] = {}  # by number, with the time it was sent
        self._listening: asyncio.Task[None] | None = None
        self._gcs: Gcs | None = None
        self._reader = b""
        self._reported = asyncio.Event()
        self._reported_at = self._behind_at = -math.inf

    async def publish(self, chunk: Chunk) -> None:
        """Publish one chunk, returning once the acking reader has it, or the GCS where there is none."""
        await self._batches.publish(chunk)

    async def _send(self, batch: list[Waiting]) -> None:
        gcs = await self._connected()
        if not await self._audible():
            raise self._silence()
        await self._send_message(gcs, batch)

    async def _give_up(self, error: Exception) -> None:
        if not isinstance(error, _Silence):
            await self._drop(error)

    async def _send_message(self, gcs: Gcs, batch: list[Waiting]) -> None:
        first, now = self._number + 1, time.monotonic()
        self._number += len(batch)
        message = await asyncio.to_thread(pack, self._producer, self._after, first, [chunk for chunk, _ in batch])
        if self._topic.group:
            # before it is sent: the ack may come before the GCS's answer
            self._unacked |= {number: (now, done) for number, (_, done) in enumerate(batch, first)}
        await gcs.publish(self._topic.chunks, message)
        if self._listening and self._listening.done():  # it cannot have seen these
            raise self._lost()
        self._after = self._number
        if not self._topic.group:
            settle(done for _, done in batch)

    async def _connected(self) -> Gcs:
        """Return a connection on which publishing is safe."""
        topic = self._topic
        if self._listening and self._listening.done():
            await self._drop(self._lost())
        if self._gcs is None:
            self._gcs = Gcs(topic)
            # with acks=none, to a key that has no messages: it is only for the answer
            await self._gcs.subscribe(topic.acks if topic.group else topic.chunks + b".none")
            if topic.group:
                self._listening = asyncio.create_task(self._listen(self._gcs))
        return self._gcs

    async def _audible(self) -> bool:
        """Wait until somebody is there to ack, and return whether there is."""
        timeout_seconds = self._topic.timeout_seconds
        if not self._listening or time.monotonic() - self._reported_at <= timeout_seconds:
            return True
        self._reported.clear()
        reported = asyncio.create_task(self._reported.wait())
        try:
            await asyncio.wait(
                [reported, self._listening], timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            reported.cancel()
        if self._listening.done():
            self._listening.result()
        return self._reported.is_set()

    async def _listen(self, gcs: Gcs) -> None:
        """Take what the acking reader reports, and give up what it does not ack in time."""
        timeout_seconds = self._topic.timeout_seconds
        while True:
            try:
                payloads = await gcs.poll(min(POLL_SECONDS, timeout_seconds / 2))
                for report in read_reports((payload for _, payload in payloads), self._topic):
                    if report.group == self._topic.group:
                        if self._reader not in (b"", report.reader):
                            # it was killed, most likely, and what is published would wait for it
                            await gcs.unsubscribe(self._topic.chunks, subscriber_id=self._reader)
                        self._take_report(report)
            except RaytrailError as error:
                unacked, self._unacked = self._unacked, {}
                settle((done for _, done in unacked.values()), error)
                raise
            now = time.monotonic()
            late = [
                number
                for number, (sent_at, _) in self._unacked.items()
                if now - max(sent_at, self._behind_at) > timeout_seconds
                or now - sent_at > timeout_seconds * _BEHIND_TIMEOUTS
            ]
            settle((self._unacked.pop(number)[1] for number in late), self._silence())

    def _take_report(self, report: Report) -> None:
        missed = report.missed.get(self._producer, [])
        if report.reader != self._reader:
            # what was on its way to another reader may never have reached this one
            self._reader = report.reader
            missed = [(1, self._number)]
        acked = [number for number in report.acked.get(self._producer, ()) if number in self._unacked]
        settle(self._unacked.pop(number)[1] for number in acked)
        unheard = [number for number in self._unacked if any(first <= number <= last for first, last in missed)]
        settle(
            (self._unacked.pop(number)[1] for number in unheard),
            BrokerUnavailable(f"group {report.group!r} at {self._topic.shown} did not hear a chunk; publish it again"),
        )
        self._reported_at = time.monotonic()
        self._reported.set()
        if report.behind:
            self._behind_at = self._reported_at

    def _silence(self) -> _Silence:
        return _Silence(
            f"no reader of group {self._topic.group!r} has acknowledged at {self._topic.shown} for "
            f"{self._topic.timeout_seconds:g} seconds; start `raytrail history`, or name its group with acks=..., "
            f"or write acks=none to lose what nobody hears"
        )

    def _lost(self) -> BrokerUnavailable:
        return BrokerUnavailable(f"the connection to {self._topic.shown} was lost; publish it again")

    async def _drop(self, error: Exception) -> None:
        """Give up the connection, and all that was sent over it."""
        unacked, self._unacked = self._unacked, {}
        settle((done for _, done in unacked.values()), error)
        gcs, listening, self._gcs, self._listening = self._gcs, self._listening, None, None
        self._reported_at = -math.inf
        if listening is not None:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        if gcs is not None:
            await gcs.aclose()

    async def aclose(self) -> None:
        """Drop the connection; what is being published fails. Safe to call twice."""
        await self._batches.cancel()
        await self._drop(closing(self._topic.shown))
