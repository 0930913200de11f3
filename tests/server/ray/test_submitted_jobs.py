"""Jobs that were submitted and of which only their drivers tell: Ray's HTTP export posts no more of them."""

import base64

import pytest
from tests.server.conftest import MADE, SESSION, logged
from tests.server.ray.test_logs import log_chunks

from raytrail.store import Store

pytestmark = pytest.mark.anyio

T = 1795900000000


def driver(number, submission=None, *, start=0, end=None, entrypoint="python a.py", metadata=(), **config):
    """Yield the events of a driver's start, and of its end: seconds after T."""
    submitted = {"job_submission_id": submission, "job_name": submission} if submission is not None else {}
    fields = {
        "job_id": base64.b64encode(bytes([number, 0, 0, 0])).decode(),
        "driver_pid": str(number),
        "driver_ip_address": "192.0.2.9",
        "driver_node_id": base64.b64encode(b"\x22" * 28).decode(),
        "entrypoint": entrypoint,
        "config": {"metadata": submitted | dict(metadata), **config},
        "start_time": str(T + start * 1000),
        "is_dead": False,
    }
    yield "EXPORT_DRIVER_JOB", fields
    if end is not None:
        yield "EXPORT_DRIVER_JOB", {**fields, "is_dead": True, "end_time": str(T + end * 1000)}


def submission(id, status, start, end=None):
    fields = {
        "submission_job_id": id,
        "status": status,
        "start_time": str(T + start * 1000),
        "entrypoint": "bash run.sh",
    }
    return "EXPORT_SUBMISSION_JOB", fields | ({"end_time": str(T + end * 1000)} if end is not None else {})


def jobs(store, at=None):
    rows = store.snapshot(MADE, None if at is None else T + at * 1000).rows("job")
    return [(row["submission_id"], row["job_id"], row["status"]) for row in rows]


async def test_a_submission_that_only_its_driver_tells_of_is_listed_and_found_by_both_its_ids(add, made_client):
    add(*driver(1, "rayjob-a", start=3, end=30, metadata={"owner": "me"}, entrypoint="python train.py"))
    [job] = (await made_client.get(f"/clusters/{MADE}/api/jobs/")).json()
    expected = {
        "type": "SUBMISSION",
        "job_id": "01000000",
        "submission_id": "rayjob-a",
        "status": "SUCCEEDED",
        "entrypoint": "python train.py",
        "start_time": T + 3000,
        "end_time": T + 30_000,
        "metadata": {"owner": "me"},
        "driver_info": {"id": "01000000", "node_ip_address": "192.0.2.9", "pid": "1"},
        "driver_node_id": "22" * 28,
    }
    assert {name: job[name] for name in expected} == expected
    for id in ("rayjob-a", "01000000"):
        assert (await made_client.get(f"/clusters/{MADE}/api/jobs/{id}")).json() == job
    then = (await made_client.get(f"/clusters/{MADE}/at/{T + 10_000}/api/jobs/rayjob-a")).json()
    assert (then["status"], then["end_time"]) == ("RUNNING", None)
    assert (await made_client.get(f"/clusters/{MADE}/at/{T}/api/jobs/")).json() == []


def test_a_submission_that_has_events_of_its_own_is_what_these_say(add, made):
    add(*driver(1, "a", start=1, end=5), submission("a", "FAILED", 0, 6), *driver(2, "b", start=1))
    assert jobs(made) == [("a", "01000000", "FAILED"), ("b", "02000000", "RUNNING")]


def test_a_submission_of_several_drivers_goes_by_the_last_and_runs_as_long_as_one_of_them(add, made):
    add(
        *driver(1, "outer", start=0, entrypoint="python outer.py"),
        *driver(2, "outer", start=5, end=9, entrypoint="python inner.py"),
    )
    assert jobs(made) == [("outer", "02000000", "RUNNING")]
    [row] = made.snapshot(MADE).rows("job")
    assert (row["entrypoint"], row["start_time_ms"], row["end_time_ms"]) == ("python outer.py", T, None)
    assert jobs(made, 3) == [("outer", "01000000", "RUNNING")]
    add(*driver(1, "outer", start=0, end=12, entrypoint="python outer.py"))
    [row] = made.snapshot(MADE).rows("job")
    assert (row["status"], row["end_time_ms"]) == ("SUCCEEDED", T + 12_000)


def test_an_id_that_is_used_again_is_the_later_run(add, made):
    add(*driver(1, "nightly", start=0, end=9), *driver(2, "nightly", start=20))
    [row] = made.snapshot(MADE).rows("job")
    assert (row["job_id"], row["status"], row["start_time_ms"]) == ("02000000", "RUNNING", T + 20_000)
    assert row["end_time_ms"] is None
    assert jobs(made, 15) == [("nightly", "01000000", "SUCCEEDED")]


def test_a_job_name_that_its_user_gave_stays(add, made):
    add(*driver(1, "a", metadata={"job_name": "mine"}))
    [row] = made.snapshot(MADE).rows("job")
    assert row["metadata"] == {"job_name": "mine"}


def test_what_nobody_submitted_and_what_is_rays_own(add, made):
    add(
        *driver(1, ""),
        *driver(2),
        *driver(3, ray_namespace="_ray_internal_dashboard"),
        *driver(4, "b", ray_namespace="_ray_internal_job_actor"),
        *driver(5, ray_namespace="mine_ray_internal_"),
    )
    assert jobs(made) == [(None, f"0{number}000000", "RUNNING") for number in (1, 2, 5)]


def test_without_the_submissions_file_what_drivers_tell_of_a_real_ray_is_what_it_said(capture, ground_truth, tmp_path):
    """As where the SUBMISSION_JOB type is off, or its file is lost."""
    with Store.open(tmp_path / "store", write=True) as store:
        files = sorted((capture / "export_events").glob("*DRIVER_JOB.log"))
        store.append([logged(path, path.read_bytes()) for path in files])
        store.fold()
        ours = {(row["job_id"], row["submission_id"]): row for row in store.snapshot(SESSION).rows("job")}
    with_driver = [job for job in ground_truth["jobs"] if job["job_id"]]
    assert ours.keys() == {(job["job_id"], job["submission_id"]) for job in with_driver}
    for job in with_driver:
        row = ours[job["job_id"], job["submission_id"]]
        # a driver tells its own command line, and not the shell's that was submitted
        same = ("type", "driver_info", "metadata", "runtime_env", *(["entrypoint"] if job["type"] == "DRIVER" else []))
        assert {name: row[name] for name in same} == {name: job[name] for name in same}


async def test_the_log_of_a_submission_that_only_its_driver_tells_of_is_found(add, made, made_client):
    _, (event_type, data) = driver(1, "a", end=3)
    add((event_type, {name: value for name, value in data.items() if name != "driver_node_id"}))
    for chunk in log_chunks("job-driver-a.log", b"from the driver\n"):
        made.append([chunk])
    made.fold()
    answer = await made_client.get(f"/clusters/{MADE}/api/jobs/a/logs")
    assert answer.json() == {"logs": "from the driver\n"}
