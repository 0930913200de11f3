"""
Chunks through a directory: ``file:///dir``, the broker that needs no broker.

Directories and files are made for their owner alone, whatever the umask: publishers and readers are one user.

Every publisher appends to files of its own and calls a chunk stored once it is synced to disk; every group
reads all files from its own place. Processes and threads of one machine may share the directory; over a
network file system nothing is promised, since all of it rests on flock and on appends seen in order.

    /dir/00000000000000000001-4be1c09a63d7.chunks     what publisher 4be1c09a63d7 wrote first
    /dir/00000000000000000002-4be1c09a63d7.chunks     what it wrote after file_bytes were full
    /dir/groups/alerts.json                           {"<file>": <bytes acknowledged>, ...}
    /dir/groups/alerts.lock                           held by the one reader of group `alerts`, with its pid
    /dir/groups/.lock                                 held for a moment, by who joins a group or deletes files

A file's number is one more than the greatest in the directory when it was made, so that a publisher's files,
and those of its successor after a restart, sort in the order they were written. A chunk in a file is a frame,
all of it text, so that ``grep -hv '^#' /dir/*.chunks`` prints plain NDJSON, as long as no logs are shipped:

    #raytrail 00000195 000000262144 1c291ca3 5a4f8a11⏎     50 bytes
    |         |        |            |        crc32 of the lines
    |         |        |            crc32 of the two lengths as written, and of the headers
    |         |        bytes of lines, decimal
    |         bytes of headers, decimal, with their # and newline
    magic
    #{"raytrail-version": "1", "cluster": "", ...}⏎        headers, JSON
    {"event_id": ...}⏎ ...                                 lines, as Ray wrote them

A publisher takes an exclusive flock on its file while the file is still empty and holds it to the end, so
whoever finds a file that has bytes and no lock knows that it will not grow: a frame that is not whole at its
end is the write in which its publisher was killed, and was never called stored. At the end of a locked file a
reader waits. After a failed write or sync a file is cut back to its last stored frame and never written to
again: a reader may have seen what was cut off, and must not find other bytes at the same offsets.

A frame whose checksum fails, or bytes that are no frame and have one after them, are damage. It is set aside
(left in its file, passed over by readers), logged as an error, counted in `FilePubSub.damaged_bytes`, and
reading goes on at the next frame; the completeness ledger shows the ranges that are missing.

Settings, in the URL's query, and what they mean for whole files, oldest first:

    retain_bytes     4 GiB    files beyond this total are deleted once every group has acknowledged them
    retain_seconds   7 days   older files are deleted once every group has acknowledged them
    file_bytes       64 MiB   a file that has reached this is closed, and a new one begun

A group counts while somebody reads as it, and for `retain_seconds` after; a longer absent one no longer holds
files back (a warning names what it had not read). What a counting group has not acknowledged is kept whatever
its size (a warning says so), and where no group counts, all that is younger than `retain_seconds` is kept.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import functools
import logging
import os
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Annotated, ClassVar
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from raytrail import disk
from raytrail.errors import BrokerUnavailable, ConfigError
from raytrail.event import UNDECODABLE, Chunk, received
from raytrail.pubsub import Delivery, Guarantee
from raytrail.pubsub.frames import Frame, Source, encode, unlocked
from raytrail.pubsub.groups import Standing, standing
from raytrail.pubsub.in_order import Batches, Waiting, settle
from raytrail.pubsub.url import shown_whole

_CHUNK_FILE = re.compile(r"([0-9]{20})-[0-9a-f]{12}\.chunks")
_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")

_BUFFERS_A_WRITE = 1024  # IOV_MAX of Linux and macOS
_LOOK_SECONDS = (0.01, 0.1)  # after something came; doubled up to, while nothing does
_COMMIT_SECONDS = 0.05
_COMMIT_RETRY_SECONDS = 5.0
_TIDY_SECONDS = 60.0
_STILLBORN_SECONDS = 3600.0

_sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync

log = logging.getLogger(__name__)


class _Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the URL's query may say; the module's docstring says what it means."""

    retain_bytes: Annotated[int, msgspec.Meta(ge=0)] = 4 * 1024**3
    retain_seconds: Annotated[int, msgspec.Meta(ge=1)] = 7 * 24 * 3600
    file_bytes: Annotated[int, msgspec.Meta(ge=1)] = 64 * 1024**2


