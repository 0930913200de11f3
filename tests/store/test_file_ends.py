"""The kept table of where a living session's files end: whatever grows, ledgers are what counting it all anew gives."""

import json
import random
import threading
import time
from contextlib import contextmanager

import pytest

from raytrail.errors import StoreUnavailable
from raytrail.event import Chunk, Segment
from raytrail.store import Store
from raytrail.store.file_ends import RANGE_COLUMNS, lines_of_ranges
from raytrail.store.ranges import FileKey
from raytrail.testing.entities import SESSION

FILES = 40


@pytest.fixture(autouse=True)
def of_any_number(monkeypatch):
    """Keep tables of sessions of few files, too, and make pieces of a few ranges."""
    monkeypatch.setattr("raytrail.store.ledger.AT_ONCE", 1)
    monkeypatch.setattr("raytrail.store.file_ends._PIECE", 7)


def grow(store, task, files, start=0, session=SESSION):
    """Append a line to each of these files, and a report that twice as much is published."""
    line = task(1) + b"\n"
    segments = tuple(Segment(name, 0, start * len(line), len(line)) for name in files)
    chunk = Chunk(
        cluster="", session=session, node_id="", event_type="TASK", segments=segments, data=line * len(segments)
    )
    reports = b""
    for name in files:
        report = {"file": name, "generation": 0, "name": name, "event_type": "TASK", "published_bytes": 2 * len(line)}
        event = {"event_data": report, "source_type": "RAYTRAIL_FILE", "timestamp": 1}
        reports += json.dumps(event).encode() + b"\n"
    store.append([chunk, Chunk(cluster="", session=session, node_id="", event_type="FILE", segments=(), data=reports)])
    store.fold()


def asked(store, monkeypatch):
    """Return the list of what is asked of the catalogue: how many files, None for all."""
    calls = []

    def lines(catalogue, session, files=None):
        if catalogue is store._catalogue:
            calls.append(None if files is None else len(files))
        return lines_of_ranges(catalogue, session, files)

    for module in ("file_ends", "ledger"):
        monkeypatch.setattr(f"raytrail.store.{module}.lines_of_ranges", lines)
    return calls


def tables(store):
    """Return the names of the tables that are kept."""
    names = [name for (name,) in store._engine.run("SELECT table_name FROM duckdb_tables() WHERE NOT temporary")]
    return [name for name in names if name.startswith("ends_")]


def anew(store):
    """Return the ledger as somebody counts it who has just opened the store."""
    with Store.open(store._root, store._config) as reader:
        return reader.ledger(SESSION)


@pytest.mark.parametrize("piece", [1, 2, 3, 100])
def test_all_ranges_come_once_in_pieces_of_whole_files(store, task, monkeypatch, piece):
    monkeypatch.setattr("raytrail.store.file_ends._PIECE", piece)
    names = ["0000000000-0", "0000000000-1", "0000000000-2"]
    grow(store, task, names)
    for start in (2, 4, 6):
        grow(store, task, names[1:2], start=start)
    lines = [json.loads(line) for line in lines_of_ranges(store._catalogue, SESSION)]
    assert {line["session"] for line in lines} == {SESSION}
    keys = [set(line["file"]) for line in lines]
    assert sum(map(len, keys)) == len(set().union(*keys)) == 3
    rows = [row for line in lines for row in zip(*(line[name] for name in RANGE_COLUMNS), strict=True)]
    assert sorted(rows) == sorted(
        (name, 0, *range_) for name in names for range_ in store._catalogue.ranges(FileKey(SESSION, name, 0))
    )
    assert len(rows) == 6
    [alone] = lines_of_ranges(store._catalogue, SESSION, [(names[1], 0)])
    assert len(json.loads(alone)["start"]) == 4


def test_only_what_grew_is_looked_at_again(store, task, monkeypatch):
    calls = asked(store, monkeypatch)
    names = [f"0000000000-{number}" for number in range(FILES)]
    grow(store, task, names)
    assert store.ledger(SESSION) == anew(store)
    grow(store, task, names[:3], start=1)
    grow(store, task, ["0000000000-new"])
    assert store.ledger(SESSION) == anew(store)
    assert calls == [None, 4]


def test_whatever_grows_it_is_what_counting_all_of_it_gives(store, task):
    choose = random.Random(1)
    for _ in range(12):
        names = [f"0000000000-{choose.randrange(FILES)}" for _ in range(choose.randrange(1, 6))]
        grow(store, task, [*dict.fromkeys(names)], start=choose.randrange(5))
        assert store.ledger(SESSION) == anew(store)


