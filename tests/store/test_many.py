"""Many small sessions at once: what each is told of is what it would be alone, whatever is wrong with another one."""

import os
import random
import signal
import subprocess
import sys
import time
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from lab.generate import generate
from tests.line import SEED

from raytrail.cli import main
from raytrail.config import StoreConfig, TailConfig
from raytrail.entities import installed
from raytrail.errors import StoreDamaged
from raytrail.store import Store, UnreadableError, append
from raytrail.store.batch import lines_of
from raytrail.store.engine import Engine
from raytrail.tail import Checkpoint, Tailer
from raytrail.testing.entities import chunk

TASK = installed()["task"]
CONFIG = StoreConfig(threads=2)
SHAPES = (
    # the same ids in each, and another end of what they name
    {"ended": False, "failure_ratio": 0.3},
    {"open_ratio": 0.3, "failure_ratio": 0.3},
    {"failure_ratio": 0.0},
    {"jobs": 2, "files": 4, "actors": 5, "nodes": 3, "open_ratio": 0.2},
    {"seed": 5, "open_ratio": 0.2},
)


def name(number):
    return f"session_2026-11-23_07-40-{number % 60:02d}_{number:06d}_{100 + number}"


def of(session, *lines):
    """Make a chunk of a session's task events."""
    return msgspec.structs.replace(chunk(TASK, lines), session=session)


def write_sessions(directory):
    """Write sessions that share ids."""
    for number, shape in enumerate(SHAPES):
        usual = {"tasks": 40, "files": 2, "jobs": 1, "actors": 2, "nodes": 1, "session": name(number)}
        generate(directory, **{**usual, **shape})


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """Sessions that share ids."""
    directory = tmp_path_factory.mktemp("ray")
    write_sessions(directory)
    return directory


def chunks(directory, root):
    checkpoint = Checkpoint(None)
    tailer = Tailer(TailConfig(inotify=False, state_dir=str(root)), checkpoint, session_dirs=[directory])
    tailer.look(last=True)
    polled = list(tailer.poll())
    tailer.close()
    checkpoint.close()
    return polled


