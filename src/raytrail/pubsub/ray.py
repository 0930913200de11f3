"""
Chunks through Ray's own GCS: ``ray://head:6379/ray-events``, the broker that every Ray already has (2.48 to 2.60).

The GCS keeps nothing: what is published while nobody listens is dropped, and it says OK. So `publish` does not
believe it. It waits until a reader of one group, the one that `acks` names, says that the chunk is safe with it,
and raises `BrokerUnavailable` where none does; the agent then reads the file again. Lost messages, a GCS that
restarts, a history that is absent or killed: all are filled from the files. Whoever reads as another group hears
what passes while it listens; what it did not hear is told by the producers' numbers, logged and counted.

Two keys of the channel RAY_NODE_RESOURCE_USAGE_CHANNEL, to which otherwise only the dashboard listens:

    RAYTRAIL:<topic>.chunks     chunks, from the agents: `_Message`
    RAYTRAIL:<topic>.acks       what the acking reader has, at least once a second: `_Report`

The dashboard checks each message's JSON against its StatsPayload and logs four kilobytes where it does not fit,
so that every message carries a constant that does. Ours is in a protobuf field that Ray does not know and keeps:

    PubMessage.node_resource_usage_message.json      _STATS
                                          .51966     msgpack of a `_Message` or a `_Report`

A GCS dies of a message on a channel that its service does not serve, but only refuses to subscribe there. So
nothing is published before a subscription to the same channel of the same service was accepted.

Settings, in the URL's query:

    acks             history  the group whose ack `publish` waits for; none: for nobody's, what is not heard is lost
    timeout_seconds  30       how long the GCS, and the acking reader unless it is behind, may take to answer

In the GCS's memory wait, for each reader, the messages that it has not fetched: with acks at most what the agents
have in flight (`in_flight_bytes`, compressed), else up to Ray's ``publisher_entity_buffer_max_bytes``, 1 GiB where
``ray start --head --system-config`` does not say less (67108864 is plenty); beyond it the oldest are dropped. For a
reader that was killed they are gathered for five minutes more; for the acking one until its successor is there.
Whoever reaches the GCS hears all of it and can say all of it: nothing that is published there has a sender. They can
publish events of any session, and have agents publish again and again. In the name of the acking group they can
acknowledge what no history has, so that it is lost. They can claim to be that group's reader, so that its history ends.
A secret among ourselves would keep it from few: a job that runs as the agent's user can read it. Where jobs are not
trusted with their own history, publish to a broker that lets the agents write and nobody else.

Tokens and TLS are Ray's: RAY_AUTH_MODE, RAY_AUTH_TOKEN, RAY_USE_TLS and so on, as for any driver.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import logging
import math
import os
import re
import socket
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

import msgspec

from raytrail.errors import BrokerUnavailable, ChunkRefused, ConfigError, EventError, RaytrailError
from raytrail.event import UNDECODABLE, Chunk, Unreadable, received
from raytrail.pubsub import Delivery, Guarantee
from raytrail.pubsub.groups import name_of
from raytrail.pubsub.in_order import Batches, Waiting, settle
from raytrail.pubsub.url import parse, shown
from raytrail.ray_calls import failed
from raytrail.zstd import ZstdError, compress, decompress_at_most

_SERVICES = ("ObservabilityPubSubService", "InternalPubSubGcsService")  # since 2.60, and before
_COMMANDS = "GcsSubscriberCommandBatch"
_CHANNEL = 8  # RAY_NODE_RESOURCE_USAGE_CHANNEL
_FIELD = 51966
_STATS = json.dumps(
    {
        **{"now": 0.0, "hostname": "", "ip": "", "cpu": 0.0, "cpus": [0, 0], "mem": [0, 0, 0.0, 0]},
        **{"hostMem": [0, 0], "workers": [], "bootTime": 0.0, "loadAvg": [[0.0, 0.0, 0.0], None], "disk": {}},
        **{"diskIo": [0, 0, 0, 0], "diskIoSpeed": [0.0, 0.0, 0.0, 0.0], "gpus": [], "tpus": []},
        **{"network": [0, 0], "networkSpeed": [0.0, 0.0], "cmdline": []},
    },
    separators=(",", ":"),
)
"""A StatsPayload (ray/dashboard/modules/reporter/reporter_models.py, 2.52 to 2.60)."""

_MESSAGE_BYTES = 1024**2
_CHUNK_BYTES = 32 * 1024**2  # the GCS takes 512 MiB, but a message of 100 MB holds it up for seconds
_POLL_SECONDS = 10.0
_CALL_SECONDS = 10.0
_ACK_SECONDS = 0.1
_BEAT_SECONDS = 1.0
_JOIN_SECONDS = 2.5
_BEHIND_TIMEOUTS = 10  # so long a reader that says it is behind is waited for
_PRODUCERS = 100_000
_ID_BYTES = 28  # of a Ray UniqueID

_Struct = TypeVar("_Struct", bound=msgspec.Struct)

log = logging.getLogger(__name__)


class _Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the URL's query may say; the module's docstring says what it means."""

    acks: Annotated[str, msgspec.Meta(min_length=1)] = "history"
    timeout_seconds: Annotated[float, msgspec.Meta(ge=3)] = 30


_Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""Of a chunk. Those of a whole message after it can be written into a report, which holds 64 bits."""


class _Message(msgspec.Struct, frozen=True, array_like=True):
    """Chunks that one connection publishes at once; it numbers its chunks from 1."""

    producer: str
    """Host, process and a random part: a producer that starts again is another one."""
    after: _Number
    """The last number that the GCS took before; 0 where there was none. A reader that has not heard it missed some."""
    first: _Number
    chunks: list[tuple[dict[str, bytes], int]]
    """Each one's headers, in UTF-8, and how many bytes of `lines` are its."""
    lines: bytes
    """Of all chunks, compressed with zstd."""


class _Report(msgspec.Struct, frozen=True, array_like=True):
    """How the acking reader stands; at least one every `_BEAT_SECONDS`."""

    group: str
    reader: Annotated[bytes, msgspec.Meta(min_length=_ID_BYTES, max_length=_ID_BYTES)]
    """Its id as a subscriber; a GCS dies of one of another length."""
    behind: bool
    """It has not yet fetched all that was published."""
    acked: dict[str, list[int]]
    """Numbers that are safe, by producer; each is told once."""
    missed: dict[str, list[tuple[int, int]]]
    """Ranges, first and last, that it did not hear."""


class RayPubSub:
    """
    Ray's GCS pub/sub: ``ray://[host[:6379]]/topic?acks=history&timeout_seconds=30``.

    Without a host it is the Ray of this machine: what RAY_ADDRESS names, else the one started here last. The scheme
    is Ray Client's, too, but the address is the GCS's.

    As a broker it is at-most-once, so `guarantee` says. With `acks` set, what `publish` has returned for is safe with
    that group; it has one reader at a time, which takes 2.5 seconds to make sure of that, and a second is refused
    with a `ConfigError`. Any other group has as many readers as there are, each of which hears everything.
    """

    guarantee: ClassVar[Guarantee] = "at-most-once"

    missed_chunks: int
    """Chunks that subscriptions of this connection did not hear, though earlier ones of the same producer. At most:
    with acks they are published again."""

    def __init__(self, url: str) -> None:
        address, settings = parse(url, _Settings)
        self._shown, host = shown(url), ",".join(address.hosts)
        if (
            address.user
            or address.password
            or not re.fullmatch(r"(|(\[[^\]]+\]|[^:,\[\]]+)(:[0-9]{1,5})?)", host)
            or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", address.path)
        ):
            raise ConfigError(
                f"{self._shown!r} names no topic of a GCS; write ray://host:6379/topic, or ray:///topic for the Ray "
                f"of this machine, with letters, digits, '.', '_' and '-' in the topic"
            )
        self._topic = _Topic(
            shown=self._shown,
            address=host if not host or re.search(r":[0-9]+$", host) else f"{host}:6379",
            chunks=f"RAYTRAIL:{address.path}.chunks".encode(),
            acks=f"RAYTRAIL:{address.path}.acks".encode(),
            group=None if settings.acks == "none" else settings.acks,
            timeout_seconds=settings.timeout_seconds,
        )
        self._sender = _Sender(self._topic)
        self._reading: set[str] = set()
        self._heard: defaultdict[str, dict[str, int]] = defaultdict(dict)  # by group and producer: the last number
        self.missed_chunks = 0

    async def publish(self, chunk: Chunk) -> None:
        """
        Publish one chunk, returning once the acking group has it; with ``acks=none``, once the GCS took it.

        Chunks that come while others are being sent are gathered, up to a megabyte a message.

        Raises:
            BrokerUnavailable: The GCS is away or slow, or nobody acked; who heard it is not known.
            ChunkRefused: The chunk is longer than 32 MiB.
            ConfigError: Ray is not installed or does not let us in, or there is something else at the address.
        """
        if len(chunk.data) > _CHUNK_BYTES:
            raise ChunkRefused(
                f"{self._shown} takes {_CHUNK_BYTES} bytes at most, and a chunk has {len(chunk.data)}; "
                f"lower the agent's chunk_bytes"
            )
        await self._sender.publish(chunk)

    async def subscribe(self, group: str, *, from_start: bool = False) -> AsyncGenerator[Delivery, None]:
        """
        Yield what is published from now on: to the acking group, all that the agents had not yet got rid of.

        An ack after the generator was closed is of no effect: the agent publishes that chunk again.

        Args:
            group: Who reads; only the acking group's acks are told to anybody. A history's group of that name, with its
                store's id, is the acking group.
            from_start: Of no effect, as the GCS holds nothing.

        Raises:
            ConfigError: Somebody reads as the acking group, or Ray is not there or does not let us in.
            BrokerUnavailable: The GCS is away.
        """
        topic = self._topic
        gcs = _Gcs(topic)
        if topic.group in (group, name_of(group)):
            group = topic.group  # agents know it by this name, whichever store its history keeps
        acks = _Acks(topic, gcs) if group == topic.group else None
        if acks and group in self._reading:
            raise acks.taken()
        self._reading.add(group)
        keeping: asyncio.Task[None] | None = None
        try:
            if acks:
                await acks.join()
            await gcs.subscribe(topic.chunks)
            if acks:  # not before: who hears of us publishes
                keeping = asyncio.create_task(acks.keep())
            while True:
                for key, payload in await gcs.poll(_POLL_SECONDS):
                    if acks and key == topic.acks:
                        acks.meet(payload)
                        continue
                    try:
                        message = _decode(payload, _Message, topic)
                    except EventError as error:
                        yield Delivery(_unreadable(payload, error, topic), _ack_nothing)
                        continue
                    self._follow(group, message, acks)
                    for numbers, chunk in _unpack(message, topic):
                        yield Delivery(chunk, functools.partial(_ack, acks, message.producer, numbers))
                if keeping and keeping.done():
                    keeping.result()
        finally:
            if acks and keeping:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
                with suppress(RaytrailError):
                    await acks.tell()
            self._reading.discard(group)
            await gcs.aclose()

    def _follow(self, group: str, message: _Message, acks: _Acks | None) -> None:
        """See whether something is missing between the producer's last message and this one."""
        heard = self._heard[group]
        last = heard.pop(message.producer, 0)
        if message.after > last:
            if acks:
                acks.missed[message.producer].append((last + 1, message.after))
            if last:
                self.missed_chunks += message.after - last
                log.log(
                    logging.INFO if acks else logging.WARNING,
                    "%s: group %r did not hear %d chunks of %s; %s",
                    *(self._shown, group, message.after - last, message.producer),
                    "they are published again" if acks else "let a history ack them (acks=...) to miss none",
                )
        heard[message.producer] = max(last, message.first + len(message.chunks) - 1)
        if len(heard) > _PRODUCERS:
            del heard[next(iter(heard))]  # silent for longest

    async def aclose(self) -> None:
        """Drop the connection; what is being published fails. Safe to call twice."""
        await self._sender.aclose()


