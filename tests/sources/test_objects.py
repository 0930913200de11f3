"""A raylet's answers, made of Ray's own messages, as events and as the rows that they add up to."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ray.core.generated import common_pb2, node_manager_pb2
from ray.dashboard import memory_utils
from ray.util.state.common import protobuf_message_to_dict

from raytrail.sources.event_file import EventFiles
from raytrail.sources.objects import Objects

NODE = "0b" * 28
SECOND = 10**9


def object_id(number, *, put=True):
    return (
        bytes([number]) * 8
        + b"\xff" * 12
        + b"\x01\0\0\0"
        + (number + (100_000_000 if put else 0)).to_bytes(4, "little")
    )


def worker_id(number):
    return bytes([number]) * 28


def reply(held, **more):
    """An answer in which workers hold objects, by number: what `held` says of each, as `ObjectRefInfo` has it."""
    workers = [
        common_pb2.CoreWorkerStats(
            worker_id=worker_id(worker),
            pid=worker,
            ip_address="10.0.0.1",
            worker_type=common_pb2.WorkerType.Value("DRIVER" if worker == 1 else "WORKER"),
            objects_total=len(refs),
            object_refs=[
                common_pb2.ObjectRefInfo(**{"object_id": object_id(number), "local_ref_count": 1, **fields})
                for number, fields in refs.items()
            ],
        )
        for worker, refs in held.items()
    ]
    total = sum(map(len, held.values()))
    return node_manager_pb2.GetObjectsInfoReply(core_workers_stats=workers, **{"total": total, **more})


@pytest.fixture
def objects(tmp_path):
    return Objects(EventFiles(tmp_path), NODE, 100, tmp_path)


def written(directory, event_type="OBJECT"):
    path = directory / f"event_EXPORT_{event_type}_{os.getpid()}.log"
    return [json.loads(line)["event_data"] for line in path.read_text().splitlines()] if path.exists() else []


reference = st.fixed_dictionaries(
    {},
    optional={
        "object_size": st.integers(-1, 2**40),
        "local_ref_count": st.integers(0, 1),
        "submitted_task_ref_count": st.integers(0, 1),
        "pinned_in_memory": st.booleans(),
        "contained_in_owned": st.sampled_from([[], [b"x" * 28]]),
        "task_status": st.sampled_from([0, 1, 8, 11]),
        "attempt_number": st.integers(0, 3),
        "call_site": st.sampled_from(["", "f.py:1"]),
    },
)
held = st.dictionaries(st.integers(1, 3), st.dictionaries(st.integers(1, 5), reference, max_size=4), max_size=3)


def as_ray_lists(answer):
    """The rows of Ray's State API, made of the same answer by its own code (`list_objects`, state_aggregator.py)."""
    stats = [
        protobuf_message_to_dict(message=worker, fields_to_decode=["object_id"], preserving_proto_field_name=False)
        for worker in answer.core_workers_stats
    ]
    for entry in memory_utils.construct_memory_table(stats).table:
        row = entry.as_dict()
        yield {
            "object_id": row["object_ref"],
            "task_status": "NIL" if row["task_status"] == "-" else row["task_status"],
            "type": row["type"].upper(),
            "ip": row["node_ip_address"],
            **{name: row[name] for name in ("object_size", "reference_type", "call_site", "attempt_number", "pid")},
        }


def by_reference(rows):
    return {(row["object_id"], row["pid"]): row for row in rows}


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(held, min_size=1, max_size=5))
def test_the_events_add_up_to_what_ray_would_list_last(rows, tmp_path_factory, answers):
    directory = tmp_path_factory.mktemp("events")
    objects = Objects(EventFiles(directory), NODE, 100, directory)
    for number, answer in enumerate(answers, 1):
        objects.take(reply(answer), created=0, now_ns=number * SECOND)
    live = by_reference(as_ray_lists(reply(answers[-1])))
    ours = by_reference(row for row in rows(directory, "object") if row["state"] != "DELETED")
    assert {key: {name: ours[key][name] for name in row} for key, row in live.items()} == live
    assert ours.keys() == live.keys()


def test_each_change_of_a_reference_is_an_event(objects, tmp_path):
    objects.take(reply({1: {7: {"object_size": 5, "call_site": "f.py:1", "task_status": 11}}}), 0, SECOND)
    objects.take(reply({1: {7: {"object_size": 5, "call_site": "f.py:1", "task_status": 11}}}), 0, 2 * SECOND)
    objects.take(reply({1: {7: {"object_size": 6}}, 2: {7: {}}}), 0, 3 * SECOND)
    objects.take(reply({2: {7: {}}}), 0, 4 * SECOND)
    changes = [(event["change"], event["worker_id"][:4], event.get("object_size")) for event in written(tmp_path)]
    assert changes == [
        ("CREATED", "AQEB", 5),
        ("CREATED", "AgIC", 0),
        ("UPDATED", "AQEB", 6),
        ("DELETED", "AQEB", None),
    ]


