"""
The overviews of a store's sessions: those of sealed ones lie in the catalogue, so that thousands are found at once.

A session is found by texts, of which each stands there once, whatever number of sessions mention it: nightly runs
mention the same functions and errors. Looking through all texts then takes milliseconds, without an index of words that
knows no parts of them.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from raytrail.errors import StoreDamaged
from raytrail.store.catalogue import Catalogue
from raytrail.store.engine import Engine
from raytrail.store.faults import is_of_content
from raytrail.store.figures import Cluster, Figures
from raytrail.store.last_states import FilesOfMany, SnapshotOfOne
from raytrail.store.ledger import Ledgers
from raytrail.store.marks import Marks
from raytrail.store.overview import Details, SessionOverview, State, Text, work_out
from raytrail.store.read import Snapshot

log = logging.getLogger(__name__)

FORM = 1
"""Raised with each change of what an overview holds, so that those that an older version made are made anew."""

ALIVE_AGAIN = 10
"""After how many times as long as it took is a living session's overview made anew, at the earliest."""
QUICK_SECONDS = 0.2
"""What takes less is made anew as often as the session changes."""

SORTS: Mapping[str, Callable[[SessionOverview], Any]] = {
    "began": lambda overview: overview.seen_ms,
    "lasted": lambda overview: overview.lasted_ms,
    "nodes": lambda overview: overview.figures.nodes,
    "lost_nodes": lambda overview: overview.lost_nodes,
    "jobs": lambda overview: overview.figures.jobs,
    "failed_jobs": lambda overview: overview.failed_jobs,
    "actors": lambda overview: overview.figures.actors,
    "tasks": lambda overview: overview.figures.tasks,
    "failed_tasks": lambda overview: overview.failed_tasks,
    "events": lambda overview: overview.figures.events,
    "stored": lambda overview: overview.figures.stored_bytes,
    "missing": lambda overview: overview.figures.missing_bytes,
}
"""The figures that sessions are sorted by. They have columns of their own, beside the times in milliseconds."""

_COLUMNS = {"began": "seen_ms", "lasted": "lasted_ms", "stored": "stored_bytes", "missing": "missing_bytes"}
_VALID = "o.session = s.session AND o.sealed_ms = s.sealed_ms AND o.cluster = s.cluster AND o.form = ?"
"""The condition that an overview holds. Sealing a session again makes another one."""
_AT_ONCE = 500
"""How many sessions are named in a statement."""
_DAY_MS = 86_400_000


class Brief(NamedTuple):
    """What of a session is looked at to choose the sessions of a page."""

    session: str
    seen_ms: int
    """When it began, else when it was heard of last."""
    state: State
    incomplete: int
    """1 where it is, else 0."""
    cluster: str
    day: int
    """The days between the epoch and the one that it began on, in UTC."""
    value: Any
    """The figure that is sorted by. None where it is not known."""


class JobRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a job, in whichever session."""

    session: str
    id: str
    status: str
    began_ms: int | None
    ended_ms: int | None


class Made(NamedTuple):
    """The overview of a session that the catalogue has none of."""

    mark: str | int | None
    """Differs when the session has changed: of a living one, when its states have."""
    until: float
    """Before when it is not made anew."""
    overview: SessionOverview
    details: Details | None

    @property
    def texts(self) -> tuple[Text, ...]:
        """The texts that it is found by."""
        return self.details.texts if self.details else ()


class Overviews:
    """
    The overviews of a store's sessions.

    Args:
        catalogue: Holds those of sealed sessions.
        engine: Reads the states.
        ledgers: Are part of the sessions' figures.
        figures: Gives these.
        marks: Says which sessions are held.
        snapshot: Returns a session as it was at last.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        engine: Engine,
        ledgers: Ledgers,
        figures: Figures,
        marks: Marks,
        snapshot: Callable[[str], Snapshot],
    ) -> None:
        self._catalogue = catalogue
        self._engine = engine
        self._ledgers = ledgers
        self._figures = figures
        self._marks = marks
        self._snapshot = snapshot
        self._lock = threading.Lock()
        self._made: dict[str, Made] = {}

    def keep(self, sessions: Sequence[str], files: Mapping[str, Sequence[Path]]) -> None:
        """
        Keep the overviews of sessions that were just sealed.

        Args:
            sessions: Their names.
            files: The files of their states, by entity.
        """
        self._write(sessions, FilesOfMany(files, self._catalogue, self._engine))

    def complete(self, session: str) -> None:
        """Keep the overview of a sealed session that has none: an older version sealed it."""
        self._write([session], self._source(session))

    def missing(self, most: int) -> list[str]:
        """Return sealed sessions that have no overview, the newest first."""
        rows = self._catalogue.query(
            f"SELECT s.session FROM sessions s LEFT JOIN overview o ON {_VALID} "
            "WHERE s.sealed_ms IS NOT NULL AND o.id IS NULL ORDER BY s.last_heard_ms DESC LIMIT ?",
            FORM,
            most,
        )
        return [session for (session,) in rows]

    def look(self) -> Look:
        """Return all overviews as they are now."""
        return Look(self._catalogue, self._find_others(), self._marks.holds().keys())

    def _find_others(self) -> dict[str, Made]:
        """Return what is known of the sessions that the catalogue has no overview of: the living, and older ones."""
        sql, params = "SELECT s.session, s.sealed_ms FROM sessions s", []
        if self._catalogue.keeps_overviews:
            sql, params = f"{sql} LEFT JOIN overview o ON {_VALID} WHERE o.id IS NULL", [FORM]
        rows = self._catalogue.query(sql, *params)
        # while one reader works it out, the others are answered with what is known already
        if not self._lock.acquire(blocking=not self._made):
            return self._made
        try:
            self._made = {session: self._make(session, sealed_ms) for session, sealed_ms in rows}
            return self._made
        finally:
            self._lock.release()

    def _make(self, session: str, sealed_ms: int | None) -> Made:
        known = self._made.get(session)
        if known and (time.monotonic() < known.until or (sealed_ms is not None and known.mark == sealed_ms)):
            return known
        began = time.monotonic()
        figures = self._figures.of(session)
        if sealed_ms is not None or figures.damaged:
            return Made(sealed_ms, 0.0, _overview(figures, None), None)
        mark = self._figures.mark(session)
        if known and known.mark == mark:
            return Made(mark, 0.0, _overview(figures, known.details), known.details)
        details = None
        try:
            details = self._work_out([figures], self._source(session))[session]
        except StoreDamaged as damage:
            figures = msgspec.structs.replace(figures, damaged=str(damage))
            return Made(None, 0.0, _overview(figures, None), None)
        except Exception as fault:
            # the others are listed all the same, and this one with its figures
            if not is_of_content(fault):
                raise
            log.warning("the overview of session %s cannot be worked out: %s", session, fault)
        took = time.monotonic() - began
        until = time.monotonic() + ALIVE_AGAIN * took if took > QUICK_SECONDS else 0.0
        return Made(mark, until, _overview(figures, details), details)

    def _source(self, session: str) -> SnapshotOfOne:
        return SnapshotOfOne(self._snapshot(session), self._ledgers, self._figures.find_begun(session))

    def _work_out(self, figures: Sequence[Cluster], source: FilesOfMany | SnapshotOfOne) -> dict[str, Details]:
        return work_out(self._engine, source, {cluster.session: cluster.before_shutdown_ms for cluster in figures})

    def _write(self, sessions: Sequence[str], source: FilesOfMany | SnapshotOfOne) -> None:
        figures = [self._figures.of(session) for session in sessions]
        details = self._work_out(figures, source)
        with self._catalogue.transaction() as db:
            for cluster in figures:
                write_overview(db, _overview(cluster, details[cluster.session]), details[cluster.session].texts)