class _Topic(NamedTuple):
    """What the URL says."""

    shown: str
    address: str
    """Of the GCS; empty for that of this machine."""
    chunks: bytes
    acks: bytes
    """The keys."""
    group: str | None
    """Whose acks count; None for nobody's."""
    timeout_seconds: float


class _Sender:
    """The agent's end: one message at a time, in order; each chunk's publisher waits until it is acknowledged."""

    def __init__(self, topic: _Topic) -> None:
        self._topic = topic
        self._producer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._number = self._after = 0
        self._batches = Batches(self._send, topic.shown, _MESSAGE_BYTES)
        self._unacked: dict[int, tuple[float, asyncio.Future[None]]] = {}  # by number, with the time it was sent
        self._listening: asyncio.Task[None] | None = None
        self._gcs: _Gcs | None = None
        self._reader = b""
        self._reported = asyncio.Event()
        self._reported_at = self._behind_at = -math.inf

    async def publish(self, chunk: Chunk) -> None:
        await self._batches.publish(chunk)

    async def _send(self, batch: list[Waiting]) -> None:
        try:
            gcs = await self._connected()
            if audible := await self._audible():
                await self._send_message(gcs, batch)
        except BaseException as error:
            await self._drop(error)
            raise
        if not audible:
            raise self._silence()

    async def _send_message(self, gcs: _Gcs, batch: list[Waiting]) -> None:
        first, now = self._number + 1, time.monotonic()
        self._number += len(batch)
        message = await asyncio.to_thread(_pack, self._producer, self._after, first, [chunk for chunk, _ in batch])
        if self._topic.group:
            # before it is sent: the ack may come before the GCS's answer
            self._unacked |= {number: (now, done) for number, (_, done) in enumerate(batch, first)}
        await gcs.publish(self._topic.chunks, message)
        if self._listening and self._listening.done():  # it cannot have seen these
            raise self._lost()
        self._after = self._number
        if not self._topic.group:
            settle(done for _, done in batch)

    async def _connected(self) -> _Gcs:
        """Return a connection on which publishing is safe."""
        topic = self._topic
        if self._listening and self._listening.done():
            await self._drop(self._lost())
        if self._gcs is None:
            self._gcs = _Gcs(topic)
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

    async def _listen(self, gcs: _Gcs) -> None:
        """Take what the acking reader reports, and give up what it does not ack in time."""
        timeout_seconds = self._topic.timeout_seconds
        while True:
            try:
                payloads = await gcs.poll(min(_POLL_SECONDS, timeout_seconds / 2))
                for report in _reports((payload for _, payload in payloads), self._topic):
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

    def _take_report(self, report: _Report) -> None:
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

    def _silence(self) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"no reader of group {self._topic.group!r} has acknowledged at {self._topic.shown} for "
            f"{self._topic.timeout_seconds:g} seconds; start `raytrail history`, or name its group with acks=..., "
            f"or write acks=none to lose what nobody hears"
        )

    def _lost(self) -> BrokerUnavailable:
        return BrokerUnavailable(f"the connection to {self._topic.shown} was lost; publish it again")

    async def _drop(self, error: BaseException) -> None:
        """Give up the connection, and all that was sent over it."""
        if not isinstance(error, RaytrailError):
            error = BrokerUnavailable(f"{self._topic.shown} is being closed; publish it again")
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
        await self._batches.cancel()
        await self._drop(asyncio.CancelledError())


