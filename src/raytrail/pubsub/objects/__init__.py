"""
Chunks through a bucket and nothing else, as ``s3://bucket/ray-events``, ``gs://`` or ``az://``.

Each publishing connection is a writer with a folder of its own, in which its objects are numbered from 0 with no gaps:

    <prefix>/log/<writer: milliseconds since 1970>-<random>/<number, ten digits>.ndjson.zst
    <prefix>/groups/<group>.json

An object holds a batch of chunks as NDJSON, which DuckDB, Spark, ClickHouse or a shell can read. A line with the
chunk's headers stands before the lines of each chunk. It is ``{"raytrail": {..., "bytes": <length of the lines>}}``,
with percent-encoded values. An object is put on condition that it was not there. It is therefore put once, whatever
became of an answer. A writer that does not know whether its last put will arrive leaves its folder and begins
another.

A reader knows the name of the next object, and asks for it. It lists only the folders, to find new writers. An idle
reader costs one LIST every ``poll_seconds`` and one GET a writer. If a writer has been silent for long, the GETs
become rarer, down to one a minute. A group has one reader at a time. The group's place is one object. Its reader
replaces that object at most once a second, on condition that nobody else did. A group whose place cannot be read
begins with the oldest object again.

Settings, in the URL's query:

    linger_seconds   1       how long chunks are gathered for one object: each put costs money
    batch_bytes      8 MB    most bytes of lines that are gathered
    compression      zstd    or gzip (slower, read by everything), or none
    poll_seconds     2       how often a reader looks for more
    timeout_seconds  30      how long the bucket may take to store or return an object, tries included
    endpoint                 where it is, if not in that cloud itself: an S3 of one's own, as ``http://127.0.0.1:9000``

You may also give every setting of obstore that begins with ``aws_``, ``google_`` or ``azure_``, such as
``aws_region=eu-central-1``. Credentials are found where the cloud's own tools find them, in the environment or the
machine's role.

Raytrail deletes nothing, so give the bucket a lifecycle rule for ``<prefix>/log/``. A warning names objects that the
rule deletes before a group has read them.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Annotated, Literal
from urllib.parse import quote

import msgspec
import obstore
from obstore import exceptions

from raytrail.errors import BrokerUnavailable, ConfigError
from raytrail.event import Chunk, Unreadable
from raytrail.pubsub import Delivery, Guarantee
from raytrail.pubsub.bucket import BucketSettings, open_bucket
from raytrail.pubsub.in_order import Batches, Waiting, settle
from raytrail.pubsub.objects.reader import LEASE_SECONDS, Following, Reader
from raytrail.pubsub.objects.wire import SUFFIXES, decode, encode

_PLACE_SECONDS = 1.0
_IDLE_SECONDS = 60.0
_GAP_SECONDS = 600.0  # how often it is looked whether what comes next was deleted
_AT_ONCE = 16
_NUMBER = re.compile(r"[0-9]{1,18}(?=\.)")
"""Of an object, at the beginning of its name."""

log = logging.getLogger(__name__)


class _Settings(BucketSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the URL's query may say besides obstore's settings; the module's docstring says what it means."""

    linger_seconds: Annotated[float, msgspec.Meta(ge=0)] = 1
    batch_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 8_000_000
    compression: Literal["zstd", "gzip", "none"] = "zstd"
    poll_seconds: Annotated[float, msgspec.Meta(gt=0)] = 2


