"""Ray's HTTP events in the words of event files, which is the way of those that are odd."""

import base64
import json
from collections import Counter

import pytest
from tests.sources import posted
from tests.sources.posted import declared_event, event

from raytrail import ray_event as heads
from raytrail.entities import installed
from raytrail.entities.enumerations import TASK_STATES
from raytrail.errors import EventError
from raytrail.fold import ray_event
from raytrail.fold.lines import sort_out
from raytrail.fold.ray_event import file_lines


@pytest.fixture(scope="module")
def captured():
    return [posted_event for batch in posted.captured() for posted_event in batch]


def lines_of(posted_event):
    return [json.loads(line) for line in file_lines(*declared_event(posted_event["eventType"]), posted_event)]


def sorted_out(event_type, line):
    """What the history reads of a line, and the verdict."""
    result = sort_out(event_type, json.dumps(line).encode())
    return [json.loads(line) for line in result.lines] or result.verdict


def test_every_captured_event_says_what_the_lines_say_that_were_once_made_of_it(captured):
    types: Counter[str] = Counter()
    before = posted.captured_lines()
    for posted_event in captured:
        [entity, _] = declared_event(posted_event["eventType"])
        expected = [row for line in before[posted_event["eventId"]] for row in sorted_out(entity.file_types[0], line)]
        for row in expected:
            _leave_out_what_is_empty(row)
        assert sorted_out(posted_event["eventType"], posted_event) == expected
        types[posted_event["eventType"]] += 1
    assert types.keys() == {event.event_type for entity in installed().values() for event in entity.posted}


def _leave_out_what_is_empty(row):
    info = row["event_data"].get("task_info", {})
    if info.get("func_or_class_name") == "":
        del info["func_or_class_name"]


@pytest.mark.parametrize("odd", posted.odd(), ids=lambda odd: odd["case"])
def test_an_odd_event_says_what_the_lines_say_that_were_once_made_of_it(odd):
    event_type = odd["event"].get("eventType") or odd["event"]["event_type"]
    [entity, _] = declared_event(event_type)
    if odd["lines"] is None:
        assert sorted_out(event_type, odd["event"]) == "rejected"
        return
    expected = [sorted_out(entity.file_types[0], line) for line in odd["lines"]]
    rejected = next((outcome for outcome in expected if isinstance(outcome, str)), None)
    assert sorted_out(event_type, odd["event"]) == rejected or [row for rows in expected for row in rows]


def test_the_types_that_sources_know_are_those_that_entities_declare():
    declared = {event.event_type: entity.file_types[0] for entity in installed().values() for event in entity.posted}
    assert declared == heads.FILE_TYPES


def test_names_of_fields_may_be_those_of_the_protocol(captured):
    def snake(value):
        return {ray_event._snake(name): inner for name, inner in value.items()}

    posted_event = next(e for e in captured if e["eventType"] == "NODE_LIFECYCLE_EVENT")
    kept = snake(posted_event)
    kept["node_lifecycle_event"] = snake(kept["node_lifecycle_event"])
    kept["node_lifecycle_event"]["state_transitions"] = [
        snake(moved) for moved in kept["node_lifecycle_event"]["state_transitions"]
    ]
    assert sorted_out("NODE_LIFECYCLE_EVENT", kept) == sorted_out("NODE_LIFECYCLE_EVENT", posted_event)


def test_the_states_of_a_task_have_the_numbers_that_files_have():
    _, lifecycle = declared_event("TASK_LIFECYCLE_EVENT")
    assert [(n, name) for n, name in enumerate(lifecycle.states) if n] == list(TASK_STATES)