class _Acks:
    """The acking reader's end: it says what it has, and that it is there."""

    def __init__(self, topic: _Topic, gcs: _Gcs) -> None:
        self._topic, self._gcs = topic, gcs
        self._told_at = -math.inf
        self.acked: defaultdict[str, list[int]] = defaultdict(list)
        self.missed: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)

    async def join(self) -> None:
        """Listen for another reader of the group until one would have been heard."""
        await self._gcs.subscribe(self._topic.acks)
        ends = time.monotonic() + _JOIN_SECONDS
        while (left := ends - time.monotonic()) > 0:
            for report in _reports((payload for _, payload in await self._gcs.poll(left)), self._topic):
                if report.group == self._topic.group:
                    raise self.taken()

    def meet(self, payload: bytes) -> None:
        """Leave where two have joined at the same moment, and the other comes first by name."""
        for report in _reports([payload], self._topic):
            if report.group == self._topic.group and report.reader < self._gcs.subscriber_id:
                raise self.taken()

    def taken(self) -> ConfigError:
        return ConfigError(
            f"group {self._topic.group!r} at {self._topic.shown} is being read, and has one reader at a time; "
            f"stop that one, or read as another group"
        )

    async def keep(self) -> None:
        """Tell what is acked soon, and that we are there every second; until cancelled."""
        while True:
            if self.acked or self.missed or time.monotonic() - self._told_at >= _BEAT_SECONDS:
                await self.tell()
            await asyncio.sleep(_ACK_SECONDS)

    async def tell(self) -> None:
        acked, self.acked = self.acked, defaultdict(list)
        missed, self.missed = self.missed, defaultdict(list)
        self._told_at = time.monotonic()
        report = _Report(str(self._topic.group), self._gcs.subscriber_id, not self._gcs.polling, acked, missed)
        await self._gcs.publish(self._topic.acks, msgspec.msgpack.encode(report))


