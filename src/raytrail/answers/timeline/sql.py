"""The same as a timeline, as queries for `raytrail sql`."""

from __future__ import annotations

from raytrail.answers.scope import Scope
from raytrail.answers.timeline.relations import WORK
from raytrail.answers.timeline.window import Window


def _where(scope: Scope, window: Window) -> str:
    return (
        f"WHERE {scope.of_session} AND {WORK.counted}{window.chosen.of_tasks()}\n"
        f"  AND coalesce(start_time_ms, end_time_ms) < {window.to_ms} "
        f"AND coalesce(end_time_ms, {window.to_ms}) >= {window.from_ms}"
    )


def attempts_sql(scope: Scope, window: Window) -> str:
    """Return a query with the attempts of a window, one by one."""
    return (
        "SELECT node_id, worker_id, func_or_class_name, task_id, attempt_number, state, error_type, start_time_ms, "
        f"end_time_ms\nFROM task\n{_where(scope, window)}\nORDER BY node_id, worker_id, start_time_ms\nLIMIT 2000"
    )


def functions_sql(scope: Scope, window: Window) -> str:
    """Return a query with the attempts of a window, by function."""
    return (
        "SELECT func_or_class_name, count(*) AS attempts, count(*) FILTER (state = 'FAILED') AS failed,\n"
        "  quantile_disc(end_time_ms - start_time_ms, [0.5, 0.95, 0.99]) AS p50_p95_p99_ms\n"
        f"FROM task\n{_where(scope, window)}\nGROUP BY ALL ORDER BY attempts DESC"
    )
