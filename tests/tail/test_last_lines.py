"""The last line of an event file whose writer is gone: taken in if it is whole, else said in the file's report."""

import json
import os
import time
from pathlib import Path

import pytest
from tests.tail.conftest import SESSION

from raytrail.tail import discovery
from raytrail.tail.discovery import Running

WHOLE = b'{"event_data":{"x":"\xc3\xa9"},"timestamp":1795419640}'
"""An event without its newline."""
FIRST = b'{"event_data":{},"timestamp":1795419639}\n'


@pytest.fixture
def living(monkeypatch):
    """The sessions whose raylet runs, for as long as the test says so."""
    living: set[str] = set()
    monkeypatch.setattr(discovery, "running", lambda: Running((), dict.fromkeys(living, 1), Path("/proc")))
    return living


def unread(report):
    """Return what a report says is not read: offset, length, reason; None where it is nothing."""
    _, *parts = report["unread"].split(" ", 3)
    return (int(parts[0]), int(parts[1]), parts[2]) if parts else None


def long_ago(path):
    os.utime(path, (time.time() - 3600,) * 2)


@pytest.mark.parametrize(
    ("last", "shipped", "reason"),
    [
        (WHOLE, WHOLE, None),
        (WHOLE[:-1], b"", "torn: Input data was truncated"),
        (WHOLE[: WHOLE.index(b"\xa9")], b"", "torn: Input data was truncated"),
        (b"half", b"", "torn: JSON is malformed: invalid character (byte 0)"),
        (b"\0" * 40, b"", "NUL bytes: its machine stopped before the disk had what was written"),
        (WHOLE + b"\0" * 40, WHOLE, "NUL bytes: its machine stopped before the disk had what was written"),
        (WHOLE[:-1] + b"\0", b"", "torn: Input data was truncated"),
        (b'["no event"]', b"", "torn: Expected `object`, got `array`"),
    ],
)
@pytest.mark.parametrize("first", [FIRST, b""])
@pytest.mark.parametrize("name", ["event_EXPORT_TASK_7.log", "event_EXPORT_TASK_7.log.1"])
def test_a_last_line_is_taken_in_if_it_is_whole_and_counted_if_not(
    tail, events, living, last, shipped, reason, first, name
):
    (events / name).write_bytes(first + last)
    it = tail([events.parents[1]])
    it.tailer.look(last=True)
    chunks = it.read()
    assert b"".join(chunk.data for chunk in chunks) == first + shipped
    assert sum(segment.length for chunk in chunks for segment in chunk.segments) == len(first + shipped)
    for chunk in chunks:
        it.checkpoint.acknowledge(chunk.segments)
    report = it.reports()[name]
    done = len(first + shipped)
    # where there is no line to know it by, it is counted as unread alone
    assert (report["written_bytes"], report["published_bytes"]) == (len(first + last) if done else 0, done)
    assert report["published_events"] == bool(first) + bool(shipped)
    assert unread(report) == (reason and (done, len(first + last) - done, reason))


def test_a_live_sessions_last_line_is_waited_for_however_whole_it_looks(tail, events, living):
    living.add(SESSION)
    path = events / "event_EXPORT_TASK_7.log"
    path.write_bytes(FIRST + WHOLE)
    long_ago(path)
    it = tail([events.parents[1]])
    it.tailer.look(last=True)
    assert it.ship() == FIRST
    assert unread(it.reports()[path.name]) is None
    assert it.ship() == b""


def test_an_agent_takes_the_last_line_once_its_raylet_is_gone_and_the_file_is_still(tail, events, living):
    living.add(SESSION)
    path, torn = events / "event_EXPORT_TASK_7.log", events / "event_EXPORT_TASK_8.log"
    path.write_bytes(FIRST + WHOLE)
    torn.write_bytes(FIRST.replace(b"39", b"38") + b"half")
    it = tail(sessions="all")
    it.ship()
    it.reports()
    assert it.ship() == b""
    living.clear()
    it.reports()
    assert it.ship() == b"", "it was written just now"
    long_ago(path)
    long_ago(torn)
    it.ship()
    it.reports()
    assert it.ship() == WHOLE
    reports = it.reports()
    assert unread(reports[path.name]) is None
    assert unread(reports[torn.name])[:2] == (len(FIRST), 4)
    assert (it.ship(), it.reports()) == (b"", {})


def test_where_nothing_tells_who_runs_an_agent_waits_and_an_import_does_not(tail, events, monkeypatch):
    monkeypatch.setattr(discovery, "running", lambda: None)
    (events / "event_EXPORT_TASK_7.log").write_bytes(FIRST + WHOLE)
    it = tail(sessions="all")
    it.tailer.look(last=True)
    assert it.ship() == FIRST
    it = tail([events.parents[1]])
    it.tailer.look(last=True)
    assert it.ship() == WHOLE


