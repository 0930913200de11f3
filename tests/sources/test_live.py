"""
Placement groups and objects of a real Ray, probed as an agent does it; Ray's own answers are the measure.

The same Ray posts its tasks, actors, nodes, driver jobs and workers to the agent's receiver, if it can, and then writes
none of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from lab.compare import compare
from lab.ports import free_port
from lab.ray_cluster import ray_cluster

from raytrail.cli import main
from raytrail.config import ServerConfig
from raytrail.export import posts_events
from raytrail.server import app
from raytrail.server.ray.fidelity import CANNOT, CANNOT_BY_HTTP, EXCUSES, WITHOUT_LOGS
from raytrail.sources import address, serve_poll
from raytrail.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PROBED = ("placement_groups", "workers", "objects")
RELEASE = tuple(map(int, version("ray").split(".")[:2]))
POSTS = posts_events(version("ray"))
"""Whether this Ray posts; an older one writes the same into its files."""
posting = pytest.mark.skipif(not POSTS, reason="this Ray posts no events")
POSTED = ("tasks", "actors", "nodes", "jobs") if POSTS else ()
RESOURCES = (*PROBED, *POSTED)
WAITING = [excuse for excuse in EXCUSES if excuse.fields[0].startswith("stats.")]
"""That of groups that cannot be placed: Ray 2.48 tries even those again that never can be."""
OUTPUT = {
    field: why
    for field, why in {**CANNOT["tasks"], **WITHOUT_LOGS["tasks"]}.items()
    if field.startswith("task_log_info")
}
CANNOT_SAY = {
    **CANNOT_BY_HTTP,
    # Ray 2.55 posts of a task's output no more than it writes; 2.60 posts all
    "tasks": {**CANNOT_BY_HTTP["tasks"], **(OUTPUT if RELEASE < (2, 60) else {})},
}
DEADLINE_SECONDS = 120
WORKLOAD = Path(__file__).parent / "workloads" / "probed_wl.py"
SERVE_WORKLOAD = WORKLOAD.with_name("polled_wl.py")
SERVE = "/api/serve/applications/"
SERVE_NOUNS = ("serve_instance", "serve_proxy", "serve_application", "serve_deployment", "serve_replica")


class Agent:
    """An agent that probes, and what it says."""

    def __init__(self, root, cluster, *, receiver=""):
        self.log = root / "agent.log"
        root.mkdir()
        flags = ["--to", f"file://{root}/events", "--state-dir", root, "--temp-dir", cluster.temp_dir]
        flags += [
            "--types",
            ",".join(["PLACEMENT_GROUP", "WORKER", "OBJECT", *serve_poll.EVENT_TYPES]),
            "--serve-seconds",
            "0.2",
            "--worker-seconds",
            "0.2",
            "--object-seconds",
            "0.2",
            "--placement-group-seconds",
            "0.2",
            # Serve's first answer, while it starts, is slow, and fifty times as long is waited after it
            "--wait-seconds",
            "1",
            "--receiver",
            receiver,
        ]
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "raytrail", "agent", *map(str, flags)]
            self.process = subprocess.Popen(command, stderr=log)

    @property
    def probes(self):
        """The processes that it has started."""
        return [int(pid) for pid in re.findall(r"are asked for by process (\d+)", self.log.read_text())]

    def stop(self):
        """Tell it to stop, and return what it has said."""
        self.process.terminate()
        assert self.process.wait(60) == 0, self.log.read_text()
        return self.log.read_text()

    def end(self):
        self.process.kill()
        self.process.wait()


def runs(pid):
    try:
        return "_probe" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def wait_for(condition, what):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {what() if callable(what) else what}"
        time.sleep(0.2)


@contextmanager
def history(session_dir):
    """What the files of a session add up to, as the history would serve it."""
    with tempfile.TemporaryDirectory() as root:
        done = CliRunner().invoke(main, ["import", str(session_dir), "--store", root])
        assert done.exit_code == 0, done.output
        with Store.open(Path(root)) as store:
            yield store


async def listed(store, resource, at_ms):
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app(store, ServerConfig())), base_url="http://h"
    ) as asked:
        answer = await asked.get(f"/clusters/latest/at/{at_ms}/api/v0/{resource}?detail=1&limit=10000")
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]["result"]["result"]


def compared(live, store, resource, at_ms):
    # httpx has no synchronous transport to an ASGI app
    ours = asyncio.run(listed(store, resource, at_ms))
    types = RELEASE >= (2, 60)  # an older one writes some numbers in another way
    return compare(live, ours, resource=resource, cannot=CANNOT_SAY[resource], excuses=WAITING, types=types)


def differences(session_dir, answers, at_ms):
    """What is not as Ray answered, by resource; nothing where all is."""
    with history(session_dir) as store:
        differing = {}
        for resource, rows in answers.items():
            score = compared(rows, store, resource, at_ms)
            # every row of what is probed: else one that has not been answered yet agrees with what went meanwhile
            others = resource in PROBED and (score.missing_rows or score.extra_rows)
            if not score.exact or not score.live_rows or others:
                differing[resource] = str(score)
        return differing


def agreed(cluster):
    """Wait until our rows are Ray's, and return its answers and the moment."""
    last: dict[str, Any] = {}

    def agree():
        last["live"] = {
            resource: cluster.ask(f"/api/v0/{resource}?detail=1")["data"]["result"]["result"] for resource in RESOURCES
        }
        last["at_ms"] = time.time_ns() // 1_000_000
        try:
            last["different"] = differences(cluster.session_dir, last["live"], last["at_ms"])
        except AssertionError as error:  # nothing was written so far
            last["different"] = str(error)
        return not last["different"]

    wait_for(agree, lambda: last["different"])
    return last["live"], last["at_ms"]


