"""
Chunks through a Redis stream, as ``redis://host:6379?stream=ray-events``.

One stream holds everything. Each chunk is an entry, with the chunk's headers as fields and its lines in the field
``data``. A group is a consumer group of the stream. It has one reader at a time, which holds the key
``{<stream>}:<group>:reader`` for 10 seconds and renews it. The server lets nobody else read. The chunks that a reader
left unacknowledged come to the next reader first, in their order. New chunks come after them.

It takes Redis 7.0 or newer, or Valkey. It may be one server, a server behind a name that follows its primary, or a
cluster of one shard. The server decides how much a stored chunk survives. With ``appendonly yes``, the chunk survives
the death of the process. With ``appendfsync always``, it survives a power loss, too (``everysec`` loses up to a
second). With neither, a restart loses everything since the last snapshot. Raytrail warns once if there is no
append-only file, or if the server's ``maxmemory-policy`` evicts the stream. It also warns once if the server has no
``maxmemory``, since a stream that nobody reads then takes the memory of the whole machine.

Settings, in the URL's query:

    stream           ray-events  the stream's key
    retain_bytes     1 GiB       beyond this the oldest are trimmed once every group has acknowledged them
    retain_seconds   7 days      older ones are trimmed once every group has acknowledged them
    timeout_seconds  30          how long the server may take to answer
    tls              false       speak TLS, and check the server's certificate
    ca_file                      PEM file of who signs it, where that is not one of the system's

Retention runs every 10 seconds while somebody reads, and when the server's memory is full. The stream's size is what
Redis says that it takes in memory, and its limit is at most half of ``maxmemory``. A group counts while somebody
reads as it, and for ``retain_seconds`` after. A group that is absent for longer no longer holds chunks back, and a
warning names it. Chunks that a counting group has not acknowledged are kept whatever their size, and a warning says
so. If there is no group, everything is kept. When nothing can be trimmed and memory is full, publishing waits.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from raytrail.errors import BrokerUnavailable, ChunkRefused, ConfigError, PublishError
from raytrail.event import Chunk
from raytrail.pubsub import Delivery, Guarantee
from raytrail.pubsub.backlog import Backlog
from raytrail.pubsub.in_order import Batches, Waiting, settle
from raytrail.pubsub.redis.reader import Reader, forget, taken
from raytrail.pubsub.redis.retention import Retention
from raytrail.pubsub.redis.server import Server
from raytrail.pubsub.url import parse, shown

_BATCH_BYTES = 1024**2  # a server counts what is on its way to it as memory that is used


class _Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the URL's query may say; the module's docstring says what it means."""

    stream: Annotated[str, msgspec.Meta(min_length=1)] = "ray-events"
    retain_bytes: Annotated[int, msgspec.Meta(ge=0)] = 1024**3
    retain_seconds: Annotated[int, msgspec.Meta(ge=1)] = 7 * 24 * 3600
    timeout_seconds: Annotated[float, msgspec.Meta(ge=2)] = 30
    tls: bool = False
    ca_file: str | None = None


