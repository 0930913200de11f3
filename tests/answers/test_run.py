"""Runs: how they ended, and why."""

import pytest
from tests.server.conftest import b64

from raytrail.answers.progress import progress
from raytrail.answers.run import run_of
from raytrail.answers.steps import marks_of
from raytrail.answers.why import command
from raytrail.errors import NotFoundError
from raytrail.server.pages.charts import progress_chart

from .conftest import BEGAN_S, JOB

TRACEBACK = """Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 chars):
Traceback (most recent call last):
  File "/srv/etl.py", line 12, in <module>
    ray.get(load.remote(3))
ray.exceptions.RayTaskError(ValueError): ray::load() (pid=1, ip=192.0.2.2)
  File "/srv/etl.py", line 8, in load
    raise ValueError("row 3 is negative")
ValueError: row 3 is negative
"""
FAILED = """User exception:
ray::load() (pid=1, ip=192.0.2.2)
  File "/srv/etl.py", line 8, in load
    raise ValueError("row 3 is negative")
ValueError: row 3 is negative"""


def submission(id="nightly", *, status="FAILED", message="", code=1, ended_s=90, name="etl"):
    return (
        "EXPORT_SUBMISSION_JOB",
        {
            "submission_job_id": id,
            "status": status,
            "entrypoint": "/usr/bin/python3 /srv/etl.py --day 3",
            "message": message,
            "driver_exit_code": code,
            "start_time": str(BEGAN_S * 1000),
            "end_time": str((BEGAN_S + ended_s) * 1000) if ended_s else "0",
            "metadata": {"job_name": name} if name else {},
            "runtime_env_json": "{}",
        },
    )


def driver(job=JOB, *, submission_id="nightly", dead=True):
    return (
        "EXPORT_DRIVER_JOB",
        {
            "job_id": b64(job),
            "is_dead": dead,
            "entrypoint": "python3 /srv/etl.py --day 3",
            "start_time": str(BEGAN_S * 1000),
            "end_time": str((BEGAN_S + 90) * 1000) if dead else "0",
            "config": {"metadata": {"job_submission_id": submission_id} if submission_id else {}},
        },
    )


def test_a_job_failed_because_of_the_failure_that_its_last_words_name(add, attempt, scope):
    wrong = attempt(1, "load", error="TASK_EXECUTION_EXCEPTION", s1=0, s8=100, s12=200)
    wrong[1]["state_updates"]["error_info"]["error_message"] = FAILED
    other = [attempt(n, "warm", error="WORKER_DIED", s1=0, s8=100, s12=300) for n in range(2, 6)]
    add(submission(message=TRACEBACK), driver(), wrong, *other, attempt(9, "load", s1=0, s8=50, s11=90))
    run = run_of(scope(), "nightly")
    assert run.job is not None
    assert (run.job.name, run.why.status) == ("etl", "FAILED")
    assert run.why.sentence == (
        "It failed after 1m 30s because `load` failed with ValueError: row <n> is negative in etl.py:load."
    )
    assert [item.kind for item in run.why.evidence][:2] == ["message", "status"]
    assert run.why.evidence[0].text == "ValueError: row 3 is negative"
    whole = run_of(scope())
    assert whole.why.status == "FAILED"
    assert "Its job failed: `etl` because `load` failed with ValueError" in whole.why.sentence
    assert [job.id for job in whole.jobs] == ["nightly"]


@pytest.mark.parametrize(
    ("message", "code", "sentence"),
    [
        ("", 7, "It failed after 1m 30s because its driver ended (exit code 7)."),
        ("Runtime env setup failed.\nmore", None, "It failed after 1m 30s because Ray says: Runtime env setup failed."),
        (
            "last logs:\nTraceback (most recent call last):\nKeyError: 'x'",
            1,
            "It failed after 1m 30s because its driver raised KeyError: 'x' (exit code 1).",
        ),
    ],
)
def test_a_job_without_failures_failed_of_its_last_words(message, code, sentence, add, scope):
    add(submission(message=message, code=code))
    assert run_of(scope(), "nightly").why.sentence == sentence


