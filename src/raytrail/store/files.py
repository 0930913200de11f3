"""
The Parquet files of a store, each of one session and entity: how the engine writes them, and whether they are intact.

    log/<session>/<entity>-<time>-<number>.parquet
    state/<session>/<entity>-<kind>-<time>-<number>.parquet

Those of many small sessions come from one statement: to plan one takes longer than to work on fifty events. Nobody
knows of a file before the catalogue names it, and it names none that is not durable.

The catalogue names each with its size and checksum. A process checks each before it reads it for the first time. The
checksum is a CRC-32, which finds what disks and memory do. It guards against nobody who may write into the store.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
import zlib
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote

from raytrail import disk
from raytrail.errors import StoreDamaged
from raytrail.fold.sessions import SESSION
from raytrail.store.catalogue import LogFile, StateFile
from raytrail.store.engine import Copied, Engine, copy_parquet

MOST_SESSIONS = 100
"""How many sessions' files are written at once: the engine has so many open."""

MANY_FILES = 50
"""More are made durable with all else on their disk, in one go: each by itself waits for the disk."""

MOST_CHECKED = 100_000
"""How many files are remembered as checked, those that were checked last: some 30 MB."""

BLOCK_BYTES = 128 * 1024
"""How much is read at once: it stays in a cache of the core."""

_AGAIN = "bring it back from a copy of the store, or import the session again into another one"
_CURES = {"log": _AGAIN, "logs": _AGAIN, "state": "fold it anew from the log: raytrail rebuild --cluster {session}"}
"""The cure for a damaged file, by the directory that it lies in."""


class Sum(NamedTuple):
    """The checksum and size of a file when it was written."""

    bytes: int
    crc32: int


class Written(NamedTuple):
    """A file that was written, and is not durable yet."""

    session: str
    path: Path
    rows: int
    statistics: dict[str, dict[str, str]]
    """The ``min`` and ``max`` of its columns, or of those of many files, by their quoted names."""


def measure(path: Path) -> Sum:
    """
    Return a file's size and checksum.

    Raises:
        OSError: It cannot be read.
    """
    crc, size, block = 0, 0, memoryview(bytearray(BLOCK_BYTES))
    with open(path, "rb", buffering=0) as file:
        while length := file.readinto(block):
            crc, size = zlib.crc32(block[:length], crc), size + length
    return Sum(size, crc)


class Files:
    """
    Writes the files of a store, and checks them before they are read.

    Args:
        root: The store's directory.
        engine: Writes them.
    """

    def __init__(self, root: Path, engine: Engine) -> None:
        self._root = root
        self._engine = engine
        self._serial = itertools.count(1)
        self._checked: OrderedDict[tuple[str, int, int], None] = OrderedDict()
        """Their paths, sizes, and times of their last change."""

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
            kind: The kind of the files.
            name: The beginning of their names.
            sessions: The sessions whose rows it gives. With several, the column `SESSION` gives the session of each
                row.
            select: The statement whose rows are written.
            most_rows: How many rows a session can have, or None where nobody knows.
            extremes: Which statistics are asked for: by column, the expressions of its ``min`` and ``max``.

        Raises:
            UnreadableError: The SELECT, or what it reads, is wrong. Nothing is left of the files.
            StoreUnavailable: The disk is full, or fails. Likewise.
        """
        with self._undone() as files:
            if len(sessions) == 1:
                [session] = sessions
                path = self._name_new(kind, session, name)
                files.append(Written(session, path, 0, {}))
                [row] = self._engine.run(copy_parquet(select, path, most_rows, threads=kind != "log"))
                copied = Copied(*row[: len(Copied._fields)])
                files[:] = [Written(session, path, copied.rows, copied.statistics)]
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
            statistics = self._read_extremes(division, extremes)
            rows = dict(self._engine.run(f"SELECT {SESSION.name}, count(*) FROM {division} GROUP BY ALL"))
            [(_, paths)] = self._engine.run(
                copy_parquet(f"FROM {division}", directory, most_rows, divide_by=SESSION.name)
            )
            for divided in map(Path, paths):
                session = unquote(divided.parent.name.removeprefix(f"{SESSION.name}="))
                path = self._name_new(kind, session, name)
                os.rename(divided, path)
                files.append(Written(session, path, rows.pop(session), statistics))
        finally:
            self._engine.run(f"DROP TABLE {division}")
            shutil.rmtree(directory, ignore_errors=True)

    def _read_extremes(self, table: str, extremes: Mapping[str, tuple[str, str]]) -> dict[str, dict[str, str]]:
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

    def _name_new(self, kind: str, session: str, name: str) -> Path:
        directory = self._root / kind / session
        disk.make_private_directory(directory)
        return directory / f"{name}-{time.time_ns():020d}-{next(self._serial):06d}.parquet"

    def state(self, name: str, kind: str, file: Written) -> StateFile:
        """Return what the catalogue is to name of a file of an entity's states, which is durable by now."""
        return StateFile(name, kind, str(file.path.relative_to(self._root)), file.rows, *measure(file.path))

    def paths(self, files: Iterable[LogFile | StateFile]) -> list[Path]:
        """Return the places of these files, all of them checked as in `path`."""
        return [self.path(file) for file in files]

    def path(self, file: LogFile | StateFile, *, whole: bool = True, again: bool = False) -> Path:
        """
        Return where a file lies, once it is checked.

        Args:
            file: Its row. Without a checksum, as older versions named files, it is not checked.
            whole: Whether all of it is read, once in a process. Otherwise its size alone is looked at.
            again: Whether it is read though this process has checked it before.

        Raises:
            StoreDamaged: It is not what was written.
        """
        path = self._root / file.path
        if file.crc32 is None:
            return path
        try:
            status = path.stat()
        except FileNotFoundError:
            raise damaged(path, "it is gone") from None
        if status.st_size != file.bytes:
            raise damaged(path, f"it has {status.st_size:,} bytes and not {file.bytes:,}")
        seen = (file.path, status.st_size, status.st_mtime_ns)
        if again or (whole and seen not in self._checked):
            if measure(path) != (file.bytes, file.crc32):
                raise damaged(path, "its bytes are not those that were written")
            self._checked[seen] = None
            while len(self._checked) > MOST_CHECKED:
                self._checked.popitem(last=False)
        return path

    def verify(self, file: LogFile | StateFile) -> None:
        """
        Check a file, whether this process has read it before or not.

        Raises:
            StoreDamaged: It is not what was written, or gone.
        """
        if not self.exists(file):
            raise damaged(self._root / file.path, "it is gone")
        self.path(file, again=True)

    def exists(self, file: LogFile | StateFile) -> bool:
        """Return whether a file is there."""
        return (self._root / file.path).exists()


def damaged(path: Path, how: str) -> StoreDamaged:
    """Return the error of a file, which lies in a session's directory in one of the store's."""
    session, kind = path.parent.name, path.parent.parent.name
    return StoreDamaged(f"{path}: {how}; {_CURES[kind].format(session=session)}", session)


def delete(paths: Iterable[Path]) -> None:
    """Delete files that nobody names. Those that are gone already are passed over."""
    for path in paths:
        path.unlink(missing_ok=True)


def make_durable(paths: Collection[Path]) -> None:
    """Make files durable, and their names, and leave them to their owner alone: the engine makes files by the umask."""
    together = len(paths) > MANY_FILES
    for path in paths:
        with path.open("rb") as file:
            disk.make_private(file.fileno())
            if not together:
                os.fsync(file.fileno())
    if together and disk.sync_file_system(next(iter(paths)).parent):
        return
    for path in paths if together else ():
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
