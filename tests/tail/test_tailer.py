"""One thing at a time; `test_tailer_machine.py` does them in any order."""

import logging
import os
import shutil
import sys
import time
from pathlib import Path

import msgspec
import pytest

from raytrail.config import TailConfig
from raytrail.errors import ConfigError
from raytrail.tail import Checkpoint, Tailer, discovery, tailer
from raytrail.tail.discovery import Running
from raytrail.tail.file import EventFile

SESSION = "session_2026-11-23_07-40-30_867494_13129"


def line(number: int, size: int = 0) -> bytes:
    return b'{"event_data":{"n":%d,"pad":"%s"},"timestamp":1795419639}\n' % (number, b"x" * size)


def append(path: Path, *data: bytes) -> None:
    with path.open("ab") as file:
        file.write(b"".join(data))


# -- chunks


def test_a_chunk_says_whose_lines_it_holds(tail, events, temp_dir):
    (temp_dir / SESSION / "metrics_agent_port_aa11").touch()
    append(events / "event_EXPORT_DRIVER_JOB.log", line(1), line(2))
    (chunk,) = tail().read()
    assert (chunk.cluster, chunk.session, chunk.node_id, chunk.event_type) == ("c1", SESSION, "aa11", "DRIVER_JOB")
    assert chunk.data == line(1) + line(2)
    ((file, generation, start, length),) = chunk.segments
    assert file.startswith("1795419639-")
    assert (generation, start, length) == (0, 0, len(chunk.data))


@pytest.mark.parametrize("inotify", [True, False])
@pytest.mark.parametrize("followed", [True, False])
def test_a_session_that_is_moved_to_another_place_and_linked_back_is_followed(
    tail, events, temp_dir, tmp_path, inotify, followed
):
    (temp_dir / SESSION / "metrics_agent_port_aa11").touch()
    append(events / "event_EXPORT_NODE.log", line(1))
    it = tail(sessions="all", inotify=inotify) if followed else None
    assert not it or it.ship() == line(1)
    moved = (temp_dir / SESSION).rename(tmp_path / "disk")
    (temp_dir / SESSION).symlink_to(moved)
    append(events / "event_EXPORT_NODE.log", line(2))
    it = it or tail(sessions="all", inotify=inotify)
    it.tailer.look()
    chunks = it.read()
    assert b"".join(chunk.data for chunk in chunks) == (line(2) if followed else line(1) + line(2))
    assert {(chunk.session, chunk.node_id) for chunk in chunks} == {(SESSION, "aa11")}


def test_few_lines_of_many_files_travel_in_one_chunk(tail, events):
    for number in range(50):
        append(events / f"event_EXPORT_TASK_{number}.log", line(number))
    (chunk,) = tail().read()
    assert len(chunk.segments) == 50
    assert {bytes(part) for _, part in chunk.parts()} == {line(number) for number in range(50)}


def test_event_types_do_not_mix_and_small_ones_go_first(tail, events):
    for name in ("TASK_1", "ACTOR", "NODE"):
        append(events / f"event_EXPORT_{name}.log", line(1))
    assert [chunk.event_type for chunk in tail().read()][-1] == "TASK"


def test_files_take_turns(tail, events):
    for number in (1, 2):
        append(events / f"event_EXPORT_TASK_{number}.log", *(line(number, 400) for _ in range(10)))
    chunks = tail(chunk_bytes=1024).read()
    assert [b'"n":1' in chunk.data for chunk in chunks[:4]] in ([True, False] * 2, [False, True] * 2)


def test_sessions_take_turns_when_there_is_room_for_one_chunk_only(tail, events, temp_dir):
    other = temp_dir / "session_2026-11-23_08-00-00_000000_1" / "logs" / "export_events"
    other.mkdir(parents=True)
    for directory in (events, other):
        append(directory / "event_EXPORT_TASK_1.log", *(line(number, 900) for number in range(4)))
    tailer = tail(chunk_bytes=1024).tailer
    read = [next(tailer.poll()).session for _ in range(4)]
    assert sorted(read[:2]) == sorted(read[2:]) == sorted({SESSION, other.parents[1].name})


def test_the_oldest_of_a_writers_files_is_read_first(tail, events):
    for number, suffix in enumerate((".log.2", ".log.1", ".log")):
        append(events / f"event_EXPORT_TASK_1{suffix}", line(number))
    assert tail().ship() == line(0) + line(1) + line(2)


def test_a_deleted_file_is_older_than_all_others_of_its_writer(tail, events):
    path = events / "event_EXPORT_TASK_1.log"
    append(path, line(0))
    it = tail()
    it.tailer.look()
    path.unlink()
    for number, suffix in enumerate((".log.1", ".log"), start=1):
        append(events / f"event_EXPORT_TASK_1{suffix}", line(number))
    it.tailer.look()
    assert it.ship() == line(0) + line(1) + line(2)