async def polled(store, at_ms):
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app(store, ServerConfig())), base_url="http://h"
    ) as asked:
        answer = await asked.get(f"/clusters/latest/at/{at_ms}{SERVE}")
        assert answer.status_code == 200, answer.text
        return answer.json()


def served(cluster):
    """Wait until what our files add up to is what Serve's REST API says, and return both."""
    last = {}

    def agree():
        last["live"] = to_milliseconds(cluster.ask(SERVE))
        last["live"].pop("controller_health_metrics", None)  # not yet in Ray 2.48
        with history(cluster.session_dir) as store:
            last["ours"] = to_milliseconds(asyncio.run(polled(store, time.time_ns() // 1_000_000)))
            last["rows"] = {noun: store.snapshot(store.clusters()[0].session).rows(noun) for noun in SERVE_NOUNS}
        return last["ours"] == last["live"]

    wait_for(agree, lambda: last)
    return SimpleNamespace(**last)


def to_milliseconds(answer):
    """Times to the millisecond, as the history has them, and replicas in an order of ours."""
    if isinstance(answer, list):
        values = [to_milliseconds(member) for member in answer]
        return (
            sorted(values, key=lambda replica: replica["replica_id"])
            if values and "replica_id" in values[0]
            else values
        )
    if not isinstance(answer, dict):
        return answer
    times = ("last_deployed_time_s", "start_time_s")
    return {name: round(value, 3) if name in times else to_milliseconds(value) for name, value in answer.items()}


class Driver:
    """The workload, up to what it says."""

    def __init__(self, cluster, workload=WORKLOAD, *words):
        command = [sys.executable, workload, *words]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it is closed with the driver)
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        self._process = subprocess.Popen(list(map(str, command)), env=cluster.environment, text=True, **pipes)
        assert self._process.stdin
        assert self._process.stdout
        self._in, self._out = self._process.stdin, self._process.stdout

    def until(self, mark):
        # Ray prints what it has to say there, too
        while (line := self._out.readline()) != f"{mark}\n":
            assert line, f"the driver ended with {self._process.wait(60)} before it said {mark!r}:\n{self._printed()}"

    def _printed(self):
        self._errors.seek(0)
        return self._errors.read()[-4000:]

    def go_on(self):
        self._in.write("\n")
        self._in.flush()

    def end(self):
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def live_through(cluster, story, root, receiver):
    """Live through it: objects and groups that come and go, a second agent, a probe and an agent that are killed."""
    driver, serving, agents = Driver(cluster), None, [Agent(root / "first", cluster, receiver=receiver)]
    try:
        driver.until("held")
        story.held = agreed(cluster)
        driver.go_on()
        driver.until("gone")
        story.gone = agreed(cluster)

        agents.append(Agent(root / "second", cluster))
        wait_for(lambda: "another agent" in agents[1].log.read_text(), agents[1].log.read_text)
        wait_for(lambda: len(agents[1].probes) > 2, "it is tried again")
        story.second_said = agents[1].stop()

        [killed] = agents[0].probes
        os.kill(killed, signal.SIGKILL)
        driver.go_on()
        driver.until("unwatched")
        wait_for(lambda: len(agents[0].probes) == 2, agents[0].log.read_text)
        story.unwatched = agreed(cluster)

        agents[0].process.kill()
        wait_for(lambda: not runs(agents[0].probes[1]), "a probe outlives its agent")

        agents.append(Agent(root / "third", cluster, receiver=receiver))
        events = cluster.session_dir / "logs" / "export_events"
        asked = [events / f"event_EXPORT_OBJECT_{pid}.log" for pid in agents[0].probes]
        wait_for(lambda: set(events.glob("event_EXPORT_OBJECT_[0-9]*.log")) - set(asked), agents[2].log.read_text)
        asking = agents[2].probes[-1]
        driver.end()
        serving = Driver(cluster, SERVE_WORKLOAD, free_port())
        serving.until("served")
        story.served = served(cluster)
        serving.go_on()
        serving.until("shut down")
        shut_down = events / f"event_EXPORT_SERVE_INSTANCE_{asking}.log"
        wait_for(lambda: "SHUT_DOWN" in shut_down.read_text(), agents[2].log.read_text)
        cluster.stop()
        wait_for(lambda: not runs(asking), "a probe outlives its raylet")
        story.third_said = agents[2].stop()
        story.started_after_the_end = agents[2].probes[-1] != asking
    finally:
        driver.end()
        if serving:
            serving.end()
        for agent in agents:
            agent.end()


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A cluster from its first object to its end, and what Ray had to say of it at three moments."""
    story = SimpleNamespace()
    temp_dir = Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))
    try:
        receiver = f"127.0.0.1:{free_port()}"
        environment = {
            "RAY_record_ref_creation_sites": "1",
            "RAY_record_task_actor_creation_sites": "1",
            "RAYTRAIL_SOURCES_TYPES": "",  # no hooks
        }
        http_events = address.url(receiver) if POSTS else ""
        with ray_cluster(temp_dir=temp_dir, environment=environment, http_events=http_events) as cluster:
            story.session_dir = cluster.session_dir
            live_through(cluster, story, tmp_path_factory.mktemp("agents"), receiver)
        with history(story.session_dir) as story.store:
            yield story
    finally:
        shutil.rmtree(temp_dir, ignore_errors=True)


@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("moment", ["held", "gone", "unwatched"])
def test_every_row_and_field_is_as_ray_gave_it_then(story, resource, moment):
    live, at_ms = getattr(story, moment)
    score = compared(live[resource], story.store, resource, at_ms)
    assert score.live_rows >= (5 if resource in PROBED else 1)
    assert score.exact, str(score)


def last(story, noun):
    return story.store.snapshot(story.store.clusters()[0].session).rows(noun)


def test_objects_are_of_every_kind(story):
    rows = story.held[0]["objects"]
    assert {row["reference_type"] for row in rows} == {
        "ACTOR_HANDLE",
        "CAPTURED_IN_OBJECT",
        "LOCAL_REFERENCE",
        "PINNED_IN_MEMORY",
        "USED_BY_PENDING_TASK",
    }
    assert any("probed_wl.py" in row["call_site"] for row in rows)
    assert {row["type"] for row in rows} == {"DRIVER", "WORKER"}


def test_groups_are_of_every_kind_and_one_that_lived_50_ms_is_told_from_its_beginning(story):
    session = story.store.clusters()[0].session
    rows = story.store.snapshot(session, story.gone[1]).rows("placement_group")
    groups = {row["name"]: row for row in rows}
    assert {row["strategy"] for row in groups.values()} == {"PACK", "SPREAD", "STRICT_PACK"}
    assert groups["detached"]["is_detached"]
    # Ray 2.48 waits for what can never be
    assert groups["infeasible"]["stats"]["scheduling_state"] in ("INFEASIBLE", "NO_RESOURCES")
    assert groups["infeasible"]["placement_time_ms"] is None
    short = groups["short"]
    assert short["creation_time_ms"] <= short["placement_time_ms"] <= short["removal_time_ms"]
    [then] = [
        row["state"]
        for row in story.store.snapshot(session, short["placement_time_ms"] + 10).rows("placement_group")
        if row["name"] == "short"
    ]
    assert then == "CREATED"


def test_what_was_deleted_is_known_to_have_been_while_a_killed_probe_watched_or_not(story):
    session = story.store.clusters()[0].session
    at = {moment: getattr(story, moment)[1] for moment in ("held", "gone", "unwatched")}
    states = {
        moment: {
            (row["object_id"], row["worker_id"]): row["state"]
            for row in story.store.snapshot(session, at_ms).rows("object")
        }
        for moment, at_ms in at.items()
    }
    for before, after in (("held", "gone"), ("gone", "unwatched")):
        ended = [
            key for key, state in states[before].items() if state == "REFERENCED" and states[after][key] == "DELETED"
        ]
        assert ended, f"something was let go of between {before!r} and {after!r}: {states}"


def test_those_that_lived_and_died_between_two_answers_are_counted(story):
    seen = {row["object_id"] for row in last(story, "object")}
    unseen = sum(row["unseen_objects"] for row in last(story, "object_gap"))
    short_lived = 200
    assert unseen + len(seen) >= short_lived
    assert not any(row["truncated"] for row in last(story, "object_gap"))


def test_what_is_open_at_the_end_is_closed_as_inferred(story):
    assert {row["state"] for row in last(story, "placement_group")} == {"REMOVED"}
    assert {row["state"] for row in last(story, "object")} == {"DELETED"}
    detached = next(row for row in last(story, "placement_group") if row["name"] == "detached")
    assert detached["inferred"] == "session ended"


@posting
def test_what_ray_posted_is_in_the_files_of_receivers_once_and_nowhere_else(story):
    events = story.session_dir / "logs" / "export_events"
    for event_type in ("TASK", "ACTOR", "NODE", "DRIVER_JOB"):
        written = [path for path in events.glob(f"event_EXPORT_{event_type}*.log") if path.stat().st_size]
        assert written, event_type
        assert all("_EVENT_0" in path.name for path in written)
    lines = [line for path in events.glob("event_EXPORT_*_0[0-9]*.log") for line in path.read_bytes().splitlines()]
    ids = [json.loads(line)["eventId"] for line in lines]
    assert len(set(ids)) == len(ids)


@posting
def test_times_that_are_those_of_the_event_are_the_gcs_but_for_a_moment(story):
    [live], at_ms = story.held[0]["jobs"], story.held[1]
    [ours] = asyncio.run(listed(story.store, "jobs", at_ms))
    assert 0 <= int(ours["start_time"]) - int(live["start_time"]) <= 1000


@posting
def test_posted_events_tell_what_files_cannot(story):
    [keeper] = [row for row in last(story, "actor") if row["class_name"] == "Keeper"]
    assert f'File "{WORKLOAD}", line' in keeper["call_site"]
    assert keeper["port"] > 0
    assert keeper["start_time_ms"] % 1000
    session = story.store.clusters()[0].session
    workers = {row["worker_id"]: row for row in story.store.snapshot(session, story.held[1]).rows("worker")}
    assert workers[keeper["worker_id"]]["pid"] == keeper["pid"]
    tasks = [row for row in last(story, "task") if row["job_id"] == keeper["job_id"]]
    assert all(task["call_site"] for task in tasks if task["type"] != "DRIVER_TASK")


def test_serve_without_hooks_is_polled_and_says_so(story):
    assert [len(rows) for rows in story.served.rows.values()] == [1, 1, 1, 2, 3]
    assert {row["polled"] for rows in story.served.rows.values() for row in rows} == {True}
    assert story.served.ours["applications"]["polled"]["status"] == "RUNNING"
    rows = {noun: last(story, noun) for noun in SERVE_NOUNS}
    ended = {row.get("state") or row["status"] for of in rows.values() for row in of}
    assert ended == {"SHUT_DOWN", "STOPPED", "DELETED"}
    assert {row["inferred"] for of in rows.values() for row in of} == {None}


def test_a_second_agent_leaves_the_node_alone_and_says_so_once(story):
    assert len(re.findall("is asked by another agent on this machine", story.second_said)) == 1


def test_an_agent_outlives_the_ray_that_it_asked(story):
    assert not story.started_after_the_end
    assert "Traceback" not in story.third_said
