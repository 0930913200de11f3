"""Sessions that are deleted: marked at once, gone later, whoever reads or is killed meanwhile."""

import os
import signal
import subprocess
import sys
import time

import pytest
from tests.damage import CONFIG, chunk, logged, tasks
from tests.keeping import (
    LIVING,
    MIDDLE,
    NEW,
    NOW_MS,
    OLD,
    files_of,
    filled,
    in_one_round,
    root,
    rows_of,
    sessions,
)

from raytrail.errors import ConfigError, NotFoundError, StoreError, StoreTooNew
from raytrail.event import UNKNOWN_SESSION, Unreadable
from raytrail.store import Request, Store, directory, layout
from raytrail.store import catalogue as catalogue_of

__all__ = ["filled", "in_one_round", "root"]


def mark(store, session, now_ms=0):
    """Mark a session as deleted, so long ago that nobody can be reading it."""
    store.retention.do(Request(verb="delete", session=session, reason="a test"), now_ms)


def test_a_deleted_session_leaves_nothing_but_its_mark(root):
    with Store.open(root, CONFIG, write=True) as store:
        others = {session: (files_of(root, session), rows_of(store, session)) for session in (MIDDLE, NEW, LIVING)}
        before = store.snapshot(MIDDLE).rows("task")
        mark(store, OLD)
        assert sessions(store) == {MIDDLE, NEW, LIVING}
        assert files_of(root, OLD)
        [deleted] = store.tidy(NOW_MS).deleted
        assert (deleted.session, deleted.why) == (OLD, "a test")
        assert deleted.bytes > 10_000
        assert files_of(root, OLD) == []
        assert not any((root / kind / OLD).exists() for kind in ("log", "logs", "state"))
        assert rows_of(store, OLD) == {}
        assert {s: (files_of(root, s), rows_of(store, s)) for s in (MIDDLE, NEW, LIVING)} == others
        assert store.snapshot(MIDDLE).rows("task") == before
        assert [finding.verdict for finding in store.verify() if finding.verdict != "ok"] == []
    with Store.open(root, CONFIG, write=True) as store:
        assert store.tidy(NOW_MS) == ([], [])
        assert sessions(store) == {MIDDLE, NEW, LIVING}


def test_from_the_mark_on_nobody_lists_or_opens_it(root):
    with Store.open(root, CONFIG, write=True) as store, Store.open(root, CONFIG) as reader:
        assert OLD in sessions(reader)
        mark(store, OLD, NOW_MS)
        for handle in (store, reader):
            assert sessions(handle) == {MIDDLE, NEW, LIVING}
            assert OLD not in {overview.session for overview in handle.overviews.look().briefs([], "began")}
            assert OLD not in handle.events()
            assert handle.sql("SELECT DISTINCT session FROM task ORDER BY 1").rows == [(MIDDLE,), (NEW,), (LIVING,)]
            for ask in (handle.find, handle.snapshot, handle.ledger, handle.logs):
                with pytest.raises(NotFoundError, match=f"session '{OLD}' was deleted at 2027-01-15 .* UTC: a test"):
                    ask(OLD)
        for change in (store.seal, store.rebuild):
            with pytest.raises(NotFoundError, match="was deleted at"):
                change(OLD)


def test_what_lives_is_held_or_counts_the_nameless_is_not_deleted(root):
    with Store.open(root, CONFIG, write=True) as store:
        store.retention.do(Request(verb="hold", session=OLD, reason="incident 4711"), NOW_MS)
        with pytest.raises(ConfigError, match=rf"{OLD}: not deleted, as it is held \(incident 4711\); `raytrail hold"):
            mark(store, OLD)
        with pytest.raises(ConfigError, match=f"{LIVING}: not deleted, as it lives, or is not sealed yet"):
            mark(store, LIVING)
        with pytest.raises(NotFoundError, match="no session 'nobody' in"):
            mark(store, "nobody")
        store.append([Unreadable(place="p", reason="r", headers={}, data=b"x")])
        store.seal(UNKNOWN_SESSION)
        with pytest.raises(ConfigError, match="it counts what named no session"):
            mark(store, UNKNOWN_SESSION)
        store.retention.do(Request(verb="release", session=OLD), NOW_MS)
        mark(store, OLD)
        assert OLD not in sessions(store)


