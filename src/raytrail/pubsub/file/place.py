"""Where a group is in every file, and the lock that makes its reader the only one."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path

import msgspec

from raytrail import disk
from raytrail.errors import ConfigError
from raytrail.pubsub.file.frames import Source
from raytrail.pubsub.file.layout import CHUNK_FILE, groups_directory, make_directory, read_positions
from raytrail.pubsub.file.retention import undisturbed

log = logging.getLogger(__name__)
_COMMIT_SECONDS = 0.05
_COMMIT_RETRY_SECONDS = 5.0


class Place:
    """Where a group is in every file, and the lock that makes us its only reader."""

    def __init__(self, directory: Path, group: str, *, from_start: bool) -> None:
        self._directory = directory
        self._group = group
        self._path = groups_directory(directory) / f"{group}.json"
        make_directory(self._path.parent)
        with undisturbed(directory):
            self._lock = _take_lock(self._path.with_name(f"{group}.lock"), directory, group)
        positions = {} if from_start else read_positions(self._path)
        self._sources = {name: Source(directory / name, offset) for name, offset in positions.items()}
        self._committed: dict[str, int] | None = None
        self._next_commit = 0.0
        # a cancelled commit leaves its thread behind, and must not write after another reader has joined
        self._one_at_a_time = threading.Lock()
        self.commit()

    def look(self) -> list[Source]:
        """Return the files that have something to read, oldest first."""
        names = sorted(name for name in os.listdir(self._directory) if CHUNK_FILE.fullmatch(name))
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


def unacknowledged_bytes(directory: Path, group: str) -> int:
    """Return how much of the files a group has not acknowledged, by what it wrote down."""
    positions = read_positions(groups_directory(directory) / f"{group}.json")
    with os.scandir(directory) as entries:
        files = [entry for entry in entries if CHUNK_FILE.fullmatch(entry.name)]
    unread = 0
    for file in files:
        with suppress(FileNotFoundError):  # deleted since it was listed
            unread += max(0, file.stat().st_size - positions.get(file.name, 0))
    return unread


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
