"""
Filters and limits asked of a live Ray's State API, and of the history after it: which rows pass, and in what order.

    asked = record_queries(cluster.dashboard_url, record(cluster.dashboard_url, Path("answers.json")))
    for path, answer in asked.items():
        assert outcome(path, status, body) == outcome(path, answer["status"], answer["body"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from lab.record import ask_each

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from lab.questions import Row, Rows

FILTERED = {
    "tasks": "task_id attempt_number name state job_id actor_id type func_or_class_name parent_task_id node_id "
    "worker_id worker_pid error_type language placement_group_id is_debugger_paused",
    "actors": "actor_id class_name state job_id name node_id pid ray_namespace placement_group_id repr_name",
    "nodes": "node_id node_ip is_head_node state node_name",
    "jobs": "type job_id submission_id status",
}
"""The columns that Ray filters by, of each resource that it exports events of."""
IDS = {"tasks": "task_id", "actors": "actor_id", "nodes": "node_id", "jobs": "job_id"}
SUMMED_UP = ("tasks", "actors")
ELSE = ("", "nosuch", "0", "true", "ab" * 16)
"""Values to look for beside those that are there."""
LIMITS = ("0", "1", "2", "7", "10000", "-1", "x", "", "1.5", " 4 ", "1_0")
FLAGS = ("True", "1", "False", "0", "maybe", "")


def queries(rows: Mapping[str, Rows]) -> list[str]:
    """
    Return the paths that ask for rows, each once.

    Args:
        rows: Ray's lists, by resource, with details, as values to look for.
    """
    paths: dict[str, None] = {}
    for resource, columns in FILTERED.items():
        for column in columns.split():
            paths |= dict.fromkeys(_by_column(resource, column, _value(rows[resource], column)))
        paths |= dict.fromkeys(_others(resource))
    return list(paths)


def record_queries(address: str, answers: Mapping[str, Any], *, timeout_seconds: float = 30.0) -> dict[str, Row]:
    """
    Ask a live dashboard all of them. It should do nothing else meanwhile.

    Args:
        address: The dashboard, ``http://host:port``.
        answers: The result of `lab.record.record`.
        timeout_seconds: For each of the requests.

    Returns:
        By path: the ``status``, the ``body``, and ``at_ms``, when it was asked.

    Raises:
        OSError: The dashboard does not answer.
    """
    return ask_each(address, queries(answers), timeout_seconds=timeout_seconds)


def outcome(path: str, status: int, body: Any) -> tuple[Any, ...]:
    """
    Return what has to be the same of an answer: its status, what it counts, and whose rows come in which order.

    Attempts of one task come in no certain order from Ray, nor do jobs without a driver.
    """
    if status != 200:
        return (status,)
    answer = body["data"]["result"]
    counts = tuple(answer[name] for name in ("total", "num_after_truncation", "num_filtered"))
    if "summarize" in path:
        [cluster] = answer["result"]["node_id_to_summary"].values()
        return (status, *counts, {name: total for name, total in cluster.items() if name.startswith("total")})
    resource = path.split("?")[0].rpartition("/")[2]
    columns = [frozenset(row) for row in answer["result"]]
    return (status, *counts, [row[IDS[resource]] for row in answer["result"]], columns)


def _by_column(resource: str, column: str, value: str) -> Iterator[str]:
    for text in (value, value.swapcase(), *ELSE):
        for predicate in ("=", "!="):
            yield _path(resource, (column, predicate, text))
    for key in (column.upper(), column.title()):
        for predicate in ("=", "!="):
            yield _path(resource, (key, predicate, value))
    yield _path(resource, (column, ">", value))
    yield _path(resource, (column, "=", value), limit="1")
    yield _path(resource, (column, "=", value), (column, "=", "nosuch"))
    yield _path(resource, ("state", "!=", "nosuch"), (column, "!=", value))
    if resource in SUMMED_UP:
        for predicate in ("=", "!="):
            yield _path(f"{resource}/summarize", (column, predicate, value))
        yield _path(f"{resource}/summarize", (column.upper(), "=", value))


def _others(resource: str) -> Iterator[str]:
    for limit in LIMITS:
        yield _path(resource, limit=limit)
    for flag in FLAGS:
        yield _path(resource, detail=flag, limit="2")
        yield _path(resource, exclude_driver=flag)
    every = f"/api/v0/{resource}"
    yield from (f"{every}?timeout=x", f"{every}?filter_keys=state", f"{every}?filter_keys=state&filter_values=x")
    for key in ("colour", "labels", "events", "runtime_env", "start_time_ms", "state ", ""):
        yield _path(resource, (key, "=", "x"))
    yield _path(resource, ("state", "=", "FAILED"), ("colour", "=", "x"))
    if resource in SUMMED_UP:
        summary = f"{resource}/summarize"
        yield _path(summary, ("colour", "=", "x"))
        yield from (f"/api/v0/{summary}?{query}" for query in ("limit=3", "timeout=x", "filter_keys=state"))


def _path(resource: str, *filters: tuple[str, str, str], **params: str) -> str:
    names = ("filter_keys", "filter_predicates", "filter_values")
    # Ray's own default would hide which rows pass
    pairs = [*({"limit": "10000"} | params).items()]
    pairs += [(name, part) for condition in filters for name, part in zip(names, condition, strict=True)]
    return f"/api/v0/{resource}?{urlencode(pairs)}"


def _value(rows: Iterable[Row], column: str) -> str:
    """
    Return a value that is there, of something whose name is as it is shown.

    Otherwise return one that is not there.
    """
    values = (row[column] for row in rows if row.get(column) not in (None, "") and row.get("type") != "ACTOR_TASK")
    return str(next(values, "x"))