@pytest.mark.parametrize("bound", ["_GROWN_FILES", "_GROWN_BATCHES"])
def test_all_is_looked_at_where_it_is_not_known_what_grew(store, task, monkeypatch, bound):
    monkeypatch.setattr(f"raytrail.store.catalogue.{bound}", 1)
    calls = asked(store, monkeypatch)
    for start in range(2):
        for name in ("0000000000-a", "0000000000-b"):
            grow(store, task, [name, f"{name}-too"], start)
        assert store.ledger(SESSION) == anew(store)
    assert calls == [None, None]


def test_all_is_looked_at_where_a_writer_notes_nothing(store, task, monkeypatch):
    names = [f"0000000000-{number}" for number in range(FILES)]
    grow(store, task, names)
    store.ledger(SESSION)
    calls = asked(store, monkeypatch)
    with monkeypatch.context() as older:
        older.setattr("raytrail.store.append.note_growth", lambda db, files: None)
        grow(store, task, names[:3], start=1)
    assert store.ledger(SESSION) == anew(store)
    assert calls == [0, None]


def test_what_is_kept_ends_with_the_session(store, task):
    grow(store, task, [f"0000000000-{number}" for number in range(FILES)])
    store.ledger(SESSION)
    assert tables(store)
    store.seal(SESSION)
    assert not tables(store)
    assert not list((store._root / "tmp").glob("*.csv"))


def test_clusters_and_a_ledger_that_are_asked_for_at_the_same_time_do_not_wait_for_each_other(store, task, monkeypatch):
    grow(store, task, [f"0000000000-{number}" for number in range(FILES)])
    ends, figures = store._ledgers._ends, store._figures.of
    table_of, begun = ends.table_of, {name: threading.Event() for name in ("ledger", "clusters")}
    may_go_on = {name: threading.Event() for name in begun}

    def pause(name):
        if threading.current_thread().name == name and not begun[name].is_set():
            begun[name].set()
            assert may_go_on[name].wait(60)

    def table_in_a_while(session):
        pause("ledger")
        return table_of(session)

    def figures_in_a_while(session):
        pause("clusters")
        return figures(session)

    monkeypatch.setattr(ends, "table_of", table_in_a_while)
    monkeypatch.setattr(store._figures, "of", figures_in_a_while)
    threads = [
        threading.Thread(target=store.ledger, args=[SESSION], name="ledger", daemon=True),
        threading.Thread(target=store.clusters, name="clusters", daemon=True),
    ]
    for thread in threads:
        thread.start()
        assert begun[thread.name].wait(60)
    # now the one is to take the tables, and the other one has the catalogue
    may_go_on["ledger"].set()
    until = time.monotonic() + 1  # one that took the tables first would have them by then
    while not ends._lock.locked() and time.monotonic() < until:
        time.sleep(0.01)
    may_go_on["clusters"].set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_only_the_tables_asked_for_last_are_kept(store, task, monkeypatch):
    monkeypatch.setattr("raytrail.store.file_ends.MOST_KEPT", 2)
    sessions = [f"{SESSION}{number}" for number in range(4)]
    for session in sessions:
        grow(store, task, [f"0000000000-{number}" for number in range(3)], session=session)
        store.ledger(session)
    assert list(store._ledgers._ends._tables) == sessions[-2:]
    assert len(tables(store)) == 2


def test_a_table_that_could_not_be_brought_on_is_made_again(store, task, monkeypatch):
    names = [f"0000000000-{number}" for number in range(FILES)]
    grow(store, task, names)
    store.ledger(SESSION)
    grow(store, task, [*names[:3], "0000000000-new"], start=1)
    steps = store._engine.steps

    @contextmanager
    def failing():
        with steps() as run:

            def fail(sql, params=()):
                if sql.startswith("INSERT INTO ends_"):
                    raise StoreUnavailable("no memory")
                return run(sql, params)

            yield fail

    with monkeypatch.context() as broken:
        broken.setattr(store._engine, "steps", failing)
        with pytest.raises(StoreUnavailable):
            store.ledger(SESSION)
    assert store.ledger(SESSION) == anew(store)


def test_all_is_read_where_very_many_files_grew(store, task, monkeypatch):
    monkeypatch.setattr("raytrail.store.file_ends.MOST_GROWN", 2)
    names = [f"0000000000-{number}" for number in range(FILES)]
    grow(store, task, names)
    store.ledger(SESSION)
    calls = asked(store, monkeypatch)
    grow(store, task, names[:3], start=1)
    assert store.ledger(SESSION) == anew(store)
    assert calls == [None]


def test_a_ledger_of_few_files_needs_no_disk(store, task, monkeypatch):
    monkeypatch.setattr("raytrail.store.ledger.AT_ONCE", 500)

    def full(path):
        raise OSError(28, "No space left on device")

    grow(store, task, ["0000000000-a", "0000000000-b"])
    monkeypatch.setattr("raytrail.disk.create_private", full)
    assert next(row for row in store.ledger(SESSION) if row.event_type == "TASK").files == 2
