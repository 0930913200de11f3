"""Our answers against those of a real Ray, which gave them just before it stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from click.testing import CliRunner
from lab.compare import compare
from lab.queries import outcome
from lab.questions import compare_answers
from tests.browser import browser
from tests.serving import listening

from raytrail.cli import main
from raytrail.config import ServerConfig
from raytrail.server import app
from raytrail.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SAME_API = tuple(map(int, version("ray").split(".")[:2])) >= (2, 60)
"""Whether this Ray is the one whose API the history answers, and not one that writes some numbers in another way."""
FROM_SOURCES = {"workers", "placement_groups", "objects", "objects summary", "dashboard workers", "serve", "data"}
"""What sources and agents of ours tell, and Ray's files do not."""
UNTOLD = {"abandoned": "sleep"}
"""The workload's task of which no event tells options(name=), as it never ended, and what we call it instead."""

NO_BYTES = "500 Internal Server Error\n\nServer got itself in trouble"
"""What Ray 2.48 answers where a log has none."""


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
    score = compare_told(live[resource], answer["result"], resource)
    assert score.live_rows > 0
    assert score.exact, str(score)
    assert answer["total"] == score.live_rows


@pytest.mark.parametrize("resource", ["tasks", "actors"])
async def test_a_summary_is_as_ray_gave_it(resource, client, then, live):
    names = UNTOLD | ({} if sums_up_by_name() else {row["name"]: row["func_or_class_name"] for row in live["tasks"]})

    def summed(answer):
        cluster = answer["result"]["node_id_to_summary"]["cluster"]
        states: Counter[tuple[str, str]] = Counter()
        for name, group in cluster["summary"].items():
            for state, count in group["state_counts"].items():
                states[names.get(name, name), state] += count
        totals = {name: value for name, value in cluster.items() if name != "summary"}
        return answer["total"], answer["num_filtered"], totals, states

    ours = await ask(client, f"{then}/api/v0/{resource}/summarize")
    assert summed(ours) == summed(live[f"{resource}_summary"])


def compare_told(live, ours, resource):
    """Compare rows, but for drivers' own tasks that this Ray left out of its files, as 2.48 does now and then."""
    score = compare(live, ours, resource=resource, types=SAME_API)
    if resource != "tasks" or SAME_API:
        return score
    lost = {row["task_id"] for row in live if row["type"] == "DRIVER_TASK"} & {key[0] for key in score.missing_rows}
    return compare([row for row in live if row["task_id"] not in lost], ours, resource=resource, types=SAME_API)


def without_lost_drivers(asked, ours):
    """Return the answers without the drivers' own tasks that this Ray left out of its files, as `compare_told`."""
    kept = {}
    for path, answer in asked.items():
        if urlsplit(path).path == "/api/v0/tasks" and answer["status"] == 200 and ours[path][0] == 200:
            known = {row["task_id"] for row in ours[path][1]["data"]["result"]["result"]}
            answer = json.loads(json.dumps(answer))
            result = answer["body"]["data"]["result"]
            rows = result["result"]
            result["result"] = [row for row in rows if row["type"] != "DRIVER_TASK" or row["task_id"] in known]
        kept[path] = answer
    return kept


def sums_up_by_name():
    """Whether the Ray that is installed has a group for each name in its summary of tasks; 2.48 has one a function."""
    from ray.util.state.common import TaskSummaries

    task = {"name": "given", "func_or_class_name": "f", "type": "NORMAL_TASK", "state": "FINISHED"}
    return "given" in TaskSummaries.to_summary_by_func_name(tasks=[task]).summary


def by_function(body, functions):
    """Return a summary of tasks with the groups of one function added up, as an older Ray gives it."""
    body = json.loads(json.dumps(body))
    [cluster] = body["data"]["result"]["result"]["node_id_to_summary"].values()
    groups: dict[str, dict[str, Any]] = {}
    for name, group in cluster["summary"].items():
        function = functions.get(name, name)
        total = groups.setdefault(function, {**group, "func_or_class_name": function, "state_counts": Counter()})
        total["state_counts"].update(group["state_counts"])
    cluster["summary"] = groups
    return body


async def test_submissions_are_as_the_jobs_api_gave_them(client, then, live):
    ours = (await client.get(f"{then}/api/jobs/")).json()
    assert sorted(ours, key=str) == sorted(live["submissions"], key=str)


