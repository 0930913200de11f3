"""
Chunks through a Kafka topic, as ``kafka://host:9092[,host2:9092]/topic``.

A message is a chunk. The chunk's lines are the value, its headers are the message's, and its first file is the key.
The partition is the CRC-32 of that file, modulo the number of partitions, as librdkafka would choose by itself. A chunk
may hold lines of several files. A file's lines may therefore be in several partitions, between which Kafka keeps no
order.

With ``envelope=event`` a message is one line, for readers that know nothing of us (ClickHouse, Spark, Flink). The
value is its JSON, with no newline, and there are no headers. The partition is that of the chunk's first file. The key
is another one for each line. By it our own reader joins a chunk's lines again:

    ["<version>","<cluster>","<session>","<node id>","<event type>"] <the line's segments> <number>/<lines of the chunk>

Agents of earlier builds sent this text as a header, ``raytrail-line``, and had the file as the key. Readers take all
forms, whatever their URL says. Logs are no events, and always come in chunks.

The readers of a group share its partitions. A history's group begins with its ``--group`` and ends in its store's id.
If there are ACLs, allow a history's user Read on all groups that begin so (``--resource-pattern-type prefixed``).

Settings, in the URL's query:

    envelope         chunk   `chunk` or `event`
    partitions               make the topic, with so many, where it is missing; else that is the broker's affair
    redact           true    mask secrets in what collectors write into the topic themselves, which no agent has masked
    timeout_seconds  30      how long the brokers may take to store a chunk before it is sent again; a third of it
                             is how long they may take to answer at first

You may also give every property of librdkafka that has a dot in its name, such as ``compression.type=zstd`` or
``ssl.ca.location=...``. ``user:password@`` means SASL PLAIN over TLS, unless ``security.protocol`` and
``sasl.mechanism`` say otherwise.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from raytrail.errors import BrokerUnavailable, ConfigError, RaytrailError
from raytrail.event import LOG, Chunk
from raytrail.pubsub import Delivery, Guarantee
from raytrail.pubsub.backlog import Backlog
from raytrail.pubsub.in_order import Turn
from raytrail.pubsub.kafka.backlog import Measure
from raytrail.pubsub.kafka.cluster import REFUSED, Cluster
from raytrail.pubsub.kafka.reader import SESSION_MS, Reader
from raytrail.pubsub.kafka.sender import POLL_SECONDS, Sender, Sent
from raytrail.pubsub.kafka.wire import as_one, by_line, key_of
from raytrail.pubsub.url import parse, shown
from raytrail.redact import Redactor, default

_OURS = {
    *("bootstrap.servers", "metadata.broker.list", "group.id", "enable.idempotence", "request.required.acks"),
    *("message.timeout.ms", "delivery.timeout.ms", "transactional.id", "delivery.report.only.error"),
    *("enable.auto.commit", "enable.auto.offset.store", "auto.offset.reset", "isolation.level"),
    *("batch.num.messages", "enable.partition.eof"),
}
"""Properties that the promise rests on."""

_GIVEN_UP = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, KafkaError._FATAL}


class _Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the URL's query may say besides librdkafka's properties; the module's docstring says what it means."""

    envelope: Literal["chunk", "event"] = "chunk"
    partitions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    redact: bool = True
    timeout_seconds: Annotated[float, msgspec.Meta(ge=1)] = 30