def test_a_hold_is_shown_and_ends(root):
    with Store.open(root, CONFIG, write=True) as store:

        def held():
            overviews = store.overviews.look().of([OLD, NEW, LIVING])
            listed = {overview.figures.session for overview in overviews if overview.figures.held}
            assert listed == {cluster.session for cluster in store.clusters() if cluster.held}
            return listed

        summary = store._catalogue.query("SELECT summary FROM sessions WHERE session = ?", OLD)
        assert held() == set()
        for session in (OLD, LIVING):
            store.retention.do(Request(verb="hold", session=session), NOW_MS)
        assert held() == {OLD, LIVING}
        assert store.marks.holds() == {OLD: "", LIVING: ""}
        store.retention.do(Request(verb="release", session=OLD), NOW_MS)
        assert held() == {LIVING}
        assert store._catalogue.query("SELECT summary FROM sessions WHERE session = ?", OLD) == summary


def test_events_that_come_late_are_counted_and_do_not_bring_it_back(root, caplog):
    with Store.open(root, CONFIG, write=True) as store:
        before = store.totals()
        mark(store, OLD)
        store.tidy(NOW_MS)
        assert store.totals().chunks_set_aside == before.chunks_set_aside
        again = [chunk(OLD, "task", tasks(range(3), "11"), start=10**6), *logged(OLD)]
        set_aside = Unreadable(place="p", reason="r", headers={"session": OLD}, data=b"x")
        for _ in range(2):
            store.append([*again, set_aside, chunk(NEW, "task", tasks(range(1), "11"), start=10**6)])
        store.fold()
        assert sessions(store) == {MIDDLE, NEW, LIVING}
        assert rows_of(store, OLD) == {}
        assert files_of(root, OLD) == []
        # two chunks of data and one that cannot be read, twice. An agent's report of a file is no data
        assert [gone.late_chunks for gone in store.marks.every()] == [6]
        assert store.totals().chunks_set_aside == before.chunks_set_aside + 6
        assert [record.message for record in caplog.records if "still come" in record.message] == [
            f"events of session {OLD}, which was deleted, still come; they are set aside"
        ]
        store.retention.do(Request(verb="forget", session=OLD), NOW_MS)
        store.append(again)
        assert OLD in sessions(store)


def test_figures_that_only_grow_do_not_go_back(root):
    with Store.open(root, CONFIG, write=True) as store:
        store.append([Unreadable(place="p", reason="r", headers={"session": OLD}, data=b"x")])
        store.seal(OLD)
        before = store.totals()
        assert before.chunks_set_aside == 1
        mark(store, OLD)
        assert store.totals().chunks_set_aside == 1
        assert store.totals().deleting == 1
        store.tidy(NOW_MS)
        after = store.totals()
        assert (after.chunks_set_aside, after.deleting, after.sealed) == (1, 0, before.sealed - 1)
        assert after.bytes < before.bytes


def test_a_version_that_does_not_know_of_it_is_refused_once_one_was_deleted(root, monkeypatch):
    monkeypatch.setattr(catalogue_of, "KNOWN", layout.KNOWS_DELETIONS - 1)
    Store.open(root, CONFIG).close()
    with Store.open(root, CONFIG, write=True) as store:
        mark(store, OLD)
    with pytest.raises(StoreTooNew):
        Store.open(root, CONFIG)


def test_its_files_stay_while_a_question_may_be_reading_them(root):
    with Store.open(root, CONFIG, write=True) as store:
        now_ms = time.time_ns() // 1_000_000
        mark(store, OLD, now_ms)
        assert store.tidy(now_ms).deleted == []
        assert files_of(root, OLD)
        # an answer of which the files were looked up before
        mark(store, MIDDLE, now_ms - int(1000 * store.deletions.grace_seconds) - 1)
        assert [deleted.session for deleted in store.tidy(now_ms).deleted] == [MIDDLE]
        assert files_of(root, OLD)


def test_a_mark_of_a_clock_that_was_ahead_is_waited_for_no_longer(root):
    with Store.open(root, CONFIG, write=True) as store:
        mark(store, OLD, NOW_MS)
        assert store.tidy(NOW_MS).deleted == []
        store.deletions.grace_seconds = 0
        assert [deleted.session for deleted in store.tidy(NOW_MS).deleted] == [OLD]


def test_a_plan_of_what_is_deleted_meanwhile_is_one_of_what_was_there(root, monkeypatch):
    with Store.open(root, CONFIG, write=True) as store, Store.open(root, CONFIG) as reader:
        real = reader.marks.check_there
        monkeypatch.setattr(reader.marks, "check_there", lambda session: real(session) or mark(store, session))
        assert reader.deletions.plan(OLD).events == 61