def test_a_job_that_did_not_fail_says_what_failed_in_it(add, attempt, scope):
    add(
        submission(status="SUCCEEDED", code=0),
        driver(),
        attempt(1, "flaky", error="WORKER_DIED", s1=0, s8=100, s12=200),
        attempt(1, "flaky", retry=1, s1=300, s8=400, s11=500),
    )
    run = run_of(scope(), "nightly")
    assert run.why.sentence == (
        "It succeeded after 1m 30s, after 1 attempt that failed, of tasks that a later attempt made good."
    )


def test_other_ends_are_told_in_their_own_words(add, scope):
    add(
        submission("stopped", status="STOPPED", code=None),
        submission("waits", status="PENDING", ended_s=0, message="Job has not started yet.", code=None),
        driver("02000000", submission_id=None),
        driver("03000000", submission_id=None, dead=False),
    )
    assert run_of(scope(), "stopped").why.sentence == "Its user stopped it after 1m 30s."
    assert run_of(scope(), "waits").why.sentence == "It has not begun: Job has not started yet."
    assert run_of(scope(), "02000000").why.sentence == (
        "Its driver ended after 1m 30s, and Ray does not tell with which exit code."
    )
    assert run_of(scope(), "03000000").why.sentence.startswith("It was running")


def test_a_job_that_is_not_there_is_named(add, scope):
    add(submission())
    with pytest.raises(NotFoundError, match=r"job 'daily': .* has no such job; there are nightly"):
        run_of(scope(), "daily")


def test_tasks_are_counted_by_state_over_time(add, attempt, node, scope):
    add(
        node("01" * 28),
        *(attempt(n, s1=n * 100, s8=n * 100 + 1000, s11=n * 100 + 3000) for n in range(10)),
        attempt(20, error="WORKER_DIED", s1=0, s8=500, s12=1500),
        attempt(21, s1=0),
        attempt(22, job="02000000", s1=0, s8=10, s11=20),
    )
    marks = marks_of(scope())
    assert [(mark.kind, mark.count, mark.at_ms) for mark in marks] == [("failure", 1, BEGAN_S * 1000 + 1500)]
    shown = progress(scope(), [JOB])
    assert shown is not None
    assert sum(shown.finished) == 10
    assert sum(shown.failed) == 1
    assert max(shown.running) == 10
    assert (shown.running[-1], shown.waiting[-1]) == (0, 1)
    assert shown.began_ms == BEGAN_S * 1000
    every = progress(scope())
    assert every is not None
    assert sum(every.finished) == 11


def actor(actor_id, state, job=JOB):
    return "EXPORT_ACTOR", {"actor_id": b64(actor_id), "job_id": b64(job), "state": state, "class_name": "Keeper"}


def group(group_id, *, asked_s, placed_s=0, job=JOB):
    return "EXPORT_PLACEMENT_GROUP", {
        "placement_group_id": b64(group_id),
        "creator_job_id": b64(job),
        "state": "CREATED" if placed_s else "PENDING",
        "placement_group_creation_timestamp_ms": str((BEGAN_S + asked_s) * 1000),
        "placement_group_final_bundle_placement_timestamp_ms": str((BEGAN_S + placed_s) * 1000 if placed_s else 0),
    }


