"""From one moment of a cluster to the next at which something failed or died."""

from __future__ import annotations

from collections.abc import Sequence

from raytrail.answers.scope import Scope
from raytrail.answers.spans import COUNTED, of_jobs

FAILED = "state = 'FAILED' AND inferred IS NULL"
"""The tasks that failed: not those that were only open when their job or session ended."""
NODE_DIED = "state = 'DEAD' AND coalesce(json_extract_string(death_info, '$.reason'), '') != 'EXPECTED_TERMINATION'"
"""The nodes that died though nobody asked them to."""
ACTOR_DIED = (
    "state = 'DEAD' AND inferred IS NULL AND coalesce(json_extract_string(death_cause, "
    "'$.actor_died_error_context.reason'), CASE WHEN json_exists(death_cause, '$.creation_task_failure_context') "
    "THEN 'CREATION_FAILED' END, '') NOT IN ('', 'RAY_KILL', 'OUT_OF_SCOPE', 'REF_DELETED', 'OWNER_DIED')"
)
"""The actors that died of an error: not those that their user or the end of their owner ended."""


def step(scope: Scope, from_ms: int | None, *, before: bool) -> int | None:
    """
    Return the moment of the next failure of a task, or death of a node or an actor.

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
    which = "max" if before else "min"
    [(at_ms,)] = scope.snapshot.query(f"SELECT {which}(t) FROM ({marks(scope)}) WHERE {side}").rows
    return None if at_ms is None else int(at_ms)


def marks(scope: Scope, job_ids: Sequence[str] = ()) -> str:
    """
    Return the SELECT of when something failed or died: ``t``, in milliseconds since the epoch, and ``kind``.

    Args:
        scope: The session.
        job_ids: The driver jobs whose tasks and actors count, in hex. None means all.
    """
    of, job = scope.of_session, of_jobs(job_ids)
    return (
        f"SELECT end_time_ms AS t, 'failure' AS kind FROM task WHERE {of} AND {COUNTED}{job} AND {FAILED} UNION ALL "
        f"SELECT end_time_ms, 'node death' FROM node WHERE {of} AND {NODE_DIED} UNION ALL "
        f"SELECT end_time_ms, 'actor death' FROM actor WHERE {of}{job} AND {ACTOR_DIED}"
    )