def test_a_reader_lets_go_of_its_files(root):
    def opened(session):
        links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        return [where for link in links if os.path.lexists(link) and session in (where := os.readlink(link))]

    with Store.open(root, CONFIG) as reader:
        cached = reader.snapshot(OLD)
        assert cached.count("task") == 50
        assert reader.snapshot(NEW).count("task") == 50
        assert opened(OLD)
        with Store.open(root, CONFIG, write=True) as store:
            mark(store, OLD)
            store.tidy(NOW_MS)
        assert opened(OLD)
        reader.let_go()
        assert opened(OLD) == []
        assert opened(NEW)
        assert reader.snapshot(NEW).count("task") == 50


def test_a_piece_at_a_time_and_no_piece_twice(root, monkeypatch):
    monkeypatch.setattr("raytrail.store.deletion.PIECE_FILES", 1)
    monkeypatch.setattr("raytrail.store.deletion.PIECE_ROWS", 1)
    with Store.open(root, CONFIG, write=True) as store:
        mark(store, OLD)
        pieces = 0
        while not store.deletions.work(0.0):
            pieces += 1
        assert pieces > 10
        assert rows_of(store, OLD) == {}
        assert files_of(root, OLD) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from raytrail.store import Store, deletion, directory
from tests.damage import CONFIG
deletion.PIECE_FILES, deletion.PIECE_ROWS = 3, 2
steps = int(sys.argv[2])

def count(real):
    def call(*args, **kwargs):
        global steps
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        steps -= 1
        return real(*args, **kwargs)
    return call

with Store.open(Path(sys.argv[1]), CONFIG, write=True) as store:
    # before each file that goes, and before each transaction is begun or committed
    deletion.delete_file = count(deletion.delete_file)
    real = store._catalogue.transaction
    store._catalogue.transaction = count(real)
    store._catalogue._count = count(store._catalogue._count)
    from raytrail.store import Request
    if store.marks.find(sys.argv[3]) is None:
        store.retention.do(Request(verb="delete", session=sys.argv[3], reason="a test"), 0)
    store.deletions.work(float("inf"))
