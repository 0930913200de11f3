"""A real Ray whose GCS keeps its tables in a Redis: its head is killed and started again, under the same session."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from lab.ports import free_port
from lab.ray_cluster import ray_cluster
from tests.line import Line, wait_for

from raytrail.cli import main
from raytrail.config import ServerConfig
from raytrail.server import app
from raytrail.store import Store
from raytrail.tail import nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DEADLINE_SECONDS = 120

WORKLOAD = """
import sys, ray
from ray.util.placement_group import placement_group
ray.init(logging_level="ERROR")
@ray.remote
def f(name):
    print("printed in the", name, "life")
    return ray.get_runtime_context().get_task_id()
print("TASK", ray.get(f.remote(sys.argv[1])))
ray.get(placement_group([{"CPU": 1}], name=sys.argv[1], lifetime="detached").ready())
"""


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    """The address of a Redis."""
    if not shutil.which("redis-server"):
        text = "no redis-server: run `make brokers` as root (apt-get install redis-server)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(text)
    port = free_port()
    directory = tmp_path_factory.mktemp("redis")
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(lambda: answers(port), DEADLINE_SECONDS, "a Redis")
    yield f"127.0.0.1:{port}"
    server.kill()
    server.wait()


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


class Lives:
    """Two lives of a head, the agent that was there all the time, and its history."""

    def __init__(self, line):
        self.line = line
        self.ids = []
        """The heads, in the order of their lives."""
        self.tasks = {}
        self.began_ms = self.killed_ms = self.stopped_ms = 0

    @contextmanager
    def store(self):
        with Store.open(self.line.store) as store:
            yield store

    def rows(self, noun):
        """Return what the history has of the session; nothing while it has none."""
        if not (self.line.store / "catalogue.sqlite").exists():
            return []
        with self.store() as store:
            return [row for cluster in store.clusters() for row in store.snapshot(cluster.session).rows(noun)]

    def work(self, cluster, name):
        """Run a job and a driver, and wait for what the agent is to hear of them."""
        # a GCS that has just begun knows the head before it from its tables, and takes it for alive at first
        heads = []
        wait_for(lambda: heads.extend(self.new_heads(cluster)) or heads, DEADLINE_SECONDS, "a head alone")
        self.ids.append(head := heads[0])
        ray = Path(sys.executable).with_name("ray")
        cluster.run([ray, "job", "submit", "--submission-id", f"{name}-job", "--", "echo", f"{name} output"])
        printed = cluster.run([sys.executable, "-c", WORKLOAD, name]).stdout
        self.tasks[name] = next(line.split()[1] for line in printed.splitlines() if line.startswith("TASK"))
        wait_for(
            lambda: {"name": name, "state": "CREATED"}.items() <= self.group(name).items(),
            DEADLINE_SECONDS,
            f"{name} is asked for",
        )
        wait_for(
            lambda: head in {row["node_id"] for row in self.rows("raylet")},
            DEADLINE_SECONDS,
            f"the raylet of the {name} life",
        )

    def new_heads(self, cluster):
        """Return the one node that is alive, unless that is the one before it."""
        nodes = []
        with suppress(OSError):  # its dashboard is busy with its own beginning
            nodes = cluster.ask("/api/v0/nodes")["data"]["result"]["result"]
        alive = [node["node_id"] for node in nodes if node["state"] == "ALIVE"]
        return [] if len(alive) != 1 or alive[0] in self.ids else alive

    def is_placed(self, name, node_id):
        """Return whether the history has a placement group on a node."""
        group = self.group(name)
        return group["state"] == "CREATED" and node_id in str(group["bundles"])

    def group(self, name):
        return next((row for row in self.rows("placement_group") if row["name"] == name), {})


def head_processes(temp_dir):
    """Return the processes of a head's raylet and GCS."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.path.basename(command[0]) in (b"raylet", b"gcs_server") and f"{temp_dir}/".encode() in b" ".join(
                command
            ):
                pids.append(int(entry.name))
    return pids


def now_ms():
    return time.time_ns() // 1_000_000


