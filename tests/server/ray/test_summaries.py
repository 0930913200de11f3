"""Ray's summaries over HTTP, on a real session, against what the live cluster answered."""

from collections import Counter
from dataclasses import asdict

import pytest
from ray.util.state.common import ObjectSummaries
from tests.server.conftest import b64
from tests.server.ray.test_state import MOMENT, query

from raytrail.server.ray import summaries

pytestmark = pytest.mark.anyio


async def test_tasks_are_summed_up_by_name(client, ground_truth):
    answer = (await client.get("/clusters/latest/api/v0/tasks/summarize?timeout=30")).json()
    summary = answer["data"]["result"]
    assert (summary["total"], summary["num_after_truncation"], summary["num_filtered"]) == (2398, 2398, 2398)
    [(where, tasks)] = summary["result"]["node_id_to_summary"].items()
    assert where == "cluster"
    types = Counter(row["type"] for row in ground_truth["tasks"])
    assert {name: tasks[name] for name in tasks if name != "summary"} == {
        "total_tasks": types["NORMAL_TASK"],
        "total_actor_tasks": types["ACTOR_TASK"],
        "total_actor_scheduled": types["ACTOR_CREATION_TASK"],
        "summary_by": "func_name",
    }
    assert tasks["summary"]["f"] == {
        "func_or_class_name": "f",
        "type": "NORMAL_TASK",
        "state_counts": dict(Counter(row["state"] for row in ground_truth["tasks"] if row["name"] == "f")),
    }
    counts = [sum(row["state_counts"].values()) for row in tasks["summary"].values()]
    assert sum(counts) == 2398


async def test_a_summary_minds_filters(client):
    params = query(("state", "=", "FAILED"), ("func_or_class_name", "=", "boom"))
    answer = (await client.get("/clusters/latest/api/v0/tasks/summarize", params=params)).json()
    summary = answer["data"]["result"]
    assert (summary["total"], summary["num_filtered"]) == (39, 20)
    assert list(summary["result"]["node_id_to_summary"]["cluster"]["summary"]) == ["boom"]


async def test_actors_are_summed_up_by_class(client, ground_truth):
    answer = (await client.get(f"/clusters/latest/at/{MOMENT}/api/v0/actors/summarize")).json()
    actors = answer["data"]["result"]["result"]["node_id_to_summary"]["cluster"]
    assert (actors["total_actors"], actors["summary_by"]) == (58, "class")
    states = Counter((row["class_name"], row["state"]) for row in ground_truth["actors"])
    assert {
        (name, state): count for name, row in actors["summary"].items() for state, count in row["state_counts"].items()
    } == states
    assert all(row["class_name"] == name for name, row in actors["summary"].items())


async def test_a_summary_of_many_names_shows_the_most_frequent(add, task, made_client, monkeypatch):
    monkeypatch.setattr(summaries, "SUMMARY_NAMES", 1)
    add(*(task(n, func_or_class_name="often" if n else "a rare one") for n in range(3)))
    summary = (await made_client.get("/clusters/latest/api/v0/tasks/summarize")).json()["data"]["result"]
    tasks = summary["result"]["node_id_to_summary"]["cluster"]
    assert (list(tasks["summary"]), tasks["total_tasks"], summary["num_filtered"]) == (["often"], 3, 3)
    assert summary["warnings"] == ["2 names; the 1 most frequent are shown, the totals count all"]


async def test_objects_that_no_event_tells_of_sum_up_to_nothing(client):
    summary = (await client.get("/clusters/latest/api/v0/objects/summarize")).json()["data"]["result"]
    assert summary["warnings"] == ["objects: no event of them has come; agents ask Ray for them with --types OBJECT"]
    assert summary["result"]["node_id_to_summary"]["cluster"] == asdict(ObjectSummaries.to_summary(objects=[]))


@pytest.mark.parametrize("filters", [(), (("pid", "=", "1"),), (("task_status", "!=", "FINISHED"),)])
async def test_objects_are_summed_up_as_rays_own_code_does(filters, add, made_client):
    add(
        *(
            (
                "EXPORT_OBJECT",
                {
                    "object_id": b64(f"{number:056x}"),
                    "worker_id": b64(f"{worker:056x}"),
                    "object_size": str(size),
                    "task_status": status,
                    "attempt_number": attempt,
                    "reference_type": kind,
                    "call_site": site,
                    "type": "WORKER",
                    "pid": worker,
                    "ip": f"192.0.2.{worker // 2}",
                    "change": change,
                },
            )
            for number, worker, size, status, attempt, kind, site, change in (
                (1, 1, 1000, "FINISHED", 1, "LOCAL_REFERENCE", "a.py:1", "CREATED"),
                (1, 2, 1001, "NIL", 1, "PINNED_IN_MEMORY", "a.py:1", "CREATED"),
                (2, 2, -1, "SUBMITTED_TO_WORKER", 2, "LOCAL_REFERENCE", "a.py:1", "CREATED"),
                (3, 3, 3 << 40, "FINISHED", 1, "ACTOR_HANDLE", "<unknown>", "UPDATED"),
                (4, 3, 7, "FINISHED", 1, "LOCAL_REFERENCE", "gone", "DELETED"),
            )
        )
    )
    rows = (await made_client.get("/clusters/latest/api/v0/objects", params=query(*filters))).json()["data"]["result"]
    answer = await made_client.get("/clusters/latest/api/v0/objects/summarize", params=query(*filters))
    summary = answer.json()["data"]["result"]
    theirs = asdict(ObjectSummaries.to_summary(objects=rows["result"]))
    assert theirs["total_objects"] > 0
    assert summary["result"] == {"node_id_to_summary": {"cluster": theirs}}
    assert (summary["total"], summary["num_filtered"]) == (4, rows["num_filtered"])
    assert summary["warnings"] is rows["warnings"] is None
