"""Ray's summary by lineage, against Ray's own code over the same rows."""

import random
from dataclasses import asdict

import pytest
from ray.util.state.common import TaskSummaries
from tests.server.conftest import b64

from raytrail.server.ray import lineage

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

JOB = "01000000"
DRIVER = "f" * 40 + JOB


@pytest.fixture
def asked():
    """Ask a client for the summary by lineage, and let Ray's own code make it of the rows that it lists."""

    async def asked(client, *filters):
        params = [pair for name, value in filters for pair in zip(
            ("filter_keys", "filter_predicates", "filter_values"), (name, "=", value), strict=True)]  # fmt: skip
        rows = {}
        for noun in ("tasks", "actors"):
            answer = await client.get(
                f"/clusters/latest/api/v0/{noun}",
                params=[("detail", "1"), ("limit", "10000"), *(params if noun == "tasks" else ())],
            )
            rows[noun] = answer.json()["data"]["result"]["result"]
        answer = await client.get(
            "/clusters/latest/api/v0/tasks/summarize", params=[("summary_by", "lineage"), *params]
        )
        assert answer.status_code == 200, answer.text
        theirs = asdict(TaskSummaries.to_summary_by_lineage(tasks=rows["tasks"], actors=rows["actors"]))
        return answer.json()["data"]["result"], theirs

    return asked


def summed_up(answer):
    return answer["result"]["node_id_to_summary"]["cluster"]


def task_id(number):
    return f"{number:040x}{JOB}"


def forest(seed, tasks=300):
    """Events of tasks at random: nested, retried, some of actors, some whose parents are not known."""
    chance = random.Random(seed)
    submitted = [DRIVER]
    actors = []
    events = []
    for number in chance.sample(range(1, 10 * tasks), tasks):
        task = task_id(number)
        parent = chance.choice(submitted[-20:]) if chance.random() < 0.9 else task_id(10 * tasks + number)
        name = chance.choice("abcd")
        info = {"type": "NORMAL_TASK", "func_or_class_name": name, "parent_task_id": b64(parent)}
        if chance.random() < 0.1:
            actor = f"{number:024x}{JOB}"
            actors.append(actor)
            info |= {"type": "ACTOR_CREATION_TASK", "actor_id": b64(actor), "func_or_class_name": f"{name}.__init__"}
            if chance.random() < 0.7:
                known = {"actor_id": b64(actor), "job_id": b64(JOB), "class_name": name, "state": "ALIVE"}
                events.append(("EXPORT_ACTOR", known | {"repr_name": chance.choice(["", "a", "me"])}))
        elif actors and chance.random() < 0.3:
            info |= {"type": "ACTOR_TASK", "actor_id": b64(chance.choice(actors))}
        else:
            submitted.append(task)
        began_ms = chance.choice([0, *range(1, 50)])
        for attempt in range(chance.choice([1, 1, 1, 1, 2, 3])):
            states = {"1": str((began_ms + attempt) * 1_000_000)} if began_ms else {}
            reached = chance.choice([(), (2,), (2, 5, 8), (8, 9), (8, 11), (8, 12)])
            states |= {str(state): str((100 + state) * 1_000_000) for state in reached}
            data = {"task_id": b64(task), "attempt_number": attempt, "job_id": b64(JOB), "task_info": info}
            events.append(("EXPORT_TASK", data | {"state_updates": {"state_ts_ns": states}}))
    return events


@pytest.mark.parametrize(
    "filters",
    [(), (("job_id", "02000000"),), (("state", "FINISHED"),), (("name", "square"),), (("type", "ACTOR_TASK"),)],
)
async def test_a_real_session_is_summed_up_as_rays_own_code_does(filters, client, asked):
    ours, theirs = await asked(client, *filters)
    assert summed_up(ours) == theirs


@pytest.mark.parametrize("seed", range(5))
async def test_any_forest_of_tasks_is_summed_up_as_rays_own_code_does(seed, add, made_client, asked):
    add(*forest(seed))
    ours, theirs = await asked(made_client)
    assert summed_up(ours) == theirs


async def test_of_many_tasks_the_first_of_each_name_are_shown_and_all_are_counted(add, made_client, asked, monkeypatch):
    add(*forest(0))
    whole, _ = await asked(made_client)
    monkeypatch.setattr(lineage, "COMPLETE_TASKS", 100)
    monkeypatch.setattr(lineage, "FIRST_TASKS", 2)
    monkeypatch.setattr(lineage, "MOST_SHOWN", 20)
    monkeypatch.setattr(lineage, "KEPT_TASKS", 0)
    cut, _ = await asked(made_client)
    assert cut["warnings"] == [
        f"{whole['num_filtered']} attempts: of each name below one parent, 2 at most are shown, and about 20 in all; "
        "the counts count all. Filter by job_id or name to see more"
    ]
    assert 10 < follow(summed_up(cut)["summary"], summed_up(whole)["summary"]) < 40


def follow(cut, whole):
    """Compare what is shown of a cut tree with the whole one, and return how many tasks and actors it shows."""
    shown = 0
    for mine, full in zip(cut, whole, strict=False):
        assert {**mine, "children": ()} == {**full, "children": ()}
        if mine["type"] == "GROUP":
            assert 1 <= len(mine["children"]) <= 2
        shown += (mine["type"] != "GROUP") + follow(mine["children"], full["children"])
    return shown


async def test_calls_nested_too_deep_are_told(add, task, made_client, asked, monkeypatch):
    add(
        task(1, parent_task_id=b64(DRIVER)),
        *(task(number, parent_task_id=b64(task_id(number - 1))) for number in range(2, 9)),
    )
    whole, theirs = await asked(made_client)
    assert summed_up(whole) == theirs
    assert whole["warnings"] is None
    monkeypatch.setattr(lineage, "MOST_LEVELS", 4)
    cut, _ = await asked(made_client)
    assert cut["warnings"] == ["calls nested deeper than 4 levels are neither shown nor counted"]
    assert summed_up(cut)["summary"][0]["state_counts"] == {"NIL": 4}
    assert summed_up(cut)["total_tasks"] == 8


async def test_a_cluster_without_tasks_has_an_empty_lineage(add, task, made_client, asked):
    add(("EXPORT_NODE", {"node_id": b64("00" * 28), "state": "ALIVE"}), task(1, info=False))
    ours, theirs = await asked(made_client)
    assert summed_up(ours) == theirs
    assert ours["num_filtered"] == 0