class KafkaPubSub:
    """
    A Kafka topic, as ``kafka://[user:password@]host[:9092][,...]/topic?envelope=chunk|event&partitions=...``.

    The readers of a group, in any processes, share the topic's partitions among them. Acks are written down
    every second, when partitions go to another reader, and when a reader leaves.
    """

    guarantee: Guarantee = "at-least-once"

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        ours = urlencode([(name, value) for name, value in pairs if "." not in name])
        address, self._settings = parse(parts._replace(query=ours).geturl(), _Settings)
        self._shown, self._topic = shown(url), address.path
        if not address.hosts or not address.path or "/" in address.path:
            raise ConfigError(f"{self._shown!r} names no topic; write kafka://host:9092/topic")
        given = [(name, value) for name, value in pairs if "." in name]
        for name, _ in given:
            if name in _OURS or [name for name, _ in given].count(name) > 1:
                why = "is Raytrail's to set" if name in _OURS else "is given twice"
                raise ConfigError(f"{self._shown!r}: property {name!r} {why}; leave it out")
        sasl = {"sasl.username": address.user, "sasl.password": address.password}
        properties: dict[str, Any] = {
            "client.id": "raytrail",
            "socket.keepalive.enable": True,
            "log.connection.close": False,
            "reconnect.backoff.max.ms": 2000,
            "allow.auto.create.topics": not self._settings.partitions,
            **({"security.protocol": "SASL_SSL", "sasl.mechanisms": "PLAIN", **sasl} if address.user else {}),
            **dict(given),
        }
        self._cluster = Cluster(
            self._shown,
            address.hosts,
            self._topic,
            self._settings.partitions,
            self._settings.timeout_seconds,
            properties,
        )
        self._senders: dict[bool, Sender] = {}
        self._turn = Turn()
        self._measures: dict[str, Measure] = {}
        self._session_seconds = int(properties.get("session.timeout.ms", SESSION_MS)) / 1000

    async def publish(self, chunk: Chunk) -> None:
        """
        Send one chunk, returning once all in-sync replicas have it.

        Raises:
            BrokerUnavailable: The brokers are away, or did not say within `timeout_seconds` that it is stored; or
                they no longer let us in, though they did before.
            ChunkRefused: It is longer than the topic's ``max.message.bytes`` (compressed), or than 95 MiB.
            ConfigError: The brokers do not let us in, or there is no such topic.
        """
        error = await self._send(chunk, alone=False)
        if error is not None and error.code() in REFUSED:
            # it may have failed with a batch whose other chunks were too long
            error = await self._send(chunk, alone=True)
        if error is not None:
            raise self._cluster.ours(error)
        self._cluster.worked, self._cluster.last = True, None

    async def _send(self, chunk: Chunk, *, alone: bool) -> KafkaError | None:
        deadline = time.monotonic() + self._settings.timeout_seconds
        async with self._turn:
            sender = self._senders.get(alone) or await self._open(alone=alone)
            sent = await self._queue(sender, chunk, deadline)
        await asyncio.wait([sent.stored], timeout=max(deadline - time.monotonic(), 1))
        if not sent.stored.done():
            # where its producer was given up already, the next one is not to suffer for it
            raise self._given_up(sender) or self._drop(self._cluster.slow())
        error = sent.stored.result()
        if error is not None and error.code() in _GIVEN_UP:
            if (failure := self._given_up(sender)) is not None:
                raise failure
            # the client gave all up by itself, and says why in a moment
            await self._reason(sender)
        if error is not None and error.code() not in REFUSED and not sender.stopped:
            self._drop(self._cluster.ours(error))
        return error

    async def _queue(self, sender: Sender, chunk: Chunk, deadline: float) -> Sent:
        """Queue all messages of a chunk, as there is room for them."""
        line_by_line = self._settings.envelope == "event" and chunk.event_type != LOG
        sent = sender.begin(key_of(chunk), by_line(chunk) if line_by_line else as_one(chunk))
        try:
            while not sender.produce(sent):
                if time.monotonic() > deadline:
                    raise self._drop(self._cluster.slow())
                await asyncio.sleep(POLL_SECONDS)
                if sender.stopped:
                    raise self._given_up(sender) or self._cluster.slow()
        except KafkaException as failed:
            sent.error = failed.args[0]
        finally:
            sent.complete()
        return sent

    def _given_up(self, sender: Sender) -> RaytrailError | None:
        """Return why a producer was given up, if it was."""
        return self._turn.failure if sender.stopped else None

    async def _reason(self, sender: Sender) -> None:
        deadline = time.monotonic() + 1
        while self._cluster.last is None and not sender.stopped and time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)
            sender.listen()

    async def _open(self, *, alone: bool) -> Sender:
        client: Producer = self._cluster.client(
            Producer,
            {
                "enable.idempotence": True,  # acks=all, and a partition's order outlives librdkafka's own retries
                "message.timeout.ms": 0,  # never expires: a chunk that did would leave a hole in the file's order
                "linger.ms": 10,
                "compression.type": "lz4",
                "message.max.bytes": 95 * 1024**2,  # the broker decides, but drops who sends 100 MiB at once
                "queue.buffering.max.kbytes": 128 * 1024,
                "queue.buffering.max.messages": 1_000_000,
                "batch.num.messages": 1 if alone else 10_000,
            },
        )
        try:
            partitions = await asyncio.to_thread(self._cluster.prepare, client)
        except RaytrailError as error:
            raise self._drop(error) from None
        self._senders[alone] = Sender(client, self._topic, partitions, self._cluster.hear)
        return self._senders[alone]

    def _drop(self, error: RaytrailError) -> RaytrailError:
        """
        Give up the producer, with all that is under way in it.

        What librdkafka holds would be delivered whenever the broker is back, after chunks that were sent again
        meanwhile. Purged, all of it fails, and is sent again in order by whoever sent it. What was on its way to
        the broker may be stored all the same: those chunks come twice, and the store knows them by their ranges.
        """
        self._turn.fail(error)
        senders, self._senders = self._senders, {}
        for sender in senders.values():
            sender.stop()
        return error

    async def subscribe(self, group: str, *, from_start: bool = False) -> AsyncGenerator[Delivery, None]:
        """
        Yield chunks from where `group` left off; a new group begins with the oldest that is still held.

        The partitions are shared among all that read as `group`; when one joins or leaves, what was not
        acknowledged may come to another, again. What a reader that was killed had comes after 10 seconds. An ack
        that comes after the generator was closed is lost.

        Args:
            group: Who reads; Kafka's ``group.id``.
            from_start: Forget where the group left off. Nobody else may read as it meanwhile.

        Raises:
            ConfigError: The brokers do not let us in, there is no such topic, or `from_start` and somebody reads.
            BrokerUnavailable: The brokers are away.
        """
        redact = default() if self._settings.redact else Redactor(())
        reader = Reader(functools.partial(self._cluster.client, Consumer), self._topic, group, redact)
        loop, thread = asyncio.get_running_loop(), ThreadPoolExecutor(1, "raytrail-kafka-reader")

        async def run(call: Callable[..., Any], *args: object) -> Any:
            # one thread: leaving comes after what a cancelled reader was just doing
            return await loop.run_in_executor(thread, call, *args)

        away = False
        try:
            partitions = await run(self._cluster.prepare, reader.consumer)
            if from_start:
                await self._rewind(run, reader, partitions, group)
            await run(reader.join)
            while True:
                for delivery in await run(reader.take):
                    self._cluster.worked = True
                    yield delivery
                if self._cluster.down:
                    await run(self._cluster.prepare, self._cluster.client(AdminClient, {}))
        except KafkaException as error:
            away = True
            raise self._cluster.ours(error.args[0], group) from error
        except BrokerUnavailable:
            away = True
            raise
        finally:
            await run(reader.leave, not away)
            thread.shutdown(wait=False)

    async def _rewind(
        self, run: Callable[..., Coroutine[Any, Any, Any]], reader: Reader, partitions: int, group: str
    ) -> None:
        # so long a reader that was killed is still taken for one that reads
        deadline = time.monotonic() + self._session_seconds + 1
        while not await run(reader.rewind, partitions):
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"{self._shown}: group {group!r} is being read; stop its readers to read it from the start, "
                    f"or read as another group"
                )
            await asyncio.sleep(0.5)

    async def backlog(self, group: str) -> Backlog:
        """
        Return how many messages `group` has not acknowledged.

        Raises:
            ConfigError: The brokers do not let us in, or there is no such topic.
            BrokerUnavailable: The brokers are away.
        """
        if group not in self._measures:
            self._measures[group] = Measure(functools.partial(self._cluster.client, Consumer), self._topic, group)
        try:
            return Backlog(chunks=await asyncio.to_thread(self._measures[group].unacknowledged))
        except KafkaException as error:
            raise self._cluster.ours(error.args[0], group) from error

    async def aclose(self) -> None:
        """Drop the connections; what is still being published fails."""
        senders = list(self._senders.values())
        self._drop(BrokerUnavailable(f"{self._shown} was closed"))
        for sender in senders:
            await asyncio.to_thread(sender.join)
        for measure in self._measures.values():
            await asyncio.to_thread(measure.close)
