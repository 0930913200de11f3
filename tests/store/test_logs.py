"""Logs in the store: once, compressed, and read in ranges."""

import json
import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raytrail.errors import StoreDamaged
from raytrail.event import Chunk, Segment
from raytrail.store import Store, logs, matches
from raytrail.testing.entities import SESSION
from raytrail.zstd import decompress

FILE = "1795420800-aa"


def piece(start, data, *, file=FILE, generation=0):
    return Chunk(
        cluster="",
        session=SESSION,
        node_id="aa",
        event_type="LOG",
        segments=(Segment(file, generation, start, len(data)),),
        data=data,
    )


def report(name, *, file=FILE, generation=0, at=1, **figures):
    fields = {
        "file": file,
        "generation": generation,
        "name": name,
        "seen": f"{at:013d} {name}",
        "event_type": "LOG",
        "node_id": "aa",
        **figures,
    }
    line = json.dumps({"event_data": fields, "source_type": "RAYTRAIL_FILE", "timestamp": 1}).encode() + b"\n"
    return Chunk(cluster="", session=SESSION, node_id="aa", event_type="FILE", segments=(), data=line)


def read(store, name="raytrail.out", **part):
    [log] = store.logs(SESSION, glob=name)
    return b"".join(store.read_log(SESSION, log, **part))


def frames(store):
    return store._catalogue.query("SELECT start, end FROM frames ORDER BY file, generation, start")


def test_a_log_is_found_by_the_name_that_it_was_first_seen_by_unless_others_have_it_too(store):
    store.append([piece(0, b"0123"), report("worker-1.out"), report("old/worker-1.out", at=2)])
    store.append([piece(0, b"01", file="1795420800-bb"), report("worker-2.out", file="1795420800-bb")])
    store.fold()
    log = store.log(SESSION, "worker-1.out")
    assert (log.file, log.size, log.stored_bytes) == (FILE, 4, 4)
    assert store.log(SESSION, "worker-2.out").size == 2
    assert store.log(SESSION, "worker-3.out") is None
    store.append([report("worker-1.out", file="1795420800-cc")])
    store.fold()
    assert store.log(SESSION, "worker-1.out") is None


def test_what_comes_again_in_other_pieces_is_stored_once(store):
    store.append([piece(0, b"0123"), piece(2, b"2345"), report("raytrail.out")])
    store.append([piece(0, b"01234567")])
    store.fold()
    assert read(store) == b"01234567"
    [row] = store.ledger(SESSION)
    assert (row.event_type, row.stored_bytes, row.missing_bytes, row.stored_events) == ("LOG", 8, 0, 0)
    [cluster] = store.clusters()
    assert (cluster.log_bytes, cluster.stored_bytes, cluster.events) == (8, 0, 0)


def test_a_hole_is_said_where_it_is(store):
    store.append([piece(0, b"begin"), piece(9, b"end"), report("raytrail.out", published_bytes=12)])
    store.fold()
    assert read(store) == b"begin\n[raytrail: 4 bytes at offset 5 are missing]\nend"
    assert read(store, start=6, end=8) == b"\n[raytrail: 2 bytes at offset 6 are missing]\n"
    [row] = store.ledger(SESSION)
    assert [(gap.name, gap.start, gap.end) for gap in row.missing] == [("raytrail.out", 5, 9)]


def test_what_was_over_the_limit_is_said_at_the_end(store):
    store.append([piece(0, b"begin"), report("raytrail.out", written_bytes=25, published_bytes=5, skipped_bytes=20)])
    store.fold()
    assert read(store) == b"begin\n[raytrail: 20 bytes at offset 5 were over the agent's limit]\n"
    assert read(store, end=4) == b"begi"
    [row] = store.ledger(SESSION)
    assert (row.written_bytes, row.stored_bytes, row.missing_bytes, row.skipped_bytes) == (25, 5, 0, 20)


def test_a_range_reads_only_the_frames_that_hold_it(store, monkeypatch):
    data = random.Random(1).randbytes(4 * logs.FRAME_BYTES)
    store.append([piece(0, data), report("raytrail.out")])
    store.fold()
    opened = []
    monkeypatch.setattr(logs, "decompress", lambda frame: opened.append(1) or decompress(frame))
    at = 2 * logs.FRAME_BYTES - 5
    assert read(store, start=at, end=at + 10) == data[at : at + 10]
    assert len(opened) == 2


@pytest.mark.parametrize("sealed", [False, True])
def test_many_small_pieces_are_gathered_in_the_order_of_the_logs(store, sealed):
    for number in range(60):
        store.append([piece(number * 100, b"%099d\n" % number, file=f"1795420800-{which}") for which in "ba"])
    store.append([report(f"{which}.out", file=f"1795420800-{which}") for which in "ab"])
    store.fold()
    if sealed:
        store.seal(SESSION)
    text = b"".join(b"%099d\n" % number for number in range(60))
    assert [read(store, name) for name in ("a.out", "b.out")] == [text, text]
    assert frames(store) == [(0, 6000)] * 2
    [(body,)] = store._catalogue.query("SELECT path FROM bodies")
    assert (store._root / body).exists()


