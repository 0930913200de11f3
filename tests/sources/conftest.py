"""A real Ray whose workers were preloaded with our hooks, and what sources write, folded as the history folds it."""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from lab.ports import free_port
from lab.ray_cluster import ray_cluster
from tests.sources import posted

from raytrail.config import StoreConfig
from raytrail.event import Chunk, Segment
from raytrail.store import Store
from raytrail.tail import discovery
from raytrail.testing.entities import SESSION

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
                cluster.run([sys.executable, WORKLOADS / name, str(free_port())], timeout_seconds=400).stdout
                for name in ("serve_wl.py", "data_wl.py")
            )
            cluster.stop()
            steps = [json.loads(line) for line in printed.splitlines() if line.startswith('{"step"')]
            yield cluster.session_dir, {step["step"]: step for step in steps}
    finally:
        shutil.rmtree(temp_dir, ignore_errors=True)


@pytest.fixture(scope="session")
def captured():
    """All batches that a real Ray 2.60 posted."""
    return posted.captured()


@pytest.fixture
def rows(tmp_path_factory):
    """Fold the event files of a directory, and return an entity's rows, unsealed, as of a moment or at last."""

    def rows(directory, entity, at_ms=None):
        with Store.open(tmp_path_factory.mktemp("store"), StoreConfig(threads=1), write=True) as store:
            for path in sorted(directory.glob("event_EXPORT_*")):
                data, name = path.read_bytes(), discovery.parse(path.name)
                assert name
                segments = (Segment(f"{path.name}-0", 0, 0, len(data)),)
                store.append(
                    [
                        Chunk(
                            cluster="",
                            session=SESSION,
                            node_id="",
                            event_type=name.event_type,
                            segments=segments,
                            data=data,
                        )
                    ]
                )
            if not store.clusters():
                return []
            store.fold()
            assert not any(row.rejected_events for row in store.ledger(SESSION))
            return store.snapshot(SESSION, at_ms).rows(entity)

    return rows
