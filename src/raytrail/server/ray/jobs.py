"""Ray's Jobs API over a snapshot, for ``ray job list`` and `JobSubmissionClient`: what can be read."""

from __future__ import annotations

from typing import Any

from raytrail.errors import NotFoundError
from raytrail.server.ray.resources import JOBS
from raytrail.server.ray.state import find_rows, read_query
from raytrail.store import Snapshot

RAY_VERSION = "2.60.0"
"""The Ray whose APIs are answered here. No event says which one the cluster ran."""
JOBS_API_VERSION = "4"
"""``CURRENT_VERSION`` in ray/dashboard/modules/version.py, Ray 2.60. Clients ask for at least 2."""

_ALL = {"detail": ["true"], "limit": ["1000000"]}


def version(session: str) -> dict[str, str]:
    """Return what clients ask before anything else."""
    return {
        "version": JOBS_API_VERSION,
        "ray_version": RAY_VERSION,
        "ray_commit": "",
        "session_name": session,
    }


def list_jobs(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Return all jobs, submissions first, as Ray."""
    rows = _jobs(snapshot)
    return [row for row in rows if row["type"] != "DRIVER"] + [row for row in rows if row["type"] == "DRIVER"]


def get_job(snapshot: Snapshot, id: str) -> dict[str, Any]:
    """
    Return the job of that job id or submission id.

    Raises:
        NotFoundError: There is none.
    """
    for name in ("job_id", "submission_id"):
        for row in _jobs(snapshot, filter_keys=[name], filter_predicates=["="], filter_values=[id]):
            if row[name] == id:
                return row
    raise NotFoundError(f"Job {id} does not exist")


def _jobs(snapshot: Snapshot, **filters: list[str]) -> list[dict[str, Any]]:
    rows = find_rows(snapshot, read_query(JOBS, {**_ALL, **filters}))
    return [row for page in rows.pages for row in page]
