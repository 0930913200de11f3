"""What the ledger counts, and when it says that something lacks."""

import json

import pytest

from raytrail.cli.ledger import complete
from raytrail.entities import installed
from raytrail.event import Chunk, Segment
from raytrail.store import Snapshot, Store
from raytrail.testing.entities import SESSION, chunk

FILE = "0000000000-f"


@pytest.fixture
def report(store):
    """Append an agent's report of a file."""

    def report(written, published=0, *, file=FILE, name="event_EXPORT_TASK_1.log", node_id="aa", unread="", **of):
        data = {
            "file": file,
            "generation": 0,
            "name": name,
            "event_type": "TASK",
            "node_id": node_id,
            "written_bytes": written,
            "published_bytes": published,
            "published_events": 0,
            "skipped_bytes": 0,
            "lost_bytes": 0,
            "unread": f"{1:013d}{unread}",
            "reported_ms": 1,
            **of,
        }
        line = json.dumps({"event_data": data, "source_type": "RAYTRAIL_FILE", "timestamp": 1}).encode() + b"\n"
        store.append([Chunk(cluster="", session=SESSION, node_id="", event_type="FILE", segments=(), data=line)])
        store.fold()

    return report


@pytest.fixture
def put(store):
    def put(*lines, event_type="TASK"):
        data = b"".join(line + b"\n" for line in lines)
        segments = (Segment(FILE, 0, 0, len(data)),)
        store.append(
            [Chunk(cluster="", session=SESSION, node_id="", event_type=event_type, segments=segments, data=data)]
        )
        store.fold()
        return len(data)

    return put


def row(store, event_type="TASK"):
    return next(row for row in store.ledger(SESSION) if row.event_type == event_type)


def unread(offset, length, reason="torn: it is cut"):
    return f" {offset:020d} {length:020d} {reason}"


def test_what_an_agent_saw_and_never_published_is_on_its_way_while_it_lives_and_missing_at_the_end(
    store, task, put, report
):
    stored = put(task(1))
    report(stored + 50, stored)
    assert (row(store).missing_bytes, complete(row(store))) == (0, True)
    store.seal(SESSION)
    assert [(gap.start, gap.end) for gap in row(store).missing] == [(stored, stored + 50)]
    assert not complete(row(store))


def test_half_a_line_at_the_end_is_unread_and_not_missing_too(store, task, put, report):
    stored = put(task(1))
    report(stored + 50, stored, unread=unread(stored, 50))
    store.seal(SESSION)
    ledger = row(store)
    assert (ledger.missing_bytes, ledger.unread_bytes, complete(ledger)) == (0, 50, False)
    cluster = store.find(SESSION)
    assert (cluster.missing_bytes, cluster.rejected) == (0, 1), "what lacks is said in the list of sessions, too"
    [end] = ledger.unread
    assert (end.name, end.start, end.end, end.reason) == (
        "event_EXPORT_TASK_1.log",
        stored,
        stored + 50,
        "torn: it is cut",
    )


def test_a_later_report_takes_back_what_an_earlier_one_said_to_be_unread(store, task, put, report):
    stored = put(task(1))
    report(stored, stored - 5, unread=unread(stored - 5, 5))
    assert not complete(row(store))
    report(stored, stored, reported_ms=2, unread="")
    # of two reports the later one counts, whichever comes first
    line = {"event_data": {"file": FILE, "generation": 0, "unread": f"{2:013d}"}, "source_type": "RAYTRAIL_FILE"}
    data = json.dumps({**line, "timestamp": 2}).encode() + b"\n"
    store.append([Chunk(cluster="", session=SESSION, node_id="", event_type="FILE", segments=(), data=data)])
    store.fold()
    assert complete(row(store))


def test_a_file_without_a_line_is_counted_until_it_is_said_to_have_one(store, task, put, report):
    report(0, file="0000000000-nameless", unread=unread(0, 9))
    ledger = row(store)
    assert (ledger.files, ledger.written_bytes, ledger.unread_bytes, ledger.missing_bytes) == (1, 9, 9, 0)
    stored = put(task(1))
    report(stored, stored)
    assert (row(store).files, row(store).unread_bytes) == (2, 9)
    data = {"file": "0000000000-nameless", "generation": 0, "unread": f"{2:013d}"}
    line = {"event_data": data, "source_type": "RAYTRAIL_FILE", "timestamp": 2}
    chunk = Chunk(
        cluster="", session=SESSION, node_id="", event_type="FILE", segments=(), data=json.dumps(line).encode() + b"\n"
    )
    store.append([chunk])
    store.fold()
    ledger = row(store)
    assert (ledger.files, ledger.written_bytes, complete(ledger)) == (1, stored, True)


def test_what_is_gone_from_the_disk_is_lost_and_not_missing_too(store, task, put, report):
    stored = put(task(1))
    report(stored + 50, stored, lost_bytes=50)
    store.seal(SESSION)
    assert (row(store).missing_bytes, row(store).lost_bytes, complete(row(store))) == (0, 50, False)
    assert store.find(SESSION).missing_bytes == 50


def test_what_of_a_log_is_over_its_limit_is_skipped_and_not_missing_too(store, report):
    report(150, 100, file="0000000000-log", event_type="LOG", name="raylet.out", skipped_bytes=50)
    store.append(
        [
            Chunk(
                cluster="",
                session=SESSION,
                node_id="",
                event_type="LOG",
                segments=(Segment("0000000000-log", 0, 0, 100),),
                data=b"x" * 100,
            )
        ]
    )
    store.seal(SESSION)
    assert (row(store, "LOG").missing_bytes, row(store, "LOG").skipped_bytes) == (0, 50)