def test_a_row_says_what_made_it_and_who_owns_it(objects, tmp_path, rows):
    objects.take(reply({1: {7: {"object_size": 5, "task_status": 11}}, 2: {7: {}}}), 0, SECOND)
    owner, borrower = sorted(rows(tmp_path, "object"), key=lambda row: row["pid"])
    assert owner["task_id"] == object_id(7).hex()[:48]
    assert owner["job_id"] == "01000000"
    assert owner["node_id"] == NODE
    assert (owner["is_owner"], borrower["is_owner"]) == (True, False)
    assert (owner["type"], borrower["type"]) == ("DRIVER", "WORKER")


def test_an_answer_that_was_cut_short_ends_nothing_and_is_told(objects, tmp_path):
    objects.take(reply({1: {7: {}, 8: {}}}), 0, SECOND)
    objects.take(reply({1: {7: {}}}, total=3), 0, 2 * SECOND)
    assert [event["change"] for event in written(tmp_path)] == ["CREATED", "CREATED"]
    [gap] = written(tmp_path, "OBJECT_GAP")
    assert (gap["truncated"], gap["listed_references"], gap["total_references"]) == (True, 1, 3)
    assert (gap["since_ns"], gap["until_ns"]) == (SECOND, 2 * SECOND)
    objects.take(reply({1: {7: {}}}), 0, 3 * SECOND)
    assert written(tmp_path)[-1]["change"] == "DELETED"


def test_of_a_worker_that_told_only_some_nothing_ends_either(objects, tmp_path):
    objects.take(reply({1: {7: {}, 8: {}}}), 0, SECOND)
    answer = reply({1: {7: {}}})
    answer.core_workers_stats[0].objects_total = 2
    objects.take(answer, 0, 2 * SECOND)
    assert [event["change"] for event in written(tmp_path)] == ["CREATED", "CREATED"]


def test_what_lived_and_died_between_two_answers_is_counted(objects, tmp_path):
    objects.take(reply({1: {7: {}}}), 41, SECOND)  # what was before is nobody's loss
    objects.take(reply({1: {7: {}, 8: {}}}), 242, 2 * SECOND)
    objects.take(reply({1: {7: {}, 8: {}}}), 242, 3 * SECOND)
    assert [(gap["unseen_objects"], gap["truncated"]) for gap in written(tmp_path, "OBJECT_GAP")] == [(200, False)]


def test_what_came_between_the_two_questions_is_not_counted_twice(objects, tmp_path):
    objects.take(reply({}), 0, SECOND)
    objects.take(reply({1: {8: {}}}), 0, 2 * SECOND)  # created after the store had been asked
    objects.take(reply({1: {8: {}}}), 1, 3 * SECOND)
    assert written(tmp_path, "OBJECT_GAP") == []


def test_what_another_nodes_store_created_hides_nothing_for_long(objects, tmp_path):
    objects.take(reply({}), 0, SECOND)
    objects.take(reply({1: {number: {"object_size": 10**6} for number in range(1, 41)}}), 0, 2 * SECOND)
    objects.take(reply({}), 0, 3 * SECOND)
    objects.take(reply({}), 30, 4 * SECOND)
    assert [gap["unseen_objects"] for gap in written(tmp_path, "OBJECT_GAP")] == [30]


def test_a_second_reference_is_no_second_object_and_a_small_return_value_is_in_no_store(objects, tmp_path):
    objects.take(reply({}), 0, SECOND)
    objects.take(reply({1: {8: {}}}), 1, 2 * SECOND)
    small = {"object_id": object_id(9, put=False), "object_size": 100}
    objects.take(reply({1: {8: {}, 9: small}, 2: {8: {}}}), 4, 3 * SECOND)
    assert [gap["unseen_objects"] for gap in written(tmp_path, "OBJECT_GAP")] == [3]


def test_a_return_value_is_seen_once_its_size_is(objects, tmp_path):
    pending = {"object_id": object_id(9, put=False), "object_size": -1}
    objects.take(reply({}), 0, SECOND)
    objects.take(reply({1: {9: pending}}), 0, 2 * SECOND)
    objects.take(reply({1: {9: {**pending, "object_size": 10**6}}}), 1, 3 * SECOND)
    assert written(tmp_path, "OBJECT_GAP") == []


def test_a_process_that_follows_another_ends_what_that_left_and_nothing_of_other_nodes(tmp_path, rows):
    first = Objects(EventFiles(tmp_path), NODE, 100, tmp_path)
    first.take(reply({1: {7: {}, 8: {}, 9: {}}}), 0, SECOND)
    first.take(reply({1: {7: {}, 8: {}}}), 0, 2 * SECOND)
    Objects(EventFiles(tmp_path), "cc" * 28, 100, tmp_path).take(reply({3: {9: {}}}), 0, SECOND)
    (tmp_path / "event_EXPORT_OBJECT_1.log").write_bytes(b'{"event_data":{"object_id":1}}\n')
    before = len(written(tmp_path))
    Objects(EventFiles(tmp_path), NODE, 100, tmp_path).take(reply({1: {8: {}}}), 0, 3 * SECOND)
    assert [event["change"] for event in written(tmp_path)[before:]] == ["UPDATED", "DELETED"]


def test_a_long_call_site_is_cut(objects, tmp_path):
    objects.take(reply({1: {7: {"call_site": "x" * 100_000}}}), 0, SECOND)
    assert written(tmp_path)[0]["call_site"] == "x" * 2000