def test_to_stop_iterating_is_to_stop_reading(tail, events):
    append(events / "event_EXPORT_ACTOR.log", line(1))
    append(events / "event_EXPORT_TASK_1.log", line(2))
    it = tail()
    first = next(it.tailer.poll())
    (second,) = it.read()
    assert (first.data, second.data) == (line(1), line(2))


def test_half_a_line_waits_for_its_end(tail, events):
    path = events / "event_EXPORT_TASK_1.log"
    append(path, line(1), b'{"half')
    it = tail()
    assert it.ship() == line(1)
    assert it.tailer.unread_bytes() == len(b'{"half')
    append(path, b'"}\n')
    assert it.ship() == b'{"half"}\n'
    assert it.tailer.unread_bytes() == 0


def test_a_line_of_20_mb_arrives_whole(tail, events):
    path = events / "event_EXPORT_ACTOR.log"
    append(path, line(1, 20_000_000))
    append(path, line(2), line(3, 20_000_000), line(4))
    chunks = tail().read()
    assert [chunk.data for chunk in chunks] == [line(1, 20_000_000), line(2), line(3, 20_000_000), line(4)]


def test_a_long_line_that_is_still_being_written_is_not_searched_twice(tail, events, monkeypatch):
    block = 256 * 1024
    path = events / "event_EXPORT_ACTOR.log"
    append(path, line(1), b"y" * 2 * block)  # its end will be the first byte of a block to search
    it = tail()
    assert it.ship() == line(1)
    append(path, b"\n", line(2))
    offsets = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: offsets.append((n, at)) or pread(fd, n, at))
    assert it.ship() == b"y" * 2 * block + b"\n" + line(2)
    assert (block, len(line(1)) + 2 * block) in offsets
    assert (block, len(line(1)) + block) not in offsets


def test_a_line_that_is_too_long_is_skipped_and_counted_and_the_file_goes_on(tail, events, caplog):
    path = events / "event_EXPORT_ACTOR.log"
    append(path, line(1, 5000), line(2), line(3, 5000), line(4))
    it = tail(chunk_bytes=1024, max_line_bytes=4096)
    assert it.ship() == line(2) + line(4)
    report = it.reports()["event_EXPORT_ACTOR.log"]
    assert report["skipped_bytes"] == len(line(1, 5000)) * 2
    assert report["published_bytes"] == report["written_bytes"] == path.stat().st_size
    assert report["published_events"] == 2
    size = len(line(1, 5000))
    assert caplog.messages[0] == (
        f"{path}: the line at offset 0 is {size} bytes long, over max_line_bytes 4096; it is skipped"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no O_NOATIME")
def test_reading_leaves_the_time_at_which_a_file_was_last_read_as_it_was(tail, events):
    path = events / "event_EXPORT_ACTOR.log"
    append(path, line(1), line(2))
    os.utime(path, (1, path.stat().st_mtime))
    assert tail().ship() == line(1) + line(2)
    assert path.stat().st_atime == 1


def test_a_line_that_is_too_long_is_never_in_memory(tail, events, monkeypatch):
    append(events / "event_EXPORT_ACTOR.log", line(1, 3_000_000), line(2))
    sizes = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: sizes.append(n) or pread(fd, n, at))
    assert tail(max_line_bytes=2_000_000).ship() == line(2)
    assert max(sizes) <= 512 * 1024


def test_only_the_wanted_event_types_are_read(tail, events):
    append(events / "event_EXPORT_TASK_1.log", line(1))
    append(events / "event_EXPORT_ACTOR.log", line(2))
    assert tail(event_types=("ACTOR", "NODE")).ship() == line(2)


def test_what_is_not_an_event_file_is_left_alone(tail, events):
    for name in ("event_EXPORT_TASK_1.log.gz", "events.log", "event_EXPORT_TASK_1.txt"):
        append(events / name, line(1))
    (events / "event_EXPORT_ACTOR.log").mkdir()
    os.mkfifo(events / "event_EXPORT_NODE.log")
    assert tail().ship() == b""


# -- identity


def test_a_copied_session_has_the_same_files(tail, events, temp_dir, tmp_path):
    for number in range(3):
        append(events / f"event_EXPORT_TASK_{number}.log", line(number), line(number + 10))
    here = {segment for chunk in tail().read() for segment in chunk.segments}
    copied = shutil.copytree(temp_dir / SESSION, tmp_path / "elsewhere" / SESSION)
    there = {segment for chunk in tail(session_dirs=[copied]).read() for segment in chunk.segments}
    assert here == there


