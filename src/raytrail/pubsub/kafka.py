"""
Chunks through a Kafka topic: ``kafka://host:9092[,host2:9092]/topic``.

A message is a chunk: its lines as the value, its headers as the message's, its first file as the key. So a file
stays in one partition, in order, as long as the topic's number of partitions does not change: the one that
librdkafka chooses by itself, CRC-32 of the key.

With ``envelope=event`` a message is one line, for readers that know nothing of us (ClickHouse, Spark, Flink): the
value is its JSON, with no newline. By its one header, ``raytrail-line``, our own reader joins a chunk's lines again:

    ["<version>","<cluster>","<session>","<node id>","<event type>"] <the line's segments> <number>/<lines of the chunk>

Readers take both, whatever their URL says. Logs are no events, and always come in chunks.

The readers of a group share its partitions. A history's group begins with its ``--group`` and ends in its store's id.
Where there are ACLs, allow a history's user Read on all groups that begin so (``--resource-pattern-type prefixed``).

Settings, in the URL's query:

    envelope         chunk   `chunk` or `event`
    partitions               make the topic, with so many, where it is missing; else that is the broker's affair
    redact           true    mask secrets in what collectors write into the topic themselves, which no agent has masked
    timeout_seconds  30      how long the brokers may take to store a chunk before it is sent again; a third of it
                             is how long they may take to answer at first

and every property of librdkafka that has a dot in its name, as ``compression.type=zstd`` or ``ssl.ca.location=...``.
``user:password@`` means SASL PLAIN over TLS, unless ``security.protocol`` and ``sasl.mechanism`` say otherwise.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import logging
import re
import threading
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from raytrail.errors import BrokerUnavailable, ChunkRefused, ConfigError, EventError, RaytrailError
from raytrail.event import LOG, Chunk, Segment, Unreadable, header_text, received
from raytrail.pubsub import Delivery, Guarantee
from raytrail.pubsub.collector import from_message
from raytrail.pubsub.groups import name_of
from raytrail.pubsub.in_order import Turn
from raytrail.pubsub.url import parse, shown
from raytrail.redact import Redactor, default
from raytrail.redact.names import is_secret

_POLL_SECONDS, _IDLE_SECONDS = 0.005, 1.0  # how often it is looked what became of what is under way; of nothing
_KNOWN_SECONDS = 300.0
"""How long brokers are trusted to know a producer that sent nothing; by default they forget it after a day."""
_COMMIT_SECONDS = 1.0
_SETTLE_SECONDS = 5.0  # how long a reader that leaves waits for the brokers to write down how far it is
_JOIN_SECONDS = 1.0  # how long a reader waits for the rest of a chunk that came line by line
_SESSION_MS = 10_000
_LINE = "raytrail-line"
_COMMON = ("raytrail-version", "cluster", "session", "node_id", "event_type")
_HEADERS = (*_COMMON, "segments")

_OURS = {
    *("bootstrap.servers", "metadata.broker.list", "group.id", "enable.idempotence", "request.required.acks"),
    *("message.timeout.ms", "delivery.timeout.ms", "transactional.id", "delivery.report.only.error"),
    *("enable.auto.commit", "enable.auto.offset.store", "auto.offset.reset", "isolation.level"),
    *("batch.num.messages", "enable.partition.eof"),
}
"""Properties that the promise rests on."""

_GIVEN_UP = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, KafkaError._FATAL}
_REFUSED = {
    KafkaError.MSG_SIZE_TOO_LARGE: "raise max.message.bytes of the topic, or lower the agent's chunk_bytes",
    KafkaError.RECORD_LIST_TOO_LARGE: "raise segment.bytes of the topic, or lower the agent's chunk_bytes",
    KafkaError.INVALID_RECORD: "look into the broker's log for what it has against it",
}
"""What it will never take, and what may be done about it."""

_TO_MEND = {
    KafkaError._AUTHENTICATION: "mend user, password and sasl.mechanism",
    KafkaError.SASL_AUTHENTICATION_FAILED: "mend user, password and sasl.mechanism",
    KafkaError._SSL: "mend the ssl.* properties, or the broker's certificate",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "allow this user Describe, and Write or Read, on the topic",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "allow this user Write on the topic, and Create where it is missing",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "allow this user Read on the group",
    KafkaError.INCONSISTENT_GROUP_PROTOCOL: "something else reads as that group, name another",
    KafkaError.INVALID_GROUP_ID: "name another group",
    KafkaError.TOPIC_EXCEPTION: "name another topic",
    KafkaError.INVALID_PARTITIONS: "say another number of partitions",
    KafkaError.POLICY_VIOLATION: "make the topic by hand, or say another number of partitions",
    KafkaError.INVALID_TIMESTAMP: "set this machine's clock, or the broker's",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "make it, or say ?partitions=8 and it is made",
    KafkaError._UNKNOWN_TOPIC: "make it, or say ?partitions=8 and it is made",
}
"""What a person must mend, and how."""

_QUIET = {"FAIL", "ERROR", "CONFWARN", "REQTMOUT", "TERMINATE", "GETPID", "FATAL"}

log = logging.getLogger(__name__)
_librdkafka = log.getChild("librdkafka")
_Message = tuple[str, bytes, list[tuple[str, str | bytes | None]]]
"""Key, value and headers."""


class _Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the URL's query may say besides librdkafka's properties; the module's docstring says what it means."""

    envelope: Literal["chunk", "event"] = "chunk"
    partitions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    redact: bool = True
    timeout_seconds: Annotated[float, msgspec.Meta(ge=1)] = 30


