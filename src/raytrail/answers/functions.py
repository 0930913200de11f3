"""Which functions took the time: how often each was called, how often it failed, how long it waited and ran."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from raytrail.answers.jobs import driver_jobs
from raytrail.answers.order import order_by, ordered
from raytrail.answers.scope import Scope
from raytrail.answers.spans import (
    ARGUMENTS_NS,
    ASSIGNMENT_NS,
    COUNTED,
    FUNCTION,
    RUNNING_NS,
    WAITING_NS,
    Sums,
    of_jobs,
)
from raytrail.fold.literals import literal

MOST_FUNCTIONS = 500
"""Most functions of an answer, unless more are asked for."""


class FunctionRow(msgspec.Struct, frozen=True, kw_only=True):
    """The attempts of one function, or of one method of an actor's class."""

    function: str
    """Its name, as ``func_or_class_name`` has it."""
    tasks: int
    """Attempts, those that Ray's own list counts."""
    failed: int
    """Attempts that failed, those that were tried again among them."""
    retried: int
    """Attempts after the first one of their task."""
    open: int
    """Attempts that have neither finished nor failed."""
    running_p50_ms: float | None
    """Half of those that ended ran so long at most."""
    running_p95_ms: float | None
    """95 of 100 that ended ran so long at most."""
    running_p99_ms: float | None
    """99 of 100 that ended ran so long at most."""
    waiting_mean_ms: float | None
    """The mean time from the submission to the start, of those that have started."""
    waiting_p95_ms: float | None
    """95 of 100 that have started waited so long at most."""
    waiting_arguments_ms: float | None
    """Of the mean, how long it waited for arguments: until they existed, and until its worker had them."""
    waiting_assignment_ms: float | None
    """Of the mean, how long it waited until a node had room for it, or until its actor was there."""
    waiting_other_ms: float | None
    """Of the mean, the rest: the way to the worker, and the actor's earlier calls."""
    running_total_ms: float
    """All of its running time added up."""
    running_share: float
    """Its share of the running time of all functions."""
    first_ms: int | None
    """When it was first submitted."""
    last_ms: int | None
    """When something of it was last known to happen."""


class Functions(msgspec.Struct, frozen=True, kw_only=True):
    """The functions of a session or of one of its jobs."""

    session: str
    job: str
    """The job. Empty means all."""
    order: str
    """The column that they are sorted by, with ``-`` before one that descends."""
    functions: tuple[FunctionRow, ...]
    all_functions: int
    """How many functions there are, those among them that are not shown."""
    tasks: int
    """The attempts of all functions."""
    failed: int
    """Those that failed."""
    running_total_ms: float
    """The running time of all functions."""
    sql: str
    """The question in SQL, as `raytrail sql` answers it."""


def functions(
    scope: Scope, *, job: str = "", order: str = "-running_total_ms", limit: int = MOST_FUNCTIONS
) -> Functions:
    """
    Return the functions of a session with their figures.

    Args:
        scope: The session, at a moment.
        job: A driver job's id, or a submission's. Empty means all.
        order: The column to sort by, with ``-`` before one that descends.
        limit: The most functions.

    Raises:
        ConfigError: There is no such column.
        NotFoundError: There is no such job.
    """
    jobs = driver_jobs(scope, job)
    condition = f"{scope.of_session} AND {COUNTED}{of_jobs(jobs)}"
    statement = _statement(condition)
    rows = _read_rollup(scope, jobs)
    rows = scope.ask(FunctionRow, statement) if rows is None else rows
    rows = ordered(sorted(rows, key=lambda row: row.function), FunctionRow, order)
    return Functions(
        session=scope.cluster.session,
        job=job,
        order=order,
        functions=tuple(rows[:limit]),
        all_functions=len(rows),
        tasks=sum(row.tasks for row in rows),
        failed=sum(row.failed for row in rows),
        running_total_ms=sum(row.running_total_ms for row in rows),
        sql=f"{statement}\nORDER BY {order_by(order)}, function LIMIT {limit:d}",
    )


def failed_sql(session: str, function: str) -> str:
    """Return the question in SQL for the failed attempts of a function."""
    return (
        "SELECT end_time_ms, name, error_type, error_message, task_id, attempt_number, node_id FROM task\n"
        f"WHERE session = {literal(session)} AND {COUNTED} AND state = 'FAILED' AND {FUNCTION} = {literal(function)}\n"
        "ORDER BY end_time_ms LIMIT 1000"
    )


