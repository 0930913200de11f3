"""
Ray's State API over a snapshot: how many tasks, actors and objects there are, by name, class and call site.

The rows are counted where they are, in the store; none is listed for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from raytrail.server.ray.resources import OBJECTS, TASKS
from raytrail.server.ray.state import Query
from raytrail.store import Snapshot

SUMMARY_NAMES = 10_000
"""Most names in one summary: a client draws them all."""

_SUMMARY_BY = {
    "tasks": ("name", "func_or_class_name", "type", "state"),
    "actors": ("class_name", "state"),
}


def summarize(snapshot: Snapshot, query: Query, warnings: Sequence[str]) -> dict[str, Any]:
    """
    Return Ray's summary: tasks by name, actors by class.

    The most frequent come first. Where tasks of several types share a name, Ray shows the type of the one it
    meets first, and we that of the most.
    """
    entity, by = query.resource.entity, _SUMMARY_BY[query.resource.noun]
    groups = [] if query.empty else snapshot.group(entity, by, query.where)
    filtered = sum(group["count"] for group in groups)
    all_counted = query.where == query.counted and not query.empty
    total = filtered if all_counted else snapshot.count(entity, query.counted)
    groups.sort(key=lambda group: -int(group["count"]))
    summary = _task_summary(groups) if query.resource is TASKS else _actor_summary(groups)
    warned, names = list(warnings), len(summary["summary"])
    if names > SUMMARY_NAMES:
        warned.append(f"{names} names; the {SUMMARY_NAMES} most frequent are shown, the totals count all")
        summary["summary"] = dict(islice(summary["summary"].items(), SUMMARY_NAMES))
    return _answer(query, summary, total, filtered, warned)


def summarize_objects(snapshot: Snapshot, query: Query, warnings: Sequence[str]) -> dict[str, Any]:
    """Return Ray's summary of objects, by where they were made."""
    total = snapshot.count("object", query.counted)
    groups: list[tuple[Any, ...]] = []
    if total and not query.empty:
        columns = ("call_site", "object_size", "task_status", "attempt_number", "reference_type", "pid", "ip")
        defaults = {field.name: field.default for field in OBJECTS.fields}
        relation, params = snapshot.relation("object", columns, query.where)
        known = ", ".join(f"coalesce({name}, ?) AS {name}" for name in columns)
        groups = snapshot.run(
            "SELECT call_site, count(*), coalesce(sum(object_size) FILTER (object_size != -1), 0)::BIGINT, "
            "count(DISTINCT pid), count(DISTINCT ip), histogram(task_status), histogram(attempt_number::VARCHAR), "
            f"histogram(reference_type) FROM (SELECT {known} FROM {relation}) GROUP BY 1 ORDER BY 2 DESC, 1",
            [*(defaults[name] for name in columns), *params],
        )
    warned = list(warnings)
    if len(groups) > SUMMARY_NAMES:
        warned.append(
            f"{len(groups)} call sites; the {SUMMARY_NAMES} with most objects are shown, the totals count all"
        )
    filtered = sum(group[1] for group in groups)
    summary = {
        "summary": {
            site: {
                "total_objects": count,
                "total_size_mb": size / 1024**2,
                "total_num_workers": pids,
                "total_num_nodes": ips,
                "task_state_counts": statuses,
                "task_attempt_number_counts": attempts,
                "ref_type_counts": kinds,
            }
            for site, count, size, pids, ips, statuses, attempts, kinds in groups[:SUMMARY_NAMES]
        },
        "total_objects": filtered,
        "total_size_mb": sum(group[2] for group in groups) / 1024**2,
        "callsite_enabled": all(group[0] != "disabled" for group in groups),
        "summary_by": "callsite",
    }
    return _answer(query, summary, total, filtered, warned)


def _answer(
    query: Query, summary: Mapping[str, Any], total: int, filtered: int, warnings: Sequence[str]
) -> dict[str, Any]:
    return {
        "total": total,
        "num_after_truncation": total,
        "num_filtered": filtered,
        "result": {"node_id_to_summary": {"cluster": summary}},
        "partial_failure_warning": query.resource.no_failure,
        "warnings": list(warnings) or None,
    }


def _task_summary(groups: Iterable[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, dict[str, Any]] = {}
    of_type: Counter[str] = Counter()
    for group in groups:
        name = group["name"] or group["func_or_class_name"] or ""
        entry = summary.setdefault(name, {"func_or_class_name": name, "type": group["type"], "state_counts": {}})
        _add(entry["state_counts"], group["state"] or "NIL", group["count"])
        of_type[group["type"]] += group["count"]
    return {
        "summary": summary,
        "total_tasks": of_type["NORMAL_TASK"],
        "total_actor_tasks": of_type["ACTOR_TASK"],
        "total_actor_scheduled": of_type["ACTOR_CREATION_TASK"],
        "summary_by": "func_name",
    }


def _actor_summary(groups: Iterable[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, dict[str, Any]] = {}
    for group in groups:
        name = group["class_name"] or ""
        entry = summary.setdefault(name, {"class_name": name, "state_counts": {}})
        _add(entry["state_counts"], group["state"], group["count"])
    total = sum(sum(entry["state_counts"].values()) for entry in summary.values())
    return {"summary": summary, "total_actors": total, "summary_by": "class"}


def _add(counts: dict[str, int], state: str, count: int) -> None:
    counts[state] = counts.get(state, 0) + count