def test_restarts_of_actors_and_groups_that_waited_are_marked(add, attempt, node, scope):
    first, second, elsewhere = "0a" * 12 + JOB, "0b" * 12 + JOB, "0c" * 12 + "02000000"
    add(node("01" * 28), submission(), driver(), attempt(1, s1=0, s8=100, s11=80_000))
    add(actor(first, "ALIVE"), actor(first, "RESTARTING"), actor(second, "RESTARTING"), at_s=BEGAN_S + 20)
    add(actor(first, "ALIVE"), actor(elsewhere, "RESTARTING", "02000000"), at_s=BEGAN_S + 21)
    add(actor(first, "RESTARTING"), at_s=BEGAN_S + 40)
    add(
        group("1a" * 14 + JOB, asked_s=10, placed_s=10),
        group("1b" * 14 + JOB, asked_s=11, placed_s=15),
        group("1c" * 14 + JOB, asked_s=30),
        group("1d" * 14 + "02000000", asked_s=50, job="02000000"),
        at_s=BEGAN_S + 60,
    )
    assert [row["restart_times_ms"] for row in scope().snapshot.rows("actor", order=["actor_id"])] == [
        [(BEGAN_S + 20) * 1000, (BEGAN_S + 40) * 1000],
        [(BEGAN_S + 20) * 1000],
        [(BEGAN_S + 21) * 1000],
    ]

    def seen(marks):
        return [(mark.kind, mark.count, mark.at_ms // 1000 - BEGAN_S) for mark in marks if mark.kind != "job failure"]

    of_job = [
        ("placement wait", 1, 11),
        ("actor restart", 2, 20),
        ("placement wait", 1, 30),
        ("actor restart", 1, 40),
    ]
    run = run_of(scope(), "nightly")
    assert seen(run.failures.marks) == of_job
    every = [*of_job[:2], ("actor restart", 1, 21), *of_job[2:], ("placement wait", 1, 50)]
    assert seen(marks_of(scope())) == every
    assert run.progress is not None
    words = [mark.words for mark in progress_chart(run.progress, run.failures.marks).marks]
    assert words == ["placement wait", "2 actor restarts", "placement wait", "actor restart"]


def test_a_cluster_that_was_running_then_is_not_said_to_have_ended(add, attempt, node, scope):
    add(
        submission("nightly", status="SUCCEEDED", code=0),
        node("01" * 28, reason="UNEXPECTED_TERMINATION", ended_s=95),
        attempt(1, s1=0, s8=100, s11=60_000),
    )
    then = run_of(scope((BEGAN_S + 30) * 1000))
    assert then.why.status == "RUNNING"
    assert then.why.sentence.startswith("It was running. ")
    assert then.ended_ms is None


def test_only_a_later_attempt_makes_a_failure_good(add, attempt, node, scope):
    add(
        node("01" * 28),
        attempt(1, error="WORKER_DIED", s1=0, s8=100, s12=200),
        attempt(1, retry=1, s1=300, s8=400, s11=500),
        attempt(1, retry=2, error="OBJECT_LOST", s1=600, s8=700, s12=800),
    )
    failures = run_of(scope()).failures
    assert {(group.error, group.recovered) for group in failures.groups} == {("WORKER_DIED", 1), ("OBJECT_LOST", 0)}


@pytest.mark.parametrize("metadata", [[1, 2], "text", 7, None])
def test_metadata_that_are_no_object_are_passed_over(metadata, add, scope):
    kind, data = submission("nightly")
    add((kind, {**data, "metadata": metadata}))
    run = run_of(scope(), "nightly")
    assert run.job is not None
    assert (run.job.name, run.metadata) == ("etl.py --day 3", {})


def test_what_took_no_time_at_all_has_a_chart(add, attempt, scope):
    add(attempt(1, s1=0))
    shown = progress(scope())
    assert shown is not None
    chart = progress_chart(shown, ())
    assert chart.ended_ms > chart.began_ms


def test_what_never_had_a_task_has_no_chart(add, scope):
    add(submission())
    assert run_of(scope(), "nightly").progress is None


@pytest.mark.parametrize(
    ("entrypoint", "name"),
    [
        ("/usr/bin/python3.12 /srv/etl.py --day 3", "etl.py --day 3"),
        ("python etl.py", "etl.py"),
        ("python", "python"),
        ("./run.sh fast", "run.sh fast"),
        ("echo 'unended", "echo 'unended"),
        ("", ""),
    ],
)
def test_a_command_is_called_by_its_script(entrypoint, name):
    assert command(entrypoint) == name
