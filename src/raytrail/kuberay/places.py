"""What a reader of KubeRay's collection has read, kept across restarts. Whatever it forgets is only read again."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from raytrail import disk
from raytrail.errors import ConfigError
from raytrail.kuberay.files import File

_COMMIT_SECONDS = 1.0

log = logging.getLogger(__name__)


class Places:
    """
    The versions of files that were read to their end, and are safe with whoever took their events.

    Any thread may call it. After it was closed it notes nothing, as an ack may come later than that.

    Args:
        path: The SQLite file. None keeps nothing beyond this process.

    Raises:
        ConfigError: The file cannot be used.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._committed_at = 0.0
        self._lock = threading.Lock()
        self.closed = False
        try:
            if path is not None:
                disk.make_private_directory(path.parent)
                disk.create_private(path)
            self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
            self._db.execute("CREATE TABLE IF NOT EXISTS files(name TEXT PRIMARY KEY, version TEXT, broken INTEGER)")
            self._db.execute("CREATE TABLE IF NOT EXISTS sessions(session TEXT PRIMARY KEY, last_ns INTEGER)")
            self._files: dict[str, tuple[str, bool]] = {
                name: (version, bool(broken)) for name, version, broken in self._db.execute("SELECT * FROM files")
            }
            self._last_ns: dict[str, int] = dict(self._db.execute("SELECT * FROM sessions").fetchall())
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"{path}: {error}; remove it: all files are read again, the store drops repeats"
            ) from error

    def new(self, files: Iterable[File], *, retry: bool) -> tuple[File, ...]:
        """
        Return the files that were not read in the version that is there.

        Args:
            files: The files that are there.
            retry: Whether those are among them that were tried and reported.
        """
        return tuple(
            file
            for file in files
            if (not file.version or self._version(file) != file.version)
            and (retry or not (self.was_closed(file) and self.was_broken(file)))
        )

    def was_closed(self, file: File) -> bool:
        """Return whether the try before could not read a file, and another may."""
        return self._version(file) == ""

    def was_broken(self, file: File) -> bool:
        """Return whether it was reported that a file could not be read to its end."""
        return self._files.get(file.name, ("", False))[1]

    def done(self, file: File, *, broken: bool, closed: bool = False) -> None:
        """
        Note that a file was read, and what came of it is safe.

        Args:
            file: The file.
            broken: Whether it was reported that it could not be read to its end.
            closed: Whether it is to be tried again.
        """
        version = "" if closed else file.version
        self._files[file.name] = (version, broken)
        self._write("INSERT OR REPLACE INTO files VALUES(?, ?, ?)", [(file.name, version, broken)])
        if time.monotonic() - self._committed_at >= _COMMIT_SECONDS:
            self.commit()

    def last_ns(self, session: str) -> int:
        """Return when the last thing happened in a session that is known of, in nanoseconds since the epoch."""
        return self._last_ns.get(session, 0)

    def happened(self, session: str, at_ns: int) -> None:
        """Note that something happened in a session."""
        if at_ns > self.last_ns(session):
            self._last_ns[session] = at_ns
            self._write("INSERT OR REPLACE INTO sessions VALUES(?, ?)", [(session, at_ns)])

    def keep(self, names: set[str]) -> None:
        """Forget the files that are not there any more, which are all but these."""
        gone = self._files.keys() - names
        self._write("DELETE FROM files WHERE name = ?", [(name,) for name in gone])
        for name in gone:
            del self._files[name]

    def clear(self) -> None:
        """Forget all, so that all files are read again."""
        self.keep(set())
        self.commit()

    def commit(self) -> None:
        """Write down what was noted."""
        self._committed_at = time.monotonic()
        with self._lock:
            self._commit()

    def close(self) -> None:
        """Write down what was noted, and let go of the file."""
        with self._lock:
            self._commit()
            self.closed = True
            self._db.close()

    def _version(self, file: File) -> str | None:
        return self._files[file.name][0] if file.name in self._files else None

    def _commit(self) -> None:
        if self.closed or not self._db.in_transaction:
            return
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._warn(error)

    def _write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        with self._lock:
            if self.closed or not rows:
                return
            try:
                if not self._db.in_transaction:
                    self._db.execute("BEGIN")
                self._db.executemany(statement, rows)
            except sqlite3.Error as error:
                self._warn(error)

    def _warn(self, error: sqlite3.Error) -> None:
        log.warning("%s: %s; files whose place was not written are read again after a restart", self._path, error)