class KafkaPubSub:
    """
    A Kafka topic: ``kafka://[user:password@]host[:9092][,...]/topic?envelope=chunk|event&partitions=...``.

    The readers of a group, in any processes, share the topic's partitions among them. Acks are written down
    every second, when partitions go to another reader, and when a reader leaves.
    """

    guarantee: ClassVar[Guarantee] = "at-least-once"

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
        self._properties: dict[str, Any] = {
            "client.id": "raytrail",
            "socket.keepalive.enable": True,
            "log.connection.close": False,
            "reconnect.backoff.max.ms": 2000,
            "allow.auto.create.topics": not self._settings.partitions,
            **({"security.protocol": "SASL_SSL", "sasl.mechanisms": "PLAIN", **sasl} if address.user else {}),
            **dict(given),
            "error_cb": self._heard,
            "logger": _Log(),
        }
        self._client(Producer, {})  # without a broker, to see whether the properties are good
        self._properties["bootstrap.servers"] = ",".join(address.hosts)
        self._connect_seconds = max(self._settings.timeout_seconds / 3, 1)
        self._senders: dict[bool, _Sender] = {}
        self._turn = Turn()
        self._worked = False
        self._last: KafkaError | None = None
        self._down = False

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
        if error is not None and error.code() in _REFUSED:
            # it may have failed with a batch whose other chunks were too long
            error = await self._send(chunk, alone=True)
        if error is not None:
            raise self._ours(error)
        self._worked, self._last = True, None

    async def _send(self, chunk: Chunk, *, alone: bool) -> KafkaError | None:
        began = time.monotonic()
        async with self._turn.taken():
            sender = self._senders.get(alone) or await self._open(alone=alone)
            sent = sender.begin(_key(chunk))
            by_line = self._settings.envelope == "event" and chunk.event_type != LOG
            messages = _lines(chunk) if by_line else iter((_message(chunk),))
            try:
                while not sender.produce(messages, sent):
                    if time.monotonic() > began + self._settings.timeout_seconds:
                        raise self._drop(self._slow())
                    await asyncio.sleep(_POLL_SECONDS)
                    if sender.stopped:
                        raise self._turn.failure or self._slow()
            except KafkaException as failed:
                sent.error = failed.args[0]
            finally:
                sent.complete()
        left = began + self._settings.timeout_seconds - time.monotonic()
        await asyncio.wait([sent.stored], timeout=max(left, 1))
        if not sent.stored.done():
            # where its producer was given up already, the next one is not to suffer for it
            raise self._turn.failure if sender.stopped and self._turn.failure else self._drop(self._slow())
        error = sent.stored.result()
        if error is not None and error.code() in _GIVEN_UP:
            if sender.stopped and self._turn.failure is not None:
                raise self._turn.failure
            # the client gave all up by itself, and says why in a moment
            await self._reason(sender)
        if error is not None and error.code() not in _REFUSED and not sender.stopped:
            self._drop(self._ours(error))
        return error

    async def _reason(self, sender: _Sender) -> None:
        deadline = time.monotonic() + 1
        while self._last is None and not sender.stopped and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_SECONDS)
            sender.listen()

    async def _open(self, *, alone: bool) -> _Sender:
        client: Producer = self._client(
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
            partitions = await asyncio.to_thread(self._prepare, client)
        except RaytrailError as error:
            raise self._drop(error) from None
        self._senders[alone] = _Sender(client, self._topic, partitions, self._heard)
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
        reader = _Reader(
            functools.partial(self._client, Consumer),
            self._topic,
            {
                "group.id": group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "session.timeout.ms": _SESSION_MS,
                "max.poll.interval.ms": 3600 * 1000,  # a full disk may keep the history waiting
                "fetch.max.bytes": 16 * 1024**2,
                "queued.max.messages.kbytes": 16 * 1024,
                "receive.message.max.bytes": 128 * 1024**2,
            },
            default() if self._settings.redact else Redactor(()),
        )
        loop, thread = asyncio.get_running_loop(), ThreadPoolExecutor(1, "raytrail-kafka-reader")

        async def run(call: Callable[..., Any], *args: object) -> Any:
            # one thread: leaving comes after what a cancelled reader was just doing
            return await loop.run_in_executor(thread, call, *args)

        away = False
        try:
            partitions = await run(self._prepare, reader.consumer)
            # so long a reader that was killed is still taken for one that reads
            deadline = time.monotonic() + int(self._properties.get("session.timeout.ms", _SESSION_MS)) / 1000 + 1
            while from_start and not await run(reader.rewind, partitions):
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"{self._shown}: group {group!r} is being read; stop its readers to read it from the start, "
                        f"or read as another group"
                    )
                await asyncio.sleep(0.5)
            await run(reader.join)
            while True:
                for chunk, ack in await run(reader.take):
                    self._worked = True
                    yield Delivery(chunk, ack)
                if self._down:
                    await run(self._prepare, self._client(AdminClient, {}))
        except KafkaException as error:
            away = True
            raise self._ours(error.args[0], group) from error
        except BrokerUnavailable:
            away = True
            raise
        finally:
            await run(reader.leave, not away)
            thread.shutdown(wait=False)

    async def aclose(self) -> None:
        """Drop the connections; what is still being published fails."""
        senders = list(self._senders.values())
        self._drop(BrokerUnavailable(f"{self._shown} was closed"))
        for sender in senders:
            await asyncio.to_thread(sender.join)

    def _client(self, kind: Callable[[dict[str, Any]], Any], properties: dict[str, Any]) -> Any:
        try:
            return kind({**properties, **self._properties})
        except (KafkaException, TypeError, ValueError) as error:
            said = error.args[0]
            text = str(said.str() if isinstance(said, KafkaError) else said)
            for name, value in properties.items() | self._properties.items():
                if isinstance(value, str) and value and is_secret(name):
                    # as a whole: a short one is part of other words
                    text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "***", text)
            raise ConfigError(f"{self._shown!r}: {text}; mend the URL") from error

    def _prepare(self, client: Any) -> int:
        """
        Return the topic's partitions, waiting for the brokers and for the topic, which is made if we are to.

        Not with a consumer that reads: what it has would be taken from it here.
        """
        deadline, partitions, wait = time.monotonic() + self._connect_seconds, self._settings.partitions, 1.0
        self._last, self._down = None, False
        while True:
            try:
                topic = client.list_topics(self._topic, timeout=wait).topics[self._topic]
                error = topic.error
            except KafkaException as failed:
                client.poll(0)  # `_heard` hears why
                left = deadline - time.monotonic()
                if left <= 0 or self._must_be_mended():
                    raise self._ours(failed.args[0]) from failed
                wait = min(2 * wait, max(left, 1))  # longer, for an answer that comes too late is not waited for again
                continue
            if error is None:
                self._last, self._down = None, False
                return len(topic.partitions)
            missing = error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE)
            if partitions and missing:
                self._make_topic(partitions)
                partitions = None  # made, but the brokers tell each other of it in their own time
            elif not missing or time.monotonic() > deadline:
                raise self._ours(error)
            time.sleep(0.1)

    def _must_be_mended(self) -> bool:
        return self._last is not None and self._last.code() in _TO_MEND

    def _make_topic(self, partitions: int) -> None:
        admin: AdminClient = self._client(AdminClient, {})
        # as many replicas as the broker makes by default
        made = admin.create_topics([NewTopic(self._topic, partitions)], request_timeout=self._connect_seconds)
        try:
            made[self._topic].result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise self._ours(error.args[0]) from error

    def _heard(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._down = True  # what came before it says why
        else:
            self._last = error

    def _slow(self) -> BrokerUnavailable:
        why = f" ({self._last.str()})" if self._last else ""
        return BrokerUnavailable(
            f"{self._shown} did not say within {self._settings.timeout_seconds:g} seconds that a chunk is stored{why}; "
            f"look after its brokers, or raise timeout_seconds"
        )

    def _ours(self, error: KafkaError, group: str = "") -> RaytrailError:
        """Make librdkafka's error ours, which it met while it read as that group."""
        if error.code() < 0 and self._last is not None:
            error = self._last  # the client's own errors say that it waited in vain; this one says for what
        if do := _REFUSED.get(error.code()):
            return ChunkRefused(f"{self._shown} does not take a chunk: {error.str()}; {do}")
        mend = _TO_MEND.get(error.code())
        if mend and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED and group:
            mend = f"allow this user Read on group {group!r}, or on all that begin with {name_of(group)!r}"
        if mend:
            # who has published or read outlives what an administrator changes and mends
            kind = BrokerUnavailable if self._worked else ConfigError
            return kind(f"{self._shown}: {error.str()}; {mend}")
        return BrokerUnavailable(f"{self._shown}: {error.str()}; look after its brokers and the way to them")


class _Sender:
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
        self.heard: list[_Sent] = []
        self._client, self._topic, self._partitions = client, topic, partitions
        self._known_until: dict[int, float] = {}
        self._loop = asyncio.get_running_loop()
        self._under_way = 0
        self._timer = self._loop.call_later(_IDLE_SECONDS, self._poll)
        self._ending = threading.Thread(target=self._end, name="raytrail-kafka-sender", daemon=True)

    def begin(self, key: str) -> _Sent:
        """Begin a chunk, of which all messages have that key."""
        if not self._under_way and not self.stopped:
            self._timer.cancel()
            self._timer = self._loop.call_later(_POLL_SECONDS, self._poll)
        self._under_way += 1
        return _Sent(self, zlib.crc32(key.encode()) % self._partitions)

    def produce(self, messages: Iterator[_Message], sent: _Sent) -> bool:
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

    def _queue(self, messages: Iterator[_Message], sent: _Sent) -> bool:
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
        self._timer = self._loop.call_later(_POLL_SECONDS if self._under_way else _IDLE_SECONDS, self._poll)

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


class _Sent:
    """A chunk under way, as one message or as many."""

    __slots__ = ("_heard", "_sender", "_whole", "error", "goes_first", "partition", "queued", "stored", "waiting")

    def __init__(self, sender: _Sender, partition: int) -> None:
        self.stored: asyncio.Future[KafkaError | None] = asyncio.get_running_loop().create_future()
        self.partition = partition
        self.queued = 0
        self.goes_first = False
        """Whether only its first message is queued, until the partition's leader has taken that."""
        self.waiting: tuple[_Message, ...] = ()
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


class _Held:
    """One partition, as its reader has it, from the first offset that it gets."""

    def __init__(self, first: int, redact: Redactor) -> None:
        self.end = self.committed = first
        self._redact = redact
        self._unacked: dict[tuple[int, int], None] = {}
        self._joining: dict[bytes, _Joining] = {}

    @property
    def position(self) -> int:
        """What the group has acknowledged: the offset before which nothing is missing."""
        return min(self._unacked.copy(), default=(self.end, 0))[0]  # acks come from another thread

    def read(self, message: Any) -> list[Delivery]:
        """Return what a message completes."""
        offset, value = message.offset(), message.value() or b""
        place = f"topic {message.topic()}, partition {message.partition()}, offset {offset}"
        sent: dict[str, bytes] = {name: header or b"" for name, header in message.headers() or ()}
        if _LINE in sent:
            given = self._line(message.key() or b"", sent[_LINE], value, offset, place)
        elif "raytrail-version" in sent:
            # without what somebody's tracing added
            headers = {name: sent[name] for name in _HEADERS if name in sent}
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

    def _line(self, key: bytes, header: bytes, value: bytes, offset: int, place: str) -> list[Delivery]:
        """Return what a message completes that is one line of a chunk."""
        try:
            headers, number, count = _header(header)
            chunk = Chunk.from_wire(headers, value + b"\n")
        except EventError as error:
            said = {_LINE: header_text(header)}
            unreadable = Unreadable(place=place, reason=str(error), headers=said, data=value)
            return [self._give(unreadable, [(offset, 0)])]
        return self._join(key, number, count, offset, chunk)

    def joined(self, before: float) -> list[Delivery]:
        """Return what came in part before that time: its writer may be dead."""
        late = [key for key, joining in self._joining.items() if joining.began < before]
        return [self._part(key) for key in late]

    def _join(self, key: bytes, number: int, count: int, offset: int, chunk: Chunk) -> list[Delivery]:
        given: list[Delivery] = []
        joining = self._joining.get(key)
        if joining is not None and not joining.goes_on(number, count, chunk):
            given.append(self._part(key))
            joining = None
        if joining is None:
            joining = self._joining[key] = _Joining(number, count)
        joining.chunks.append(chunk)
        joining.places.append((offset, 0))
        self._unacked[offset, 0] = None
        if number == count:
            given.append(self._part(key))
        return given

    def _part(self, key: bytes) -> Delivery:
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

    def __init__(self, first: int, count: int) -> None:
        self.began = time.monotonic()
        self.chunks: list[Chunk] = []
        self.places: list[tuple[int, int]] = []
        self._first, self._count = first, count

    def goes_on(self, number: int, count: int, chunk: Chunk) -> bool:
        """Say whether that is the next line."""
        last = self.chunks[-1]
        return (number, count) == (self._first + len(self.chunks), self._count) and (
            chunk.cluster,
            chunk.session,
            chunk.node_id,
            chunk.event_type,
        ) == (last.cluster, last.session, last.node_id, last.event_type)

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


class _Reader:
    """A member of a group. All of it is called by one thread, but for the acks."""

    def __init__(
        self,
        make: Callable[[dict[str, Any]], Consumer],
        topic: str,
        properties: dict[str, Any],
        redact: Redactor,
    ) -> None:
        self._redact = redact
        self.consumer: Any = make({**properties, "on_commit": self._committed})  # its messages' stubs lack offsets
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
                    error = message.error()
                    if error is None:
                        if (partition := message.partition()) not in self._held:
                            self._held[partition] = _Held(message.offset(), self._redact)
                        given += self._held[partition].read(message)
                    elif error.code() != KafkaError._MAX_POLL_EXCEEDED:  # it joins again by itself
                        raise KafkaException(error)
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
        mine = [one.partition for one in partitions if one.partition in self._held]
        self._commit(mine)  # on its way before the partitions are given up
        for partition in mine:
            del self._held[partition]  # with what is not acked: it comes to whoever has the partition next

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        for one in partitions:
            self._held.pop(one.partition, None)


class _Log:
    """librdkafka's log in ours. Lost connections are told by the errors that we raise, once."""

    def log(self, level: int, text: str, facility: str, *rest: object) -> None:
        """Write one line."""
        _librdkafka.log(logging.DEBUG if facility in _QUIET else level, text, facility, *rest)


def _message(chunk: Chunk) -> _Message:
    return _key(chunk), chunk.data, _headers(chunk)


def _lines(chunk: Chunk) -> Iterator[_Message]:
    """Yield a message for each line, with one short header: what there is in it is sent with each event."""
    if not chunk.data.endswith(b"\n"):  # the last line of a file, which never got its newline: it is alone in its chunk
        yield _message(chunk)
        return
    key = _key(chunk)
    headers = chunk.headers()
    # ASCII, with escapes: names may hold lone surrogates
    of_all = json.dumps([headers[name] for name in _COMMON], separators=(",", ":")).encode()
    lines = chunk.data.split(b"\n")[:-1]
    last = b"/%d" % len(lines)
    left = list(reversed(chunk.segments))
    file, generation, start, length = left.pop() if left else ("", 0, 0, 0)
    of_file = f"{file}:{generation}:".encode()
    head = b"%b %b" % (of_all, of_file)
    for number, line in enumerate(lines, 1):
        need = len(line) + 1
        if need <= length:
            yield key, line, [(_LINE, b"%b%d:%d %d%b" % (head, start, need, number, last))]
            start, length = start + need, length - need
            continue
        ranges = b""  # a line that is in more than one segment, or begins the next one, or is in none
        while need > length and left:
            ranges += b"%b%d:%d," % (of_file, start, length) if length else b""
            need -= length
            file, generation, start, length = left.pop()
            of_file = f"{file}:{generation}:".encode()
            head = b"%b %b" % (of_all, of_file)
        if length:
            ranges += b"%b%d:%d" % (of_file, start, need)
            start, length = start + need, length - need
        yield key, line, [(_LINE, b"%b %b %d%b" % (of_all, ranges, number, last))]


def _header(said: bytes) -> tuple[dict[str, str], int, int]:
    """Return the headers of a line's chunk with the line's own segments, its number, and the chunk's lines."""
    try:
        of_all, ranges, place = said.rsplit(b" ", 2)
        number, count = place.split(b"/")
        return {**_common(of_all), "segments": ranges.decode()}, int(number), int(count)
    except (ValueError, msgspec.ValidationError, RecursionError) as error:
        raise EventError(f"header {_LINE}={said!r:.500}: {error}; it was cut or altered") from error


@functools.lru_cache(maxsize=1000)
def _common(said: bytes) -> dict[str, str]:
    """Read what all lines of a chunk have in common."""
    return dict(zip(_COMMON, msgspec.convert(json.loads(said), list[str]), strict=True))


def _key(chunk: Chunk) -> str:
    return chunk.segments[0].file if chunk.segments else chunk.node_id


def _headers(chunk: Chunk) -> list[tuple[str, str | bytes | None]]:
    return list(chunk.encoded_headers().items())
