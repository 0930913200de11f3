"""What the kernel says, against a real directory."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raytrail.tail.watch import Watch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    yield watch
    watch.close()


def test_writing_names_the_file(watch, tmp_path):
    (tmp_path / "a").touch()
    watch.add(tmp_path)
    assert watch.read() == (set(), set(), False)
    with (tmp_path / "a").open("ab", buffering=0) as file:
        for _ in range(3):
            file.write(b"x")
    assert watch.read() == ({(tmp_path, "a")}, set(), False)
    assert watch.read() == (set(), set(), False)


def test_news_that_never_end_are_no_reason_not_to_return(watch, tmp_path, monkeypatch):
    watch.add(tmp_path)
    read, reads = os.read, []

    def read_while_another_writes(fd, most_bytes):
        for name in ("a", "b"):  # in turn, as the kernel makes one event of two that are alike
            (tmp_path / name).write_bytes(b"x")
        reads.append(1)
        assert len(reads) < 10_000
        return read(fd, most_bytes)

    monkeypatch.setattr("raytrail.tail.watch.os.read", read_while_another_writes)
    assert watch.read().grown == {(tmp_path, "a"), (tmp_path, "b")}


@pytest.mark.parametrize(
    "change",
    [
        lambda path: (path / "b").touch(),
        lambda path: (path / "a").unlink(),
        lambda path: (path / "a").rename(path / "c"),
        lambda path: (path / "a").rename(path.parent / "c"),
        lambda path: (path.parent / "d").rename(path / "d"),
        lambda path: shutil.rmtree(path),
        lambda path: path.rename(path.parent / "moved"),
    ],
)
def test_what_appears_vanishes_or_is_renamed_has_its_directory_listed(watch, tmp_path, change):
    directory = tmp_path / "watched"
    directory.mkdir()
    (directory / "a").touch()
    (tmp_path / "d").touch()
    watch.add(directory)
    change(directory)
    assert watch.read().changed == {directory}


@pytest.mark.parametrize("change", [shutil.rmtree, lambda path: path.rename(path.parent / "moved")])
def test_a_directory_that_comes_again_can_be_watched_again(watch, tmp_path, change):
    directory = tmp_path / "watched"
    for _ in range(2):
        directory.mkdir()
        watch.add(directory)
        (directory / "a").write_bytes(b"x")
        assert (directory, "a") in watch.read().grown
        change(directory)
        watch.read()
        watch.read()
        shutil.rmtree(tmp_path / "moved", ignore_errors=True)


def test_a_directory_that_is_watched_already_is_left_as_it_is(watch, tmp_path):
    directory = tmp_path / "watched"
    directory.mkdir()
    watch.add(directory)
    directory.rmdir()
    watch.add(directory)  # the kernel, if it were asked, would say that nothing is there
    assert watch.read().changed == {directory}


def test_a_directory_that_is_not_there_cannot_be_watched(watch, tmp_path):
    with pytest.raises(FileNotFoundError):
        watch.add(tmp_path / "x")


def test_too_many_events_are_an_overflow(watch, tmp_path):
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    watch.add(tmp_path)
    a, b = (tmp_path / "a").open("ab", buffering=0), (tmp_path / "b").open("ab", buffering=0)
    for _ in range(most // 2 + 10):
        a.write(b"x")
        b.write(b"x")  # the same event twice in a row is one
    assert watch.read().overflow
    a.close()
    b.close()


def _move_twice(path):
    for name in ("moved", "again"):
        path = path.rename(path.parent / name)
        (path / "a").touch()  # between the two, or the kernel makes one event of them


def _move_and_delete(path):
    shutil.rmtree(path.rename(path.parent / "moved"))


@pytest.mark.parametrize("change", [_move_twice, _move_and_delete])
def test_a_directory_that_was_moved_and_went_on_before_it_was_looked_at_stops_nobody(watch, tmp_path, change):
    directory = tmp_path / "watched"
    directory.mkdir()
    watch.add(directory)
    change(directory)
    assert watch.read().changed == {directory}
    directory.mkdir()
    watch.add(directory)
    (directory / "b").write_bytes(b"x")
    assert (directory, "b") in watch.read().grown
