"""A real Ray whose workers were preloaded with our hooks, that has served and gone through data, and is gone."""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from raytrail.testing.ray_cluster import ray_cluster

WORKLOADS = Path(__file__).parent / "workloads"


@pytest.fixture(scope="session")
def hooked_session():
    """Yield the directory of a session that has ended, and what its Ray answered after each step of the workloads."""
    # short: the paths of Ray's sockets have to stay below 107 bytes
    temp_dir = Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))
    try:
        with ray_cluster(
            temp_dir=temp_dir,
            system_config={"preload_python_modules": ["raytrail.sources.preload"]},
            environment={"RAYTRAIL_SOURCES_TYPES": "ALL"},
        ) as cluster:
            printed = "".join(
                cluster.run([sys.executable, WORKLOADS / name], timeout_seconds=400).stdout
                for name in ("serve_wl.py", "data_wl.py")
            )
            cluster.stop()
            told = [json.loads(line) for line in printed.splitlines() if line.startswith('{"step"')]
            yield cluster.session_dir, {one["step"]: one for one in told}
    finally:
        shutil.rmtree(temp_dir, ignore_errors=True)
