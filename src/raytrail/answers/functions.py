"""Which functions took the time: how often each was called, how often it failed, how long it waited and ran."""

from __future__ import annotations

import msgspec

from raytrail.answers.jobs import driver_jobs
from raytrail.answers.scope import Scope
from raytrail.answers.spans import ARGUMENTS_NS, ASSIGNMENT_NS, COUNTED, FUNCTION, RUNNING_NS, WAITING_NS, of_jobs
from raytrail.errors import ConfigError
from raytrail.words import instead

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
    """When the last of it ended or, if open, started."""


class Functions(msgspec.Struct, frozen=True, kw_only=True):
    """The functions of a session or of one of its jobs."""

    session: str
    job: str
    """The job. Empty means all."""
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


class _Row(FunctionRow, frozen=True, kw_only=True):
    all_functions: int
    all_tasks: int
    all_failed: int
    all_running_ms: float


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
    column, descending = order.removeprefix("-"), order.startswith("-")
    if column not in FunctionRow.__struct_fields__:
        raise ConfigError(f"order {order!r}{instead(column, FunctionRow.__struct_fields__, 'the columns are')}")
    condition = f"{scope.of_session} AND {COUNTED}{of_jobs(driver_jobs(scope, job))}"
    end = f"ORDER BY {column}{' DESC' * descending} NULLS LAST, function LIMIT {int(limit)}"
    rows = scope.ask(_Row, f"{_statement(condition, _OF_ALL)} {end}")
    of_all = rows[0] if rows else None
    return Functions(
        session=scope.cluster.session,
        job=job,
        functions=tuple(FunctionRow(**{name: getattr(row, name) for name in _COLUMNS}) for row in rows),
        all_functions=of_all.all_functions if of_all else 0,
        tasks=of_all.all_tasks if of_all else 0,
        failed=of_all.all_failed if of_all else 0,
        running_total_ms=of_all.all_running_ms if of_all else 0.0,
        sql=f"{_statement(condition)}\n{end}",
    )


_COLUMNS = FunctionRow.__struct_fields__
_OF_ALL = (
    ",\n  count(*) OVER () AS all_functions, (sum(count(*)) OVER ())::BIGINT AS all_tasks,"
    " (sum(count(*) FILTER (state = 'FAILED')) OVER ())::BIGINT AS all_failed,"
    " coalesce(sum(sum(ran)) OVER (), 0) / 1e6 AS all_running_ms"
)


def _statement(condition: str, more: str = "") -> str:
    """Return the SELECT of all functions of attempts that meet a condition, with more columns at its end."""
    ran, waited = "quantile_disc(ran, [0.5, 0.95, 0.99])", "waited IS NOT NULL"
    return f"""\
SELECT function, count(*) AS tasks, count(*) FILTER (state = 'FAILED') AS failed,
  count(*) FILTER (attempt_number > 0) AS retried, count(*) FILTER (state NOT IN ('FINISHED', 'FAILED')) AS open,
  {ran}[1] / 1e6 AS running_p50_ms, {ran}[2] / 1e6 AS running_p95_ms, {ran}[3] / 1e6 AS running_p99_ms,
  avg(waited) / 1e6 AS waiting_mean_ms, quantile_disc(waited, 0.95) / 1e6 AS waiting_p95_ms,
  avg(for_arguments) FILTER ({waited}) / 1e6 AS waiting_arguments_ms,
  avg(for_assignment) FILTER ({waited}) / 1e6 AS waiting_assignment_ms,
  avg(greatest(waited - for_arguments - for_assignment, 0)) FILTER ({waited}) / 1e6 AS waiting_other_ms,
  coalesce(sum(ran), 0) / 1e6 AS running_total_ms,
  coalesce(sum(ran) / nullif(sum(sum(ran)) OVER (), 0), 0)::DOUBLE AS running_share,
  min(submitted) // 1000000 AS first_ms, max(seen) // 1000000 AS last_ms{more}
FROM (SELECT {FUNCTION} AS function, attempt_number, state,
    pending_args_avail_ns AS submitted, coalesce(failed_ns, finished_ns, running_ns) AS seen,
    {RUNNING_NS} AS ran,
    {WAITING_NS} AS waited,
    {ARGUMENTS_NS} AS for_arguments,
    {ASSIGNMENT_NS} AS for_assignment
  FROM task WHERE {condition})
GROUP BY function"""
