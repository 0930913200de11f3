"""
The sessions' logs: bytes that came in ranges, kept compressed, read in ranges.

    logs/<session>/*.zst        bodies: Zstandard frames one after the other, each of up to 256 KB of one log
    catalogue.sqlite: frames    which range of which log a frame holds, and where it lies in which body

A frame is the least that is read, so a range costs what it holds, and no row group of a Parquet file, of which the
engine makes none with fewer than 2048 rows: of these pieces, half a gigabyte. A batch's bytes of one log are a frame,
and a batch is a body. While these are small and many, they are gathered: written anew as one body, in the order of logs
and ranges, in frames as large as may be. Sealing does so with all. ``zstd -d`` reads a body.
"""

from __future__ import annotations

import os
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from raytrail import disk
from raytrail.errors import NotFoundError, StoreDamaged, StoreError, StoreUnavailable
from raytrail.event import Segment
from raytrail.store.catalogue import Catalogue
from raytrail.store.files import damaged
from raytrail.zstd import ZstdError, compress, decompress

FRAME_BYTES = 256 * 1024
"""Most bytes of a log in a frame."""
SMALL_BYTES = 8 * 1024 * 1024
"""A body of fewer is gathered with others."""
SMALL_BODIES = 48
"""How many small bodies are let be."""
PAGE_FRAMES = 256
"""How many frames are looked up at once."""
FEW_LOGS = 100
"""How many logs are looked up one by one, rather than all of their session."""


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """One log of a session, as its node's agent last reported it."""

    node_id: str
    name: str
    """Its name in ``logs/``, when it was last seen."""
    file: str
    generation: int
    size: int
    """The end of its stored bytes."""
    stored_bytes: int
    written_bytes: int
    """The bytes that the agent saw on its disk."""
    skipped_bytes: int
    """The bytes that were not shipped, as they were over the agent's limit."""


class Frame(NamedTuple):
    """The place of a range of a log."""

    file: str
    generation: int
    start: int
    end: int
    body: int
    place: int
    length: int
    crc32: int | None
    """The checksum of the kept bytes, or None of those that an older version wrote."""


class Body(NamedTuple):
    """A body, and all that lies in it."""

    path: str
    bytes: int
    frames: list[Frame]


