"""Two runs side by side, and the run before one."""

import json

import pytest
from tests.server.conftest import b64

from raytrail.answers.diff import diff
from raytrail.answers.runs import find_run, run_before
from raytrail.errors import ConfigError, NotFoundError

FIRST, SECOND = (f"session_2026-01-0{day}_00-00-00_000000_1" for day in (1, 2))
BEGAN_MS = 1_795_419_630_000


@pytest.fixture
def submission():
    """Make the event of a submission, with the driver that it ran."""

    def submission(name, job, began_ms, *, job_name="", command="python train.py", env=None):
        metadata = {"job_submission_id": name, **({"job_name": job_name} if job_name else {})}
        yield (
            "EXPORT_SUBMISSION_JOB",
            {
                "submission_job_id": name,
                "status": "SUCCEEDED",
                "entrypoint": command,
                "start_time": str(began_ms),
                "end_time": str(began_ms + 60_000),
                "metadata": metadata,
                "runtime_env_json": json.dumps(env or {}),
            },
        )
        yield "EXPORT_DRIVER_JOB", {"job_id": b64(job), "start_time": str(began_ms), "config": {"metadata": metadata}}

    return submission


@pytest.fixture
def days(add, attempt, node, submission):
    """Two days of a job, on clusters of the same name: on the second it is slower, and fails in another way."""
    for session, day, ms, error, cpus in ((FIRST, 0, 100, "NODE_DIED", 4), (SECOND, 1, 300, "OUT_OF_MEMORY", 8)):
        began_ms = BEGAN_MS + day * 86_400_000
        add(
            ("EXPORT_NODE", {**node("aa" * 28, resources={"CPU": cpus})[1], "start_time_ms": str(began_ms)}),
            *submission(f"night-{day}", "01000000", began_ms, job_name="nightly", env={"pip": [f"torch==2.{day}"]}),
            *submission(f"other-{day}", "02000000", began_ms, command="python other.py"),
            *(attempt(number, "train", s1=0, s8=10, s11=10 + ms) for number in range(10)),
            attempt(50, "load", s1=0, s8=10, s12=20, error="WORKER_DIED"),
            attempt(51, "load", s1=0, s8=10, s12=20, error=error),
            attempt(60, "yesterday" if day == 0 else "today", s1=0, s8=10, s11=20),
            attempt(70, "other", job="02000000", s1=0, s8=10, s11=9_000 * (day + 1)),
            session=session,
            cluster="prod",
        )


def test_a_job_is_compared_with_the_run_of_the_same_name_before_it(days, made):
    answered = diff(made, b=f"{SECOND}/night-1")
    assert (answered.a.run, answered.b.run) == (f"{FIRST}/night-0", f"{SECOND}/night-1")
    assert (answered.b.name, answered.b.status, answered.b.wall_ms) == ("nightly", "SUCCEEDED", 60_000)
    train = answered.functions[0]
    assert (train.function, train.change_ms, train.a_tasks, train.b_tasks) == ("train", 2000, 10, 10)
    assert (train.a_running_p50_ms, train.b_running_p50_ms, train.change_share) == (100, 300, 1)
    assert {row.function: (row.a_tasks, row.b_tasks) for row in answered.functions[1:]} == {
        "load": (2, 2),
        "today": (0, 1),
        "yesterday": (1, 0),
    }
    assert len(made.sql(answered.sql).rows) == len(made.sql(answered.a_sql).rows) == 3


def test_failures_are_new_or_gone_and_settings_differ(days, made):
    answered = diff(made, b=f"{SECOND}/night-1")
    assert [(row.what, row.error, row.a_count, row.b_count) for row in answered.failures] == [
        ("new", "OUT_OF_MEMORY", 0, 1),
        ("gone", "NODE_DIED", 1, 0),
        ("same", "WORKER_DIED", 1, 1),
    ]
    assert [(row.name, row.a, row.b) for row in answered.settings if row.differs] == [
        ("CPU of all nodes", "4", "8"),
        ("runtime_env.pip", '["torch==2.0"]', '["torch==2.1"]'),
    ]
    assert {row.name: row.a for row in answered.settings if not row.differs} == {
        "entrypoint": "python train.py",
        "nodes": "1",
    }


def test_sessions_are_compared_as_a_whole_with_the_one_before(days, made):
    answered = diff(made)
    assert (answered.a.run, answered.b.run, answered.b.job) == (FIRST, SECOND, "")
    assert answered.functions[0].function == "other"
    assert (answered.b.tasks, answered.b.failed) == (14, 2)


def test_a_job_without_a_name_is_known_by_its_command(days, made):
    before = run_before(find_run(made, f"{SECOND}/other-1"))
    assert before.id == f"{FIRST}/other-0"
    assert find_run(made, f"{SECOND}/02000000").id == f"{SECOND}/other-1"


def test_what_cannot_be_compared_is_said(days, made):
    with pytest.raises(NotFoundError, match=rf"run '{FIRST}/night-0': no earlier run of 'nightly' in the last"):
        diff(made, b=f"{FIRST}/night-0")
    with pytest.raises(NotFoundError, match=f"run '{FIRST}': no earlier session of cluster 'prod'; name both runs"):
        diff(made, b=FIRST)
    with pytest.raises(NotFoundError, match=r"has no job 'nigth'; there are night-1, other-1"):
        diff(made, b=f"{SECOND}/nigth")
    with pytest.raises(ConfigError, match="one is a job, the other a session; name two of a kind"):
        diff(made, FIRST, f"{SECOND}/night-1")
