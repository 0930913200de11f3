"""
Fold of a session that still grows: what was appended joins what is known.

States that expect no more events go to ``closed`` files. All others are in memory, and in one ``open`` file, which is
written anew when the fold is committed. If an event of a closed state comes after all, the state is taken back, and its
closed row is ``superseded`` (`raytrail.store.closed`). Both kinds of files hold partial states.

A round costs what it brings, however many states are open. The ``open`` file costs what is open: while that is much
(a driver that submitted a million tasks, an agent that catches up), it is written more rarely, and what was folded
since counts as not folded: a crash folds it again.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from raytrail.entities import Entity, installed
from raytrail.fold import merge
from raytrail.fold.literals import literal, quote
from raytrail.fold.older import filled, filled_log
from raytrail.store.catalogue import Catalogue, LogFile, name_state
from raytrail.store.closed import SUPERSEDED, Closed
from raytrail.store.engine import Engine, parquet
from raytrail.store.files import Files, Written, delete, make_durable, measure

SETTLE_SECONDS = 60
"""How long stragglers of a state that has ended are waited for: far above the second that Ray gathers events."""

PASS_EVENTS = 500_000
"""How many events are folded at once: their states fit in memory, where a GROUP BY of millions would spill."""

MOST_READS = 4
"""
How often the same events are read, each time for the states of other keys. More are written by their keys first, into
a file for each pass, which costs as much as reading them so often. In the order of the log, which is not that of time,
nearly all states of a backlog would stay open, to be looked through in each pass.
"""

DIVIDE_EVENTS = 500_000
"""How many events are divided at once: the engine holds them all, before it writes the first."""

LITTLE_OPEN = 100_000
"""How many open states may be written at each commit."""

SMALL_FILES = 48
"""How many small files of one kind are let be before they are written together as one."""

SMALL_ROWS = 200_000
"""Fewer rows make a small file of closed states."""

SMALL_LOG_EVENTS = 10_000
"""Fewer events make a small file of the log: those of a backlog are larger, and not worth to be written twice."""

MOST_COMMITTING = 0.2
"""The share of the time that may go into writing what is open."""


_OfKind = dict[tuple[str, str], list[Written]]
"""The files that were written of an entity and kind, by their names."""


class _Open:
    """The open states of an entity in a session, as a table of partial states, each with its key's hash."""

    def __init__(self, table: str, key: str, closed: Closed | None) -> None:
        self.table = table
        self.key = key
        """The expression of the hash."""
        self.closed = closed
        """The closed ones. None where none of the entity ever is."""
        self.batch = f"{table}_batch"
        """The table of new partial states, while they are joined."""
        self.touched = f"{table}_touched"
        """The same of known ones that they touch."""
        self.joined = f"{table}_touched_joined"
        """The same of both together."""

    def drop(self, engine: Engine) -> None:
        # a join that failed half-way leaves its own tables
        for table in (self.table, self.batch, self.touched, self.joined):
            engine.run(f"DROP TABLE IF EXISTS {table}")
        if self.closed:
            self.closed.drop()


class _Session:
    """The folded and not yet committed states of a session."""

    def __init__(self) -> None:
        self.open: dict[str, _Open] = {}
        self.closed: list[tuple[str, Written]] = []
        self.logs: list[int] = []
        self.changed: set[str] = set()
        self.committed_at = 0.0
        self.committing_seconds = 0.0


