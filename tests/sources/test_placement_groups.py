"""The GCS's answers, made of Ray's own messages, as events and as the rows that they add up to."""

import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ray.core.generated import common_pb2, gcs_pb2
from ray.util.state.common import PlacementGroupState, protobuf_message_to_dict

from raytrail.sources.event_file import EventFiles
from raytrail.sources.placement_groups import PlacementGroups

MS = 1_000_000
REQUESTED_MS, PLACED_MS = 1_795_000_000_000, 1_795_000_000_020


def group(number=1, state="CREATED", **fields):
    placed = state in ("CREATED", "REMOVED")
    message = gcs_pb2.PlacementGroupTableData(
        placement_group_id=bytes([number]) * 14 + b"\x01\0\0\0",
        creator_job_id=b"\x01\0\0\0",
        creator_actor_id=b"\xff" * 16,
        creator_actor_dead=True,
        state=gcs_pb2.PlacementGroupTableData.PlacementGroupState.Value(state),
        placement_group_creation_timestamp_ms=REQUESTED_MS,
        placement_group_final_bundle_placement_timestamp_ms=PLACED_MS if placed else 0,
        topology_strategy={"ray.io/gpu-domain": 2},
        bundles=[common_pb2.Bundle(unit_resources={"CPU": 1.0}, node_id=b"n" * 28 if placed else b"")],
    )
    message.stats.creation_request_received_ns = REQUESTED_MS * MS
    message.stats.scheduling_attempt = 1
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def written(directory):
    path = directory / f"event_EXPORT_PLACEMENT_GROUP_{os.getpid()}.log"
    return [json.loads(line)["event_data"] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def groups(tmp_path):
    return PlacementGroups(EventFiles(tmp_path), tmp_path)


def as_ray_lists(message):
    """The row of Ray's State API, as Ray's own code makes it (`list_placement_groups`, state_aggregator.py)."""
    ids = ["placement_group_id", "creator_job_id", "node_id"]
    row = protobuf_message_to_dict(message=message, fields_to_decode=ids)
    return {name: row[name] for name in PlacementGroupState.columns()}


tables = st.dictionaries(
    st.integers(1, 4),
    st.tuples(
        st.sampled_from(["PENDING", "PREPARED", "CREATED", "RESCHEDULING", "REMOVED"]),
        st.fixed_dictionaries({}, optional={"name": st.sampled_from(["a", "é"]), "is_detached": st.booleans()}),
    ),
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(tables, min_size=1, max_size=5))
def test_the_events_add_up_to_what_ray_would_list_last(rows, tmp_path_factory, tables):
    directory = tmp_path_factory.mktemp("events")
    live: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    groups = PlacementGroups(EventFiles(directory), directory)
    for table in tables:
        answer = [group(number, state, **fields) for number, (state, fields) in table.items()]
        groups.take(answer)
        live = {row["placement_group_id"]: row for row in map(as_ray_lists, answer)}
        seen |= live.keys()
    ours = {row["placement_group_id"]: row for row in rows(directory, "placement_group")}
    for key, row in live.items():
        known = {name: value for name, value in row.items() if value not in ("", [], {})}
        assert {name: ours[key][name] for name in known} == known
    assert {row["state"] for key, row in ours.items() if key not in live} <= {"REMOVED"}
    assert ours.keys() == seen


def test_a_group_is_an_event_each_time_that_it_changes(groups, tmp_path):
    groups.take([group(state="PENDING")])
    groups.take([group(state="PENDING")])
    groups.take([group(state="CREATED")])
    groups.take([group(state="CREATED", creator_job_dead=True)])
    states = [(event["state"], event["creator_job_dead"], event["since_ns"]) for event in written(tmp_path)]
    assert states == [
        ("PENDING", False, REQUESTED_MS * MS),
        ("CREATED", False, PLACED_MS * MS),
        ("CREATED", True, 0),  # nothing began
    ]


def test_one_that_waits_is_no_event_each_time_that_it_is_tried(groups, tmp_path):
    for attempt in range(1, 101):
        waiting = group(state="PENDING")
        waiting.stats.scheduling_attempt = attempt
        waiting.stats.scheduling_started_time_ns = REQUESTED_MS * MS + attempt
        waiting.stats.highest_retry_delay_ms = attempt
        groups.take([waiting])
    assert [event["stats"]["scheduling_attempt"] for event in written(tmp_path)] == [1, 2, 4, 8, 16, 32, 64]
    waiting.stats.scheduling_state = 4
    groups.take([waiting])
    assert written(tmp_path)[-1]["stats"]["scheduling_attempt"] == 100


def test_a_group_that_lived_between_two_answers_is_told_with_its_times(groups, tmp_path, rows):
    groups.take([group(state="REMOVED")])
    assert [event["state"] for event in written(tmp_path)] == ["PENDING", "CREATED", "REMOVED"]
    then = {
        at_ms: [row["state"] for row in rows(tmp_path, "placement_group", at_ms)]
        for at_ms in (REQUESTED_MS - 1, REQUESTED_MS, PLACED_MS - 1, PLACED_MS)
    }
    assert then == {
        REQUESTED_MS - 1: [],
        REQUESTED_MS: ["PENDING"],
        PLACED_MS - 1: ["PENDING"],
        PLACED_MS: ["CREATED"],
    }
    [row] = rows(tmp_path, "placement_group")
    assert row["state"] == "REMOVED"
    assert (row["creation_time_ms"], row["placement_time_ms"]) == (REQUESTED_MS, PLACED_MS)
    assert row["removal_time_ms"] > PLACED_MS
    [pending] = rows(tmp_path, "placement_group", REQUESTED_MS)
    assert pending["bundles"][0]["node_id"] == ""
    assert pending["placement_time_ms"] is None


def test_one_that_was_never_placed_was_never_created(groups, tmp_path):
    groups.take([group(state="REMOVED", placement_group_final_bundle_placement_timestamp_ms=0)])
    assert [event["state"] for event in written(tmp_path)] == ["PENDING", "REMOVED"]


def test_one_that_was_placed_and_removed_between_two_answers_was_created(groups, tmp_path):
    groups.take([group(state="PENDING")])
    groups.take([group(state="REMOVED")])
    assert [event["state"] for event in written(tmp_path)] == ["PENDING", "CREATED", "REMOVED"]


def test_one_that_is_in_the_table_no_more_was_removed(groups, tmp_path):
    groups.take([group(1), group(2, "REMOVED")])
    before = len(written(tmp_path))
    groups.take([])
    assert [event["state"] for event in written(tmp_path)[before:]] == ["REMOVED"]


def test_a_process_that_follows_another_tells_no_beginnings_again_and_what_ended_between(groups, tmp_path):
    groups.take([group(1, "REMOVED"), group(2), group(4)])
    (tmp_path / "event_EXPORT_PLACEMENT_GROUP_1.log").write_bytes(b'{"event_data":{"state":1}}\n')
    before = len(written(tmp_path))
    PlacementGroups(EventFiles(tmp_path), tmp_path).take([group(1, "REMOVED"), group(2), group(3, "PENDING")])
    states = sorted((event["state"], event.get("since_ns", 0) > 0) for event in written(tmp_path)[before:])
    assert states == [("CREATED", False), ("PENDING", True), ("REMOVED", False), ("REMOVED", False)]
