"""Acknowledgements in any order, kill, two owners, and disks that are full or damaged."""

import re
import shutil
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytrail.errors import ConfigError
from raytrail.event import Segment
from raytrail.tail import Checkpoint
from raytrail.tail.checkpoint import Mark

FILE = "1795419639-aa"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "checkpoint.sqlite"


def begin(checkpoint: Checkpoint, file: str = FILE, generation: int = 0) -> Mark:
    mark = Mark(file, generation, "1:2", "/tmp/x", "event_EXPORT_TASK_1.log", "TASK", "session_1", "ab")
    checkpoint.add(mark)
    return mark


def segment(start: int, length: int, *, generation: int = 0) -> Segment:
    return Segment(FILE, generation, start, length)


def killed(path: Path, tmp_path: Path) -> Path:
    """Return the checkpoint as a kill would leave it."""
    return shutil.copytree(path.parent, tmp_path / "killed") / path.name


def test_only_the_contiguous_prefix_counts():
    checkpoint = Checkpoint(None)
    mark = begin(checkpoint)
    for start, expected in ((20, 0), (10, 0), (0, 30), (40, 30), (30, 50)):
        checkpoint.acknowledge([segment(start, 10)])
        assert mark.acknowledged == expected
    checkpoint.close()


@given(st.permutations(range(12)), st.lists(st.integers(0, 11)))
def test_in_any_order_and_repeated_all_comes_to_the_same(order, repeated):
    checkpoint = Checkpoint(None)
    mark = begin(checkpoint)
    mark.reading = {number * 10: number for number in range(12)}
    checkpoint.acknowledge([segment(number * 10, 10) for number in [*order, *repeated]])
    assert (mark.acknowledged, mark.events, mark.ahead, mark.reading) == (120, sum(range(12)), [], {})
    checkpoint.close()


def test_skipped_bytes_count_once_they_are_in_the_prefix(path):
    checkpoint = Checkpoint(path)
    mark = begin(checkpoint)
    checkpoint.skip(mark, 10, 50)
    assert (mark.acknowledged, mark.skipped, mark.missing) == (0, 0, 0)
    checkpoint.acknowledge([segment(0, 10)])
    assert (mark.acknowledged, mark.skipped) == (50, 40)
    checkpoint.close()
    checkpoint = Checkpoint(path)
    assert [(mark.acknowledged, mark.skipped) for mark in checkpoint.marks()] == [(50, 40)]
    checkpoint.close()


def test_generations_are_kept_apart(path):
    checkpoint = Checkpoint(path)
    old, new = begin(checkpoint), begin(checkpoint, generation=1)
    checkpoint.acknowledge([segment(0, 10), segment(0, 20, generation=1)])
    assert (old.acknowledged, new.acknowledged) == (10, 20)
    assert checkpoint.newest(FILE) is new
    assert checkpoint.newest("other") is None
    checkpoint.close()


def test_what_was_committed_survives_a_kill_and_what_waits_behind_a_hole_does_not(path, tmp_path):
    checkpoint = Checkpoint(path)
    begin(checkpoint)
    checkpoint.acknowledge([segment(0, 10), segment(20, 10)])
    assert checkpoint.commit()
    checkpoint.acknowledge([segment(10, 10)])
    after = Checkpoint(killed(path, tmp_path))
    assert [(mark.acknowledged, mark.ahead) for mark in after.marks()] == [(10, [])]
    after.close()
    checkpoint.close()
    again = Checkpoint(path)
    assert [mark.acknowledged for mark in again.marks()] == [30]
    again.close()


def test_what_is_forgotten_stays_forgotten(path):
    checkpoint = Checkpoint(path)
    mark = begin(checkpoint)
    checkpoint.acknowledge([segment(0, 10)])
    checkpoint.commit()
    checkpoint.forget(mark)
    checkpoint.close()
    checkpoint = Checkpoint(path)
    assert checkpoint.marks() == []
    assert checkpoint.newest(FILE) is None
    checkpoint.close()


def test_what_is_forgotten_and_known_anew_in_one_commit_is_known(path):
    checkpoint = Checkpoint(path)
    checkpoint.touch(begin(checkpoint))
    checkpoint.commit()
    checkpoint.forget(checkpoint.marks()[0])
    begin(checkpoint)
    checkpoint.acknowledge([segment(0, 5)])
    checkpoint.close()
    checkpoint = Checkpoint(path)
    assert [mark.acknowledged for mark in checkpoint.marks()] == [5]
    checkpoint.close()