def test_a_file_that_is_known_from_elsewhere_is_read_again(tail, events, temp_dir, tmp_path):
    append(events / "event_EXPORT_TASK_1.log", line(1), line(2))
    assert tail().ship()
    copied = shutil.copytree(temp_dir / SESSION, tmp_path / "elsewhere" / SESSION)
    it = tail(session_dirs=[copied])
    assert it.ship() == line(1) + line(2)
    assert it.tailer.mismatches == 1


def test_the_same_file_in_another_session_is_another_file(tail, events, temp_dir):
    other = temp_dir / "session_2026-11-23_08-00-00_000000_1" / "logs" / "export_events"
    other.mkdir(parents=True)
    append(events / "event_EXPORT_NODE.log", line(1))
    append(other / "event_EXPORT_NODE.log", line(1))
    assert len({segment.file for chunk in tail().read() for segment in chunk.segments}) == 2


def test_what_was_acknowledged_is_not_read_again_after_a_restart(tail, events):
    path = events / "event_EXPORT_TASK_1.log"
    append(path, line(1))
    assert tail().ship() == line(1)
    append(path, line(2))
    path.rename(events / "event_EXPORT_TASK_1.log.1")
    append(path, line(3))
    assert tail().ship() == line(2) + line(3)


def test_a_file_that_shrank_but_begins_as_before_is_a_new_generation(tail, events):
    path = events / "event_EXPORT_TASK_1.log"
    append(path, line(1), line(2))
    it = tail()
    (before,) = it.read()
    os.truncate(path, len(line(1)))
    (after,) = it.read()
    assert after.segments == (before.segments[0]._replace(generation=1, length=len(line(1))),)
    it.checkpoint.acknowledge(before.segments + after.segments)
    assert [mark.acknowledged for mark in it.checkpoint.marks()] == [len(line(1) + line(2)), len(line(1))]


def test_a_file_that_shrank_while_no_agent_ran_is_a_new_generation(tail, events):
    path = events / "event_EXPORT_TASK_1.log"
    append(path, line(1), line(2))
    tail().ship()
    os.truncate(path, len(line(1)))
    (chunk,) = tail().read()
    assert [(s.generation, s.start, s.length) for s in chunk.segments] == [(1, 0, len(line(1)))]


def test_a_file_written_anew_is_another_file_whatever_its_size(tail, events):
    path = events / "event_EXPORT_TASK_1.log"
    append(path, line(1), line(2))
    it = tail()
    it.ship()
    path.write_bytes(line(3) + line(4))
    os.utime(path, ns=(0, 0))
    assert it.ship() == line(3) + line(4)
    path.write_bytes(line(5) + line(6) + line(7))
    assert it.ship() == line(5) + line(6) + line(7)


def test_what_was_appended_before_a_deletion_is_still_read(tail, events):
    path = events / "event_EXPORT_TASK_1.log"
    append(path, line(1))
    it = tail()
    assert it.ship() == line(1)
    append(path, line(2))
    path.unlink()
    assert it.ship() == line(2)


def test_a_deleted_file_is_held_until_it_is_acknowledged_and_no_longer(tail, events):
    path = events / "event_EXPORT_TASK_1.log"
    append(path, line(1))
    it = tail()
    (chunk,) = it.read()
    path.unlink()
    it.tailer.look()
    assert open_files(path)
    it.tailer.rewind(chunk.segments)
    assert it.ship() == line(1)
    it.tailer.look()
    assert not open_files(path)


def test_a_rotated_file_is_let_go_once_it_is_acknowledged(tail, events):
    path = events / "event_EXPORT_TASK_1.log.1"
    append(path, line(1))
    it = tail()
    chunks = it.read()
    it.tailer.look()
    assert open_files(path)
    it.checkpoint.acknowledge(chunks[0].segments)
    it.tailer.look()
    assert not open_files(path)


def test_an_inode_that_comes_to_be_another_writers_file_is_another_file(tail, events, caplog):
    path, other = events / "event_EXPORT_TASK_1.log.1", events / "event_EXPORT_TASK_2.log"
    append(path, line(1))
    it = tail()
    assert it.ship() == line(1)
    it.tailer.look()
    assert not open_files(path)
    append(path, line(2))
    it.tailer.look()  # it is among those to read
    # as where Ray deletes the one and creates the other, and the file system uses the inode again
    path.write_bytes(line(3))
    path.rename(other)
    assert it.ship() == line(3)
    assert not it.tailer.behind
    append(other, line(4))
    assert it.ship() == line(4)
    other.unlink()
    for _ in range(2):
        it.tailer.look()
    assert it.ship() == b""
    assert it.tailer.unread_bytes() == 0
    assert caplog.messages == []  # nothing was lost


