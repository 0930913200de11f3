"""The relations that a timeline is drawn of: those that sealing has made, or made now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from raytrail.answers.scope import Scope
from raytrail.entities import Work, entity
from raytrail.fold import slices as drawn
from raytrail.fold.literals import quote
from raytrail.fold.rollup import read_of
from raytrail.store import Run, Snapshot

NS = 1_000_000
"""Nanoseconds in a millisecond."""

TASK = entity("task")


def _work() -> Work:
    assert TASK.work is not None
    return TASK.work


WORK = _work()
WAITS = tuple(name for name, _ in WORK.waits)
"""What an attempt can wait for."""


class Tables(NamedTuple):
    """The relations that a timeline is drawn of, at the moment that is shown."""

    run: Run
    states: str
    """The states that slices have the row numbers of."""
    calls: str
    lanes: str
    slices: str
    levels: Sequence[tuple[int, int, int]]
    """Of each level of sums that were made beforehand: its number, when it begins, and how long its steps are."""
    cells: str
    now_ns: int
    """Up to when what is open has run."""


@contextmanager
def open_tables(scope: Scope) -> Iterator[Tables]:
    """Give the relations of a session: the tables that sealing has made, or else made now of its states."""
    snapshot = scope.snapshot
    names = {part: snapshot.table(part, columns) for part, columns in drawn.COLUMNS.items()}
    slices, lanes, calls, cells = (names[part] for part in (drawn.SLICES, drawn.LANES, drawn.CALLS, drawn.CELLS))
    states = snapshot.table_of(TASK.name)
    with snapshot.steps() as run:
        if slices and lanes and calls and states:
            levels = run(f"SELECT level, begin_ns, bin_ns FROM {names[drawn.LEVELS]} ORDER BY level") if cells else []
            tables = Tables(run, states, calls, lanes, slices, [(a, b, c) for a, b, c in levels], cells or "", 0)
        else:
            tables = _make_tables(snapshot, run)
        if snapshot.at_ms is None:
            [(last_ns,)] = run(f"SELECT max(coalesce(last_ns, first_ns)) FROM {tables.lanes}")
            yield tables._replace(now_ns=max(last_ns or 0, (scope.cluster.last_event_ms or 0) * NS))
        else:
            now_ns = (snapshot.at_ms + 1) * NS - 1
            yield tables._replace(now_ns=now_ns, slices=drawn.then(tables.slices, now_ns))


def _make_tables(snapshot: Snapshot, run: Run) -> Tables:
    columns = [*dict.fromkeys([*read_of(TASK), "task_id", "attempt_number", "_error_type"])]
    source = snapshot.source(TASK, columns)
    run(f"CREATE TEMP TABLE drawn_states AS SELECT {', '.join(map(quote, columns))} FROM {source} WHERE {WORK.counted}")
    run(f"CREATE TEMP TABLE drawn_calls AS {drawn.calls(WORK, 'drawn_states')}")
    run(f"CREATE TEMP TABLE drawn_lanes AS {drawn.lanes(WORK, 'drawn_states')}")
    select = drawn.slices(WORK, "drawn_states", of_calls="drawn_calls", of_lanes="drawn_lanes")
    run(f"CREATE TEMP TABLE drawn_slices AS {select}")
    return Tables(run, "drawn_states", "drawn_calls", "drawn_lanes", "drawn_slices", [], "", 0)


def name_calls(tables: Tables, calls: Sequence[int]) -> tuple[str, ...]:
    """Return the functions that these numbers stand for."""
    if not calls:
        return ()
    names = dict(tables.run(f"SELECT call, function FROM {tables.calls}"))
    return tuple(names[call] or "" for call in calls)
