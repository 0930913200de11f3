"""Which entries are trimmed, and which groups are waited for before."""

from __future__ import annotations

import logging
from typing import Any

from redis import exceptions

from raytrail.pubsub.groups import Standing, standing
from raytrail.pubsub.redis.server import Server

log = logging.getLogger(__name__)


class Retention:
    """
    Trims a stream.

    Args:
        server: Where it is.
        retain_bytes: More than so many are trimmed, oldest first.
        retain_seconds: What is older is trimmed; and for so long a group that nobody reads as is waited for.
    """

    def __init__(self, server: Server, retain_bytes: int, retain_seconds: int) -> None:
        self._server, self._retain_bytes, self._retain_seconds = server, retain_bytes, retain_seconds
        self._behind: list[str] = []
        self._away: list[str] = []

    async def tidy(self) -> None:
        """Trim what retention no longer keeps and every counting group has acknowledged."""
        async with self._server.ours():
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
                    self._server.shown,
                    self._server.stream,
                    total,
                    limit,
                    behind,
                )

    async def _floors(self) -> dict[str, tuple[int, int]]:
        """Return the first entry that each group needs, of those that count; forget those that will not come back."""
        floors: dict[str, tuple[int, int]] = {}
        away: list[str] = []
        for state in await self._server.client.xinfo_groups(self._server.stream):
            group = state["name"].decode()
            how = await self._standing(group)
            if how is Standing.GONE:
                await self._server.client.xgroup_destroy(self._server.stream, group)
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
                    self._server.shown,
                    away,
                    self._server.stream,
                    self._retain_seconds,
                )
        return floors

    async def _standing(self, group: str) -> Standing:
        present = bool(await self._server.client.exists(self._server.lease(group)))
        try:
            consumers = await self._server.client.xinfo_consumers(self._server.stream, group)
        except exceptions.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            return Standing.GONE  # another reader has forgotten it since the groups were listed
        idle_ms = [consumer["idle"] for consumer in consumers]
        silent_seconds = min(idle_ms, default=0) / 1000
        return standing(group, present=present, silent_seconds=silent_seconds, retain_seconds=self._retain_seconds)

    async def _floor(self, state: dict[str, Any]) -> tuple[int, int]:
        if state["pending"] and (
            oldest := (await self._server.client.xpending(self._server.stream, state["name"]))["min"]
        ):
            return _position(oldest)
        ms, sequence = _position(state["last-delivered-id"])  # or what was pending has been acknowledged just now
        return ms, sequence + 1

    async def _trim(self, low: tuple[int, int]) -> tuple[int, int]:
        """Trim what is old or too much, as far as that entry; return the bytes that are left, and how many may be."""
        redis, stream = self._server.client, self._server.stream
        aged_ms = (int((await redis.time())[0]) - self._retain_seconds) * 1000
        await redis.xtrim(stream, minid=_entry(min(low, (aged_ms, 0))), approximate=False)
        memory = await redis.info("memory")
        limit = self._retain_bytes
        if int(memory["maxmemory"]):
            limit = min(limit, int(memory["maxmemory"]) // 2)
        total = await redis.memory_usage(stream, samples=100) or 0
        if total > limit and (length := await redis.xlen(stream)):
            surplus = -(-length * (total - limit) // total)
            await redis.xtrim(stream, minid=_entry(low), approximate=True, limit=surplus)
            total = await redis.memory_usage(stream, samples=100) or 0
        return total, limit


def _position(entry: bytes) -> tuple[int, int]:
    ms, _, sequence = entry.partition(b"-")
    return int(ms), int(sequence)


def _entry(position: tuple[int, int]) -> str:
    return f"{max(0, position[0])}-{position[1]}"
