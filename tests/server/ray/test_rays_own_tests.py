"""
What Ray's own tests ask of its State API, asked of a dead cluster through Ray's own, unmodified client.

They are python/ray/tests/test_state_api.py, test_state_api_2.py and test_state_api_summary.py of Ray 2.60, those that
look at a cluster from outside; written anew, as theirs start the cluster that they ask.
"""

from collections import Counter
from typing import Any

import pytest
from click.testing import CliRunner
from ray.util import state as ray_state
from ray.util.state import StateApiClient
from ray.util.state.common import ActorState, GetApiOptions, NodeState, StateResource, TaskState
from ray.util.state.exception import RayStateApiException
from ray.util.state.state_cli import ray_get, ray_list, summary_state_cli_group
from tests.server.ray.test_state import MOMENT

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray calls what its pydantic deprecates
    pytest.mark.filterwarnings("ignore:\\s*Limit last"),  # what `ray list` says of a limit that was reached
]


@pytest.fixture(scope="module")
def then(address):
    """The address of the captured cluster when Ray answered."""
    return f"{address}/at/{MOMENT}"


@pytest.fixture
def listed(then):
    """List with Ray's client; arguments as those of `ray.util.state.list_tasks`."""

    def listed(noun, *filters, limit=10_000, **options):
        ask = getattr(ray_state, f"list_{noun}")
        return ask(address=then, filters=list(filters), limit=limit, **options)

    return listed


def test_list_get_tasks(listed, then, ground_truth):
    rows = listed("tasks", detail=True)
    assert {(row.task_id, row.attempt_number) for row in rows} == {
        (row["task_id"], row["attempt_number"]) for row in ground_truth["tasks"] if row["type"] != "DRIVER_TASK"
    }
    once = next(row for row in rows if row.name == "nested")
    assert ray_state.get_task(once.task_id, address=then) == once


def test_parent_task_id(listed):
    [parent] = listed("tasks", ("name", "=", "nested"), detail=True)
    children = listed("tasks", ("parent_task_id", "=", parent.task_id), detail=True)
    assert len(children) == 20
    assert {child.parent_task_id for child in children} == {parent.task_id}
    assert all(child.job_id == parent.job_id for child in children)


def attempts_of(task, then):
    """Get a task that has more than one attempt: a list of them."""
    attempts: Any = ray_state.get_task(task, address=then)
    assert isinstance(attempts, list)
    return attempts


def test_list_get_task_multiple_attempt_all_failed(listed, then):
    attempts = listed("tasks", ("state", "=", "FAILED"), ("name", "=", "A.m"), detail=True)
    task, count = Counter(attempt.task_id for attempt in attempts).most_common(1)[0]
    assert count == 2
    attempts = attempts_of(task, then)
    assert {attempt.attempt_number: attempt.state for attempt in attempts} == {0: "FAILED", 1: "FAILED"}
    assert all(attempt.error_type and attempt.error_message for attempt in attempts)


def test_list_get_task_multiple_attempt_finished_after_retry(listed, then):
    attempts = listed("tasks", ("name", "=", "flaky"), detail=True)
    assert {attempt.attempt_number: attempt.state for attempt in attempts} == {0: "FAILED", 1: "FAILED", 2: "FINISHED"}
    assert {attempt.task_id for attempt in attempts} == {attempts[0].task_id}
    for attempt in attempts:
        assert (attempt.error_type is None) == (attempt.state == "FINISHED")
        assert attempt.creation_time_ms <= attempt.end_time_ms
        assert [event["state"] for event in attempt.events][-1] == attempt.state
    assert len(attempts_of(attempts[0].task_id, then)) == 3


def test_list_actor_tasks(listed, ground_truth):
    calls = Counter(row["actor_id"] for row in ground_truth["tasks"] if row["type"] == "ACTOR_TASK")
    actor, count = calls.most_common(1)[0]
    tasks = listed("tasks", ("actor_id", "=", actor), ("type", "=", "ACTOR_TASK"))
    assert len(tasks) == count
    [creation] = listed("tasks", ("actor_id", "=", actor), ("type", "=", "ACTOR_CREATION_TASK"))
    assert creation.actor_id == actor


def test_actor_repr_name(listed):
    named = listed("actors", ("repr_name", "=", "A(x=0)"), detail=True)
    assert named
    assert {row.class_name for row in named} == {"A"}


def test_actor_task_with_repr_name(listed, ground_truth):
    tasks = listed("tasks", ("func_or_class_name", "=", "A.m"), ("state", "=", "FINISHED"))
    expected = {row["task_id"]: row["name"] for row in ground_truth["tasks"] if row["func_or_class_name"] == "A.m"}
    assert "A(x=0).m" in {task.name for task in tasks}
    assert {task.task_id: task.name for task in tasks}.items() <= expected.items()


def test_list_get_actors(listed, then, ground_truth):
    alive = listed("actors", ("state", "=", "ALIVE"))
    assert {row.actor_id for row in alive} == {
        row["actor_id"] for row in ground_truth["actors"] if row["state"] == "ALIVE"
    }
    actor = ray_state.get_actor(alive[0].actor_id, address=then)
    assert actor
    assert actor.actor_id == alive[0].actor_id


def test_list_actors_namespace(listed, ground_truth):
    expected = {row["actor_id"]: row["ray_namespace"] for row in ground_truth["actors"]}
    assert {row.actor_id: row.ray_namespace for row in listed("actors")} == expected
    assert len(set(expected.values())) > 1


