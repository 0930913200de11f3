"""
Chunks through a bucket, and nothing else: ``s3://bucket/ray-events``, ``gs://``, ``az://``.

Each publishing connection is a writer with a folder of its own, in which its objects are numbered from 0 with no gaps:

    <prefix>/log/<writer: milliseconds since 1970>-<random>/<number, ten digits>.ndjson.zst
    <prefix>/groups/<group>.json

An object holds a batch of chunks as NDJSON, for whoever can read that (DuckDB, Spark, ClickHouse, a shell): before the
lines of each chunk stands one that is its headers, ``{"raytrail": {..., "bytes": <length of the lines>}}``, with
percent-encoded values. It is put on condition that it was not there, and so once, whatever became of an answer. Who
does not know whether its last put will arrive leaves its folder and begins another.

A reader knows the name of what comes next, and asks for that; it lists only the folders, to find new writers. Idle, it
costs one LIST every `poll_seconds` and one GET a writer, rarer and rarer for one that has been silent for long, up to
once a minute. A group has one reader at a time; its place is one object that its reader replaces at most once a second,
on condition that nobody else did. A group whose place cannot be read begins with the oldest object again.

Settings, in the URL's query:

    linger_seconds   1       how long chunks are gathered for one object: each put costs money
    batch_bytes      8 MB    most bytes of lines that are gathered
    compression      zstd    or gzip (slower, read by everything), or none
    poll_seconds     2       how often a reader looks for more
    timeout_seconds  30      how long the bucket may take to store or return an object, tries included
    endpoint                 where it is, if not in that cloud itself: an S3 of one's own, as ``http://127.0.0.1:9000``

and every setting of obstore that begins with ``aws_``, ``google_`` or ``azure_``, as ``aws_region=eu-central-1``.
Credentials are found where the cloud's own tools find them: in the environment, or the machine's role.

Nothing is deleted: give the bucket a lifecycle rule for ``<prefix>/log/``. What it deletes before a group has read it
is warned of.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import io
import json
import logging
import re
import time
import uuid
import zlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import quote

import msgspec
import obstore
from obstore import exceptions

from raytrail.errors import BrokerUnavailable, ConfigError
from raytrail.event import UNDECODABLE, Chunk, Unreadable, received, unquoted
from raytrail.pubsub import Delivery, Guarantee
from raytrail.pubsub.bucket import BucketSettings, open_bucket
from raytrail.pubsub.in_order import Batches, Waiting, settle
from raytrail.zstd import ZstdError, compress, decompress_at_most

_PLACE_SECONDS = 1.0
_LEASE_SECONDS = 10.0
_IDLE_SECONDS = 60.0
_GAP_SECONDS = 600.0  # how often it is looked whether what comes next was deleted
_AT_ONCE = 16
_SUFFIXES = {"zstd": ".ndjson.zst", "gzip": ".ndjson.gz", "none": ".ndjson"}

_MOST_BYTES = 512 * 1024 * 1024
"""How much an object may hold when it is decompressed: many times what a writer puts into one."""
_NUMBER = re.compile(r"[0-9]{1,18}(?=\.)")
"""Of an object, at the beginning of its name."""

log = logging.getLogger(__name__)


class _Settings(BucketSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the URL's query may say besides obstore's settings; the module's docstring says what it means."""

    linger_seconds: Annotated[float, msgspec.Meta(ge=0)] = 1
    batch_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 8_000_000
    compression: Literal["zstd", "gzip", "none"] = "zstd"
    poll_seconds: Annotated[float, msgspec.Meta(gt=0)] = 2


class _Place(msgspec.Struct, kw_only=True):
    """Where a group is."""

    reader: str = ""
    """Who reads as it; empty for nobody."""
    beat: int = 0
    """One more each time it is written, so that the object changes."""
    next: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}
    """By writer, the number of its first object that is not acknowledged whole."""