@pytest.mark.parametrize("first", [FIRST, b""])
def test_what_comes_after_a_last_line_after_all_is_read_on_from_there_as_the_same_file(tail, events, living, first):
    path = events / "event_EXPORT_TASK_7.log"
    path.write_bytes(first + WHOLE)
    it = tail([events.parents[1]])
    it.tailer.look(last=True)
    before = it.read()
    for chunk in before:
        it.checkpoint.acknowledge(chunk.segments)
    with path.open("ab") as file:
        file.write(b"\n" + FIRST + b"half")
    it.tailer.look()
    after = it.read()
    assert b"".join(chunk.data for chunk in after) == b"\n" + FIRST
    assert {segment.file for chunk in (*before, *after) for segment in chunk.segments} == {before[0].segments[0].file}
    for chunk in after:
        it.checkpoint.acknowledge(chunk.segments)
    again = tail([events.parents[1]])
    again.tailer.look()
    assert again.read() == []


def test_a_torn_line_that_is_completed_after_all_is_read_and_no_more_reported(tail, events, living):
    path = events / "event_EXPORT_TASK_7.log"
    path.write_bytes(WHOLE[:-5])
    it = tail([events.parents[1]])
    it.tailer.look(last=True)
    assert it.ship() == b""
    assert unread(it.reports()[path.name])[:2] == (0, len(WHOLE) - 5)
    with path.open("ab") as file:
        file.write(WHOLE[-5:] + b"\n")
    it.tailer.look()
    assert it.ship() == WHOLE + b"\n"
    lines = [json.loads(line) for chunk in it.tailer.reports() for line in chunk.data.splitlines()]
    files = {line["event_data"]["file"]: unread(line["event_data"]) for line in lines}
    assert list(files.values()) == [None, None], "of the file, and of the one that had no line"
    # another process is told that it was said
    again = tail([events.parents[1]])
    again.ship()
    assert again.tailer.reports(nameless=files.keys()) != []
    assert again.tailer.reports() == []


def test_a_file_that_cannot_be_read_is_said_by_its_report(tail, events, living, monkeypatch):
    path = events / "event_EXPORT_TASK_7.log"
    path.write_bytes(FIRST)

    def refuse(file):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("raytrail.tail.file.EventFile.open", refuse)
    it = tail([events.parents[1]])
    it.tailer.look(last=True)
    assert it.ship() == b""
    report = it.reports()[path.name]
    assert unread(report) == (0, len(FIRST), "cannot be read: Permission denied")


def test_an_empty_file_lacks_nothing(tail, events, living):
    (events / "event_EXPORT_TASK_7.log").touch()
    it = tail([events.parents[1]])
    it.tailer.look(last=True)
    assert (it.ship(), it.reports()) == (b"", {})


def test_a_last_line_that_is_too_long_is_said_and_not_held_in_memory(tail, events, living):
    path = events / "event_EXPORT_TASK_7.log"
    path.write_bytes(b'{"x":"' + b"x" * 5000 + b'"}')
    it = tail([events.parents[1]], chunk_bytes=1024, max_line_bytes=2000)
    it.tailer.look(last=True)
    assert it.ship() == b""
    assert unread(it.reports()[path.name]) == (0, 5008, "no end of its line within max_line_bytes 2000")
    it = tail([events.parents[1]], chunk_bytes=1024, max_line_bytes=10_000)
    it.tailer.look(last=True)
    assert it.ship() == path.read_bytes()


def test_nothing_follows_a_line_without_newline_in_its_chunk(tail, events, living):
    for number in range(3):
        (events / f"event_EXPORT_TASK_{number}.log").write_bytes(FIRST + WHOLE.replace(b"40", b"4%d" % number))
    it = tail([events.parents[1]])
    it.tailer.look(last=True)
    chunks = it.read()
    unended = [chunk for chunk in chunks if not chunk.data.endswith(b"\n")]
    assert [len(chunk.segments) for chunk in unended] == [1, 1, 1]
    assert sum(chunk.data.count(b"\n") for chunk in chunks) == 3


def test_what_a_source_set_aside_is_shipped_whichever_types_are(tail, events, living):
    for kind in ("TASK", "NODE", "SET_ASIDE"):
        (events / f"event_EXPORT_{kind}_01.log").write_bytes(FIRST.replace(b"39", kind[:1].encode().hex()[:2].encode()))
    it = tail(event_types=("TASK",), sessions="all")
    assert {chunk.event_type for chunk in it.read()} == {"TASK", "SET_ASIDE"}
