"""How a run went on: its tasks by state over time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from raytrail.answers.scope import Scope
from raytrail.fold.literals import literal
from raytrail.fold.rollup import STATE_BINS

WAITING = "waiting"
RUNNING = "running"
KINDS: Mapping[str, str] = {
    "RUNNING": RUNNING,
    "RUNNING_IN_RAY_GET": RUNNING,
    "RUNNING_IN_RAY_WAIT": RUNNING,
    "FINISHED": "finished",
    "FAILED": "failed",
}
"""What each of Ray's states is here. Any other state is `WAITING`."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks by state over time."""

    began_ms: int
    """The beginning of the first part of the time."""
    step_ms: float
    """How long each part is."""
    waiting: tuple[int, ...]
    """How many attempts were waiting at the end of each part: for arguments, for a node or for their worker."""
    running: tuple[int, ...]
    """How many were running then."""
    finished: tuple[int, ...]
    """How many finished within each part."""
    failed: tuple[int, ...]
    """How many failed within each part."""


def progress(scope: Scope, job_ids: Sequence[str] = ()) -> Progress | None:
    """
    Return how the tasks of a session, or of some of its jobs, went on.

    Args:
        scope: The session.
        job_ids: Driver jobs, in hex. None means all.

    Returns:
        None where no event tells of a task.
    """
    rows = _read(scope, job_ids)
    if not rows:
        return None
    low_ns, step_ns = min(row[0] for row in rows), max(row[1] for row in rows)
    last_ns = max(row[0] + (row[3] + 1) * row[1] for row in rows)
    step_ns = max(step_ns, (last_ns - low_ns) // STATE_BINS + 1)
    entered, exited = defaultdict[str, Counter[int]](Counter), defaultdict[str, Counter[int]](Counter)
    for row_low_ns, row_step_ns, state, bin, row_entered, row_exited in rows:
        kind, at = KINDS.get(state, WAITING), (row_low_ns + bin * row_step_ns - low_ns) // step_ns
        entered[kind][at] += row_entered
        exited[kind][at] += row_exited
    bins = range(1 + max(max(counts, default=0) for counts in entered.values()))
    began_ms = low_ns // 1_000_000
    return Progress(
        began_ms=began_ms,
        step_ms=step_ns / 1e6,
        waiting=_levels(entered[WAITING], exited[WAITING], bins),
        running=_levels(entered[RUNNING], exited[RUNNING], bins),
        finished=tuple(entered["finished"][at] for at in bins),
        failed=tuple(entered["failed"][at] for at in bins),
    )


def _read(scope: Scope, job_ids: Sequence[str]) -> list[tuple[int, int, str, int, int, int]]:
    """Return, for each state and part of the time, how many entered it and how many left it."""
    jobs = ", ".join(f"unhex({literal(job)})" for job in job_ids)
    of = f"job_id IN ({jobs})" if jobs else "job_id IS NULL"
    source = scope.snapshot.rolled_up("states")
    rows = scope.snapshot.run(f"SELECT low_ns, step_ns, state, bin, entered, exited FROM {source} WHERE {of}")
    return [(int(low), int(step), state, int(bin), entered, exited) for low, step, state, bin, entered, exited in rows]


def _levels(entered: Mapping[int, int], exited: Mapping[int, int], bins: range) -> tuple[int, ...]:
    """Return how many were in a state at the end of each part of the time."""
    level, levels = 0, []
    for at in bins:
        level += entered.get(at, 0) - exited.get(at, 0)
        levels.append(level)
    return tuple(levels)
