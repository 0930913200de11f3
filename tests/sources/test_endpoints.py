"""Answers of Ray's dashboard that somebody polled and kept become events."""

import copy
import json
from typing import Any

import pytest
from tests.sources.test_serve_poll import ANSWER

from raytrail.errors import EventError
from raytrail.sources import endpoints

AT_NS = 1795419800_000000001
GROUPS = "restful__api__v0__placement_groups?detail=1&limit=10000"
SERVE = "restful__api__serve__applications"
GROUP = {
    "placement_group_id": "1f06704eab6418c03f326464556d01000000",
    "name": "pg",
    "creator_job_id": "01000000",
    "state": "CREATED",
    "bundles": [{"bundle_id": {"bundle_index": 0}, "unit_resources": {"CPU": 1.0}, "node_id": "22" * 28}],
    "is_detached": False,
    "stats": {"creation_request_received_ns": "1795419730168425141", "end_to_end_creation_latency_us": "6328"},
}


def groups(*rows):
    return json.dumps({"result": True, "msg": "", "data": {"result": {"total": len(rows), "result": rows}}}).encode()


def events_of(name, body):
    return [(event_type, json.loads(line)) for event_type, line in endpoints.events(name, body, AT_NS)]


@pytest.mark.parametrize("name", [GROUPS, GROUPS.replace("?", "%3F"), GROUPS.partition("?")[0]])
def test_a_placement_group_is_told_up_to_its_state_at_the_times_that_its_statistics_say(name):
    events = events_of(name, groups(GROUP))
    assert {(event_type, event["time_ns"], event["timestamp"]) for event_type, event in events} == {
        ("PLACEMENT_GROUP", AT_NS, AT_NS // 10**9)
    }
    data = [event["event_data"] for _, event in events]
    assert [(fields["state"], fields["since_ns"]) for fields in data] == [
        ("PENDING", 1795419730168425141),
        ("CREATED", 1795419730174000000),
    ]
    assert data[-1]["placement_group_id"] == "HwZwTqtkGMA/MmRkVW0BAAAA"
    assert data[-1]["creator_job_id"] == "AQAAAA=="
    assert len({event["event_id"] for _, event in events}) == 2


def test_serve_is_told_as_it_was_polled():
    events = events_of(SERVE, json.dumps(ANSWER).encode())
    assert sorted(event_type for event_type, _ in events) == [
        "SERVE_APPLICATION",
        "SERVE_DEPLOYMENT",
        "SERVE_INSTANCE",
        "SERVE_PROXY",
        "SERVE_REPLICA",
    ]
    assert all(event["event_data"]["polled"] for _, event in events)


def test_the_same_answer_always_says_the_same():
    assert events_of(GROUPS, groups(GROUP)) == events_of(GROUPS, groups(GROUP))


def test_an_answer_that_says_of_nothing_we_know_says_nothing():
    assert events_of("restful__timezone", b'{"offset": "+00:00"}') == []


def broken_serve():
    answer: dict[str, Any] = copy.deepcopy(ANSWER)
    del answer["applications"]["shop"]["status"], answer["applications"]["shop"]["message"]
    return json.dumps(answer).encode()


@pytest.mark.parametrize(
    ("name", "body"),
    [
        (GROUPS, b""),
        (GROUPS, b'{"result": tru'),
        (GROUPS, b"[]"),
        (GROUPS, b'{"data": null}'),
        (GROUPS, groups({**GROUP, "placement_group_id": "no hex"})),
        (GROUPS, groups({**GROUP, "state": None})),
        (GROUPS, groups({**GROUP, "stats": {"creation_request_received_ns": "soon"}})),
        (SERVE, b'"no object"'),
        (SERVE, broken_serve()),
        (SERVE, b"[" * 5000),
    ],
)
def test_what_is_no_such_answer_is_said(name, body):
    with pytest.raises(EventError, match=r"^(expected JSON|no answer of Ray's dashboard): "):
        events_of(name, body)
