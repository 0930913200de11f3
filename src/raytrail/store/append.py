"""
Append: chunks to rows of the log, once; those of logs to frames.

What of a chunk was stored before is cut off by its byte ranges. The rest goes as lines into a spool, which the
engine reads by column into Parquet; the files are named in the catalogue together with the ranges they came
from, in one transaction. A crash before it leaves files that nobody names; after it, everything.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from raytrail import disk
from raytrail.entities import Entity, of_file_type, sql
from raytrail.entities.lines import check, sort_out
from raytrail.errors import StoreUnavailable
from raytrail.event import LOG, SET_ASIDE, UNDECODABLE, Chunk, Segment
from raytrail.store.catalogue import NOTHING, Catalogue, Extent, FileKey, LogFile, Ranges, reopen
from raytrail.store.engine import Copied, Engine, UnreadableError, copy_parquet, lines
from raytrail.store.files import Sum, measure
from raytrail.store.logs import Frame, Logs

UNKNOWN = "unknown"
"""The log of what this version cannot decode, kept as lines until one that can."""

PART_BYTES = 16 * 1024 * 1024
"""How many bytes of an event type are decoded at once: while they are, the next ones are made ready."""

MOST_RANGES = 50_000
"""How many byte ranges are held in memory, of the files that grew last: some 20 MB."""

KEPT_LINE_BYTES = 1024 * 1024
"""How much of a rejected line is kept; more would let a file of garbage fill the catalogue."""


class Line(NamedTuple):
    """A line with its place."""

    file: str
    generation: int
    offset: int
    data: bytes


class _Rejected(NamedTuple):
    line: Line
    reason: str


class _Touched:
    """A file that a batch brings ranges of."""

    def __init__(self, event_type: str, ranges: Ranges) -> None:
        self.event_type = event_type
        self.ranges = ranges
        """With those of the batch, once it has been gone through."""
        self.before = ranges.extent()


class _Group:
    """What one batch brings of one session and event type, or a part of it."""

    def __init__(self, session: str, event_type: str) -> None:
        self.session = session
        self.event_type = event_type
        self.pieces: list[tuple[Segment, bytes]] = []
        self.bytes = 0
        self.unknown: list[Line] = []
        self.rejected: list[_Rejected] = []
        self.files: list[tuple[str, Path, int, Sum]] = []
        self.body: tuple[Path, list[Frame]] | None = None
        self.events = 0

    @property
    def full(self) -> bool:
        # what is in the logs lies in as few bodies as may be
        return self.bytes >= PART_BYTES and self.event_type != LOG

    def add(self, segment: Segment, data: bytes) -> None:
        segment, data = _ended(self.event_type, segment, data)
        if data:
            self.pieces.append((segment, data))
            self.bytes += segment.length


class Appender:
    """Writes the log of a store."""

    def __init__(self, root: Path, catalogue: Catalogue, engine: Engine, logs: Logs) -> None:
        self._root = root
        self._catalogue = catalogue
        self._engine = engine
        self._logs = logs
        self._ranges: OrderedDict[FileKey, Ranges] = OrderedDict()
        self._held = 0
        self._serial = itertools.count(1)
        self._ready = threading.Lock()

    def append(self, chunks: Sequence[Chunk]) -> None:
        """
        Store what is new in these chunks; it is durable when this returns.

        Raises:
            StoreUnavailable: The disk is full, or fails; nothing of these chunks is stored, append them again.
        """
        groups: list[_Group] = []
        filling: dict[tuple[str, str], _Group] = {}
        touched: dict[FileKey, _Touched] = {}
        for chunk in chunks:
            group = filling.get((chunk.session, chunk.event_type))
            if group is None or group.full:
                group = filling[chunk.session, chunk.event_type] = _Group(chunk.session, chunk.event_type)
                groups.append(group)
            if not chunk.segments:
                group.add(Segment("", 0, 0, len(chunk.data)), chunk.data)
            for segment, data in chunk.parts():
                key = FileKey(chunk.session, segment.file, segment.generation)
                if key not in touched:
                    touched[key] = _Touched(chunk.event_type, self._seen(key))
                ranges = touched[key].ranges
                for start, end in ranges.missing(segment.start, segment.end):
                    whole = end - start == len(chunk.data)
                    piece = chunk.data if whole else bytes(data[start - segment.start : end - segment.start])
                    group.add(Segment(segment.file, segment.generation, start, end - start), piece)
                ranges.add(segment.start, segment.end)
        written: list[Path] = []
        try:
            # the longest first, which the short ones then go beside
            self._engine.each(lambda group: self._write(group, written), sorted(groups, key=_size, reverse=True))
            sync_directories(path.parent for path in written)
            self._commit(chunks, groups, touched)
        except BaseException as error:
            for path in written:
                path.unlink(missing_ok=True)
            if not isinstance(error, (OSError, MemoryError)):
                raise
            raise StoreUnavailable(f"{self._root}: {error}; make room on the disk or mend it, and go on") from error
        self._hold(touched)

    def forget(self, session: str) -> None:
        """Let go of what is held in memory of a session: it is sealed, and hardly grows any more."""
        for key in [key for key in self._ranges if key.session == session]:
            self._held -= len(self._ranges.pop(key))

    def _hold(self, touched: Mapping[FileKey, _Touched]) -> None:
        """Hold the ranges of the files that grew last; what is asked of others is in the catalogue."""
        for key, one in touched.items():
            one.ranges.changes.clear()
            self._held += len(one.ranges) - len(self._ranges.pop(key, ()))
            self._ranges[key] = one.ranges
        while self._held > MOST_RANGES:
            _, oldest = self._ranges.popitem(last=False)
            self._held -= len(oldest)

    def read_again(self, session: str, file: LogFile, rows: Sequence[tuple[str, str, int, int, bytes]]) -> None:
        """Decode lines that were kept because their event type was unknown when they came."""
        groups: dict[str, _Group] = {}
        written: list[Path] = []
        for event_type, name, generation, offset, line in rows:
            group = groups.setdefault(event_type, _Group(session, event_type))
            group.add(Segment(name, generation, offset, len(line) + 1), line + b"\n")
        for group in groups.values():
            self._write(group, written)
        sync_directories(path.parent for path in written)
        with self._catalogue.transaction() as db:
            db.execute("DELETE FROM log WHERE id = ?", (file.id,))
            for group in groups.values():
                self._name_files(db, group)
                db.execute(
                    "UPDATE counts SET events = events + ?, unknown = unknown - ?, rejected = rejected + ? "
                    "WHERE session = ? AND event_type = ?",
                    (group.events, len(group.pieces), len(group.rejected), session, group.event_type),
                )
        (self._root / file.path).unlink(missing_ok=True)

    def _seen(self, key: FileKey) -> Ranges:
        known = self._ranges.get(key)
        return Ranges(known) if known is not None else self._catalogue.ranges(key)

    def _write(self, group: _Group, written: list[Path]) -> None:
        entities = of_file_type(group.event_type)
        if group.event_type == LOG:
            if group.pieces:
                group.body = self._logs.write(group.session, sorted(group.pieces, key=_place))
                written.append(group.body[0])
        elif group.event_type == SET_ASIDE:
            lines = [line for segment, data in group.pieces for line in _lines(segment, data)]
            group.rejected = [_Rejected(line, _reason(line.data)) for line in lines]
        elif not entities:
            group.unknown = [line for segment, data in group.pieces for line in _lines(segment, data)]
        elif group.pieces:
            self._write_known(group, entities, written)
        if group.unknown:
            self._write_unknown(group, written)

    def _write_known(self, group: _Group, entities: tuple[Entity, ...], written: list[Path]) -> None:
        placed = any(entity.ordered() for entity in entities)
        spool = self._new_spool()
        longest = 0
        suspects: list[Line] = []
        count = 0
        try:
            # one after another, as the interpreter would have it anyway: so it is with one, the engine with others
            with self._ready, spool.open("wb") as file:
                for segment, data in group.pieces:
                    longest = max(longest, len(data))
                    if not check(group.event_type, data):
                        suspects += _lines(segment, data)
                    elif placed:
                        for line in _lines(segment, data):
                            file.write(_placed(line.data, line))
                            count += 1
                    else:
                        file.write(data)
                        count += data.count(b"\n")
                for good in self._sorted(group, suspects, placed=placed):
                    longest = max(longest, len(good))
                    file.write(good)
                    count += 1
            try:
                self._decode(group, entities, spool, longest, count, written)
            except UnreadableError:
                # the check let something pass that the engine refuses: sort every line, and if need be halve
                group.unknown.clear()
                group.rejected.clear()
                every = [line for segment, data in group.pieces for line in _lines(segment, data)]
                self._decode_sorted(group, entities, spool, every, written, placed=placed)
        finally:
            spool.unlink(missing_ok=True)

    def _sorted(self, group: _Group, suspects: Iterable[Line], *, placed: bool) -> list[bytes]:
        good = []
        for line in suspects:
            sorted_out = sort_out(group.event_type, line.data)
            if sorted_out.verdict == "good":
                good.append(_placed(sorted_out.line, line) if placed else sorted_out.line + b"\n")
            elif sorted_out.verdict == "unknown":
                group.unknown.append(line)
            else:
                group.rejected.append(_Rejected(line, sorted_out.reason))
        return good

    def _decode_sorted(
        self,
        group: _Group,
        entities: tuple[Entity, ...],
        spool: Path,
        every: list[Line],
        written: list[Path],
        *,
        placed: bool,
    ) -> None:
        unknown, rejected = len(group.unknown), len(group.rejected)
        good = self._sorted(group, every, placed=placed)
        spool.write_bytes(b"".join(good))
        try:
            self._decode(group, entities, spool, max(map(len, good), default=0), len(good), written)
        except UnreadableError as error:
            del group.unknown[unknown:], group.rejected[rejected:]
            if len(every) == 1:
                group.rejected.append(_Rejected(every[0], str(error)))
                return
            half = len(every) // 2
            for part in (every[:half], every[half:]):
                self._decode_sorted(group, entities, spool, part, written, placed=placed)

    def _decode(
        self,
        group: _Group,
        entities: tuple[Entity, ...],
        spool: Path,
        longest: int,
        count: int,
        written: list[Path],
    ) -> None:
        found: list[tuple[str, Path, int]] = []
        paths = [self._new_file(group.session, entity.name) for entity in entities]
        written += paths
        try:
            for entity, path in zip(entities, paths, strict=True):
                select = sql.decode(entity, lines(spool, sql.line_type(entity), longest))
                [row] = self._engine.run(copy_parquet(select, path, count, statistics=True))
                copied = Copied(*row[: len(Copied._fields)])
                found.append((entity.name, path, copied.rows))
                if wrong := sql.beyond_limits(entity, copied.statistics):
                    raise UnreadableError(wrong)
            if sum(rows for _, _, rows in found) != count:
                raise UnreadableError(f"{count} lines gave {sum(rows for _, _, rows in found)} rows")
        except UnreadableError:
            for path in paths:
                path.unlink(missing_ok=True)
            raise
        for name, path, rows in found:
            if rows:
                group.files.append((name, path, rows, sync(path)))
            else:
                path.unlink()
        group.events += count

    def _write_unknown(self, group: _Group, written: list[Path]) -> None:
        path = self._new_file(group.session, UNKNOWN)
        written.append(path)
        spool = self._new_spool()
        columns = "{'file': 'VARCHAR', 'generation': 'BIGINT', 'offset': 'BIGINT', 'data': 'VARCHAR'}"
        try:
            # in base64, since such a line need not be JSON, nor even text
            encoded = [msgspec.json.encode(line._asdict()) for line in group.unknown]
            spool.write_bytes(b"\n".join(encoded) + b"\n")
            source = lines(spool, columns, max(map(len, encoded)))
            select = (
                f"SELECT {sql.literal(group.event_type)} AS event_type, file, generation, "
                f'"offset" AS line_offset, from_base64(data) AS line FROM {source}'
            )
            self._engine.run(copy_parquet(select, path))
        finally:
            spool.unlink(missing_ok=True)
        group.files.append((UNKNOWN, path, len(group.unknown), sync(path)))

    def _new_spool(self) -> Path:
        spool = self._root / "tmp" / f"spool-{os.getpid()}-{next(self._serial)}.ndjson"
        disk.create_private(spool)
        return spool

    def _new_file(self, session: str, name: str) -> Path:
        directory = self._root / "log" / session
        disk.make_private_directory(directory)
        return directory / f"{name}-{time.time_ns():020d}-{next(self._serial):06d}.parquet"

    def _commit(self, chunks: Sequence[Chunk], groups: Iterable[_Group], touched: dict[FileKey, _Touched]) -> None:
        now_ms = time.time_ns() // 1_000_000
        with self._catalogue.transaction() as db:
            for session, cluster in dict.fromkeys((chunk.session, _cluster(chunk.cluster)) for chunk in chunks):
                db.execute(
                    "INSERT INTO sessions(session, cluster, first_heard_ms, last_heard_ms, last_grew_ms) "
                    "VALUES(?, ?, ?, ?, ?) "
                    "ON CONFLICT DO UPDATE SET last_heard_ms = excluded.last_heard_ms, "
                    "cluster = max(cluster, excluded.cluster)",
                    (session, cluster, now_ms, now_ms, now_ms),
                )
            # a sign of life is enough where nothing but silence had ended a session
            for (session,) in db.execute("SELECT session FROM quiet").fetchall():
                if any(chunk.session == session for chunk in chunks):
                    reopen(db, session)
            for group in groups:
                self._name_files(db, group)
                db.execute(
                    "INSERT INTO counts VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                    "events = events + excluded.events, "
                    "bytes = bytes + excluded.bytes, rejected = rejected + excluded.rejected, "
                    "unknown = unknown + excluded.unknown",
                    (
                        group.session,
                        group.event_type,
                        group.events,
                        group.bytes,
                        len(group.rejected),
                        len(group.unknown),
                    ),
                )
                if group.bytes and any(segment.file for segment, _ in group.pieces):
                    # a sealed session that grows after all is folded anew
                    db.execute("UPDATE sessions SET last_grew_ms = ? WHERE session = ?", (now_ms, group.session))
                    reopen(db, group.session)
            _name_ranges(db, touched)

    def _name_files(self, db: sqlite3.Connection, group: _Group) -> None:
        if group.body is not None:
            self._logs.name(db, group.session, *group.body)
        for name, path, rows, written in group.files:
            db.execute(
                "INSERT INTO log(session, entity, path, events, bytes, crc32) VALUES(?, ?, ?, ?, ?, ?)",
                (group.session, name, str(path.relative_to(self._root)), rows, *written),
            )
        db.executemany(
            "INSERT OR IGNORE INTO rejected VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    group.session,
                    group.event_type,
                    *line[:3],
                    len(line.data),
                    reason,
                    line.data[:KEPT_LINE_BYTES],
                )
                for line, reason in group.rejected
            ],
        )


def _name_ranges(db: sqlite3.Connection, touched: Mapping[FileKey, _Touched]) -> None:
    """Name the ranges seen, and add them up by event type; a file's is that of what came of it first."""
    added: dict[tuple[str, str], Extent] = {}
    for key, one in touched.items():
        if not one.ranges.changes:
            continue
        db.execute("INSERT OR IGNORE INTO file_types VALUES(?, ?, ?)", (key.session, key.file, one.event_type))
        [(event_type,)] = db.execute(
            "SELECT event_type FROM file_types WHERE session = ? AND file = ?", (key.session, key.file)
        )
        of_type = added.get((key.session, event_type), NOTHING)
        added[key.session, event_type] = of_type.plus(one.ranges.extent().minus(one.before))
        db.executemany(
            "DELETE FROM ranges WHERE session = ? AND file = ? AND generation = ? AND start = ?",
            [(*key, start) for start, end in one.ranges.changes.items() if end is None],
        )
        db.executemany(
            "INSERT OR REPLACE INTO ranges VALUES(?, ?, ?, ?, ?)",
            [(*key, start, end) for start, end in one.ranges.changes.items() if end is not None],
        )
    db.executemany(
        "INSERT INTO extents VALUES(?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET files = files + excluded.files, "
        "ends = ends + excluded.ends, stored = stored + excluded.stored",
        [(*key, *extent) for key, extent in added.items()],
    )


