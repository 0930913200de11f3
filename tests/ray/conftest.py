"""A real Ray that has done the demo's work, answered for it, and is gone."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest
from lab.queries import record_queries
from lab.ray_cluster import ray_cluster
from lab.record import record, record_logs

WORKLOAD = Path(__file__).parents[2] / "demo" / "workload.py"
SQUARES = "100"
"""So many tasks are more than Ray lists where nobody says how many. It is asked for all of them some hundred times."""


@pytest.fixture(scope="session")
def recorded_session():
    """Yield the directory of a session that has ended, and what its Ray answered just before it did."""
    # short: the paths of Ray's sockets have to stay below 107 bytes
    temp_dir = Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))
    try:
        with ray_cluster(temp_dir=temp_dir) as cluster:
            cluster.run([sys.executable, WORKLOAD, SQUARES], timeout_seconds=240)
            wait_until_quiet(cluster)
            recorded = record(cluster.dashboard_url, temp_dir / "recorded.json")
            recorded["logs"] = record_logs(cluster.dashboard_url, recorded)
            recorded["queries"] = record_queries(cluster.dashboard_url, recorded)
            # actors' events tell whole seconds: what the end brings must not fall into that of the answers
            time.sleep(1.1)
            cluster.stop()
            yield cluster.session_dir, recorded
    finally:
        shutil.rmtree(temp_dir, ignore_errors=True)


def wait_until_quiet(cluster, deadline_seconds=60):
    """Wait until no task is open, drivers aside, and two answers a second apart are the same."""
    deadline = time.monotonic() + deadline_seconds
    before = None
    while time.monotonic() < deadline:
        rows = {
            resource: cluster.ask(f"/api/v0/{resource}?detail=1&limit=10000")["data"]["result"]["result"]
            for resource in ("tasks", "actors", "jobs")
        }
        open_tasks = [row for row in rows["tasks"] if row["state"] not in ("FINISHED", "FAILED")]
        if not open_tasks and rows == before:
            return
        before = rows
        time.sleep(1)
    raise AssertionError(f"still open after {deadline_seconds} s: {open_tasks}")
