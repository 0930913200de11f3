"""A producer, as an agent's event loop uses it."""

from __future__ import annotations

import asyncio
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

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
        # one call for many messages, since 2.12 of the client
        self._produce_batch = getattr(client, "produce_batch", None)
        self._known_until: dict[int, float] = {}
        self._loop = asyncio.get_running_loop()
        self._under_way = 0
        self._timer = self._loop.call_later(_IDLE_SECONDS, self._poll)
        self._ending = threading.Thread(target=self._end, name="raytrail-kafka-sender", daemon=True)

    def begin(self, key: str, messages: Sequence[WireMessage]) -> Sent:
        """Begin a chunk, all of whose messages go to the partition of that key."""
        if not self._under_way and not self.stopped:
            self._timer.cancel()
            self._timer = self._loop.call_later(POLL_SECONDS, self._poll)
        self._under_way += 1
        return Sent(self, zlib.crc32(key.encode()) % self._partitions, messages)

    def produce(self, sent: Sent) -> bool:
        """
        Queue the messages of a chunk; return whether it is done with them. Call it again if not.

        Raises:
            KafkaException: The client does not take one of them.
        """
        if sent.goes_first:
            if not sent.reported:
                return False
            if sent.error is not None:
                return True
            sent.goes_first = False
            self._know(sent.partition)
        elif not sent.queued and time.monotonic() >= self._known_until.get(sent.partition, 0.0):
            sent.goes_first = self._queue(sent, 1)
            return False
        return self._queue(sent, len(sent.waiting))

    def _queue(self, sent: Sent, most: int) -> bool:
        """Queue so many messages at most; return whether there was room for them."""
        messages, sent.waiting = sent.waiting[:most], sent.waiting[most:]
        if self._produce_batch is None or len(messages) == 1:
            refused = self._put_each(messages, sent)
        else:
            refused = self._put_all(messages, sent, self._produce_batch)
        sent.waiting = [*refused, *sent.waiting]
        return not refused

    def _put_each(self, messages: Sequence[WireMessage], sent: Sent) -> Sequence[WireMessage]:
        """Queue messages one by one; return those that there was no room for."""
        produce, topic, partition, report = self._client.produce, self._topic, sent.partition, sent.report
        for number, message in enumerate(messages):
            try:
                produce(topic, partition=partition, on_delivery=report, **message)
            except BufferError:
                return messages[number:]
            sent.queued += 1
        return ()

    def _put_all(self, messages: Sequence[Any], sent: Sent, produce_batch: Callable[..., int]) -> Sequence[WireMessage]:
        """Queue messages, none of which has headers, by one call; return those that there was no room for."""
        count = produce_batch(self._topic, messages, sent.partition, on_delivery=sent.report)
        sent.queued += count
        if count == len(messages):
            return ()
        # It writes into each that it did not take why. They are not always the last ones: one may be too long, and
        # the next one not.
        refused = [message for message in messages if "_error" in message]
        for message in refused:
            error = message.pop("_error")
            if error.code() != KafkaError._QUEUE_FULL:
                raise KafkaException(error)
        return refused

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

    def __init__(self, sender: Sender, partition: int, messages: Sequence[WireMessage]) -> None:
        self.stored: asyncio.Future[KafkaError | None] = asyncio.get_running_loop().create_future()
        self.partition = partition
        self.queued = 0
        self.goes_first = False
        """Whether only its first message is queued, until the partition's leader has taken that."""
        self.waiting = messages
        """The messages that are not queued yet."""
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
