"""Filters as Ray's GCS and its dashboard apply them: what passes, what is counted, what is refused, and when."""

import pytest
from tests.server.conftest import b64

from raytrail.store import Store

pytestmark = pytest.mark.anyio

NODE, OTHER = "01" * 28, "02" * 28
ACTOR = f"{1:024x}01000000"


def query(*filters, **params):
    names = ("filter_keys", "filter_predicates", "filter_values")
    return [*params.items(), *((name, part) for filter in filters for name, part in zip(names, filter, strict=True))]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One store for all tests here, which only ask: the rows of `some` are stored once, however often they come."""
    with Store.open(tmp_path_factory.mktemp("made"), write=True) as store:
        yield store


@pytest.fixture
def some(add, task):
    """A few rows of each resource that has filters of its own."""
    failed = task(2)
    failed[1]["state_updates"] = {
        "state_ts_ns": {"12": "1500000000"}, "worker_pid": 7, "error_info": {"error_type": "WORKER_DIED"},
    }  # fmt: skip
    add(
        task(1, func_or_class_name="f"),
        failed,
        task(3, func_or_class_name="G", actor_id=b64(ACTOR)),
        ("EXPORT_ACTOR", {"actor_id": b64(ACTOR), "state": "ALIVE", "node_id": b64(NODE), "pid": 9, "name": "a"}),
        ("EXPORT_ACTOR", {"actor_id": b64(f"{2:024x}01000000"), "state": "DEAD"}),
        ("EXPORT_NODE", {"node_id": b64(NODE), "node_name": "head", "state": "ALIVE", "is_head_node": True}),
        ("EXPORT_NODE", {"node_id": b64(OTHER), "node_name": "Other", "state": "DEAD", "is_head_node": False}),
        ("EXPORT_WORKER", {"worker_id": b64("03" * 28), "is_alive": True, "worker_type": "WORKER"}),
        (
            "EXPORT_WORKER",
            {"worker_id": b64("04" * 28), "is_alive": False, "worker_type": "WORKER", "exit_type": "USER_ERROR"},
        ),
        ("EXPORT_SUBMISSION_JOB", {"submission_job_id": "s", "status": "PENDING"}),
        (
            "EXPORT_PLACEMENT_GROUP",
            {"placement_group_id": b64("05" * 18), "state": "CREATED", "name": "g", "is_detached": False},
        ),
    )


@pytest.fixture
def ask(some, made_client):
    async def ask(path, *filters, **params):
        answer = await made_client.get(f"/clusters/latest/api/v0/{path}", params=query(*filters, **params) or None)
        return answer.status_code, answer.json()["data"]["result"]

    return ask


@pytest.mark.parametrize(
    ("noun", "filters", "counts"),
    [
        # (total, num_after_truncation, num_filtered), each as a live Ray 2.60 counts
        ("tasks", [("state", "=", "failed")], (1, 1, 1)),
        ("tasks", [("STATE", "=", "failed")], (3, 3, 1)),
        ("tasks", [("Name", "!=", "F")], (3, 3, 1)),
        ("tasks", [("name", "!=", "F")], (1, 1, 1)),
        ("tasks", [("JOB_ID", "=", "none")], (3, 3, 0)),
        ("tasks", [("error_type", "!=", "TASK_EXECUTION_EXCEPTION")], (3, 3, 1)),
        ("tasks", [("error_type", "!=", "worker_died")], (3, 3, 0)),
        ("tasks", [("error_type", "=", "")], (3, 3, 0)),
        ("tasks", [("error_type", "!=", "")], (3, 3, 1)),
        ("tasks", [("actor_id", "!=", ACTOR)], (2, 2, 2)),
        ("tasks", [("ACTOR_ID", "!=", ACTOR)], (3, 3, 2)),
        ("tasks", [("worker_pid", "=", " 7 ")], (3, 3, 1)),
        ("tasks", [("worker_pid", "!=", "7")], (3, 3, 3)),
        ("tasks", [("attempt_number", "!=", "0")], (3, 3, 0)),
        ("tasks", [("ATTEMPT_NUMBER", "!=", "0")], (3, 3, 3)),
        ("tasks", [("ATTEMPT_NUMBER", "=", "0")], (3, 3, 3)),
        ("actors", [("state", "=", "alive")], (2, 2, 1)),
        ("actors", [("STATE", "=", "gone")], (2, 2, 0)),
        ("actors", [("node_id", "!=", OTHER)], (2, 2, 1)),
        ("actors", [("node_id", "!=", "")], (2, 2, 1)),
        ("actors", [("node_id", "=", "")], (2, 2, 0)),
        ("actors", [("actor_id", "!=", "no id")], (2, 2, 2)),
        ("actors", [("pid", "!=", "9")], (2, 2, 2)),
        ("actors", [("name", "=", "A")], (2, 2, 1)),
        ("nodes", [("state", "=", "dead")], (2, 1, 1)),
        ("nodes", [("state", "!=", "dead")], (2, 2, 1)),
        ("nodes", [("node_name", "=", "other")], (2, 0, 0)),
        ("nodes", [("NODE_NAME", "=", "other")], (2, 2, 1)),
        ("nodes", [("node_id", "=", "09" * 28)], (2, 0, 0)),
        ("nodes", [("node_id", "=", NODE), ("node_name", "=", "Other")], (2, 2, 0)),
        ("nodes", [("node_name", "=", "head"), ("node_name", "=", "none")], (2, 1, 0)),
        ("nodes", [("node_id", "=", NODE), ("node_name", "=", "Other"), ("state", "=", "DEAD")], (2, 1, 0)),
        ("nodes", [("is_head_node", "!=", "true")], (2, 2, 1)),
        ("nodes", [("IS_HEAD_NODE", "!=", "true")], (2, 2, 2)),
        ("nodes", [("is_head_node", "=", "0")], (2, 2, 1)),
        ("workers", [("is_alive", "=", "True")], (2, 1, 1)),
        ("workers", [("is_alive", "=", "true")], (2, 2, 1)),
        ("workers", [("is_alive", "=", "False")], (2, 2, 1)),
        ("workers", [("exit_type", "!=", "SYSTEM_ERROR")], (2, 2, 1)),
        ("workers", [("num_paused_threads", "!=", "0")], (2, 0, 0)),
        ("workers", [("debugger_port", "!=", "1")], (2, 2, 0)),
        ("jobs", [("job_id", "!=", "x")], (1, 1, 1)),
        ("jobs", [("job_id", "=", "")], (1, 1, 0)),
        ("placement_groups", [("is_detached", "=", "False")], (1, 1, 1)),
        ("placement_groups", [("is_detached", "!=", "False")], (1, 1, 1)),
        ("placement_groups", [("name", "=", "G")], (1, 1, 1)),
    ],
    ids=str,
)
async def test_as_many_are_counted_as_ray_counts(noun, filters, counts, ask):
    status, answer = await ask(noun, *filters)
    assert status == 200
    assert (answer["total"], answer["num_after_truncation"], answer["num_filtered"]) == counts
    assert len(answer["result"]) == counts[2]


@pytest.mark.parametrize(
    ("noun", "filters", "status"),
    [
        # what Ray reads before it looks at any row
        ("tasks", [("state", ">", "x")], 400),
        ("tasks", [("job_id", "!=", "abc")], 400),
        ("tasks", [("attempt_number", "=", "x")], 400),
        ("actors", [("actor_id", "=", "abc")], 400),
        ("actors", [("state", "=", "gone")], 400),
        ("nodes", [("state", "=", "gone")], 400),
        ("nodes", [("is_head_node", "!=", "maybe")], 400),
        # what it refuses only where it comes to a row
        ("tasks", [("colour", "=", "red")], 400),
        ("tasks", [("state", "=", "none"), ("colour", "=", "red")], 200),
        ("tasks", [("colour", "=", "red"), ("attempt_number", "=", "x")], 400),
        ("tasks", [("worker_pid", "=", "x")], 400),
        ("tasks", [("error_type", "=", "none"), ("worker_pid", "=", "x")], 200),
        ("tasks", [("worker_pid", "!=", "x")], 200),
        ("actors", [("pid", "=", "x")], 400),
        ("workers", [("debugger_port", "=", "x")], 200),
        ("workers", [("pid", "=", "x")], 400),
        ("placement_groups", [("is_detached", "=", "maybe")], 400),
        ("placement_groups", [("is_detached", "!=", "maybe")], 200),
        # of which it has none
        ("cluster_events", [("colour", "=", "red")], 200),
        # where it catches no error
        ("jobs", [("colour", "=", "red")], 500),
        ("jobs", [("status", "<", "x")], 500),
        ("tasks/summarize", [("colour", "=", "red")], 500),
        ("tasks/summarize", [("job_id", "=", "x")], 500),
        ("tasks/summarize", [("state", "=", "none"), ("colour", "=", "red")], 200),
        ("actors/summarize", [("state", "=", "gone")], 500),
    ],
    ids=str,
)
async def test_a_filter_is_refused_where_ray_refuses_it(noun, filters, status, ask):
    assert (await ask(noun, *filters))[0] == status


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("tasks?filter_keys=state", 500),
        ("tasks?filter_keys=state&filter_values=a&filter_values=b", 500),
        ("tasks?filter_keys=state&filter_values=failed", 200),
        ("tasks?limit=", 400),
        ("tasks?limit=-1", 400),
        ("tasks?limit=x", 400),
        ("tasks?timeout=x", 400),
        ("tasks?detail=maybe", 400),
        ("nodes?exclude_driver=maybe", 400),
        ("jobs?limit=x", 500),
        ("jobs?limit=-1", 500),
        ("jobs?timeout=x", 500),
        ("tasks/summarize?limit=x", 200),
        ("tasks/summarize?timeout=x", 500),
        ("actors/summarize?summary_by=anything", 200),
    ],
)
async def test_parameters_are_read_as_ray_reads_them(path, status, ask):
    assert (await ask(path))[0] == status


async def test_what_has_no_predicate_is_no_filter(ask):
    status, answer = await ask("tasks?filter_keys=state&filter_values=failed")
    assert (status, answer["num_filtered"]) == (200, 3)


async def test_a_summary_counts_what_passes(ask):
    _, answer = await ask("tasks/summarize", ("NAME", "=", "f"))
    assert (answer["total"], answer["num_filtered"]) == (3, 2)
    _, answer = await ask("actors/summarize", ("node_id", "!=", OTHER))
    assert answer["result"]["node_id_to_summary"]["cluster"]["total_actors"] == 1
