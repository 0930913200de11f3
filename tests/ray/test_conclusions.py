"""
A real Ray and its history, asked side by side at each moment of a run in which Ray has much to conclude.

Ray writes no event of most of what it concludes: of what a job's end, or a worker's, closes. So whatever may close
something happens here, in turn, and after each step the living Ray and the living history must say the same. Once Ray
is gone, the history of that moment must still say it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from lab.questions import compare_answers, moment_paths
from lab.ray_cluster import ray_cluster
from lab.record import ask_each, record

pytestmark = [pytest.mark.ray, pytest.mark.slow]

WORKLOADS = Path(__file__).parent / "workloads"
SECOND_IP, THIRD_IP = "127.0.0.2", "127.0.0.3"
REST_SECONDS = 300
"""How long Ray may take to come to rest, and the history to say the same."""
REST_SECONDS_AFTER_A_DIFFERENCE = 20
"""The same, once it has said something else at some moment: the test has failed, and only the report is wanted."""
STEP_SECONDS = 300

QUICK_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
}
"""A node that is gone is found dead in three seconds. All that closes tasks is as late as Ray has it by default."""

QUICK_FIGURES = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "NODE_STATS_UPDATE_INTERVAL_SECONDS": "1",
    "RAY_DASHBOARD_NO_CACHE": "1",
}
"""How old `ray status` and the dashboard's nodes and workers may be: Ray's 5 s, 15 s and 2 s would add up."""

SETTINGS = """
[tail]
temp_dir = "{temp_dir}"
state_dir = "{root}/state"
sweep_seconds = 0.5
redact = []

[sources]
types = ["WORKER", "PLACEMENT_GROUP", "OBJECT"]
placement_group_seconds = 0.5
worker_seconds = 0.5
object_seconds = 0.5
wait_seconds = 1.0

[agent]
to = "file://{root}/events"
report_seconds = 1.0

[store]
dir = "{root}/store"
batch_seconds = 0.2
fold_seconds = 0.5

[server]
port = 0
"""


class Moment(NamedTuple):
    """One moment of the run."""

    name: str
    live: dict
    """What Ray answered: by path its status, body, and when it was asked."""
    scores: list
    """How the history, asked at the same time, compares."""


class Run(NamedTuple):
    """What the run leaves behind."""

    moments: list
    after: dict
    """The scores of each moment, asked for once Ray was gone."""
    everything: list
    """The scores of all that Ray can be asked, of one moment at which a node of three is dead; asked like `after`."""


@pytest.fixture(scope="module")
def run():
    """Live through it all, and return what was said."""
    with ExitStack() as stack:
        # short: the paths of Ray's sockets have to stay below 107 bytes; and apart, as whatever names it ends with Ray
        temp_dir, root = (Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp")) for prefix in ("rt", "history"))
        for directory in (temp_dir, root):
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
        settings = root / "raytrail.toml"
        settings.write_text(SETTINGS.format(temp_dir=temp_dir, root=root))
        cluster = stack.enter_context(
            ray_cluster(
                temp_dir=temp_dir,
                num_cpus=8,
                system_config=QUICK_HEALTH_CHECKS,
                environment=QUICK_FIGURES,
            )
        )
        second, third = (cluster.add_node(ip=ip) for ip in (SECOND_IP, THIRD_IP))
        commands = [
            stack.enter_context(running("history", settings, root, "--from", f"file://{root}/events")),
            stack.enter_context(running("agent", settings, root)),
        ]
        wait_for((root / "store").exists, "the history has made no store")
        commands.append(stack.enter_context(running("serve", settings, root)))
        wait_for(lambda: "http://" in commands[-1].printed(), "the server does not listen")
        [url, *_] = re.findall(r"http://[^\s/]+", commands[-1].printed())
        history = f"{url}/clusters/{cluster.session_dir.name}"
        asking = Asking(cluster, history, commands)
        recorded = live_through(asking, second, third, root)
        cluster.stop()
        wait_for(lambda: ask(f"{url}/api/clusters")["clusters"][0]["sealed"], "the session is not sealed")

        def then(path, at_ms):
            return answer(f"{history}/at/{at_ms}{path}")

        after = {moment.name: compare_answers(moment.live, then) for moment in asking.moments}
        yield Run(asking.moments, after, compare_answers(recorded["asked"], then))


class Asking:
    """Asks both, until they agree."""

    def __init__(self, cluster, history, commands):
        self.cluster, self.history, self.commands = cluster, history, commands
        self.moments = []
        self.seconds = REST_SECONDS

    def rows(self, resource):
        """Return Ray's rows."""
        path = f"/api/v0/{resource}?detail=1&limit=10000"
        return self.cluster.ask(path, timeout_seconds=60)["data"]["result"]["result"]

    def at(self, name, until=lambda: True):
        """
        Record a moment: wait until Ray shows what the step has done and rests, and the history agrees.

        Args:
            name: The moment's.
            until: Whether Ray shows what the step has done.
        """
        wait_for(until, f"Ray does not show it: {name}")
        deadline = time.monotonic() + self.seconds
        before = self._ask_ray()
        while True:
            for command in self.commands:
                assert command.process.poll() is None, command.printed()
            ours = ask_each(self.history, before, timeout_seconds=60)
            live = self._ask_ray()
            changes = compare_answers(before, of(live))
            rests = live.keys() == before.keys() and agree(changes)
            scores = compare_answers(live, of(ours)) if rests else []
            if rests and (agree(scores) or time.monotonic() > deadline):
                break
            assert time.monotonic() < deadline + REST_SECONDS, f"Ray does not rest: {name}\n{table({name: changes})}"
            before = live
            time.sleep(0.3)
        if not agree(scores):
            self.seconds = REST_SECONDS_AFTER_A_DIFFERENCE
        self.moments.append(Moment(name, live, scores))
        # the actors' events tell whole seconds: what comes next must not fall into that of the answers
        time.sleep(1.1)

    def _ask_ray(self):
        jobs = [job["job_id"] for job in self.rows("jobs") if job["job_id"]]
        return ask_each(self.cluster.dashboard_url, moment_paths(jobs), timeout_seconds=60)


