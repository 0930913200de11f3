"""
Chunks through a Redis stream: ``redis://host:6379?stream=ray-events``.

One stream holds everything, each chunk an entry: the chunk's headers as fields, its lines in the field ``data``.
A group is a consumer group of the stream. It has one reader at a time, which holds the key
``{<stream>}:<group>:reader`` for 10 seconds and renews it; the server lets nobody else read. What a reader left
unacknowledged comes to the next one first, in its order, then what is new.

Redis 7.0 or newer (or Valkey): one server, one behind a name that follows its primary, or a cluster of one shard.
How much a stored chunk survives is the server's affair: with ``appendonly yes`` the death of the process, and with
``appendfsync always`` a power loss, too (``everysec`` loses up to a second of it); with neither, a restart loses
all since the last snapshot. It is warned of once when there is no append-only file, when the server has no
`maxmemory`, so that a stream that nobody reads takes the whole machine's, and when its `maxmemory-policy` evicts
the stream.

Settings, in the URL's query:

    stream           ray-events  the stream's key
    retain_bytes     1 GiB       beyond this the oldest are trimmed once every group has acknowledged them
    retain_seconds   7 days      older ones are trimmed once every group has acknowledged them
    timeout_seconds  30          how long the server may take to answer
    tls              false       speak TLS, and check the server's certificate
    ca_file                      PEM file of who signs it, where that is not one of the system's

Retention is looked at every 10 seconds while somebody reads, and when the server's memory is full. The stream
counts with what Redis says that it takes in memory, and at most with half of `maxmemory`. A group counts while
somebody reads as it, and for `retain_seconds` after; a longer absent one no longer holds chunks back (a
warning names it). What a counting group has not acknowledged is kept whatever its size (a warning says so),
and where there is no group, everything is. When nothing can be trimmed and memory is full, publishing waits.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, ClassVar

import msgspec
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from raytrail.errors import BrokerUnavailable, ChunkRefused, ConfigError, PublishError
from raytrail.event import Chunk, Unreadable, header_text, received
from raytrail.pubsub import Delivery, Guarantee
from raytrail.pubsub.groups import Standing, standing
from raytrail.pubsub.in_order import Batches, Waiting, settle
from raytrail.pubsub.url import parse, shown

_OLDEST = (7, 0)  # since then a script may be let through when memory is full: a full server must be readable
_COUNT = 16
_BLOCK_MS = 1000
_ACK_SECONDS = 0.05
_LEASE_SECONDS = 10.0
_TIDY_SECONDS = 10.0
_BATCH_BYTES = 1024**2  # a server counts what is on its way to it as memory that is used
_BULK_BYTES = 512 * 1024**2  # proto-max-bulk-len, where it may not be asked for
_READER = "reader"

_JOIN = """#!lua flags=allow-oom
local holder = redis.call('get', KEYS[2])
if holder then return holder end
if ARGV[4] == '1' and redis.call('exists', KEYS[1]) == 1 then redis.call('xgroup', 'destroy', KEYS[1], ARGV[3]) end
local made = redis.pcall('xgroup', 'create', KEYS[1], ARGV[3], '0', 'mkstream')
if made['err'] and not string.find(made['err'], 'BUSYGROUP') then return made end
redis.call('set', KEYS[2], ARGV[1], 'px', ARGV[2])
return false"""
# One that stalled and lost its lease must take nothing more: what it took would be pending, and the reader that
# came after it is past that. Where nothing is new, the answer is the last entry there was, to wait behind: a script
# cannot wait, so the first chunk after a pause is sent twice, once to end the wait.
_READ = """#!lua flags=allow-oom
if redis.call('get', KEYS[2]) ~= ARGV[1] then return false end
local came = redis.call('xreadgroup', 'group', ARGV[2], ARGV[3], 'count', ARGV[4], 'streams', KEYS[1], ARGV[5])
if came then return came[1][2] end
local stream = redis.call('xinfo', 'stream', KEYS[1])
for at = 1, #stream, 2 do
  if stream[at] == 'last-generated-id' then return stream[at + 1] end
