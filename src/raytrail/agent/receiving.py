"""Take what Ray's HTTP export posts, for as long as the agent runs and its settings say so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from raytrail.config import SourcesConfig
from raytrail.sources.receiver import Intake, Receiver
from raytrail.sources.set_aside import SetAside

log = logging.getLogger(__name__)


class Receiving:
    """Has a receiver running, or none, as the settings say."""

    def __init__(self) -> None:
        self._receiver: Receiver | None = None
        self._settings: tuple[SourcesConfig, tuple[Path, ...]] = (SourcesConfig(), ())

    async def configure(self, sources: SourcesConfig, temp_dirs: Iterable[Path], state_dir: Path) -> None:
        """
        Go on by these settings.

        Args:
            sources: The address to listen on, and the token of senders.
            temp_dirs: Ray's temporary directories, in whose sessions events are written.
            state_dir: The directory for events that cannot be read.

        Raises:
            ConfigError: One cannot listen there.
        """
        settings = (sources, tuple(dict.fromkeys(temp_dirs)))
        if settings == self._settings:
            return
        if sources.receiver == self._settings[0].receiver:
            await self.aclose()  # the address is free for the next one
        before, self._receiver = self._receiver, _begun(sources, settings[1], state_dir)
        self._settings = settings
        if before is not None:
            await asyncio.to_thread(before.close)

    async def aclose(self) -> None:
        """Take no more. Safe to call twice."""
        receiver, self._receiver = self._receiver, None
        self._settings = (SourcesConfig(), ())
        if receiver is not None:
            await asyncio.to_thread(receiver.close)


def _begun(sources: SourcesConfig, temp_dirs: tuple[Path, ...], state_dir: Path) -> Receiver | None:
    if not sources.receiver:
        return None
    intake = Intake(temp_dirs, SetAside(state_dir / "set-aside.ndjson"))
    receiver = Receiver(sources.receiver, intake, token=sources.receiver_token, most_bytes=sources.receiver_body_bytes)
    log.info("Ray's events are taken on %s", receiver.url)
    return receiver


def probed(sources: SourcesConfig) -> SourcesConfig:
    """Return the settings without those of the receiver, for whom they are none of their business."""
    return msgspec.structs.replace(sources, receiver="", receiver_token="")