class ObjectsPubSub:
    """A folder of a bucket: ``s3://bucket/prefix?endpoint=...``, ``gs://bucket/prefix``, ``az://container/prefix``."""

    guarantee: ClassVar[Guarantee] = "at-least-once"

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
        body = await asyncio.to_thread(_encode, chunks, self._settings.compression)
        path = f"{self._folder(self._writer)}/{self._number:010d}{_SUFFIXES[self._settings.compression]}"
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
        reader = _Reader(self._store, f"{self._prefix}/groups/{quote(group, safe='')}.json", self._shown)
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
                        came = await self._look(reader, group)
                    for delivery in came:
                        yield delivery
                    if keeping.done():
                        keeping.result()
                    if not came:
                        await asyncio.sleep(self._settings.poll_seconds)
            finally:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
                with suppress(exceptions.BaseError):
                    await reader.leave()
        finally:
            self._reading.remove(group)

    async def _keep(self, reader: _Reader, group: str) -> None:
        """Write down what was acknowledged, and stay the group's reader; until cancelled."""
        while True:
            await asyncio.sleep(_PLACE_SECONDS)
            with self._bucket.ours():
                if not await reader.write(_LEASE_SECONDS / 4):
                    raise BrokerUnavailable(
                        f"{self._shown}: group {group!r} was not written for {_LEASE_SECONDS:g} seconds and may have "
                        f"another reader; subscribe again"
                    )

    async def _look(self, reader: _Reader, group: str) -> list[Delivery]:
        """Return what there is to read now, older writers first."""
        now = time.monotonic()
        if now >= reader.folders_at:
            reader.folders_at = now + self._settings.poll_seconds
            found = await obstore.list_with_delimiter_async(self._store, f"{self._prefix}/log")
            reader.know({path.rpartition("/")[2] for path in found["common_prefixes"]})
        due = [one for one in reader.following() if now >= one.due][:_AT_ONCE]
        objects = await asyncio.gather(*(self._next(one, group) for one in due))
        return [delivery for one, chunks in zip(due, objects, strict=True) for delivery in reader.give(one, chunks)]

    async def _next(self, one: _Following, group: str) -> list[Chunk | Unreadable] | None:
        """Return the chunks of a writer's next object; None if it is not there yet."""
        for suffix in one.suffixes():
            path = f"{self._folder(one.writer)}/{one.number:010d}{suffix}"
            try:
                result = await obstore.get_async(self._store, path)
                body = bytes(await result.bytes_async())
            except (exceptions.NotFoundError, FileNotFoundError):
                continue
            one.suffix = suffix
            return await asyncio.to_thread(_decode, body, suffix, f"{self._shown}: object {path}")
        now = time.monotonic()
        one.due = now + min(max((now - one.news_at) / 10, self._settings.poll_seconds), _IDLE_SECONDS)
        if now >= one.gap_at:
            one.gap_at = now + _GAP_SECONDS
            await self._pass_over_what_was_deleted(one, group)
        return None

    async def _pass_over_what_was_deleted(self, one: _Following, group: str) -> None:
        folder = self._folder(one.writer)
        stream = obstore.list(self._store, folder, offset=f"{folder}/{one.number:010d}", chunk_size=1)
        async for some in stream:
            name = _NUMBER.match(some[0]["path"].rpartition("/")[2])
            if name is None:
                continue  # what somebody else put there
            first = int(name[0])
            if first > one.number:
                log.warning(
                    "%s: %d objects of writer %s were deleted before group %r had read them; let the bucket's "
                    "lifecycle rule keep them longer",
                    *(self._shown, first - one.number, one.writer, group),
                )
                one.pass_over(first)
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


class _Following:
    """A writer, as a reader follows it."""

    def __init__(self, writer: str, number: int) -> None:
        self.writer = writer
        self.number = number
        """Of the object to be read next."""
        self.suffix = ""
        self.due = self.gap_at = 0.0
        self.news_at = time.monotonic()
        self._begun = number
        self._left: dict[int, int] = {}  # chunks that are not acknowledged, by object

    def suffixes(self) -> tuple[str, ...]:
        """What the next object's name may end in: a writer keeps to one."""
        return (self.suffix,) if self.suffix else tuple(_SUFFIXES.values())

    @property
    def place(self) -> int:
        """The number of the first object that is not acknowledged whole."""
        return min(self._left, default=self.number)

    def read(self, chunks: int) -> int:
        """Note that the next object came; return its number."""
        number, self.number = self.number, self.number + 1
        self.news_at = time.monotonic()
        if chunks:
            self._left[number] = chunks
        return number

    def ack(self, number: int) -> None:
        """Note that one of an object's chunks is acknowledged."""
        if number in self._left:
            self._left[number] -= 1
            if not self._left[number]:
                del self._left[number]

    def pass_over(self, number: int) -> None:
        """Go on with that object."""
        self.number, self.due = number, 0.0