async def test_all_that_was_asked_is_answered_as_ray_did(client, session, live):
    ours = {}
    functions = {row["name"]: row["func_or_class_name"] for row in live["tasks"]}
    for path, answer in live["asked"].items():
        reply = await client.get(f"/clusters/{session}/at/{answer['at_ms']}{path}")
        body = reply.json() if reply.status_code == 200 else None
        summed = urlsplit(path).path == "/api/v0/tasks/summarize" and "lineage" not in path
        ours[path] = (
            reply.status_code,
            by_function(body, functions) if body and summed and not sums_up_by_name() else body,
        )
    asked = live["asked"] if SAME_API else without_lost_drivers(live["asked"], ours)
    scores = compare_answers(asked, lambda path, _: ours[path], types=SAME_API)
    scores = [score for score in scores if score.resource not in FROM_SOURCES]
    assert {"lineage", "timeline", "dashboard nodes", "dashboard actors"} <= {score.resource for score in scores}
    equal, possible, every = map(sum, zip(*(score.values for score in scores), strict=True))
    report = "\n".join(str(score) for score in scores if score.equal_ratio < 1)
    assert equal / possible > 0.99, report
    untold = {score.resource: score.untold for score in scores if score.untold}
    assert sum(untold.values()) / every < 0.03, (untold, every)


@pytest.mark.skipif(not SAME_API, reason="an older Ray filters otherwise")
async def test_filters_and_limits_leave_the_rows_that_ray_left(client, session, live):
    different = {}
    for path, answer in live["queries"].items():
        reply = await client.get(f"/clusters/{session}/at/{answer['at_ms']}{path}")
        ours = outcome(path, reply.status_code, reply.json() if reply.status_code == 200 else None)
        theirs = outcome(path, answer["status"], answer["body"])
        if ours != theirs:
            different[path] = theirs, ours
    assert not different
    assert len(live["queries"]) > 600
    assert {200, 400, 500} <= {answer["status"] for answer in live["queries"].values()}


async def test_where_a_tasks_output_starts_is_as_ray_gave_it_where_it_alone_is_asked_for(client, then, live):
    finished = [row for row in live["tasks"] if row["task_log_info"] and row["state"] == "FINISHED"]
    for row in finished[:20]:
        by_task = f"filter_keys=task_id&filter_predicates=%3D&filter_values={row['task_id']}"
        answer = await ask(client, f"{then}/api/v0/tasks?detail=1&{by_task}")
        [ours] = [ours for ours in answer["result"] if ours["attempt_number"] == row["attempt_number"]]
        assert ours["task_log_info"] == row["task_log_info"]
    assert len(finished) >= 20


async def test_the_end_of_the_session_changes_no_task_that_had_ended(client, session, live):
    at_the_end = await ask(client, f"/clusters/{session}/final/api/v0/tasks?detail=1&limit=10000&exclude_driver=False")
    ended = {(row["task_id"], row["attempt_number"]) for row in live["tasks"] if row["end_time_ms"]}
    score = compare_told(
        [row for row in live["tasks"] if (row["task_id"], row["attempt_number"]) in ended],
        [row for row in at_the_end["result"] if (row["task_id"], row["attempt_number"]) in ended],
        "tasks",
    )
    assert score.exact, str(score)
    assert not [row for row in at_the_end["result"] if row["state"] not in ("FINISHED", "FAILED")]


def test_nothing_that_ray_wrote_is_missing(store, session, recorded_session):
    directories = [recorded_session[0] / "logs" / name for name in ("export_events", "events")]
    [cluster] = store.clusters()
    assert cluster.stored_bytes == sum(path.stat().st_size for directory in directories for path in directory.iterdir())
    assert (cluster.missing_bytes, cluster.rejected) == (0, 0)
    assert not any(row.unknown_events for row in store.ledger(session))


def test_every_log_is_as_ray_left_it(store, session, recorded_session):
    logs = recorded_session[0] / "logs"
    files = {
        str(path.relative_to(logs)): path
        for path in logs.rglob("*")
        if path.is_file() and path.relative_to(logs).parts[0] not in ("export_events", "events")
    }
    ours = {log.name: log for log in store.logs(session)}
    assert files.keys() - ours.keys() <= {"debug_state.txt", "debug_state_gcs.txt"}
    assert ours.keys() <= files.keys()
    different = [
        name for name, log in ours.items() if b"".join(store.read_log(session, log)) != files[name].read_bytes()
    ]
    assert not different


async def test_the_logs_of_tasks_actors_and_jobs_are_as_ray_gave_them(client, then, live):
    answers = {path: (await client.get(f"{then}{path}")).text for path in live["logs"]}

    def as_served(path, text):
        if text == NO_BYTES and has_no_output(live, path):
            return ""
        return json.loads(text) if path.startswith("/api/jobs/") and text.startswith("{") else text

    different = {
        path: (text, answers[path])
        for path, text in live["logs"].items()
        if as_served(path, text) != as_served(path, answers[path])
    }
    assert not different
    assert any("actor log" in text for text in live["logs"].values())
    assert any(path.startswith("/api/jobs/") and "not this one" in text for path, text in live["logs"].items())