@pytest.fixture(scope="module")
def lives(redis):
    # short: the paths of Ray's sockets have to stay below 107 bytes
    root = Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))
    line = Line(root, f"file://{root}/events")
    lives = Lives(line)
    environment = {"RAY_REDIS_ADDRESS": redis, "RAY_external_storage_namespace": "lives"}
    try:
        line.start("agent", "--types", "PLACEMENT_GROUP,WORKER", "--sweep-seconds", "0.5")
        line.start("history")
        lives.began_ms = now_ms()
        with ray_cluster(temp_dir=line.temp_dir, environment=environment) as cluster:
            first = cluster.session_dir
            lives.work(cluster, "old")
            lives.killed_ms = now_ms()
            for pid in head_processes(line.temp_dir):
                os.kill(pid, signal.SIGKILL)
        with ray_cluster(temp_dir=line.temp_dir, environment=environment) as cluster:
            assert cluster.session_dir == first, "the session is the same"
            lives.work(cluster, "new")
            # the head knows it from its tables, and places it anew, sooner or later
            wait_for(lambda: lives.is_placed("old", lives.ids[1]), DEADLINE_SECONDS, "the old group is placed again")
            cluster.stop()
            lives.stopped_ms = now_ms()
        wait_for(lambda: all(row["gone_ms"] for row in lives.rows("raylet")), DEADLINE_SECONDS, "the raylets have gone")
        line.stop("agent")
        line.stop("history")
        yield lives
    finally:
        line.end()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def session_dir(lives):
    return (lives.line.temp_dir / "session_latest").resolve()


@pytest.fixture(scope="module")
def imported(session_dir, tmp_path_factory):
    """A history that knows no more than the files that both heads left on disk."""
    root = tmp_path_factory.mktemp("imported")
    done = CliRunner().invoke(main, ["import", str(session_dir), "--store", str(root)])
    assert done.exit_code == 0, done.output
    return root


def test_the_second_head_left_a_port_file_beside_the_firsts_and_is_the_newest(lives, session_dir):
    old, new = lives.ids
    assert nodes(session_dir).heads == (old, new)
    assert nodes(session_dir).main == new


def test_both_heads_were_asked_by_the_agent(lives):
    assert lives.group("old")["state"] == lives.group("new")["state"] == "CREATED"
    workers = {row["node_id"] for row in lives.rows("worker")}
    assert workers == set(lives.ids)


def test_the_agent_says_when_each_raylet_has_gone(lives):
    rows = {row["node_id"]: row for row in lives.rows("raylet")}
    assert rows.keys() == set(lives.ids)
    old, new = (rows[id] for id in lives.ids)
    assert lives.began_ms < old["seen_ms"] <= old["gone_ms"] < new["seen_ms"] <= new["gone_ms"] <= lives.stopped_ms
    # found by looks some seconds apart, on a machine that may be busy
    assert abs(old["gone_ms"] - lives.killed_ms) < 30_000


@pytest.mark.parametrize("how", ["followed", "imported"])
async def test_jobs_tasks_and_logs_of_both_lives_are_there_each_under_its_own_head(lives, imported, how):
    with Store.open(lives.line.store if how == "followed" else imported) as store:
        [cluster] = store.clusters()
        transport = httpx.ASGITransport(app(store, ServerConfig()))
        last = f"http://history/clusters/{cluster.session}/final"
        async with httpx.AsyncClient(transport=transport, base_url=last) as client:
            old, new = lives.ids
            for name, id, number in (("old", old, ""), ("new", new, ".1")):
                job = (await client.get(f"/api/jobs/{name}-job")).json()
                assert (job["status"], job["driver_node_id"]) == ("SUCCEEDED", id)
                log = (await client.get(f"/api/jobs/{name}-job/logs")).json()["logs"]
                assert f"{name} output" in log.splitlines()
                printed = await client.get(f"/api/v0/logs/file?task_id={lives.tasks[name]}")
                assert f"printed in the {name} life" in printed.text.splitlines()
                listed = (await client.get(f"/api/v0/logs?node_id={id}&glob=**")).json()["data"]["result"]
                names = {file_name for names in listed.values() for file_name in names}
                own = {f"raylet{number}.out", f"gcs_server{number}.out", f"job-driver-{name}-job.log"}
                assert own <= names
                assert not names & {
                    f"raylet{'.1' if not number else ''}.out",
                    f"gcs_server{'.1' if not number else ''}.out",
                }