def test_the_inode_of_the_oldest_file_that_comes_to_be_the_newest_one_is_another_file(tail, events, caplog):
    oldest, newest = events / "event_EXPORT_TASK_1.log.20", events / "event_EXPORT_TASK_1.log"
    append(oldest, line(1), line(2))
    it = tail()
    assert it.ship() == line(1) + line(2)
    it.tailer.look()
    assert not open_files(oldest)
    # as at each rotation: Ray deletes the one and creates the other, and ext4 uses the inode again
    oldest.write_bytes(line(3))
    oldest.rename(newest)
    assert it.ship() == line(3)
    assert it.reports()["event_EXPORT_TASK_1.log"]["lost_bytes"] == 0
    assert caplog.messages == []  # nobody is told that something was lost


def test_a_deleted_half_line_is_let_go_when_nobody_completes_it(tail, events):
    path = events / "event_EXPORT_TASK_1.log"
    append(path, line(1), b"half")
    it = tail()
    it.ship()
    path.unlink()
    it.tailer.look()
    assert open_files(path)
    it.tailer.look()
    assert not open_files(path)
    assert it.reports()["event_EXPORT_TASK_1.log"]["lost_bytes"] == 4


def test_a_file_that_comes_back_goes_on_where_it_was(tail, events, tmp_path):
    path = events / "event_EXPORT_TASK_1.log"
    append(path, line(1))
    it = tail()
    it.ship()
    path.rename(tmp_path / "aside")
    it.tailer.look()
    it.tailer.reports()
    (tmp_path / "aside").rename(path)
    append(path, line(2))
    (chunk,) = it.read()
    it.tailer.reports()
    assert chunk.data == line(2)
    it.checkpoint.acknowledge(chunk.segments)
    assert it.reports()[path.name]["published_events"] == 2


def test_more_files_than_may_be_open_are_all_read(tail, events, monkeypatch):
    monkeypatch.setattr("raytrail.tail.open_files._MOST_OPEN_FILES", 3)
    for number in range(10):
        append(events / f"event_EXPORT_TASK_{number}.log", line(number, 900), line(number + 100))
    it = tail(chunk_bytes=1024)
    chunks = []
    for chunk in it.read():
        chunks.append(chunk)
        assert sum(bool(open_files(path)) for path in events.iterdir()) <= 3
    assert len(b"".join(chunk.data for chunk in chunks).splitlines()) == 20


# -- sessions


def test_a_session_that_begins_later_is_followed(tail, events, temp_dir):
    it = tail()
    name = "session_2026-11-24_00-00-00_000000_1"
    append(events / "event_EXPORT_NODE.log", line(1))
    assert it.ship() == line(1)
    (temp_dir / name / "logs").mkdir(parents=True)
    (temp_dir / "session_latest").unlink()
    (temp_dir / "session_latest").symlink_to(temp_dir / name)
    assert it.ship() == b""
    (temp_dir / name / "logs" / "export_events").mkdir()
    append(temp_dir / name / "logs" / "export_events" / "event_EXPORT_NODE.log", line(2))
    append(events / "event_EXPORT_NODE.log", line(3))
    chunks = it.read()
    assert {chunk.session: chunk.data for chunk in chunks} == {name: line(2), SESSION: line(3)}


def test_a_temp_dir_may_appear_later(tail, tmp_path):
    it = tail()
    assert it.ship() == b""
    events = tmp_path / "ray" / SESSION / "logs" / "export_events"
    events.mkdir(parents=True)
    append(events / "event_EXPORT_NODE.log", line(1))
    assert it.ship() == line(1)


@pytest.mark.parametrize("sessions", ["new", "all"])
def test_old_sessions_are_left_alone_unless_all_are_wanted(tail, events, temp_dir, sessions):
    old = temp_dir / "session_2026-11-22_00-00-00_000000_1" / "logs" / "export_events"
    old.mkdir(parents=True)
    append(old / "event_EXPORT_NODE.log", line(1))
    append(events / "event_EXPORT_NODE.log", line(2))
    assert tail(sessions=sessions).ship() == (line(1) + line(2) if sessions == "all" else line(2))


def test_a_session_that_began_while_no_agent_ran_is_new_too(tail, events, temp_dir):
    append(events / "event_EXPORT_NODE.log", line(1))
    tail()
    for day, number in (("24", 2), ("25", 3)):
        later = temp_dir / f"session_2026-11-{day}_00-00-00_000000_1" / "logs" / "export_events"
        later.mkdir(parents=True)
        append(later / "event_EXPORT_NODE.log", line(number))
        (temp_dir / "session_latest").unlink()
        (temp_dir / "session_latest").symlink_to(later.parents[1])
    assert tail().ship() == line(1) + line(2) + line(3)


