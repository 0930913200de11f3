"""
The Parquet files of a store, each of one session and entity, as the engine writes them.

    log/<session>/<entity>-<time>-<number>.parquet
    state/<session>/<entity>-<kind>-<time>-<number>.parquet

Those of many small sessions come from one statement: to plan one takes longer than to work on fifty events. Nobody
knows of a file before the catalogue names it, and it names none that is not durable.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote

from raytrail import disk
from raytrail.entities.sql import SESSION
from raytrail.store.engine import Copied, Engine, copy_parquet

MOST_SESSIONS = 100
"""How many sessions' files are written at once: the engine has so many open."""


MANY_FILES = 50
"""More are made durable with all else on their disk, in one go: each by itself waits for the disk."""


class Written(NamedTuple):
    """A file that was written, and is not durable yet."""

    session: str
    path: Path
    rows: int
    bytes: int
    statistics: dict[str, dict[str, str]]
    """The ``min`` and ``max`` of its columns, or of those of many files, by their quoted names."""


class Files:
    """
    Writes the files of a store.

    Args:
        root: The store's directory.
        engine: Writes them.
    """

    def __init__(self, root: Path, engine: Engine) -> None:
        self._root = root
        self._engine = engine
        self._serial = itertools.count(1)

    def write(
        self,
        kind: Literal["log", "state"],
        name: str,
        sessions: Collection[str],
        select: str,
        most_rows: int | None = None,
        extremes: Mapping[str, tuple[str, str]] | None = None,
    ) -> list[Written]:
        """
        Write what a SELECT gives, a file for each session of which it gives anything.

        Args:
            kind: Of what the files are.
            name: What theirs begin with.
            sessions: Whose rows it gives; of several, which ones are of which is in the column `SESSION`.
            select: What to write.
            most_rows: How many rows a session can have; None: nobody knows.
            extremes: Which statistics are asked for: by column, the expressions of its ``min`` and ``max``.

        Raises:
            UnreadableError: The SELECT, or what it reads, is wrong. Nothing is left of the files.
            StoreUnavailable: The disk is full, or fails. Likewise.
        """
        with self._undone() as files:
            if len(sessions) == 1:
                [session] = sessions
                path = self._new(kind, session, name)
                files.append(Written(session, path, 0, 0, {}))
                [row] = self._engine.run(copy_parquet(select, path, most_rows))
                copied = Copied(*row[: len(Copied._fields)])
                files[:] = [Written(session, path, copied.rows, copied.file_bytes, copied.statistics)]
            else:
                self._write_divided(kind, name, select, most_rows, extremes or {}, files)
        for file in files:
            if not file.rows:
                file.path.unlink()
        return [file for file in files if file.rows]

    def _write_divided(
        self,
        kind: str,
        name: str,
        select: str,
        most_rows: int | None,
        extremes: Mapping[str, tuple[str, str]],
        files: list[Written],
    ) -> None:
        division = f"divided_{next(self._serial)}"
        directory = self._root / "tmp" / f"{division}-{os.getpid()}"
        # a table, as it is little, and read three times
        self._engine.run(f"CREATE TABLE {division} AS {select}")
        try:
            statistics = self._extremes(division, extremes)
            rows = dict(self._engine.run(f"SELECT {SESSION.name}, count(*) FROM {division} GROUP BY ALL"))
            [(_, paths)] = self._engine.run(
                copy_parquet(f"FROM {division}", directory, most_rows, divide_by=SESSION.name)
            )
            for divided in map(Path, paths):
                session = unquote(divided.parent.name.removeprefix(f"{SESSION.name}="))
                path = self._new(kind, session, name)
                os.rename(divided, path)
                files.append(Written(session, path, rows.pop(session), path.stat().st_size, statistics))
        finally:
            self._engine.run(f"DROP TABLE {division}")
            shutil.rmtree(directory, ignore_errors=True)

    def _extremes(self, table: str, extremes: Mapping[str, tuple[str, str]]) -> dict[str, dict[str, str]]:
        if not extremes:
            return {}
        items = ", ".join(f"{expression}::VARCHAR" for pair in extremes.values() for expression in pair)
        [values] = self._engine.run(f"SELECT {items} FROM {table}")
        return {
            column: {which: value for which, value in (("min", low), ("max", high)) if value is not None}
            for column, low, high in zip(extremes, values[::2], values[1::2], strict=True)
        }

    @contextmanager
    def _undone(self) -> Iterator[list[Written]]:
        """Give a list of files, which are deleted if what is done with it fails."""
        files: list[Written] = []
        try:
            yield files
        except BaseException:
            delete(file.path for file in files)
            raise

    def _new(self, kind: str, session: str, name: str) -> Path:
        directory = self._root / kind / session
        disk.make_private_directory(directory)
        return directory / f"{name}-{time.time_ns():020d}-{next(self._serial):06d}.parquet"


def delete(paths: Iterable[Path]) -> None:
    """Delete files that nobody names; those that are gone already are passed over."""
    for path in paths:
        path.unlink(missing_ok=True)


def make_durable(paths: Collection[Path]) -> None:
    """Make files durable, and their names, and leave them to their owner alone: the engine makes files by the umask."""
    for path in paths:
        with path.open("rb") as file:
            disk.make_private(file.fileno())
    if len(paths) > MANY_FILES and disk.sync_file_system(next(iter(paths)).parent):
        return
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_directories(path.parent for path in paths)


def sync_directories(directories: Iterable[Path]) -> None:
    """Make the names in these directories durable."""
    for directory in set(directories):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
