"""Recording, from a stand-in for Ray's dashboard; the real one is recorded in tests/ray."""

from __future__ import annotations

import json
import threading
import urllib.error
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from lab.questions import paths
from lab.record import RESOURCES, record, record_logs

from raytrail.errors import RaytrailError


@pytest.fixture
def dashboard():
    """Yield the address of a dashboard, and the dict of what it answers, by path."""
    answers = {"/api/version": {"ray_version": "2.60.0"}, "/api/jobs/": []}

    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self):
            path, _, query = self.path.partition("?")
            answer = answers.get(path)
            body = json.dumps(answer).encode()
            if answer is None or ("/api/v0/" in path and "summarize" not in path and "detail=1" not in query):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    for resource in RESOURCES:
        answers[f"/api/v0/{resource}"] = state({"total": 1, "result": [row(resource)]})
    for resource in ("tasks", "actors"):
        answers[f"/api/v0/{resource}/summarize"] = state({"total": 1, "result": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), Dashboard) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", answers
        finally:
            server.shutdown()
            thread.join()


def row(resource):
    return {f"{resource.removesuffix('s')}_id": f"{resource}_1"}


def state(answer, result=True, msg=""):
    return {"result": result, "msg": msg, "data": {"result": answer}}


def test_answers_are_returned_and_written(dashboard, tmp_path):
    address, _ = dashboard
    answers = record(address, tmp_path / "deep" / "answers.json")
    assert [answers[resource] for resource in RESOURCES] == [[row(name)] for name in RESOURCES]
    assert answers["version"] == {"ray_version": "2.60.0"}
    assert answers["tasks_summary"] == {"total": 1, "result": {}}
    assert 0 < answers["began_ms"] <= answers["ended_ms"]
    assert json.loads((tmp_path / "deep" / "answers.json").read_text()) == answers


def test_the_log_api_is_asked_for_tasks_actors_and_jobs_and_its_errors_are_kept(dashboard):
    address, answers = dashboard
    answers["/api/jobs/s1/logs"] = {"logs": "printed"}
    rows = {
        "tasks": [{"task_id": "aa", "attempt_number": 1, "type": "NORMAL_TASK"}],
        "actors": [{"actor_id": "bb"}],
        "submissions": [{"submission_id": "s1", "job_id": "01"}],
    }
    texts = record_logs(address, rows)
    assert list(texts) == [
        "/api/v0/logs/file?task_id=aa&attempt_number=1&suffix=out",
        "/api/v0/logs/file?task_id=aa&attempt_number=1&suffix=err",
        "/api/v0/logs/file?actor_id=bb&suffix=out&lines=-1",
        "/api/v0/logs/file?actor_id=bb&suffix=err&lines=-1",
        "/api/jobs/s1/logs",
    ]
    assert json.loads(texts["/api/jobs/s1/logs"]) == {"logs": "printed"}
    assert "404" in texts["/api/v0/logs/file?actor_id=bb&suffix=out&lines=-1"]


def test_everything_is_asked_and_what_ray_does_not_serve_is_kept_too(dashboard, tmp_path):
    address, known = dashboard
    known["/nodes/nodes_1"] = {"data": {"detail": None}}
    answers = record(address, tmp_path / "answers.json")
    asked = answers["asked"]
    assert set(asked) == set(paths(["jobs_1"], ["nodes_1"], ["actors_1"]))
    assert (asked["/nodes/nodes_1"]["status"], asked["/nodes/nodes_1"]["body"]) == (200, known["/nodes/nodes_1"])
    assert asked["/logical/actors/actors_1"]["status"] == 404
    assert all(answers["ended_ms"] <= answer["at_ms"] for answer in asked.values())


def test_rows_cut_short_are_refused(dashboard, tmp_path):
    address, answers = dashboard
    answers["/api/v0/actors"] = state({"total": 20_000, "result": []})
    with pytest.raises(RaytrailError) as error:
        record(address, tmp_path / "answers.json")
    assert str(error.value) == "actors cut short: 0 of 20000 rows; record a smaller workload"
    assert not (tmp_path / "answers.json").exists()


def test_an_error_of_ray_is_told(dashboard, tmp_path):
    address, answers = dashboard
    answers["/api/v0/nodes"] = state({}, result=False, msg="GCS is away")
    with pytest.raises(
        RaytrailError, match=r"^no answer to http://.*/api/v0/nodes.*: GCS is away; is the cluster well\?$"
    ):
        record(f"http://{address}/", tmp_path / "answers.json")


def test_a_dashboard_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(urllib.error.URLError):
        record("127.0.0.1:9", tmp_path / "answers.json")
