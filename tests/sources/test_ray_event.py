"""Ray's HTTP events as lines of event files: every type that a real Ray 2.60 sent, in the words of the files."""

import base64
import json
from collections import Counter

import pytest
from tests.sources.posted import SESSION, event

from raytrail.entities.enumerations import TASK_STATES
from raytrail.errors import EventError
from raytrail.fold.lines import check
from raytrail.sources import ray_event
from raytrail.sources.ray_event import Converter


def said(received):
    return [json.loads(line) for line in received.lines.splitlines()]


def test_every_captured_event_becomes_lines_that_say_nothing_unknown(captured):
    converter, types = Converter(), Counter()
    for batch in captured:
        for one in batch:
            received = converter.convert(one)
            # `check` refuses fields that no column reads, so that nothing is lost in between
            assert check(received.event_type, received.lines), received
            assert received.id == one["eventId"]
            assert received.session == SESSION
            types[one["eventType"]] += 1
    assert types.keys() == ray_event._KINDS.keys()


def test_names_of_fields_may_be_those_of_the_protocol(captured):
    def snake(value):
        return {ray_event._snake(name): inner for name, inner in value.items()}

    one = next(e for batch in captured for e in batch if e["eventType"] == "NODE_LIFECYCLE_EVENT")
    kept = snake(one)
    kept["node_lifecycle_event"] = snake(kept["node_lifecycle_event"])
    kept["node_lifecycle_event"]["state_transitions"] = [
        snake(moved) for moved in kept["node_lifecycle_event"]["state_transitions"]
    ]
    assert Converter().convert(kept) == Converter().convert(one)


def test_the_states_of_a_task_have_the_numbers_that_files_have():
    assert [(n, name) for n, name in enumerate(ray_event._TASK_STATES) if n] == list(TASK_STATES)


def test_a_transition_is_a_line_and_only_the_last_has_the_events_id():
    moved = [
        {"state": "PENDING_CREATION", "timestamp": "2026-11-23T08:10:10.5Z", "restartReason": "ACTOR_FAILURE"},
        {"state": "ALIVE", "timestamp": "2026-11-23T08:10:11.126344941Z", "pid": 7, "port": 8, "workerId": "Cg=="},
    ]
    body = {"actorId": "AQ==", "stateTransitions": moved}
    first, last = said(Converter().convert(event("ACTOR_LIFECYCLE_EVENT", "actorLifecycleEvent", body)))
    assert first["event_id"] == "e1.1"
    assert first["event_data"] == {"actor_id": "AQ==", "state": "PENDING_CREATION", "restart_reason": "ACTOR_FAILURE"}
    assert last == {
        "event_id": "e1",
        "source_type": "EXPORT_ACTOR",
        "timestamp": 1795421411,
        "time_ns": 1795421411126344941,
        "event_data": {"actor_id": "AQ==", "state": "ALIVE", "worker_id": "Cg==", "pid": 7, "port": 8},
    }


def test_a_drivers_address_is_that_of_its_node():
    converter = Converter()
    node = {"nodeId": "Tg==", "nodeIpAddress": "192.0.2.7", "startTimestamp": "2026-11-23T08:08:50.899Z"}
    converter.convert(event("NODE_DEFINITION_EVENT", "nodeDefinitionEvent", node))
    job = {"jobId": "AQAAAA==", "driverPid": "12", "driverNodeId": "Tg=="}
    [line] = said(converter.convert(event("DRIVER_JOB_DEFINITION_EVENT", "driverJobDefinitionEvent", job)))
    assert line["event_data"] == {
        "job_id": "AQAAAA==",
        "driver_pid": "12",
        "driver_node_id": "Tg==",
        "driver_ip_address": "192.0.2.7",
    }


def test_what_is_not_known_is_left_out_as_it_would_erase_what_is():
    body = {"taskId": "AQ==", "taskAttempt": 1, "nodeId": "", "workerId": "", "workerPid": 0, "jobId": ""}
    body["stateTransitions"] = [{"state": "RUNNING", "timestamp": "2026-11-23T08:08:57.795089485Z"}]
    [line] = said(Converter().convert(event("TASK_LIFECYCLE_EVENT", "taskLifecycleEvent", body)))
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
    [line] = said(Converter().convert(event("TASK_DEFINITION_EVENT", "taskDefinitionEvent", body)))
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
    def told(**fields):
        body = {"taskId": "AQ==", "taskType": "NORMAL_TASK", **fields}
        [line] = said(Converter().convert(event("TASK_DEFINITION_EVENT", "taskDefinitionEvent", body)))
        return line["event_data"]["task_info"].get("fallback_strategy")

    assert told() == {"options": []}
    assert told(taskType="DRIVER_TASK") is None
    given = {"options": [{"labelSelector": {"labelConstraints": []}}]}
    assert told(fallbackStrategy=given) == {"options": [{"label_selector": {"label_constraints": []}}]}


@pytest.mark.parametrize("id", [b"\xff" * size for size in (4, 16, 18, 28)])
def test_an_id_of_nothing_is_none(id):
    body = {"workerId": "AQ==", "nodeId": base64.b64encode(id).decode(), "workerType": "WORKER"}
    [line] = said(Converter().convert(event("WORKER_DEFINITION_EVENT", "workerDefinitionEvent", body)))
    assert line["event_data"] == {"worker_id": "AQ==", "worker_type": "WORKER"}


def test_what_a_later_ray_adds_is_kept_under_its_own_name():
    body = {"jobId": "AQAAAA==", "entrypoint": "python", "exitCode": 3}
    [line] = said(Converter().convert(event("DRIVER_JOB_DEFINITION_EVENT", "driverJobDefinitionEvent", body)))
    assert line["event_data"] == {"job_id": "AQAAAA==", "entrypoint": "python", "exit_code": 3}


def test_an_event_of_a_type_that_files_cannot_say_is_kept_as_it_came():
    came = event("PLATFORM_EVENT", "platformEvent", {"objectKind": "Pod"})
    received = Converter().convert(came)
    assert received.event_type == "PLATFORM_EVENT"
    assert said(received)[0]["event_data"] == came


@pytest.mark.parametrize(
    ("came", "said"),
    [
        (7, "expected an object, got int - at $"),
        ({"eventId": ""}, "expected a time as 2026-01-31T12:00:00.123456789Z, got '' - at $.timestamp"),
        (event("X", "x", {}, eventId=""), "missing or empty - at $.eventId"),
        (event("X", "x", {}, sessionName="../etc"), "expected a session's name, got '../etc' - at $.sessionName"),
        (event("../X", "x", {}), "expected an event type's name, got '../X' - at $.eventType"),
        (
            event("X", "x", {}, timestamp="2026-13-01T00:00:00Z"),
            "there is no such time as 2026-13-01T00:00:00Z - at $.timestamp",
        ),
        (event("NODE_DEFINITION_EVENT", "x", {}), "missing or empty - at $.node_definition_event"),
        (
            event("X", "x", {}, timestamp="2026-02-30T00:00:00Z"),
            "there is no such time as 2026-02-30T00:00:00Z - at $.timestamp",
        ),
        (
            event(
                "TASK_LIFECYCLE_EVENT",
                "taskLifecycleEvent",
                {"taskId": "AQ==", "stateTransitions": [{"state": "ASLEEP"}]},
            ),
            "'ASLEEP' is no state of a task - at $.task_lifecycle_event.state_transitions[0].state",
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
def test_an_event_that_cannot_be_read_says_why(came, said):
    with pytest.raises(EventError) as failed:
        Converter().convert(came)
    assert str(failed.value) == said


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
        Converter().convert(event(kind, field, {key: ""}))
