"""
Ray Train's runs, as Ray's dashboard has them (ray/dashboard/modules/train/train_head.py, Ray 2.60).

The events are written from the very models that the dashboard answers with (ray/train/v2/_internal/state/export.py);
here the way back is gone. What a worker's process and GPUs measured is in no event: null, and none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from raytrail.errors import NotFoundError
from raytrail.server.ray import jobs
from raytrail.store import Filter, Snapshot

NO_STATE = (
    "Train state data is not available. Please make sure Ray Train is running and that the Train state actor is "
    'enabled by setting the RAY_TRAIN_ENABLE_STATE_TRACKING environment variable to "1".'
)
"""What Ray answers, with 500, where no run has been tracked."""

_ABORTED = "Terminated due to system errors or killed by the user."
_FRAMEWORKS = {"TORCH": "torch", "JAX": "jax", "TENSORFLOW": "tensorflow", "XGBOOST": "xgboost", "LIGHTGBM": "lightgbm"}
"""What the events call a framework, and what the models do (`TrainingFramework`, ray/train/v2/_internal/util.py)."""

_Row = dict[str, Any]


def list_runs(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Return all runs, the newest first, with their attempts and their workers."""
    runs = snapshot.rows("train_run")
    attempts: dict[str, list[_Row]] = {run["run_id"]: [] for run in runs}
    for attempt in snapshot.rows("train_run_attempt", order=["start_time_ns"]):
        attempts.setdefault(attempt["run_id"], []).append(attempt)
    actors = _Actors(snapshot)
    jobs = {job_id: _job(snapshot, job_id) for job_id in {run["job_id"] for run in runs}}
    shown = [_run(run, attempts[run["run_id"]], jobs[run["job_id"]], actors) for run in runs]
    return sorted(shown, key=lambda run: int(run["start_time_ns"]), reverse=True)


class _Actors:
    """States of actors, each asked for once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot, self._states = snapshot, dict[str, str | None]()

    def state(self, id: str) -> str | None:
        """Return the state of an actor; None where it is not known."""
        if id not in self._states:
            rows = self._snapshot.rows("actor", columns=["state"], where=[Filter("actor_id", "=", id)])
            self._states[id] = rows[0]["state"] if rows else None
        return self._states[id]


def _job(snapshot: Snapshot, job_id: str) -> dict[str, Any] | None:
    try:
        return jobs.get_job(snapshot, job_id)
    except NotFoundError:  # its events were not exported
        return None


def _run(row: _Row, attempts: Iterable[_Row], job: dict[str, Any] | None, actors: _Actors) -> dict[str, Any]:
    status, detail = row["status"], row["status_detail"]
    if status == "RUNNING" and actors.state(row["controller_actor_id"]) == "DEAD":
        # its controller did not live to say how it ended
        status, detail = "ABORTED", _ABORTED
    return {
        "id": row["run_id"],
        **{name: row[name] for name in ("name", "job_id", "controller_actor_id", "start_time_ns", "end_time_ns")},
        "status": status,
        "status_detail": detail,
        "controller_log_file_path": row["controller_log_file_path"],
        "framework_versions": row["framework_versions"] or {},
        "run_settings": _settings(row["run_settings"] or {}),
        "attempts": [_attempt(attempt, actors) for attempt in attempts],
        "job_details": job,
    }


def _attempt(row: _Row, actors: _Actors) -> dict[str, Any]:
    names = ("run_id", "attempt_id", "status", "status_detail", "start_time_ns", "end_time_ns")
    return {
        **{name: row[name] for name in names},
        "resources": row["resources"] or [],
        "workers": [_worker(worker, actors) for worker in row["workers"] or ()],
    }


def _worker(worker: Mapping[str, Any], actors: _Actors) -> dict[str, Any]:
    return {
        **worker,
        # a dead one is found dead by the GCS first
        "status": actors.state(worker["actor_id"]) or worker.get("status"),
        "log_file_path": worker.get("log_file_path"),
        "processStats": None,
        "gpus": [],
    }


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "train_loop_config": settings.get("train_loop_config"),
        "backend_config": _backend(settings.get("backend_config", {})),
        "scaling_config": _scaling(settings.get("scaling_config", {})),
        "datasets": settings.get("datasets", []),
        "data_config": _data(settings.get("data_config", {})),
        "run_config": _run_config(settings.get("run_config", {})),
    }


def _backend(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"framework": _FRAMEWORKS.get(settings.get("framework", "")), "config": settings.get("config", {})}


def _scaling(settings: Mapping[str, Any]) -> dict[str, Any]:
    workers: Any = settings.get("num_workers_fixed")
    if (between := settings.get("num_workers_range")) is not None:
        workers = [between["min"], between["max"]]
    labels: Any = settings.get("label_selector_single", {}).get("values")
    if (several := settings.get("label_selector_list")) is not None:
        labels = [selector.get("values", {}) for selector in several.get("values", ())]
    return {
        "num_workers": workers,
        "use_gpu": settings.get("use_gpu", False),
        "resources_per_worker": settings.get("resources_per_worker", {}).get("values"),
        "placement_strategy": settings.get("placement_strategy", ""),
        "accelerator_type": settings.get("accelerator_type"),
        "use_tpu": settings.get("use_tpu", False),
        "topology": settings.get("topology"),
        "bundle_label_selector": labels,
    }


def _data(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "datasets_to_split": "all" if "all" in settings else settings.get("datasets", {}).get("values", []),
        "execution_options": None,
        "data_execution_options": settings.get("data_execution_options", {}),
        "enable_shard_locality": settings.get("enable_shard_locality", False),
    }


def _run_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    checkpoints = settings.get("checkpoint_config", {})
    return {
        "name": settings.get("name", ""),
        "failure_config": settings.get("failure_config", {}),
        "worker_runtime_env": settings.get("worker_runtime_env", {}),
        "checkpoint_config": {
            "num_to_keep": checkpoints.get("num_to_keep"),
            "checkpoint_score_attribute": checkpoints.get("checkpoint_score_attribute"),
            "checkpoint_score_order": checkpoints.get("checkpoint_score_order", "MAX").lower(),
        },
        "storage_path": settings.get("storage_path", ""),
        "storage_filesystem": settings.get("storage_filesystem"),
    }
