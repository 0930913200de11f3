"""Events of attempts that were closed already: each attempt stays one row, with all that is told of it."""

import base64
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from tests.damage import flip

from raytrail.config import StoreConfig
from raytrail.entities import installed
from raytrail.errors import StoreDamaged, StoreUnavailable
from raytrail.store import Filter, Store
from raytrail.store.closed import SUPERSEDED, Closed
from raytrail.store.engine import Engine
from raytrail.testing import check_entity
from raytrail.testing.entities import SESSION, chunk, states

TASK = installed()["task"]
S = 10**9
T0 = 1795419640
WORKER = base64.b64encode(b"\x04" * 28).decode()
INFO = {"type": "NORMAL_TASK", "func_or_class_name": "f"}
OWNER = {"state_ts_ns": {"1": str(T0 * S), "11": str((T0 + 2) * S)}}
EXECUTOR = {"worker_pid": 77, "state_ts_ns": {"8": str((T0 + 1) * S)}, "task_log_info": {"stdout_end": 1}}


def profile(name):
    span = {"event_name": name, "start_time": "1", "end_time": "2", "extra_data": "{}"}
    return {"profile_events": {"component_type": "worker", "component_id": WORKER, "events": [span]}}


def parts(task, number):
    """The lines that tell of an attempt: it is complete with the first three, and settled with the first one."""
    return [
        task(number, task_info=INFO, state_updates=OWNER),
        task(number, state_updates=EXECUTOR),
        task(number, **profile("task::named")),
        task(number, at=T0 + 90, **profile("task:deserialize")),
    ]


class Feed:
    """Appends lines, each time as those of another file, and folds them."""

    def __init__(self):
        self.batches = []

    def __call__(self, store, *lines):
        self.batches.append([chunk(TASK, lines, file=f"{len(self.batches):010d}-f")])
        store.append(self.batches[-1])
        store.fold()

    def imported(self):
        """What all of it adds up to when it is imported at once."""
        batch = [arrival for batch in self.batches for arrival in batch]
        with (
            TemporaryDirectory() as directory,
            Store.open(Path(directory), StoreConfig(threads=1), write=True) as store,
        ):
            return states(store, SESSION, TASK, [batch], seal=True, fold=False)


@pytest.fixture
def feed():
    return Feed()


@pytest.fixture
def settled_at_once(monkeypatch):
    monkeypatch.setattr("raytrail.store.live.SETTLE_SECONDS", -1)


@pytest.fixture
def worn_at_once(monkeypatch):
    monkeypatch.setattr("raytrail.store.closed.FEW_SUPERSEDED", 0)


def ordered(tasks):
    """Sort what has no order of its own."""
    for row in tasks:
        for value in (row["events"], (row["profiling_data"] or {}).get("events", [])):
            value.sort(key=str)
    return sorted(tasks, key=lambda row: row["task_id"])


def rows(store):
    return ordered(store.snapshot(SESSION).rows("task"))


def files(store, kind):
    return [file for file in store._catalogue.state_files(SESSION, "task") if file.kind == kind]


def assert_says(store, expected):
    """Every way to ask gives these rows, and none of them asks the log."""
    view = store.snapshot(SESSION)
    assert not store._catalogue.log_files(SESSION, unfolded=True)
    assert rows(store) == ordered(expected)
    assert view.count("task") == len(expected)
    assert sum(group["count"] for group in view.group("task", ["state"])) == len(expected)
    assert view.count("task", [Filter("task_id", "=", expected[0]["task_id"])]) == 1
    assert view.rows("task", columns=["task_id"], order=["-task_id"], limit=1) == [{"task_id": expected[-1]["task_id"]}]
    assert store.snapshot(SESSION, (T0 + 1000) * 1000).count("task") == len(expected)
    assert store.sql("SELECT count(*) FROM task").rows == [(len(expected),)]


