"""What is asked of a live Ray and of the history, compared on answers made by hand; tests/ray has the real ones."""

from __future__ import annotations

import pytest
from lab.compare import KEYS
from lab.questions import QUESTIONS, compare_answers, moment_paths, paths

from raytrail.server.ray.fidelity import CANNOT, EXCUSES, ROWS

NODE = "01" * 28


def lineage(*branches, total=2):
    cluster = {"summary": list(branches), "total_tasks": total, "summary_by": "lineage"}
    return {"data": {"result": {"result": {"node_id_to_summary": {"cluster": cluster}}}}}


def branch(key, *children, count=1):
    return {"key": key, "name": "f", "state_counts": {"FINISHED": count}, "children": list(children)}


def node(**raylet):
    return {"data": {"summary": [{"ip": "192.0.2.1", "cpu": 50.0, "raylet": {"nodeId": NODE, **raylet}}]}}


def compared(path, live, ours, status=200):
    scores = compare_answers(
        {path: {"status": 200, "at_ms": 7, "body": live}}, lambda asked, at_ms: (status if at_ms == 7 else 404, ours)
    )
    return {score.resource: score for score in scores}


def test_everything_is_asked_once_and_of_each():
    asked = paths(["01000000", "02000000"], [NODE], [f"{number:032x}" for number in range(100)])
    assert len(set(asked)) == len(asked)
    assert "/api/data/datasets/02000000" in asked
    assert asked.count(f"/nodes/{NODE}") == 1
    assert sum(path.startswith("/logical/actors/") for path in asked) == 20
    assert not [path for path in asked if "{" in path]


def test_at_a_moment_everything_is_asked_that_ray_concludes_something_about():
    asked = moment_paths(["01000000"])
    assert len(set(asked)) == len(asked)
    assert {"/logical/actors", "/api/cluster_status?format=1", "/api/jobs/01000000"} <= set(asked)
    assert not [path for path in asked if "{" in path or "timeline" in path]


def test_the_nodes_and_demands_of_a_status_are_compared_in_no_order():
    path = "/api/cluster_status?format=1"

    def status(*lines, usage=" 1.0/2.0 CPU"):
        text = "\n".join(
            ("=== 12:00 ===", "Active:", *lines, "Pending:", " (none)", "Total Usage:", usage, " 0B/1B memory")
        )
        return {"data": {"clusterStatus": text}}

    live = status(" 1 node_b", " 1 node_a")
    assert compared(path, live, status(" 1 node_a", " 1 node_b"))["dashboard status"].exact
    assert compared(path, live, status(" 1 node_a"))["dashboard status"].missing_rows
    [difference] = compared(path, live, status(" 1 node_a", " 1 node_c"))["dashboard status"].differences
    assert (difference.live, difference.ours) == (" 1 node_b", " 1 node_c")
    [difference] = compared(path, live, status(" 1 node_b", " 1 node_a", usage=" 2.0/2.0 CPU"))[
        "dashboard status"
    ].differences
    assert (difference.live, difference.ours) == (" 1.0/2.0 CPU", " 2.0/2.0 CPU")


def test_every_question_has_a_key_and_its_reasons():
    asked = {question.resource for question in QUESTIONS}
    assert asked == set(KEYS) == set(CANNOT)
    assert {excuse.resource for excuse in EXCUSES} | set(ROWS) <= asked


def test_branches_of_a_lineage_are_compared_one_by_one():
    path = "/api/v0/tasks/summarize?summary_by=lineage"
    live = lineage(branch("a", branch("b"), branch("c")))
    assert compared(path, live, live)["lineage"].exact
    score = compared(path, live, lineage(branch("a", branch("b", count=2)), total=1))["lineage"]
    assert [difference.field for difference in score.differences] == ["total_tasks", "state_counts"]
    assert score.missing_rows == ((path, "/a/c"),)


def test_what_a_node_measured_of_itself_is_counted_and_does_not_matter():
    path = "/nodes?view=summary"
    ours = node(state="ALIVE", nodeManagerPort=0)
    ours["data"]["summary"][0]["cpu"] = ""
    score = compared(path, node(state="ALIVE", nodeManagerPort=1), ours)["dashboard nodes"]
    assert score.exact
    assert score.values == (3, 3, 5)
    assert not compared(path, node(state="ALIVE"), node(state="DEAD"))["dashboard nodes"].exact


def test_an_answer_that_we_lack_lacks_all_its_rows():
    score = compared("/nodes?view=summary", node(state="ALIVE"), None, status=501)["dashboard nodes"]
    assert (score.missing_rows, score.equal_ratio) == ((("/nodes?view=summary", NODE),), 0.0)


@pytest.mark.parametrize("path", ["/api/v0/cluster_events?detail=1&limit=10000"])
def test_what_ray_itself_fails_at_is_not_compared(path):
    asked = {path: {"status": 500, "at_ms": 7, "body": "Server got itself in trouble"}}
    assert compare_answers(asked, lambda *_: (200, {})) == []


def test_parts_of_a_timeline_are_told_apart_by_process_and_time():
    event = {"name": "run", "cat": "task", "pid": 0, "tid": 0, "ts": 1.5, "dur": 1.0, "args": {}, "ph": "X"}
    name = {"name": "thread_name", "pid": 0, "tid": 0, "args": {"name": "worker:1"}, "ph": "M"}
    live = [event, event | {"ts": 2.5}, name]
    assert compared("/api/v0/tasks/timeline", live, list(reversed(live)))["timeline"].exact
    score = compared("/api/v0/tasks/timeline", live, [event, event | {"ts": 2.5, "dur": 2.0}, name])["timeline"]
    assert [(difference.field, difference.live, difference.ours) for difference in score.differences] == [
        ("dur", 1.0, 2.0)
    ]