def test_a_session_that_is_deleted_is_forgotten(tail, events, temp_dir):
    append(events / "event_EXPORT_NODE.log", line(1))
    it = tail()
    it.ship()
    shutil.rmtree(temp_dir / SESSION)
    assert it.ship() == b""
    it.tailer.reports()
    it.tailer.reports()
    assert it.checkpoint.marks() == []


def test_a_session_that_was_deleted_while_no_agent_ran_is_forgotten(tail, events, temp_dir, caplog):
    append(events / "event_EXPORT_NODE.log", line(1))
    it = tail()
    it.read()
    it.tailer.reports()
    shutil.rmtree(temp_dir / SESSION)
    assert tail().checkpoint.marks() == []
    assert caplog.messages == [f"{events} is gone; {len(line(1))} bytes of it had not been published"]


def test_a_directory_that_holds_no_session_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no Ray session in"):
        Tailer(TailConfig(), Checkpoint(None), session_dirs=[tmp_path])


def test_a_file_that_cannot_be_read_is_named_once_and_read_when_it_can_be(tail, events, caplog, monkeypatch):
    path = events / "event_EXPORT_NODE.log"
    append(path, line(1))

    def refuse(self):  # root, whom tests may run as, is refused nothing
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(EventFile, "open", refuse)
        it = tail()
        assert it.ship() == it.ship() == b""
        assert caplog.messages == [f"{path}: Permission denied; it is not read until it can be"]
    assert it.ship() == line(1)


