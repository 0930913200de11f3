"""What of all that arrives is stored, and what is set aside and kept, whoever sent it."""

import json
import logging
from pathlib import Path

import msgspec
import pytest

from raytrail.config import StoreConfig
from raytrail.entities import installed
from raytrail.errors import NotFoundError, StoreUnavailable
from raytrail.event import LOG, UNKNOWN_SESSION, Chunk, Segment, Unreadable, received
from raytrail.store import Store
from raytrail.testing.entities import SESSION, chunk

TASK = installed()["task"]
HUGE = 10**20


def of(**changes):
    """A chunk of one line that may be as odd as it likes."""
    data = changes.pop("data", b'{"event_data":{}}\n')
    fields = {"cluster": "", "session": SESSION, "node_id": "", "event_type": "TASK", **changes}
    return Chunk(**{"segments": (Segment("0000000000-odd", 0, 0, len(data)),), "data": data, **fields})


def ledger(store, session=SESSION):
    return {row.event_type: row for row in store.ledger(session)}


ODD = {
    "a space in the session": of(session="session 1"),
    "a session that looks like an option": of(session="-session"),
    "a session that is no ASCII": of(session="séssion"),
    "a session that is a path": of(session="../../etc"),
    "a session that is too long": of(session="s" * 300),
    "no session": of(session=""),
    "a line break after the session": of(session="session_1\n"),
    "a surrogate in the session": of(session="s\udcff"),
    "a surrogate in the event type": of(event_type="TASK\udcff"),
    "an event type that is a path": of(event_type="../TASK"),
    "a surrogate in the file's id": of(segments=(Segment("f\udcff", 0, 0, 18),)),
    "a quote in the file's id": of(segments=(Segment('f"', 0, 0, 18),)),
    "no file's id": of(segments=(Segment("", 0, 0, 18),)),
    "an endless cluster": of(cluster="c" * 100_000),
    "a start beyond 64 bits": of(segments=(Segment("f", 0, HUGE, 18),)),
    "an end beyond 64 bits": of(segments=(Segment("f", 0, 2**63 - 10, 18),)),
    "a generation beyond 64 bits": of(segments=(Segment("f", HUGE, 0, 18),)),
    "a negative start": of(segments=(Segment("f", 0, -5, 18),)),
    "a negative generation": of(segments=(Segment("f", -1, 0, 18),)),
    "a negative length": of(segments=(Segment("f", 0, 0, 1000), Segment("f", 0, 1000, -982))),
    "a range that is longer than what came": of(segments=(Segment("f", 0, 0, 10**9),)),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_a_chunk_that_cannot_be_is_set_aside_once_with_its_reason_and_its_neighbours_are_stored(store, task, odd):
    before, after = chunk(TASK, [task(1)]), chunk(TASK, [task(2)], file="0000000000-after")
    for _ in range(2):
        store.append([before, odd, after])
    assert ledger(store)["TASK"].stored_events == 2
    assert ledger(store)["TASK"].missing_bytes == 0
    [kept] = store.set_aside()
    assert kept.length == len(odd.data)
    assert kept.reason
    assert store.set_aside_bytes(kept.id[:8]) == odd.data
    counted = ledger(store, kept.session)["SET_ASIDE"]
    assert (counted.rejected_events, counted.rejected[0].reason) == (1, kept.reason)
    store.fold()
    store.seal(SESSION)
    assert {cluster.session for cluster in store.clusters()} == {SESSION, kept.session}


def test_what_arrives_in_place_of_a_chunk_says_where_it_lay_and_is_counted_by_the_session_that_it_names(store):
    headers = {"raytrail-version": "2", "session": SESSION}
    newer = received(headers, b"{}\n", "topic, offset 7")
    store.append([newer, received({"session": "no session"}, b"", "topic, offset 8")])
    unknown, named = store.set_aside()
    assert (named.session, named.place, named.headers) == (SESSION, "topic, offset 7", headers)
    assert (unknown.session, unknown.place) == (UNKNOWN_SESSION, "topic, offset 8")
    [rejected] = ledger(store)["SET_ASIDE"].rejected
    assert rejected.reason == (
        "topic, offset 7: chunk format '2' is not '1'; a newer agent wrote it: upgrade the reader"
    )
    assert (rejected.file, rejected.length) == (named.id, 3)


def test_bytes_that_are_claimed_and_not_sent_do_not_count_as_stored(store, task):
    lines = [task(number) for number in range(1, 4)]
    true = chunk(TASK, lines)
    file = true.segments[0].file
    claim = len(true.data) + 1000
    segments = (Segment(file, 0, 0, claim), Segment(file, 0, claim, 300 - claim))
    store.append([msgspec.structs.replace(true, segments=segments, data=b"x" * 299 + b"\n")])
    store.append([true])
    assert ledger(store)["TASK"].stored_events == 3


def test_a_cluster_may_be_called_by_any_bytes(store, task):
    store.append([msgspec.structs.replace(chunk(TASK, [task(1)]), cluster="caf\udce9")])
    [cluster] = store.clusters()
    assert (cluster.cluster, cluster.events) == ("caf?", 1)


@pytest.mark.parametrize("depth", [200, 900, 5000, 200_000])
@pytest.mark.parametrize("placed", ["unknown field", "json column", "known field"])
def test_a_line_that_nests_however_deep_does_no_harm_to_its_neighbours(store, task, depth, placed):
    deep = b"[" * depth + b"]" * depth
    at = {"unknown field": b'"shiny":%b', "json column": b'"task_info":{"required_resources":%b}',
          "known field": b'"state_updates":%b'}[placed] % deep  # fmt: skip
    line = task(9)[:-1].replace(b'"event_data":{', b'"event_data":{%b,' % at) + b"}"
    store.append([chunk(TASK, [task(1), line, task(2)])])
    assert ledger(store)["TASK"].stored_events + ledger(store)["TASK"].rejected_events == 3
    store.fold()
    rows = store.snapshot(SESSION).rows("task")
    assert {row["task_id"][:2] for row in rows} >= {"01", "02"}
    msgspec.json.encode(rows)
    store.seal(SESSION)
    msgspec.json.encode(store.snapshot(SESSION).rows("task"))


def test_a_line_break_alone_is_no_event_and_no_harm(store, task):
    store.append([of(data=b"\n"), chunk(TASK, [task(1)])])
    assert ledger(store)["TASK"].stored_events == 1


@pytest.mark.parametrize("event_type", ["TASK", "NODE", "FILE", "SET_ASIDE", "NEVER_HEARD_OF"])
def test_a_last_line_without_its_newline_is_not_lost(store, task, event, event_type):
    line = {"TASK": task(1), "NODE": event("node", 1795419640, node_id="AQ==", state="ALIVE")}.get(
        event_type, b'{"event_data":{"reason":"odd"}}'
    )
    first = line + b"\n"
    store.append([of(event_type=event_type, data=first + line)])
    row = ledger(store)[event_type] if event_type != "FILE" else None
    if row is not None:
        assert row.stored_events + row.rejected_events + row.unknown_events == 2
        assert row.stored_bytes == len(first + line)


def test_a_report_that_somebody_made_up_breaks_no_ledger(store, task):
    for number, unread in enumerate(("x" * 100, "-" * 14 + "9" * 40 + " y" * 20, "")):
        report = {"file": f"f{number}", "generation": 0, "event_type": "TASK", "written_bytes": 2**63 - 1,
                "published_bytes": -5, "unread": unread}  # fmt: skip
        line = json.dumps({"source_type": "RAYTRAIL_FILE", "timestamp": 1, "event_data": report}).encode()
        store.append([Chunk(cluster="", session=SESSION, node_id="", event_type="FILE", segments=(), data=line)])
    store.append([chunk(TASK, [task(1)])])
    store.fold()
    store.seal(SESSION)
    assert ledger(store)["TASK"].stored_events == 1


def test_an_error_of_ours_sets_that_chunk_aside_and_is_logged_once_with_its_traceback(store, task, monkeypatch, caplog):
    chunks = [chunk(TASK, [task(number)], file=f"0000000000-{number}") for number in range(20)]
    append = store._writer._border._append

    def fails(some):
        for arrival in some:
            if arrival in (chunks[3], chunks[17]):
                raise ZeroDivisionError("of ours")
        append(some)

    monkeypatch.setattr(store._writer._border, "_append", fails)
    caplog.set_level(logging.WARNING)
    store.append(chunks)
    assert ledger(store)["TASK"].stored_events == 18
    assert ledger(store)["SET_ASIDE"].rejected_events == 2
    assert {kept.reason for kept in store.set_aside()} == {"ZeroDivisionError: of ours"}
    assert {store.set_aside_bytes(kept.id) for kept in store.set_aside()} == {chunks[3].data, chunks[17].data}
    assert caplog.text.count("Traceback") == 1
    monkeypatch.undo()
    # it is not known as stored, so that a version without the fault stores it when it comes again
    store.append(chunks)
    assert ledger(store)["TASK"].stored_events == 20


def test_what_fails_half_way_leaves_no_file_behind(store, task, monkeypatch, tmp_path):
    monkeypatch.setattr(store._writer._appender, "_commit", lambda *_: 1 / 0)
    store.append([chunk(TASK, [task(1)])])
    assert len(store.set_aside()) == 1
    assert not [path for path in Path(tmp_path / "store" / "log").rglob("*") if path.is_file()]


def test_a_full_disk_sets_nothing_aside(store, task, monkeypatch):
    def full(_):
        raise StoreUnavailable("disk: full; make room")

    monkeypatch.setattr(store._writer._border, "_append", full)
    with pytest.raises(StoreUnavailable):
        store.append([chunk(TASK, [task(1)]), of(session="no session")])
    monkeypatch.undo()
    assert store.set_aside() == []


def test_what_is_kept_is_bounded_and_what_went_is_still_counted(tmp_path):
    config = StoreConfig(threads=1, set_aside_bytes=100_000)
    with Store.open(tmp_path, config, write=True) as store:
        headers = {f"h{number}": "v" * 1000 for number in range(10_000)}
        for number in range(30):
            data = b"%d" % number + b"x" * 10_000
            store.append([Unreadable(place="p" * 10_000, reason="r" * 10_000, headers={}, data=data)])
        store.append([Unreadable(place="", reason="r", headers=headers, data=b"y" * (5 << 20))])
        kept = store.set_aside()
        assert ledger(store, UNKNOWN_SESSION)["SET_ASIDE"].rejected_events == 31
    assert len(kept) < 10
    with Store.open(tmp_path / "none", StoreConfig(threads=1, set_aside_bytes=0), write=True) as store:
        store.append([of(session="no session")])
        assert store.set_aside() == []
        with pytest.raises(NotFoundError, match="nothing that was set aside has the id 'a' for itself"):
            store.set_aside_bytes("a")


def test_ranges_of_sealed_sessions_leave_memory_and_of_live_ones_are_bounded(tmp_path, task, monkeypatch):
    monkeypatch.setattr("raytrail.store.append.MOST_RANGES", 100)
    with Store.open(tmp_path, StoreConfig(threads=1), write=True) as store:
        line = task(1)
        pieces = [chunk(TASK, [line], file=f"0000000000-{number}") for number in range(300)]
        for _ in range(2):
            store.append(pieces[:200])
            store.append(pieces[100:])
            assert len(store._writer._appender._ranges) <= 100
        assert ledger(store)["TASK"].stored_events == 300
        store.seal(SESSION)
        assert len(store._writer._appender._ranges) == 0
        store.append(pieces)
        assert ledger(store)["TASK"].stored_events == 300


def test_a_file_in_tens_of_thousands_of_pieces_is_no_work_of_minutes(store):
    data = b"\n" * 40_000
    segments = tuple(Segment("f", 0, 2 * number, 1) for number in range(40_000))
    store.append([of(event_type=LOG, segments=segments, data=data)])
    assert ledger(store)[LOG].missing_bytes == 39_999
    store.append([of(event_type=LOG, segments=(Segment("f", 0, 0, 80_000),), data=b"x" * 80_000)])
    assert ledger(store)[LOG].missing_bytes == 0
    assert ledger(store)[LOG].stored_bytes == 80_000