end"""
_RENEW = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) end return 0"
_LEAVE = "if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('del', KEYS[1]) end return 0"

_FORGET = """#!lua flags=allow-oom
if redis.call('exists', KEYS[2]) == 1 then return 0 end
if redis.call('exists', KEYS[1]) == 1 then redis.call('xgroup', 'destroy', KEYS[1], ARGV[1]) end
return 1"""

log = logging.getLogger(__name__)


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
    A Redis stream: ``redis://[user:password@]host[:6379][/db]?stream=ray-events&...``.

    A group has one reader at a time here; a second is refused with a `ConfigError`, after waiting 10 seconds
    for one that was killed. Acks are written down at most every 50 ms, and when the reader leaves.
    """

    guarantee: ClassVar[Guarantee] = "at-least-once"

    def __init__(self, url: str) -> None:
        address, self._settings = parse(url, _Settings)
        self._shown = shown(url)
        where = re.fullmatch(r"(\[[^\]]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?", address.hosts[0] if address.hosts else "")
        if len(address.hosts) != 1 or not where or not re.fullmatch("[0-9]*", address.path):
            raise ConfigError(
                f"{self._shown!r} names no Redis database; write redis://[user:password@]host[:6379][/number]"
            )
        self._stream = self._settings.stream
        tls: dict[str, Any] = {"ssl": True, "ssl_ca_certs": self._settings.ca_file} if self._settings.tls else {}
        self._redis: Any = Redis(  # whose answers are typed for every shape of every protocol
            host=where[1].strip("[]"),
            port=int(where[2] or 6379),
            db=int(address.path or 0),
            username=address.user or None,
            password=address.password or None,
            socket_timeout=self._settings.timeout_seconds,
            socket_connect_timeout=min(5.0, self._settings.timeout_seconds),
            retry=Retry(NoBackoff(), 0),  # a command sent again might overtake the next one
            protocol=2,  # the shapes of answers that every release of the client agrees on
            **tls,
        )
        self._reading: set[str] = set()
        self._batches = Batches(self._add, self._shown, _BATCH_BYTES)
        self._bulk_bytes: int | None = None
        self._behind: list[str] = []
        self._away: list[str] = []

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
        async with self._ours():
            longest = await self._prepare()
        taken = [(chunk, stored) for chunk, stored in batch if len(chunk.data) <= longest]
        for chunk, stored in batch:
            if len(chunk.data) > longest:
                settle([stored], self._refused(chunk, longest))
        pipeline = self._redis.pipeline(transaction=True)
        for chunk, _ in taken:
            pipeline.xadd(self._stream, {**chunk.encoded_headers(), "data": chunk.data})
        try:
            async with self._ours():
                await pipeline.execute()
        except BrokerUnavailable as error:
            if isinstance(error.__cause__, exceptions.OutOfMemoryError):
                with suppress(PublishError, ConfigError):  # as where the agent's user may only write
                    await self._tidy()
            raise
        settle(stored for _, stored in taken)

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
            raise self._taken(group)
        self._reading.add(group)
        me = uuid.uuid4().hex
        try:
            async with self._ours():
                await self._prepare()
                await self._join(group, me, from_start=from_start)
            acked: set[bytes] = set()
            keeping = asyncio.ensure_future(self._keep(group, me, acked))
            try:
                after = b"0"  # in this form: what is pending for our one reader, after that entry
                while True:
                    if keeping.done():
                        keeping.result()
                    async with self._ours():
                        came = await self._read(group, me, after)
                        if came is None:
                            raise self._lost(group)
                        if isinstance(came, bytes):
                            await self._redis.xread({self._stream: came}, count=1, block=_BLOCK_MS)
                            continue
                    if after != b">":
                        after = came[-1][0] if came else b">"
                    for entry, fields in came:
                        if fields:
                            chunk = _chunk(fields, f"{self._shown}, entry {entry.decode()}")
                            yield Delivery(chunk, functools.partial(_ack, acked, entry))
                            continue
                        log.warning(
                            "%s: entry %s was deleted before group %r had acknowledged it; retention did not do that",
                            self._shown,
                            entry.decode(),
                            group,
                        )
                        acked.add(entry)
            finally:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
                with suppress(exceptions.RedisError, OSError):
                    await self._write_acks(group, acked)
                    await self._redis.eval(_LEAVE, 1, self._lease(group), me)
        finally:
            self._reading.remove(group)

    async def forget(self, group: str) -> bool:
        """
        Forget where `group` is; return whether it is gone, which it is not while somebody reads as it.

        Raises:
            ConfigError: The server does not let us in.
            BrokerUnavailable: The server is away.
        """
        async with self._ours():
            return bool(await self._redis.eval(_FORGET, 2, self._stream, self._lease(group), group))

    async def _join(self, group: str, me: str, *, from_start: bool) -> None:
        deadline = time.monotonic() + _LEASE_SECONDS + 1
        keys = (self._stream, self._lease(group))
        lease_ms = int(_LEASE_SECONDS * 1000)
        while await self._redis.eval(_JOIN, 2, *keys, me, lease_ms, group, int(from_start)) is not None:
            if time.monotonic() > deadline:
                raise self._taken(group)
            await asyncio.sleep(_LEASE_SECONDS / 20)

    async def _read(self, group: str, me: str, after: bytes) -> list[Any] | bytes | None:
        """Return what is pending after that entry, or new; or the last entry there is; or none: we read no more."""
        keys = (self._stream, self._lease(group))
        came: list[Any] | bytes | None = await self._redis.eval(_READ, 2, *keys, me, group, _READER, _COUNT, after)
        return came

    async def _keep(self, group: str, me: str, acked: set[bytes]) -> None:
        """Write acks down, stay the group's reader, and trim; until cancelled."""
        renewed = time.monotonic()
        tidied = 0.0
        while True:
            await asyncio.sleep(_ACK_SECONDS)
            async with self._ours():
                await self._write_acks(group, acked)
                now = time.monotonic()
                if now - renewed >= _LEASE_SECONDS / 4:
                    lease_ms = int(_LEASE_SECONDS * 1000)
                    if not await self._redis.eval(_RENEW, 1, self._lease(group), me, lease_ms):
                        raise self._lost(group)
                    renewed = now
            if now - tidied >= _TIDY_SECONDS:
                await self._tidy()
                tidied = now

    async def _write_acks(self, group: str, acked: set[bytes]) -> None:
        while acked:
            some = [entry for entry, _ in zip(acked, range(1000), strict=False)]
            await self._redis.xack(self._stream, group, *some)
            acked.difference_update(some)

    def _lease(self, group: str) -> str:
        # in braces the stream's name decides where a cluster keeps it: beside the stream
        stream = self._stream if "{" in self._stream else f"{{{self._stream}}}"
        return f"{stream}:{group}:reader"

    def _lost(self, group: str) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"{self._shown}: group {group!r} was not renewed for {_LEASE_SECONDS:g} seconds and may have another "
            f"reader; subscribe again"
        )

    def _taken(self, group: str) -> ConfigError:
        return ConfigError(
            f"group {group!r} of stream {self._stream!r} at {self._shown} is being read, and has one reader at a "
            f"time; stop that one, or read as another group"
        )

    async def _prepare(self) -> int:
        """Look at the server once, warn of what loses chunks, and return the longest value that it takes."""
        if self._bulk_bytes is None:
            info = await self._redis.info()
            version = str(info["redis_version"])
            if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
                raise ConfigError(f"{self._shown} runs Redis {version}; 7.0 or newer is needed, upgrade it")
            if not int(info.get("aof_enabled", 1)):
                log.warning(
                    "%s keeps no append-only file: what is stored is lost when it stops without a snapshot; "
                    "set appendonly yes and appendfsync always in redis.conf",
                    self._shown,
                )
            if not int(info.get("maxmemory", 1)):
                log.warning(
                    "%s has no maxmemory: while nobody reads it may take all memory of its machine; set maxmemory, "
                    "and maxmemory-policy noeviction, in redis.conf",
                    self._shown,
                )
            if (policy := str(info.get("maxmemory_policy", ""))).startswith("allkeys-"):
                log.warning(
                    "%s may evict the stream %r when its memory is full, unread or not: its maxmemory-policy is "
                    "%s; set it to noeviction",
                    self._shown,
                    self._stream,
                    policy,
                )
            self._bulk_bytes = _BULK_BYTES
            with suppress(exceptions.ResponseError):  # hosted ones do not let us see their configuration
                said = await self._redis.config_get("proto-max-bulk-len")
                self._bulk_bytes = int(said.get("proto-max-bulk-len", _BULK_BYTES))
        return self._bulk_bytes

    async def _tidy(self) -> None:
        """Trim what retention no longer keeps and every counting group has acknowledged."""
        async with self._ours():
            floors = await self._floors()
            if not floors:
                return
            low = min(floors.values())
            total, limit = await self._trim(low)
        behind = sorted(group for group, floor in floors.items() if floor == low) if total > limit else []
        if behind != self._behind:
            self._behind = behind
            if behind:
                log.warning(
                    "%s: stream %r takes %d bytes, more than the %d it may, since the groups %s have not acknowledged "
                    "them; start their readers, or remove those no longer used with XGROUP DESTROY",
                    self._shown,
                    self._stream,
                    total,
                    limit,
                    behind,
                )

    async def _floors(self) -> dict[str, tuple[int, int]]:
        """Return the first entry that each group needs, of those that count; forget those that will not come back."""
        floors: dict[str, tuple[int, int]] = {}
        away: list[str] = []
        for state in await self._redis.xinfo_groups(self._stream):
            group = state["name"].decode()
            how = await self._standing(group)
            if how is Standing.GONE:
                await self._redis.xgroup_destroy(self._stream, group)
            elif how is Standing.AWAY:
                away.append(group)
            else:
                floors[group] = await self._floor(state)
        if away != self._away:
            self._away = away
            if away:
                log.warning(
                    "%s: the groups %s of stream %r have been away longer than retain_seconds=%d and no longer "
                    "hold back what they have not read",
                    self._shown,
                    away,
                    self._stream,
                    self._settings.retain_seconds,
                )
        return floors

    async def _standing(self, group: str) -> Standing:
        present = bool(await self._redis.exists(self._lease(group)))
        idle_ms = [consumer["idle"] for consumer in await self._redis.xinfo_consumers(self._stream, group)]
        silent_seconds = min(idle_ms, default=0) / 1000
        retain_seconds = self._settings.retain_seconds
        return standing(group, present=present, silent_seconds=silent_seconds, retain_seconds=retain_seconds)

    async def _floor(self, state: dict[str, Any]) -> tuple[int, int]:
        if state["pending"] and (oldest := (await self._redis.xpending(self._stream, state["name"]))["min"]):
            return _position(oldest)
        ms, sequence = _position(state["last-delivered-id"])  # or what was pending has been acknowledged just now
        return ms, sequence + 1

    async def _trim(self, low: tuple[int, int]) -> tuple[int, int]:
        """Trim what is old or too much, as far as that entry; return the bytes that are left, and how many may be."""
        redis, stream = self._redis, self._stream
        aged_ms = (int((await redis.time())[0]) - self._settings.retain_seconds) * 1000
        await redis.xtrim(stream, minid=_entry(min(low, (aged_ms, 0))), approximate=False)
        memory = await redis.info("memory")
        limit = self._settings.retain_bytes
        if int(memory["maxmemory"]):
            limit = min(limit, int(memory["maxmemory"]) // 2)
        total = await redis.memory_usage(stream, samples=100) or 0
        if total > limit and (length := await redis.xlen(stream)):
            surplus = -(-length * (total - limit) // total)
            await redis.xtrim(stream, minid=_entry(low), approximate=True, limit=surplus)
            total = await redis.memory_usage(stream, samples=100) or 0
        return total, limit

    @asynccontextmanager
    async def _ours(self) -> AsyncGenerator[None, None]:
        """Make the client's errors ours."""
        try:
            yield
        except exceptions.OutOfMemoryError as error:
            raise BrokerUnavailable(
                f"{self._shown} is out of memory: {error}; start the readers of its groups, raise maxmemory, "
                f"or lower retain_bytes"
            ) from error
        except (exceptions.AuthenticationError, exceptions.AuthenticationWrongNumberOfArgsError) as error:
            raise ConfigError(f"{self._shown} does not let us in: {error}; mend user and password") from error
        except exceptions.NoPermissionError as error:
            raise ConfigError(
                f"{self._shown} does not let us do it: {error}; give the user +@stream +@scripting +@transaction "
                f"+@connection +get +set +del +pexpire +exists +time +info +memory on ~{self._stream} and "
                f"~{self._lease('*')}"
            ) from error
        except exceptions.MovedError as error:
            raise ConfigError(f"{self._shown} is a cluster: {error}; name a Redis that is not") from error
        except exceptions.ReadOnlyError as error:
            # it was the primary: its name may lead to another one by now, but only a new connection asks
            await self._redis.connection_pool.disconnect()
            raise BrokerUnavailable(f"{self._shown} is a replica: {error}; name the primary") from error
        except exceptions.ResponseError as error:
            said = str(error)
            if "WRONGTYPE" in said:  # in a transaction, the command stands before it
                raise ConfigError(f"{self._shown}: key {self._stream!r} is no stream; name another one") from error
            if said.startswith(("NOAUTH", "WRONGPASS", "unknown command", "DB index")):
                raise ConfigError(f"{self._shown} cannot be used: {said}; mend the URL or the server") from error
            raise BrokerUnavailable(f"{self._shown} does not do it now: {said}; trying again may help") from error
        except (exceptions.RedisError, OSError) as error:
            raise BrokerUnavailable(f"{self._shown} does not answer: {error}; start it, or mend the URL") from error

    async def aclose(self) -> None:
        """Finish what is being published and drop the connections. Safe to call twice."""
        await self._batches.finish()
        await self._redis.aclose()


def _chunk(fields: list[bytes], place: str) -> Chunk | Unreadable:
    """Make the chunk of an entry, whose fields come as names and values by turns."""
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    data = named.pop(b"data", b"")
    return received({header_text(name): value for name, value in named.items()}, data, place)


async def _ack(acked: set[bytes], entry: bytes) -> None:
    acked.add(entry)


def _position(entry: bytes) -> tuple[int, int]:
    ms, _, sequence = entry.partition(b"-")
    return int(ms), int(sequence)


def _entry(position: tuple[int, int]) -> str:
    return f"{max(0, position[0])}-{position[1]}"