@pytest.mark.parametrize("late", [[3], [0], [1, 3], [0, 1, 2, 3]])
def test_what_comes_late_of_a_complete_attempt_joins_it(store, task, feed, late):
    lines = parts(task, 1)
    feed(store, *lines[:3])
    assert files(store, "closed")
    feed(store, *(lines[number] for number in late))
    expected = feed.imported()
    assert_says(store, expected)
    store.seal(SESSION)
    assert_says(store, expected)
    store.rebuild(SESSION)
    assert_says(store, expected)


def test_the_executors_part_joins_what_the_owner_has_told_long_ago(store, task, feed, settled_at_once):
    owner, executor, *rest = parts(task, 1)
    feed(store, owner)
    assert not files(store, "open")
    for line in (executor, *rest):
        feed(store, line)
        assert not files(store, "open")  # it is settled again
        assert len(rows(store)) == 1
    assert_says(store, feed.imported())


def test_an_attempt_returns_as_often_as_it_is_told_of(store, task, feed, worn_at_once, monkeypatch):
    monkeypatch.setattr("raytrail.store.live.SMALL_FILES", 1000)
    feed(store, *parts(task, 1), *parts(task, 2))
    for number in range(6):
        feed(store, task(1, **profile(f"late{number}")))
        assert len(files(store, "closed")) <= 3
        assert sum(file.rows for file in files(store, SUPERSEDED)) <= 1
    assert_says(store, feed.imported())


def test_a_file_of_which_all_returns_is_no_more(store, task, feed, worn_at_once, settled_at_once):
    first, *_, last = parts(task, 1)
    feed(store, first)
    [before] = files(store, "closed")
    feed(store, last)
    [after] = files(store, "closed")
    assert (after.path != before.path, files(store, SUPERSEDED)) == (True, [])
    assert_says(store, feed.imported())


def test_many_return_at_once_out_of_many_files(store, task, feed):
    for first in range(1, 200, 40):
        feed(store, *(line for number in range(first, first + 40) for line in parts(task, number)[:3]))
    feed(store, *(parts(task, number)[3] for number in range(1, 201, 2)))
    assert [file.rows for file in files(store, SUPERSEDED)] == [100]
    assert_says(store, feed.imported())


def test_what_has_returned_is_gathered_once(store, task, feed, monkeypatch):
    monkeypatch.setattr("raytrail.store.live.SMALL_FILES", 3)
    feed(store, *parts(task, 1)[:3], *parts(task, 2)[:3])
    feed(store, parts(task, 1)[3])
    assert files(store, SUPERSEDED)
    feed(store, *parts(task, 3))
    assert [file.rows for file in files(store, "closed")] == [3]
    assert not files(store, SUPERSEDED)
    feed(store, *parts(task, 2))  # is found in the file that they were gathered into
    assert_says(store, feed.imported())


def test_an_attempt_returns_before_it_was_committed_that_it_is_closed(store, task, feed, monkeypatch):
    monkeypatch.setattr("raytrail.store.live.LITTLE_OPEN", -1)
    monkeypatch.setattr("raytrail.store.live.MOST_COMMITTING", 1e-9)
    feed(store, task(1))
    lines = parts(task, 2)
    for batch in (lines[:3], lines[3:]):
        feed(store, *batch)
    assert not files(store, "closed")
    monkeypatch.setattr("raytrail.store.live.MOST_COMMITTING", 1e9)
    store.fold()
    assert files(store, "closed")
    expected = ordered(feed.imported())
    assert (len(rows(store)), rows(store)[1]) == (2, expected[1])
    store.seal(SESSION)
    assert_says(store, expected)


@pytest.mark.parametrize("step", ["_touched AS", "_touched_joined AS", "_matching AS"])
def test_a_fold_that_fails_half_way_leaves_no_table_in_memory(store, task, feed, monkeypatch, step):
    whole = parts(task, 1)
    feed(store, *whole[:3], task(2, state_updates=EXECUTOR))

    def full(engine, sql, params=(), query=Engine.query):
        rows = query(engine, sql, params)
        if step in sql:
            raise StoreUnavailable("memory: full; make room")
        return rows

    with monkeypatch.context() as failing:
        failing.setattr(Engine, "query", full)
        with pytest.raises(StoreUnavailable):
            feed(store, whole[3], task(2, state_updates=OWNER))
    assert store._engine.run("SELECT table_name FROM duckdb_tables()") == []
    store.fold()
    assert store.snapshot(SESSION).count("task") == 2


