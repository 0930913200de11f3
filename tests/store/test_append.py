"""Chunks to rows of the log: once, whatever happens to them on the way."""

import errno
import os

import msgspec
import pytest

from raytrail.config import StoreConfig
from raytrail.entities import installed
from raytrail.errors import NotFoundError, StoreError, StoreLocked, StoreTooNew, StoreUnavailable
from raytrail.event import Chunk, Segment
from raytrail.store import Store
from raytrail.testing.entities import SESSION, chunk

TASK = installed()["task"]


def row(store, event_type="TASK"):
    return next(row for row in store.ledger(SESSION) if row.event_type == event_type)


def of(event_type, *lines, start=0, file="0000000000-0"):
    data = b"".join(line + b"\n" for line in lines)
    return Chunk(
        cluster="",
        session=SESSION,
        node_id="",
        event_type=event_type,
        segments=(Segment(file, 0, start, len(data)),),
        data=data,
    )


def test_a_redelivered_chunk_is_stored_once(store, task):
    redelivered = chunk(TASK, [task(1), task(2)])
    store.append([redelivered, redelivered])
    store.append([redelivered])
    assert row(store).stored_events == 2
    assert row(store).stored_bytes == len(redelivered.data)


def test_a_chunk_with_other_borders_brings_only_what_is_new(store, task):
    lines = [task(number) for number in range(1, 6)]
    offsets = [sum(len(line) + 1 for line in lines[:at]) for at in range(6)]
    store.append([chunk(TASK, lines[1:3], start=offsets[1])])
    store.append([chunk(TASK, lines[2:5], start=offsets[2]), chunk(TASK, lines[0:4])])
    assert row(store).stored_events == 5
    assert row(store).missing == ()
    store.fold()
    assert store.snapshot(SESSION).count("task") == 5


def test_a_hole_is_missing_until_it_is_filled(store, task):
    lines = [task(number) for number in range(1, 4)]
    first, second = len(lines[0]) + 1, len(lines[0]) + len(lines[1]) + 2
    store.append([chunk(TASK, lines[2:], start=second), chunk(TASK, lines[:1])])
    [hole] = row(store).missing
    assert (hole.start, hole.end) == (first, second)
    assert row(store).missing_bytes == second - first
    store.append([chunk(TASK, lines[1:2], start=first)])
    assert row(store).missing_bytes == 0


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"garbage", "JSON is malformed: invalid character (byte 0)"),
        (b'{"event_data": {"task_id": "AQ', "Input data was truncated"),
        (b"[1, 2]", "expected an object, got list - at $"),
        (
            b'{"source_type": "EXPORT_TASK", "timestamp": 1}',
            "missing or empty - at $.event_data.attempt_number",
        ),
        (b'{"source_type": 7}', "expected a string - at $.source_type"),
        (
            b'{"source_type": "EXPORT_TASK", "timestamp": 1, "event_data": {"task_id": 7}}',
            "expected a string, got int - at $.event_data.task_id",
        ),
        (
            b'{"source_type": "EXPORT_TASK", "timestamp": 1, "event_data": {"task_id": "!!", "attempt_number": 0}}',
            "expected base64, got '!!' - at $.event_data.task_id",
        ),
        (
            b'{"source_type": "EXPORT_TASK", "timestamp": 1, "event_data": {"task_id": "AQ==", "attempt_number": "x"}}',
            "expected a 64-bit integer, got 'x' - at $.event_data.attempt_number",
        ),
        (
            b'{"source_type": "EXPORT_TASK", "timestamp": 1, "event_data": {"task_id": "AQ==", "attempt_number": 0, '
            b'"state_updates": []}}',
            "expected an object, got list - at $.event_data.state_updates",
        ),
        (b'{"source_type": "EXPORT_TASK", "timestamp": 1, "event_data": {"task_id": "\xff\xfe"}}', None),
    ],
)
def test_a_bad_line_is_set_aside_with_its_place_and_the_rest_goes_on(store, task, bad, reason):
    store.append([chunk(TASK, [task(1), bad, task(2)])])
    [rejected] = row(store).rejected
    assert (rejected.offset, rejected.length) == (len(task(1)) + 1, len(bad))
    assert reason is None or rejected.reason == reason
    assert row(store).stored_events == 2
    store.append([chunk(TASK, [task(1), bad, task(2)])])
    assert row(store).rejected_events == 1


def test_bad_lines_of_an_ordered_entity_are_set_aside_too(store, event):
    good = event("node", 1795419640, node_id="AQ==", state="ALIVE")
    store.append([of("NODE", b"garbage", good)])
    assert row(store, "NODE").rejected_events == 1
    store.fold()
    assert [node["state"] for node in store.snapshot(SESSION).rows("node")] == ["ALIVE"]


