"""
Groups: the one that a history reads as, and which of them retention waits for.

A history's group is its store's own, so that histories with a store each get everything.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from enum import Enum, auto
from typing import Protocol, runtime_checkable

from raytrail.errors import RaytrailError
from raytrail.pubsub import Delivery, Subscriber
from raytrail.pubsub.backlog import Backlog, Measurable

LEAVE_SECONDS = 60.0
"""How often a broker is asked to forget a group that somebody still reads as."""
_OF_STORE = re.compile("(.+)-[0-9a-f]{16}")
_PASSING = "ephemeral-"
"""How the names of groups begin that look once and never come back."""
_PASSING_SECONDS = 60.0

log = logging.getLogger(__name__)


def group_of(name: str, store_id: str) -> str:
    """
    Return the group that a history reads as.

    Args:
        name: What its operator calls it.
        store_id: 16 hex digits.
    """
    return f"{name}-{store_id}"


def name_of(group: str) -> str:
    """Return what the operator calls a group that `group_of` made, and any other group as it is."""
    match = _OF_STORE.fullmatch(group)
    return match[1] if match else group


def passing_group() -> str:
    """Return a new group that looks once and never comes back."""
    return f"{_PASSING}{uuid.uuid4().hex}"


class Standing(Enum):
    """What retention makes of a group."""

    COUNTS = auto()
    """It holds back what it has not acknowledged."""
    AWAY = auto()
    """It holds nothing back, but goes on where it left off."""
    GONE = auto()
    """Nobody comes back to it: it is to be forgotten."""


def standing(group: str, *, present: bool, silent_seconds: float, retain_seconds: float) -> Standing:
    """Say how a group stands, which counts while somebody reads as it (`present`), and `retain_seconds` after."""
    if present:
        return Standing.COUNTS
    if group.startswith(_PASSING):
        return Standing.GONE
    return Standing.AWAY if silent_seconds > retain_seconds else Standing.COUNTS


def gone_after_seconds(group: str, retain_seconds: float) -> float:
    """Return for how long nobody may read as a group until a broker forgets it that sees to that itself."""
    return _PASSING_SECONDS if group.startswith(_PASSING) else retain_seconds


@runtime_checkable
class Forgetful(Protocol):
    """A broker that keeps chunks until each group has them, and can be told that one will not come back."""

    async def forget(self, group: str) -> bool:
        """
        Forget where a group is, so that nothing is kept for it; return whether it is gone.

        One that somebody reads as stays. One that comes back begins with the oldest chunk that is still held.

        Raises:
            PublishError: The broker is away, or does not do it.
            ConfigError: It does not let us in.
        """
        ...


class OwnGroup:
    """
    A broker as a history reads it.

    Args:
        broker: The broker.
        store_id: What tells the history's store from others.
        on_forgotten: Called once no broker keeps anything for the group of the name alone, as which older versions
            read; None where this store never did.
    """

    def __init__(self, broker: Subscriber, store_id: str, on_forgotten: Callable[[], None] | None) -> None:
        self._broker, self._store_id, self._on_forgotten = broker, store_id, on_forgotten

    async def subscribe(self, group: str, *, from_start: bool = False) -> AsyncGenerator[Delivery, None]:
        """Yield chunks as the broker does, from where the store's own group of that name left off."""
        own = self._broker.subscribe(group_of(group, self._store_id), from_start=from_start)
        leaving: asyncio.Task[None] | None = None
        try:
            async with aclosing(own) as deliveries:
                async for delivery in deliveries:
                    yield delivery
                    # not before: from now on the broker keeps what is needed for the store's own group
                    if self._on_forgotten is not None and leaving is None:
                        leaving = asyncio.create_task(self._leave(group, self._on_forgotten))
        finally:
            if leaving is not None:
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)

    async def backlog(self, group: str) -> Backlog | None:
        """
        Return what the store's own group of that name has not acknowledged; None if the broker cannot say.

        Raises:
            PublishError: The broker is away.
            ConfigError: It does not let us in.
        """
        if not isinstance(self._broker, Measurable):
            return None
        return await self._broker.backlog(group_of(group, self._store_id))

    async def _leave(self, group: str, on_forgotten: Callable[[], None]) -> None:
        """Have the broker forget the group of the name alone."""
        while not await self._is_forgotten(group):  # noqa: ASYNC110 (its other reader leaves when it likes)
            await asyncio.sleep(LEAVE_SECONDS)
        self._on_forgotten = None
        await asyncio.to_thread(on_forgotten)

    async def _is_forgotten(self, group: str) -> bool:
        if not isinstance(self._broker, Forgetful):
            return True
        try:
            return await self._broker.forget(group)
        except RaytrailError as error:
            log.warning("%s; the broker keeps for group %r what is published, until that works", error, group)
            return False
