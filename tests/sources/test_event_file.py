import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from raytrail.sources.event_file import EventFiles
from raytrail.tail import discovery

pytestmark = pytest.mark.slow


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_is_a_line_as_ray_writes_them(tmp_path):
    events = EventFiles(tmp_path / "logs" / "export_events")
    before = time.time_ns()
    assert events.append("SERVE_REPLICA", {"state": "RUNNING", "odd": Path("x"), "text": "é\n"})
    assert events.append("SERVE_REPLICA", {"state": "STOPPED"})
    (path,) = (tmp_path / "logs" / "export_events").iterdir()
    assert path.name == f"event_EXPORT_SERVE_REPLICA_{os.getpid()}.log"
    name = discovery.parse(path.name)
    assert name
    assert name.event_type == "SERVE_REPLICA"
    first, second = lines(path)
    assert first["source_type"] == "EXPORT_SERVE_REPLICA"
    assert first["event_data"] == {"state": "RUNNING", "odd": "x", "text": "é\n"}
    assert before <= first["time_ns"] <= second["time_ns"] <= time.time_ns()
    assert first["timestamp"] == first["time_ns"] // 10**9
    assert len(first["event_id"]) == 36
    assert first["event_id"] != second["event_id"]


def test_what_no_text_can_be_is_written_all_the_same(tmp_path):
    events = EventFiles(tmp_path)
    data = {"text": "caf\udce9", "number": 1 << 80, 7: "seven"}
    assert events.append("A", data)  # type: ignore[arg-type]  # a name that is no text
    (path,) = tmp_path.iterdir()
    assert [line["event_data"] for line in lines(path)] == [{"text": "caf\udce9", "number": 1 << 80, "7": "seven"}]


def test_the_directory_is_asked_for_once_there_is_an_event(tmp_path):
    asked = []
    events = EventFiles(lambda: asked.append(1) or tmp_path)
    assert not asked
    assert events.append("A", {})
    assert events.append("A", {})
    assert len(asked) == 1


def test_only_so_many_files_are_open_however_many_types_there_are(tmp_path):
    events = EventFiles(tmp_path)
    types = [f"TYPE_{number}" for number in range(200)]
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        for event_type in types:
            assert events.append("A", {})
            assert events.append(event_type, {})
    assert len(os.listdir("/proc/self/fd")) - before < 100
    assert len(lines(tmp_path / f"event_EXPORT_A_{os.getpid()}.log")) == 400
    assert {len(lines(tmp_path / f"event_EXPORT_{event_type}_{os.getpid()}.log")) for event_type in types} == {2}
    events.close()


def test_a_full_file_is_renamed_and_only_so_many_are_kept(tmp_path):
    events = EventFiles(tmp_path, rotation_bytes=400, rotation_files=2)
    for number in range(10):
        assert events.append("A", {"number": number, "text": "x" * 50})
    name = f"event_EXPORT_A_{os.getpid()}.log"
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}.1", f"{name}.2"}
    numbers = [line["event_data"]["number"] for end in (".2", ".1", "") for line in lines(tmp_path / f"{name}{end}")]
    assert numbers == list(range(10 - len(numbers), 10))
    assert all((tmp_path / f"{name}{end}").stat().st_size <= 400 for end in (".2", ".1", ""))


