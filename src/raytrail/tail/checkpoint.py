"""
Keep in SQLite how much of every file has been acknowledged: its contiguous prefix, and never a read position.

An acknowledgement may come before that of the lines in front of it. It waits in memory until the hole is closed. An
agent that is killed reads again from the prefix, and the store drops what it has already.
"""

from __future__ import annotations

import fcntl
import heapq
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from raytrail import disk
from raytrail.errors import ConfigError
from raytrail.event import FileId, Segment

log = logging.getLogger(__name__)

_VERSION = 1
_SKIPPED = -1
_COMMIT_SECONDS = 0.25
_COMMIT_BYTES = 8 * 1024 * 1024
_SCHEMA = """
CREATE TABLE IF NOT EXISTS file (
    file TEXT, generation INTEGER, inode TEXT,
    directory TEXT, name TEXT, event_type TEXT, session TEXT, node_id TEXT,
    acknowledged INTEGER, events INTEGER, skipped INTEGER, written INTEGER,
    PRIMARY KEY (file, generation)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""


@dataclass(eq=False)
class Mark:
    """How far one file was acknowledged, and what its report needs."""

    file: FileId
    generation: int
    inode: str
    """``<device>:<inode>`` in hex. A file that is elsewhere is not trusted to be the same, but read again."""
    directory: str
    """The directory it lies in."""
    name: str
    """Its name when it was first seen. A log has its name by now, with its place in ``logs/``."""
    event_type: str
    session: str
    node_id: str
    acknowledged: int = 0
    """Offset up to which all is acknowledged (or skipped)."""
    events: int = 0
    """Lines before that offset."""
    skipped: int = 0
    """Bytes of lines that were too long to ship. A log has those over its limit that are not in `written`."""
    written: int = 0
    """The largest size seen on disk."""
    reading: dict[int, int] = field(default_factory=dict)
    """Lines by start offset of the segments that were read and are not yet acknowledged."""
    unread: tuple[int, int, str] | None = None
    """
    Offset and length of the bytes that are not read though the writer is gone, and why. Each process finds it out anew.
    """
    ahead: list[tuple[int, int, int]] = field(default_factory=list)
    """Start, end and lines (or `_SKIPPED`) of ranges that are done with behind a hole. It is a heap."""

    @property
    def key(self) -> tuple[FileId, int]:
        """The id that segments name it by."""
        return self.file, self.generation

    @property
    def missing(self) -> int:
        """Bytes seen on disk that are not acknowledged."""
        return max(0, self.written - self.acknowledged - sum(end - start for start, end, _ in self.ahead))

    def advance(self, start: int, end: int, lines: int) -> None:
        """Note that ``[start, end)`` is done with."""
        heapq.heappush(self.ahead, (start, end, lines))
        while self.ahead and self.ahead[0][0] <= self.acknowledged:
            _, end, lines = heapq.heappop(self.ahead)
            if end > self.acknowledged and lines == _SKIPPED:
                self.skipped += end - self.acknowledged
            elif end > self.acknowledged:
                self.events += lines
            self.acknowledged = max(end, self.acknowledged)


class Checkpoint:
    """
    The marks of all files, kept in one SQLite file that no second agent can open.

    Args:
        path: The file. Its directory is made. None keeps nothing beyond this process.

    Raises:
        ConfigError: Another agent has it, it is damaged, or it was written by a newer Raytrail.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._mutex = threading.Lock()  # acknowledged on the event loop, committed from a thread
        self._dirty: set[Mark] = set()
        self._forgotten: set[tuple[FileId, int]] = set()
        self._noted: dict[str, str | None] = {}  # None: to be forgotten
        self._failing = self._closed = False
        self._acknowledged = 0  # bytes, since the last commit
        self.published: dict[str, tuple[int, int]] = {}
        """Events and bytes that were acknowledged since this was opened, by event type."""
        self._committed_at = 0.0
        self._lock = None if path is None else _lock(path)
        try:
            self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
            self._marks, self._notes = _load(self._db, path)
        except sqlite3.OperationalError as error:
            self._unlock()
            raise ConfigError(
                f"checkpoint {path}: {error}; make room on that disk, or give another one with --state-dir"
            ) from error
        except sqlite3.Error as error:
            self._unlock()
            raise ConfigError(
                f"checkpoint {path}: {error}; move it away: all files are read again, the store drops repeats"
            ) from error
        except ConfigError:
            self._unlock()
            raise

    def marks(self) -> list[Mark]:
        """Return the marks of all files."""
        with self._mutex:
            return [mark for generations in self._marks.values() for mark in generations.values()]

    def mark(self, key: tuple[FileId, int]) -> Mark:
        """Return the mark of one generation of a file, which must be there."""
        file, generation = key
        return self._marks[file][generation]

    def newest(self, file: FileId) -> Mark | None:
        """Return the mark of a file's last generation, if there is any."""
        generations = self._marks.get(file)
        return generations[max(generations)] if generations else None

    def add(self, mark: Mark) -> None:
        """Begin to keep `mark`."""
        with self._mutex:
            self._marks.setdefault(mark.file, {})[mark.generation] = mark
            self._forgotten.discard(mark.key)

    def touch(self, mark: Mark) -> None:
        """Have the next commit write `mark`, which was changed."""
        with self._mutex:
            self._dirty.add(mark)

    def forget(self, mark: Mark) -> None:
        """Drop `mark`. Its file is gone, and all that could be said of it has been."""
        with self._mutex:
            del self._marks[mark.file][mark.generation]
            if not self._marks[mark.file]:
                del self._marks[mark.file]
            self._dirty.discard(mark)
            self._forgotten.add(mark.key)

    def acknowledge(self, segments: Iterable[Segment]) -> None:
        """Note that the broker has stored `segments`, in any order. Kept in memory until `commit`."""
        with self._mutex:
            for segment in segments:
                mark = self._marks[segment.file][segment.generation]
                lines = mark.reading.pop(segment.start, 0)
                mark.advance(segment.start, segment.end, lines)
                self._dirty.add(mark)
                self._acknowledged += segment.length
                events, size = self.published.get(mark.event_type, (0, 0))
                self.published[mark.event_type] = events + lines, size + segment.length

    def skip(self, mark: Mark, start: int, end: int) -> None:
        """Note that ``[start, end)`` will not be shipped."""
        with self._mutex:
            mark.advance(start, end, _SKIPPED)
            self._dirty.add(mark)

    def note(self, name: str) -> str | None:
        """Return what was last remembered under `name`."""
        return self._notes.get(name)

    def remember(self, name: str, value: str) -> None:
        """Remember `value` under `name`. Kept in memory until `commit`."""
        with self._mutex:
            self._notes[name] = self._noted[name] = value

    def notes(self, prefix: str) -> list[str]:
        """Return the names that begin so and under which something is remembered."""
        with self._mutex:
            return [name for name in self._notes if name.startswith(prefix)]

    def forget_note(self, name: str) -> None:
        """Drop what was remembered under `name`, if anything."""
        with self._mutex:
            if self._notes.pop(name, None) is not None:
                self._noted[name] = None

    @property
    def age_seconds(self) -> float:
        """How long notes have not been written down, or 0 where all are."""
        return time.monotonic() - self._committed_at if self._dirty and self._committed_at else 0.0

    @property
    def due(self) -> bool:
        """
        Tell whether to commit. It is no more often than each 250 ms, and no later than after 8 MB.

        This bounds what is published again after a kill, at half a percent of a core.
        """
        changed = self._dirty or self._forgotten or self._noted
        pause = 1.0 if self._failing else _COMMIT_SECONDS
        return bool(changed) and (
            time.monotonic() - self._committed_at >= pause
            or (self._acknowledged >= _COMMIT_BYTES and not self._failing)
        )

    def commit(self) -> bool:
        """
        Write down all notes. Return False if the disk would not take it.

        Nothing is lost then: it is all written at the next commit that succeeds. An agent that is killed before that
        publishes again what was published since, and the store drops it.
        """
        with self._mutex:
            rows = [_row(mark) for mark in self._dirty]
            gone, noted = list(self._forgotten), list(self._noted.items())
            dirty, self._dirty = self._dirty, set()
            self._forgotten, self._noted = set(), {}
            self._acknowledged, self._committed_at = 0, time.monotonic()
        if not (rows or gone or noted):
            return True
        try:
            self._write(rows, gone, noted)
        except sqlite3.OperationalError as error:
            with self._mutex:
                self._dirty |= {mark for mark in dirty if self._has(mark)}
                self._forgotten |= {key for key in gone if key[1] not in self._marks.get(key[0], {})}
                self._noted = dict(noted) | self._noted
            if not self._failing:
                log.warning(
                    "checkpoint %s: %s; nothing is lost, but what is published from now on will be published "
                    "again after a restart; make room on that disk",
                    self.path,
                    error,
                )
            self._failing = True
            return False
        if self._failing:
            log.info("checkpoint %s: written again", self.path)
        self._failing = False
        return True

    def close(self) -> None:
        """Commit, and let another agent have it. Safe to call twice."""
        if not self._closed:
            self.commit()
            self._db.close()
            self._unlock()
            self._closed = True

    def _has(self, mark: Mark) -> bool:
        return self._marks.get(mark.file, {}).get(mark.generation) is mark

    def _write(
        self, rows: list[tuple[object, ...]], gone: list[tuple[FileId, int]], noted: list[tuple[str, str | None]]
    ) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("DELETE FROM file WHERE file = ? AND generation = ?", gone)
            self._db.executemany("INSERT OR REPLACE INTO file VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", rows)
            # names of directories, which may hold any bytes, and SQLite's texts may not
            notes = [(disk.escape_name(name), value and disk.escape_name(value)) for name, value in noted]
            self._db.executemany("DELETE FROM note WHERE name = ?", [(name,) for name, _ in notes])
            self._db.executemany("INSERT INTO note VALUES (?, ?)", [note for note in notes if note[1] is not None])
            self._db.execute("COMMIT")
        except sqlite3.OperationalError:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock(path: Path) -> int:
    """Take the lock beside the checkpoint. The kernel lets go of it when the process ends."""
    beside = path.with_name(path.name + ".lock")
    try:
        disk.make_private_directory(path.parent)
        lock = disk.open_private(beside, os.O_RDWR)
        disk.create_private(path)
    except OSError as error:
        raise ConfigError(
            f"state directory {path.parent}: {error.strerror}; give one that can be written with --state-dir"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise ConfigError(
            f"state directory {path.parent} is in use by another agent (process {owner}); "
            "stop that one, or give this one a directory of its own with --state-dir"
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _load(db: sqlite3.Connection, path: Path | None) -> tuple[dict[FileId, dict[int, Mark]], dict[str, str]]:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")  # a lost tail of commits means repeats, never loss
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > _VERSION:
        raise ConfigError(
            f"checkpoint {path} is of version {version}, this Raytrail knows {_VERSION}; upgrade it, "
            "or give it a directory of its own with --state-dir"
        )
    db.executescript(_SCHEMA)
    db.execute(f"PRAGMA user_version = {_VERSION}")
    marks: dict[FileId, dict[int, Mark]] = {}
    for row in db.execute("SELECT * FROM file"):
        mark = Mark(*row)
        mark.directory = disk.unescape_name(mark.directory)
        marks.setdefault(mark.file, {})[mark.generation] = mark
    notes = db.execute("SELECT name, value FROM note").fetchall()
    return marks, {disk.unescape_name(name): disk.unescape_name(value) for name, value in notes}


def _row(mark: Mark) -> tuple[object, ...]:
    return (
        mark.file,
        mark.generation,
        mark.inode,
        disk.escape_name(mark.directory),
        mark.name,
        mark.event_type,
        mark.session,
        mark.node_id,
        mark.acknowledged,
        mark.events,
        mark.skipped,
        mark.written,
    )