def test_fields_of_a_newer_ray_are_kept(store, task):
    new = task(1, task_info={"type": "NORMAL_TASK", "priority": 7}, shiny={"a": [1]})
    store.append([chunk(TASK, [new, task(2)])])
    store.fold()
    by_id = {row["task_id"][:2]: row for row in store.snapshot(SESSION).rows("task")}
    assert by_id["01"]["extra"] == {"event_data.task_info.priority": 7, "event_data.shiny": {"a": [1]}}
    assert by_id["01"]["type"] == "NORMAL_TASK"
    assert by_id["02"]["extra"] is None


def test_a_field_given_twice_is_read(store, task):
    twice = task(1)[:-1] + b',"timestamp":1795419640}'
    store.append([chunk(TASK, [twice])])
    assert row(store).stored_events == 1


def test_an_event_type_of_a_newer_ray_is_kept_and_counted(store, task):
    lines = [b'{"event_data":{},"source_type":"EXPORT_FUTURE","timestamp":1}', b"not even JSON"]
    future = of("FUTURE", *lines, file="0000000000-1")
    store.append([future, future])
    assert row(store, "FUTURE").unknown_events == 2
    assert row(store, "FUTURE").missing_bytes == 0
    store.append([chunk(TASK, [task(1), b'{"event_data":{},"source_type":"EXPORT_FUTURE","timestamp":1}'])])
    assert (row(store).stored_events, row(store).unknown_events) == (1, 1)