@pytest.mark.parametrize("broken", [lambda: 1 / 0, "/proc/nowhere"])
def test_a_directory_that_cannot_be_had_costs_events_and_nothing_else(tmp_path, broken, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("raytrail.sources.event_file.time.monotonic", lambda: now[0])
    directory = broken if callable(broken) else type(tmp_path)(broken)
    events = EventFiles(directory)
    assert not events.append("A", {})
    events._directory = tmp_path
    assert not events.append("A", {}), "it was tried again at once"
    now[0] += 5
    assert events.append("A", {})
    assert events.lost == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_written_as_json_is_left_out(tmp_path):
    class Odd:
        def __str__(self):
            raise ValueError("no")

    events = EventFiles(tmp_path)
    assert not events.append("A", {"odd": Odd()})
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    assert not events.append("A", loop)
    assert events.append("A", {})
    assert events.lost == 2


def test_half_a_line_on_a_full_disk_spoils_no_other(small_disk, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("raytrail.sources.event_file.time.monotonic", lambda: now[0])
    room = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(b"x" * (room.f_bavail * room.f_frsize - 8 * 1024))
    events = EventFiles(small_disk)
    written = 0
    while events.append("A", {"number": written, "text": "x" * 1000}):
        written += 1
    assert 0 < written < 100
    (small_disk / "ballast").unlink()
    now[0] += 5
    assert events.append("A", {"number": -1})
    *before, last = (small_disk / f"event_EXPORT_A_{os.getpid()}.log").read_bytes().splitlines()
    assert [json.loads(line)["event_data"]["number"] for line in before[:written]] == list(range(written))
    assert json.loads(last)["event_data"] == {"number": -1}
    (torn,) = before[written:]  # a tmpfs takes what fits into its last page
    with pytest.raises(json.JSONDecodeError):
        json.loads(torn)


def test_half_a_line_of_a_process_before_this_one_spoils_no_other(tmp_path):
    path = tmp_path / f"event_EXPORT_A_{os.getpid()}.log"
    path.write_bytes(b'{"event_id": "whole"}\n{"event_id": "ha')
    events = EventFiles(tmp_path)
    assert events.append("A", {"number": 1})
    assert events.append("A", {"number": 2})
    _, half, *new = path.read_bytes().splitlines()
    assert half == b'{"event_id": "ha'
    assert [json.loads(line)["event_data"]["number"] for line in new] == [1, 2]


def test_lines_of_one_event_are_written_as_they_are_and_a_prefix_tells_writers_apart(tmp_path):
    events = EventFiles(tmp_path, prefix="0")
    assert events.append_lines("A", b"1\n2\n", 2) == 2
    events.close()
    assert events.append_lines("A", b"3\n", 1) == 1
    [path] = tmp_path.iterdir()
    assert (path.name, path.read_bytes()) == (f"event_EXPORT_A_0{os.getpid()}.log", b"1\n2\n3\n")


def test_a_forked_child_writes_a_file_of_its_own_whoever_held_the_lock(tmp_path):
    events = EventFiles(tmp_path)
    assert events.append("A", {"who": "parent"})
    with events._lock:
        child = os.fork()
        if child == 0:
            os._exit(not events.append("A", {"who": "child"}))
    assert os.waitpid(child, 0)[1] == 0
    assert events.append("A", {"who": "parent"})
    assert [line["event_data"]["who"] for line in lines(tmp_path / f"event_EXPORT_A_{os.getpid()}.log")] == [
        "parent"
    ] * 2
    assert [line["event_data"]["who"] for line in lines(tmp_path / f"event_EXPORT_A_{child}.log")] == ["child"]


def test_threads_tear_no_line(tmp_path):
    events = EventFiles(tmp_path, rotation_bytes=20_000)
    threads = [
        threading.Thread(target=lambda who=who: [events.append("A", {"who": who, "n": n}) for n in range(200)])
        for who in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = [line["event_data"] for path in tmp_path.iterdir() for line in lines(path)]
    assert sorted((event["who"], event["n"]) for event in written) == [(who, n) for who in range(8) for n in range(200)]


def test_a_hundred_processes_at_once_lose_no_event(tmp_path):
    go_read, go_write = os.pipe()
    events, children = EventFiles(tmp_path), []
    for _ in range(100):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(go_write)
                os.read(go_read, 1)  # ends for all of them when the last writer closes it
                code = 0 if all(events.append("OBJECT", {"n": n}) for n in range(20)) else 2
            finally:
                os._exit(code)
        children.append(child)
    os.close(go_read)
    os.close(go_write)
    assert {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children} == {0}
    written = {path.name: [line["event_data"]["n"] for line in lines(path)] for path in tmp_path.iterdir()}
    assert written == {f"event_EXPORT_OBJECT_{child}.log": list(range(20)) for child in children}


AT_EXIT = """
import atexit, sys, threading, weakref
from pathlib import Path
from raytrail.sources.event_file import EventFiles

class Last:
    def __del__(self):  # when modules are being taken apart
        events.append("OBJECT", {"from": "del"})

events = EventFiles(Path(sys.argv[1]))
atexit.register(events.append, "OBJECT", {"from": "atexit"})
last = Last()
last.itself = last
started = threading.Event()

def for_ever():
    while True:
        events.append("WORKER", {"from": "thread"})
        started.set()

threading.Thread(target=for_ever, daemon=True).start()
started.wait()
"""


def test_an_interpreter_that_ends_meanwhile_says_nothing_of_us(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", AT_EXIT, tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    [objects] = tmp_path.glob("event_EXPORT_OBJECT_*")
    assert "atexit" in [line["event_data"]["from"] for line in lines(objects)]
    [workers] = tmp_path.glob("event_EXPORT_WORKER_*")
    assert {line["event_data"]["from"] for line in lines(workers)} == {"thread"}