def _cluster(name: str) -> str:
    """Return a cluster's name as text: the environment, which it may be from, holds any bytes."""
    return name.encode("utf-8", "replace").decode()


def _ended(event_type: str, segment: Segment, data: bytes) -> tuple[Segment, bytes]:
    """
    Return lines that all end in a newline; as they are, if they are of a log.

    The last line of a file whose writer was killed may have none. Where it comes after all, it is all that is new of
    that line, and ends nothing.
    """
    if event_type == LOG:
        return segment, data
    if data.startswith(b"\n"):
        segment, data = segment._replace(start=segment.start + 1, length=segment.length - 1), data[1:]
    return segment, data if data.endswith(b"\n") or not data else data + b"\n"


class _SetAsideData(msgspec.Struct, frozen=True):
    reason: str


class _SetAside(msgspec.Struct, frozen=True):
    event_data: _SetAsideData


def _reason(line: bytes) -> str:
    """Return why the source of a line of what was set aside could not read it."""
    try:
        return msgspec.json.decode(line, type=_SetAside).event_data.reason
    except UNDECODABLE as error:
        return str(error)


def _size(group: _Group) -> int:
    return group.bytes


def _place(piece: tuple[Segment, bytes]) -> Segment:
    return piece[0]


def _lines(segment: Segment, data: bytes) -> list[Line]:
    found, offset = [], segment.start
    for line in data.split(b"\n")[:-1]:
        found.append(Line(segment.file, segment.generation, offset, line))
        offset += len(line) + 1
    return found


def _placed(data: bytes, line: Line) -> bytes:
    """Return a line that says where it stood, for what merges by order."""
    return b'{"_file":"%s.%d","_offset":%d,%s\n' % (
        line.file.encode(),
        line.generation,
        line.offset,
        data.lstrip()[1:],
    )


def sync(path: Path) -> Sum:
    """
    Make a file's content durable, and its owner's alone, as the engine makes files by the umask.

    Returns:
        What it is to be when it is read.
    """
    with path.open("rb") as file:
        disk.make_private(file.fileno())
        os.fsync(file.fileno())
    return measure(path)


def sync_directories(directories: Iterable[Path]) -> None:
    """Make the names in these directories durable."""
    for directory in set(directories):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
