"""Our answers against those of a real Ray, which gave them just before it stopped."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from raytrail.cli import main
from raytrail.config import ServerConfig
from raytrail.server import app, serve
from raytrail.store import Store
from raytrail.testing.compare import compare

pytestmark = [pytest.mark.ray, pytest.mark.slow]

UNTOLD = {"abandoned": "sleep"}
"""The workload's task of which no event tells options(name=), as it never ended, and what we call it instead."""


@pytest.fixture(scope="module")
def store(recorded_session, tmp_path_factory):
    """A history that knows no more than the files that Ray left on disk."""
    session_dir, _ = recorded_session
    root = tmp_path_factory.mktemp("history")
    done = CliRunner().invoke(main, ["import", str(session_dir), "--store", str(root), "--redact", ""])
    assert done.exit_code == 0, done.output
    with Store.open(root) as store:
        yield store


@pytest.fixture(scope="module")
def session(store):
    [cluster] = store.clusters()
    assert cluster.sealed
    return cluster.session


@pytest.fixture
async def client(store):
    transport = httpx.ASGITransport(app(store, ServerConfig()))
    async with httpx.AsyncClient(transport=transport, base_url="http://history") as client:
        yield client


@pytest.fixture
def live(recorded_session):
    """What Ray answered."""
    return recorded_session[1]


@pytest.fixture
def then(session, live):
    """The cluster, at the moment at which Ray answered."""
    return f"/clusters/{session}/at/{live['ended_ms']}"


async def ask(client, path):
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]["result"]


@pytest.mark.parametrize("resource", ["tasks", "actors", "nodes", "jobs"])
async def test_every_row_and_field_is_as_ray_gave_it(resource, client, then, live):
    answer = await ask(client, f"{then}/api/v0/{resource}?detail=1&limit=10000&exclude_driver=False")
    score = compare(live[resource], answer["result"], resource=resource)
    assert score.live_rows > 0
    assert score.exact, str(score)
    assert answer["total"] == score.live_rows


@pytest.mark.parametrize("resource", ["tasks", "actors"])
async def test_a_summary_is_as_ray_gave_it(resource, client, then, live):
    def told(answer):
        cluster = answer["result"]["node_id_to_summary"]["cluster"]
        states = Counter()
        for name, group in cluster["summary"].items():
            for state, count in group["state_counts"].items():
                states[UNTOLD.get(name, name), state] += count
        totals = {name: value for name, value in cluster.items() if name != "summary"}
        return answer["total"], answer["num_filtered"], totals, states

    ours = await ask(client, f"{then}/api/v0/{resource}/summarize")
    assert told(ours) == told(live[f"{resource}_summary"])


async def test_submissions_are_as_the_jobs_api_gave_them(client, then, live):
    ours = (await client.get(f"{then}/api/jobs/")).json()
    assert sorted(ours, key=str) == sorted(live["submissions"], key=str)


async def test_the_end_of_the_session_changes_no_task_that_had_ended(client, session, live):
    at_the_end = await ask(client, f"/clusters/{session}/api/v0/tasks?detail=1&limit=10000&exclude_driver=False")
    ended = {(row["task_id"], row["attempt_number"]) for row in live["tasks"] if row["end_time_ms"]}
    score = compare(
        [row for row in live["tasks"] if (row["task_id"], row["attempt_number"]) in ended],
        [row for row in at_the_end["result"] if (row["task_id"], row["attempt_number"]) in ended],
        resource="tasks",
    )
    assert score.exact, str(score)
    assert not [row for row in at_the_end["result"] if row["state"] not in ("FINISHED", "FAILED")]


def test_nothing_that_ray_wrote_is_missing(store, session, recorded_session):
    directories = [recorded_session[0] / "logs" / name for name in ("export_events", "events")]
    [cluster] = store.clusters()
    assert cluster.stored_bytes == sum(path.stat().st_size for directory in directories for path in directory.iterdir())
    assert (cluster.missing_bytes, cluster.rejected) == (0, 0)
    assert not any(row.unknown_events for row in store.ledger(session))


def test_the_unmodified_ray_command_lists_a_dead_cluster(store, session, live):
    with listening(store) as url:
        address = f"{url}/clusters/{session}"
        listed = ray("list", "tasks", "--address", address, "--limit", "10000", "--format", "json")
        table = ray("list", "tasks", "--address", address)
        summary = ray("summary", "tasks", "--address", f"{address}/at/{live['ended_ms']}")
    drivers = {row["task_id"] for row in live["tasks"] if row["type"] == "DRIVER_TASK"}
    assert {row["task_id"] for row in json.loads(listed)} == {row["task_id"] for row in live["tasks"]} - drivers
    assert "List: " in table
    assert "square" in table
    totals = live["tasks_summary"]["result"]["node_id_to_summary"]["cluster"]
    assert f"total_tasks: {totals['total_tasks']}" in summary
    assert f"total_actor_tasks: {totals['total_actor_tasks']}" in summary
    assert "square" in summary


def ray(*arguments):
    """Run Ray's command line as its users do, and return what it printed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [Path(sys.executable).with_name("ray"), *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def listening(store):
    """Serve on a port for as long as this lasts; yields the URL."""
    urls, ready = [], threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def announce(url):
        urls.append(url)
        ready.set()

    serving = serve(store, ServerConfig(port=0), ready=announce, stop=stop)
    thread = threading.Thread(target=loop.run_until_complete, args=[serving])
    thread.start()
    try:
        assert ready.wait(30)
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()
