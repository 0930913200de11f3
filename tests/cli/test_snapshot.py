"""`raytrail snapshot`, against a dashboard that gives a real one's answers, and what may be wrong with one."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from lab.ports import free_ports
from tests.histories import DEADLINE_SECONDS
from tests.line import wait_for
from tests.sources.test_serve_poll import ANSWER

from raytrail.config import StoreConfig
from raytrail.errors import StoreLocked
from raytrail.exit_codes import BROKEN, DIFFERENT, USAGE
from raytrail.store import Store

pytestmark = pytest.mark.slow

SESSION = "session_2026-11-30_15-34-01_928762_16194"
NODE, JOB, WORKER = "d2" * 28, "02000000", "fb" * 28
TASK, ACTOR = "00" * 20 + JOB, "0a" * 12 + JOB
TOKEN = "1f" * 32
SERVE: dict[str, Any] = {**ANSWER}
VERSION = {"version": "4", "ray_version": "2.60.0", "ray_commit": "b7", "session_name": SESSION}
ROWS: dict[str, Any] = {
    "nodes": [
        {
            "node_id": NODE, "node_ip": "192.0.2.2", "is_head_node": True, "state": "ALIVE", "state_message": None,
            "node_name": "192.0.2.2", "resources_total": {"CPU": 4.0}, "labels": {}, "start_time_ms": 1796052848049,
            "end_time_ms": 0,
        },
        {
            "node_id": "d3" * 28, "node_ip": "192.0.2.3", "is_head_node": False, "state": "DEAD",
            "state_message": "Unexpected termination: health check failed", "node_name": "192.0.2.3",
            "resources_total": {}, "labels": {}, "start_time_ms": 1796052848049, "end_time_ms": 1796052868049,
        },
    ],
    "jobs": [
        {
            "type": "SUBMISSION", "job_id": JOB, "submission_id": "nightly", "driver_info": {"id": JOB, "pid": "7",
            "node_ip_address": "192.0.2.2"}, "status": "RUNNING", "entrypoint": "python train.py", "message": None,
            "error_type": None, "start_time": 1796052851291, "end_time": None, "metadata": {"who": "demo"},
            "runtime_env": {"env_vars": {"PASSWORD": "geheim"}}, "driver_agent_http_address": "http://192.0.2.2:1",
            "driver_node_id": NODE, "driver_exit_code": None,
        }
    ],
    "workers": [
        {
            "worker_id": WORKER, "is_alive": True, "worker_type": "WORKER", "exit_type": None, "node_id": NODE,
            "ip": "192.0.2.2", "pid": 9, "exit_detail": None, "worker_launch_time_ms": 18446744073709551615,
            "worker_launched_time_ms": 18446744073709551615, "start_time_ms": 1796052851278, "end_time_ms": 0,
            "debugger_port": None, "num_paused_threads": None,
        }
    ],
    "actors": [
        {
            "actor_id": ACTOR, "class_name": "Waiter", "state": "ALIVE", "job_id": JOB, "name": "w", "node_id": NODE,
            "pid": 9, "ray_namespace": "demo", "serialized_runtime_env": "{}", "required_resources": {"CPU": 0.1},
            "death_cause": None, "is_detached": False, "placement_group_id": None, "repr_name": "",
            "num_restarts": "3", "num_restarts_due_to_lineage_reconstruction": "1",
            "num_restarts_due_to_node_preemption": "1", "call_site": None, "label_selector": {},
            "fallback_strategy": None,
        }
    ],
    "tasks": [
        {
            "task_id": TASK, "attempt_number": 0, "name": "square", "state": "RUNNING", "job_id": JOB,
            "actor_id": None, "type": "NORMAL_TASK", "func_or_class_name": "square", "parent_task_id": "ff" * 24,
            "node_id": NODE, "worker_id": WORKER, "worker_pid": 9, "error_type": None, "language": "PYTHON",
            "required_resources": {"CPU": 1.0}, "runtime_env_info": {"serialized_runtime_env": "{}"},
            "placement_group_id": None,
            "events": [
                {"state": "PENDING_ARGS_AVAIL", "created_ms": 1796052853173.0},
                {"state": "RUNNING", "created_ms": 1796052866581.0},
            ],
            "profiling_data": {}, "creation_time_ms": 1796052853173.0, "start_time_ms": 1796052866581.0,
            "end_time_ms": None, "task_log_info": None, "error_message": None, "is_debugger_paused": None,
            "call_site": None, "label_selector": {}, "fallback_strategy": {"options": []},
        }
    ],
    "placement_groups": [],
    "objects": [],
}  # fmt: skip


class Answers:
    """What a dashboard answers, by path. A list may be cut short, or not be answered."""

    def __init__(self):
        self.rows = json.loads(json.dumps(ROWS))
        self.totals, self.failing, self.token, self.most = {}, {}, "", 10_000
        self.asked, self.version, self.serve = [], VERSION, {}

    def answer(self, path, authorization):
        self.asked.append(path)
        if self.token and authorization != f"Bearer {self.token}":
            return 401, {}
        name, _, query = path.removeprefix("/api/v0/").partition("?")
        if path == "/api/version":
            return 200, self.version
        if name in self.failing:
            return self.failing[name]
        if path == "/api/serve/applications/":
            return 200, self.serve
        if path == "/logical/actors":
            return 200, {"result": True, "msg": "", "data": {"actors": {ACTOR: {"startTime": 1796052857631}}}}
        if name in self.rows:
            asked = int(query.partition("limit=")[2].partition("&")[0])
            if asked > self.most:
                text = f"Given limit {asked} exceeds the supported limit {self.most}. Use a lower limit, or set ..."
                return 400, {"result": False, "msg": text, "data": None}
            rows = self.rows[name][: self.most]
            total = self.totals.get(name, len(self.rows[name]))
            result = {"total": total, "num_after_truncation": len(rows), "result": rows, "warnings": None}
            return 200, {"result": True, "msg": "", "data": {"result": {**result, "partial_failure_warning": ""}}}
        return 404, {}


@contextmanager
def serving(answers):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = answers.answer(self.path, self.headers.get("Authorization", ""))
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in getattr(answers, "headers", {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def answers():
    return Answers()


@pytest.fixture
def url(answers):
    with serving(answers) as url:
        yield url


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYTRAIL_STORE_DIR", str(tmp_path / "store"))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "store"


def rows(store, name, **columns):
    with Store.open(store, StoreConfig(threads=1)) as opened:
        [cluster] = opened.clusters()
        return opened.snapshot(cluster.session, **columns).rows(name)


def test_the_history_before_a_snapshot_is_what_its_rows_say(run, url, store):
    done = run("snapshot", url)
    assert done.stdout.startswith(f"{SESSION}: snapshot with ")
    [task] = rows(store, "task", at_ms=1796052866580)
    assert (task["state"], task["node_id"]) == ("PENDING_ARGS_AVAIL", NODE)
    assert [row["state"] for row in rows(store, "node", at_ms=1796052868048)] == ["ALIVE", "ALIVE"]
    [_, dead] = rows(store, "node")
    assert (dead["state"], dead["state_message"]) == ("DEAD", "Unexpected termination: health check failed")
    assert rows(store, "actor", at_ms=1796052857630) == []
    [actor] = rows(store, "actor")
    assert (actor["state"], actor["start_time_ms"], actor["num_restarts"]) == ("ALIVE", 1796052857631, 3)
    assert actor["num_restarts_due_to_lineage_reconstruction"] == actor["num_restarts_due_to_node_preemption"] == 1
    [job] = rows(store, "job")
    assert (job["submission_id"], job["status"], job["start_time_ms"]) == ("nightly", "RUNNING", 1796052851291)
    assert "geheim" not in json.dumps(job)


def test_another_snapshot_updates_the_session(run, url, answers, store):
    run("snapshot", url)
    answers.rows["actors"][0] |= {"state": "ALIVE", "num_restarts": "4"}
    answers.rows["tasks"][0]["events"].append({"state": "FINISHED", "created_ms": 1796052866590.0})
    run("snapshot", url)
    [actor], [task] = rows(store, "actor"), rows(store, "task")
    assert (actor["num_restarts"], task["state"]) == (4, "FINISHED")


def test_serve_is_asked_where_it_runs_and_what_it_shows_no_more_has_ended(run, url, answers, store):
    run("snapshot", url)
    assert "/api/serve/applications/" not in answers.asked  # Ray would start a driver to answer
    answers.rows["actors"].append(
        {**answers.rows["actors"][0], "actor_id": "0b" * 16, "name": "SERVE_CONTROLLER_ACTOR"}
    )
    answers.serve = SERVE
    run("snapshot", url)
    names = ("serve_instance", "serve_proxy", "serve_application", "serve_deployment", "serve_replica")
    before = {name: rows(store, name) for name in names}
    assert all(before.values())
    assert {row["status"] for row in before["serve_application"]} == {
        app["status"] for app in SERVE["applications"].values()
    }
    answers.serve = {**SERVE, "controller_info": {}, "proxies": {}, "applications": {}}
    run("snapshot", url)
    ends = {"state": {"SHUT_DOWN", "STOPPED"}, "status": {"STOPPED", "DELETED"}}
    for name in names:
        now = rows(store, name)
        column = "state" if "state" in now[0] else "status"
        assert len(now) == len(before[name])
        assert {row[column] for row in now} <= ends[column], now
    assert (
        run("list", "snapshots", "--format", "json", "--filter", "resource=serve").stdout.count('"total_rows":0') == 1
    )


def test_an_actor_that_restarts_is_not_shown_as_alive(run, url, answers, store):
    answers.rows["actors"][0] |= {"state": "RESTARTING", "num_restarts": "0"}
    for name in ("lineage_reconstruction", "node_preemption"):
        answers.rows["actors"][0][f"num_restarts_due_to_{name}"] = "0"
    run("snapshot", url)
    assert [row["state"] for row in rows(store, "actor")] == ["RESTARTING"]


def test_a_list_that_was_cut_is_named_wherever_the_session_is_shown(run, url, answers, store):
    answers.totals["tasks"] = 25_312
    cut = run("snapshot", url, code=DIFFERENT)
    assert "Ray gave 1 of 25,312 rows" in cut.stdout
    assert "Ray gave 1 of 25,312 rows" in run("ledger", "--check", code=DIFFERENT).stdout
    assert "ledger: Ray gave 1 of its 25,312 tasks" in run("why").stdout
    assert ", 1 lists cut" in run("clusters").stdout
    # one that Ray gives whole takes its place
    answers.totals.clear()
    run("snapshot", url)
    run("ledger", "--check")
    assert "25,312" not in run("why").stdout


def test_a_ray_that_was_told_to_list_fewer_is_asked_for_these(run, url, answers):
    answers.most = 1
    cut = run("snapshot", url, code=DIFFERENT)
    assert "Ray gave 1 of 2 rows" in cut.stdout


def test_a_list_that_is_not_answered_does_not_keep_the_others_away(run, url, answers, store):
    answers.failing["tasks"] = (500, b"Server got itself in trouble")
    answers.rows["workers"] = [{"of": "another version"}]
    done = run("snapshot", url, code=DIFFERENT)
    assert "not answered: /api/v0/tasks" in done.stdout
    assert len(rows(store, "node")) == 2
    assert "Ray did not list its tasks" in run("why").stdout


@pytest.mark.parametrize(
    ("name", "rows", "why"),
    [
        ("actors", ["x"], "some rows have no fields"),
        ("actors", [{**ROWS["actors"][0], "num_restarts": 10**9}], "1000000000 restarts of an actor"),
        ("tasks", [{**ROWS["tasks"][0], "events": [{"state": "RUNNING", "created_ms": float("inf")}]}], "infinity"),
    ],
)
def test_an_answer_that_none_of_ray_gives_does_not_keep_the_others_away(run, url, answers, store, name, rows, why):
    answers.rows[name] = rows
    result = run("snapshot", url, code=DIFFERENT)
    assert f"{name} of {SESSION} are not all here" in result.stderr
    assert why in result.stderr
    with Store.open(store, StoreConfig(threads=1)) as opened:
        assert opened.snapshot(SESSION).count("node") == 2


def test_what_has_no_key_ends_nothing(run, url, answers, store):
    """It may be what another answer gave a key."""
    answers.rows["actors"][0]["name"] = "SERVE_CONTROLLER_ACTOR"
    answers.serve = {**SERVE, "controller_info": {**SERVE["controller_info"], "actor_id": "0b" * 16}}
    run("snapshot", url)
    answers.serve = {**SERVE, "controller_info": {"actor_id": []}}
    run("snapshot", url)
    with Store.open(store, StoreConfig(threads=1)) as opened:
        assert opened.snapshot(SESSION).count("serve_instance") >= 1


def test_what_an_answer_says_first_is_not_written_twice(url, answers, store):
    process = subprocess.Popen(
        [sys.executable, "-m", "raytrail", "snapshot", url, "--every", "1", "--log-format", "json"],
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: answers.asked.count("/api/version") >= 3, DEADLINE_SECONDS, "three snapshots")
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, err
    assert out.startswith(f"{SESSION}: snapshot with ")
    with Store.open(store, StoreConfig(threads=1)) as opened:
        events = {row.event_type: row.stored_events for row in opened.ledger(SESSION)}
    assert events["TASK"] == 1
    assert events["SNAPSHOT"] >= 16


def test_a_store_that_is_written_to_meanwhile_costs_no_event(url, answers, store):
    process = subprocess.Popen(
        [sys.executable, "-m", "raytrail", "snapshot", url, "--every", "1"], stdout=subprocess.DEVNULL, text=True
    )
    try:
        wait_for(lambda: asked_after(answers, 0), DEADLINE_SECONDS, "two snapshots")
        wait_for(lambda: is_written_by_us(store, answers), DEADLINE_SECONDS, "a snapshot beside us")
        wait_for(lambda: rows(store, "task")[0]["state"] == "FINISHED", DEADLINE_SECONDS, "another one")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_SECONDS)
    assert process.returncode == 0


def test_a_proxy_that_answers_for_a_dashboard_that_is_away_ends_nothing(url, answers):
    process = subprocess.Popen(
        [sys.executable, "-m", "raytrail", "snapshot", url, "--every", "1"], stdout=subprocess.DEVNULL, text=True
    )
    try:
        wait_for(lambda: asked_after(answers, -1), DEADLINE_SECONDS, "a snapshot")
        asked, real = len(answers.asked), answers.answer
        answers.answer = lambda path, _: answers.asked.append(path) or (503, {})
        wait_for(lambda: answers.asked[asked:].count("/api/version") >= 2, DEADLINE_SECONDS, "two refusals")
        answers.answer = real
        before = answers.asked.count("/logical/actors")
        wait_for(lambda: asked_after(answers, before - 1), DEADLINE_SECONDS, "another snapshot")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_SECONDS)
    assert process.returncode == 0


def asked_after(answers, number):
    return answers.asked.count("/logical/actors") >= number + 2


def is_written_by_us(store, answers):
    """Have a task end while nobody else can write to the store. False while the snapshot itself writes to it."""
    try:
        with Store.open(store, StoreConfig(threads=1), write=True):
            answers.rows["tasks"][0]["events"].append({"state": "FINISHED", "created_ms": 1796052866590.0})
            before = answers.asked.count("/logical/actors")
            wait_for(lambda: asked_after(answers, before), DEADLINE_SECONDS, "two snapshots that are not kept")
            return True
    except StoreLocked:
        return False


def test_a_token_comes_from_the_environment_or_a_file(run, url, answers, monkeypatch, tmp_path):
    answers.token = TOKEN
    refused = run("snapshot", url, code=USAGE)
    assert refused.stderr == (
        f"raytrail: error: {url} does not let us in (401); give the cluster's token in RAY_AUTH_TOKEN, or its file "
        "with --token-file\n"
    )
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    run("snapshot", url, "--token-file", tmp_path / "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    run("snapshot", url)


@pytest.mark.parametrize("token", [f"{TOKEN}\nX: 1", f"{TOKEN}é", f"{TOKEN} 1"])
def test_a_token_that_no_header_holds_is_not_shown(run, url, answers, monkeypatch, token):
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    result = run("snapshot", url, code=USAGE)
    assert result.stderr == "raytrail: error: RAY_AUTH_TOKEN holds no token; give what holds it\n"


def test_a_token_is_sent_to_no_other_host(run, answers, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    elsewhere = Answers()
    with serving(elsewhere) as other, serving(answers) as url:
        answers.version, answers.headers = {}, {"Location": f"{other}/api/version"}
        answers.answer = lambda path, _: (302, {})
        refused = run("snapshot", url, code=BROKEN)
    assert "/api/version is answered with 302" in refused.stderr
    assert elsewhere.asked == []


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ({}, "names no session"),
        (b"<html>", "names no session"),
        ({**VERSION, "session_name": "../x"}, "no name of Ray"),
        (b"[" * 100_000, "names no session"),
    ],
)
def test_what_is_no_dashboard_is_said_to_be_none(run, url, answers, version, why, store):
    answers.version = version
    assert why in run("snapshot", url, code=BROKEN).stderr
    assert not list(store.glob("**/*.log"))


def test_nobody_there_and_no_url(run):
    [port] = free_ports(1)
    assert "see that the dashboard runs" in run("snapshot", f"http://127.0.0.1:{port}", code=BROKEN).stderr
    for wrong in ("ftp://host", "http://", "http://user:geheim@host", "http://host:port"):
        refused = run("snapshot", wrong, code=USAGE).stderr
        assert "is no URL of a dashboard" in refused
        assert "geheim" not in refused


def test_a_session_that_came_with_its_events_is_left_alone(run, url, answers, make, store, tmp_path):
    with Store.open(store, StoreConfig(threads=1), write=True) as opened:
        opened.append([make.chunk("TASK", make.task(1))])
        opened.fold()
    answers.version = {**VERSION, "session_name": make.SESSION}
    assert "is in this history already, from its own events" in run("snapshot", url, code=USAGE).stderr