def _read_rollup(scope: Scope, jobs: Sequence[str]) -> list[FunctionRow] | None:
    """
    Return what sealing has summed up, which is quick for any number of tasks, or None where it has not.

    Percentiles are within 2 % of what the statement gives.
    """
    if (sums := Sums.of(scope, jobs)) is None:
        return None
    columns = ", ".join(FunctionRow.__struct_fields__)
    last = scope.snapshot.at_ms
    rows = scope.snapshot.run(
        f"""\
WITH shares AS MATERIALIZED ({sums.percentiles(("function",), (0.5, 0.95, 0.99))}),
sums AS ({sums.added_up(("function",))})
SELECT {columns} FROM (SELECT sums.function, attempts AS tasks, failed, retried, open,
  CASE WHEN ran > 0 THEN r.p50 END / 1e6 AS running_p50_ms, CASE WHEN ran > 0 THEN r.p95 END / 1e6 AS running_p95_ms,
  CASE WHEN ran > 0 THEN r.p99 END / 1e6 AS running_p99_ms,
  waiting_ns / nullif(waited, 0) / 1e6 AS waiting_mean_ms,
  CASE WHEN waited > 0 THEN w.p95 END / 1e6 AS waiting_p95_ms,
  arguments_ns / nullif(waited, 0) / 1e6 AS waiting_arguments_ms,
  assignment_ns / nullif(waited, 0) / 1e6 AS waiting_assignment_ms,
  CASE WHEN waited > 0 THEN greatest((waiting_ns - arguments_ns - assignment_ns) / waited, 0) / 1e6 END
    AS waiting_other_ms,
  running_ns / 1e6 AS running_total_ms, coalesce(running_ns / nullif(sum(running_ns) OVER (), 0), 0) AS running_share,
  first_ns // 1000000 AS first_ms, {"last_ns // 1000000" if last is None else f"least(last_ns // 1000000, {last})"}
    AS last_ms
  FROM sums LEFT JOIN shares r ON r.function = sums.function AND r.measure = 'running'
  LEFT JOIN shares w ON w.function = sums.function AND w.measure = 'waiting')"""
    )
    return [FunctionRow(**dict(zip(FunctionRow.__struct_fields__, row, strict=True))) for row in rows]


def _statement(condition: str) -> str:
    """Return the SELECT of all functions of attempts that meet a condition."""
    ran, waited = "quantile_disc(ran, [0.5, 0.95, 0.99])", "waited IS NOT NULL"
    return f"""\
SELECT function, count(*) AS tasks, count(*) FILTER (state = 'FAILED') AS failed,
  count(*) FILTER (attempt_number > 0) AS retried, count(*) FILTER (state NOT IN ('FINISHED', 'FAILED')) AS open,
  {ran}[1] / 1e6 AS running_p50_ms, {ran}[2] / 1e6 AS running_p95_ms, {ran}[3] / 1e6 AS running_p99_ms,
  avg(waited) / 1e6 AS waiting_mean_ms, quantile_disc(waited, 0.95) / 1e6 AS waiting_p95_ms,
  avg(for_arguments) FILTER ({waited}) / 1e6 AS waiting_arguments_ms,
  avg(for_assignment) FILTER ({waited}) / 1e6 AS waiting_assignment_ms,
  greatest(avg(waited - for_arguments - for_assignment) FILTER ({waited}), 0) / 1e6 AS waiting_other_ms,
  coalesce(sum(ran), 0) / 1e6 AS running_total_ms,
  coalesce(sum(ran) / nullif(sum(sum(ran)) OVER (), 0), 0)::DOUBLE AS running_share,
  min(submitted) // 1000000 AS first_ms, max(seen) // 1000000 AS last_ms
FROM (SELECT {FUNCTION} AS function, attempt_number, state,
    pending_args_avail_ns AS submitted, coalesce(failed_ns, finished_ns, running_ns) AS seen,
    {RUNNING_NS} AS ran,
    {WAITING_NS} AS waited,
    {ARGUMENTS_NS} AS for_arguments,
    {ASSIGNMENT_NS} AS for_assignment
  FROM task WHERE {condition})
GROUP BY function"""