class Logs:
    """The logs of a store."""

    def __init__(self, root: Path, catalogue: Catalogue) -> None:
        self._root = root
        self._catalogue = catalogue
        self._serial = 0

    # -- writing

    def write(self, session: str, pieces: Iterable[tuple[Segment, bytes]]) -> tuple[Path, list[Frame]]:
        """
        Write a body. It is read once `name` has named it.

        Returns:
            Its path, and its frames, whose `body` is yet unknown.
        """
        path = self._name_body(session)
        with open(disk.open_private(path, os.O_WRONLY), "wb") as file:
            writer = _Writer(file)
            for segment, data in pieces:
                writer.add(segment, data)
            writer.finish()
            file.flush()
            os.fsync(file.fileno())
        return path, writer.frames

    def name(self, db: sqlite3.Connection, session: str, path: Path, frames: Iterable[Frame]) -> None:
        """Name a body and its frames, within a transaction of the catalogue."""
        listed = list(frames)
        body = db.execute(
            "INSERT INTO bodies(session, path, bytes) VALUES(?, ?, ?)",
            (session, str(path.relative_to(self._root)), sum(frame.end - frame.start for frame in listed)),
        ).lastrowid
        db.executemany(
            "INSERT INTO frames VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(session, *frame._replace(body=body or 0)) for frame in listed],
        )

    def gather(self, session: str, *, every: bool = False) -> list[Path]:
        """
        Write bodies that are small and many as one, or all of them.

        Returns:
            The bodies that are no longer named. Delete them once nobody reads them.

        Raises:
            StoreUnavailable: The disk is full, or fails. All is as it was.
        """
        limit = "" if every else f" AND bytes < {SMALL_BYTES}"
        rows = self._catalogue.query(f"SELECT id, path FROM bodies WHERE session = ?{limit} ORDER BY id", session)
        old = {id: self._root / path for id, path in rows}
        if len(old) < (2 if every else SMALL_BODIES):
            return []
        path = self._name_body(session)
        try:
            with open(disk.open_private(path, os.O_WRONLY), "wb") as file, closing(_Bodies(old)) as bodies:
                writer = _Writer(file)
                for frame in self._read_frames(session, list(old)):
                    writer.copy(frame, bodies.read(frame))
                writer.finish()
                file.flush()
                os.fsync(file.fileno())
            sync = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(sync)
            finally:
                os.close(sync)
            with self._catalogue.transaction() as db:
                marks = ", ".join("?" * len(old))
                db.execute(f"DELETE FROM frames WHERE session = ? AND body IN ({marks})", (session, *old))
                db.execute(f"DELETE FROM bodies WHERE id IN ({marks})", tuple(old))
                self.name(db, session, path, writer.frames)
        except (OSError, StoreError) as error:
            path.unlink(missing_ok=True)
            if isinstance(error, FileNotFoundError):
                raise self._gone(session, error) from error
            if isinstance(error, StoreError):
                raise
            raise StoreUnavailable(f"{path}: {error}; make room on the disk or mend it, and go on") from error
        return list(old.values())

    # -- reading

    def of(self, session: str, reports: Iterable[dict[str, object]]) -> list[Log]:
        """
        Return the logs that agents reported of a session, oldest first.

        Logs of which nothing came yet are among them.
        """
        reported = list(reports)
        stored: dict[tuple[object, object], tuple[int, int]] = {}
        if self._catalogue.keeps_logs:
            # if there are few, they alone are looked up
            few = [str(report["file"]) for report in reported] if len(reported) <= FEW_LOGS else []
            only = f" AND file IN ({', '.join('?' * len(few))})" if few else ""
            stored = {
                (file, generation): (end, length)
                for file, generation, end, length in self._catalogue.query(
                    f"SELECT file, generation, max(end), sum(end - start) FROM ranges WHERE session = ?{only} "
                    "GROUP BY file, generation",
                    session,
                    *few,
                )
            }
        logs = []
        for report in reported:
            size, length = stored.get((report["file"], report["generation"]), (0, 0))
            logs.append(
                msgspec.convert(
                    {
                        "node_id": report["node_id"] or "",
                        "name": report["path"] or report["name"] or "",
                        "file": report["file"],
                        "generation": report["generation"],
                        "size": size,
                        "stored_bytes": length,
                        "written_bytes": max(size, _number(report["written_bytes"])),
                        "skipped_bytes": _number(report["skipped_bytes"]),
                    },
                    Log,
                )
            )
        return sorted(logs, key=lambda log: (log.file, log.generation))

    def pieces(self, session: str, log: Log, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """
        Yield what is stored of ``[start, end)`` of a log, each piece with its offset, in order.

        Raises:
            StoreDamaged: A body is gone, or not what was written.
        """
        if not self._catalogue.keeps_logs:
            return
        at, again = start, False
        while at < end:
            page = self._find_page(session, log, at, end)
            if not page:
                return
            with closing(_Bodies(self._find_paths({frame.body for frame in page}))) as bodies:
                for frame in page:
                    try:
                        data = bytes(bodies.decompressed(frame))
                    except FileNotFoundError as error:  # it was gathered with others since it was looked up
                        if again and self._is_deleted(session):
                            return
                        if again:
                            raise self._gone(session, error) from error
                        again = True
                        break
                    again = False
                    low = max(at, frame.start)
                    piece = data[low - frame.start : end - frame.start]
                    at = frame.end
                    yield low, piece

    def read(self, session: str, log: Log, start: int, end: int | None) -> Iterator[bytes]:
        """Yield a range of a log as `pieces` does, with a line in place of what is missing that says so."""
        end = log.size if end is None else min(end, log.size)
        at = start
        for offset, data in self.pieces(session, log, start, end):
            if offset > at:
                yield _gap(at, offset)
            yield data
            at = offset + len(data)
        if at < end:
            yield _gap(at, end)
        elif at >= log.size and log.skipped_bytes:
            yield _gap(at, at + log.skipped_bytes, "were over the agent's limit")

    def bodies(self, session: str) -> Iterator[Body]:
        """Yield the bodies of a session."""
        if self._catalogue.keeps_logs:
            for id, path in self._catalogue.query("SELECT id, path FROM bodies WHERE session = ?", session):
                frames = list(self._read_frames(session, [id]))
                yield Body(path, sum(frame.length for frame in frames), frames)

    def verify(self, body: Body) -> None:
        """
        Read all that lies in a body.

        Raises:
            StoreDamaged: It is not what was written, or gone.
        """
        path = self._root / body.path
        if not path.exists():
            raise damaged(path, "it is gone")
        with closing(_Bodies({frame.body: path for frame in body.frames})) as bodies:
            for frame in body.frames:
                bodies.decompressed(frame)

    def _find_page(self, session: str, log: Log, start: int, end: int) -> list[Frame]:
        key = (session, log.file, log.generation)
        where = "session = ? AND file = ? AND generation = ?"
        [(first,)] = self._catalogue.query(f"SELECT max(start) FROM frames WHERE {where} AND start <= ?", *key, start)
        rows = self._catalogue.query(
            f"SELECT {self._list_columns()} FROM frames "
            f"WHERE {where} AND start >= ? AND start < ? AND end > ? ORDER BY start LIMIT {PAGE_FRAMES}",
            *key,
            first or 0,
            end,
            start,
        )
        return [Frame(*row) for row in rows]

    def _read_frames(self, session: str, bodies: Sequence[int]) -> Iterator[Frame]:
        marks = ", ".join("?" * len(bodies))
        for row in self._catalogue.query(
            f"SELECT {self._list_columns()} FROM frames "
            f"WHERE session = ? AND body IN ({marks}) ORDER BY file, generation, start",
            session,
            *bodies,
        ):
            yield Frame(*row)

    def _is_deleted(self, session: str) -> bool:
        return not self._catalogue.query("SELECT 1 FROM sessions WHERE session = ?", session)

    def _gone(self, session: str, error: FileNotFoundError) -> StoreDamaged:
        return damaged(self._root / "logs" / session / Path(error.filename).name, "it is gone")

    def _list_columns(self) -> str:
        return f"file, generation, start, end, body, place, length, {'crc32' if self._catalogue.keeps_sums else 'NULL'}"

    def _find_paths(self, bodies: set[int]) -> dict[int, Path]:
        marks = ", ".join("?" * len(bodies))
        rows = self._catalogue.query(f"SELECT id, path FROM bodies WHERE id IN ({marks})", *bodies)
        return {id: self._root / path for id, path in rows}

    def _name_body(self, session: str) -> Path:
        self._serial += 1
        directory = self._root / "logs" / session
        disk.make_private_directory(directory)
        return directory / f"{time.time_ns():020d}-{self._serial:06d}.zst"


class _Writer:
    """Writes frames, joining what belongs together."""

    def __init__(self, file: BinaryIO) -> None:
        self.frames: list[Frame] = []
        self._file = file
        self._place = 0
        self._key = ("", 0)
        self._start = 0
        self._parts: list[bytes] = []
        self._length = 0

    def add(self, segment: Segment, data: bytes) -> None:
        """Write a range of a log."""
        if (segment.file, segment.generation) != self._key or segment.start != self._start + self._length:
            self.finish()
            self._key, self._start = (segment.file, segment.generation), segment.start
        while data:
            part = data[: FRAME_BYTES - self._length]
            self._parts.append(part)
            self._length += len(part)
            data = data[len(part) :]
            if self._length == FRAME_BYTES:
                self._write(compress(b"".join(self._parts)), self._length)
                self._parts, self._length, self._start = [], 0, self._start + self._length

    def copy(self, frame: Frame, compressed: bytes) -> None:
        """Write a frame of another body. A large one is copied as it is."""
        length = frame.end - frame.start
        if length >= FRAME_BYTES // 2:
            self.finish()
            self._key, self._start = (frame.file, frame.generation), frame.start
            self._write(compressed, length)
            self._start += length
        else:
            self.add(Segment(frame.file, frame.generation, frame.start, length), bytes(decompress(compressed)))

    def finish(self) -> None:
        """Write what waits for more."""
        if self._parts:
            self._write(compress(b"".join(self._parts)), self._length)
            self._start += self._length
            self._parts, self._length = [], 0

    def _write(self, compressed: bytes, length: int) -> None:
        self._file.write(compressed)
        frame = Frame(
            *self._key, self._start, self._start + length, 0, self._place, len(compressed), zlib.crc32(compressed)
        )
        self.frames.append(frame)
        self._place += len(compressed)


class _Bodies:
    """Bodies, opened when they are read."""

    def __init__(self, paths: dict[int, Path]) -> None:
        self._paths = paths
        self._open: dict[int, int] = {}

    def close(self) -> None:
        """Let go of them."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def read(self, frame: Frame) -> bytes:
        """
        Return a frame as it is kept.

        Raises:
            FileNotFoundError: Its body is gone.
            StoreDamaged: It is not what was written.
        """
        if frame.body not in self._open:
            if frame.body not in self._paths:
                raise FileNotFoundError(2, "no longer named", f"body {frame.body}")
            self._open[frame.body] = os.open(self._paths[frame.body], os.O_RDONLY | os.O_CLOEXEC)
        compressed = os.pread(self._open[frame.body], frame.length, frame.place)
        if frame.crc32 not in (None, zlib.crc32(compressed)):
            raise self._damaged(frame)
        return compressed

    def decompressed(self, frame: Frame) -> bytes:
        """Return what a frame holds."""
        compressed = self.read(frame)
        try:
            data = bytes(decompress(compressed))
        except ZstdError as error:
            raise self._damaged(frame) from error
        if len(data) != frame.end - frame.start:
            raise self._damaged(frame)
        return data

    def _damaged(self, frame: Frame) -> StoreDamaged:
        how = f"its bytes from {frame.place} to {frame.place + frame.length} are not those that were written"
        return damaged(self._paths[frame.body], how)


def newest(logs: Iterable[Log]) -> list[Log]:
    """Return of logs with the same node and name the one that came last: others were rotated away, cut or copied."""
    return list({(log.node_id, log.name): log for log in logs}.values())


def chosen(logs: Iterable[Log], node_id: str, name: str) -> Log:
    """
    Return the log of a node.

    Raises:
        NotFoundError: There is none.
    """
    for log in newest(logs):
        if (log.node_id, log.name) == (node_id, name):
            return log
    raise NotFoundError(f"no log {name!r} of node {node_id!r}; see `raytrail logs`")


def matches(name: str, glob: str) -> bool:
    """Say whether a name matches a glob, as pathlib has it: ``*`` stays within a directory, ``**`` is any of them."""
    globs = glob.split("/")
    # many of ** in a row say no more than one, and would be tried in all their ways
    distinct = [part for part, before in zip(globs, ("", *globs), strict=False) if part != "**" or before != "**"]
    return _matches(name.split("/"), distinct)


def _matches(parts: list[str], globs: list[str]) -> bool:
    if not globs:
        return not parts
    if globs[0] == "**":
        return any(_matches(parts[first:], globs[1:]) for first in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], globs[0]) and _matches(parts[1:], globs[1:])


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _gap(start: int, end: int, why: str = "are missing") -> bytes:
    return f"\n[raytrail: {end - start} bytes at offset {start} {why}]\n".encode()
