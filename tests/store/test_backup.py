"""A backup that is made while the history goes on, and what it brings back."""

import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest
from tests.damage import CONFIG, chunk, flip, tasks
from tests.keeping import LIVING, MIDDLE, NEW, OLD, files_of, fill, filled, root, sessions

from raytrail.errors import NotFoundError, StoreDamaged, StoreError
from raytrail.store import Request, Store, back_up, backup, restore

__all__ = ["filled", "root"]


def saved(root, target, *, copy=False):
    return back_up(root, target, copy=copy, advance=lambda count: None)


def brought_back(source, target):
    restore(source, target, advance=lambda count: None)
    return target


def content(root):
    """Return the bytes of all files that are named, and all rows of the catalogue but what tells stores apart."""
    with Store.open(root, CONFIG) as store:
        tables = [name for (name,) in store._catalogue.query("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {table: store._catalogue.query(f"SELECT * FROM {table}") for table in sorted(tables) if table != "meta"}
        meta = store._catalogue.query("SELECT key, value FROM meta WHERE key NOT IN ('id', 'plain_group')")
        assert {finding.verdict for finding in store.verify() if finding.path != "catalogue.sqlite"} == {"ok"}
        named = [
            path
            for table in ("log", "state", "bodies")
            for (path,) in store._catalogue.query(f"SELECT path FROM {table}")
        ]
        return {path: (root / path).read_bytes() for path in named}, rows, meta, store.id


@pytest.mark.parametrize("copy", [False, True])
def test_what_is_brought_back_is_what_was_there(root, tmp_path, copy):
    saved(root, tmp_path / "backup", copy=copy)
    *there, id = content(root)
    *back, other = content(brought_back(tmp_path / "backup", tmp_path / "again"))
    assert back == there
    # a broker that knows the first one gives the second all that it holds
    assert id != other
    linked = {path.stat().st_nlink for path in files_of(root, OLD) if path.is_file()}
    assert linked == ({1} if copy else {2})
    # nothing that is brought back is shared with the backup
    assert {path.stat().st_nlink for path in files_of(tmp_path / "again", OLD) if path.is_file()} == {1}
    with Store.open(tmp_path / "again", CONFIG, write=True) as store:
        store.append([chunk(LIVING, "task", tasks(range(50, 60), "11"), start=10**6)])
        store.fold()
        assert store.snapshot(LIVING).count("task") == 60
        assert {finding.verdict for finding in store.verify()} == {"ok"}


def test_a_backup_is_of_one_moment_while_a_history_appends_and_deletes(root, tmp_path, monkeypatch):
    """In the middle of each round the history stores more, gathers files and deletes a session."""
    with Store.open(root, CONFIG, write=True) as store:
        real, turns = backup._bring, []

        def bring(source, target, file, *, copy):
            turns.append(file.path)
            if len(turns) in (3, 6):
                session = {3: OLD, 6: MIDDLE}[len(turns)]
                store.append([chunk(LIVING, "task", tasks(range(50, 55), "11"), start=10**6 * len(turns))])
                store.fold()
                store.retention.do(Request(verb="delete", session=session, reason="r"), 0)
                store.deletions.work(float("inf"))
            real(source, target, file, copy=copy)

        monkeypatch.setattr(backup, "_bring", bring)
        saved(root, tmp_path / "backup")
        monkeypatch.undo()
        assert len(turns) > 6
        *there, _ = content(root)
    *back, _ = content(brought_back(tmp_path / "backup", tmp_path / "again"))
    assert back == there
    files = [path for kind in ("log", "logs", "state") for path in (tmp_path / "backup" / kind).glob("*/*")]
    assert {str(path.relative_to(tmp_path / "backup")) for path in files} == back[0].keys()
    with Store.open(tmp_path / "again", CONFIG) as store:
        assert sessions(store) == {NEW, LIVING}
        assert store.snapshot(LIVING).count("task") == 55


def test_a_backup_beside_one_who_appends_all_the_time(root, tmp_path):
    end = threading.Event()
    appended: list[int] = []
    with Store.open(root, CONFIG, write=True) as store:

        def append():
            while not end.is_set():
                number = len(appended)
                store.append([chunk(LIVING, "task", tasks([100 + number % 100], "11"), start=10**6 * (1 + number))])
                appended.append(number)

        thread = threading.Thread(target=append)
        thread.start()
        try:
            for number in range(3):
                before = len(appended)
                saved(root, tmp_path / "backup")
                after = len(appended)
                target = brought_back(tmp_path / "backup", tmp_path / f"again-{number}")
                with Store.open(target, CONFIG) as again:
                    events = again.events()[LIVING] - 61
                    assert before <= events <= after + 1
                    assert {finding.verdict for finding in again.verify()} <= {"ok", "no checksum"}
        finally:
            end.set()
            thread.join()


def test_an_earlier_backup_is_brought_on(root, tmp_path, monkeypatch):
    target = tmp_path / "backup"
    saved(root, target, copy=True)
    with Store.open(root, CONFIG, write=True) as store:
        store.retention.do(Request(verb="delete", session=OLD, reason="r"), 0)
        store.deletions.work(float("inf"))
        store.append([chunk(LIVING, "task", tasks(range(50, 60), "11"), start=10**6)])
    copied = []
    real = backup._bring
    monkeypatch.setattr(backup, "_bring", lambda *args, copy: copied.append(args[2].path) or real(*args, copy=copy))
    (target / "logs" / NEW / "notes.txt").write_text("mine")
    saved(root, target, copy=True)
    monkeypatch.undo()
    assert copied
    assert all(LIVING in path for path in copied)
    assert files_of(target, OLD) == []
    assert (target / "logs" / NEW / "notes.txt").exists()
    assert len(list(target.glob("catalogue-*"))) == 1
    *there, _ = content(root)
    *back, _ = content(brought_back(target, tmp_path / "again"))
    assert back == there


KILLED = """
import os, signal, sys
from pathlib import Path
from raytrail.store import backup
steps = int(sys.argv[3])
real = {name: getattr(backup, name) for name in ("_bring", "_write", "_forget_others", "_make_durable")}

def killing(name):
    def call(*args, **kwargs):
        global steps
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real[name](*args, **kwargs)
    return call

for name in real:
    setattr(backup, name, killing(name))
backup.back_up(Path(sys.argv[1]), Path(sys.argv[2]), copy=True, advance=lambda count: None)
"""


@pytest.mark.slow
def test_a_backup_that_is_killed_leaves_the_earlier_one_whole(root, tmp_path):
    target = tmp_path / "backup"
    saved(root, target, copy=True)
    *first, _ = content(root)
    with Store.open(root, CONFIG, write=True) as store:
        store.append([chunk(LIVING, "task", tasks(range(50, 60), "11"), start=10**6)])
        store.fold()
    *second, _ = content(root)
    for steps in range(50):
        run = subprocess.run([sys.executable, "-c", KILLED, str(root), str(target), str(steps)], check=False)
        *back, _ = content(brought_back(target, tmp_path / f"again-{steps}"))
        assert back in (first, second)
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL
    assert back == second
    assert steps >= 3


def test_restore_refuses_what_is_not_empty_and_leaves_nothing_behind(root, tmp_path, monkeypatch):
    saved(root, tmp_path / "backup")
    with pytest.raises(StoreError, match="it is not empty; give a directory that is"):
        brought_back(tmp_path / "backup", root)
    with pytest.raises(NotFoundError, match="no backup there"):
        brought_back(root, tmp_path / "again")
    with pytest.raises(NotFoundError, match="no store there"):
        saved(tmp_path / "none", tmp_path / "other")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(StoreError, match="it is not empty, and no backup"):
        saved(root, tmp_path / "other")
    shutil.rmtree(tmp_path / "other")
    fill(tmp_path / "another", sealed=())
    with pytest.raises(StoreError, match="it is a backup of another store"):
        saved(tmp_path / "another", tmp_path / "backup")
    monkeypatch.setattr(backup, "_change_id", lambda path: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        brought_back(tmp_path / "backup", tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another", "backup", "store"]
    (tmp_path / "again").mkdir()
    monkeypatch.undo()
    brought_back(tmp_path / "backup", tmp_path / "again")


@pytest.mark.parametrize("place", ["", "backup", "log", ".."])
def test_no_backup_lies_in_its_history_or_around_it(root, place):
    before = sorted(root.rglob("*"))
    with pytest.raises(StoreError, match="it lies in the history, or around it"):
        saved(root, root / place)
    assert sorted(root.rglob("*")) == before


def test_two_backups_are_not_made_in_one_place_at_once(root, tmp_path, monkeypatch):
    """Each would delete what the other one has brought and not named yet."""
    refused = []
    real = backup._make_durable

    def make_durable(*args):
        with pytest.raises(StoreError, match="another backup is being made there"):
            saved(root, tmp_path / "backup")
        refused.append(True)
        real(*args)

    monkeypatch.setattr(backup, "_make_durable", make_durable)
    saved(root, tmp_path / "backup")
    assert refused


def test_a_first_backup_that_was_cut_short_at_its_end_is_made_anew(root, tmp_path):
    saved(root, tmp_path / "backup")
    os.rename(tmp_path / "backup" / "backup.json", tmp_path / "backup" / "backup.json.new")
    (tmp_path / "backup" / "lost+found").mkdir()  # a disk of its own
    saved(root, tmp_path / "backup")
    assert content(brought_back(tmp_path / "backup", tmp_path / "again"))[:3] == content(root)[:3]


def test_copies_take_the_place_of_links(root, tmp_path):
    saved(root, tmp_path / "backup")
    saved(root, tmp_path / "backup", copy=True)
    assert {path.stat().st_nlink for path in files_of(root, OLD) if path.is_file()} == {1}


def test_a_history_is_brought_back_onto_another_disk(root, tmp_path):
    """Nothing can take the place of where it is mounted, nor of a link to it."""
    saved(root, tmp_path / "backup")
    (tmp_path / "mounted" / "lost+found").mkdir(parents=True)
    (tmp_path / "again").symlink_to("mounted")
    brought_back(tmp_path / "backup", tmp_path / "again")
    assert content(tmp_path / "mounted")[:3] == content(root)[:3]
    assert not list(tmp_path.rglob("*.unfinished-*"))


def test_a_file_that_a_backup_has_lost_keeps_no_other_away(root, tmp_path):
    saved(root, tmp_path / "backup")
    next((tmp_path / "backup/state" / OLD).glob("task-*.parquet")).unlink()
    with Store.open(brought_back(tmp_path / "backup", tmp_path / "again"), CONFIG) as store:
        [finding] = [finding for finding in store.verify() if finding.verdict == "damaged"]
        assert store.snapshot(NEW).count("task") == 50
    assert "it is gone" in finding.reason


def test_a_forged_backup_writes_nowhere_else(root, tmp_path):
    with Store.open(root, CONFIG, write=True) as store, store._catalogue.transaction() as db:
        db.execute("UPDATE log SET path = '../../forged' WHERE id = 1")
    with pytest.raises(StoreDamaged, match=r"no place of a file of a store: '../../forged'"):
        saved(root, tmp_path / "backup")


def test_damage_is_found(root, tmp_path):
    saved(root, tmp_path / "backup", copy=True)
    [catalogue] = (tmp_path / "backup").glob("catalogue-*")
    text = catalogue.read_bytes()
    flip(catalogue, 8 * 5000)
    with pytest.raises(StoreDamaged, match="its bytes are not those that were written; take another backup"):
        brought_back(tmp_path / "backup", tmp_path / "again")
    catalogue.write_bytes(text)
    flip(max((tmp_path / "backup/state" / OLD).glob("task-*.parquet"), key=os.path.getsize), 8 * 100)
    with Store.open(brought_back(tmp_path / "backup", tmp_path / "again"), CONFIG) as store:
        [finding] = [finding for finding in store.verify() if finding.verdict == "damaged"]
    assert OLD in finding.path