def has_no_output(live, path):
    """Whether Ray's State API says so of the task whose log a path asks for."""
    asked = dict(parse_qsl(urlsplit(path).query))
    [info] = [
        row["task_log_info"]
        for row in live["tasks"]
        if (row["task_id"], str(row["attempt_number"])) == (asked.get("task_id"), asked.get("attempt_number"))
    ]
    start, end = (f"std{asked['suffix']}_{edge}" for edge in ("start", "end"))
    return info.get(end, info[start]) == info[start]  # one that still runs has no end


def test_ray_job_logs_follows_a_job_that_is_long_over(store, session, live):
    [job, *_] = [job for job in live["submissions"] if job["submission_id"]]
    log = json.loads(live["logs"][f"/api/jobs/{job['submission_id']}/logs"])["logs"]
    with listening(store) as url:
        shown = ray("job", "logs", job["submission_id"], "--follow", "--address", f"{url}/clusters/{session}")
    assert log in shown


def test_the_unmodified_ray_command_lists_a_dead_cluster(store, session, live):
    with listening(store) as url:
        address = f"{url}/clusters/{session}"
        then = f"{address}/at/{live['ended_ms']}"
        listed = ray("list", "tasks", "--address", then, "--limit", "10000", "--format", "json")
        table = ray("list", "tasks", "--address", address)
        summary = ray("summary", "tasks", "--address", then)
    drivers = {row["task_id"] for row in live["tasks"] if row["type"] == "DRIVER_TASK"}
    assert {row["task_id"] for row in json.loads(listed)} == {row["task_id"] for row in live["tasks"]} - drivers
    assert "List: " in table
    assert "square" in table
    totals = live["tasks_summary"]["result"]["node_id_to_summary"]["cluster"]
    assert f"total_tasks: {totals['total_tasks']}" in summary
    assert f"total_actor_tasks: {totals['total_actor_tasks']}" in summary
    assert "square" in summary


def test_commands_that_ask_a_gcs_find_a_dead_cluster(store, session):
    def asked(*command):
        words = ["exec", "--store", str(store._root), session, "--", *command]
        return subprocess.run(
            [sys.executable, "-m", "raytrail", *words],
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True, text=True, timeout=120, check=True,
        ).stdout  # fmt: skip

    assert "raylet.out" in asked("ray", "logs", "cluster")
    assert "PermissionError: not this one" in asked("ray", "logs", "job", "--id", "fails_demo")


def ray(*arguments):
    """Run Ray's command line as its users do, and return what it printed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [Path(sys.executable).with_name("ray"), *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_page_of_the_dashboard_opens_in_a_browser(store, session, live):
    driver = next(job for job in live["jobs"] if job["type"] == "DRIVER")["job_id"]
    submission = next(job for job in live["jobs"] if job["type"] == "SUBMISSION")["submission_id"]
    [node] = live["nodes"]
    actor = next(row for row in live["actors"] if row["state"] == "ALIVE")
    task = next(row for row in live["tasks"] if row["func_or_class_name"] == "square")
    pages = {
        "overview": ("overview", submission, "Node Status"),
        "jobs": ("jobs", driver, submission),
        "job": (f"jobs/{driver}", "Ray Core Overview", "Task Table", "Actor Table"),
        "submission": ("jobs/fails_demo", "Runtime environment", "ray.get(refuse.remote())"),
        "task": (f"jobs/{driver}/tasks/{task['task_id']}", "square", "FINISHED"),
        "cluster": ("cluster", "Node List", "ALIVE", node["node_ip"]),
        "node": (f"cluster/nodes/{node['node_id']}", "Node Detail", node["node_id"]),
        "actors": ("actors", actor["actor_id"], actor["class_name"]),
        "actor": (f"actors/{actor['actor_id']}", actor["actor_id"], "ALIVE"),
        "serve": ("serve",),
        "logs": ("logs", node["node_id"]),
        "logs of a node": (f"logs/?nodeId={node['node_id']}", "raylet.out", "job-driver-fails_demo.log"),
        "log": (
            f"logs/viewer?nodeId={node['node_id']}&fileName=job-driver-fails_demo.log",
            "ray.get(refuse.remote())",
        ),
    }
    with listening(store) as url, browser() as window:
        home = f"{url}/clusters/{session}/"
        for name, (fragment, *texts) in pages.items():
            window.open(f"{home}#/{fragment}", *texts, "before its shutdown", name=name)
        assert window.errors == []