def test_what_a_source_set_aside_is_rejected_for_its_reason_once(store, put):
    line = b'{"event_id":"1","source_type":"EXPORT_SET_ASIDE","timestamp":0,"event_data":{"reason":"no event"}}'
    for _ in range(2):
        put(line, b"neither", event_type="SET_ASIDE")
    ledger = row(store, "SET_ASIDE")
    assert (ledger.rejected_events, ledger.stored_events, ledger.unknown_events) == (2, 0, 0)
    assert [rejected.reason for rejected in ledger.rejected] == [
        "no event",
        "JSON is malformed: invalid character (byte 4)",
    ]
    assert not complete(ledger)


MANY = 1200


def many_reported(store, task):
    """Files of a line each, of which an agent has reported all; every hundredth has a byte more than is stored."""
    line = task(1) + b"\n"
    names = [f"0000000000-{number:04d}" for number in range(MANY)]
    segments = tuple(Segment(name, 0, 0, len(line)) for name in names)
    lines = []
    for number, name in enumerate(names):
        seen = len(line) + (number % 100 == 0)
        data = {"file": name, "generation": 0, "name": name, "event_type": "TASK", "written_bytes": seen}
        data |= {"published_bytes": seen, "published_events": 1, "unread": f"{1:013d}", "reported_ms": 1}
        event = {"event_data": data, "source_type": "RAYTRAIL_FILE", "timestamp": 1}
        lines.append(json.dumps(event).encode() + b"\n")
    of = {"cluster": "", "session": SESSION, "node_id": ""}
    store.append(
        [
            Chunk(event_type="TASK", segments=segments, data=line * MANY, **of),
            Chunk(event_type="FILE", segments=(), data=b"".join(lines), **of),
        ]
    )
    store.fold()
    return len(line)


def test_many_reported_files_are_added_up_where_they_are(store, task, monkeypatch):
    length = many_reported(store, task)
    monkeypatch.setattr("raytrail.store.file_ends._PIECE", 500)
    asked = []
    ranges = store._catalogue.ranges
    monkeypatch.setattr(store._catalogue, "ranges", lambda key: asked.append(key.file) or ranges(key))
    ledger = row(store)
    assert (ledger.files, ledger.written_bytes, ledger.published_bytes) == (
        MANY,
        MANY * length + 12,
        MANY * length + 12,
    )
    assert (ledger.stored_bytes, ledger.missing_bytes, ledger.published_events) == (MANY * length, 12, MANY)
    assert [(gap.file, gap.start, gap.end) for gap in ledger.missing] == [
        (f"0000000000-{number:04d}", length, length + 1) for number in range(0, MANY, 100)
    ]
    assert asked == [gap.file for gap in ledger.missing]


def test_a_ledger_is_worked_out_once_until_something_changes(store, task, report, monkeypatch):
    many_reported(store, task)
    asked = []
    relation = Snapshot.relation
    monkeypatch.setattr(Snapshot, "relation", lambda self, *of: asked.append(of[0]) or relation(self, *of))
    before = row(store)
    assert (row(store), asked) == (before, ["file"])
    report(10, 10, file="0000000000-more")
    assert (row(store).missing_bytes, asked) == (before.missing_bytes + 10, ["file", "file"])
    store.seal(SESSION)
    sealed = row(store)
    asked.clear()
    with Store.open(store._root, store._config) as reader:
        assert (row(reader), asked) == (sealed, [])
        assert store.ledger(SESSION) == reader.ledger(SESSION)


def test_files_that_nobody_reported_cost_no_question_each(store, task):
    pieces, data = [], b""
    for number in range(2000):
        line = task(1, attempt=number) + b"\n"
        pieces.append(Segment(f"0000000000-{number:06d}", 0, 7 if number == 1500 else 0, len(line)))
        data += line
    whole = Chunk(cluster="", session=SESSION, node_id="", event_type="TASK", segments=tuple(pieces), data=data)
    store.append([whole])
    asked: list[str] = []
    store._catalogue._db.set_trace_callback(asked.append)
    [row] = store.ledger(SESSION)
    store._catalogue._db.set_trace_callback(None)
    assert len(asked) < 200
    assert (row.files, row.stored_events, row.stored_bytes) == (2000, 2000, len(data))
    assert (row.written_bytes, row.missing_bytes) == (len(data) + 7, 7)
    assert [(gap.file, gap.start, gap.end) for gap in row.missing] == [("0000000000-001500", 0, 7)]


def test_files_with_and_without_a_report_are_counted_once_each_in_any_store(store, task, report):
    data = task(1) + b"\n"
    for name in (FILE, "0000000000-g", "0000000000-h"):
        segments = (Segment(name, 0, 100, len(data)),)
        store.append([Chunk(cluster="", session=SESSION, node_id="", event_type="TASK", segments=segments, data=data)])
    report(1000, 100 + len(data))
    before = row(store)
    assert (before.files, before.missing_bytes, before.stored_bytes) == (3, 300, 3 * len(data))
    assert before.written_bytes == 1000 + 2 * (100 + len(data))
    assert [gap.file for gap in before.missing] == [FILE, "0000000000-g", "0000000000-h"]
    with Store.open(store._root) as again:
        again._catalogue._keeps_extents = False  # as of a store that an older version wrote
        assert row(again) == before


def test_a_store_of_an_older_version_is_added_up_once(tmp_path, task, config):
    with Store.open(tmp_path, config, write=True) as store:
        store.append([chunk(installed()["task"], [task(1)], start=50)])
        before = store.ledger(SESSION)
        with store._catalogue.transaction() as db:
            db.execute("DELETE FROM extents")
            db.execute("PRAGMA user_version = 1")
    with Store.open(tmp_path, config, write=True) as store:
        assert store.ledger(SESSION) == before
        assert before[0].missing_bytes == 50
