"""
Chunks through a directory, as ``file:///dir``. No server is needed.

Directories and files are made for their owner alone, whatever the umask. Publishers and readers are therefore one
user.

Every publisher appends to files of its own, and calls a chunk stored once it is synced to disk. Every group reads all
files from its own place. Processes and threads of one machine may share the directory. Over a network file system
nothing is promised, since all of it rests on flock and on appends seen in order.

    /dir/00000000000000000001-4be1c09a63d7.chunks     what publisher 4be1c09a63d7 wrote first
    /dir/00000000000000000002-4be1c09a63d7.chunks     what it wrote after file_bytes were full
    /dir/groups/alerts.json                           {"<file>": <bytes acknowledged>, ...}
    /dir/groups/alerts.lock                           held by the one reader of group `alerts`, with its pid
    /dir/groups/.lock                                 held for a moment, by who joins a group or deletes files

A file's number is one more than the greatest in the directory when it was made. A publisher's files, and those of its
successor after a restart, therefore sort in the order they were written. A chunk in a file is a frame, and all of it
is text. ``grep -hv '^#' /dir/*.chunks`` prints plain NDJSON, as long as no logs are shipped. A frame looks like this:

    #raytrail 00000195 000000262144 1c291ca3 5a4f8a11⏎     50 bytes
    |         |        |            |        crc32 of the lines
    |         |        |            crc32 of the two lengths as written, and of the headers
    |         |        bytes of lines, decimal
    |         bytes of headers, decimal, with their # and newline
    magic
    #{"raytrail-version": "1", "cluster": "", ...}⏎        headers, JSON
    {"event_id": ...}⏎ ...                                 lines, as Ray wrote them

A publisher takes an exclusive flock on its file while the file is still empty, and holds it to the end. A file that
has bytes and no lock will therefore not grow. If a frame at its end is not whole, its publisher was killed in that
write, and the frame was never called stored. A reader waits at the end of a locked file. After a failed write or
sync, a file is cut back to its last stored frame and never written to again. A reader may have seen what was cut off,
and must not find other bytes at the same offsets.

Damage is a frame whose checksum fails, or bytes that are no frame and have a frame after them. Damage is left in its
file, and readers pass over it. It is logged as an error and counted in ``FilePubSub.damaged_bytes``. Reading goes on
at the next frame. The completeness ledger, which counts what was stored, shows the ranges that are missing.

Settings are in the URL's query. Whole files are deleted, oldest first:

    retain_bytes     4 GiB    files beyond this total are deleted once every group has acknowledged them
    retain_seconds   7 days   older files are deleted once every group has acknowledged them
    file_bytes       64 MiB   a file that has reached this is closed, and a new one begun

A group counts while somebody reads as it, and for ``retain_seconds`` after. A group that is absent for longer no
longer holds files back, and a warning names what it had not read. Files that a counting group has not acknowledged
are kept whatever their size, and a warning says so. If no group counts, everything younger than ``retain_seconds`` is
kept.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from raytrail.errors import BrokerUnavailable, ConfigError
from raytrail.event import Chunk, received
from raytrail.pubsub import Delivery, Guarantee
from raytrail.pubsub.backlog import Backlog
from raytrail.pubsub.file.frames import Frame, Source
from raytrail.pubsub.file.layout import Settings
from raytrail.pubsub.file.place import Place, unacknowledged_bytes
from raytrail.pubsub.file.retention import forget_group, tidy
from raytrail.pubsub.file.writer import Writer
from raytrail.pubsub.in_order import Batches, Waiting, settle
from raytrail.pubsub.url import parse, shown_whole

_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_LOOK_SECONDS = (0.01, 0.1)  # after something came; doubled up to, while nothing does
_TIDY_SECONDS = 60.0
log = logging.getLogger(__name__)


class FilePubSub:
    """
    A directory of append-only files, as ``file:///dir?retain_bytes=...&retain_seconds=...&file_bytes=...``.

    A group has one reader at a time here. A second reader is refused with a ``ConfigError``. Acks are written down at
    most every 50 ms, and when the reader leaves. They are not synced. If a crash loses some of them, their chunks
    come again.
    """

    guarantee: Guarantee = "at-least-once"

    damaged_bytes: int
    """Bytes that this connection's subscriptions found damaged, and went on after."""

    def __init__(self, url: str) -> None:
        self._directory, self._settings = _parse_url(url)
        self._writer = Writer(self._directory, self._settings)
        self._batches = Batches(self._store, str(self._directory))
        self.damaged_bytes = 0

    async def publish(self, chunk: Chunk) -> None:
        """
        Append one chunk, returning once it is synced to disk.

        Chunks that come while others are being written are gathered, written together and share one sync.

        Raises:
            BrokerUnavailable: It could not be written (disk full, no directory, an I/O error), nor any other
                chunk written with it.
        """
        await self._batches.publish(chunk)

    async def _store(self, batch: list[Waiting]) -> None:
        await asyncio.to_thread(self._writer.append, [chunk for chunk, _ in batch])
        settle(stored for _, stored in batch)

    async def subscribe(self, group: str, *, from_start: bool = False) -> AsyncGenerator[Delivery, None]:
        """
        Yield chunks from where `group` left off, each publisher's in the order published.

        A new group begins with the oldest chunk that is still held. An ack that comes after the generator was
        closed is lost, and its chunk comes again.

        Args:
            group: Who reads: letters, digits, ``_``, ``-`` and ``.``, at most 100.
            from_start: Forget where the group left off, and read all that the directory still holds.

        Raises:
            ConfigError: `group` cannot name a file, or somebody reads as that group already.
            BrokerUnavailable: The directory cannot be read.
        """
        _check_group(group)
        # joined and left without a thread: cancelling must neither leak the lock nor skip the last commit
        with _reached(self._directory):
            place = Place(self._directory, group, from_start=from_start)
        try:
            tidied, pause = time.monotonic(), _LOOK_SECONDS[0]
            while True:
                if time.monotonic() - tidied >= _TIDY_SECONDS:
                    await asyncio.to_thread(place.commit)  # shows by its time that the group is not away
                    await asyncio.to_thread(tidy, self._directory, self._settings)
                    tidied = time.monotonic()
                idle = True
                with _reached(self._directory):
                    # some 20 us; handed to a thread it would cost over ten times that, idle or not
                    sources = place.look()
                for source in sources:
                    while (deliveries := await self._next(source, group)) is not None:
                        idle = False
                        for delivery in deliveries:
                            yield delivery
                        await _commit_if_due(place)
                await _commit_if_due(place)
                pause = min(2 * pause, _LOOK_SECONDS[1]) if idle else _LOOK_SECONDS[0]
                if idle:
                    await asyncio.sleep(pause)
        finally:
            place.leave()

    async def _next(self, source: Source, group: str) -> list[Delivery] | None:
        """Return what comes next in a file; None if there is no more of it now."""
        with _reached(source.path):
            frames = await asyncio.to_thread(source.read)
        deliveries: list[Delivery] = []
        for frame in frames:
            source.sent(frame.end)
            if frame.headers is None:
                self._set_aside(source, frame, group)
                await source.ack(frame.end)
                continue
            chunk = received(frame.headers, frame.data, f"{source.path} at {frame.start}")
            deliveries.append(Delivery(chunk, functools.partial(source.ack, frame.end)))
        return deliveries if frames else None

    async def forget(self, group: str) -> bool:
        """
        Forget where `group` is; return whether it is gone, which it is not while somebody reads as it.

        Raises:
            ConfigError: `group` cannot name a file.
            BrokerUnavailable: The directory cannot be changed.
        """
        _check_group(group)
        with _reached(self._directory):
            return await asyncio.to_thread(forget_group, self._directory, group)

    async def backlog(self, group: str) -> Backlog:
        """
        Return how many bytes `group` has not acknowledged.

        Raises:
            ConfigError: `group` cannot name a file.
            BrokerUnavailable: The directory cannot be read.
        """
        _check_group(group)
        with _reached(self._directory):
            return Backlog(bytes=await asyncio.to_thread(unacknowledged_bytes, self._directory, group))

    def _set_aside(self, source: Source, frame: Frame, group: str) -> None:
        if frame.torn:
            log.info(
                "%s: %d bytes at its end are a write that never finished; they were never called stored",
                source.path,
                frame.end - frame.start,
            )
            return
        self.damaged_bytes += frame.end - frame.start
        log.error(
            "%s: bytes %d to %d are damaged and set aside; group %r goes on after them, and its ledger shows "
            "what is missing",
            source.path,
            frame.start,
            frame.end,
            group,
        )

    async def aclose(self) -> None:
        """Finish what is being published and give up the file. Safe to call twice."""
        await self._batches.finish()
        await asyncio.to_thread(self._writer.close)


async def _commit_if_due(place: Place) -> None:
    if place.commit_is_due():
        await asyncio.to_thread(place.commit)


def _parse_url(url: str) -> tuple[Path, Settings]:
    parts = urlsplit(url)
    directory = unquote(parts.path)
    if parts.netloc or not directory.startswith("/") or parts.fragment or "\0" in directory:
        raise ConfigError(
            f"{shown_whole(url)!r} names no directory of this machine; write file:///path/to/directory, "
            f"with %23 for a '#' and %3F for a '?' in its name"
        )
    return Path(directory), parse(url, Settings)[1]


def _check_group(group: str) -> None:
    if not _GROUP.fullmatch(group):
        raise ConfigError(
            f"group {group!r} cannot name a file; use at most 100 letters, digits, '_', '-' and '.', "
            f"not beginning with '-' or '.'"
        )


@contextmanager
def _reached(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BrokerUnavailable(f"{path} cannot be read: {error}; mend it, then subscribe again") from error
