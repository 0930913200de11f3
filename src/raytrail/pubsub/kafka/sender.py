"""A producer, as an agent's event loop uses it."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from raytrail.pubsub.kafka.wire import WireMessage

POLL_SECONDS, _IDLE_SECONDS = 0.005, 1.0  # how often it is looked what became of what is under way; of nothing
_KNOWN_SECONDS = 300.0
"""How long brokers are trusted to know a producer that sent nothing; by default they forget it after a day."""


class Sender:
    """
    A producer that is polled by the event loop while something is under way.

    A thread that waits for it would compete with the loop for Python at each delivery report.

    The first message to a partition goes alone. Of a producer that it does not know, a leader takes any sequence
    number: if it refused the first (it has not heard of a new topic yet, or has too few replicas) and took the
    second, which is on its way by then, it would call the first one, sent again, a duplicate; and librdkafka would
    call that stored.
    """

    def __init__(self, client: Producer, topic: str, partitions: int, hear: Callable[[KafkaError], None]) -> None:
        self.stopped = False
        self._hear = hear
        self.heard: list[Sent] = []
        self._client, self._topic, self._partitions = client, topic, partitions
        self._known_until: dict[int, float] = {}
        self._loop = asyncio.get_running_loop()
        self._under_way = 0
        self._timer = self._loop.call_later(_IDLE_SECONDS, self._poll)
        self._ending = threading.Thread(target=self._end, name="raytrail-kafka-sender", daemon=True)

    def begin(self, key: str) -> Sent:
        """Begin a chunk, of which all messages have that key."""
        if not self._under_way and not self.stopped:
            self._timer.cancel()
            self._timer = self._loop.call_later(POLL_SECONDS, self._poll)
        self._under_way += 1
        return Sent(self, zlib.crc32(key.encode()) % self._partitions)

    def produce(self, messages: Iterator[WireMessage], sent: Sent) -> bool:
        """Queue messages; return whether it is done with them. Call it again with the rest if not."""
        if sent.goes_first:
            if not sent.reported:
                return False
            if sent.error is not None:
                return True
            sent.goes_first = False
            self._know(sent.partition)
        elif not sent.queued and time.monotonic() >= self._known_until.get(sent.partition, 0.0):
            sent.goes_first = self._queue(itertools.islice(itertools.chain(sent.waiting, messages), 1), sent)
            return False
        return self._queue(itertools.chain(sent.waiting, messages), sent)

    def _queue(self, messages: Iterator[WireMessage], sent: Sent) -> bool:
        """Queue messages; return whether there was room for all."""
        produce, topic, partition, report = self._client.produce, self._topic, sent.partition, sent.report
        for message in messages:
            key, value, headers = message
            try:
                produce(topic, value, key, partition, on_delivery=report, headers=headers)
            except BufferError:
                sent.waiting = (message,)
                return False
            sent.queued += 1
        sent.waiting = ()
        return True

    def _know(self, partition: int) -> None:
        self._known_until[partition] = time.monotonic() + _KNOWN_SECONDS

    def stop(self) -> None:
        """Let all that is under way fail, soon."""
        if not self.stopped:
            self.stopped = True
            self._timer.cancel()
            self._ending.start()

    def join(self) -> None:
        """Wait until all has failed."""
        self._ending.join()

    def listen(self) -> None:
        """Hear what there is to hear."""
        try:
            self._client.poll(0)
        except KafkaException as error:  # fatal to this producer: all that is under way fails, too
            self._hear(error.args[0])
        self._tell()

    def _poll(self) -> None:
        self.listen()
        self._timer = self._loop.call_later(POLL_SECONDS if self._under_way else _IDLE_SECONDS, self._poll)

    def _end(self) -> None:
        self._client.purge()
        with suppress(KafkaException):
            self._client.flush(1)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        heard, self.heard = self.heard, []
        self._under_way -= len(heard)
        for sent in heard:
            if sent.error is None:
                self._know(sent.partition)
            sent.resolve()


class Sent:
    """A chunk under way, as one message or as many."""

    __slots__ = ("_heard", "_sender", "_whole", "error", "goes_first", "partition", "queued", "stored", "waiting")

    def __init__(self, sender: Sender, partition: int) -> None:
        self.stored: asyncio.Future[KafkaError | None] = asyncio.get_running_loop().create_future()
        self.partition = partition
        self.queued = 0
        self.goes_first = False
        """Whether only its first message is queued, until the partition's leader has taken that."""
        self.waiting: tuple[WireMessage, ...] = ()
        """The message that there was no room for."""
        self.error: KafkaError | None = None
        self._heard = 0
        self._whole = False
        self._sender = sender

    @property
    def reported(self) -> bool:
        """Whether it is known what became of all that is queued."""
        return self._heard == self.queued

    def report(self, error: KafkaError | None, _: Message) -> None:
        """Count what became of one message."""
        if error is not None:
            self.error = error
        self._heard += 1
        if self._whole and self._heard == self.queued:
            self._sender.heard.append(self)

    def complete(self) -> None:
        """Say that all its messages are queued."""
        self._whole = True
        if self.reported:  # before they were all queued
            self._sender.heard.append(self)

    def resolve(self) -> None:
        """Wake who waits for it."""
        if not self.stored.done():
            self.stored.set_result(self.error)
