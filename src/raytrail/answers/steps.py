"""Marks on a line of time: what failed, died, restarted or waited. And the way from one failure to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from raytrail.answers.scope import Scope
from raytrail.fold.literals import literal

MARK_BINS = 200
"""In how many parts of the time marks are added up."""
PLACEMENT_WAIT_MS = 1_000
"""How long a placement group waits at least that is marked."""
_KINDS = (
    "CASE kind WHEN 'task' THEN 'failure' WHEN 'actor' THEN 'actor death' WHEN 'node' THEN 'node death' "
    "ELSE 'job failure' END"
)
_MARKED = "at_ms IS NOT NULL AND NOT ended"
"""The failures that are marked: not what was only open when its job or session ended."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in one part of the time."""

    at_ms: int
    """When the first of them was, in milliseconds since the epoch."""
    kind: str
    """
    ``failure`` (of a task), ``job failure``, ``node death``, ``actor death``, ``actor restart``, or ``placement wait``.

    The last is where a placement group began to wait that was not placed within `PLACEMENT_WAIT_MS`.
    """
    count: int
    """How many of that kind."""


def marks_of(scope: Scope) -> tuple[Mark, ...]:
    """Return what failed, died, restarted and waited in a session until its moment, by parts of its life."""
    cluster = scope.cluster
    until_ms = cluster.last_event_ms if cluster.ended_ms is None else cluster.ended_ms
    failed = add_up(scope.snapshot.run, f"{scope.snapshot.failures()} WHERE counted AND", cluster.began_ms, until_ms)
    return failed + meanwhile(scope, (), cluster.began_ms, until_ms)


def meanwhile(scope: Scope, job_ids: Sequence[str], began_ms: int | None, ended_ms: int | None) -> tuple[Mark, ...]:
    """
    Return the restarts of actors, and the placement groups that had to wait, added up by parts of the time.

    Args:
        scope: The session.
        job_ids: Driver jobs, in hex. None means all.
        began_ms: The beginning of the time. None marks nothing.
        ended_ms: Its end.
    """
    if began_ms is None or ended_ms is None:
        return ()
    jobs = ", ".join(map(literal, job_ids))
    of_actors, of_groups = (f" AND {name} IN ({jobs})" if jobs else "" for name in ("job_id", "creator_job_id"))
    then_ms = ended_ms if scope.snapshot.at_ms is None else scope.snapshot.at_ms
    placed_ms = f"least({then_ms}, coalesce(placement_time_ms, removal_time_ms, {ended_ms}))"
    # the states at last tell all of these times, and an actor's at a moment are dear to work out
    at_last = Scope(scope.store, scope.cluster, scope.snapshot.at_last())
    return tuple(
        at_last.ask(
            Mark,
            "SELECT min(at_ms) AS at_ms, kind, count(*) AS count FROM ("
            "SELECT unnest(from_json(restart_times_ms, '[\"BIGINT\"]')) AS at_ms, 'actor restart' AS kind FROM actor "
            f"WHERE {scope.of_session} AND restart_times_ms IS NOT NULL{of_actors} UNION ALL "
            "SELECT creation_time_ms, 'placement wait' FROM placement_group "
            f"WHERE {scope.of_session} AND {placed_ms} - creation_time_ms >= {PLACEMENT_WAIT_MS}{of_groups}) "
            f"WHERE at_ms <= {then_ms} GROUP BY {_part(began_ms, ended_ms)}, kind ORDER BY ALL",
        )
    )


def _part(began_ms: int, ended_ms: int) -> str:
    """Return the part of the time that ``at_ms`` lies in, in SQL."""
    step_ms = max(1, (ended_ms - began_ms) // MARK_BINS)
    return f"greatest(0, least({MARK_BINS}, (at_ms - {began_ms}) // {step_ms}))"


def add_up(
    run: Callable[[str], list[tuple[Any, ...]]], failures: str, began_ms: int | None, ended_ms: int | None
) -> tuple[Mark, ...]:
    """
    Return failures added up by parts of the time.

    Args:
        run: Runs a statement.
        failures: The relation of the failures, up to where a condition follows.
        began_ms: The beginning of the time. None marks nothing.
        ended_ms: Its end.
    """
    if began_ms is None or ended_ms is None:
        return ()
    rows = run(
        f"SELECT min(at_ms), {_KINDS} AS mark, count(*) FROM {failures} {_MARKED} "
        f"GROUP BY {_part(began_ms, ended_ms)}, mark ORDER BY ALL"
    )
    return tuple(Mark(at_ms=at_ms, kind=kind, count=count) for at_ms, kind, count in rows)


def step(scope: Scope, from_ms: int | None, *, before: bool) -> int | None:
    """
    Return the moment of the next failure or death.

    Args:
        scope: The session, at last.
        from_ms: The moment to go from, in milliseconds since the epoch. None is the end.
        before: Whether to go back in time.

    Returns:
        None where there is none.
    """
    if from_ms is None and not before:
        return None
    side = "true" if from_ms is None else f"at_ms {'<' if before else '>'} {int(from_ms)}"
    which = "max" if before else "min"
    [(at_ms,)] = scope.snapshot.run(
        f"SELECT {which}(at_ms) FROM {scope.snapshot.failures()} WHERE counted AND {_MARKED} AND {side}"
    )
    return None if at_ms is None else int(at_ms)