class FilePubSub:
    """
    A directory of append-only files: ``file:///dir?retain_bytes=...&retain_seconds=...&file_bytes=...``.

    A group has one reader at a time here; a second is refused with a `ConfigError`. Acks are written down at
    most every 50 ms, and when the reader leaves, unsynced: what a crash loses of them comes again.
    """

    guarantee: ClassVar[Guarantee] = "at-least-once"

    damaged_bytes: int
    """Bytes that this connection's subscriptions found damaged, and went on after."""

    def __init__(self, url: str) -> None:
        self._directory, self._settings = _parse_url(url)
        self._writer = _Writer(self._directory, self._settings)
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
            place = _Place(self._directory, group, from_start=from_start)
        try:
            tidied, pause = time.monotonic(), _LOOK_SECONDS[0]
            while True:
                if time.monotonic() - tidied >= _TIDY_SECONDS:
                    await asyncio.to_thread(place.commit)  # shows by its time that the group is not away
                    await asyncio.to_thread(_tidy, self._directory, self._settings)
                    tidied = time.monotonic()
                with _reached(self._directory):
                    # some 20 us; handed to a thread it would cost over ten times that, idle or not
                    sources = place.look()
                idle = True
                for source in sources:
                    while True:
                        with _reached(source.path):
                            frames = await asyncio.to_thread(source.read)
                        if not frames:
                            break
                        idle = False
                        for frame in frames:
                            source.sent(frame.end)
                            if frame.headers is None:
                                self._set_aside(source, frame, group)
                                await source.ack(frame.end)
                                continue
                            chunk = received(frame.headers, frame.data, f"{source.path} at {frame.start}")
                            yield Delivery(chunk, functools.partial(source.ack, frame.end))
                        if place.commit_is_due():
                            await asyncio.to_thread(place.commit)
                if place.commit_is_due():
                    await asyncio.to_thread(place.commit)
                pause = min(2 * pause, _LOOK_SECONDS[1]) if idle else _LOOK_SECONDS[0]
                if idle:
                    await asyncio.sleep(pause)
        finally:
            place.leave()

    async def forget(self, group: str) -> bool:
        """
        Forget where `group` is; return whether it is gone, which it is not while somebody reads as it.

        Raises:
            ConfigError: `group` cannot name a file.
            BrokerUnavailable: The directory cannot be changed.
        """
        _check_group(group)
        with _reached(self._directory):
            return await asyncio.to_thread(_forget, self._directory, group)

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


def _parse_url(url: str) -> tuple[Path, _Settings]:
    parts = urlsplit(url)
    directory = unquote(parts.path)
    if parts.netloc or not directory.startswith("/") or parts.fragment or "\0" in directory:
        raise ConfigError(
            f"{shown_whole(url)!r} names no directory of this machine; write file:///path/to/directory, "
            f"with %23 for a '#' and %3F for a '?' in its name"
        )
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    try:
        if len(dict(pairs)) < len(pairs):
            raise msgspec.ValidationError("a setting is given twice")
        settings = msgspec.convert(dict(pairs), _Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{shown_whole(url)!r}: {error}; the settings are retain_bytes (integer >= 0), "
            f"retain_seconds (integer >= 1) and file_bytes (integer >= 1)"
        ) from error
    return Path(directory), settings


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


# -- writing