def test_an_attempt_returns_to_a_store_that_was_opened_again(tmp_path, task, feed, config):
    lines = parts(task, 1)
    for batch in (lines[:3], lines[3:], parts(task, 2)):
        with Store.open(tmp_path, config, write=True) as store:
            feed(store, *batch)
        with Store.open(tmp_path, config) as reader:
            assert_says(reader, feed.imported())


def test_a_reader_sees_each_attempt_once_at_any_moment(tmp_path, task, feed, config, worn_at_once):
    with Store.open(tmp_path, config, write=True) as store:
        feed(store, *parts(task, 1)[:3], *parts(task, 2)[:3])
        with Store.open(tmp_path, config) as reader:
            for line in (parts(task, 1)[3], parts(task, 2)[3], parts(task, 1)[0]):
                assert len(rows(reader)) == 2
                feed(store, line)
                assert rows(reader) == rows(store)
            assert_says(reader, feed.imported())


KILLED = """
import os, signal, sys
from pathlib import Path
from raytrail.store import Store, live

def kill(*args):
    os.kill(os.getpid(), signal.SIGKILL)

with Store.open(Path(sys.argv[1]), write=True) as store:
    setattr(live.LiveFold if sys.argv[2] == "retire" else live, sys.argv[2], kill)
    store.fold()
"""


@pytest.mark.parametrize("at", ["make_durable", "name_state", "retire"])
def test_a_kill_between_two_steps_leaves_each_attempt_once(tmp_path, task, feed, config, at):
    lines = parts(task, 1)
    with Store.open(tmp_path, config, write=True) as store:
        feed(store, *lines[:3], *parts(task, 2))
        feed.batches.append([chunk(TASK, lines[3:], file="9999999999-late")])
        store.append(feed.batches[-1])
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), at], timeout=300, check=False)
    assert process.returncode == -signal.SIGKILL
    with Store.open(tmp_path, config) as reader:
        assert len(rows(reader)) == 2
    with Store.open(tmp_path, config, write=True) as store:
        store.fold()
        expected = feed.imported()
        assert_says(store, expected)
        feed(store, *lines)
        assert_says(store, expected)


def test_an_attempt_that_an_older_version_has_twice_is_joined_at_the_next_fold(tmp_path, task, feed, config):
    lines = parts(task, 1)
    with Store.open(tmp_path, config, write=True) as store, pytest.MonkeyPatch.context() as older:
        older.setattr(Closed, "find", lambda *_: set())
        feed(store, *lines[:3])
        feed(store, lines[3])
        assert len(rows(store)) == 2
    with Store.open(tmp_path, config, write=True) as store:
        feed(store, *parts(task, 2))
        assert_says(store, feed.imported())


def test_what_is_superseded_is_made_anew_from_the_log_where_the_file_is_damaged(tmp_path, task, feed, config):
    with Store.open(tmp_path, config, write=True) as store:
        feed(store, *parts(task, 1)[:3], *parts(task, 2)[:3])
        feed(store, parts(task, 1)[3])
        [file] = files(store, SUPERSEDED)
    flip(tmp_path / file.path, 100)
    with Store.open(tmp_path, config) as reader, pytest.raises(StoreDamaged, match=Path(file.path).name):
        rows(reader)
    with Store.open(tmp_path, config, write=True) as store:
        store.fold()
        assert_says(store, feed.imported())


# those with which the second batch comes when the attempt is complete
@pytest.mark.parametrize("seed", [15, 20])
def test_the_fold_of_a_complete_attempt_minds_neither_order_nor_repetition(task, seed):
    check_entity(TASK, parts(task, 1), seed=seed)
