"""Scores of rows that differ in known ways."""

from __future__ import annotations

import pytest
from lab.compare import KEYS, compare

from raytrail.server.ray.fidelity import CANNOT


def node(number, **fields):
    return {"node_id": f"{number:056x}", "state": "ALIVE", "resources_total": {"CPU": 4.0}, **fields}


def task(number, **fields):
    row = {"task_id": f"{number:048x}", "attempt_number": 0, "name": "f", "func_or_class_name": "f"}
    return {**row, "profiling_data": {}, "actor_id": None, "error_message": None, **fields}


def test_rows_that_are_the_same_are_exact():
    score = compare([node(1), node(2)], [node(2), node(1)], resource="nodes")
    assert score.exact
    assert score.equal_ratio == 1.0
    assert score.fields["state"].equal == 2


def test_a_different_field_is_counted_and_shown():
    score = compare([node(1), node(2)], [node(1), node(2, state="DEAD")], resource="nodes")
    assert not score.exact
    assert score.fields["state"] == (1, 1, 0, 0, None, 0)
    ((key, field, live, ours),) = score.differences
    assert (key, field, live, ours) == ((f"{2:056x}",), "state", "ALIVE", "DEAD")
    assert str(score) == (
        "nodes: 2 live rows, 2 ours, 0 missing, 0 extra; 83.33% equal\n"
        "  node_id          2/2\n"
        "  state            1/2\n"
        "  resources_total  2/2\n"
        f"  state of ('{2:056x}',):\n"
        "    live 'ALIVE'\n"
        "    ours 'DEAD'"
    )


def test_a_field_that_we_lack_is_missing():
    ours = node(1)
    del ours["state"]
    score = compare([node(1)], [ours], resource="nodes")
    assert not score.exact
    assert score.fields["state"].missing == 1


def test_a_field_that_only_we_have_is_not_looked_at():
    assert compare([node(1)], [node(1, inferred="yes")], resource="nodes").exact


def test_a_row_that_one_side_lacks_is_told():
    score = compare([node(1), node(2)], [node(2), node(3)], resource="nodes")
    assert not score.exact
    assert score.missing_rows == ((f"{1:056x}",),)
    assert score.extra_rows == ((f"{3:056x}",),)
    assert f"missing row: ('{1:056x}',)" in str(score)
    assert f"extra row: ('{3:056x}',)" in str(score)


def test_what_the_files_cannot_give_does_not_count():
    log = {"stdout_file": "/a-ffffffff-1.out", "stdout_start": 9, "stdout_end": 12}
    ours = {**log, "stdout_start": 0}
    live_row = task(1, call_site="f.py:1", task_log_info=log)
    score = compare([live_row], [task(1, call_site=None, task_log_info=ours)], resource="tasks")
    assert score.exact
    assert score.fields["call_site"].different == 1
    assert score.fields["call_site"].cannot == CANNOT["tasks"]["call_site"]
    assert score.fields["task_log_info.stdout_start"].different == 1
    assert score.differences == ()

    ours["stdout_end"] = 13
    assert not compare([live_row], [task(1, call_site=None, task_log_info=ours)], resource="tasks").exact


def test_what_differs_for_want_of_an_event_is_counted_apart_from_what_comes_out_the_same():
    live = [task(1, call_site="f.py:1"), task(2, call_site=None), task(3, call_site="f.py:3")]
    lacks = task(3)
    score = compare(live, [task(1, call_site=None), task(2, call_site=None), lacks], resource="tasks")
    assert score.exact
    assert score.untold == 2
    assert score.values == (21, 21, 24)
    wrong = compare(live, [task(1, call_site=None, name="g"), task(2, call_site=None), lacks], resource="tasks")
    assert not wrong.exact
    assert wrong.untold == 2, "what an event tells is wrong, and no excuse"


def test_an_excused_value_counts_as_untold_only_where_it_differs():
    live_row = task(1, label_selector={"zone": "a"}, fallback_strategy={"options": []})
    for ours, untold in ((None, 1), ({"options": []}, 0)):
        score = compare([live_row], [{**live_row, "fallback_strategy": ours}], resource="tasks")
        assert score.exact
        assert (score.fields["fallback_strategy"].excused, score.untold) == (1, untold)