class _Gcs:
    """A connection to the GCS, its errors made ours, with a mailbox there for what it has subscribed to."""

    def __init__(self, topic: _Topic) -> None:
        self._topic = topic
        self._keys: list[bytes] = []
        self.subscriber_id = os.urandom(_ID_BYTES)
        self._channel: Any = None
        self._service = ""
        self._publisher_id, self._sequence = b"", 0
        self.polling = False
        """Whether it waits for something to come; if not, something may be there already."""

    async def subscribe(self, *keys: bytes) -> None:
        """Have what is published under `keys`, too, put into the mailbox from now on, and find the service for it."""
        self._keys += keys
        if self._channel is None:
            await self._open()
        codes = self._grpc.StatusCode
        refusals = (codes.UNIMPLEMENTED, codes.ABORTED, codes.INVALID_ARGUMENT)
        request = self._command("subscribe_message", self._keys, self.subscriber_id)
        for service in _SERVICES:
            if await self._call(_COMMANDS, request, _CALL_SECONDS, refusals, service) is not None:
                self._service = service  # not before: others call it meanwhile
                return
        raise ConfigError(
            f"there is no pub/sub of a GCS at {self._topic.shown}; name the address that `ray start --head` prints, of "
            f"port 6379 mostly and not Ray Client's 10001, of a Ray from 2.48 to 2.60"
        )

    async def _open(self) -> None:
        try:
            # the whole of Ray comes with them: a second of work, for whoever uses it only
            self._grpc, self._calls, self._pubsub, utils, services, self._unknown = [
                await asyncio.to_thread(importlib.import_module, name)
                for name in (
                    *("grpc", "ray.core.generated.gcs_service_pb2", "ray.core.generated.pubsub_pb2"),
                    *("ray._private.gcs_utils", "ray._private.services", "google.protobuf.unknown_fields"),
                )
            ]
        except ImportError as error:
            raise ConfigError(
                f"{self._topic.shown} needs Ray: {error}; install the Ray of your cluster, with ray[default]"
            ) from error
        find = services.get_ray_address_from_environment
        address = self._topic.address or await asyncio.to_thread(find, None, None)
        if address is None:
            raise BrokerUnavailable(
                f"{self._topic.shown}: no Ray was started on this machine; start it, set RAY_ADDRESS, or name the "
                f"GCS's address"
            )
        if "://" in address:
            raise ConfigError(
                f"{self._topic.shown}: RAY_ADDRESS is {address!r}, which is no GCS; write its address into the URL"
            )
        self._channel = utils.create_gcs_channel(address, aio=True)  # with Ray's TLS and token

    async def publish(self, key: bytes, payload: bytes) -> None:
        """Publish under `key`, returning once the GCS took it, for whoever listens."""
        usage = {"json": _STATS}
        message = self._pubsub.PubMessage(channel_type=_CHANNEL, key_id=key, node_resource_usage_message=usage)
        message.node_resource_usage_message.MergeFromString(
            _varint(_FIELD << 3 | 2) + _varint(len(payload)) + payload  # 2: bytes follow
        )
        await self._call("GcsPublish", self._calls.GcsPublishRequest(pub_messages=[message]), _CALL_SECONDS)

    async def poll(self, timeout_seconds: float) -> list[tuple[bytes, bytes]]:
        """Wait for what comes, and return it as keys and payloads; nothing after `timeout_seconds`."""
        request = self._calls.GcsSubscriberPollRequest(
            subscriber_id=self.subscriber_id, max_processed_sequence_id=self._sequence, publisher_id=self._publisher_id
        )
        self.polling = True
        late = (self._grpc.StatusCode.DEADLINE_EXCEEDED,)
        reply = await self._call("GcsSubscriberPoll", request, timeout_seconds, late)
        self.polling = False
        if reply is None:
            await self.subscribe()  # it may have forgotten us: it restarted, or we had not polled for five minutes
            return []
        if reply.publisher_id != self._publisher_id:
            if self._publisher_id:
                await self.subscribe()
            self._publisher_id, self._sequence = reply.publisher_id, 0
        came = [message for message in reply.pub_messages if message.sequence_id > self._sequence]
        if came:
            self._sequence = came[-1].sequence_id  # the next poll says that it may be forgotten
        return [
            (message.key_id, field.data)
            for message in came
            for field in self._unknown.UnknownFieldSet(message.node_resource_usage_message)
            if field.field_number == _FIELD
        ]

    async def unsubscribe(self, *keys: bytes, subscriber_id: bytes) -> None:
        """Have no more put into that subscriber's mailbox; what is in it the GCS drops after five minutes."""
        await self._call(_COMMANDS, self._command("unsubscribe_message", keys, subscriber_id), _CALL_SECONDS)

    def _command(self, name: str, keys: Iterable[bytes], subscriber_id: bytes) -> Any:
        commands = [self._pubsub.Command(channel_type=_CHANNEL, key_id=key, **{name: {}}) for key in keys]
        return self._calls.GcsSubscriberCommandBatchRequest(subscriber_id=subscriber_id, commands=commands)

    async def _call(
        self, method: str, request: Any, timeout_seconds: float, refusals: Sequence[Any] = (), service: str = ""
    ) -> Any:
        """Return the reply, or None where the error is one of `refusals`."""
        # by name, as Ray's stubs know the services of their own release only
        call = self._channel.unary_unary(
            f"/ray.rpc.{service or self._service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(self._calls, f"{method}Reply").FromString,
        )
        try:
            return await call(request, timeout=timeout_seconds)
        except self._grpc.RpcError as error:
            if error.code() in refusals:
                return None
            gcs = f"GCS of {self._topic.shown}"
            raise failed(error, gcs, BrokerUnavailable, "start Ray, or mend the address") from error

    async def aclose(self) -> None:
        """Leave, and close the connection. Safe to call twice."""
        channel = self._channel
        if channel is None:
            return
        try:
            with suppress(RaytrailError):
                await self.unsubscribe(*self._keys, subscriber_id=self.subscriber_id)
        finally:
            self._channel = None
            await channel.close()