class Look:
    """The overviews of a store's sessions at one moment."""

    def __init__(self, catalogue: Catalogue, others: Mapping[str, Made], held: Set[str]) -> None:
        """
        Look at them.

        Args:
            catalogue: Has those of sealed sessions.
            others: Those that it does not have.
            held: The sessions that are held.
        """
        self._catalogue = catalogue
        self._others = others
        self._held = held

    def briefs(self, words: Sequence[str], sort: str) -> list[Brief]:
        """
        Return the sessions in which all words are found, in no order.

        Args:
            words: Parts of names or texts, in any case. None finds every session.
            sort: The figure that is wanted of each: one of `SORTS`.
        """
        column = _COLUMNS.get(sort, sort)
        mentioned = (
            "AND (session LIKE ? ESCAPE '\\' OR cluster LIKE ? ESCAPE '\\' OR id IN (SELECT overview FROM mentions "
            "WHERE text IN (SELECT id FROM texts WHERE text LIKE ? ESCAPE '\\')))"
        )
        rows = self._query(
            f"SELECT session, seen_ms, state, incomplete, cluster, seen_ms / {_DAY_MS}, "
            f"{column} FROM overview WHERE form = {FORM} {' '.join([mentioned] * len(words))}",
            *(pattern for word in words for pattern in [_pattern(word)] * 3),
        )
        briefs = [Brief(*row) for row in rows if row[0] not in self._others]
        briefs += (
            _brief(made.overview, sort)
            for made in self._others.values()
            if all(_mentions(made, word) for word in words)
        )
        return briefs

    def of(self, sessions: Sequence[str]) -> list[SessionOverview]:
        """Return the overviews of these sessions, in their order. One that is gone by now is left out."""
        sql = (
            "SELECT session, content FROM overview JOIN overview_content ON overview = id WHERE form = {form} "
            "AND session IN ({sessions})"
        )
        known = {
            session: msgspec.json.decode(content, type=SessionOverview)
            for session, content in self._each(sql, sessions)
        } | {session: made.overview for session, made in self._others.items()}
        return [self._mark_held(known[session]) for session in sessions if session in known]

    def _mark_held(self, overview: SessionOverview) -> SessionOverview:
        """Return an overview that says whether its session is held now."""
        held = overview.figures.session in self._held
        if overview.figures.held == held:
            return overview
        return msgspec.structs.replace(overview, figures=msgspec.structs.replace(overview.figures, held=held))

    def matches(self, sessions: Sequence[str], words: Sequence[str]) -> dict[str, list[Text]]:
        """Return for each of these sessions the first text that each word is found in."""
        sql = (
            "SELECT session, t.kind, min(t.text) FROM overview o JOIN mentions m ON m.overview = o.id "
            "JOIN texts t ON t.id = m.text WHERE form = {form} AND session IN ({sessions}) "
            "AND t.text LIKE ? ESCAPE '\\' GROUP BY 1"
        )
        matches: dict[str, list[Text]] = {}
        for word in words:
            for session, kind, text in self._each(sql, sessions, _pattern(word)):
                matches.setdefault(session, []).append(Text(kind, text))
        for session in self._others.keys() & {*sessions}:
            texts = self._others[session].texts
            each = (next((text for text in texts if word.lower() in text.text.lower()), None) for word in words)
            matches[session] = [text for text in each if text]
        return matches

    def runs(self, sessions: Sequence[str], names: int, each: int) -> dict[str, list[JobRun]]:
        """
        Return the runs of the jobs that ran last in some sessions, by name, those of other sessions among them.

        Args:
            sessions: The sessions.
            names: How many names.
            each: How many runs of each, the newest first.
        """
        sql = (
            "SELECT r.name, max(r.began_ms) FROM overview o JOIN runs r ON r.overview = o.id WHERE form = {form} "
            "AND session IN ({sessions}) GROUP BY 1"
        )
        last = {name: began_ms or 0 for name, began_ms in self._each(sql, sessions) if name}
        others = [(name, run) for session, made in self._others.items() for name, run in _runs_of(session, made)]
        for name, run in others:
            if run.session in {*sessions}:
                last[name] = max(last.get(name, 0), run.began_ms or 0)
        return {
            name: self._last_runs(name, each, [run for of, run in others if of == name])
            for name in sorted(last, key=last.__getitem__, reverse=True)[:names]
        }

    def _last_runs(self, name: str, most: int, others: Sequence[JobRun]) -> list[JobRun]:
        rows = self._query(
            "SELECT o.session, r.id, r.status, r.began_ms, r.ended_ms FROM runs r JOIN overview o ON o.id = r.overview "
            f"WHERE r.name = ? AND o.form = {FORM} ORDER BY r.began_ms DESC LIMIT ?",
            name,
            most,
        )
        runs = [_as_run(row) for row in rows if row[0] not in self._others]
        return sorted([*runs, *others], key=lambda run: run.began_ms or 0, reverse=True)[:most]

    def _query(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        return self._catalogue.query(sql, *params) if self._catalogue.keeps_overviews else []

    def _each(self, sql: str, sessions: Sequence[str], *more: Any) -> Iterator[tuple[Any, ...]]:
        for first in range(0, len(sessions), _AT_ONCE):
            part = sessions[first : first + _AT_ONCE]
            yield from self._query(sql.format(form=FORM, sessions=", ".join("?" * len(part))), *part, *more)


def _overview(figures: Cluster, details: Details | None) -> SessionOverview:
    return SessionOverview(
        figures=figures,
        failed_tasks=details and details.failed_tasks,
        failed_jobs=details and details.failed_jobs,
        lost_nodes=details and details.lost_nodes,
        runs=details.runs if details else (),
    )


def _brief(overview: SessionOverview, sort: str) -> Brief:
    figures, seen_ms = overview.figures, overview.seen_ms
    incomplete, day = int(overview.incomplete), seen_ms // _DAY_MS
    return Brief(figures.session, seen_ms, overview.state, incomplete, figures.cluster, day, SORTS[sort](overview))


def _mentions(made: Made, word: str) -> bool:
    figures = made.overview.figures
    return any(
        word.lower() in text.lower() for text in (figures.session, figures.cluster, *(t.text for t in made.texts))
    )


def _runs_of(session: str, made: Made) -> Iterator[tuple[str, JobRun]]:
    """Yield the runs of a session with their names."""
    for run in made.overview.runs:
        if run.name:
            yield (
                run.name,
                JobRun(session=session, id=run.id, status=run.status, began_ms=run.began_ms, ended_ms=run.ended_ms),
            )


def _as_run(columns: Sequence[Any]) -> JobRun:
    return JobRun(**dict(zip(JobRun.__struct_fields__, columns, strict=True)))


def _pattern(word: str) -> str:
    """Return what LIKE finds a word by, of which nothing is a wildcard."""
    for special in "\\%_":
        word = word.replace(special, f"\\{special}")
    return f"%{word}%"


def write_overview(db: sqlite3.Connection, overview: SessionOverview, texts: Iterable[Text]) -> None:
    """Write an overview in place of the one that there may be."""
    session = overview.figures.session
    delete_overview(db, session)
    columns = {_COLUMNS.get(name, name): value(overview) for name, value in SORTS.items()}
    columns |= {
        "session": session,
        "cluster": overview.figures.cluster,
        "form": FORM,
        "state": overview.state,
        "incomplete": overview.incomplete,
    }
    [(id,)] = db.execute(
        f"INSERT INTO overview({', '.join(columns)}, sealed_ms) SELECT {', '.join('?' * len(columns))}, sealed_ms "
        "FROM sessions WHERE session = ? AND sealed_ms IS NOT NULL RETURNING id",
        (*columns.values(), session),
    ).fetchall()
    db.execute("INSERT INTO overview_content VALUES(?, ?)", (id, msgspec.json.encode(overview).decode()))
    db.executemany(
        "INSERT INTO runs VALUES(?, ?, ?, ?, ?, ?)",
        [(run.name, run.began_ms, run.id, id, run.status, run.ended_ms) for run in overview.runs],
    )
    for text in texts:
        db.execute("INSERT OR IGNORE INTO texts(kind, text) VALUES(?, ?)", text)
        db.execute(
            "INSERT INTO mentions SELECT id, ? FROM texts WHERE text = ? AND kind = ?", (id, text.text, text.kind)
        )


def delete_overview(db: sqlite3.Connection, session: str) -> None:
    """Delete the overview of a session, if it has one, and the texts that no other mentions."""
    for (id,) in db.execute("SELECT id FROM overview WHERE session = ?", (session,)).fetchall():
        _delete(db, id)


def _delete(db: sqlite3.Connection, id: int) -> None:
    db.execute(
        "DELETE FROM texts WHERE id IN (SELECT text FROM mentions WHERE overview = :id) "
        "AND NOT EXISTS (SELECT 1 FROM mentions WHERE text = texts.id AND overview != :id)",
        {"id": id},
    )
    for table in ("overview_content", "runs", "mentions"):
        db.execute(f"DELETE FROM {table} WHERE overview = ?", (id,))
    db.execute("DELETE FROM overview WHERE id = ?", (id,))