def test_what_is_read_while_it_is_gathered_goes_on_in_what_it_became(store, config, tmp_path):
    for number in range(10):
        store.append([piece(number * 10, b"%d" % number)])
    store.append([report("raytrail.out")])
    store.fold()
    with Store.open(tmp_path / "store", config) as reader:
        [log] = reader.logs(SESSION)
        pieces = reader.log_pieces(SESSION, log)
        assert next(pieces) == (0, b"0")
        before = set((tmp_path / "store" / "logs" / SESSION).iterdir())
        store.seal(SESSION)
        for body in before:
            body.unlink()
        assert list(pieces) == [(number * 10, b"%d" % number) for number in range(1, 10)]


def test_a_damaged_frame_is_an_error_and_not_an_empty_answer(store):
    store.append([piece(0, b"0123456789" * 100), report("raytrail.out")])
    store.fold()
    [(body,)] = store._catalogue.query("SELECT path FROM bodies")
    (store._root / body).write_bytes((store._root / body).read_bytes()[:-3])
    with pytest.raises(StoreDamaged, match=rf"{body}: its bytes from 0 to \d+ are not those that were written; bring"):
        read(store)


def test_what_a_crash_left_is_deleted_and_the_rest_kept(tmp_path, config):
    with Store.open(tmp_path / "store", config, write=True) as store:
        store.append([piece(0, b"kept"), report("raytrail.out")])
        store.fold()
    leftover = tmp_path / "store" / "logs" / SESSION / f"{1:020d}-000001.zst"
    leftover.write_bytes(b"x")
    os.utime(leftover, (1, 1))  # only what is old is taken for a leftover
    with Store.open(tmp_path / "store", config, write=True) as store:
        assert read(store) == b"kept"
    assert not leftover.exists()


def test_a_store_of_a_version_that_kept_no_logs_has_none(tmp_path, config):
    with Store.open(tmp_path / "store", config, write=True) as store:
        store.append([report("raytrail.out")])
        store.fold()
        store._catalogue._db.execute("DROP TABLE frames")
    with Store.open(tmp_path / "store", config) as store:
        assert read(store) == b""


def test_of_logs_with_one_name_the_newest_is_shown_and_all_on_demand(store):
    store.append([piece(0, b"old"), piece(0, b"cut", generation=1), piece(0, b"new", file="1795420801-bb")])
    store.append(
        [report("raytrail.out", generation=g) for g in (0, 1)] + [report("raytrail.out", file="1795420801-bb")]
    )
    store.fold()
    assert read(store) == b"new"
    every = [b"".join(store.read_log(SESSION, log)) for log in store.logs(SESSION, every=True)]
    assert every == [b"old", b"cut", b"new"]


def test_a_log_goes_by_the_name_that_it_was_last_seen_with(store):
    store.append([piece(0, b"x"), report("old/a.out", at=3), report("a.out", at=2), report("a.out.1", at=1)])
    store.fold()
    assert [log.name for log in store.logs(SESSION)] == ["old/a.out"]


def test_late_logs_open_a_sealed_session_again_and_are_found(store):
    store.append([piece(0, b"one"), report("raytrail.out")])
    store.fold()
    store.seal(SESSION)
    store.append([piece(3, b"two"), piece(0, b"late", file="1795420801-bb"), report("late.out", file="1795420801-bb")])
    assert not store.clusters()[0].sealed
    store.fold()
    store.seal(SESSION)
    assert (read(store), read(store, "late.out")) == (b"onetwo", b"late")


@pytest.mark.parametrize(
    ("name", "glob", "does"),
    [
        ("raylet.out", "*", True),
        ("serve/a.log", "*", False),
        ("serve/a.log", "serve/*", True),
        ("serve/a.log", "**", True),
        ("serve/a.log", "**/*.log", True),
        ("a.log", "**/*.log", True),
        ("raylet.out", "ray???.[o]ut", True),
        ("raylet.out", "raylet", False),
    ],
)
def test_a_glob_stays_within_a_directory_unless_it_says_otherwise(name, glob, does):
    assert matches(name, glob) is does


@given(
    pieces=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 120)), min_size=1, max_size=12),
    part=st.tuples(st.integers(0, 400), st.integers(0, 400)),
    seal=st.booleans(),
)
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_range_of_any_pieces_is_what_the_file_had_there(tmp_path_factory, pieces, part, seal):
    whole = random.Random(2).randbytes(500)
    with Store.open(tmp_path_factory.mktemp("store"), write=True) as store:
        for start, length in pieces:
            store.append([piece(start, whole[start : start + length])])
        store.append([report("raytrail.out")])
        store.fold()
        if seal:
            store.seal(SESSION)
        [log] = store.logs(SESSION)
        low, high = min(part), max(part)
        content = bytearray(b"?" * (high - low))
        for offset, data in store.log_pieces(SESSION, log, low, high):
            content[offset - low : offset - low + len(data)] = data
    there = {at for start, length in pieces for at in range(start, start + length)}
    assert len(content) == high - low
    assert [byte for at, byte in enumerate(content, low) if at in there] == [
        whole[at] for at in range(low, high) if at in there
    ]


@pytest.mark.parametrize("glob", ["**/" * 5000 + "x", "*a" * 60 + "b", "**/*/" * 300 + "x"])
def test_a_glob_that_could_match_in_very_many_ways_is_answered_at_once(glob):
    # else it takes ages, or all of the stack
    assert not matches("a/" * 8 + "a" * 100, glob)
