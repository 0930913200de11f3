"""A Ray of our own, started and stopped for real."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from lab.ray_cluster import ray_cluster

from raytrail.errors import ConfigError, RaytrailError

DRIVER = """
import ray
ray.init(log_to_driver=False)
one = ray.remote(lambda: 1)
print("sum", sum(ray.get([one.remote() for _ in range(50)])))
"""


def test_a_python_without_ray_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError) as error, ray_cluster():
        pass
    expected = f"no ray command: {tmp_path / 'ray'} is not there; install ray[default] in its environment"
    assert str(error.value) == expected


@pytest.mark.slow
def test_a_ray_that_does_not_start_is_told_with_what_it_printed(monkeypatch, tmp_path):
    (tmp_path / "ray").write_text("#!/bin/sh\necho no luck\nexit 3\n")
    (tmp_path / "ray").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(RaytrailError, match="ray start ended with 3; it printed:\nno luck"), ray_cluster():
        pass


def test_no_two_rays_of_one_environment_start_at_once(monkeypatch, tmp_path):
    (tmp_path / "ray").write_text('#!/bin/sh\nflock --nonblock "$0" true && echo "alone" || echo "locked"\nexit 3\n')
    (tmp_path / "ray").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(RaytrailError, match="it printed:\nlocked"), ray_cluster():
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "printed", ["Failed to start the dashboard", "The current node timed out during startup. This"]
)
def test_a_ray_of_which_a_part_was_late_is_started_again(monkeypatch, tmp_path, printed):
    (tmp_path / "ray").write_text(
        f"#!/bin/sh\nmkdir $(dirname $0)/late 2>/dev/null && echo '{printed}' && exit 1\nexit 3\n"
    )
    (tmp_path / "ray").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(RaytrailError, match="ray start ended with 3"), ray_cluster():
        pass
    assert (tmp_path / "late").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_a_stopped_cluster_leaves_complete_files_and_no_process():
    with ray_cluster() as cluster:
        temp_dir = cluster.temp_dir
        assert "sum 50" in cluster.run([sys.executable, "-c", DRIVER]).stdout
        with pytest.raises(RaytrailError, match="ended with 7; it printed:\nbye"):
            cluster.run([sys.executable, "-c", "print('bye'); raise SystemExit(7)"])
        cluster.stop()
        directory = cluster.session_dir / "logs" / "export_events"
        events = [
            json.loads(line) for path in directory.glob("*.log") for line in path.read_text().splitlines(keepends=True)
        ]
        finished = [
            event for event in events if "11" in event["event_data"].get("state_updates", {}).get("state_ts_ns", {})
        ]
        assert len(finished) == 51  # the tasks, and the driver itself
        nodes = [event["event_data"] for event in events if event["source_type"] == "EXPORT_NODE"]
        assert [node["state"] for node in nodes] == ["ALIVE", "DEAD"]
        assert nodes[1]["death_info"]["reason"] == "EXPECTED_TERMINATION"
        assert not command_lines_with(f"{temp_dir}/")
    assert not temp_dir.exists()


def command_lines_with(text):
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in line:
                lines.append(line)
    return lines
