"""Placement groups and objects of a real Ray, probed as an agent does it; Ray's own answers are the measure."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from click.testing import CliRunner

from raytrail.cli import main
from raytrail.config import ServerConfig
from raytrail.server import app
from raytrail.store import Store
from raytrail.testing.compare import compare
from raytrail.testing.ray_cluster import ray_cluster

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RESOURCES = ("placement_groups", "workers", "objects")
DEADLINE_SECONDS = 120


class Agent:
    """An agent that probes, and what it says."""

    def __init__(self, root, cluster):
        self.log = root / "agent.log"
        root.mkdir()
        flags = ["--to", f"file://{root}/events", "--state-dir", root, "--temp-dir", cluster.temp_dir]
        flags += [
            "--types",
            "PLACEMENT_GROUP,WORKER,OBJECT",
            "--worker-seconds",
            "0.2",
            "--object-seconds",
            "0.2",
            "--placement-group-seconds",
            "0.2",
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


def differences(session_dir, answers, at_ms):
    """What is not as Ray answered, by resource; nothing where all is."""
    with history(session_dir) as store:
        found = {}
        for resource, rows in answers.items():
            # httpx has no synchronous transport to an ASGI app
            score = compare(rows, asyncio.run(listed(store, resource, at_ms)), resource=resource)
            if not score.exact or not score.live_rows:
                found[resource] = str(score)
        return found


def agreed(cluster):
    """Wait until our rows are Ray's, and return its answers and the moment."""
    last = {}

    def agree():
        last["live"] = {one: cluster.ask(f"/api/v0/{one}?detail=1")["data"]["result"]["result"] for one in RESOURCES}
        last["at_ms"] = time.time_ns() // 1_000_000
        try:
            last["different"] = differences(cluster.session_dir, last["live"], last["at_ms"])
        except AssertionError as error:  # nothing was written so far
            last["different"] = str(error)
        return not last["different"]

    wait_for(agree, lambda: last["different"])
    return last["live"], last["at_ms"]


class Driver:
    """The workload, up to what it says."""

    def __init__(self, cluster):
        command = [sys.executable, Path(__file__).parent / "workloads" / "probed_wl.py"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(list(map(str, command)), env=cluster.environment, text=True, **pipes)

    def until(self, said):
        line = self._process.stdout.readline()
        assert line == f"{said}\n", line

    def go_on(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self):
        self._process.kill()
        self._process.communicate()


def told(cluster, story, root):
    """Live through it: objects and groups that come and go, a second agent, a probe and an agent that are killed."""
    driver, agents = Driver(cluster), [Agent(root / "first", cluster)]
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

        agents.append(Agent(root / "third", cluster))
        events = cluster.session_dir / "logs" / "export_events"
        asked = [events / f"event_EXPORT_OBJECT_{pid}.log" for pid in agents[0].probes]
        wait_for(lambda: set(events.glob("event_EXPORT_OBJECT_[0-9]*.log")) - set(asked), agents[2].log.read_text)
        asking = agents[2].probes[-1]
        driver.end()
        cluster.stop()
        wait_for(lambda: not runs(asking), "a probe outlives its raylet")
        story.third_said = agents[2].stop()
        story.started_after_the_end = agents[2].probes[-1] != asking
    finally:
        driver.end()
        for agent in agents:
            agent.end()


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A cluster from its first object to its end, and what Ray had to say of it at three moments."""
    story = SimpleNamespace()
    temp_dir = Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))
    try:
        with ray_cluster(temp_dir=temp_dir, environment={"RAY_record_ref_creation_sites": "1"}) as cluster:
            story.session_dir = cluster.session_dir
            told(cluster, story, tmp_path_factory.mktemp("agents"))
        with history(story.session_dir) as story.store:
            yield story
    finally:
        shutil.rmtree(temp_dir, ignore_errors=True)


@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("moment", ["held", "gone", "unwatched"])
def test_every_row_and_field_is_as_ray_gave_it_then(story, resource, moment):
    live, at_ms = getattr(story, moment)
    score = compare(live[resource], asyncio.run(listed(story.store, resource, at_ms)), resource=resource)
    assert score.live_rows >= 5
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
    assert groups["infeasible"]["stats"]["scheduling_state"] == "INFEASIBLE"
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
        assert ended, f"something was let go of between {before!r} and {after!r}"


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


def test_a_second_agent_leaves_the_node_alone_and_says_so_once(story):
    assert len(re.findall("is asked by another agent on this machine", story.second_said)) == 1


def test_an_agent_outlives_the_ray_that_it_asked(story):
    assert not story.started_after_the_end
    assert "Traceback" not in story.third_said