def of(asked):
    """Return the function that `compare_answers` asks, of answers that are there."""
    return lambda path, _: (asked[path]["status"], asked[path]["body"]) if path in asked else (404, None)


def agree(scores):
    """Whether both say the same: every row and every field that events can tell."""
    return all(score.exact and not score.missing_rows and not score.extra_rows for score in scores)


def live_through(asking, second, third, root):
    """Do each step, and record the moment after it; return all that was said at one of them."""
    cluster = asking.cluster
    asking.at("nothing has run")
    with driver(cluster, root, second.node_id, third.node_id) as do:
        asking.at("a driver is there", lambda: tasks(asking, type="DRIVER_TASK"))
        for step in (
            *("groups", "second_node", "third_node", "constructing", "constructor_killed", "constructor_failed"),
            *("worker_killed", "actor_killed"),
        ):
            do(step)
            asking.at(step)
        leave(cluster, root, "exits", "exit")
        do("keeper_submits")  # at once: before the sweep of what the job has left
        asking.at("a job has left", lambda: ended_jobs(asking) == 1)
        do("keeper_submits")
        asking.at("its detached actor submits again")
        leave(cluster, root, "killed", "kill")
        asking.at("a driver was killed", lambda: ended_jobs(asking) == 2)
        swept = f"Job finishes ({last_job(asking, 'exits')})"
        asking.at("what the job left is swept", lambda: says(asking, swept))
        do("keeper_submits")
        asking.at("its detached actor submits after the sweep")
        do("retried")
        second.kill()
        wait_for(lambda: any(row["state"] == "DEAD" for row in asking.rows("nodes")), "the node is not found dead")
        do("retry_ends")
        asking.at("a node was killed")
        swept = f"Job finishes ({last_job(asking, 'killed')})"
        asking.at("what the killed driver left is swept", lambda: says(asking, swept))
        submit(cluster)
        asking.at("a submission has ended")
        for step in ("keeper_killed", "group_removed"):
            do(step)
            asking.at(step)
        recorded = record(cluster.dashboard_url, root / "answers.json", timeout_seconds=60)
        jobs = ended_jobs(asking)
    asking.at("the driver has ended", lambda: ended_jobs(asking) == jobs + 1)
    asking.at("all is swept", lambda: says(asking, "Job finishes (01000000)"))
    return recorded


def tasks(asking, **wanted):
    rows = asking.cluster.ask("/api/v0/tasks?detail=1&limit=10000&exclude_driver=False", timeout_seconds=60)
    return [
        row for row in rows["data"]["result"]["result"] if all(row[name] == value for name, value in wanted.items())
    ]


def says(asking, text):
    return any(str(row["error_message"]).startswith(text) for row in tasks(asking, state="FAILED"))


def ended_jobs(asking):
    return sum(job["status"] != "RUNNING" for job in asking.rows("jobs") if job["job_id"])


def last_job(asking, name):
    """Return the job that one of the workload's drivers was, by its detached actor."""
    [job] = {row["job_id"] for row in asking.rows("actors") if row["name"] == f"{name}-keeper"}
    return job


def leave(cluster, root, name, how):
    done = cluster.run([sys.executable, WORKLOADS / "leaves.py", root, name, how], check=False)
    assert done.stdout.endswith(" left\n"), done.stdout


def submit(cluster):
    """Submit a job whose entrypoint is a driver, and wait for its end."""
    entrypoint = f"{sys.executable} -c 'import ray; ray.init()'"
    code = (
        "from ray.job_submission import JobSubmissionClient as Client; import os, time; "
        "client = Client(os.environ['RAY_API_SERVER_ADDRESS']); "
        f"job = client.submit_job(entrypoint={entrypoint!r}, submission_id='submitted')\n"
        "while not client.get_job_status(job).is_terminal(): time.sleep(0.2)\n"
        "assert client.get_job_status(job) == 'SUCCEEDED', client.get_job_logs(job)"
    )
    cluster.run([sys.executable, "-c", code])