"""


@pytest.mark.slow
def test_killed_at_any_step_it_goes_on(root):
    """Each process gets one step further than the one before, and starts from what that left."""
    for steps in range(100):
        run = subprocess.run([sys.executable, "-c", KILLED, str(root), str(steps), OLD], check=False)
        with Store.open(root, CONFIG) as store:
            assert {MIDDLE, NEW, LIVING} <= sessions(store)
            assert (OLD in sessions(store)) == (store.marks.find(OLD) is None)
            for session in (MIDDLE, NEW):
                assert store.snapshot(session).count("task") == 50
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL
    else:
        pytest.fail("it never was done")
    assert steps > 5
    with Store.open(root, CONFIG, write=True) as store:
        assert store.marks.waiting() == []
        assert store.marks.find(OLD) is not None
        assert rows_of(store, OLD) == {}
        assert files_of(root, OLD) == []
        assert {finding.verdict for finding in store.verify()} == {"ok"}


def test_what_was_said_is_gone_from_the_catalogue_too(root):
    secret = b"Zwiebelfisch"
    with Store.open(root, CONFIG, write=True) as store:
        store.append([Unreadable(place="p", reason=secret.decode(), headers={"session": OLD}, data=secret * 100)])
        store.seal(OLD)
        mark(store, OLD)
        store.tidy(NOW_MS)
    assert not (root / "catalogue.sqlite-wal").exists()
    assert secret not in (root / "catalogue.sqlite").read_bytes()


def test_files_of_others_and_links_are_let_be(root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    leftover = f"task-sealed-{1:020d}-{1:06d}.parquet"
    leftovers = [root / "state" / OLD / leftover, root / "logs" / OLD / f"{1:020d}-000001.zst"]
    kept = [
        outside / leftover,
        root / "state" / OLD / "notes.txt",
        root / "log" / OLD / "data.parquet",
        root / "elsewhere.parquet",
        root / "tmp" / "of-somebody-else",
    ]
    for path in (*leftovers, *kept):
        path.write_bytes(b"x")
        os.utime(path, (1, 1))
    (root / "state" / "linked").symlink_to(outside)
    link = root / "state" / NEW / leftover
    link.symlink_to(outside / leftover)
    os.utime(link, (1, 1), follow_symlinks=False)
    young = root / "state" / NEW / f"task-sealed-{2:020d}-{1:06d}.parquet"
    young.write_bytes(b"x")
    Store.open(root, CONFIG, write=True).close()
    assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in (*kept, link, young))
    os.utime(young, (1, 1))
    with Store.open(root, CONFIG, write=True) as store:
        assert not young.exists()
        mark(store, OLD)
        store.tidy(NOW_MS)
        assert rows_of(store, OLD) == {}
    assert all(path.exists() for path in (*kept, link))


def test_a_store_whose_files_lie_elsewhere_by_a_link_is_opened_and_none_of_them_swept(root, tmp_path):
    moved = tmp_path / "larger"
    (root / "log").rename(moved)
    (root / "log").symlink_to(moved)
    young = moved / OLD / f"task-{1:020d}-000001.parquet"
    young.write_bytes(b"x")
    os.utime(young, (1, 1))
    with Store.open(root, write=True) as store:
        assert store.find(OLD).tasks
    assert young.exists()


def test_a_store_that_cannot_be_opened_keeps_nothing_open(root):
    (root / "readers").unlink()
    (root / "readers").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StoreError, match="readers"):
        Store.open(root, write=True)
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_is_deleted_through_a_link(root, tmp_path, caplog):
    moved = tmp_path / "moved"
    os.rename(root / "state" / OLD, moved)
    (root / "state" / OLD).symlink_to(moved)
    before = sorted(moved.iterdir())
    with Store.open(root, CONFIG, write=True) as store:
        mark(store, OLD)
        mark(store, MIDDLE, 1)
        assert [deleted.session for deleted in store.tidy(NOW_MS).deleted] == [MIDDLE]
        assert sorted(moved.iterdir()) == before
        assert f"session {OLD} is not deleted" in caplog.text
        assert f"{root / 'state' / OLD}" in caplog.text
        (root / "state" / OLD).unlink()
        os.rename(moved, root / "state" / OLD)
        store.deletions._put_off.clear()
        assert [deleted.session for deleted in store.tidy(NOW_MS).deleted] == [OLD]


def test_a_file_of_somebody_else_holds_up_no_other_session(root, monkeypatch, caplog):
    real = directory.delete_file

    def delete_file(root, path):
        if OLD in path:
            raise PermissionError(1, "Operation not permitted", path)  # an immutable one, which a test cannot make
        real(root, path)

    monkeypatch.setattr("raytrail.store.deletion.delete_file", delete_file)
    with Store.open(root, CONFIG, write=True) as store:
        mark(store, OLD)
        mark(store, MIDDLE, 1)
        assert [deleted.session for deleted in store.tidy(NOW_MS).deleted] == [MIDDLE]
        assert f"session {OLD} is not deleted: [Errno 1] Operation not permitted: '{root}" in caplog.text
        # `raytrail delete` does not wait for who puts it right
        assert store.retention.finish(unread=True)
        assert [waiting.session for waiting in store.marks.waiting()] == [OLD]


def test_what_came_twice_before_it_was_deleted_is_taken_again(root):
    with Store.open(root, CONFIG, write=True) as store:
        again = chunk(OLD, "task", tasks(range(50), "11"))
        store.append([again])
        mark(store, OLD)
        store.tidy(NOW_MS)
        store.deletions.forget(OLD)
        store.append([again])
        assert store.events()[OLD] == 50


@pytest.mark.parametrize("path", ["../x", "log/../../x", "log/s/x/y", "tmp/s/x", "log/../x", "/etc/s/x"])
def test_a_place_that_is_none_of_a_stores_files_is_refused(tmp_path, path):
    with pytest.raises(OSError, match="no place of a file of a store"):
        directory.delete_file(tmp_path, path)


def test_one_that_is_read_ends_cleanly(root):
    """Its log is being read, and its files go: what there is of it is given, and no error."""
    with Store.open(root, CONFIG, write=True) as store, Store.open(root, CONFIG) as reader:
        [log] = reader.logs(OLD)
        pieces = reader.read_log(OLD, log)
        mark(store, OLD)
        for path in files_of(root, OLD):
            path.unlink()
        assert b"missing" in b"".join(pieces)
        store.tidy(NOW_MS)
        assert b"missing" in b"".join(reader.read_log(OLD, log))
