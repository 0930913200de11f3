"""The kept table of where a living session's files end: whatever grows, ledgers are what counting it all anew gives."""

import json
import random

import pytest

from raytrail.event import Chunk, Segment
from raytrail.store import Store
from raytrail.testing.entities import SESSION

FILES = 40


@pytest.fixture(autouse=True)
def of_any_number(monkeypatch):
    """Keep tables of sessions of few files, too, and make pieces of a few ranges."""
    monkeypatch.setattr("raytrail.store.ledger.AT_ONCE", 1)
    monkeypatch.setattr("raytrail.store.catalogue._PIECE", 7)


def grow(store, task, files, start=0):
    """Append a line to each of these files, and a report that twice as much is published."""
    line = task(1) + b"\n"
    segments = tuple(Segment(name, 0, start * len(line), len(line)) for name in files)
    chunk = Chunk(
        cluster="", session=SESSION, node_id="", event_type="TASK", segments=segments, data=line * len(segments)
    )
    reports = b""
    for name in files:
        said = {"file": name, "generation": 0, "name": name, "event_type": "TASK", "published_bytes": 2 * len(line)}
        event = {"event_data": said, "source_type": "RAYTRAIL_FILE", "timestamp": 1}
        reports += json.dumps(event).encode() + b"\n"
    store.append([chunk, Chunk(cluster="", session=SESSION, node_id="", event_type="FILE", segments=(), data=reports)])
    store.fold()


def asked(store, monkeypatch):
    """Return the list of what is asked of the catalogue: how many files, None for all."""
    calls = []
    lines = store._catalogue.lines_of_ranges

    def lines_of_ranges(session, files):
        calls.append(None if files is None else len(files))
        return lines(session, files)

    monkeypatch.setattr(store._catalogue, "lines_of_ranges", lines_of_ranges)
    return calls


def anew(store):
    """Return the ledger as somebody counts it who has just opened the store."""
    with Store.open(store._root, store._config) as reader:
        return reader.ledger(SESSION)


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
    def tables():
        return [name for (name,) in store._engine.run("SELECT table_name FROM duckdb_tables() WHERE NOT temporary")]

    grow(store, task, [f"0000000000-{number}" for number in range(FILES)])
    store.ledger(SESSION)
    assert [name for name in tables() if name.startswith("ends_")]
    store.seal(SESSION)
    assert not [name for name in tables() if name.startswith("ends_")]
    assert not list((store._root / "tmp").glob("*.csv"))