def test_a_transition_is_a_line_and_only_the_last_has_the_events_id():
    moved = [
        {"state": "PENDING_CREATION", "timestamp": "2026-11-23T08:10:10.5Z", "restartReason": "ACTOR_FAILURE"},
        {"state": "ALIVE", "timestamp": "2026-11-23T08:10:11.126344941Z", "pid": 7, "port": 8, "workerId": "Cg=="},
    ]
    body = {"actorId": "AQ==", "stateTransitions": moved}
    first, last = lines_of(event("ACTOR_LIFECYCLE_EVENT", "actorLifecycleEvent", body))
    assert first["event_id"] == "e1.1"
    assert first["event_data"] == {"actor_id": "AQ==", "state": "PENDING_CREATION", "restart_reason": "ACTOR_FAILURE"}
    assert last == {
        "event_id": "e1",
        "source_type": "EXPORT_ACTOR",
        "timestamp": 1795421411,
        "time_ns": 1795421411126344941,
        "event_data": {"actor_id": "AQ==", "state": "ALIVE", "worker_id": "Cg==", "pid": 7, "port": 8},
    }


def test_what_is_not_known_is_left_out_as_it_would_erase_what_is():
    body = {"taskId": "AQ==", "taskAttempt": 1, "nodeId": "", "workerId": "", "workerPid": 0, "jobId": ""}
    body["stateTransitions"] = [{"state": "RUNNING", "timestamp": "2026-11-23T08:08:57.795089485Z"}]
    [line] = lines_of(event("TASK_LIFECYCLE_EVENT", "taskLifecycleEvent", body))
    assert line["event_data"] == {
        "task_id": "AQ==",
        "attempt_number": 1,
        "state_updates": {"state_ts_ns": {"8": "1795421337795089485"}},
    }


def test_a_task_that_creates_an_actor_says_which():
    actor = bytes(range(16))
    body = {
        "taskId": base64.b64encode(b"\xff" * 8 + actor).decode(),
        "taskType": "ACTOR_CREATION_TASK",
        "placementGroupId": base64.b64encode(b"\xff" * 18).decode(),
        "taskFunc": {"pythonFunctionDescriptor": {"className": "m.Outer.A", "functionName": "__init__"}},
        "taskName": "named:A.__init__",
        "callSite": "main.py:7",
        "refIds": {"__data_operator_id": base64.b64encode(b"op1").decode()},
        "requiredResources": {"GPU": 0.5, "CPU": 1.0},
    }
    [line] = lines_of(event("TASK_DEFINITION_EVENT", "taskDefinitionEvent", body))
    assert line["event_data"]["task_info"] == {
        "type": "ACTOR_CREATION_TASK",
        "func_or_class_name": "A.__init__",
        "name": "named:A.__init__",
        "actor_id": base64.b64encode(actor).decode(),
        "call_site": "main.py:7",
        "required_resources": {"CPU": 1, "GPU": 0.5},
        "labels": {"__data_operator_id": "op1"},
        "label_selector": {},
        "fallback_strategy": {"options": []},
        "runtime_env_info": {"serialized_runtime_env": ""},
    }


def test_what_labels_will_do_as_well_is_left_out_where_there_are_none():
    def fallback(**fields):
        body = {"taskId": "AQ==", "taskType": "NORMAL_TASK", **fields}
        [line] = lines_of(event("TASK_DEFINITION_EVENT", "taskDefinitionEvent", body))
        return line["event_data"]["task_info"].get("fallback_strategy")

    assert fallback() == {"options": []}
    assert fallback(taskType="DRIVER_TASK") is None
    given: dict[str, list[dict[str, dict[str, list[str]]]]] = {"options": [{"labelSelector": {"labelConstraints": []}}]}
    assert fallback(fallbackStrategy=given) == {"options": [{"label_selector": {"label_constraints": []}}]}


@pytest.mark.parametrize("id", [b"\xff" * size for size in (4, 16, 18, 28)])
def test_an_id_of_nothing_is_none(id):
    body = {"workerId": "AQ==", "nodeId": base64.b64encode(id).decode(), "workerType": "WORKER"}
    [line] = lines_of(event("WORKER_DEFINITION_EVENT", "workerDefinitionEvent", body))
    assert line["event_data"] == {"worker_id": "AQ==", "worker_type": "WORKER"}


