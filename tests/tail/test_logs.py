"""Logs: bytes that may end anywhere, in files whose first lines are alike, shipped whole and once."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raytrail.config import TailConfig
from raytrail.tail import Checkpoint, Tailer
from raytrail.tail.birth import birth_ns

FIRST = b":job_id:01000000\n"
SESSION = "session_2026-11-23_07-40-30_867494_13129"


@pytest.fixture
def logs(events):
    return events.parent


def shipped(chunks):
    """Put each log together again from its segments, by its id and generation."""
    files: dict[tuple[str, int], bytearray] = defaultdict(bytearray)
    for chunk in chunks:
        assert chunk.event_type == "LOG"
        for segment, data in chunk.parts():
            file = files[segment.file, segment.generation]
            assert len(file) == segment.start, "a gap, or bytes that came twice"
            file += data
    return sorted(bytes(file) for file in files.values())


def ship(it):
    """Read all there is as at an agent's end, which waits for nothing, and acknowledge it."""
    it.tailer.look(last=True)
    chunks = it.read()
    for chunk in chunks:
        it.checkpoint.acknowledge(chunk.segments)
    return chunks


def test_half_a_line_is_waited_for_a_moment_and_shipped_when_the_agent_stops(tail, logs):
    (logs / "worker-a-01000000-7.out").write_bytes(FIRST + b"half a li")
    it = tail()
    assert it.ship() == FIRST
    with (logs / "worker-a-01000000-7.out").open("ab") as file:
        file.write(b"ne\nand ano")
    assert it.ship() == b"half a line\n"
    it.tailer.look(last=True)
    assert it.ship() == b"and ano"


def test_a_progress_bar_that_never_ends_its_line_is_shipped_nevertheless(tail, logs, monkeypatch):
    monkeypatch.setattr("raytrail.tail.halves._HALF_SECONDS", 0)
    (logs / "worker-a-01000000-7.err").write_bytes(b"\r10%")
    it = tail()
    assert it.ship() + it.ship() == b"\r10%"
    with (logs / "worker-a-01000000-7.err").open("ab") as file:
        file.write(b"\r20%")
    assert it.ship() + it.ship() == b"\r20%"


def test_a_line_of_any_length_and_any_bytes_is_cut_anywhere_and_none_is_dropped(tail, logs):
    data = random.Random(1).randbytes(50_000).replace(b"\n", b"\0")
    (logs / "raylet.out").write_bytes(data)
    it = tail(chunk_bytes=1024, max_line_bytes=1024)
    chunks = ship(it)
    assert shipped(chunks) == [data]
    assert all(len(chunk.data) <= 1024 for chunk in chunks)
    assert it.reports()["raylet.out"]["skipped_bytes"] == 0


def test_rotated_files_that_begin_alike_are_kept_apart_and_found_under_their_new_names(tail, logs):
    path = logs / "worker-a-01000000-7.out"
    it = tail()
    for number in range(3):
        for old in (2, 1):
            if (before := path.with_name(f"{path.name}.{old - 1}" if old > 1 else path.name)).exists():
                before.rename(f"{path}.{old}")
        path.write_bytes(FIRST + b"%d\n" % number)
        assert [chunk.data for chunk in ship(it)] == [FIRST + b"%d\n" % number]
    lines = [line for chunk in it.tailer.reports() for line in chunk.data.splitlines()]
    assert [name for line in lines for name in [line.split(b'"seen":"')[1].split(b" ", 1)[1].split(b'"')[0]]] == [
        f"{path.name}.2".encode(),
        f"{path.name}.1".encode(),
        path.name.encode(),
    ]


def test_a_log_that_is_moved_to_old_is_not_shipped_again_and_its_rest_is(tail, logs):
    (logs / "worker-a-01000000-7.out").write_bytes(FIRST)
    (logs / "old").mkdir()
    it = tail()
    assert it.ship() == FIRST
    (logs / "worker-a-01000000-7.out").rename(logs / "old" / "worker-a-01000000-7.out")
    with (logs / "old" / "worker-a-01000000-7.out").open("ab") as file:
        file.write(b"the last words\n")
    assert it.ship() == b"the last words\n"
    assert it.ship() == b""
    assert [*it.reports()] == ["old/worker-a-01000000-7.out"]


