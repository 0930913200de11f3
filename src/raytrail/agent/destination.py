"""One destination of a node's agent: what is read for it, how far it is, and what may change while it runs."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any
from urllib.parse import quote

import msgspec

from raytrail import words
from raytrail.agent import loop
from raytrail.agent.outlet import Outlet
from raytrail.config import Destination
from raytrail.pubsub import PubSub, connect
from raytrail.pubsub.url import shown
from raytrail.tail import Checkpoint, Tailer

log = logging.getLogger(__name__)

_DEAD_LETTERS_SECONDS = 10 * 365 * 24 * 3600


class Shipping:
    """
    One destination: what is read for it, how far it is, and what it is published through.

    Args:
        destination: The destination, with its settings.
        pubsub: Its broker. None makes it from the URL.
        patient: Wait also for a broker that does not let us in: others must not end for it.

    Raises:
        ConfigError: Another agent ships from that state directory, or no backend takes the URL.
    """

    def __init__(self, destination: Destination, pubsub: PubSub | None = None, *, patient: bool = False) -> None:
        self.destination = destination
        self.outlet = Outlet(pubsub or connect(destination.agent.to), self._open_dead_letters, patient=patient)
        self.checkpoint = Checkpoint(destination.checkpoint_file)
        try:
            self.tailer = Tailer(destination.tail, self.checkpoint)
        except BaseException:
            self.checkpoint.close()
            raise
        self._stop = asyncio.Event()

    @property
    def label(self) -> str:
        """Its name for people."""
        return self.destination.name or "default"

    async def run(self) -> None:
        """Ship until told to finish, then what is left."""
        try:
            unread_bytes = await loop.run(
                self.tailer, self.checkpoint, self.outlet, lambda: self.destination.agent, self._stop
            )
        finally:
            await self.aclose()
        if unread_bytes:
            log.warning(
                "destination %s: %s were not shipped in time; the next agent begins with them",
                self.label,
                words.size(unread_bytes),
            )

    async def aclose(self) -> None:
        """Let go of the broker, the files and the checkpoint. Safe to call twice."""
        await self.outlet.aclose()
        self.tailer.close()
        self.checkpoint.close()

    def finish(self, seconds: float) -> None:
        """Ship what is left, for so long at most, and end."""
        agent = msgspec.structs.replace(self.destination.agent, drain_seconds=seconds)
        self.destination = self.destination._replace(agent=agent)
        self._stop.set()

    async def change(self, destination: Destination, pubsub: PubSub | None) -> None:
        """
        Go on by other settings.

        Args:
            destination: The settings.
            pubsub: The broker of its URL, where that is another one.
        """
        if pubsub is not None:
            await self.outlet.change(pubsub)
        tail = self.tailer.configure(destination.tail)
        for name in tail.__struct_fields__:
            if getattr(tail, name) != getattr(destination.tail, name):
                log.warning("%s is %r until the agent is started anew", name, getattr(tail, name))
        self.destination = destination._replace(tail=tail)

    def figures(self) -> dict[str, Any]:
        """Return its state. It may be called from any thread."""
        outlet, tailer = self.outlet, self.tailer
        return {
            "to": shown(self.destination.agent.to),
            "failure": outlet.failure,
            "last_stored_seconds_ago": round(time.monotonic() - outlet.stored_at, 1),
            "published_events": sum(events for events, _ in list(self.checkpoint.published.values())),
            "in_flight_bytes": outlet.in_flight_bytes,
            "unread_bytes": tailer.unread_bytes(),
            "bytes_until_deleted": tailer.bytes_until_deleted(),
            "refused_events": outlet.refused_events,
        }

    def _open_dead_letters(self) -> PubSub:
        where = quote(str(self.destination.dead_letters.absolute()))
        # somebody has to look at them, whenever that is. The broker would delete after a week what nobody reads
        return connect(f"file://{where}?retain_seconds={_DEAD_LETTERS_SECONDS}")