def everything(store):
    """Return all that is known of each session, at last and amid its life."""
    known = {}
    for cluster in store.clusters():
        moments = [None, (cluster.began_ms + cluster.last_event_ms) // 2]
        known[cluster.session] = [cluster, store.ledger(cluster.session)] + [
            sorted(store.snapshot(cluster.session, at_ms).rows(noun), key=repr)
            for at_ms in moments
            for noun in installed()
        ]
    return known


def unnamed(root):
    """Return the files of a store that its catalogue does not name."""
    with Store.open(root, CONFIG) as store:
        named = {path for (path,) in store._catalogue.query("SELECT path FROM log UNION SELECT path FROM state")}
    there = {str(path.relative_to(root)) for kind in ("log", "state") for path in root.glob(f"{kind}/*/*")}
    return there ^ named | {path.name for path in (root / "tmp").iterdir()}


def test_each_is_what_it_is_alone(sessions, tmp_path):
    all_chunks = chunks(sessions, tmp_path)
    with Store.open(tmp_path / "alone", CONFIG, write=True) as alone:
        for arrival in all_chunks:
            alone.append([arrival])
        for number in range(len(SHAPES)):
            alone.seal(name(number))
        expected = everything(alone)
    with Store.open(tmp_path / "together", CONFIG, write=True) as together:
        together.append(all_chunks)
        ledgers = together.seal_all(map(name, range(len(SHAPES))))
        assert everything(together) == expected
        assert ledgers == {session: ledger for session, (_, ledger, *_) in expected.items()}
    assert sum(cluster.inferred for cluster, *_ in expected.values()) > 0
    assert not unnamed(tmp_path / "together")


def test_what_many_take_to_be_planned_is_what_a_few_take(sessions, tmp_path, monkeypatch):
    all_chunks = chunks(sessions, tmp_path)
    planned = []
    query = Engine.query
    monkeypatch.setattr(Engine, "query", lambda self, sql, params=(): planned.append(sql) or query(self, sql, params))

    def statements(times):
        """Return how many statements import as many sessions as there are, so many times over."""
        with Store.open(tmp_path / str(times), CONFIG, write=True) as store:
            planned.clear()
            several = [msgspec.structs.replace(c, session=f"{c.session}{n}") for n in range(times) for c in all_chunks]
            store.append(several)
            store.seal_all({copy.session for copy in several})
            return len(planned)

    # what is decoded at once has so many bytes at most
    assert statements(8) < 2 * statements(1)


def test_to_go_on_with_an_import_that_was_cut_short_is_no_more_work_than_to_begin_it(sessions, tmp_path, monkeypatch):
    planned = []
    query = Engine.query
    monkeypatch.setattr(Engine, "query", lambda self, sql, params=(): planned.append(sql) or query(self, sql, params))

    def statements(root):
        """Return how many statements an import takes."""
        planned.clear()
        done = CliRunner().invoke(main, ["import", str(sessions), "--store", str(root)])
        assert done.exit_code == 0, done.output
        return len(planned)

    with Store.open(tmp_path / "cut short", CONFIG, write=True) as store:
        store.append(chunks(sessions, tmp_path))
        assert store.events() == {cluster.session: cluster.events for cluster in store.clusters()}
    assert statements(tmp_path / "cut short") <= statements(tmp_path / "whole")


def test_no_line_of_many_sessions_is_looked_at_by_itself(tmp_path, task, monkeypatch):
    looked_at = []
    monkeypatch.setattr(append, "lines_of", lambda *piece: looked_at.append(piece) or lines_of(*piece))
    names = [name(number) for number in range(5)]
    with Store.open(tmp_path, CONFIG, write=True) as store:
        store.append([of(session, task(1), task(2)) for session in names])
        assert {cluster.session: (cluster.events, cluster.rejected) for cluster in store.clusters()} == dict.fromkeys(
            names, (2, 0)
        )
    assert not looked_at


def test_lines_of_many_sessions_may_begin_with_spaces(tmp_path, task):
    names = [name(number) for number in range(3)]
    with Store.open(tmp_path, CONFIG, write=True) as store:
        store.append([of(session, task(1), b"  " + task(2), task(3)) for session in names])
        store.seal_all(names)
        assert [store.snapshot(session).count("task") for session in names] == [3, 3, 3]


@pytest.mark.parametrize("kind", [StoreDamaged, UnreadableError])
def test_one_that_cannot_be_sealed_is_said_and_the_others_are(tmp_path, task, kind):
    names = [name(number) for number in range(9)]
    with Store.open(tmp_path, CONFIG, write=True) as store:
        store.append([of(session, task(1)) for session in names])
        [log] = store._catalogue.log_files(names[3])
        (tmp_path / log.path).write_bytes(b"PAR1 of another kind")
        if kind is UnreadableError:  # as an older version named files, without a checksum
            with store._catalogue.transaction() as db:
                db.execute("UPDATE log SET crc32 = NULL WHERE id = ?", (log.id,))
        with pytest.raises(kind, match=names[3]):
            store.seal_all(names)
        assert store._catalogue.query("SELECT session FROM sessions WHERE sealed_ms IS NULL") == [(names[3],)]
        assert all(store.snapshot(session).count("task") == 1 for session in names if session != names[3])
        with pytest.raises(kind):
            store.seal_all(names)


def test_a_line_that_the_engine_refuses_is_set_aside_in_its_session_alone(tmp_path, task):
    refused = task(1)[:-1].replace(b'"attempt_number":0', b'"attempt_number":99999999999999999999') + b"}"
    names = [name(number) for number in range(5)]
    with Store.open(tmp_path, CONFIG, write=True) as store:
        store.append([of(session, task(2), *([refused] if session == names[2] else ())) for session in names])
        store.seal_all(names)
        counts = {cluster.session: (cluster.events, cluster.rejected, cluster.tasks) for cluster in store.clusters()}
    assert counts == {session: (1, int(session == names[2]), counts[session][2]) for session in names}
    assert not unnamed(tmp_path)


def test_an_integer_that_cannot_be_is_set_aside_in_its_session_alone(tmp_path, task):
    beyond = task(1, attempt=2**62 + 1)
    names = [name(number) for number in range(5)]
    with Store.open(tmp_path, CONFIG, write=True) as store:
        store.append([of(session, task(2), *([beyond] if session == names[2] else ())) for session in names])
        counts = {cluster.session: (cluster.events, cluster.rejected) for cluster in store.clusters()}
    assert counts == {session: (1, int(session == names[2])) for session in names}
    assert not unnamed(tmp_path)


@pytest.mark.slow
def test_an_import_that_is_killed_and_run_again_leaves_each_session_once_and_no_file_besides(tmp_path):
    sessions, store = tmp_path / "ray", tmp_path / "store"
    events = {}
    for number in range(60):
        shape: dict[str, Any] = {"tasks": 5, "files": 2, "jobs": 1, "actors": 1, "nodes": 1}
        made = generate(sessions, seed=number, session=name(number), **shape)
        events[made.session] = sum(made.events.values())
    command = [sys.executable, "-m", "raytrail", "import", str(sessions), "--store", str(store)]
    chosen = random.Random(SEED)
    for _ in range(6):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        # anywhere from its first file to its last
        wanted, deadline = chosen.randrange(1, 900), time.monotonic() + 120
        while process.poll() is None and len(list(store.rglob("*.parquet"))) < wanted and time.monotonic() < deadline:
            time.sleep(0.005)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    with Store.open(store, CONFIG) as opened:
        clusters = opened.clusters()
    assert {cluster.session: cluster.events for cluster in clusters} == events
    assert all(cluster.sealed and not cluster.missing_bytes for cluster in clusters)
    for path in unnamed(store):
        os.utime(store / path, (1, 1))  # only what is old is taken for a leftover
    Store.open(store, CONFIG, write=True).close()
    assert not unnamed(store)