def test_a_log_that_is_cut_begins_a_generation_and_one_that_is_replaced_is_another(tail, logs):
    (logs / "raylet.out").write_bytes(b"one\n" * 9)
    it = tail()
    assert it.ship() == b"one\n" * 9
    (logs / "raylet.out").write_bytes(b"two\n")
    [chunk] = ship(it)
    assert (chunk.data, chunk.segments[0].generation) == (b"two\n", 1)
    os.replace(shutil.copy(logs / "raylet.out", logs / "copy"), logs / "raylet.out")
    [other] = ship(it)
    assert (other.data, other.segments[0].generation) == (b"two\n", 0)
    assert other.segments[0].file != chunk.segments[0].file


def test_what_is_over_the_limit_is_not_shipped_and_is_said(tail, logs, caplog):
    (logs / "raylet.out").write_bytes(b"0123456789" * 3)
    it = tail(log_file_bytes=25)
    assert b"".join(chunk.data for chunk in ship(it)) == b"0123456789012345678901234"[:25]
    with (logs / "raylet.out").open("ab") as file:
        file.write(b"more\n")
    assert it.ship() == b""
    assert it.tailer.unread_bytes() == 0
    report = it.reports()["raylet.out"]
    assert (report["written_bytes"], report["published_bytes"], report["skipped_bytes"]) == (35, 25, 10)
    assert [message for message in caplog.messages if "log_file_bytes" in message] == [
        f"{logs / 'raylet.out'}: what is over log_file_bytes 25 is not shipped; it shows as skipped in the ledger"
    ]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ["debug.txt", "raylet.out", "serve/controller_1.log", "worker-a-01000000-7.out.1"]),
        ({"logs": False}, []),
        ({"without_event_types": ("LOG",)}, []),
        ({"event_types": ("TASK",)}, []),
        ({"export": False}, []),
        ({"log_include": ("worker-*.out", "serve/*")}, ["serve/controller_1.log", "worker-a-01000000-7.out.1"]),
        ({"log_exclude": ("serve/*", "raylet.*")}, ["debug.txt", "debug_state.txt", "worker-a-01000000-7.out.1"]),
    ],
)
def test_logs_are_chosen_by_their_names_or_not_at_all(tail, logs, settings, names):
    (logs / "serve").mkdir()
    for name in ("raylet.out", "debug.txt", "debug_state.txt", "serve/controller_1.log", "worker-a-01000000-7.out.1"):
        (logs / name).write_bytes(name.encode() + b"\n")
    it = tail(**settings)
    assert sorted(b"".join(chunk.data for chunk in ship(it)).decode().split()) == names


def test_links_are_not_followed_since_they_may_lead_anywhere(tail, logs, tmp_path):
    (tmp_path / "secret").write_text("x\n")
    (logs / "raylet.out").symlink_to(tmp_path / "secret")
    (logs / "serve").symlink_to(tmp_path)
    assert ship(tail()) == []


def test_empty_logs_are_reported_so_that_they_can_be_listed(tail, logs):
    (logs / "raylet.err").touch()
    it = tail()
    assert it.ship() == b""
    assert it.reports()["raylet.err"]["written_bytes"] == 0


def test_a_directory_that_comes_later_is_noticed_by_inotify(tail, logs):
    it = tail(inotify=True, sweep_seconds=3600)
    assert it.ship() == b""
    (logs / "serve").mkdir()
    assert it.ship() == b""
    (logs / "serve" / "controller_1.log").write_bytes(b"up\n")
    assert it.ship() == b"up\n"
    with (logs / "serve" / "controller_1.log").open("ab") as file:
        file.write(b"and running\n")
    assert it.ship() == b"and running\n"


def test_logs_come_after_the_events_and_are_masked_unless_a_setting_says_not(tail, events, logs):
    (logs / "raylet.out").write_bytes(b'{"env_vars": {"KEY": "secret"}}\n')
    (events / "event_EXPORT_TASK_1.log").write_bytes(b'{"env_vars": {"KEY": "secret"}, "timestamp": 1}\n')
    task, log = tail().read()
    assert (task.event_type, log.event_type) == ("TASK", "LOG")
    assert b"secret" not in task.data
    assert log.data == b'{"env_vars": {"KEY": "******"}}\n'
    _, log = tail(redact_logs=False).read()
    assert log.data == b'{"env_vars": {"KEY": "secret"}}\n'