@contextmanager
def driver(cluster, root, *nodes):
    """Yield a function that has the workload's driver do a step."""
    with (root / "driver.err").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, WORKLOADS / "conclusions.py", root, *nodes],
            env=cluster.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdin
    assert process.stdout
    to, answers = process.stdin, process.stdout

    def done(step):
        for line in answers:
            if line == f"did {step}\n":
                return
        raise AssertionError(f"{step}: {(root / 'driver.err').read_text()}")

    def do(step):
        to.write(f"{step}\n")
        to.flush()
        done(step)

    try:
        done("connect")
        yield do
        to.close()
        process.wait(STEP_SECONDS)
    finally:
        process.kill()  # does nothing where it has ended
        process.wait()
        answers.close()
        to.close()


class Command(NamedTuple):
    """One of our commands, which runs."""

    process: subprocess.Popen
    log: Path

    def printed(self):
        return self.log.read_text()


@contextmanager
def running(command, settings, root, *words):
    """Run one of our commands for as long as this lasts; what it says is in a file."""
    log = root / f"{command}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "raytrail", command, "--config", settings, *words], stdout=file, stderr=file
        )
    try:
        yield Command(process, log)
    finally:
        process.terminate()
        process.wait(60)


def wait_for(condition, failure, seconds=STEP_SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, failure
        time.sleep(0.2)


def ask(url):
    with urllib.request.urlopen(url, timeout=60) as reply:
        return json.load(reply)


def answer(url):
    try:
        return 200, ask(url)
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def table(scores_by_moment):
    """Return what is equal at each moment, of each resource, and the first differences."""
    lines = []
    for name, scores in scores_by_moment.items():
        for score in scores:
            equal, possible, _ = score.values
            lines.append(f"{name:45} {score.resource:18} {score.live_rows:4} rows  {equal}/{possible}")
            if not agree([score]):
                lines += [f"    {line}" for line in str(score).splitlines()[1 + len(score.fields) :]]
    equal, possible, every = (
        sum(values)
        for values in zip(*(score.values for scores in scores_by_moment.values() for score in scores), strict=True)
    )
    return "\n".join([*lines, f"{equal} of {possible} values equal, of {every}: {equal / possible:.3%}"])


def test_the_living_history_says_what_the_living_ray_says_at_each_moment(run):
    scores = {moment.name: moment.scores for moment in run.moments}
    print(table(scores))  # noqa: T201 (the report)
    different = {name: ones for name, ones in scores.items() if not agree(ones)}
    assert not different, table(different)
    assert len(scores) >= 20


def test_each_moment_is_as_it_was_once_ray_is_gone(run):
    print(table(run.after))  # noqa: T201 (the report)
    different = {name: ones for name, ones in run.after.items() if not agree(ones)}
    assert not different, table(different)


def test_all_that_can_be_asked_is_as_it_was_with_a_node_of_three_dead(run):
    print(table({"a node of three is dead": run.everything}))  # noqa: T201 (the report)
    equal, possible, _ = map(sum, zip(*(score.values for score in run.everything), strict=True))
    assert equal / possible >= 0.9995, table({"a node of three is dead": run.everything})


def test_the_run_held_all_that_ray_concludes(run):
    def rows(name, resource):
        [moment] = [moment for moment in run.moments if moment.name == name]
        [answer] = [each for path, each in moment.live.items() if path.startswith(f"/api/v0/{resource}?detail=1")]
        return answer["body"]["data"]["result"]["result"]

    def failed(name, text):
        return [row for row in rows(name, "tasks") if str(row["error_message"]).startswith(text)]

    last = "all is swept"
    [dead] = [row["node_id"] for row in rows(last, "nodes") if row["state"] == "DEAD"]
    assert failed(last, "Worker running the task (")
    assert {row["job_id"] for row in failed(last, "Job finishes (")} >= {"01000000", "02000000", "03000000"}
    assert [row for row in rows(last, "actors") if row["node_id"] is None and row["pid"]], "killed in its constructor"
    # what an actor submits after the sweep of its job's end goes on
    there = "a node was killed"
    ended = {row["job_id"] for row in rows(there, "jobs") if row["status"] != "RUNNING"}
    assert [row for row in rows(there, "tasks") if row["job_id"] in ended and row["state"] == "RUNNING"]
    # nothing closes what died with its owner's node, nor its workers
    assert [row for row in rows(there, "tasks") if (row["node_id"], row["state"]) == (dead, "RUNNING")]
    assert [row for row in rows(there, "workers") if row["node_id"] == dead and row["is_alive"]]
    assert {row["attempt_number"] for row in rows(there, "tasks") if row["name"] == "given"} == {0, 1}
    assert {row["state"] for row in rows(there, "placement_groups")} >= {"PENDING", "RESCHEDULING"}
