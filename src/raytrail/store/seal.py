"""
Seal: a session's folded states for good, and what was left open closed as inferred.

What follows from the ends of other states is what `raytrail.entities.conclude` says at any moment. What is open when
the session itself ends is closed with it. Each such row says so in ``inferred``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

from raytrail import disk
from raytrail.entities import Entity, installed, sql
from raytrail.entities.conclude import concluded, follows
from raytrail.errors import StoreError
from raytrail.store.append import sync, sync_directories
from raytrail.store.catalogue import Catalogue, LogFile, StateFile, name_state
from raytrail.store.engine import Engine, copy_parquet, group_rows, parquet
from raytrail.store.files import Files

OF_AGENTS = ("file", "raylet")
"""What agents say of themselves: not of the cluster, and at times long after it."""

TALLY_SAVES = 100
"""A tally is kept of so many states of each kind, on average; of fewer, reading it saves nothing."""


def in_turn(entities: Iterable[Entity]) -> dict[Entity, list[str]]:
    """Return the entities that others end with, each after all that it ends with itself, and what is read of them."""
    named = {entity.name: entity for entity in entities}
    read: dict[str, dict[str, None]] = {}
    for entity in named.values():
        for beside in entity.beside:
            if beside.entity in named and beside.entity != entity.name:
                read.setdefault(beside.entity, {}).update(dict.fromkeys(beside.names))
    graph = {
        name: {one.entity for one in named[name].beside if one.entity in read} - {name}
        if follows(named[name], names)
        else set()
        for name, names in read.items()
    }
    return {named[name]: [*read[name]] for name in TopologicalSorter(graph).static_order()}


def ended(name: str) -> str:
    """Return the table of an entity's states that others end with: without those that only the session's end closes."""
    return sql.quote(f"ended_{name}")


class _Known(NamedTuple):
    """What is known of an entity in a session."""

    before: str
    """What a statement begins with that reads it."""
    states: str
    """The relation of its partial states."""
    latest: str
    """The SELECT of the timestamp of its last event, as ``t``, in seconds since the epoch."""
    most_rows: int
    """How many there are at most."""
    once: bool
    """Whether no key is there twice."""


class Sealer:
    """Writes the sealed states of a session."""

    def __init__(self, root: Path, catalogue: Catalogue, engine: Engine, files: Files) -> None:
        self._root = root
        self._catalogue = catalogue
        self._engine = engine
        self._files = files

    def seal(self, session: str, *, quiet: bool) -> list[Path]:
        """
        Make the states of a session those it ends with: what was folded of it, and of the others what its log says.

        Args:
            session: Its whole name.
            quiet: Whether nothing but silence ended it.

        Returns:
            The files that are named no more; delete them once nobody reads them.
        """
        known = self._known(session)
        directory = self._root / "state" / session
        disk.make_private_directory(directory)
        stamp = f"{time.time_ns():020d}"
        found: list[StateFile] = []
        entities = [entity for entity in installed().values() if not entity.view]
        turns = in_turn(entities)
        for entity, names in turns.items():
            columns = ", ".join(map(sql.quote, names))
            states = self._states(entity, known, None, names)
            self._engine.run(f"CREATE OR REPLACE TABLE {ended(entity.name)} AS SELECT {columns} FROM ({states})")
        end_ms = self._end_ms(known)

        def seal(entity: Entity) -> None:
            path = directory / f"{entity.name}-sealed-{stamp}.parquet"
            select = self._states(entity, known, end_ms)
            [(rows,)] = self._engine.run(copy_parquet(select, path, known[entity.name].most_rows))
            found.append(StateFile(entity.name, "sealed", str(path.relative_to(self._root)), rows, *sync(path)))

        self._engine.each(seal, [entity for entity in entities if entity.name in known])
        for entity in turns:
            self._engine.run(f"DROP TABLE {ended(entity.name)}")
        sync_directories([directory])
        with self._catalogue.transaction() as db:
            old = [self._root / path for (path,) in db.execute("SELECT path FROM state WHERE session = ?", (session,))]
            db.execute("DELETE FROM state WHERE session = ?", (session,))
            for state in found:
                name_state(db, session, state)
            db.execute("UPDATE log SET folded = 1 WHERE session = ?", (session,))
            db.execute("UPDATE sessions SET sealed_ms = ? WHERE session = ?", (time.time_ns() // 1_000_000, session))
            if quiet:
                db.execute("INSERT OR IGNORE INTO quiet VALUES(?)", (session,))
        return old

    def cache(self, session: str, source: Callable[[Entity], str]) -> None:
        """
        Copy a sealed session's states into tables, from which a few rows are read many times faster.

        Args:
            session: Its whole name.
            source: The relation of an entity's states, with every column.
        """
        path = self._root / "state" / session / f"{time.time_ns():020d}.duckdb"
        rows = {file.entity: file.rows for file in self._catalogue.state_files(session)}
        groups = f"ROW_GROUP_SIZE {group_rows(max(rows.values()))}"
        self._engine.run(f"ATTACH {sql.literal(str(path))} AS caching ({groups})")
        try:
            entities = (entity for entity in installed().values() if entity.name in rows)
            self._engine.each(lambda entity: self._cache(entity, source(entity)), entities)
            self._engine.run("CHECKPOINT caching")
        except StoreError:
            self._engine.run("DETACH caching")
            path.unlink()
            raise
        self._engine.run("DETACH caching")
        state = StateFile("", "cache", str(path.relative_to(self._root)), 0, *sync(path))
        sync_directories([path.parent])
        with self._catalogue.transaction() as db:
            name_state(db, session, state)

    def _cache(self, entity: Entity, source: str) -> None:
        table = f"caching.{sql.quote(entity.name)}"
        self._engine.run(f"CREATE TABLE {table} AS SELECT * FROM {source}")
        # for one by its id: looking for it would read the ids of all
        self._engine.run(f"CREATE INDEX {sql.quote(f'{entity.name}_by_id')} ON {table}({sql.quote(entity.key[0])})")
        if entity.tallied:
            self._tally(entity, table)

    def _tally(self, entity: Entity, table: str) -> None:
        """Count the states of a table, unless nearly each is one of its kind."""
        named = ", ".join(map(sql.quote, entity.tallied))
        [(kinds, rows)] = self._engine.run(f"SELECT approx_count_distinct(hash({named})), count(*) FROM {table}")
        if kinds * TALLY_SAVES <= rows:
            self._engine.run(f"CREATE TABLE caching.{sql.quote(sql.tally_name(entity))} AS {sql.tally(entity, table)}")

    def _known(self, session: str) -> dict[str, _Known]:
        """Return what is known of each entity: what was folded of it, else its log."""
        folded: dict[str, list[StateFile]] = {}
        for state in self._catalogue.state_files(session):
            if state.entity in installed():
                folded.setdefault(state.entity, []).append(state)
        logs: dict[str, list[LogFile]] = {}
        for log in self._catalogue.log_files(session, unfolded=True):
            if log.entity in installed() and log.entity not in folded:
                logs.setdefault(log.entity, []).append(log)
        known: dict[str, _Known] = {}
        for name, states in folded.items():
            files = parquet(self._files.paths(states))
            known[name] = _Known(
                "",
                sql.filled(installed()[name], files, partial=True),
                f"SELECT max(last_event_s) AS t FROM {files}",
                sum(file.rows for file in states),
                once=all(file.kind == "open" for file in states),
            )
        for name, part in logs.items():
            entity, files = installed()[name], parquet(self._files.paths(part))
            events = sql.folded(entity, sql.filled_log(entity, files))
            known[name] = _Known(
                # made once, though a statement reads it more than once; it is too little to be worth sorting
                f"WITH known AS MATERIALIZED ({events}) ",
                "known",
                f"SELECT max(timestamp) AS t FROM {files}",
                sum(file.events for file in part),
                once=True,
            )
        return known

    def _end_ms(self, known: dict[str, _Known]) -> int:
        """Return when the session ended: when its last node died, or else when it was last heard of."""
        [(alive, end_ms)] = self._engine.run(f"SELECT bool_or(state != 'DEAD'), max(end_time_ms) FROM {ended('node')}")
        if alive is False and end_ms:
            return int(end_ms)
        latest = [one.latest for name, one in known.items() if name not in OF_AGENTS]
        if not latest:
            return time.time_ns() // 1_000_000
        [(end_s,)] = self._engine.run(f"SELECT max(t) FROM ({' UNION ALL '.join(latest)})")
        [(seen_ms,)] = self._engine.run(f"SELECT max(seen_ms) FROM {ended('raylet')}")
        # the last millisecond of that second: what an event says of it was before the end
        return max(int(end_s or 0) * 1000 + 999, int(seen_ms or 0))

    def _bare(self, entity: Entity, known: _Known | None) -> str:
        """Return the states of an entity as told: one a key, though a straggler may have begun a second one."""
        if not known:
            return sql.bare(entity, f"({sql.empty(entity, partial=True)})")
        if known.once:
            return sql.bare(entity, known.states)
        key = f"hash({', '.join(sql.quote(name) for name in entity.key)})"
        twice = f"twice_{entity.name}"
        self._engine.run(
            f"CREATE OR REPLACE TABLE {twice} AS SELECT {key} AS h FROM {known.states} GROUP BY h HAVING count(*) > 1"
        )
        once = f"SELECT * FROM {known.states} WHERE {key} NOT IN (FROM {twice})"
        joined = sql.fold(entity, f"(SELECT * FROM {known.states} WHERE {key} IN (FROM {twice}))")
        return sql.bare(entity, f"({once} UNION ALL BY NAME {joined})")

    def _states(
        self, entity: Entity, known: dict[str, _Known], end_ms: int | None, names: Collection[str] | None = None
    ) -> str:
        """Return the SELECT of an entity's states: those it ends with; without an end, those that others end with."""
        own = known.get(entity.name)
        select = concluded(
            entity,
            lambda _: f"({self._bare(entity, own)})",
            lambda other, _: ended(other.name),
            now_ms=None,
            end_ms=end_ms,
            names=names,
        )
        return (own.before if own else "") + select