def test_lines_that_were_unknown_are_read_by_a_rebuild_of_a_version_that_knows_them(store, task, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr("raytrail.store.append.of_file_type", lambda _: ())
        store.append([chunk(TASK, [task(1), task(2)])])
    assert row(store).unknown_events == 2
    store.rebuild(SESSION)
    assert (row(store).stored_events, row(store).unknown_events) == (2, 0)
    assert store.snapshot(SESSION).count("task") == 2


def test_lines_that_are_still_unknown_to_a_rebuild_stay_counted_as_such(store, task):
    future = b'{"event_data":{},"source_type":"EXPORT_FUTURE","timestamp":1}'
    store.append([chunk(TASK, [task(1), future, future])])
    for _ in range(2):
        store.rebuild(SESSION)
        assert (row(store).stored_events, row(store).unknown_events) == (1, 2)


def test_an_empty_line_is_rejected_and_no_event(store, task):
    store.append([chunk(TASK, [task(1), b"", task(2)])])
    assert (row(store).stored_events, row(store).rejected_events) == (2, 1)


def test_what_the_check_let_pass_and_the_engine_refuses_is_counted_once(store, task):
    refused = task(1)[:-1].replace(b'"attempt_number":0', b'"attempt_number":99999999999999999999') + b"}"
    unknown = b'{"event_data":{},"source_type":"EXPORT_FUTURE","timestamp":1}'
    store.append([chunk(TASK, [unknown, b"garbage"])])
    start = len(unknown) + len(b"garbage") + 2
    later = [chunk(TASK, [refused, task(2)], start=start)]
    end = start + len(refused) + len(task(2)) + 2
    later.append(chunk(TASK, [unknown, b"rubbish"], start=end))
    store.append(later)
    counted = row(store)
    assert (counted.stored_events, counted.rejected_events, counted.unknown_events) == (1, 3, 2)


def test_a_line_of_20_mb_is_stored(store, task):
    message = "x" * 20_000_000
    long = task(
        1,
        state_updates={
            "error_info": {"error_type": "E", "error_message": message},
            "state_ts_ns": {"12": "1"},
        },
    )
    store.append([chunk(TASK, [long, task(2)])])
    store.fold()
    [failed] = [row for row in store.snapshot(SESSION).rows("task", columns=["error_message"]) if row["error_message"]]
    assert failed["error_message"] == message


def test_a_batch_that_is_decoded_in_parts_side_by_side_is_as_if_it_were_one(tmp_path, task, monkeypatch):
    monkeypatch.setattr("raytrail.store.batch.PART_BYTES", 1)
    later = b'{"source_type": "EXPORT_LATER", "timestamp": 1, "event_data": {}}'
    chunks, start = [], 0
    for number in range(1, 41):
        lines = [task(number), b"garbage", later]
        chunks.append(of("TASK", *lines, start=start))
        start += len(chunks[-1].data)
    with Store.open(tmp_path, StoreConfig(threads=4), write=True) as store:
        store.append([*chunks, chunks[7]])
        counted = row(store)
        assert (counted.stored_events, counted.rejected_events, counted.unknown_events) == (40, 40, 40)
        assert (counted.stored_bytes, counted.missing_bytes) == (start, 0)
        assert len(store._catalogue.log_files(SESSION, "task")) == 40
        store.seal(SESSION)
        assert store.snapshot(SESSION).count("task") == 40
    assert not list(tmp_path.rglob("spool*"))


@pytest.mark.parametrize("step", ["check", "os.fsync"])
def test_a_full_disk_harms_nothing_and_the_same_chunks_can_come_again(step, store, task, monkeypatch, tmp_path):
    store.append([chunk(TASK, [task(1)])])
    more = chunk(TASK, [task(2)], start=len(task(1)) + 1)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as failing:
        # while lines are written for the engine, or what it made of them
        failing.setattr(f"raytrail.store.append.{step}", full)
        with pytest.raises(StoreUnavailable, match="No space left on device"):
            store.append([more])
    assert not list(tmp_path.rglob("spool*"))
    assert row(store).stored_events == 1
    store.append([more])
    assert row(store).stored_events == 2
    assert row(store).missing_bytes == 0


def test_a_store_whose_catalogue_is_gone_is_refused_and_keeps_its_files(tmp_path, task, config):
    with Store.open(tmp_path, config, write=True) as store:
        store.append([chunk(TASK, [task(1)])])
    catalogue, kept = tmp_path / "catalogue.sqlite", sorted(tmp_path.glob("log/*/*"))
    aside = catalogue.rename(tmp_path.parent / "aside.sqlite")
    with pytest.raises(StoreError, match=r"catalogue\.sqlite: it is gone, and what it names is not"):
        Store.open(tmp_path, config, write=True)
    assert sorted(tmp_path.glob("log/*/*")) == kept
    aside.rename(catalogue)
    with Store.open(tmp_path, config, write=True) as store:
        assert store.snapshot(SESSION).count("task") == 1


def test_what_a_crash_left_behind_is_swept_away(tmp_path, task, config):
    with Store.open(tmp_path, config, write=True) as store:
        store.append([chunk(TASK, [task(1)])])
    leftover = tmp_path / "log" / SESSION / f"task-{1:020d}-{1:06d}.parquet"
    leftover.write_bytes(b"torn")
    os.utime(leftover, (1, 1))
    (tmp_path / "tmp" / "spool-1-1.ndjson").write_bytes(b"torn")
    with Store.open(tmp_path, config, write=True) as store:
        assert not leftover.exists()
        assert row(store).stored_events == 1


def test_one_process_writes(tmp_path, store):
    with pytest.raises(StoreLocked) as caught:
        Store.open(tmp_path / "store", write=True)
    assert str(caught.value) == (
        f"{tmp_path / 'store'}: another process writes to this store; stop it, or open another store"
    )
    with Store.open(tmp_path / "store") as reader:
        assert reader.clusters() == []


def test_a_store_of_a_newer_version_is_left_alone(tmp_path, config):
    with Store.open(tmp_path, config, write=True) as store, store._catalogue.transaction() as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'version'")
    for write in (True, False):
        with pytest.raises(StoreTooNew, match="written by a newer Raytrail"):
            Store.open(tmp_path, config, write=write)


def test_a_store_that_is_not_there_is_not_made_to_be_read(tmp_path):
    with pytest.raises(NotFoundError, match="no store there"):
        Store.open(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose a directory that can be written"):
        Store.open(tmp_path / "file" / "store", write=True)


def test_a_session_name_that_is_a_path_is_no_path_of_the_store(store, task, tmp_path):
    evil = msgspec.structs.replace(chunk(TASK, [task(1)]), session="../../etc")
    store.append([evil, chunk(TASK, [task(2)])])
    assert [path.name for path in (tmp_path / "store" / "log").iterdir()] == [SESSION]
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    [kept] = store.set_aside()
    assert kept.reason.startswith("session '../../etc' is no name that Raytrail takes")


def test_batches_of_many_sessions_do_not_mix(tmp_path, task):
    with Store.open(tmp_path, StoreConfig(threads=2), write=True) as store:
        template = chunk(TASK, [task(1)])
        store.append([msgspec.structs.replace(template, session=f"session_{name}") for name in "abc"])
        store.fold()
        assert [store.snapshot(f"session_{name}").count("task") for name in "abc"] == [1, 1, 1]
        assert store.sql("SELECT session, count(*) FROM task GROUP BY 1 ORDER BY 1").rows == [
            ("session_a", 1),
            ("session_b", 1),
            ("session_c", 1),
        ]


def test_a_line_without_newline_is_stored_with_its_own_length_and_the_newline_later_ends_nothing(store, task):
    first, last, more = (task(number) for number in (1, 2, 3))
    whole = first + b"\n" + last

    def part(start, end, data):
        file = Segment("0000000000-f", 0, start, end - start)
        return Chunk(cluster="", session=SESSION, node_id="", event_type="TASK", segments=(file,), data=data)

    store.append([part(0, len(first) + 1, first + b"\n"), part(len(first) + 1, len(whole), last)])
    store.fold()
    assert store.snapshot(SESSION).count("task") == 2
    everything = whole + b"\n" + more + b"\n"
    # an import of the file that has grown reads all of it again
    store.append([part(0, len(everything), everything)])
    store.append([part(len(whole), len(whole) + 1, b"\n")])
    store.fold()
    [row] = [row for row in store.ledger(SESSION) if row.event_type == "TASK"]
    assert (row.stored_events, row.stored_bytes, row.rejected_events) == (3, len(everything), 0)
    assert store.snapshot(SESSION).count("task") == 3