def test_notes_are_kept(path):
    checkpoint = Checkpoint(path)
    assert checkpoint.note("since") is None
    checkpoint.remember("since", "session_1")
    checkpoint.close()
    checkpoint = Checkpoint(path)
    assert checkpoint.note("since") == "session_1"
    checkpoint.close()


def test_notes_are_listed_by_how_their_names_begin_and_forgotten(path):
    checkpoint = Checkpoint(path)
    for name in ("a of x", "a of y", "b"):
        checkpoint.remember(name, "1")
    checkpoint.close()
    checkpoint = Checkpoint(path)
    assert sorted(checkpoint.notes("a of ")) == ["a of x", "a of y"]
    checkpoint.forget_note("a of x")
    checkpoint.forget_note("none")
    checkpoint.remember("b", "2")
    checkpoint.close()
    checkpoint = Checkpoint(path)
    assert (checkpoint.notes("a of "), checkpoint.note("a of x"), checkpoint.note("b")) == (["a of y"], None, "2")
    checkpoint.close()


def test_a_commit_is_due_after_a_pause_or_many_bytes(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("raytrail.tail.checkpoint.time.monotonic", lambda: now[0])
    checkpoint = Checkpoint(None)
    begin(checkpoint)

    def due():
        return checkpoint.due

    assert not due()
    checkpoint.acknowledge([segment(0, 10)])
    assert due()
    checkpoint.commit()
    checkpoint.acknowledge([segment(10, 10)])
    assert not due()
    checkpoint.acknowledge([segment(20, 8 * 1024 * 1024)])
    assert due()
    checkpoint.commit()
    checkpoint.acknowledge([segment(20 + 8 * 1024 * 1024, 1)])
    now[0] += 0.251
    assert due()
    checkpoint.close()


def test_a_second_agent_is_refused_until_the_first_is_done(path):
    checkpoint = Checkpoint(path)
    with pytest.raises(ConfigError) as error:
        Checkpoint(path)
    owner = re.search(r"process (\d+)", str(error.value))
    assert owner is not None
    assert str(error.value) == (
        f"state directory {path.parent} is in use by another agent (process {owner[1]}); "
        "stop that one, or give this one a directory of its own with --state-dir"
    )
    checkpoint.close()
    checkpoint.close()
    Checkpoint(path).close()


def test_a_full_disk_costs_nothing_but_repeats(path, caplog):
    checkpoint = Checkpoint(path)
    begin(checkpoint)
    checkpoint.acknowledge([segment(0, 10)])
    assert checkpoint.commit()
    pages = checkpoint._db.execute("PRAGMA page_count").fetchone()[0]
    checkpoint._db.execute(f"PRAGMA max_page_count = {pages}")
    for number in range(200):
        begin(checkpoint, file=f"{number:0100}")
        checkpoint.touch(checkpoint.marks()[-1])
    checkpoint.acknowledge([segment(10, 10)])
    assert not checkpoint.commit()
    assert not checkpoint.commit()
    assert caplog.messages == [
        f"checkpoint {path}: database or disk is full; nothing is lost, but what is published from now on will be "
        "published again after a restart; make room on that disk"
    ]
    assert not checkpoint.due  # no more often than each second
    checkpoint._db.execute("PRAGMA max_page_count = 100000")
    checkpoint.acknowledge([segment(20, 10)])
    checkpoint.close()
    checkpoint = Checkpoint(path)
    assert len(checkpoint.marks()) == 201
    newest = checkpoint.newest(FILE)
    assert newest
    assert newest.acknowledged == 30
    checkpoint.close()


def test_a_damaged_checkpoint_says_what_to_do(path):
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 1000)
    for _ in range(2):  # and the lock is let go
        with pytest.raises(ConfigError) as error:
            Checkpoint(path)
        assert str(error.value) == (
            f"checkpoint {path}: file is not a database; move it away: all files are read again, "
            "the store drops repeats"
        )


def test_a_newer_checkpoint_is_left_alone(path):
    Checkpoint(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 7")
    db.close()
    with pytest.raises(ConfigError) as error:
        Checkpoint(path)
    assert str(error.value) == (
        f"checkpoint {path} is of version 7, this Raytrail knows 1; upgrade it, "
        "or give it a directory of its own with --state-dir"
    )


def test_a_state_directory_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "state").touch()
    with pytest.raises(ConfigError) as error:
        Checkpoint(tmp_path / "state" / "checkpoint.sqlite")
    assert str(error.value) == (
        f"state directory {tmp_path / 'state'}: File exists; give one that can be written with --state-dir"
    )
