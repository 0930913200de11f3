"""Ray's own, unmodified clients against a dead cluster."""

import json
import os
import subprocess
import sys

import pytest

from raytrail.server.ray.resources import RESOURCES

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MOMENT = 1795420011999


def ray(*arguments):
    """Run Ray's command line as its users do, and return what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-m", "ray.scripts.scripts", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("noun", ["tasks", "actors", "nodes", "jobs"])
def test_ray_list(noun, address, ground_truth):
    done = ray(
        "list",
        noun,
        "--address",
        f"{address}/at/{MOMENT}",
        "--format",
        "json",
        "--limit",
        "10000",
        "--detail",
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == len(ground_truth[noun])


def test_ray_list_with_a_filter(address, ground_truth):
    done = ray("list", "tasks", "--address", address, "--filter", "state=failed", "--format", "json")
    assert {row["task_id"] for row in json.loads(done.stdout)} == {
        row["task_id"] for row in ground_truth["tasks"] if row["state"] == "FAILED"
    }


def test_ray_get(address, ground_truth):
    task = ground_truth["tasks"][0]
    done = ray("get", "tasks", task["task_id"], "--address", address)
    assert done.returncode == 0, done.stderr
    assert f"task_id: {task['task_id']}" in done.stdout
    actor = ground_truth["actors"][0]
    assert f"actor_id: {actor['actor_id']}" in ray("get", "actors", actor["actor_id"], "--address", address).stdout


def test_ray_summary(address):
    done = ray("summary", "tasks", "--address", address)
    assert done.returncode == 0, done.stderr
    assert "total_tasks: 2117" in done.stdout
    assert "total_actors: 58" in ray("summary", "actors", "--address", address).stdout


def test_ray_job(address):
    listed = ray("job", "list", "--address", address)
    assert listed.returncode == 0, listed.stderr
    assert "raysubmit_bEeMngkA3HeNFYCe" in listed.stdout + listed.stderr
    status = ray("job", "status", "raysubmit_bEeMngkA3HeNFYCe", "--address", address)
    assert "succeeded" in status.stdout + status.stderr
    stop = ray("job", "stop", "raysubmit_bEeMngkA3HeNFYCe", "--address", address)
    assert "read-only history" in stop.stdout + stop.stderr


def test_the_reason_of_a_refusal_reaches_the_user(address):
    done = ray("list", "workers", "--address", address)
    assert "workers: no event of them has come; agents ask Ray for them with --types WORKER" in done.stderr


def test_the_address_in_the_environment_wins(address):
    env = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1", "RAY_API_SERVER_ADDRESS": f"{address}/"}
    code = "from ray.util.state import list_nodes; print(len(list_nodes()))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "2\n", done.stderr


FILTERS = [
    ("tasks", "state", "=", "failed"),
    ("tasks", "state", "!=", "failed"),
    ("tasks", "name", "!=", "F"),
    ("tasks", "actor_id", "!=", "9041736716c64e0ee2526ab207000000"),
    ("tasks", "worker_pid", "=", "13993"),
    ("tasks", "worker_pid", "!=", "13993"),
    ("tasks", "attempt_number", "!=", "0"),
    ("tasks", "error_type", "!=", "worker_died"),
    ("tasks", "error_type", "=", ""),
    ("tasks", "placement_group_id", "!=", "x"),
    ("tasks", "is_debugger_paused", "=", "true"),
    ("tasks", "is_debugger_paused", "!=", "true"),
    ("tasks", "parent_task_id", "=", "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF01000000"),
    ("tasks", "language", "=", "python"),
    ("actors", "name", "=", ""),
    ("actors", "name", "!=", ""),
    ("actors", "pid", "=", "0"),
    ("actors", "pid", "!=", "0"),
    ("actors", "node_id", "!=", "abc"),
    ("actors", "repr_name", "=", "a(X=0)"),
    ("nodes", "is_head_node", "!=", "True"),
    ("nodes", "node_name", "=", "192.0.2.2"),
    ("jobs", "type", "=", "driver"),
    ("jobs", "job_id", "!=", "01000000"),
    ("jobs", "submission_id", "=", ""),
    ("jobs", "status", "=", "failed"),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray calls what its pydantic deprecates
@pytest.mark.parametrize("filter", FILTERS, ids=" ".join)
def test_a_filter_keeps_the_rows_that_rays_own_code_keeps(filter, address, ground_truth):
    from ray.dashboard.state_api_utils import do_filter
    from ray.util.state.api import StateApiClient
    from ray.util.state.common import ListApiOptions, StateResource, resource_to_schema

    noun, *condition = filter
    resource = StateResource(noun)
    # what Ray's client shows as null is not there where its server filters
    missing = {field.name for field in RESOURCES[noun].fields if field.absent}
    rows = [
        {name: value for name, value in row.items() if value is not None or name not in missing}
        for row in ground_truth[noun]
    ]
    kept = do_filter(rows, [tuple(condition)], resource_to_schema(resource), detail=True)
    client = StateApiClient(f"{address}/at/{MOMENT}")
    options = ListApiOptions(limit=10000, detail=True, filters=[tuple(condition)])
    ours = client.list(resource, options, raise_on_missing_output=True)

    def ids(rows):
        names = ("task_id", "attempt_number", "actor_id", "node_id", "job_id", "submission_id")
        return sorted(tuple(str(row.get(name)) for name in names) for row in rows)

    assert ids(ours) == ids(kept)
