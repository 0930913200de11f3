"""The GCS's answers, made of Ray's own messages, as events and as the rows that they add up to."""

import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ray.core.generated import common_pb2, gcs_pb2
from ray.util.state.common import WorkerState, protobuf_message_to_dict

from raytrail.sources.event_file import EventFiles
from raytrail.sources.workers import Workers

STARTED_MS, ENDED_MS = 1_795_000_000_000, 1_795_000_060_000


def worker(number=1, *, alive=True, **fields):
    message = gcs_pb2.WorkerTableData(
        is_alive=alive,
        worker_address=common_pb2.Address(
            worker_id=bytes([number]) * 28, node_id=b"n" * 28, ip_address="127.0.0.1", port=1000 + number
        ),
        worker_type=common_pb2.WorkerType.WORKER,
        pid=100 + number,
        start_time_ms=STARTED_MS,
        **{"worker_launch_time_ms": STARTED_MS - 20, "worker_launched_time_ms": STARTED_MS - 10, **fields},
    )
    if not alive:
        message.end_time_ms = ENDED_MS
        message.exit_type = common_pb2.WorkerExitType.SYSTEM_ERROR
        message.exit_detail = "killed"
    return message


def as_ray_lists(message):
    """The row of Ray's State API, as Ray's own code makes it (`list_workers`, state_aggregator.py)."""
    row = protobuf_message_to_dict(message=message, fields_to_decode=["worker_id", "node_id"])
    address = row["worker_address"]
    row |= {"worker_id": address["worker_id"], "node_id": address["node_id"], "ip": address["ip_address"]}
    times = ("start_time_ms", "end_time_ms", "worker_launch_time_ms", "worker_launched_time_ms")
    row |= {name: int(row[name]) for name in times}
    return {name: row.get(name) for name in WorkerState.columns()}


def written(directory):
    path = directory / f"event_EXPORT_WORKER_{os.getpid()}.log"
    return [json.loads(line)["event_data"] for line in path.read_text().splitlines()]


tables = st.dictionaries(st.integers(1, 4), st.tuples(st.booleans(), st.integers(0, 2)))


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(tables, min_size=1, max_size=5))
def test_the_events_add_up_to_what_ray_would_list_last(rows, tmp_path_factory, tables):
    directory = tmp_path_factory.mktemp("events")
    live: dict[str, dict[str, Any]] = {}
    dead: set[int] = set()
    workers = Workers(EventFiles(directory))
    for table in tables:
        answer = []
        for number, (alive, paused) in table.items():
            dead |= set() if alive else {number}
            # one that is dead stays dead
            answer.append(worker(number, alive=number not in dead, num_paused_threads=paused))
        workers.take(answer)
        live |= {row["worker_id"]: row for row in map(as_ray_lists, answer)}
    ours = {row["worker_id"]: row for row in rows(directory, "worker")}
    assert ours.keys() == live.keys()
    for key, row in live.items():
        known = {name: value for name, value in row.items() if value not in (None, "", 0)}
        assert {name: ours[key][name] for name in known} == known


def test_what_has_not_changed_is_not_written_again(tmp_path):
    workers = Workers(EventFiles(tmp_path))
    for _ in range(3):
        workers.take([worker(1), worker(2)])
    workers.take([worker(1), worker(2, alive=False)])
    assert [(event["pid"], event["is_alive"]) for event in written(tmp_path)] == [
        (101, True),
        (102, True),
        (102, False),
    ]


def test_one_that_began_and_ended_between_two_answers_has_both_at_their_times(tmp_path, rows):
    Workers(EventFiles(tmp_path)).take([worker(alive=False)])
    born, dead = written(tmp_path)
    assert (born["is_alive"], born["since_ns"]) == (True, STARTED_MS * 1_000_000)
    assert (dead["is_alive"], dead["since_ns"]) == (False, ENDED_MS * 1_000_000)
    assert rows(tmp_path, "worker", STARTED_MS - 1) == []
    [then] = rows(tmp_path, "worker", STARTED_MS + 1)
    assert (then["state"], then["exit_type"], then["end_time_ms"]) == ("ALIVE", None, None)
    [at_last] = rows(tmp_path, "worker")
    assert (at_last["state"], at_last["exit_type"], at_last["exit_detail"]) == ("DEAD", "SYSTEM_ERROR", "killed")


def test_a_time_that_ray_does_not_know_is_none(tmp_path, rows):
    driver = worker(worker_launch_time_ms=2**64 - 1)
    Workers(EventFiles(tmp_path)).take([driver])
    [row] = rows(tmp_path, "worker")
    assert (row["worker_launch_time_ms"], row["worker_launched_time_ms"]) == (None, STARTED_MS - 10)
