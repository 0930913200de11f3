"""
Seal: a session's folded states for good, and what was left open closed as inferred.

`raytrail.fold.conclude` works out at any moment what follows from the ends of other states. States that are open
when the session itself ends are closed with it. Each such row says so in ``inferred``.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

from raytrail.entities import Entity, Moments, Work, installed
from raytrail.errors import StoreError
from raytrail.fold import merge, slices
from raytrail.fold.conclude import FromEvents, concluded, follows
from raytrail.fold.failures import TABLE as FAILURES
from raytrail.fold.literals import literal, quote
from raytrail.fold.older import filled, filled_log
from raytrail.fold.rollup import ROLLUPS, rollup, rollup_name
from raytrail.fold.sessions import SESSION, of_many
from raytrail.fold.tally import tally, tally_name
from raytrail.store.catalogue import Catalogue, LogFile, StateFile, name_state
from raytrail.store.closed import SUPERSEDED
from raytrail.store.engine import Engine, group_rows, parquet
from raytrail.store.files import MOST_SESSIONS, Files, Written, delete, make_durable, measure

log = logging.getLogger(__name__)

OF_AGENTS = ("file", "raylet")
"""The entities that agents report of themselves. They are not of the cluster, and at times come long after it."""

ALONE_EVENTS = 5_000
"""A session of more events is sealed by itself: that takes longer than to plan it."""

MOST_EVENTS = 50_000
"""How many events of small sessions are worked on at once."""

TALLY_SAVES = 100
"""A tally is kept where there are so many states of each kind, on average. Reading one of fewer saves nothing."""

ROLLUP_SAVES = 2
"""A rollup is kept where there are so many states to each of its rows, on average."""

FEW_ROWS = 10_000
"""Or where it has no more rows than these, which take no room."""


def in_turn(entities: Iterable[Entity]) -> dict[Entity, list[str]]:
    """Return the entities that others end with, each after all that it ends with itself, and what is read of them."""
    named = {entity.name: entity for entity in entities}
    read: dict[str, dict[str, None]] = {}
    for entity in named.values():
        for beside in entity.beside:
            if beside.entity in named and beside.entity != entity.name:
                read.setdefault(beside.entity, {}).update(dict.fromkeys(beside.names))
    graph = {
        name: {beside.entity for beside in named[name].beside if beside.entity in read} - {name}
        if follows(named[name], names)
        else set()
        for name, names in read.items()
    }
    return {named[name]: [*read[name]] for name in TopologicalSorter(graph).static_order()}


def ended(name: str) -> str:
    """Return the table of an entity's states that others end with: without those that only the session's end closes."""
    return quote(f"ended_{name}")


class Sealed(NamedTuple):
    """The changes that sealing made."""

    files: dict[str, list[Path]]
    """The files of their states, by entity."""
    old: list[Path]
    """The files that are no longer named. Delete them once nobody reads them."""


class _Known(NamedTuple):
    """The facts about an entity in the sessions that are sealed."""

    before: str
    """The beginning of a statement that reads it."""
    states: Callable[[Collection[str] | None], str]
    """Gives the relation of its partial states, with its key and these columns at least, or all."""
    latest: str
    """The SELECT of the timestamp of its last event in a ``session``, as ``t``, in seconds since the epoch."""
    most_rows: int
    """How many there are at most, in a session."""
    once: bool
    """Whether each key is there only once."""


class Sealer:
    """Writes the sealed states of sessions."""

    def __init__(self, root: Path, catalogue: Catalogue, engine: Engine, files: Files) -> None:
        self._root = root
        self._catalogue = catalogue
        self._engine = engine
        self._files = files

    def at_once(self, sessions: Iterable[str]) -> Iterator[list[str]]:
        """Yield sessions by what is sealed at once: of those of which nothing is folded yet, many that are small."""
        together: list[str] = []
        events = 0
        for session in sessions:
            own = sum(log.events for log in self._catalogue.log_files(session, unfolded=True))
            if own > ALONE_EVENTS or self._catalogue.state_files(session):
                yield [session]
                continue
            if len(together) == MOST_SESSIONS or events + own > MOST_EVENTS:
                yield together
                together, events = [], 0
            together.append(session)
            events += own
        if together:
            yield together

    def seal(self, sessions: Sequence[str], *, quiet: bool) -> Sealed:
        """
        Make the states of sessions those they end with: what was folded of them, and of the others what the log says.

        Args:
            sessions: Their whole names. More than one are such that `at_once` has given together.
            quiet: Whether nothing but silence ended them.

        Raises:
            UnreadableError: One of them cannot be sealed. None is.
            StoreUnavailable: The disk is full, or fails. None is sealed.
        """
        known = self._survey(sessions)
        every = {name: self._find_entity(name, sessions) for name, entity in installed().items() if not entity.view}
        turns = in_turn(every.values())
        sealed: dict[str, list[Written]] = {}
        try:
            for entity, names in turns.items():
                columns = ", ".join(map(quote, names))
                # of what no event tells, there is nothing to work out
                states = (
                    self._select_states(entity, known, None, names)
                    if entity.name in known
                    else merge.empty(entity, partial=False)
                )
                self._engine.run(f"CREATE OR REPLACE TABLE {ended(entity.name)} AS SELECT {columns} FROM ({states})")
            end_ms = _end_ms(self._find_ends_ms(sessions, known))

            def seal(name: str) -> None:
                select = self._select_states(every[name], known, end_ms)
                sealed[name] = self._files.write("state", f"{name}-sealed", sessions, select, known[name].most_rows)

            self._engine.each(seal, [name for name in every if name in known])
            written = [file for files in sealed.values() for file in files]
            make_durable([file.path for file in written])
            old = self._name(sessions, sealed, quiet=quiet)
        except BaseException:
            delete(file.path for files in sealed.values() for file in files)
            raise
        finally:
            for entity in turns:
                self._engine.run(f"DROP TABLE IF EXISTS {ended(entity.name)}")
        return Sealed({name: [file.path for file in files] for name, files in sealed.items()}, old)

    def _name(self, sessions: Sequence[str], sealed: Mapping[str, list[Written]], *, quiet: bool) -> list[Path]:
        """Name the files of sealed states as the only ones of their sessions. Return the others."""
        old: list[Path] = []
        with self._catalogue.transaction() as db:
            for session in sessions:
                rows = db.execute("DELETE FROM state WHERE session = ? RETURNING path", (session,)).fetchall()
                old += [self._root / path for (path,) in rows]
                db.execute("UPDATE log SET folded = 1 WHERE session = ?", (session,))
                now_ms = time.time_ns() // 1_000_000
                db.execute("UPDATE sessions SET sealed_ms = ? WHERE session = ?", (now_ms, session))
                if quiet:
                    db.execute("INSERT OR IGNORE INTO quiet VALUES(?)", (session,))
            for name, files in sealed.items():
                for file in files:
                    name_state(db, file.session, self._files.state(name, "sealed", file))
        return old

    def cache(self, session: str, source: Callable[[Entity], str], failures: str) -> None:
        """
        Copy a sealed session's states into tables, from which a few rows are read many times faster.

        Args:
            session: Its whole name.
            source: The relation of an entity's states, with every column.
            failures: The relation of what failed in it.
        """
        path = self._root / "state" / session / f"{time.time_ns():020d}.duckdb"
        rows = {file.entity: file.rows for file in self._catalogue.state_files(session)}
        groups = f"ROW_GROUP_SIZE {group_rows(max(rows.values()))}"
        self._engine.run(f"ATTACH {literal(str(path))} AS caching ({groups})")
        try:
            entities = (entity for entity in installed().values() if entity.name in rows)
            self._engine.each(lambda entity: self._cache(session, entity, source(entity)), entities)
            select = f"CREATE TABLE caching.{quote(FAILURES)} AS FROM {failures}"
            self._add(session, [FAILURES], lambda: self._engine.run(select))
            self._engine.run("CHECKPOINT caching")
        except BaseException:  # what is attached would be in the way of the next one
            self._engine.run("DETACH caching")
            path.unlink()
            raise
        self._engine.run("DETACH caching")
        make_durable([path])
        state = StateFile("", "cache", str(path.relative_to(self._root)), 0, *measure(path))
        with self._catalogue.transaction() as db:
            name_state(db, session, state)

    def _add(self, session: str, tables: Collection[str], make: Callable[[], object]) -> None:
        """
        Add tables that only make some answers quicker.

        Where they cannot be made, as there is too little memory for them, the others are of use all the same. A disk
        that fails also fails what comes after.
        """
        try:
            make()
        except StoreError as fault:
            for table in tables:
                self._engine.run(f"DROP TABLE IF EXISTS caching.{quote(table)}")
            log.warning("%s: tables %s are left out, and some pages are slower: %s", session, ", ".join(tables), fault)

    def _cache(self, session: str, entity: Entity, source: str) -> None:
        table = f"caching.{quote(entity.name)}"
        self._engine.run(f"CREATE TABLE {table} AS SELECT * FROM {source}")
        if entity.moments and entity.moments.tallied:
            self._tally(entity, table, entity.moments)
        if entity.work:
            work = entity.work
            for name in ROLLUPS:
                self._add(session, [rollup_name(entity, name)], partial(self._roll_up, entity, name, table))
            drawn = [rollup_name(entity, part) for part in slices.COLUMNS]
            self._add(session, drawn, lambda: self._slice(entity, work, table))
        # for one by its id: looking for it would read the ids of all. It comes last, as it stays in memory until all is
        # written, and the sums of ten million states need that memory
        self._engine.run(f"CREATE INDEX {quote(f'{entity.name}_by_id')} ON {table}({quote(entity.key[0])})")

    def _slice(self, entity: Entity, work: Work, table: str) -> None:
        """Write what a timeline of a table is drawn of."""
        name = {part: f"caching.{quote(rollup_name(entity, part))}" for part in slices.COLUMNS}
        calls, lanes = name[slices.CALLS], name[slices.LANES]
        self._engine.run(f"CREATE TABLE {calls} AS {slices.calls(work, table)}")
        self._engine.run(f"CREATE TABLE {lanes} AS {slices.lanes(work, table)}")
        select = slices.slices(work, table, of_calls=calls, of_lanes=lanes)
        self._engine.run(f"CREATE TABLE {name[slices.SLICES]} AS {select}")
        self._engine.run(f"CREATE TABLE {name[slices.LEVELS]} (level INTEGER, begin_ns BIGINT, bin_ns BIGINT)")
        self._sum_slices(name)

    def _sum_slices(self, name: Mapping[str, str]) -> None:
        """Sum slices up by steps of time, in finer and finer levels, as long as that saves reading them."""
        of_slices, of_lanes, cells = name[slices.SLICES], name[slices.LANES], name[slices.CELLS]
        [(low, high, rows)] = self._engine.run(slices.span(of_slices))
        for level in range(slices.MOST_LEVELS if rows else 0):
            bin_ns = (high - low) // (slices.LEVEL_BINS * slices.LEVEL_FACTOR**level) + 1
            [(kinds, parts)] = self._engine.run(slices.costs(of_slices, of_lanes, low, bin_ns))
            if kinds * slices.CELLS_SAVE > rows or parts > rows * slices.PARTS:
                break
            bins = (high - low) // bin_ns + 1
            at_once = max(1, bins * slices.PARTS_AT_ONCE // max(int(parts), 1))
            for first in range(0, bins, at_once):
                summed = slices.level_of_cells(
                    level, of_slices, of_lanes, low, bin_ns, first, min(at_once, bins - first)
                )
                begun = level or first
                self._engine.run(f"{f'INSERT INTO {cells}' if begun else f'CREATE TABLE {cells} AS'} {summed}")
            self._engine.run(f"INSERT INTO {name[slices.LEVELS]} VALUES ({level}, {low}, {bin_ns})")

    def _roll_up(self, entity: Entity, name: str, table: str) -> None:
        """Sum the states of a table up, unless the sums are nearly as many."""
        rolled_up = f"caching.{quote(rollup_name(entity, name))}"
        self._engine.run(f"CREATE TABLE {rolled_up} AS {rollup(entity, name, table)}")
        [(sums, rows)] = self._engine.run(f"SELECT (SELECT count(*) FROM {rolled_up}), count(*) FROM {table}")
        if sums > max(FEW_ROWS, rows // ROLLUP_SAVES):
            self._engine.run(f"DROP TABLE {rolled_up}")

    def _tally(self, entity: Entity, table: str, by: Moments) -> None:
        """Count the states of a table, unless nearly each is one of its kind."""
        named = ", ".join(map(quote, by.tallied))
        [(kinds, rows)] = self._engine.run(f"SELECT approx_count_distinct(hash({named})), count(*) FROM {table}")
        if kinds * TALLY_SAVES <= rows:
            self._engine.run(f"CREATE TABLE caching.{quote(tally_name(entity))} AS {tally(by, table)}")

    def _survey(self, sessions: Sequence[str]) -> dict[str, _Known]:
        """Return what is known of each entity: what was folded of it, else its log."""
        folded: dict[str, list[StateFile]] = {}
        logs: dict[str, list[LogFile]] = {}
        for session in sessions:
            for state in self._catalogue.state_files(session):
                # what is superseded says nothing that later rows do not, and folding both gives the same
                if state.entity in installed() and state.kind != SUPERSEDED:
                    folded.setdefault(state.entity, []).append(state)
            for log in self._catalogue.log_files(session, unfolded=True):
                if log.entity in installed() and log.entity not in folded:
                    logs.setdefault(log.entity, []).append(log)
        return {
            **{name: self._survey_states(name, sessions, states) for name, states in folded.items()},
            **{name: self._survey_logs(name, sessions, part) for name, part in logs.items()},
        }

    def _survey_states(self, name: str, sessions: Sequence[str], states: Sequence[StateFile]) -> _Known:
        files = parquet(self._files.paths(states))
        return _Known(
            "",
            lambda names: filled(installed()[name], files, partial=True, names=names),
            f"SELECT {_by(sessions)} AS session, max(last_event_s) AS t FROM {files} GROUP BY 1",
            sum(file.rows for file in states),
            once=all(file.kind == "open" for file in states),
        )

    def _survey_logs(self, name: str, sessions: Sequence[str], logs: Sequence[LogFile]) -> _Known:
        files = parquet(self._files.paths(logs), by_session=len(sessions) > 1)
        entity = self._find_entity(name, sessions)
        events = merge.folded(entity, filled_log(entity, files))
        counts = Counter[str]()
        for log in logs:
            counts[log.session] += log.events
        return _Known(
            # made once, though a statement reads it more than once. It is too little to be worth sorting
            f"WITH known AS MATERIALIZED ({events}) ",
            lambda _: "known",
            f"SELECT {_by(sessions)} AS session, max(timestamp) AS t FROM {files} GROUP BY 1",
            max(counts.values()),
            once=True,
        )

    @staticmethod
    def _find_entity(name: str, sessions: Sequence[str]) -> Entity:
        return of_many(installed()[name]) if len(sessions) > 1 else installed()[name]

    def _find_ends_ms(self, sessions: Sequence[str], known: Mapping[str, _Known]) -> dict[str, int]:
        """Return when each session ended: when its last node died, or else when it was last heard of."""
        by = _by(sessions)
        now_ms = time.time_ns() // 1_000_000
        latest = [facts.latest for name, facts in known.items() if name not in OF_AGENTS]
        heard = dict(
            self._engine.run(f"SELECT session, max(t) FROM ({' UNION ALL '.join(latest)}) GROUP BY 1") if latest else ()
        )
        seen = dict(self._engine.run(f"SELECT {by} AS session, max(seen_ms) FROM {ended('raylet')} GROUP BY 1"))
        # the last millisecond of that second: what an event says of it was before the end
        ends = {
            session: max(int(heard[session] or 0) * 1000 + 999, int(seen.get(session) or 0))
            if session in heard
            else now_ms
            for session in sessions
        }
        nodes = self._engine.run(
            f"SELECT {by} AS session, bool_or(state != 'DEAD'), max(end_time_ms) FROM {ended('node')} GROUP BY 1"
        )
        return ends | {session: int(end_ms) for session, alive, end_ms in nodes if alive is False and end_ms}

    def _select_bare(self, entity: Entity, known: _Known | None) -> FromEvents:
        """Give the states of an entity as told: one a key, though a straggler may have begun a second one."""
        if not known:
            return lambda names: f"({merge.bare(entity, f'({merge.empty(entity, partial=True, names=names)})', names)})"
        if known.once:
            return lambda names: f"({merge.bare(entity, known.states(names), names)})"
        key = f"hash({', '.join(quote(name) for name in entity.key)})"
        twice = f"twice_{entity.name}"
        hashes = f"SELECT {key} AS h FROM {known.states(())} GROUP BY h HAVING count(*) > 1"
        self._engine.run(f"CREATE OR REPLACE TABLE {twice} AS {hashes}")

        def joined(names: Collection[str] | None) -> str:
            states = known.states(names)
            once = f"SELECT * FROM {states} WHERE {key} NOT IN (FROM {twice})"
            again = merge.fold(entity, f"(SELECT * FROM {states} WHERE {key} IN (FROM {twice}))", names)
            return f"({merge.bare(entity, f'({once} UNION ALL BY NAME {again})', names)})"

        return joined

    def _select_states(
        self, entity: Entity, known: Mapping[str, _Known], end_ms: str | None, names: Collection[str] | None = None
    ) -> str:
        """Return the SELECT of an entity's last states. Without an end, return those that others end with."""
        own = known.get(entity.name)
        select = concluded(
            entity,
            self._select_bare(entity, own),
            lambda other, _: ended(other.name),
            now_ms=None,
            end_ms=end_ms,
            names=names,
            most_rows=own.most_rows if own else 0,
        )
        return (own.before if own else "") + select


def _by(sessions: Sequence[str]) -> str:
    """Return the expression of the session that a row is of."""
    return SESSION.name if len(sessions) > 1 else literal(sessions[0])


def _end_ms(ends_ms: Mapping[str, int]) -> str:
    """Return the expression of when the session ended that a row is of."""
    if len(ends_ms) == 1:
        return str(*ends_ms.values())
    ends = ", ".join(f"{literal(session)}: {end_ms}" for session, end_ms in ends_ms.items())
    return f"MAP {{{ends}}}[{SESSION.name}]"
