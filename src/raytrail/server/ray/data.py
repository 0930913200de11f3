"""
What Ray's dashboard says of the datasets of a job (ray/dashboard/modules/data/data_head.py, Ray 2.60).

Its metrics are Prometheus', which the history does not have: each is 0, as in Ray's own answer without Prometheus.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raytrail.store import Filter, Snapshot

_MAX, _VALUE_AND_MAX = ("max",), ("value", "max")
METRICS = {
    "ray_data_output_rows": _MAX,
    "ray_data_spilled_bytes": _MAX,
    "ray_data_current_bytes": _VALUE_AND_MAX,
    "ray_data_cpu_usage_cores": _VALUE_AND_MAX,
    "ray_data_gpu_usage_cores": _VALUE_AND_MAX,
    "ray_data_memory_usage_bytes": _VALUE_AND_MAX,
}
"""Names of metrics, with what the dashboard shows of each (``DATASET_METRICS``)."""

_ENDED = ("FINISHED", "FAILED")


def list_datasets(snapshot: Snapshot, job_id: str) -> list[dict[str, Any]]:
    """Return the datasets of a driver job, the newest first; none where there is no such job."""
    datasets = {row["dataset"]: row for row in _progress(snapshot, job_id)}
    # where no hook told how far they are, Ray's own events tell which there are
    for row in _metadata(snapshot, job_id):
        datasets.setdefault(row["dataset"], row)
    return sorted(datasets.values(), key=lambda row: row["start_time"] or 0, reverse=True)


def _progress(snapshot: Snapshot, job_id: str) -> Iterator[dict[str, Any]]:
    for row in snapshot.rows("dataset_progress", where=[Filter("job_id", "=", job_id)]):
        operators = []
        for progress in row["operators"] or ():
            operator = {"operator": progress.pop("operator_id"), **progress}
            if row["inferred"] and operator["state"] not in _ENDED:
                operator["state"] = row["state"]
            operators.append(operator)
        yield _dataset(row, row["start_time_ms"], row["end_time_ms"], operators)


def _metadata(snapshot: Snapshot, job_id: str) -> Iterator[dict[str, Any]]:
    where = [Filter("job_id", "=", job_id)]
    if snapshot.at_ms is not None:  # the events' own time is in whole seconds
        where.append(Filter("start_time_ms", "<=", snapshot.at_ms))
    for row in snapshot.rows("dataset", where=where):
        operators = [
            {
                "operator": operator["id"],
                "name": operator["name"],
                "state": operator.get("state"),
                **{"progress": 0, "total": 0, "total_rows": 0, "queued_blocks": 0},
            }
            for operator in (row["topology"] or {}).get("operators", ())
        ]
        yield _dataset(row, row["start_time_ms"], row["execution_end_time_ms"], operators)


def _dataset(
    row: dict[str, Any], start_ms: int | None, end_ms: int | None, operators: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "dataset": row["dataset_id"],
        "job_id": row["job_id"],
        "state": row["state"],
        **{name: row.get(name) or 0 for name in ("progress", "total", "total_rows")},
        "start_time": None if start_ms is None else start_ms / 1000,
        "end_time": None if end_ms is None else end_ms / 1000,
        "operators": [{**operator, **_metrics()} for operator in operators],
        **_metrics(),
    }


def _metrics() -> dict[str, dict[str, int]]:
    return {name: dict.fromkeys(shown, 0) for name, shown in METRICS.items()}