class LiveFold:
    """Folds the live sessions of a store."""

    def __init__(self, root: Path, catalogue: Catalogue, engine: Engine, files: Files) -> None:
        self._root = root
        self._catalogue = catalogue
        self._engine = engine
        self._files = files
        self._sessions: dict[str, _Session] = {}
        self._stale: list[tuple[float, Path]] = []

    def fold(self, session: str, *, at_once: bool = False) -> None:
        """
        Fold what was appended to a session since the last fold.

        Args:
            session: Its name.
            at_once: Whether to commit in any case, since the session is to be sealed. Otherwise a commit that would
                take long may wait for a later call. Sealing itself makes the states of an entity that has few events
                and none before.

        Raises:
            StoreUnavailable: The disk is full, or fails. The served states are as they were. Fold again.
        """
        try:
            files = self._catalogue.log_files(session, unfolded=True)
            progress = self._sessions.setdefault(session, _Session())
            pending = set(progress.logs)
            new = [file for file in files if file.id not in pending]
            begun = {file.entity for file in self._catalogue.state_files(session)} | progress.open.keys()
            unfolded: set[str] = set()
            for entity in installed().values():
                logs = [file for file in new if file.entity == entity.name]
                if at_once and entity.name not in begun and _events(logs) <= PASS_EVENTS:
                    unfolded.add(entity.name)
                    continue
                for log in self._split_into_passes(entity, logs):
                    self._fold(session, progress, entity, log)
            progress.logs += [file.id for file in new if file.entity not in unfolded]
            pause = progress.committing_seconds / MOST_COMMITTING
            if progress.logs and (at_once or time.monotonic() - progress.committed_at >= pause):
                self._commit(session, progress)
        except BaseException:
            # the memory may be ahead of the files that were not named, so go back to the last commit
            self.forget(session)
            raise
        self._gather_log(session)

    def forget(self, session: str) -> None:
        """Drop what is held in memory of a session, back to its last commit."""
        progress = self._sessions.pop(session, _Session())
        for known in progress.open.values():
            known.drop(self._engine)
        delete(file.path for _, file in progress.closed)

    def retire(self, paths: list[Path]) -> None:
        """Delete files that are named no more, once whoever has read the catalogue before has opened them."""
        now = time.monotonic()
        self._stale += [(now, path) for path in paths]
        for since, path in self._stale:
            if now - since > SETTLE_SECONDS:
                path.unlink(missing_ok=True)
        self._stale = [(since, path) for since, path in self._stale if now - since <= SETTLE_SECONDS]

    def delete_retired(self) -> None:
        """Delete the files that are named no more, as nobody reads."""
        for _, path in self._stale:
            path.unlink(missing_ok=True)
        self._stale = []

    def _fold(self, session: str, progress: _Session, entity: Entity, log: str) -> None:
        known = self._open(session, progress, entity)
        select = f"SELECT *, {known.key} AS key_hash FROM ({merge.folded(entity, log)})"
        self._engine.run(f"CREATE TABLE {known.batch} AS {select}")
        self._join(session, progress, entity, known)

    def _join(self, session: str, progress: _Session, entity: Entity, known: _Open) -> None:
        """Join new partial states to what is known, and drop their table."""
        batch, touched = known.batch, known.touched
        [(rows,)] = self._engine.run(
            f"CREATE TABLE {touched} AS SELECT * EXCLUDE (folded_s) FROM {known.table} "
            f"WHERE key_hash IN (SELECT key_hash FROM {batch})"
        )
        returned = known.closed.find(batch) if known.closed else ()
        if known.closed and returned:
            known.closed.take_back(batch, self._find_closed(session, progress, entity, returned), touched)
        if rows or returned:
            self._join_touched(entity, known)
        self._engine.run(f"DROP TABLE {touched}")
        done = f"({entity.life.complete})" if entity.life.complete else "false"
        if entity.life.complete:
            self._close(session, progress, entity, f"{batch} WHERE {done}")
        progress.changed.add(entity.name)
        self._engine.run(
            f"INSERT INTO {known.table} BY NAME SELECT *, {int(time.time())} AS folded_s "
            f"FROM {batch} WHERE {done} IS NOT TRUE"
        )
        self._engine.run(f"DROP TABLE {batch}")

    def _join_touched(self, entity: Entity, known: _Open) -> None:
        """Join what a batch has of the keys of known states to these, in the batch alone."""
        batch, touched, joined = known.batch, known.touched, known.joined
        again = f"key_hash IN (SELECT key_hash FROM {touched})"
        both = (
            f"(SELECT * EXCLUDE (key_hash) FROM {batch} WHERE {again} "
            f"UNION ALL BY NAME SELECT * EXCLUDE (key_hash) FROM {touched})"
        )
        self._engine.run(
            f"CREATE TABLE {joined} AS SELECT *, {known.key} AS key_hash FROM ({merge.fold(entity, both)})"
        )
        self._engine.run(f"DELETE FROM {known.table} WHERE {again}")
        self._engine.run(f"DELETE FROM {batch} WHERE {again}")
        self._engine.run(f"INSERT INTO {batch} BY NAME FROM {joined}")
        self._engine.run(f"DROP TABLE {joined}")

    def _split_into_passes(self, entity: Entity, logs: list[LogFile]) -> Iterator[str]:
        """Yield relations that hold these logs in all, each of keys of its own and of events that fit in memory."""
        if not logs:
            return
        passes = -(-_events(logs) // PASS_EVENTS)
        # other bits than those that the engine's own hash tables divide by
        number = f"(hash({', '.join(quote(name) for name in entity.key)}) >> 20) % {passes}"
        source = self._select_events(entity, logs)
        if passes > MOST_READS:
            with tempfile.TemporaryDirectory(prefix="divided-", dir=self._root / "tmp") as directory:
                for paths in self._divide(entity, logs, number, Path(directory)):
                    yield filled_log(entity, parquet(paths))
        else:
            for index in range(passes):
                yield source if passes == 1 else f"(SELECT * FROM {source} WHERE {number} = {index})"

    def _divide(self, entity: Entity, logs: list[LogFile], number: str, into: Path) -> list[list[Path]]:
        """Write the events of logs by a number of each, in about as many bytes, and return the files of each number."""
        divisions: dict[str, list[Path]] = {}
        for index, part in enumerate(_parts(logs)):
            directory = into / str(index)
            numbered = f"SELECT *, {number} AS division FROM {self._select_events(entity, part)}"
            self._engine.run(
                f"COPY ({numbered}) TO {literal(str(directory))} "
                "(FORMAT parquet, COMPRESSION lz4, WRITE_BLOOM_FILTER false, PARTITION_BY (division))"
            )
            for division in directory.iterdir():
                divisions.setdefault(division.name, []).extend(division.iterdir())
        return list(divisions.values())

    def _select_events(self, entity: Entity, logs: list[LogFile]) -> str:
        return filled_log(entity, parquet(self._files.paths(logs)))

    def _close(self, session: str, progress: _Session, entity: Entity, states: str) -> None:
        """Write states to a closed file: a table of ours with a condition."""
        columns = "COLUMNS(lambda name: name NOT IN ('key_hash', 'folded_s'))"
        for file in self._write(session, entity, "closed", f"SELECT {columns} FROM {states}"):
            progress.closed.append((entity.name, file))
            if closed := progress.open[entity.name].closed:
                closed.add(file.path, f"SELECT key_hash FROM {states}")

    def _find_closed(self, session: str, progress: _Session, entity: Entity, names: Collection[str]) -> list[Path]:
        """Return the places of closed files by their names, those among them that are not committed."""
        committed = [f for f in self._catalogue.state_files(session, entity.name) if Path(f.path).name in names]
        return self._files.paths(committed) + [file.path for _, file in progress.closed if file.path.name in names]

    def _commit(self, session: str, progress: _Session) -> None:
        began = time.monotonic()
        written: _OfKind = {}
        for name in sorted(progress.changed):
            written |= self._write_known(session, progress, installed()[name])
        make_durable([file.path for _, file in progress.closed] + _paths(written))
        with self._catalogue.transaction() as db:
            old = self._name_in_place(db, session, written)
            for name, file in progress.closed:
                name_state(db, session, self._files.state(name, "closed", file))
            db.executemany("UPDATE log SET folded = 1 WHERE id = ?", [(id,) for id in progress.logs])
        changed, progress.closed, progress.logs, progress.changed = progress.changed, [], [], set()
        self.retire(old)
        for name in changed:
            if closed := progress.open[name].closed:
                self._gather_closed(session, installed()[name], closed)
        progress.committed_at = time.monotonic()
        opened = sum(file.rows for (_, kind), files in written.items() if kind == "open" for file in files)
        progress.committing_seconds = progress.committed_at - began if opened > LITTLE_OPEN else 0.0

    def _write_known(self, session: str, progress: _Session, entity: Entity) -> _OfKind:
        """Close what has settled of an entity, and write what is open, and what is superseded if that has changed."""
        known = progress.open[entity.name]
        if entity.life.settled:
            settled = f"{known.table} WHERE {entity.life.settled} AND folded_s < {int(time.time()) - SETTLE_SECONDS}"
            self._close(session, progress, entity, settled)
            self._engine.run(f"DELETE FROM {settled}")
        select = f"SELECT * EXCLUDE (key_hash, folded_s) FROM {known.table}"
        written = {(entity.name, "open"): self._write(session, entity, "open", select)}
        return written | (self._write_superseded(session, entity, known.closed) if known.closed else {})

    def _write_superseded(self, session: str, entity: Entity, closed: Closed) -> _OfKind:
        """Write what is superseded of an entity, if that has changed."""
        if not closed.changed:
            return {}
        closed.changed = False
        select = f"FROM {closed.superseded} ORDER BY _file, _row"
        return {(entity.name, SUPERSEDED): self._files.write("state", f"{entity.name}-{SUPERSEDED}", [session], select)}

    def _name_in_place(self, db: sqlite3.Connection, session: str, written: _OfKind) -> list[Path]:
        """Name files as the only ones of their kinds, and return those that were before."""
        old: list[Path] = []
        for (name, kind), files in written.items():
            rows = db.execute(
                "DELETE FROM state WHERE session = ? AND entity = ? AND kind = ? RETURNING path", (session, name, kind)
            )
            old += [self._root / path for (path,) in rows]
            for file in files:
                name_state(db, session, self._files.state(name, kind, file))
        return old

    def _open(self, session: str, progress: _Session, entity: Entity) -> _Open:
        """Return what is open, read back from the last commit where this process has nothing."""
        if entity.name not in progress.open:
            key = f"hash({', '.join(quote(name) for name in entity.key)})"
            table = f"open_{entity.name}_{time.monotonic_ns()}"
            states = self._catalogue.state_files(session, entity.name)
            opened, closed, superseded = (
                self._files.paths(state for state in states if state.kind == kind)
                for kind in ("open", "closed", SUPERSEDED)
            )
            source = (
                f"FROM {filled(entity, parquet(opened), partial=True)}"
                if opened
                else f"FROM ({merge.empty(entity, partial=True)})"
            )
            self._engine.run(
                f"CREATE TABLE {table} AS SELECT *, {key} AS key_hash, {int(time.time())} AS folded_s {source}"
            )
            known = _Open(
                table, key, Closed(self._engine, key) if entity.life.complete or entity.life.settled else None
            )
            progress.open[entity.name] = known
            if known.closed:
                known.closed.load(closed, superseded)
                self._join_twice(session, progress, entity, known, known.closed)
        return progress.open[entity.name]

    def _join_twice(self, session: str, progress: _Session, entity: Entity, known: _Open, closed: Closed) -> None:
        """Join open states to closed ones of the same keys, which an older version left beside each other."""
        if closed.find(known.table):
            twice = f"{known.table} WHERE {closed.among_closed}"
            self._engine.run(f"CREATE TABLE {known.batch} AS SELECT * EXCLUDE (folded_s) FROM {twice}")
            self._engine.run(f"DELETE FROM {twice}")
            self._join(session, progress, entity, known)

    def _write(self, session: str, entity: Entity, kind: str, select: str) -> list[Written]:
        # sorted by pieces: a sealed session is their sequence, in which a query still skips
        # most of what it does not ask for
        order = ", ".join(map(quote, entity.sort))
        return self._files.write("state", f"{entity.name}-{kind}", [session], f"{select} ORDER BY {order}")

    def _gather_closed(self, session: str, entity: Entity, closed: Closed) -> None:
        states = [f for f in self._catalogue.state_files(session, entity.name) if f.kind == "closed"]
        small = [state for state in states if state.rows < SMALL_ROWS]
        chosen = {*(small if len(small) >= SMALL_FILES else ()), *closed.find_worn(states)}
        if not chosen:
            return
        old = self._files.paths(chosen)
        gathered = self._write(session, entity, "closed", closed.select_current(old))
        closed.replace(old, [file.path for file in gathered])
        superseded = self._write_superseded(session, entity, closed)
        make_durable([file.path for file in gathered] + _paths(superseded))
        with self._catalogue.transaction() as db:
            db.executemany(
                "DELETE FROM state WHERE session = ? AND entity = ? AND path = ?",
                [(session, entity.name, state.path) for state in chosen],
            )
            for file in gathered:
                name_state(db, session, self._files.state(entity.name, "closed", file))
            old += self._name_in_place(db, session, superseded)
        self.retire(old)

    def _gather_log(self, session: str) -> None:
        unfolded = {file.id for file in self._catalogue.log_files(session, unfolded=True)}
        small = [f for f in self._catalogue.log_files(session) if f.events < SMALL_LOG_EVENTS and f.id not in unfolded]
        for name in {file.entity for file in small}:
            files = [file for file in small if file.entity == name]
            if len(files) < SMALL_FILES:
                continue
            paths = self._files.paths(files)
            [gathered] = self._files.write("log", name, [session], f"SELECT * FROM {parquet(paths)}")
            make_durable([gathered.path])
            with self._catalogue.transaction() as db:
                db.executemany("DELETE FROM log WHERE id = ?", [(file.id,) for file in files])
                path = str(gathered.path.relative_to(self._root))
                db.execute(
                    "INSERT INTO log(session, entity, path, events, bytes, crc32, folded) VALUES(?, ?, ?, ?, ?, ?, 1)",
                    (session, name, path, gathered.rows, *measure(gathered.path)),
                )
            self.retire(paths)


def _paths(written: _OfKind) -> list[Path]:
    return [file.path for files in written.values() for file in files]


def _events(files: Iterable[LogFile]) -> int:
    return sum(file.events for file in files)


def _parts(files: list[LogFile]) -> Iterator[list[LogFile]]:
    part: list[LogFile] = []
    for file in files:
        if part and _events(part) + file.events > DIVIDE_EVENTS:
            yield part
            part = []
        part.append(file)
    if part:
        yield part