class _Reader:
    """The reader of a group, and the object that says where the group is."""

    def __init__(self, store: Any, path: str, shown: str) -> None:
        self.folders_at = 0.0
        self.unreadable: Unreadable | None = None
        """What was in the place of the group's place when it was joined, if that was none."""
        self._store, self._path, self._shown = store, path, shown
        self._id = uuid.uuid4().hex
        self._place = _Place()
        self._version: Any = None
        self._written_at = 0.0
        self._following: dict[str, _Following] = {}

    async def join(self, *, from_start: bool) -> bool:
        """Become the group's reader; return whether nobody else is. Who was killed is waited for to be silent."""
        self._place, self._version = await self._read()
        silent_at = time.monotonic() + _LEASE_SECONDS
        while self._place.reader and time.monotonic() < silent_at:
            await asyncio.sleep(_LEASE_SECONDS / 10)
            before = self._version
            self._place, self._version = await self._read()
            if self._place.reader and self._version != before:
                return False
        if from_start:
            self._place.next = {}
        return await self.write(0)

    async def _read(self) -> tuple[_Place, Any]:
        try:
            result = await obstore.get_async(self._store, self._path)
            body = bytes(await result.bytes_async())
        except (exceptions.NotFoundError, FileNotFoundError):
            return _Place(), None
        try:
            place = msgspec.json.decode(body, type=_Place)
        except UNDECODABLE as error:
            what = f"{self._shown}: object {self._path}"
            reason = (
                f"{what} is no place of a group: {error}; it was altered, and the group begins with the oldest object"
            )
            self.unreadable = Unreadable(place=what, reason=reason, headers={}, data=body)
            place = _Place()
        return place, _version(result.meta)

    def know(self, writers: set[str]) -> None:
        """Follow those writers, and no others."""
        for writer in writers - self._following.keys():
            self._following[writer] = _Following(writer, self._place.next.get(writer, 0))
        for writer in self._following.keys() - writers:
            del self._following[writer]

    def following(self) -> list[_Following]:
        """Return who is followed, oldest first."""
        return [one for _, one in sorted(self._following.items())]

    def give(self, one: _Following, chunks: Sequence[Chunk | Unreadable] | None) -> list[Delivery]:
        """Return the deliveries of a writer's next object."""
        if chunks is None:
            return []
        number = one.read(len(chunks))
        return [Delivery(chunk, functools.partial(_ack_once, one, number, [])) for chunk in chunks]

    async def write(self, at_least_seconds: float) -> bool:
        """
        Write down where the group is, if that changed or was not written for so long; return whether we may.

        Args:
            at_least_seconds: Write it after that time, changed or not, to stay the group's reader.
        """
        following = {writer: one.place for writer, one in self._following.items()}
        changed = following and following != self._place.next
        if not changed and self._place.reader == self._id and time.monotonic() < self._written_at + at_least_seconds:
            return True
        return await self._replace(self._id, following or self._place.next)

    async def leave(self) -> None:
        """Write down where the group is, and let somebody else be its reader."""
        following = {writer: one.place for writer, one in self._following.items()}
        await self._replace("", following or self._place.next)

    async def _replace(self, reader: str, places: dict[str, int]) -> bool:
        place = _Place(reader=reader, beat=self._place.beat + 1, next=places)
        body = msgspec.json.encode(place)
        try:
            result = await obstore.put_async(
                self._store, self._path, body, mode=self._version or "create", use_multipart=False
            )
        except (exceptions.PreconditionError, exceptions.AlreadyExistsError):
            stored, version = await self._read()
            if stored != place:  # else an earlier try of ours was stored, and its answer lost
                return False
            self._version = version
        else:
            self._version = _version(result)
        self._place, self._written_at = place, time.monotonic()
        return True


def _version(meta: Any) -> dict[str, str]:
    """Return what a store calls this content of an object; some have the one, some the other."""
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name)}


async def _acknowledged() -> None:
    """Take the ack of what will not come again: where it was, the group's place is written."""


async def _ack_once(one: _Following, number: int, done: list[bool]) -> None:
    if not done:
        done.append(True)
        one.ack(number)


def _encode(chunks: list[Chunk], compression: str) -> bytes:
    parts: list[bytes] = []
    for chunk in chunks:
        # quoted, as other engines would not read the lone surrogates that names may hold
        head = json.dumps({"raytrail": {**chunk.quoted_headers(), "bytes": len(chunk.data)}}, separators=(",", ":"))
        parts += head.encode(), b"\n", chunk.data
    data = b"".join(parts)
    if compression == "zstd":
        return compress(data, 1)
    return gzip.compress(data, 1, mtime=0) if compression == "gzip" else data


def _decode(body: bytes, suffix: str, what: str) -> list[Chunk | Unreadable]:
    chunks: list[Chunk | Unreadable] = []
    at = 0
    try:
        if suffix == _SUFFIXES["zstd"]:
            body = decompress_at_most(body, _MOST_BYTES)
        elif suffix == _SUFFIXES["gzip"]:
            body = _unzipped(body)
        while at < len(body):
            end = body.index(b"\n", at) + 1
            head = msgspec.json.decode(body[at:end], type=_Head).raytrail
            length = msgspec.convert(head.pop("bytes"), Annotated[int, msgspec.Meta(ge=0)])
            headers = {name: unquoted(msgspec.convert(value, str)) for name, value in head.items()}
            chunks.append(received(headers, body[end : end + length], f"{what}, at {at}"))
            at = end + length
    except (*UNDECODABLE, ValueError, KeyError, OSError, EOFError, zlib.error, ZstdError) as error:
        reason = f"{what} is none of ours: {error!r}; it was altered, or take another folder"
        chunks.append(Unreadable(place=f"{what}, at {at}", reason=reason, headers={}, data=body[at:]))
    return chunks


def _unzipped(body: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
        unzipped = file.read(_MOST_BYTES + 1)
    if len(unzipped) > _MOST_BYTES:
        raise ValueError(f"it holds more than {_MOST_BYTES} bytes")
    return unzipped


class _Head(msgspec.Struct, frozen=True):
    """What comes before the lines of a chunk: its headers, and how many bytes its lines have."""

    raytrail: dict[str, str | int]
