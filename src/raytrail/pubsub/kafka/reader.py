"""A consumer, as a member of a group: what came of each partition, and what of it is acknowledged."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from raytrail.errors import EventError
from raytrail.event import Chunk, Segment, Unreadable, header_text, received
from raytrail.pubsub import Delivery
from raytrail.pubsub.collector import from_message
from raytrail.pubsub.kafka.wire import HEADERS, LINE, find_line_place, read_line_place
from raytrail.redact import Redactor

log = logging.getLogger(__name__)
_COMMIT_SECONDS = 1.0
SESSION_MS = 10_000
_SETTLE_SECONDS = 5.0  # how long a reader that leaves waits for the brokers to write down how far it is
_JOIN_SECONDS = 1.0  # how long a reader waits for the rest of a chunk that came line by line
_ChunkId = tuple[str, str, str, str, int]
"""Cluster, session, node, event type and number of lines: no agent has two such chunks under way in a partition."""


class _Held:
    """One partition, as its reader has it, from the first offset that it gets."""

    def __init__(self, first: int, redact: Redactor) -> None:
        self.end = self.committed = first
        self._redact = redact
        self._unacked: dict[tuple[int, int], None] = {}
        self._joining: dict[_ChunkId, _Joining] = {}

    @property
    def position(self) -> int:
        """What the group has acknowledged: the offset before which nothing is missing."""
        return min(self._unacked.copy(), default=(self.end, 0))[0]  # acks come from another thread

    def read(self, message: Any) -> list[Delivery]:
        """Return what a message completes."""
        offset, value = message.offset(), message.value() or b""
        place = f"topic {message.topic()}, partition {message.partition()}, offset {offset}"
        sent: dict[str, bytes] = {name: header or b"" for name, header in message.headers() or ()}
        if of_line := find_line_place(sent, message.key() or b""):
            given = self._line(*of_line, value, offset, place)
        elif "raytrail-version" in sent:
            # without what somebody's tracing added
            headers = {name: sent[name] for name in HEADERS if name in sent}
            given = [self._give(received(headers, value, place), [(offset, 0)])]
        else:
            chunks: list[Chunk | Unreadable] = []
            try:
                chunks += from_message(value, redact=self._redact)
            except EventError as error:
                headers_sent = {name: header_text(header) for name, header in sent.items()}
                chunks.append(Unreadable(place=place, reason=str(error), headers=headers_sent, data=value))
            given = [self._give(chunk, [(offset, number)]) for number, chunk in enumerate(chunks)]
        self.end = offset + 1
        return given

    def _line(self, stands: str, of_line: bytes, value: bytes, offset: int, place: str) -> list[Delivery]:
        """Return what a message completes that is one line of a chunk."""
        try:
            headers, number, count = read_line_place(stands, of_line)
            chunk = Chunk.from_wire(headers, value + b"\n")
        except EventError as error:
            line_headers = {LINE: header_text(of_line)}
            unreadable = Unreadable(place=place, reason=str(error), headers=line_headers, data=value)
            return [self._give(unreadable, [(offset, 0)])]
        return self._join(number, count, offset, chunk)

    def joined(self, before: float) -> list[Delivery]:
        """Return what came in part before that time: its writer may be dead."""
        late = [key for key, joining in self._joining.items() if joining.began < before]
        return [self._part(key) for key in late]

    def _join(self, number: int, count: int, offset: int, chunk: Chunk) -> list[Delivery]:
        given: list[Delivery] = []
        key = chunk.cluster, chunk.session, chunk.node_id, chunk.event_type, count
        joining = self._joining.get(key)
        if joining is not None and not joining.goes_on(number):
            given.append(self._part(key))
            joining = None
        if joining is None:
            joining = self._joining[key] = _Joining(number)
        joining.chunks.append(chunk)
        joining.places.append((offset, 0))
        self._unacked[offset, 0] = None
        if number == count:
            given.append(self._part(key))
        return given

    def _part(self, key: _ChunkId) -> Delivery:
        joining = self._joining.pop(key)
        return self._give(joining.chunk(), joining.places)

    def _give(self, chunk: Chunk | Unreadable, places: list[tuple[int, int]]) -> Delivery:
        self._unacked.update(dict.fromkeys(places))
        return Delivery(chunk, functools.partial(self._ack, places))

    async def _ack(self, places: list[tuple[int, int]]) -> None:
        for place in places:
            self._unacked.pop(place, None)


class _Joining:
    """Lines of one chunk that came as messages of their own."""

    def __init__(self, first: int) -> None:
        self.began = time.monotonic()
        self.chunks: list[Chunk] = []
        self.places: list[tuple[int, int]] = []
        self._first = first

    def goes_on(self, number: int) -> bool:
        """Say whether that is the next line."""
        return number == self._first + len(self.chunks)

    def chunk(self) -> Chunk:
        """Return the lines as one chunk."""
        segments: list[Segment] = []
        for segment in (segment for chunk in self.chunks for segment in chunk.segments):
            last = segments[-1] if segments else None
            if last and (last.file, last.generation, last.end) == (segment.file, segment.generation, segment.start):
                segments[-1] = last._replace(length=last.length + segment.length)
            else:
                segments.append(segment)
        data = b"".join(chunk.data for chunk in self.chunks)
        return msgspec.structs.replace(self.chunks[0], segments=tuple(segments), data=data)


class Reader:
    """A member of a group. All of it is called by one thread, but for the acks."""

    def __init__(
        self,
        make: Callable[[dict[str, Any]], Consumer],
        topic: str,
        group: str,
        redact: Redactor,
    ) -> None:
        self._redact = redact
        self.consumer: Any = make(  # its messages' stubs lack offsets
            {
                "group.id": group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "session.timeout.ms": SESSION_MS,
                "max.poll.interval.ms": 3600 * 1000,  # a full disk may keep the history waiting
                "fetch.max.bytes": 16 * 1024**2,
                "queued.max.messages.kbytes": 16 * 1024,
                "receive.message.max.bytes": 128 * 1024**2,
                "on_commit": self._committed,
            }
        )
        self._topic = topic
        self._held: dict[int, _Held] = {}
        self._commit_at = 0.0
        self._commits = 0
        """Under way."""
        self._refusal: KafkaError | None = None
        self._failed: Exception | None = None

    def rewind(self, partitions: int) -> bool:
        """Let the group begin anew; return whether nobody reads as it."""
        self._send([TopicPartition(self._topic, partition, 0) for partition in range(partitions)])
        refusal = self._settle(time.monotonic() + _SETTLE_SECONDS)
        if refusal is not None and refusal.code() in (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION):
            return False
        if refusal is not None:
            raise KafkaException(refusal)
        return True

    def join(self) -> None:
        """Become a member."""
        self.consumer.subscribe([self._topic], on_revoke=self._revoked, on_lost=self._lost)

    def take(self) -> list[Delivery]:
        """Return what has come, waiting half a second for it."""
        if self._failed is not None:
            raise self._failed
        given: list[Delivery] = []
        try:
            # one first: `consume` would wait all the time for the last of many
            for count, seconds in ((1, 0.5), (999, 0.0)):
                for message in self.consumer.consume(count, seconds):
                    given += self._read(message)
        except KafkaException as error:
            self._failed = error  # what came before it is given first
        now = time.monotonic()
        for held in self._held.values():
            given += held.joined(now - _JOIN_SECONDS)
        if now >= self._commit_at:
            self._commit_at = now + _COMMIT_SECONDS
            moved = [partition for partition, held in self._held.items() if held.position != held.committed]
            self._commit(moved)
        return given

    def _read(self, message: Any) -> list[Delivery]:
        """Return what a message completes."""
        error = message.error()
        if error is None:
            if (partition := message.partition()) not in self._held:
                self._held[partition] = _Held(message.offset(), self._redact)
            return self._held[partition].read(message)
        if error.code() != KafkaError._MAX_POLL_EXCEEDED:  # it joins again by itself
            raise KafkaException(error)
        return []

    def leave(self, commit: bool) -> None:
        """Write down what was acknowledged, if the brokers are there, and let others have the partitions."""
        closing = threading.Thread(target=self.consumer.close, name="raytrail-kafka-leaving", daemon=True)
        deadline = time.monotonic() + _SETTLE_SECONDS
        if commit:
            self._commit(list(self._held))
            if (refusal := self._settle(deadline)) is not None:
                log.info("group position of %r not written: %s; it comes again", self._topic, refusal.str())
        self._held.clear()
        closing.start()  # beside us: with a broker that has fallen silent, it ends when that speaks again
        closing.join(max(deadline - time.monotonic(), 0))

    def _commit(self, partitions: list[int]) -> None:
        offsets = []
        for partition in partitions:
            held = self._held[partition]
            held.committed = held.position
            offsets.append(TopicPartition(self._topic, partition, held.committed))
        if offsets:
            self._send(offsets)

    def _send(self, offsets: list[TopicPartition]) -> None:
        self._refusal = None
        try:
            self.consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._refusal = error.args[0]
        else:
            self._commits += 1

    def _committed(self, error: KafkaError | None, _: list[TopicPartition]) -> None:
        self._commits -= 1
        self._refusal = error

    def _settle(self, deadline: float) -> KafkaError | None:
        """
        Wait until all positions are written, and return why the last one is not.

        librdkafka's own call waits for a broker that has fallen silent, however long.
        """
        while self._commits:
            if time.monotonic() > deadline:
                return KafkaError(KafkaError._TIMED_OUT)
            with suppress(KafkaException):
                self.consumer.consume(1, 0.1)  # a chunk that comes with it is not acknowledged, and comes again
        return self._refusal

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        mine = [revoked.partition for revoked in partitions if revoked.partition in self._held]
        self._commit(mine)  # on its way before the partitions are given up
        for partition in mine:
            del self._held[partition]  # with what is not acked: it comes to whoever has the partition next

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        for lost in partitions:
            self._held.pop(lost.partition, None)
