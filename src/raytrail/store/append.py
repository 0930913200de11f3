"""
Append: chunks become rows of the log, once. Chunks of logs become frames.

Data of a chunk that was stored before is cut off by its byte ranges. The rest goes as lines into a spool, which the
engine reads by column into Parquet. One transaction names the files in the catalogue together with the ranges they came
from. A crash before it leaves files that nobody names. A crash after it loses nothing.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from raytrail import disk
from raytrail.entities import Entity, of_file_type
from raytrail.errors import StoreUnavailable
from raytrail.event import LOG, SET_ASIDE, UNDECODABLE, Chunk, Segment
from raytrail.fold.decode import beyond_limits, extremes
from raytrail.fold.lines import check, sort_out
from raytrail.fold.literals import literal
from raytrail.fold.sessions import of_many
from raytrail.store.batch import Group, Line, Part, Rejected, Touched, lines_of, parts_of
from raytrail.store.catalogue import Catalogue, LogFile, note_growth, reopen
from raytrail.store.engine import Engine, UnreadableError, lines, parquet
from raytrail.store.files import Files, Written, delete, make_durable, measure
from raytrail.store.logs import Logs
from raytrail.store.ranges import NOTHING, Extent, FileKey, Ranges
from raytrail.store.spools import Spools

UNKNOWN = "unknown"
"""The log of what this version cannot decode, kept as lines until one that can."""

MOST_RANGES = 50_000
"""How many byte ranges are held in memory, of the files that grew last: some 20 MB."""

KEPT_LINE_BYTES = 1024 * 1024
"""How much of a rejected line is kept. More would let a file of garbage fill the catalogue."""


class Appender:
    """Writes the log of a store."""

    def __init__(self, root: Path, catalogue: Catalogue, engine: Engine, files: Files, logs: Logs) -> None:
        self._root = root
        self._catalogue = catalogue
        self._engine = engine
        self._logs = logs
        self._files = files
        self._ranges: OrderedDict[FileKey, Ranges] = OrderedDict()
        self._held = 0
        self._serial = itertools.count(1)
        self._ready = threading.Lock()

    def append(self, chunks: Sequence[Chunk]) -> None:
        """
        Store the new parts of these chunks. They are durable when this returns.

        Raises:
            StoreUnavailable: The disk is full, or fails. Nothing of these chunks is stored. Append them again.
        """
        groups, touched = self._divide(chunks)
        written: list[Path] = []
        try:
            self._engine.each(lambda part: self._write(part, written), parts_of(groups))
            make_durable(written)
            self._commit(chunks, groups, touched)
        except BaseException as error:  # whatever it is, what was written is not named
            delete(written)
            if not isinstance(error, (OSError, MemoryError)):
                raise
            raise StoreUnavailable(f"{self._root}: {error}; make room on the disk or mend it, and go on") from error
        self._hold(touched)

    def _divide(self, chunks: Iterable[Chunk]) -> tuple[list[Group], dict[FileKey, Touched]]:
        """Return what is new in chunks, by session and event type, and which files grow by it."""
        groups: list[Group] = []
        filling: dict[tuple[str, str], Group] = {}
        touched: dict[FileKey, Touched] = {}
        for chunk in chunks:
            group = filling.get((chunk.session, chunk.event_type))
            if group is None or group.full:
                group = filling[chunk.session, chunk.event_type] = Group(chunk.session, chunk.event_type)
                groups.append(group)
            if not chunk.segments:
                group.add(Segment("", 0, 0, len(chunk.data)), chunk.data)
            for segment, data in chunk.parts():
                key = FileKey(chunk.session, segment.file, segment.generation)
                if key not in touched:
                    touched[key] = Touched(chunk.event_type, self._load_ranges(key))
                ranges = touched[key].ranges
                for start, end in ranges.missing(segment.start, segment.end):
                    whole = end - start == len(chunk.data)
                    piece = chunk.data if whole else bytes(data[start - segment.start : end - segment.start])
                    group.add(Segment(segment.file, segment.generation, start, end - start), piece)
                ranges.add(segment.start, segment.end)
        return groups, touched

    def forget(self, sessions: Collection[str]) -> None:
        """Let go of what is held in memory of sessions: they are sealed, and hardly grow any more."""
        for key in [key for key in self._ranges if key.session in sessions]:
            self._held -= len(self._ranges.pop(key))

    def _hold(self, touched: Mapping[FileKey, Touched]) -> None:
        """Hold the ranges of the files that grew last. The ranges of other files are read from the catalogue."""
        for key, growth in touched.items():
            growth.ranges.changes.clear()
            self._held += len(growth.ranges) - len(self._ranges.pop(key, ()))
            self._ranges[key] = growth.ranges
        while self._held > MOST_RANGES:
            _, oldest = self._ranges.popitem(last=False)
            self._held -= len(oldest)

    def read_unknown(self, session: str) -> None:
        """Append the lines that were not known when they came, and are now."""
        for file in self._catalogue.log_files(session, UNKNOWN):
            rows = self._engine.run(
                f"SELECT event_type, file, generation, line_offset, line FROM {parquet([self._files.path(file)])}"
            )
            if all(of_file_type(event_type) for event_type, *_ in rows):
                self._read_again(session, file, rows)

    def _read_again(self, session: str, file: LogFile, rows: Sequence[tuple[str, str, int, int, bytes]]) -> None:
        """Decode lines that were kept because their event type was unknown when they came."""
        groups: dict[str, Group] = {}
        written: list[Path] = []
        for event_type, name, generation, offset, line in rows:
            group = groups.setdefault(event_type, Group(session, event_type))
            group.add(Segment(name, generation, offset, len(line) + 1), line + b"\n")
        for part in parts_of(groups.values()):
            self._write(part, written)
        make_durable(written)
        with self._catalogue.transaction() as db:
            db.execute("DELETE FROM log WHERE id = ?", (file.id,))
            for group in groups.values():
                self._name_files(db, group)
                db.execute(
                    "UPDATE counts SET events = events + ?, unknown = unknown - ?, rejected = rejected + ? "
                    "WHERE session = ? AND event_type = ?",
                    (group.events, group.events + len(group.rejected), len(group.rejected), session, group.event_type),
                )
        (self._root / file.path).unlink(missing_ok=True)

    def _load_ranges(self, key: FileKey) -> Ranges:
        known = self._ranges.get(key)
        return Ranges(known) if known is not None else self._catalogue.ranges(key)

    def _write(self, part: Part, written: list[Path]) -> None:
        entities = of_file_type(part.event_type)
        groups = [group for group in part.groups if group.pieces]
        if part.event_type == LOG:
            self._write_logs(groups, written)
        elif part.event_type == SET_ASIDE:
            for group in groups:
                group.rejected = [Rejected(line, _reason(line.data)) for line in group.lines()]
        elif not entities:
            for group in groups:
                group.unknown = group.lines()
        elif groups:
            self._write_known(groups, entities, written)
        for group in part.groups:
            self._write_unknown(group, written)

    def _write_logs(self, groups: Iterable[Group], written: list[Path]) -> None:
        for group in groups:
            group.body = self._logs.write(group.session, sorted(group.pieces, key=_place))
            written.append(group.body[0])

    def _write_known(self, groups: Sequence[Group], entities: tuple[Entity, ...], written: list[Path]) -> None:
        """Decode the lines of groups of one event type, each of another session."""
        mark = _marker(entities, many=len(groups) > 1)
        with self._spools(groups[0].event_type) as spools:
            try:
                # one after another, as the interpreter would have it anyway: so it is with one, the engine with others
                with self._ready, spools.opened():
                    for group in groups:
                        _fill(spools, group, mark)
                self._decode(groups, entities, spools, written)
                return
            except UnreadableError:
                # the check let something pass that the engine refuses: sort every line, and if need be halve
                for group in groups:
                    group.clear()
        if len(groups) > 1:
            for group in groups:
                self._write_known([group], entities, written)
        else:
            self._write_sorted(groups[0], entities, groups[0].lines(), written, mark)

    def _write_sorted(
        self, group: Group, entities: tuple[Entity, ...], every: list[Line], written: list[Path], mark: _Mark
    ) -> None:
        unknown, rejected = len(group.unknown), len(group.rejected)
        group.good = group.rows = 0
        with self._spools(group.event_type) as spools:
            with spools.opened():
                for line in every:
                    _sort(spools, group, line, mark)
            try:
                self._decode([group], entities, spools, written)
                return
            except UnreadableError as error:
                del group.unknown[unknown:], group.rejected[rejected:]
                if len(every) == 1:
                    group.rejected.append(Rejected(every[0], str(error)))
                    return
        half = len(every) // 2
        for part in (every[:half], every[half:]):
            self._write_sorted(group, entities, part, written, mark)

    def _decode(
        self, groups: Sequence[Group], entities: tuple[Entity, ...], spools: Spools, written: list[Path]
    ) -> None:
        """Decode the good lines of groups, which are in the spools, into files."""
        by_session: dict[str, list[tuple[str, Written]]] = {group.session: [] for group in groups}
        made: list[Path] = []
        try:
            for entity in entities:
                select = spools.decoded(of_many(entity) if len(groups) > 1 else entity)
                most = max(group.rows for group in groups)
                files = self._files.write("log", entity.name, by_session, select, most, extremes(entity))
                made += [file.path for file in files]
                for file in files:
                    by_session[file.session].append((entity.name, file))
                    if wrong := beyond_limits(entity, file.statistics):
                        raise UnreadableError(wrong)
            for group in groups:
                if (rows := sum(file.rows for _, file in by_session[group.session])) != group.rows:
                    raise UnreadableError(f"{group.good} lines gave {rows} rows")
        except BaseException:
            delete(made)
            raise
        written += made
        for group in groups:
            group.files += by_session[group.session]
            group.events += group.good

    def _write_unknown(self, group: Group, written: list[Path]) -> None:
        if not group.unknown:
            return
        spool = self._new_spool()
        columns = "{'file': 'VARCHAR', 'generation': 'BIGINT', 'offset': 'BIGINT', 'data': 'VARCHAR'}"
        try:
            # in base64, since such a line need not be JSON, nor even text
            encoded = [msgspec.json.encode(line._asdict()) for line in group.unknown]
            spool.write_bytes(b"\n".join(encoded) + b"\n")
            source = lines(spool, columns, max(map(len, encoded)))
            select = (
                f"SELECT {literal(group.event_type)} AS event_type, file, generation, "
                f'"offset" AS line_offset, from_base64(data) AS line FROM {source}'
            )
            [file] = self._files.write("log", UNKNOWN, [group.session], select)
        finally:
            spool.unlink(missing_ok=True)
        written.append(file.path)
        group.files.append((UNKNOWN, file))

    def _spools(self, event_type: str) -> Spools:
        return Spools(event_type, self._new_spool)

    def _new_spool(self) -> Path:
        spool = self._root / "tmp" / f"spool-{os.getpid()}-{next(self._serial)}.ndjson"
        disk.create_private(spool)
        return spool

    def _commit(self, chunks: Sequence[Chunk], groups: Iterable[Group], touched: dict[FileKey, Touched]) -> None:
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

    def _name_files(self, db: sqlite3.Connection, group: Group) -> None:
        if group.body is not None:
            self._logs.name(db, group.session, *group.body)
        db.executemany(
            "INSERT INTO log(session, entity, path, events, bytes, crc32) VALUES(?, ?, ?, ?, ?, ?)",
            [
                (group.session, name, str(file.path.relative_to(self._root)), file.rows, *measure(file.path))
                for name, file in group.files
            ],
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


def _name_ranges(db: sqlite3.Connection, touched: Mapping[FileKey, Touched]) -> None:
    """Name the ranges seen, and add them up by event type. A file has the type of its first data."""
    added: dict[tuple[str, str], Extent] = {}
    for key, growth in touched.items():
        if not growth.ranges.changes:
            continue
        db.execute("INSERT OR IGNORE INTO file_types VALUES(?, ?, ?)", (key.session, key.file, growth.event_type))
        [(event_type,)] = db.execute(
            "SELECT event_type FROM file_types WHERE session = ? AND file = ?", (key.session, key.file)
        )
        of_type = added.get((key.session, event_type), NOTHING)
        added[key.session, event_type] = of_type.plus(growth.ranges.extent().minus(growth.before))
        db.executemany(
            "DELETE FROM ranges WHERE session = ? AND file = ? AND generation = ? AND start = ?",
            [(*key, start) for start, end in growth.ranges.changes.items() if end is None],
        )
        db.executemany(
            "INSERT OR REPLACE INTO ranges VALUES(?, ?, ?, ?, ?)",
            [(*key, start, end) for start, end in growth.ranges.changes.items() if end is not None],
        )
    db.executemany(
        "INSERT INTO extents VALUES(?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET files = files + excluded.files, "
        "ends = ends + excluded.ends, stored = stored + excluded.stored",
        [(*key, *extent) for key, extent in added.items()],
    )
    if grown := [key for key, growth in touched.items() if growth.ranges.changes]:
        note_growth(db, grown)


def _cluster(name: str) -> str:
    """Return a cluster's name as text: the environment, which it may be from, holds any bytes."""
    return name.encode("utf-8", "replace").decode()


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


