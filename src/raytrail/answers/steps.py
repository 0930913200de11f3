"""From one moment of a cluster to the next at which something failed or died."""

from __future__ import annotations

from raytrail.answers.scope import Scope
from raytrail.answers.spans import COUNTED


def step(scope: Scope, from_ms: int | None, *, before: bool) -> int | None:
    """
    Return the moment of the next failure of a task, or death of a node or an actor that Ray calls an error.

    Args:
        scope: The session, at last.
        from_ms: The moment to go from, in milliseconds since the epoch. None is the end.
        before: Whether to go back in time.

    Returns:
        None where there is none.
    """
    if from_ms is None and not before:
        return None
    side = "true" if from_ms is None else f"t {'<' if before else '>'} {int(from_ms)}"
    [(at_ms,)] = scope.snapshot.query(f"SELECT {'max' if before else 'min'}(t) FROM ({marks(scope)}) WHERE {side}").rows
    return None if at_ms is None else int(at_ms)


def marks(scope: Scope) -> str:
    """Return the SELECT of the moments ``t``, in milliseconds, at which something failed or died, and its ``kind``."""
    of = scope.of_session
    return (
        f"SELECT end_time_ms AS t, 'failure' AS kind FROM task WHERE {of} AND {COUNTED} AND state = 'FAILED' "
        "UNION ALL "
        f"SELECT end_time_ms, 'node death' FROM node WHERE {of} AND state = 'DEAD' "
        "AND inferred IS NULL AND coalesce(json_extract_string(death_info, '$.reason'), '') != 'EXPECTED_TERMINATION' "
        "UNION ALL "
        f"SELECT end_time_ms, 'actor death' FROM actor WHERE {of} AND state = 'DEAD' "
        "AND json_extract(death_cause, '$.actor_died_error_context.error_message') IS NOT NULL "
        f"AND inferred IS NULL"
    )