def test_rows_that_no_event_tells_are_untold_with_all_their_fields():
    rows = [{"object_id": f"{number:056x}", "ip": "::1", "pid": number, "object_size": 7} for number in (1, 2, 3)]
    score = compare(rows, rows[:1], resource="objects")
    assert score.exact
    assert (score.untold, score.values) == (8, (4, 4, 12))
    node_score = compare([node(1), node(2)], [node(1)], resource="nodes")
    assert (node_score.untold, node_score.values) == (0, (3, 6, 6))


@pytest.mark.parametrize(
    ("live", "exact"),
    [
        ({"name": "mine"}, True),  # options(name=), and nothing that tells it
        ({"name": "repr.f"}, False),  # ends in the function's name: we could have known
        ({"name": "mine", "profiling_data": {"events": [{"event_name": "task::mine"}]}}, False),
    ],
)
def test_a_name_is_excused_only_where_no_event_tells_it(live, exact):
    ours = task(1, profiling_data=live.get("profiling_data", {}))
    assert compare([task(1, **live)], [ours], resource="tasks").exact is exact


def test_the_time_of_a_workers_death_is_excused():
    message = "Worker running the task (ab) died with exit_type: 3 with error_message: bye"
    live_row, ours = (
        task(1, error_message=message, end_time_ms=5.0),
        task(1, error_message=message, end_time_ms=0),
    )
    score = compare([live_row], [ours], resource="tasks")
    assert score.exact
    assert score.fields["end_time_ms"].excused == 1
    assert not compare([{**live_row, "error_message": "no"}], [{**ours, "error_message": "no"}], resource="tasks").exact


@pytest.mark.parametrize(("worker_id", "exact"), [("ab", True), (None, False)])
def test_whom_ray_blames_first_is_excused_of_a_task_that_had_a_worker(worker_id, exact):
    live_row = task(1, worker_id=worker_id, error_message="Job finishes (01000000) as driver exits. Marking all")
    ours = {**live_row, "error_message": "Worker running the task (ab) died with exit_type: 3 with error_message: bye"}
    assert compare([live_row], [ours], resource="tasks").exact is exact


@pytest.mark.parametrize(("state", "exact"), [("NO_RESOURCES", True), ("FINISHED", False)])
def test_attempts_are_excused_of_a_group_that_waits_and_nothing_else_of_its_statistics(state, exact):
    def group(attempts, **fields):
        stats = {"scheduling_state": state, "scheduling_attempt": attempts, "scheduling_latency_us": "0", **fields}
        return {"placement_group_id": "01", "state": "PENDING", "stats": stats}

    def compared(ours):
        return compare([group(5)], [ours], resource="placement_groups")

    assert compared(group(4)).exact is exact
    assert compared(group(5)).exact
    assert not compared(group(5, scheduling_latency_us="1")).exact


@pytest.mark.parametrize(
    ("live", "ours", "same"),
    [
        (1.0, 1, True),
        ("0", 0, True),
        (0, "0", True),
        (1, 2, False),
        (True, 1, False),
        (None, "", False),
        ({"a": [1, {"b": 2.0}]}, {"a": [1, {"b": 2}]}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([1], [1, 2], False),
        ("id='01' node_ip_address='::1' pid='7'", {"id": "01", "node_ip_address": "::1", "pid": "7"}, True),
        ("id='01' node_ip_address='::1' pid='7'", {"id": "01", "node_ip_address": "::1", "pid": "8"}, False),
    ],
)
def test_values_are_the_same_when_ray_means_the_same(live, ours, same):
    assert compare([node(1, value=live)], [node(1, value=ours)], resource="nodes", types=False).exact is same


@pytest.mark.parametrize(
    ("live", "ours"),
    [(1.0, 1), ("0", 0), (0, "0"), (True, 1), (0, False), (None, ""), ({"a": [1, {"b": 2.0}]}, {"a": [1, {"b": 2}]})],
)
def test_numbers_are_the_same_only_where_json_writes_them_alike(live, ours):
    assert not compare([node(1, value=live)], [node(1, value=ours)], resource="nodes").exact
    assert compare([node(1, value=live)], [node(1, value=live)], resource="nodes").exact


def test_every_resource_has_a_key_and_its_reasons():
    assert KEYS.keys() == CANNOT.keys()