class _Writer:
    """The file that a publisher appends to."""

    def __init__(self, directory: Path, settings: _Settings) -> None:
        self._directory = directory
        self._settings = settings
        self._id = uuid.uuid4().hex[:12]
        self._number = 0
        self._path = directory
        self._file: FileIO | None = None
        self._stored_bytes = 0
        # a cancelled event loop leaves its thread behind, still writing
        self._one_at_a_time = threading.Lock()

    def append(self, chunks: Sequence[Chunk]) -> None:
        """
        Append and sync `chunks`, all or none.

        Raises:
            BrokerUnavailable: They could not be written. The next append begins a new file.
        """
        buffers = [buffer for chunk in chunks for buffer in encode(chunk)]
        with self._one_at_a_time:
            stored = False
            try:
                file = self._file or self._create()
                _write(file.fileno(), buffers)
                _sync(file.fileno())
                if os.fstat(file.fileno()).st_nlink == 0:
                    raise FileNotFoundError(errno.ENOENT, "deleted while it was written to")
                stored = True
            except OSError as error:
                raise BrokerUnavailable(
                    f"{self._path}: {len(chunks)} chunks could not be stored: {error}; "
                    f"make room or mend the disk, then send them again"
                ) from error
            finally:
                if not stored:
                    self._abandon()
            self._stored_bytes += sum(map(len, buffers))
            if self._stored_bytes >= self._settings.file_bytes:
                self._close()

    def close(self) -> None:
        """Give up the file, so that readers know it as finished."""
        with self._one_at_a_time:
            self._close()

    def _create(self) -> FileIO:
        self._path = self._directory
        _make_directory(_groups(self._directory))
        _tidy(self._directory, self._settings)
        names = [_CHUNK_FILE.fullmatch(name) for name in os.listdir(self._directory)]
        self._number = 1 + max([self._number, *(int(name[1]) for name in names if name)])
        self._path = self._directory / f"{self._number:020}-{self._id}.chunks"
        self._stored_bytes = 0
        self._file = file = FileIO(disk.open_private(self._path, os.O_WRONLY | os.O_EXCL), "wb")
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)  # before its first byte: see Source.look
        _sync_directory(self._directory)
        return file

    def _abandon(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        # where the disk refuses this too, readers skip what is torn; a whole frame that remains comes twice
        with suppress(OSError):
            os.ftruncate(file.fileno(), self._stored_bytes)
            if self._stored_bytes == 0:
                self._path.unlink()
        file.close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _write(fd: int, buffers: Sequence[bytes]) -> None:
    left = deque(memoryview(buffer) for buffer in buffers)
    while left:
        written = os.writev(fd, [left[index] for index in range(min(len(left), _BUFFERS_A_WRITE))])
        while left and written >= len(left[0]):
            written -= len(left.popleft())
        if written:
            left[0] = left[0][written:]


def _make_directory(directory: Path) -> None:
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        disk.make_private_directory(path)
        _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# -- reading


class _Place:
    """Where a group is in every file, and the lock that makes us its only reader."""

    def __init__(self, directory: Path, group: str, *, from_start: bool) -> None:
        self._directory = directory
        self._group = group
        self._path = _groups(directory) / f"{group}.json"
        _make_directory(self._path.parent)
        with _undisturbed(directory):
            self._lock = _take_lock(self._path.with_name(f"{group}.lock"), directory, group)
        positions = {} if from_start else _positions(self._path)
        self._sources = {name: Source(directory / name, offset) for name, offset in positions.items()}
        self._committed: dict[str, int] | None = None
        self._next_commit = 0.0
        # a cancelled commit leaves its thread behind, and must not write after another reader has joined
        self._one_at_a_time = threading.Lock()
        self.commit()

    def look(self) -> list[Source]:
        """Return the files that have something to read, oldest first."""
        names = sorted(name for name in os.listdir(self._directory) if _CHUNK_FILE.fullmatch(name))
        sources = {name: self._sources.get(name) or Source(self._directory / name, 0) for name in names}
        for name, source in self._sources.items():
            if name not in sources and source.position < source.size:
                log.warning(
                    "%s was deleted before group %r had read its last %d bytes; retention did not do that",
                    source.path,
                    self._group,
                    source.size - source.position,
                )
        # sizes from new to old, then read from old to new: whatever is read of a publisher's (or of its
        # successor's) later file, all that was published before it has been read by then
        for name in reversed(names):
            source = sources[name]
            if not source.finished:
                with suppress(FileNotFoundError):  # deleted since it was listed
                    source.look()
        self._sources = sources
        return [source for source in sources.values() if source.position < source.size]

    def commit(self) -> None:
        """Write down what is acknowledged. Where that fails, a warning says so; reading goes on."""
        with self._one_at_a_time:
            if self._lock.closed:
                return
            positions = self._acknowledged()
            unfinished = self._path.with_name(f"{self._path.name}.new")
            try:
                disk.create_private(unfinished)
                unfinished.write_bytes(msgspec.json.encode(positions))
                unfinished.replace(self._path)
                self._committed = positions
                self._next_commit = time.monotonic() + _COMMIT_SECONDS
            except OSError as error:
                self._next_commit = time.monotonic() + _COMMIT_RETRY_SECONDS
                log.warning(
                    "%s: acks could not be written: %s; until they are, a crash brings chunks again",
                    self._path,
                    error,
                )

    def commit_is_due(self) -> bool:
        """Whether there are acks to write down, and the last ones are long enough ago."""
        return time.monotonic() >= self._next_commit and self._committed != self._acknowledged()

    def leave(self) -> None:
        """Commit, and let another reader join."""
        self.commit()
        with self._one_at_a_time:
            self._lock.close()

    def _acknowledged(self) -> dict[str, int]:
        return {name: source.acknowledged for name, source in self._sources.items()}


def _take_lock(path: Path, directory: Path, group: str) -> FileIO:
    lock = FileIO(disk.open_private(path, os.O_RDWR), "r+b")
    try:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = lock.read(20).decode(errors="replace").strip() or "unknown"
        lock.close()
        raise ConfigError(
            f"group {group!r} of {directory} is being read by process {holder}, and has one reader at "
            f"a time; stop that one, or read as another group"
        ) from error
    with suppress(OSError):  # on a full disk the lock holds without a name
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n".encode())
    return lock


# -- retention


def _groups(directory: Path) -> Path:
    return directory / "groups"


@contextmanager
def _undisturbed(directory: Path) -> Iterator[None]:
    """Keep joining and retention apart: one tries the locks that the other takes, and counts who is there."""
    fd = disk.open_private(_groups(directory) / ".lock", os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _positions(path: Path) -> dict[str, int]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Annotated[int, msgspec.Meta(ge=0)]])
    except FileNotFoundError:
        return {}
    except UNDECODABLE as error:  # the machine went down before it was on disk
        log.warning("%s: %s; the group reads from the start again", path, error)
        return {}