def test_what_a_later_ray_adds_is_kept_under_its_own_name():
    body = {"jobId": "AQAAAA==", "entrypoint": "python", "exitCode": 3}
    [line] = lines_of(event("DRIVER_JOB_DEFINITION_EVENT", "driverJobDefinitionEvent", body))
    assert line["event_data"] == {"job_id": "AQAAAA==", "entrypoint": "python", "exit_code": 3}


@pytest.mark.parametrize(
    ("posted_event", "reason"),
    [
        (
            {"eventType": "NODE_DEFINITION_EVENT"},
            "expected a time as 2026-01-31T12:00:00.123456789Z, got '' - at $.timestamp",
        ),
        (
            event("NODE_DEFINITION_EVENT", "x", {}, timestamp="2026-13-01T00:00:00Z"),
            "there is no such time as 2026-13-01T00:00:00Z - at $.timestamp",
        ),
        (event("NODE_DEFINITION_EVENT", "x", {}), "missing or empty - at $.node_definition_event"),
        (
            event("NODE_DEFINITION_EVENT", "x", {}, timestamp="2026-02-30T00:00:00Z"),
            "there is no such time as 2026-02-30T00:00:00Z - at $.timestamp",
        ),
        (
            event(
                "TASK_LIFECYCLE_EVENT",
                "taskLifecycleEvent",
                {"taskId": "AQ==", "stateTransitions": [{"state": "ASLEEP"}]},
            ),
            "'ASLEEP' is no state that TASK_LIFECYCLE_EVENT tells of"
            " - at $.task_lifecycle_event.state_transitions[0].state",
        ),
        (
            event("ACTOR_LIFECYCLE_EVENT", "actorLifecycleEvent", {"actorId": "AQ==", "stateTransitions": []}),
            "nothing has changed - at $.actor_lifecycle_event",
        ),
        (
            event("TASK_LIFECYCLE_EVENT", "taskLifecycleEvent", {"taskId": "AQ==", "taskAttempt": "x"}),
            "expected an integer, got 'x' - at $.task_lifecycle_event.task_attempt",
        ),
    ],
)
def test_an_event_that_cannot_be_read_says_why(posted_event, reason):
    with pytest.raises(EventError) as failed:
        lines_of(posted_event)
    assert str(failed.value) == reason


@pytest.mark.parametrize(
    ("kind", "field", "key"),
    [
        ("TASK_DEFINITION_EVENT", "task_definition_event", "task_id"),
        ("ACTOR_TASK_DEFINITION_EVENT", "actor_task_definition_event", "task_id"),
        ("TASK_LIFECYCLE_EVENT", "task_lifecycle_event", "task_id"),
        ("TASK_PROFILE_EVENT", "task_profile_events", "task_id"),
        ("ACTOR_DEFINITION_EVENT", "actor_definition_event", "actor_id"),
        ("ACTOR_LIFECYCLE_EVENT", "actor_lifecycle_event", "actor_id"),
        ("NODE_DEFINITION_EVENT", "node_definition_event", "node_id"),
        ("NODE_LIFECYCLE_EVENT", "node_lifecycle_event", "node_id"),
        ("DRIVER_JOB_DEFINITION_EVENT", "driver_job_definition_event", "job_id"),
        ("DRIVER_JOB_LIFECYCLE_EVENT", "driver_job_lifecycle_event", "job_id"),
        ("WORKER_DEFINITION_EVENT", "worker_definition_event", "worker_id"),
        ("WORKER_LIFECYCLE_EVENT", "worker_lifecycle_event", "worker_id"),
    ],
)
def test_an_event_of_nothing_in_particular_is_refused(kind, field, key):
    with pytest.raises(EventError, match=rf"^missing or empty - at \$\.{field}\.{key}$"):
        lines_of(event(kind, field, {key: ""}))
