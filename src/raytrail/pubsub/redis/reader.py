"""The one reader of a group: it holds the group's lease, takes what comes, and acknowledges it."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
import uuid
from contextlib import suppress
from typing import Any

from redis import exceptions

from raytrail.errors import BrokerUnavailable, ConfigError
from raytrail.event import Chunk, Unreadable, header_text, received
from raytrail.pubsub import Delivery
from raytrail.pubsub.redis.retention import Retention
from raytrail.pubsub.redis.server import Server

_COUNT = 16
_BLOCK_MS = 1000
_ACK_SECONDS = 0.05
_LEASE_SECONDS = 10.0
_TIDY_SECONDS = 10.0
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


class Reader:
    """A group's reader, from joining to leaving."""

    def __init__(self, server: Server, group: str) -> None:
        self._server, self._group = server, group
        self._lease = server.lease(group)
        self._me = uuid.uuid4().hex
        self._acked: set[bytes] = set()
        self._after = b"0"  # in this form: what is pending for our one reader, after that entry

    async def join(self, *, from_start: bool) -> None:
        """Become the group's reader. One that was killed is waited for."""
        deadline = time.monotonic() + _LEASE_SECONDS + 1
        keys = (self._server.stream, self._lease)
        lease_ms = int(_LEASE_SECONDS * 1000)
        arguments = (self._me, lease_ms, self._group, int(from_start))
        while await self._server.client.eval(_JOIN, 2, *keys, *arguments) is not None:
            if time.monotonic() > deadline:
                raise taken(self._server, self._group)
            await asyncio.sleep(_LEASE_SECONDS / 20)

    async def take(self) -> list[Delivery]:
        """Return what has come, waiting a second for it."""
        async with self._server.ours():
            answer = await self._read()
            if answer is None:
                raise self._lost()
            if isinstance(answer, bytes):
                await self._server.client.xread({self._server.stream: answer}, count=1, block=_BLOCK_MS)
                return []
        if self._after != b">":
            self._after = answer[-1][0] if answer else b">"
        for entry, fields in answer:
            if not fields:
                self._pass_over(entry)
        return [self._delivery(entry, fields) for entry, fields in answer if fields]

    def _delivery(self, entry: bytes, fields: list[bytes]) -> Delivery:
        chunk = _chunk(fields, f"{self._server.shown}, entry {entry.decode()}")
        return Delivery(chunk, functools.partial(self._ack, entry))

    def _pass_over(self, entry: bytes) -> None:
        log.warning(
            "%s: entry %s was deleted before group %r had acknowledged it; retention did not do that",
            self._server.shown,
            entry.decode(),
            self._group,
        )
        self._acked.add(entry)

    async def _ack(self, entry: bytes) -> None:
        self._acked.add(entry)

    async def _read(self) -> list[Any] | bytes | None:
        """Return what is pending after that entry, or new; or the last entry there is; or none: we read no more."""
        keys = (self._server.stream, self._lease)
        answer: list[Any] | bytes | None = await self._server.client.eval(
            _READ, 2, *keys, self._me, self._group, _READER, _COUNT, self._after
        )
        return answer

    async def keep(self, retention: Retention) -> None:
        """Write acks down, stay the group's reader, and trim; until cancelled."""
        renewed = time.monotonic()
        tidied = 0.0
        while True:
            await asyncio.sleep(_ACK_SECONDS)
            async with self._server.ours():
                await self._write_acks()
                now = time.monotonic()
                if now - renewed >= _LEASE_SECONDS / 4:
                    lease_ms = int(_LEASE_SECONDS * 1000)
                    if not await self._server.client.eval(_RENEW, 1, self._lease, self._me, lease_ms):
                        raise self._lost()
                    renewed = now
            if now - tidied >= _TIDY_SECONDS:
                await retention.tidy()
                tidied = now

    async def leave(self) -> None:
        """Write down what was acknowledged, and let another reader join."""
        with suppress(exceptions.RedisError, OSError):
            await self._write_acks()
            await self._server.client.eval(_LEAVE, 1, self._lease, self._me)

    async def _write_acks(self) -> None:
        while self._acked:
            some = [entry for entry, _ in zip(self._acked, range(1000), strict=False)]
            await self._server.client.xack(self._server.stream, self._group, *some)
            self._acked.difference_update(some)

    def _lost(self) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"{self._server.shown}: group {self._group!r} was not renewed for {_LEASE_SECONDS:g} seconds and may have "
            f"another reader; subscribe again"
        )


def taken(server: Server, group: str) -> ConfigError:
    """Return the error of a second reader."""
    return ConfigError(
        f"group {group!r} of stream {server.stream!r} at {server.shown} is being read, and has one reader at a "
        f"time; stop that one, or read as another group"
    )


async def forget(server: Server, group: str) -> bool:
    """Forget where a group is, unless somebody reads as it; return whether it is gone."""
    async with server.ours():
        return bool(await server.client.eval(_FORGET, 2, server.stream, server.lease(group), group))


def _chunk(fields: list[bytes], place: str) -> Chunk | Unreadable:
    """Make the chunk of an entry, whose fields come as names and values by turns."""
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    data = named.pop(b"data", b"")
    return received({header_text(name): value for name, value in named.items()}, data, place)