def _tidy(directory: Path, settings: _Settings) -> None:
    """Delete what retention no longer keeps. Where that fails, a warning says so; nothing else is held up."""
    try:
        with _undisturbed(directory):
            _retain(directory, settings)
    except OSError as error:
        log.warning("%s: old files could not be deleted: %s; mend it, or it grows", directory, error)


def _forget(directory: Path, group: str) -> bool:
    """Remove a group, unless somebody reads as it; return whether it is gone."""
    path = _groups(directory) / f"{group}.json"
    if path.parent.exists():
        with _undisturbed(directory):
            if not _is_unlocked(path.with_suffix(".lock")):
                return False
            _remove(path)
    return True


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_suffix(".lock").unlink(missing_ok=True)


def _retain(directory: Path, settings: _Settings) -> None:
    now = time.time()
    counting, away = _groups_by_standing(directory, settings, now)
    files = {path.name: path.stat() for path in sorted(directory.glob("*.chunks")) if _CHUNK_FILE.fullmatch(path.name)}
    total = sum(stat.st_size for stat in files.values())
    unread: set[str] = set()
    for name, stat in files.items():
        if not _is_due(
            now - stat.st_mtime, stat.st_size, settings, full=total > settings.retain_bytes and bool(counting)
        ):
            continue
        behind = _behind(counting, name, stat.st_size)
        unread.update(behind)
        path = directory / name
        if behind or not _is_unlocked(path):
            continue
        if missed := _behind(away, name, stat.st_size):
            log.warning(
                "%s is deleted unread by the groups %s, which have been away longer than retain_seconds=%d",
                path,
                missed,
                settings.retain_seconds,
            )
        path.unlink(missing_ok=True)
        total -= stat.st_size
    if total > settings.retain_bytes and unread:
        log.warning(
            "%s holds %d bytes, more than retain_bytes=%d, since the groups %s have not acknowledged them; "
            "start their readers, or delete the files of those no longer used in %s",
            directory,
            total,
            settings.retain_bytes,
            sorted(unread),
            _groups(directory),
        )


_Positions = dict[str, dict[str, int]]
"""Where each group is: by group and file, the bytes acknowledged."""


def _groups_by_standing(directory: Path, settings: _Settings, now: float) -> tuple[_Positions, _Positions]:
    """Return the groups that count and those that are away, and forget those that will not come back."""
    by_standing: dict[Standing, _Positions] = {Standing.COUNTS: {}, Standing.AWAY: {}}
    for path in sorted(_groups(directory).glob("*.json")):
        present, silent_seconds = not _is_unlocked(path.with_suffix(".lock")), now - path.stat().st_mtime
        how = standing(
            path.stem, present=present, silent_seconds=silent_seconds, retain_seconds=settings.retain_seconds
        )
        if how is Standing.GONE:
            _remove(path)
        else:
            by_standing[how][path.stem] = _positions(path)
    return by_standing[Standing.COUNTS], by_standing[Standing.AWAY]


def _is_due(age_seconds: float, size: int, settings: _Settings, *, full: bool) -> bool:
    """Say whether a file is to go once every group that counts has it; `full` is whether all of them are too large."""
    if size == 0:
        return age_seconds >= _STILLBORN_SECONDS  # until then its publisher may be about to lock it
    return full or age_seconds > settings.retain_seconds


def _behind(groups: _Positions, name: str, size: int) -> list[str]:
    """Return which groups have not acknowledged all of a file."""
    return sorted(group for group, positions in groups.items() if positions.get(name, 0) < size)


def _is_unlocked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        return unlocked(fd)
    finally:
        os.close(fd)