def test_switched_off_and_on_while_it_runs_nothing_is_shipped_twice(tail, logs):
    (logs / "raylet.out").write_bytes(b"one\n")
    it = tail()
    assert it.ship() == b"one\n"
    with (logs / "raylet.out").open("ab") as file:
        file.write(b"two\n")
    config = it.tailer.config
    it.tailer.configure(TailConfig(temp_dir=config.temp_dir, poll_seconds=1e-9, sweep_seconds=1e-9, logs=False))
    assert it.ship() == b""
    it.tailer.configure(config)
    assert it.ship() == b"two\n"


def test_a_file_system_without_birth_times_tells_logs_apart_by_inode_and_name(tail, logs, monkeypatch):
    monkeypatch.setattr("raytrail.tail.file.birth_ns", lambda _: None)
    (logs / "a.out").write_bytes(FIRST)
    (logs / "b.out").write_bytes(FIRST)
    assert shipped(ship(tail())) == [FIRST, FIRST]


def told_birth_ns(path):
    """When a file was made, as other programs know it; None where the file system keeps no such time."""
    if sys.platform != "linux":
        return int(path.stat().st_birthtime * 10**9)
    program, c_locale = ["stat", "--format=%.9W", path], {**os.environ, "LC_ALL": "C"}
    asked = subprocess.run(program, env=c_locale, check=True, capture_output=True, text=True)
    return int(asked.stdout.strip().replace(".", "")) or None


def test_a_birth_time_is_that_of_the_file(tmp_path):
    path = tmp_path / "x"
    path.touch()
    made = path.stat()
    deadline = time.monotonic() + 30
    while path.stat().st_ctime_ns == made.st_ctime_ns:  # none of the file's other times is the one to be told
        os.utime(path, ns=(1, 2))
        assert time.monotonic() < deadline
    with path.open("rb") as file:
        assert birth_ns(file.fileno()) == told_birth_ns(path)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_file_system_that_keeps_no_birth_times_is_not_taken_to_say_1970():
    with open("/proc/version", "rb") as file:
        assert birth_ns(file.fileno()) is None


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 1), st.sampled_from([b"x\n", b"half", b"\0" * 1500, FIRST, b"\n"])),
        st.tuples(st.just("rotate"), st.integers(0, 1), st.none()),
        st.tuples(st.just("move"), st.integers(0, 1), st.none()),
        st.tuples(st.sampled_from(["poll", "restart"]), st.none(), st.none()),
    ),
    max_size=25,
)


class Followed:
    """Logs of a session that are followed, and all that was written to each file."""

    def __init__(self, root, inotify):
        self.root, self.logs = root, root / SESSION / "logs"
        (self.logs / "old").mkdir(parents=True)
        self.config = TailConfig(
            temp_dir=str(root), sessions="all", poll_seconds=1e-9, sweep_seconds=1e-9, inotify=inotify, chunk_bytes=1024
        )
        self.current, self.files, self.chunks = {}, [], []
        self.begin()

    def begin(self):
        self.checkpoint = Checkpoint(self.root / "state.sqlite")
        self.tailer = Tailer(self.config, self.checkpoint)

    def close(self):
        self.tailer.close()
        self.checkpoint.close()

    def write(self, path, number, data):
        if not path.exists():
            self.current[path] = bytearray()
            self.files.append(self.current[path])
        self.current[path] += data
        with path.open("ab") as file:
            file.write(data)

    def rotate(self, path, number, data):
        if path.exists():
            path.rename(f"{path}.{number}")

    def move(self, path, number, data):
        if path.exists():
            path.rename(self.logs / "old" / f"w{number}.out")

    def poll(self, *_):
        while new := list(self.tailer.poll()):
            for chunk in new:
                self.checkpoint.acknowledge(chunk.segments)
            self.chunks.extend(new)

    def restart(self, *_):
        self.close()
        self.begin()


@pytest.mark.slow
@given(actions=ACTIONS, inotify=st.booleans())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_written_rotated_moved_and_restarted_every_byte_comes_once(tmp_path_factory, actions, inotify):
    root = tmp_path_factory.mktemp("logs")
    run = Followed(root, inotify)
    for number, (action, which, data) in enumerate(actions):
        getattr(run, action)(run.logs / f"worker-{which}.out", number, data)
    run.tailer.look(last=True)
    run.poll()
    run.tailer.look(last=True)
    run.poll()  # half a line of what was moved just now
    run.close()
    assert shipped(run.chunks) == sorted(bytes(file) for file in run.files if file)
    shutil.rmtree(root)
