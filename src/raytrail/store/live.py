"""
Fold of a session that still grows: what was appended joins what is known.

States of which nothing more is expected go to ``closed`` files and are not touched again; all others are in one
``open`` file, written anew at each fold. A straggler of a closed state starts an open one of the same key, which the
fold at sealing joins to it. Both kinds of files hold partial states.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from raytrail.entities import Entity, installed, sql
from raytrail.store.append import sync, sync_directories
from raytrail.store.catalogue import Catalogue, LogFile
from raytrail.store.engine import Engine, copy_parquet, parquet

SETTLE_SECONDS = 60
"""How long stragglers of a state that has ended are waited for: far above the second that Ray gathers events."""

SLICE_EVENTS = 120_000
"""How many events are folded at once: their states fit in memory, where a GROUP BY of millions would spill."""

SMALL_FILES = 48
"""How many files of one kind are let be before they are written together as one."""


class LiveFold:
    """Folds the live sessions of a store."""

    def __init__(self, root: Path, catalogue: Catalogue, engine: Engine) -> None:
        self._root = root
        self._catalogue = catalogue
        self._engine = engine
        self._tables: dict[tuple[str, str], str] = {}
        self._stale: list[tuple[float, Path]] = []

    def fold(self, session: str) -> None:
        """Fold what was appended to a session since the last fold."""
        for files in _slices(self._catalogue.log_files(session, unfolded=True)):
            self._fold_files(session, files)
        self._gather_log(session)

    def _fold_files(self, session: str, files: list[LogFile]) -> None:
        changes: list[tuple[Entity, list[tuple[str, Path, int]]]] = []
        for entity in installed().values():
            paths = [self._root / file.path for file in files if file.entity == entity.name]
            if paths:
                changes.append((entity, self._fold(session, entity, paths)))
        sync_directories({path.parent for _, found in changes for _, path, _ in found})
        old: list[Path] = []
        with self._catalogue.transaction() as db:
            for entity, found in changes:
                old += [
                    self._root / path
                    for (path,) in db.execute(
                        "SELECT path FROM state WHERE session = ? AND entity = ? AND kind = 'open'",
                        (session, entity.name),
                    )
                ]
                db.execute(
                    "DELETE FROM state WHERE session = ? AND entity = ? AND kind = 'open'",
                    (session, entity.name),
                )
                db.executemany(
                    "INSERT INTO state VALUES(?, ?, ?, ?, ?)",
                    [
                        (session, entity.name, kind, str(path.relative_to(self._root)), rows)
                        for kind, path, rows in found
                    ],
                )
            db.executemany("UPDATE log SET folded = 1 WHERE id = ?", [(file.id,) for file in files])
        self.retire(old)
        for entity, _ in changes:
            self._gather_closed(session, entity)

    def forget(self, session: str) -> None:
        """Drop what is held in memory of a session."""
        for key in [key for key in self._tables if key[0] == session]:
            self._engine.run(f"DROP TABLE IF EXISTS {self._tables.pop(key)}")

    def retire(self, paths: list[Path]) -> None:
        """Delete files that are named no more, once whoever has read the catalogue before has opened them."""
        now = time.monotonic()
        self._stale += [(now, path) for path in paths]
        for since, path in self._stale:
            if now - since > SETTLE_SECONDS:
                path.unlink(missing_ok=True)
        self._stale = [(since, path) for since, path in self._stale if now - since <= SETTLE_SECONDS]

    def _fold(self, session: str, entity: Entity, paths: list[Path]) -> list[tuple[str, Path, int]]:
        table = self._table(session, entity)
        log = f"(SELECT {sql.lift(entity)} FROM {parquet(paths)})"
        both = f"(SELECT * FROM {table} UNION ALL BY NAME SELECT * FROM {log})"
        self._engine.run(f"CREATE OR REPLACE TABLE {table}_next AS {sql.fold(entity, both)}")
        found: list[tuple[str, Path, int]] = []
        if entity.complete:
            [(newest,)] = self._engine.run(f"SELECT max(last_event_s) FROM {table}_next")
            done = f"({entity.complete}) OR (({entity.settled}) AND last_event_s < {newest - SETTLE_SECONDS})"
            closed = self._write(session, entity, "closed", f"SELECT * FROM {table}_next WHERE {done}")
            if closed[2]:
                found.append(closed)
            else:
                closed[1].unlink()
            self._engine.run(
                f"CREATE OR REPLACE TABLE {table} AS SELECT * FROM {table}_next WHERE (({done}) IS NOT TRUE)"
            )
            self._engine.run(f"DROP TABLE {table}_next")
        else:
            self._engine.run(f"DROP TABLE {table}")
            self._engine.run(f"ALTER TABLE {table}_next RENAME TO {table}")
        found.append(self._write(session, entity, "open", f"SELECT * FROM {table}"))
        return found

    def _table(self, session: str, entity: Entity) -> str:
        """Return the table of the open states, read back from the last fold where this process has none."""
        key = (session, entity.name)
        if key not in self._tables:
            name = f"open_{len(self._tables)}_{time.monotonic_ns()}"
            files = [f for f in self._catalogue.state_files(session, entity.name) if f.kind == "open"]
            source = (
                f"SELECT * FROM {parquet(self._root / file.path for file in files)}"
                if files
                else sql.empty(entity, partial=True)
            )
            self._engine.run(f"CREATE TABLE {name} AS {source}")
            self._tables[key] = name
        return self._tables[key]

    def _write(self, session: str, entity: Entity, kind: str, select: str) -> tuple[str, Path, int]:
        directory = self._root / "state" / session
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{entity.name}-{kind}-{time.time_ns():020d}.parquet"
        # sorted by pieces: a sealed session is their sequence, in which a query still skips
        # most of what it does not ask for
        order = ", ".join(map(sql.quote, entity.sort))
        [(rows,)] = self._engine.run(copy_parquet(f"{select} ORDER BY {order}", path))
        sync(path)
        return kind, path, rows

    def _gather_closed(self, session: str, entity: Entity) -> None:
        files = [
            f for f in self._catalogue.state_files(session, entity.name) if f.kind == "closed" and f.rows < 200_000
        ]
        if len(files) < SMALL_FILES:
            return
        paths = [self._root / file.path for file in files]
        kind, path, rows = self._write(session, entity, "closed", f"SELECT * FROM {parquet(paths)}")
        sync_directories([path.parent])
        with self._catalogue.transaction() as db:
            db.executemany(
                "DELETE FROM state WHERE session = ? AND entity = ? AND path = ?",
                [(session, entity.name, file.path) for file in files],
            )
            db.execute(
                "INSERT INTO state VALUES(?, ?, ?, ?, ?)",
                (session, entity.name, kind, str(path.relative_to(self._root)), rows),
            )
        self.retire(paths)

    def _gather_log(self, session: str) -> None:
        small = [file for file in self._catalogue.log_files(session) if file.events < 100_000]
        for name in {file.entity for file in small}:
            files = [file for file in small if file.entity == name]
            if len(files) < SMALL_FILES:
                continue
            paths = [self._root / file.path for file in files]
            path = self._root / "log" / session / f"{name}-{time.time_ns():020d}-000000.parquet"
            [(events,)] = self._engine.run(copy_parquet(f"SELECT * FROM {parquet(paths)}", path))
            sync(path)
            sync_directories([path.parent])
            with self._catalogue.transaction() as db:
                db.executemany("DELETE FROM log WHERE id = ?", [(file.id,) for file in files])
                db.execute(
                    "INSERT INTO log(session, entity, path, events, bytes, folded) VALUES(?, ?, ?, ?, ?, 1)",
                    (session, name, str(path.relative_to(self._root)), events, path.stat().st_size),
                )
            self.retire(paths)


def _slices(files: list[LogFile]) -> Iterator[list[LogFile]]:
    part: list[LogFile] = []
    for file in files:
        if part and sum(one.events for one in part) + file.events > SLICE_EVENTS:
            yield part
            part = []
        part.append(file)
    if part:
        yield part