class RedisPubSub:
    """
    A Redis stream, as ``redis://[user:password@]host[:6379][/db]?stream=ray-events&...``.

    A group has one reader at a time here. A second reader waits 10 seconds, in case the first was killed, and is then
    refused with a ``ConfigError``. Acks are written down at most every 50 ms, and when the reader leaves.
    """

    guarantee: Guarantee = "at-least-once"

    def __init__(self, url: str) -> None:
        address, settings = parse(url, _Settings)
        self._shown = shown(url)
        where = re.fullmatch(r"(\[[^\]]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?", address.hosts[0] if address.hosts else "")
        if len(address.hosts) != 1 or not where or not re.fullmatch("[0-9]*", address.path):
            raise ConfigError(
                f"{self._shown!r} names no Redis database; write redis://[user:password@]host[:6379][/number]"
            )
        tls: dict[str, Any] = {"ssl": True, "ssl_ca_certs": settings.ca_file} if settings.tls else {}
        client = Redis(
            host=where[1].strip("[]"),
            port=int(where[2] or 6379),
            db=int(address.path or 0),
            username=address.user or None,
            password=address.password or None,
            socket_timeout=settings.timeout_seconds,
            socket_connect_timeout=min(5.0, settings.timeout_seconds),
            retry=Retry(NoBackoff(), 0),  # a command sent again might overtake the next one
            protocol=2,  # the shapes of answers that every release of the client agrees on
            **tls,
        )
        self._reading: set[str] = set()
        self._batches = Batches(self._add, self._shown, _BATCH_BYTES)
        self._server = Server(self._shown, settings.stream, client)
        self._retention = Retention(self._server, settings.retain_bytes, settings.retain_seconds)

    async def publish(self, chunk: Chunk) -> None:
        """
        Add one chunk, returning once the server says that it is stored.

        Chunks that come while others are being sent are gathered, and stored in one transaction.

        Raises:
            BrokerUnavailable: The server is away, slow, starting, or out of memory.
            ChunkRefused: The chunk is longer than the server takes (``proto-max-bulk-len``, 512 MiB).
            ConfigError: The server does not let us in, is too old, or the key is no stream.
        """
        await self._batches.publish(chunk)

    async def _add(self, batch: list[Waiting]) -> None:
        async with self._server.ours():
            longest = await self._server.prepare()
        fitting = [(chunk, stored) for chunk, stored in batch if len(chunk.data) <= longest]
        for chunk, stored in batch:
            if len(chunk.data) > longest:
                settle([stored], self._refused(chunk, longest))
        pipeline = self._server.client.pipeline(transaction=True)
        for chunk, _ in fitting:
            pipeline.xadd(self._server.stream, {**chunk.encoded_headers(), "data": chunk.data})
        try:
            async with self._server.ours():
                await pipeline.execute()
        except BrokerUnavailable as error:
            if isinstance(error.__cause__, exceptions.OutOfMemoryError):
                with suppress(PublishError, ConfigError):  # as where the agent's user may only write
                    await self._retention.tidy()
            raise
        settle(stored for _, stored in fitting)

    def _refused(self, chunk: Chunk, longest: int) -> ChunkRefused:
        return ChunkRefused(
            f"{self._shown} takes {longest} bytes at most, and a chunk has {len(chunk.data)}; "
            f"raise proto-max-bulk-len there, or lower the agent's chunk_bytes"
        )

    async def subscribe(self, group: str, *, from_start: bool = False) -> AsyncGenerator[Delivery, None]:
        """
        Yield chunks from where `group` left off: first what was not acknowledged, then what is new.

        A new group begins with the oldest chunk that is still held. An ack that comes after the generator was
        closed is lost, and its chunk comes again.

        Args:
            group: Who reads; any name.
            from_start: Forget where the group left off, and read all that the stream still holds.

        Raises:
            ConfigError: Somebody reads as that group, or the server does not let us in.
            BrokerUnavailable: The server is away, or was for so long that the group may have another reader.
        """
        if group in self._reading:
            raise taken(self._server, group)
        self._reading.add(group)
        reader = Reader(self._server, group)
        try:
            async with self._server.ours():
                await self._server.prepare()
                await reader.join(from_start=from_start)
            keeping = asyncio.ensure_future(reader.keep(self._retention))
            try:
                while True:
                    if keeping.done():
                        keeping.result()
                    for delivery in await reader.take():
                        yield delivery
            finally:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
                await reader.leave()
        finally:
            self._reading.remove(group)

    async def backlog(self, group: str) -> Backlog | None:
        """
        Return how many entries `group` has not acknowledged; None if Redis cannot say.

        Raises:
            ConfigError: The server does not let us in.
            BrokerUnavailable: The server is away.
        """
        async with self._server.ours():
            groups = await self._server.client.xinfo_groups(self._server.stream)
        for state in groups:
            # Redis does not count any more what is after entries that were deleted one by one
            if state["name"].decode() == group and state.get("lag") is not None:
                return Backlog(chunks=state["lag"] + state["pending"])
        return None

    async def forget(self, group: str) -> bool:
        """
        Forget where `group` is; return whether it is gone, which it is not while somebody reads as it.

        Raises:
            ConfigError: The server does not let us in.
            BrokerUnavailable: The server is away.
        """
        return await forget(self._server, group)

    async def aclose(self) -> None:
        """Finish what is being published and drop the connections. Safe to call twice."""
        await self._batches.finish()
        await self._server.client.aclose()
