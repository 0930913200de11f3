"""A snapshot of a real Ray that exports nothing answers as that Ray did."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.metadata import version

import httpx
import pytest
from click.testing import CliRunner
from lab.compare import compare
from lab.ray_cluster import ray_cluster
from tests.ray.conftest import SQUARES, WORKLOAD, wait_until_quiet

from raytrail.cli import main
from raytrail.config import ServerConfig
from raytrail.exit_codes import OK, USAGE
from raytrail.server import app
from raytrail.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SAME_API = tuple(map(int, version("ray").split(".")[:2])) >= (2, 60)
"""Whether this Ray is the one whose API the history answers, and not one that writes some numbers in another way."""
LISTS = ("tasks", "actors", "nodes", "jobs", "workers", "placement_groups")
KEPT_OPEN = """
import sys, time
import numpy, ray
from ray.util.placement_group import placement_group, remove_placement_group
ray.init(namespace="kept")
held = ray.put(numpy.zeros(1_000_000, dtype=numpy.uint8))
group = placement_group([{"CPU": 0.1}])
ray.get(group.ready())
print("held", flush=True)
sys.stdin.readline()
del held
remove_placement_group(group)
print("let go", flush=True)
sys.stdin.readline()
"""


def lists(cluster):
    return {
        name: cluster.ask(f"/api/v0/{name}?detail=1&limit=10000&exclude_driver=False")["data"]["result"]["result"]
        for name in LISTS
    }


def snapshot(cluster, root):
    return CliRunner().invoke(main, ["snapshot", cluster.dashboard_url, "--store", str(root), "--redact", ""])


def snapshot_while_still(cluster, root, deadline_seconds=120):
    """Take a snapshot between two answers that are the same, so that it must be the same as both. Return these."""
    deadline = time.monotonic() + deadline_seconds
    while time.monotonic() < deadline:
        before = lists(cluster)
        done = snapshot(cluster, root)
        assert done.exit_code == 0, done.output
        if lists(cluster) == before:
            return before
        time.sleep(1)
    raise AssertionError(f"not still within {deadline_seconds} s")


async def ours(store, path):
    transport = httpx.ASGITransport(app(store, ServerConfig()))
    async with httpx.AsyncClient(transport=transport, base_url="http://history") as client:
        answer = await client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]["result"]


async def test_a_snapshot_answers_as_the_living_cluster_did(tmp_path):
    with ray_cluster(export=False) as cluster:
        cluster.run([sys.executable, WORKLOAD, SQUARES], timeout_seconds=240)
        wait_until_quiet(cluster)
        live = snapshot_while_still(cluster, tmp_path)
        assert not any(path.stat().st_size for path in cluster.session_dir.glob("logs/export_events/*"))
        with Store.open(tmp_path) as store:
            [session] = store.clusters()
            assert session.session == cluster.session_dir.name
            assert (session.alive, session.sealed, session.rejected) == (True, False, 0)
            moment = f"/clusters/{session.session}/at/{session.snapshot_ms}/api/v0/"
            for name in LISTS:
                answer = await ours(store, f"{moment}{name}?detail=1&limit=10000&exclude_driver=False")
                # nothing is excused, and nothing cannot be given: this is what Ray itself said
                score = compare(live[name], answer["result"], resource=name, cannot={}, excuses=(), types=SAME_API)
                assert score.exact, str(score)
                assert answer["warnings"][0].startswith("This is a snapshot of "), answer["warnings"]
        _follow(cluster, tmp_path)


@pytest.mark.skipif(not SAME_API, reason="this Ray has no tokens")
def test_a_cluster_that_asks_for_a_token_is_sent_it(tmp_path, monkeypatch):
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5e" * 32}
    with ray_cluster(export=False, environment=auth) as cluster:
        for token, code in (("", USAGE), ("00" * 32, USAGE), (auth["RAY_AUTH_TOKEN"], OK)):
            monkeypatch.setenv("RAY_AUTH_TOKEN", token)
            done = snapshot(cluster, tmp_path)
            assert done.exit_code == code, done.output
            assert ("does not let us in" in done.stderr) == bool(code)


def _follow(cluster, root):
    """See that what ends between two snapshots has ended in the second one, though Ray forgets some of it."""

    driver = subprocess.Popen(
        [sys.executable, "-c", KEPT_OPEN],
        env=cluster.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        _wait_for(driver, "held")
        assert snapshot(cluster, root).exit_code == 0
        with Store.open(root) as store:
            [session] = store.clusters()
            before = store.snapshot(session.session)
            events = session.events
            held = before.rows("object", columns=["object_id", "object_size", "state", "worker_id"])
            assert [row["state"] for row in held if row["object_size"] >= 1_000_000] == ["REFERENCED"]
            assert before.count("placement_group") >= 2
        print(file=driver.stdin, flush=True)
        _wait_for(driver, "let go")
        assert snapshot(cluster, root).exit_code == 0
        with Store.open(root) as store:
            [session] = store.clusters()
            after = store.snapshot(session.session)
            assert session.events > events
            states = {row["object_id"]: row["state"] for row in after.rows("object", columns=["object_id", "state"])}
            assert {states[row["object_id"]] for row in held if row["object_size"] >= 1_000_000} == {"DELETED"}
            groups = [row["state"] for row in after.rows("placement_group", columns=["state"])]
            assert set(groups) == {"REMOVED"}
            [snapshot_row] = after.rows("snapshot", columns=["at_ms", "first_at_ms"], limit=1)
            assert snapshot_row["at_ms"] == session.snapshot_ms > snapshot_row["first_at_ms"]
    finally:
        driver.kill()
        driver.communicate()


def _wait_for(driver, text):
    printed = []
    for line in driver.stdout:
        printed.append(line)
        if line.strip() == text:
            return
    raise AssertionError(json.dumps(printed))