def _pack(producer: str, after: int, first: int, chunks: Sequence[Chunk]) -> bytes:
    heads = [(chunk.encoded_headers(), len(chunk.data)) for chunk in chunks]
    lines = compress(b"".join(chunk.data for chunk in chunks), 1)
    return msgspec.msgpack.encode(_Message(producer, after, first, heads, lines))


def _unpack(message: _Message, topic: _Topic) -> Iterator[tuple[Sequence[int], Chunk | Unreadable]]:
    """Yield each chunk with its number, or all of a message whose lines cannot be read with those of its chunks."""
    try:
        lines, offset = decompress_at_most(message.lines, _CHUNK_BYTES + _MESSAGE_BYTES), 0
    except ZstdError as error:
        altered = EventError(f"a message of {message.producer} at {topic.shown} was altered: {error}")
        numbers = range(message.first, message.first + len(message.chunks))
        yield numbers, _unreadable(message.lines, altered, topic)
        return
    for number, (head, length) in enumerate(message.chunks, message.first):
        place = f"{topic.shown}, chunk {number} of {message.producer}"
        yield [number], received(head, lines[offset : offset + length], place)
        offset += length


def _unreadable(data: bytes, error: EventError, topic: _Topic) -> Unreadable:
    return Unreadable(place=topic.shown, reason=str(error), headers={}, data=data)


def _reports(payloads: Iterable[bytes], topic: _Topic) -> Iterator[_Report]:
    """Yield what readers report; what somebody else wrote there says nothing."""
    for payload in payloads:
        try:
            yield _decode(payload, _Report, topic)
        except EventError as error:
            log.warning("%s; it is passed over", error)


def _decode(payload: bytes, kind: type[_Struct], topic: _Topic) -> _Struct:
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except UNDECODABLE as error:
        raise EventError(
            f"a message at {topic.shown} is not ours: {error}; a newer agent or reader wrote it: upgrade, or take "
            f"another topic"
        ) from error


def _varint(number: int) -> bytes:
    """Encode as protobuf does: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


async def _ack(acks: _Acks | None, producer: str, numbers: Sequence[int]) -> None:
    if acks:
        acks.acked[producer] += numbers


async def _ack_nothing() -> None:
    """Acknowledge what nobody waits for."""
