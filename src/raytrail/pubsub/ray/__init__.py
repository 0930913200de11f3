"""
Chunks through Ray's own GCS, as ``ray://head:6379/ray-events``. Every Ray from 2.48 to 2.60 already has this broker.

The GCS keeps nothing. It drops what is published while nobody listens, and says OK. ``publish`` therefore does not
believe it. ``publish`` waits until a reader of one group, which ``acks`` names, says that the chunk is safe with it.
If none does, it raises ``BrokerUnavailable``, and the agent then reads the file again. The files therefore fill what
is missing when messages are lost, when a GCS restarts, or when a history is absent or killed. A reader of another
group hears what passes while it listens. The producers' numbers tell what it did not hear, which is logged and
counted.

The chunks take two keys of the channel RAY_NODE_RESOURCE_USAGE_CHANNEL, to which otherwise only the dashboard
listens:

    RAYTRAIL:<topic>.chunks     chunks, from the agents: `Message`
    RAYTRAIL:<topic>.acks       what the acking reader has, at least once a second: `Report`

The dashboard checks each message's JSON against its StatsPayload, and logs four kilobytes if it does not fit. Every
message therefore carries a constant that fits. Our content is in a protobuf field that Ray does not know and keeps:

    PubMessage.node_resource_usage_message.json      _STATS
                                          .51966     msgpack of a `Message` or a `Report`

A GCS dies of a message on a channel that its service does not serve. It only refuses a subscription there. Nothing is
therefore published before a subscription to the same channel of the same service was accepted.

Settings, in the URL's query:

    acks             history  the group whose ack `publish` waits for; none: for nobody's, what is not heard is lost
    timeout_seconds  30       how long the GCS, and the acking reader unless it is behind, may take to answer

For each reader, the messages that it has not fetched wait in the GCS's memory. With acks, they are at most what the
agents have in flight (``in_flight_bytes``, compressed). Without acks, they grow up to Ray's
``publisher_entity_buffer_max_bytes``. That is 1 GiB unless ``ray start --head --system-config`` says less (67108864
is plenty). Beyond it the oldest are dropped. For a reader that was killed, messages are gathered for five minutes
more. For the acking reader, they are gathered until its successor is there. Anyone who reaches the GCS hears all of
it and can say all of it, since nothing that is published there has a sender. They can publish events of any session,
and have agents publish again and again. In the name of the acking group they can acknowledge what no history has, so
that it is lost. They can claim to be that group's reader, so that its history ends. A secret of ours would not help
much, since a job that runs as the agent's user can read it. If you do not trust jobs with their own history, publish
to a broker that lets the agents write and nobody else.

Tokens and TLS are Ray's own, as for any driver, by RAY_AUTH_MODE, RAY_AUTH_TOKEN, RAY_USE_TLS and so on.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated

import msgspec

from raytrail.errors import ChunkRefused, ConfigError, EventError, RaytrailError
from raytrail.event import Chunk
from raytrail.pubsub import Delivery, Guarantee
from raytrail.pubsub.groups import name_of
from raytrail.pubsub.ray.acks import Acks
from raytrail.pubsub.ray.gcs import POLL_SECONDS, Gcs
from raytrail.pubsub.ray.sender import Sender
from raytrail.pubsub.ray.wire import CHUNK_BYTES, Message, Topic, decode_message, unpack, unreadable
from raytrail.pubsub.url import parse, shown

_PRODUCERS = 100_000
log = logging.getLogger(__name__)


class _Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the URL's query may say; the module's docstring says what it means."""

    acks: Annotated[str, msgspec.Meta(min_length=1)] = "history"
    timeout_seconds: Annotated[float, msgspec.Meta(ge=3)] = 30


class RayPubSub:
    """
    Ray's GCS pub/sub, as ``ray://[host[:6379]]/topic?acks=history&timeout_seconds=30``.

    Without a host it is the Ray of this machine. That is the Ray that RAY_ADDRESS names, else the one that was
    started here last. Ray Client has the same scheme, but the address here is the GCS's.

    As a broker it is at-most-once, so ``guarantee`` says. With ``acks`` set, a chunk is safe with that group once
    ``publish`` has returned. The group has one reader at a time. The reader takes 2.5 seconds to make sure of that,
    and a second reader is refused with a ``ConfigError``. Any other group may have any number of readers, and each of
    them hears everything.
    """

    guarantee: Guarantee = "at-most-once"

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
        self._topic = Topic(
            shown=self._shown,
            address=host if not host or re.search(r":[0-9]+$", host) else f"{host}:6379",
            chunks=f"RAYTRAIL:{address.path}.chunks".encode(),
            acks=f"RAYTRAIL:{address.path}.acks".encode(),
            group=None if settings.acks == "none" else settings.acks,
            timeout_seconds=settings.timeout_seconds,
        )
        self._sender = Sender(self._topic)
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
        if len(chunk.data) > CHUNK_BYTES:
            raise ChunkRefused(
                f"{self._shown} takes {CHUNK_BYTES} bytes at most, and a chunk has {len(chunk.data)}; "
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
        gcs = Gcs(topic)
        group = self._known_as(group)
        acks = Acks(topic, gcs) if group == topic.group else None
        if acks and group in self._reading:
            raise acks.taken()
        self._reading.add(group)
        try:
            async with self._joined(gcs, acks) as keeping:
                while True:
                    for key, payload in await gcs.poll(POLL_SECONDS):
                        if acks and key == topic.acks:
                            acks.meet(payload)
                            continue
                        for delivery in self._deliveries(payload, group, acks):
                            yield delivery
                    if keeping and keeping.done():
                        keeping.result()
        finally:
            self._reading.discard(group)
            await gcs.aclose()

    @asynccontextmanager
    async def _joined(self, gcs: Gcs, acks: Acks | None) -> AsyncGenerator[asyncio.Task[None] | None, None]:
        """Listen, and say so where our acks count; what says so may fail."""
        if acks:
            await acks.join()
        await gcs.subscribe(self._topic.chunks)
        if not acks:
            yield None
            return
        keeping = asyncio.create_task(acks.keep())  # not before: who hears of us publishes
        try:
            yield keeping
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            with suppress(RaytrailError):
                await acks.tell()

    def _known_as(self, group: str) -> str:
        """Return the name by which agents know a group, whichever store its history keeps."""
        return self._topic.group if self._topic.group in (group, name_of(group)) else group

    def _deliveries(self, payload: bytes, group: str, acks: Acks | None) -> Iterator[Delivery]:
        """Yield what a message holds."""
        try:
            message = decode_message(payload, Message, self._topic)
        except EventError as error:
            yield Delivery(unreadable(payload, error, self._topic), _ack_nothing)
            return
        self._follow(group, message, acks)
        for numbers, chunk in unpack(message, self._topic):
            yield Delivery(chunk, functools.partial(_ack, acks, message.producer, numbers))

    def _follow(self, group: str, message: Message, acks: Acks | None) -> None:
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


async def _ack(acks: Acks | None, producer: str, numbers: Sequence[int]) -> None:
    if acks:
        acks.acked[producer] += numbers


async def _ack_nothing() -> None:
    """Acknowledge what nobody waits for."""