class ObjectsPubSub:
    """A folder of a bucket, as ``s3://bucket/prefix?endpoint=...``, ``gs://bucket/prefix`` or ``az://container/prefix``."""

    guarantee: Guarantee = "at-least-once"

    def __init__(self, url: str) -> None:
        self._bucket, self._settings = open_bucket(url, _Settings)
        if not re.fullmatch(r"[\w.=-]+(/[\w.=-]+)*", self._bucket.path):
            raise ConfigError(
                f"{self._bucket.shown!r} names no folder of a bucket; write {self._bucket.url}/folder, with letters, "
                f"digits, '_', '-', '.' and '=' in its name"
            )
        self._store = self._bucket.client
        self._shown, self._prefix = self._bucket.shown, self._bucket.path
        self._writer, self._number = "", 0
        self._batches = Batches(
            self._store_batch, self._shown, self._settings.batch_bytes, self._settings.linger_seconds
        )
        self._reading: set[str] = set()

    async def publish(self, chunk: Chunk) -> None:
        """
        Send one chunk, returning once the object that it is in is stored.

        Raises:
            BrokerUnavailable: The bucket is away or slow.
            ConfigError: There is no such bucket, or we may not write to it.
        """
        await self._batches.publish(chunk)

    async def _store_batch(self, batch: list[Waiting]) -> None:
        try:
            await self._put([chunk for chunk, _ in batch])
        except BaseException:
            self._writer = ""  # whether it will arrive is not known
            raise
        settle(stored for _, stored in batch)

    async def _put(self, chunks: list[Chunk]) -> None:
        if not self._writer:
            self._writer, self._number = f"{time.time_ns() // 1_000_000:013d}-{uuid.uuid4().hex[:12]}", 0
        body = await asyncio.to_thread(encode, chunks, self._settings.compression)
        path = f"{self._folder(self._writer)}/{self._number:010d}{SUFFIXES[self._settings.compression]}"
        # nobody else writes in this folder: what is there already is this, stored by a try whose answer was lost
        with self._bucket.ours(), suppress(exceptions.AlreadyExistsError, exceptions.PreconditionError):
            await obstore.put_async(self._store, path, body, mode="create", use_multipart=False)
        self._number += 1

    async def subscribe(self, group: str, *, from_start: bool = False) -> AsyncGenerator[Delivery, None]:
        """
        Yield chunks from where `group` left off; a new group begins with the oldest object there is.

        An ack that comes after the generator was closed is lost, and its chunk comes again.

        Args:
            group: Who reads; any name.
            from_start: Forget where the group left off.

        Raises:
            ConfigError: Somebody reads as that group, or there is no such bucket, or we may not read it or write to it.
            BrokerUnavailable: The bucket is away, or was for so long that the group may have another reader.
        """
        if group in self._reading:
            raise self._taken(group)
        self._reading.add(group)
        reader = Reader(self._store, f"{self._prefix}/groups/{quote(group, safe='')}.json", self._shown)
        try:
            with self._bucket.ours():
                if not await reader.join(from_start=from_start):
                    raise self._taken(group)
            keeping = asyncio.create_task(self._keep(reader, group))
            try:
                if reader.unreadable is not None:
                    yield Delivery(reader.unreadable, _acknowledged)
                while True:
                    with self._bucket.ours():
                        deliveries = await self._look(reader, group)
                    for delivery in deliveries:
                        yield delivery
                    if keeping.done():
                        keeping.result()
                    if not deliveries:
                        await asyncio.sleep(self._settings.poll_seconds)
            finally:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
                with suppress(exceptions.BaseError):
                    await reader.leave()
        finally:
            self._reading.remove(group)

    async def _keep(self, reader: Reader, group: str) -> None:
        """Write down what was acknowledged, and stay the group's reader; until cancelled."""
        while True:
            await asyncio.sleep(_PLACE_SECONDS)
            with self._bucket.ours():
                if not await reader.write(LEASE_SECONDS / 4):
                    raise BrokerUnavailable(
                        f"{self._shown}: group {group!r} was not written for {LEASE_SECONDS:g} seconds and may have "
                        f"another reader; subscribe again"
                    )

    async def _look(self, reader: Reader, group: str) -> list[Delivery]:
        """Return what there is to read now, older writers first."""
        now = time.monotonic()
        if now >= reader.folders_at:
            reader.folders_at = now + self._settings.poll_seconds
            listing = await obstore.list_with_delimiter_async(self._store, f"{self._prefix}/log")
            reader.know({path.rpartition("/")[2] for path in listing["common_prefixes"]})
        due = [followed for followed in reader.following() if now >= followed.due][:_AT_ONCE]
        objects = await asyncio.gather(*(self._next(followed, group) for followed in due))
        return [
            delivery
            for followed, chunks in zip(due, objects, strict=True)
            for delivery in reader.give(followed, chunks)
        ]

    async def _next(self, followed: Following, group: str) -> list[Chunk | Unreadable] | None:
        """Return the chunks of a writer's next object; None if it is not there yet."""
        for suffix in followed.suffixes():
            path = f"{self._folder(followed.writer)}/{followed.number:010d}{suffix}"
            try:
                result = await obstore.get_async(self._store, path)
                body = bytes(await result.bytes_async())
            except (exceptions.NotFoundError, FileNotFoundError):
                continue
            followed.suffix = suffix
            return await asyncio.to_thread(decode, body, suffix, f"{self._shown}: object {path}")
        now = time.monotonic()
        followed.due = now + min(max((now - followed.news_at) / 10, self._settings.poll_seconds), _IDLE_SECONDS)
        if now >= followed.gap_at:
            followed.gap_at = now + _GAP_SECONDS
            await self._pass_over_what_was_deleted(followed, group)
        return None

    async def _pass_over_what_was_deleted(self, followed: Following, group: str) -> None:
        folder = self._folder(followed.writer)
        stream = obstore.list(self._store, folder, offset=f"{folder}/{followed.number:010d}", chunk_size=1)
        async for some in stream:
            name = _NUMBER.match(some[0]["path"].rpartition("/")[2])
            if name is None:
                continue  # what somebody else put there
            first = int(name[0])
            if first > followed.number:
                log.warning(
                    "%s: %d objects of writer %s were deleted before group %r had read them; let the bucket's "
                    "lifecycle rule keep them longer",
                    *(self._shown, first - followed.number, followed.writer, group),
                )
                followed.pass_over(first)
            return

    def _folder(self, writer: str) -> str:
        return f"{self._prefix}/log/{writer}"

    def _taken(self, group: str) -> ConfigError:
        return ConfigError(
            f"group {group!r} at {self._shown} is being read, and has one reader at a time; stop that one, or read as "
            f"another group"
        )

    async def aclose(self) -> None:
        """Give up what is being published. Safe to call twice."""
        await self._batches.cancel()


async def _acknowledged() -> None:
    """Take the ack of what will not come again: where it was, the group's place is written."""
