"""When something failed or died: marks on a line of time, and the way from one such moment to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from raytrail.answers.scope import Scope

MARK_BINS = 200
"""In how many parts of the time marks are added up."""
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
    """``failure`` (of a task), ``job failure``, ``node death`` or ``actor death``."""
    count: int
    """How many of that kind."""


def marks_of(scope: Scope) -> tuple[Mark, ...]:
    """Return what failed and died in a session until its moment, added up by parts of its life."""
    cluster = scope.cluster
    until_ms = cluster.last_event_ms if cluster.ended_ms is None else cluster.ended_ms
    return add_up(scope.snapshot.run, f"{scope.snapshot.failures()} WHERE counted AND", cluster.began_ms, until_ms)


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
    step_ms = max(1, (ended_ms - began_ms) // MARK_BINS)
    rows = run(
        f"SELECT min(at_ms), {_KINDS} AS mark, count(*) FROM {failures} {_MARKED} "
        f"GROUP BY greatest(0, least({MARK_BINS}, (at_ms - {began_ms}) // {step_ms})), mark ORDER BY ALL"
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