def test_list_get_nodes(listed, then, ground_truth):
    nodes = listed("nodes", detail=True)
    assert {node.node_id: (node.state, node.is_head_node, node.resources_total) for node in nodes} == {
        row["node_id"]: (row["state"], row["is_head_node"], row["resources_total"]) for row in ground_truth["nodes"]
    }
    assert ray_state.get_node(nodes[0].node_id, address=then) == nodes[0]


def test_list_jobs(listed, then, ground_truth):
    submitted = {row["submission_id"] for row in ground_truth["jobs"] if row["submission_id"]}
    assert {job.submission_id for job in listed("jobs") if job.submission_id} == submitted
    job = ray_state.get_job(min(submitted), address=then)
    assert job
    assert job.submission_id == min(submitted)


@pytest.mark.parametrize("noun", ["tasks", "actors"])
def test_limit(noun, listed):
    some = listed(noun, limit=2)
    assert len(some) == 2
    # always the same ones
    assert listed(noun, limit=2) == some


def test_filter(listed, ground_truth):
    actor = ground_truth["actors"][0]["actor_id"]
    for value in (actor, actor.upper()):
        assert [row.actor_id for row in listed("actors", ("actor_id", "=", value))] == [actor]
        assert len(listed("actors", ("actor_id", "!=", value))) == len(ground_truth["actors"]) - 1
    assert [row.actor_id for row in listed("actors", ("ACTOR_ID", "=", actor))] == [actor]
    assert listed("actors", ("actor_id", "=", actor), ("state", "=", "PENDING_CREATION")) == []
    for wrong in (("is_detached", "=", "true"), ("colour", "=", "red"), ("actor_id", "=", "12")):
        with pytest.raises(RayStateApiException):
            listed("actors", wrong)
    with pytest.raises((RayStateApiException, ValueError)):
        listed("actors", ("actor_id", ">", actor))


@pytest.mark.parametrize(("noun", "schema"), [("tasks", TaskState), ("actors", ActorState), ("nodes", NodeState)])
def test_detail(noun, schema, listed):
    [plain, *_], [whole, *_] = listed(noun), listed(noun, detail=True)
    for column in schema.detail_columns() - schema.base_columns():
        assert getattr(plain, column) is None
    assert {name for name in schema.base_columns() if getattr(plain, name) != getattr(whole, name)} == set()


@pytest.mark.parametrize(
    ("noun", "id"),
    [("tasks", "1" * 48), ("actors", "1" * 32), ("nodes", "1" * 56), ("jobs", "raysubmit_none"), ("workers", "1" * 56),
     ("placement_groups", "1" * 36)],
)  # fmt: skip
def test_get_id_not_found(noun, id, then):
    assert StateApiClient(then).get(StateResource(noun), id, GetApiOptions()) is None
    if noun == "jobs":  # of which `ray get` knows nothing
        return
    shown = CliRunner().invoke(ray_get, [noun.replace("_", "-"), id, "--address", then])
    assert f"Resource with id={id} not found in the cluster." in shown.output


def test_task_summary(then, ground_truth):
    tasks = ray_state.summarize_tasks(address=then)["cluster"]
    rows = [row for row in ground_truth["tasks"] if row["type"] != "DRIVER_TASK"]
    states = Counter(row["state"] for row in rows if row["name"] == "boom")
    assert tasks["summary"]["boom"]["state_counts"] == dict(states)
    assert tasks["total_tasks"] == sum(row["type"] == "NORMAL_TASK" for row in rows)
    assert tasks["total_actor_tasks"] == sum(row["type"] == "ACTOR_TASK" for row in rows)
    assert tasks["total_actor_scheduled"] == sum(row["type"] == "ACTOR_CREATION_TASK" for row in rows)


def test_actor_summary(then, ground_truth):
    actors = ray_state.summarize_actors(address=then)["cluster"]
    states = Counter(row["state"] for row in ground_truth["actors"] if row["class_name"] == "A")
    assert actors["summary"]["A"]["state_counts"] == dict(states)
    assert actors["total_actors"] == len(ground_truth["actors"])


@pytest.mark.parametrize("noun", ["objects", "runtime-envs", "workers", "placement-groups"])
def test_cli_apis_sanity_check_of_what_no_event_tells(noun, then):
    with pytest.warns(UserWarning, match=f"{noun.replace('-', '_')}: "):
        shown = CliRunner().invoke(ray_list, [noun, "--address", then], catch_exceptions=False)
    assert shown.exit_code == 0
    assert shown.output == "No resource in the cluster\n"


@pytest.mark.parametrize("noun", ["tasks", "actors", "nodes", "jobs", "cluster-events"])
@pytest.mark.parametrize("format", ["table", "json", "yaml", "default"])
def test_cli_apis_sanity_check(noun, format, then):
    command = [noun, "--address", then, "--format", format, "--limit", "5", "--detail"]
    shown = CliRunner().invoke(ray_list, command, catch_exceptions=False)
    assert shown.exit_code == 0
    assert len(shown.output) > 10


@pytest.mark.parametrize("noun", ["tasks", "actors"])
def test_cli_summaries_sanity_check(noun, then):
    shown = CliRunner().invoke(summary_state_cli_group, [noun, "--address", then], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "Stats:" in shown.output


def test_cli_summary_of_objects_sanity_check(then):
    with pytest.warns(UserWarning, match="objects: no event of them has come"):
        shown = CliRunner().invoke(summary_state_cli_group, ["objects", "--address", then], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "total_objects: 0" in shown.output
