"""How long attempts of tasks waited and ran, in SQL over the public view ``task``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from raytrail.answers.scope import Scope
from raytrail.entities.task import TASK
from raytrail.fold.literals import literal
from raytrail.fold.rollup import ROLLUPS, percentiles, running_ns, waiting_ns

_WORK = TASK.work
assert _WORK is not None, "a task waits and works"

FEW_TASKS = 50_000
"""Fewer than these are read in a tenth of a second."""
COUNTED = _WORK.counted
"""The attempts that Ray's own list and summary count."""
FUNCTION = f"coalesce({_WORK.function}, '')"
RUNNING_NS = running_ns(_WORK)
"""From the start to the end."""
WAITING_NS = waiting_ns(_WORK)
"""From the submission to the start."""
ARGUMENTS_NS = _WORK.arguments_ns
ASSIGNMENT_NS = _WORK.assignment_ns


def of_jobs(job_ids: Sequence[str]) -> str:
    """Return the rest of the condition on tasks: the driver jobs that they belong to. None means all."""
    return f" AND job_id IN ({', '.join(map(literal, job_ids))})" if job_ids else ""


class Sums(NamedTuple):
    """What sealing has summed up of a session's attempts, which is quick to ask, however many they are."""

    functions: str
    durations: str
    where: str

    @classmethod
    def of(cls, scope: Scope, jobs: Sequence[str]) -> Sums | None:
        """
        Return the sums of these driver jobs, or of all where none is given.

        Returns:
            None where there are none, or so few tasks that they are read themselves, which gives exact percentiles.
        """
        if scope.cluster.tasks < FEW_TASKS:
            return None
        functions, durations = (scope.snapshot.rollup(name, merge=False) for name in ("functions", "durations"))
        if functions is None or durations is None:
            return None
        listed = ", ".join(f"unhex({literal(job)})" for job in jobs)
        return cls(functions, durations, f" WHERE job_id IN ({listed})" if jobs else "")

    def added_up(self, by: Sequence[str]) -> str:
        """Return the SELECT of all sums of what has the same values of some columns."""
        merged = ", ".join(f"{merge}({name})::BIGINT AS {name}" for name, merge in ROLLUPS["functions"].merged.items())
        return (
            f"SELECT {', '.join(by)}, {merged} "
            f"FROM {_named(self.functions)}{self.where} GROUP BY ALL HAVING sum(attempts) > 0"
        )

    def percentiles(self, by: tuple[str, ...], shares: tuple[float, ...], measure: str = "") -> str:
        """
        Return the SELECT of percentiles of durations in nanoseconds, likewise, with ``measure`` and ``p50``, ...

        What did not run, or wait, at all has some, too, of which nothing is to be told.

        Args:
            by: The columns.
            shares: The share of durations up to each percentile.
            measure: ``running`` or ``waiting``. Empty means both.
        """
        only = f"measure = {literal(measure)}" if measure else "true"
        where = f"{self.where} AND {only}" if self.where else f" WHERE {only}"
        columns = f"{', '.join(by)}, measure, bucket, attempts"
        return percentiles(f"(SELECT {columns} FROM {_named(self.durations)}{where})", by, shares)


def _named(rollup: str) -> str:
    return f"(SELECT * REPLACE (coalesce(function, '') AS function) FROM {rollup})"