def test_a_directory_that_cannot_be_read_is_named_once(tail, events, caplog, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    (events.parent / "events").mkdir()
    it = tail()
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", refuse)
        it.ship()
        it.ship()
    assert caplog.messages == [
        f"{events.parents[2]}: Permission denied; nothing is read there until it can be",
        f"{events}: Permission denied; its events are not read until it can be",
        f"{events.parent / 'events'}: Permission denied; its events are not read until it can be",
        f"{events.parent}: Permission denied; its logs are not read until it can be",
    ]
    append(events / "event_EXPORT_NODE.log", line(1))
    assert it.ship() == line(1)


# -- noticing


def test_with_inotify_a_poll_with_nothing_new_touches_no_file(tail, events, monkeypatch):
    for number in range(5):
        append(events / f"event_EXPORT_TASK_{number}.log", line(number))
    it = tail(inotify=True, sweep_seconds=3600)
    it.ship()
    it.read()
    touched = []
    with monkeypatch.context() as patched:
        for name in ("fstat", "pread", "scandir", "open"):
            patched.setattr(os, name, lambda *arguments, name=name: touched.append(name))
        assert it.read() == []
    assert touched == []


def test_with_inotify_all_is_noticed_without_a_sweep(tail, events):
    it = tail(inotify=True, sweep_seconds=3600)
    path = events / "event_EXPORT_TASK_1.log"
    append(path, line(1))
    assert it.ship() == line(1)
    append(path, line(2))
    assert it.ship() == line(2)
    append(path, line(3))
    path.rename(events / "event_EXPORT_TASK_1.log.1")
    append(path, line(4))
    assert it.ship() == line(3) + line(4)
    append(events / "aside", line(5))
    (events / "aside").rename(path)
    assert it.ship() == line(5)


def test_what_inotify_does_not_say_a_sweep_finds(tail, events):
    path = events / "event_EXPORT_TASK_1.log"
    append(path, line(1))
    it = tail(inotify=True, sweep_seconds=1e-9)
    it.ship()
    it.tailer._lister.watch.close()
    it.tailer._lister.watch.__init__()  # it watches nothing now
    append(path, line(2))
    assert it.ship() == line(2)


def test_without_inotify_all_is_looked_at_instead(tail, events, monkeypatch, caplog):
    def none():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(tailer, "Watch", none)
    it = tail(inotify=True, sweep_seconds=3600)
    assert caplog.messages == ["no inotify: Too many open files; all files are looked at each time instead"]
    append(events / "event_EXPORT_TASK_1.log", line(1))
    assert it.ship() == line(1)


@pytest.mark.parametrize("inotify", [True, False])
def test_wait_returns_at_once_when_there_is_more_and_else_when_the_time_is_over(tail, events, inotify):
    it = tail(chunk_bytes=1024, inotify=inotify, poll_seconds=0.02, sweep_seconds=60)
    append(events / "event_EXPORT_TASK_1.log", line(1, 900), line(2, 900))
    it.tailer.look()
    next(it.tailer.poll())
    assert seconds(it.tailer.wait, 60) < 1
    it.read()
    assert 0.015 < seconds(it.tailer.wait, 0.05) < 1


def test_wait_returns_when_a_file_grew(tail, events):
    path = events / "event_EXPORT_TASK_1.log"
    append(path, line(1))
    it = tail(inotify=True, sweep_seconds=60)
    it.ship()
    append(path, line(2))
    assert seconds(it.tailer.wait, 60) < 1
    assert it.ship() == line(2)


def test_a_quiet_directory_is_listed_more_rarely(tail, events, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    it = tail(inotify=False, poll_seconds=1, sweep_seconds=60)
    listed = []
    monkeypatch.setattr(
        it.tailer._lister, "list_one", lambda directory: listed.append((directory.session.events, now[0] - 1000))
    )
    for _ in range(100):
        now[0] += 1
        it.read()
    assert [at for directory, at in listed if directory == events] == [*range(1, 62), 71, 81, 91]


# -- reports


def test_a_report_says_what_became_of_a_file(tail, events, temp_dir):
    (temp_dir / SESSION / "gcs_server_port_bb22").touch()
    path = events / "event_EXPORT_TASK_1.log"
    append(path, line(1), line(2), line(3), b"half")
    it = tail(chunk_bytes=1024)
    chunks = it.read()
    it.checkpoint.acknowledge(chunks[0].segments)
    (chunk,) = [chunk for chunk in it.tailer.reports() if b"RAYTRAIL_FILE" in chunk.data]
    assert (chunk.cluster, chunk.session, chunk.node_id) == ("c1", SESSION, "bb22")
    assert (chunk.event_type, chunk.segments) == ("FILE", ())
    it.tailer._reports._reported.clear()
    report = it.reports()[path.name]
    assert abs(report.pop("reported_ms") - time.time() * 1000) < 5000
    assert int(report.pop("unread")) <= time.time() * 1000
    assert report == {
        "file": chunks[0].segments[0].file,
        "generation": 0,
        "name": path.name,
        "event_type": "TASK",
        "node_id": "bb22",
        "written_bytes": path.stat().st_size,
        "published_bytes": len(line(1) * 3),
        "published_events": 3,
        "skipped_bytes": 0,
        "lost_bytes": 0,
    }


def test_what_has_not_changed_is_not_reported_again(tail, events):
    append(events / "event_EXPORT_TASK_1.log", line(1))
    append(events / "event_EXPORT_TASK_2.log", line(2))
    it = tail()
    it.ship()
    assert len(it.reports()) == 2
    assert it.reports() == {}
    append(events / "event_EXPORT_TASK_2.log", line(3))
    it.ship()
    assert list(it.reports()) == ["event_EXPORT_TASK_2.log"]


def test_only_what_is_acknowledged_without_a_hole_is_published(tail, events):
    append(events / "event_EXPORT_TASK_1.log", *(line(number, 900) for number in range(3)))
    it = tail(chunk_bytes=1024)
    first, second, third = it.read()
    it.checkpoint.acknowledge(third.segments)
    assert it.reports()["event_EXPORT_TASK_1.log"]["published_bytes"] == 0
    it.checkpoint.acknowledge(first.segments)
    assert it.reports()["event_EXPORT_TASK_1.log"]["published_events"] == 1
    it.checkpoint.acknowledge(second.segments)
    assert it.reports()["event_EXPORT_TASK_1.log"]["published_events"] == 3


def test_what_was_cut_off_unread_is_lost(tail, events, caplog):
    path = events / "event_EXPORT_TASK_1.log"
    append(path, *(line(number, 900) for number in range(3)))
    it = tail(chunk_bytes=1024)
    it.checkpoint.acknowledge(next(it.tailer.poll()).segments)
    path.write_bytes(line(4))
    assert it.ship() == line(4)
    reports = [line for chunk in it.tailer.reports() for line in chunk.data.splitlines()]
    assert sorted(b'"lost_bytes":%d' % (2 * len(line(1, 900))) in report for report in reports) == [False, True]
    assert caplog.messages == [f"{path} was cut or written anew; what had not been read of it is lost"]


def test_what_was_deleted_while_no_agent_ran_is_lost_as_far_as_it_was_seen(tail, events):
    append(events / "event_EXPORT_TASK_1.log", line(1), line(2))
    append(events / "event_EXPORT_TASK_2.log", line(3))
    it = tail()
    it.read()
    it.tailer.reports()
    (events / "event_EXPORT_TASK_1.log").unlink()
    it = tail()
    assert it.ship() == line(3)
    assert it.reports()["event_EXPORT_TASK_1.log"]["lost_bytes"] == len(line(1) + line(2))


def test_nothing_is_lost_as_long_as_it_is_on_its_way(tail, events):
    path = events / "event_EXPORT_TASK_1.log"
    append(path, line(1))
    it = tail()
    (chunk,) = it.read()
    it.tailer.look()
    path.write_bytes(line(2))
    it.ship()
    for _ in range(3):
        it.tailer.reports()
    it.checkpoint.acknowledge(chunk.segments)
    assert it.reports()[path.name]["lost_bytes"] == 0


def test_what_could_not_be_published_and_cannot_be_read_again_is_lost(tail, events):
    path = events / "event_EXPORT_TASK_1.log"
    append(path, line(1))
    it = tail()
    (chunk,) = it.read()
    path.write_bytes(line(2) + line(3))
    it.tailer.rewind(chunk.segments)
    assert it.ship() == line(2) + line(3)
    lost = [mark.missing for mark in it.checkpoint.marks() if mark.acknowledged == 0]
    assert lost == [len(line(1))]
    assert len(it.tailer.reports()[0].data.splitlines()) == 2


def test_a_file_that_is_gone_and_acknowledged_is_forgotten(tail, events):
    path = events / "event_EXPORT_TASK_1.log"
    append(path, line(1))
    it = tail()
    it.ship()
    path.unlink()
    it.tailer.look()
    for _ in range(2):
        it.tailer.reports()
    assert it.checkpoint.marks() == []
    assert it.checkpoint.commit()
    assert tail().checkpoint.marks() == []


@pytest.mark.parametrize(
    ("seen", "expected"), [(Running((), {SESSION: 1}, Path("/x")), 1), (None, 1), (Running((), {}, Path("/x")), 0)]
)
def test_a_session_that_is_alive_of_which_no_node_is_known_reports_its_last_file_again(
    tail, events, monkeypatch, seen, expected
):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(discovery, "running", lambda: seen)
    append(events / "event_EXPORT_TASK_1.log", line(1))
    append(events / "event_EXPORT_TASK_2.log", line(2))
    it = tail()
    it.ship()
    assert len(it.reports()) == 2
    now[0] += 59
    assert it.reports() == {}
    now[0] += 2
    assert len(it.reports()) == expected
    assert it.reports() == {}


def test_many_files_are_reported_in_chunks_of_no_more_than_they_may_be(tail, events):
    for number in range(50):
        append(events / f"event_EXPORT_TASK_{number}.log", line(number))
    it = tail(chunk_bytes=2048)
    it.ship()
    chunks = it.tailer.reports()
    assert max(len(chunk.data) for chunk in chunks) <= 2048
    assert sum(chunk.data.count(b"\n") for chunk in chunks) == 50


def open_files(path: Path) -> list[str]:
    names = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            names.append(os.readlink(fd))
        except FileNotFoundError:
            continue
    return [name for name in names if name.removesuffix(" (deleted)") == str(path)]


def seconds(call, *arguments) -> float:
    began = time.monotonic()
    call(*arguments)
    return time.monotonic() - began


@pytest.fixture(autouse=True)
def _warnings_only(caplog):
    caplog.set_level(logging.WARNING)


# -- what may leave, and how fast


def names(chunks):
    return [chunk.event_type for chunk in chunks]


def test_types_are_let_in_and_kept_out(tail, events):
    for event_type in ("TASK", "ACTOR", "NODE"):
        append(events / f"event_EXPORT_{event_type}_1.log", line(1))
    assert names(tail(event_types=("TASK", "ACTOR"), without_event_types=("ACTOR",)).read()) == ["TASK"]


def test_export_off_reads_nothing_and_on_again_reads_what_was_written_meanwhile(tail, events):
    path = events / "event_EXPORT_TASK_1.log"
    append(path, line(1))
    it = tail()
    assert it.ship() == line(1)
    it.tailer.configure(msgspec.structs.replace(it.config, export=False))
    append(path, line(2))
    assert it.ship() == b""
    assert it.reports() == {}
    it.tailer.configure(it.config)
    assert it.ship() == line(2)
    assert it.reports()[path.name]["lost_bytes"] == 0


def test_a_type_that_is_kept_out_later_is_let_go_of_and_is_not_lost(tail, events):
    path = events / "event_EXPORT_TASK_1.log"
    append(path, line(1))
    append(events / "event_EXPORT_ACTOR.log", line(2))
    it = tail()
    it.ship()
    it.reports()
    it.tailer.configure(msgspec.structs.replace(it.config, without_event_types=("TASK",)))
    append(path, line(3))
    append(events / "event_EXPORT_ACTOR.log", line(4))
    assert it.ship() == line(4)
    assert it.tailer.open_files == 1
    assert path.name not in it.reports()
    it.tailer.configure(it.config)
    assert it.ship() == line(3)


def test_what_was_under_way_when_its_type_was_kept_out_comes_again_when_it_is_let_in(tail, events):
    append(events / "event_EXPORT_TASK_1.log", line(1), line(2))
    it = tail()
    (chunk,) = it.read()
    it.tailer.configure(msgspec.structs.replace(it.config, export=False))
    assert it.read() == []
    it.tailer.rewind(chunk.segments)  # the broker failed
    assert it.read() == []
    it.tailer.configure(it.config)
    assert it.ship() == line(1) + line(2)


def test_secrets_are_masked_and_ranges_stay_those_of_the_file(tail, events):
    path = events / "event_EXPORT_TASK_1.log"
    append(path, b'{"env_vars": {"A": "hunter2"}}\n', line(2))
    (chunk,) = tail().read()
    assert chunk.data == b'{"env_vars": {"A": "*******"}}\n' + line(2)
    assert sum(segment.length for segment in chunk.segments) == path.stat().st_size
    (chunk,) = tail(redact=()).read()
    assert b"hunter2" in chunk.data


def test_a_limit_holds_one_type_back_and_not_the_others(tail, events):
    append(events / "event_EXPORT_TASK_1.log", *(line(number, 1000) for number in range(10)))
    append(events / "event_EXPORT_ACTOR.log", *(line(number, 1000) for number in range(10)))
    it = tail(chunk_bytes=1200, events_per_second={"TASK": 2})
    first = names(it.read())
    assert first.count("ACTOR") == 10
    assert first.count("TASK") in (2, 3)  # the third where the clock had moved
    assert it.tailer.behind


def test_what_a_limit_holds_back_is_read_in_time(tail, events):
    written = [line(number, 1000) for number in range(8)]
    append(events / "event_EXPORT_TASK_1.log", *written)
    it = tail(chunk_bytes=1200, events_per_second={"ALL": 20})
    began, shipped = time.monotonic(), b""
    while it.tailer.behind or not shipped:
        for chunk in it.tailer.take(10**6, 0.5):
            it.checkpoint.acknowledge(chunk.segments)
            shipped += chunk.data
    assert shipped == b"".join(written)
    it.tailer.configure(msgspec.structs.replace(it.config, bytes_per_second={"TASK": 10_000}))
    append(events / "event_EXPORT_TASK_1.log", *(line(number, 1000) for number in range(20)))
    began, shipped = time.monotonic(), b""
    while it.tailer.behind or not shipped:
        for chunk in it.tailer.take(10**6, 0.5):
            it.checkpoint.acknowledge(chunk.segments)
            shipped += chunk.data
    assert len(shipped) > 20_000
    assert time.monotonic() - began > 0.7  # the first second's worth is free


def test_small_types_come_first_where_all_share_a_limit(tail, events):
    append(events / "event_EXPORT_TASK_1.log", *(line(number, 1000) for number in range(20)))
    append(events / "event_EXPORT_ACTOR.log", *(line(number, 1000) for number in range(5)))
    append(events / "event_EXPORT_NODE.log", line(1))
    first = names(tail(chunk_bytes=1200, events_per_second={"ALL": 8}).read())
    assert sorted(first[:6]) == ["ACTOR"] * 5 + ["NODE"]
    assert set(first[6:]) == {"TASK"}
    assert len(first) <= 9  # the ninth where the clock had moved


def test_a_file_that_ray_is_about_to_delete_unread_is_warned_of_once(tail, events, caplog):
    for rotation in range(1, 4):
        append(events / f"event_EXPORT_TASK_1.log.{rotation}", line(rotation, 1000))
    append(events / "event_EXPORT_TASK_1.log", line(0, 500))
    settings = {"rotation_files": 3, "rotation_bytes": 1_000_000}
    it = tail(**settings)
    chunks = it.read()
    written = (events / "event_EXPORT_TASK_1.log").stat().st_size
    assert it.tailer.bytes_until_deleted() == 1_000_000 - written
    caplog.set_level(logging.WARNING)
    it.tailer.reports()
    it.tailer.reports()
    assert caplog.messages == []  # a third of the way is left
    it.tailer.configure(msgspec.structs.replace(it.config, rotation_bytes=1000))
    it.read()
    it.tailer.reports()
    it.tailer.reports()
    path = events / "event_EXPORT_TASK_1.log.3"
    assert caplog.messages == [
        f"{path}: unread, and Ray deletes it when its writer has written 0 more MB; "
        f"see what holds the broker up, raise the speed limits, or rotate less (raytrail doctor)"
    ]
    for chunk in chunks:
        it.checkpoint.acknowledge(chunk.segments)
    assert it.tailer.bytes_until_deleted() is None


def test_two_thousand_files_that_appear_at_once_are_all_read(tail, events):
    it = tail()
    assert it.read() == []
    for number in range(2000):
        append(events / f"event_EXPORT_TASK_{number}.log", line(number))
    assert sorted(it.ship().splitlines(keepends=True)) == sorted(map(line, range(2000)))
    assert it.tailer.unread_bytes() == 0