def _place(piece: tuple[Segment, bytes]) -> Segment:
    return piece[0]


def _fill(spools: Spools, group: Group, mark: _Mark) -> None:
    """Write a group's good lines."""
    suspects: list[Line] = []
    for segment, data in group.pieces:
        checked = check(group.event_type, data)
        if checked is None:
            suspects += lines_of(segment, data)
        else:
            spools.add_checked(mark(group.session, segment, data))
            group.good += checked.lines
            group.rows += checked.rows
    for line in suspects:
        whole = line.data + b"\n"
        checked = check(group.event_type, whole)
        if checked is None:
            _sort(spools, group, line, mark)
        else:
            spools.add_checked(mark(group.session, line.segment, whole))
            group.good += checked.lines
            group.rows += checked.rows


def _sort(spools: Spools, group: Group, line: Line, mark: _Mark) -> None:
    """Look at one line, and write it, perhaps mended, or set it aside."""
    sorted_out = sort_out(group.event_type, line.data)
    if sorted_out.verdict == "unknown":
        group.unknown.append(line)
    elif sorted_out.verdict == "rejected":
        group.rejected.append(Rejected(line, sorted_out.reason))
    else:
        for number, mended in enumerate(sorted_out.lines):
            # an event may give several rows, and each has a place of its own
            spools.add_mended(mark(group.session, line.segment._replace(start=line.offset + number), mended + b"\n"))
        group.good += 1
        group.rows += len(sorted_out.lines)


_Mark = Callable[[str, Segment, bytes], bytes]
"""Gives whole lines of a session's file, where in it they stand known, as they are written to the spool."""


def _marker(entities: Iterable[Entity], *, many: bool) -> _Mark:
    """Return what marks lines: with where each stood, for what merges by order, and with whose it is, among many."""
    if any(entity.ordered() for entity in entities):
        return _placed
    return _owned if many else lambda session, segment, data: data


def _placed(session: str, segment: Segment, data: bytes) -> bytes:
    return b"".join(
        b'{"_session":"%s","_file":"%s.%d","_offset":%d,%s\n'
        % (session.encode(), line.file.encode(), line.generation, line.offset, line.data.lstrip()[1:])
        for line in lines_of(segment, data)
    )


def _owned(session: str, segment: Segment, data: bytes) -> bytes:
    begin = b'{"_session":"%s",' % session.encode()
    if data.startswith(b"{") and data.count(b"\n{") + 1 == data.count(b"\n"):  # as Ray writes them: none is looked at
        return begin + data[1:].replace(b"\n{", b"\n" + begin)
    return b"".join(begin + line.data.lstrip()[1:] + b"\n" for line in lines_of(segment, data))
