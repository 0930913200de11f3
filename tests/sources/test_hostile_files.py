"""Sources where something else lies in a file's place: it is neither written to, nor read, nor waited for."""

import json
import os
import threading
from typing import Any

import pytest
from tests.sources import posted
from tests.sources.test_serve_poll import ANSWER

from raytrail.config import SourcesConfig
from raytrail.errors import SourceTaken
from raytrail.kuberay import layout as kuberay
from raytrail.kuberay.files import Unread
from raytrail.kuberay.reading import read
from raytrail.kuberay.report import report_collected
from raytrail.sources import probe
from raytrail.sources.event_file import EventFiles
from raytrail.sources.probe import Probe
from raytrail.sources.recall import recall
from raytrail.sources.receiver import Intake
from raytrail.sources.serve_poll import EVENT_TYPES, ServePoll
from raytrail.sources.set_aside import SetAside

SESSION = "session_2026-11-23_07-40-30_867494_13129"
KINDS = ("FIFO", "link", "link to a FIFO")


@pytest.fixture
def events(tmp_path):
    events = tmp_path / SESSION / "logs" / "export_events"
    events.mkdir(parents=True)
    return events


@pytest.fixture
def put(tmp_path):
    """Put something that is no file in a file's place; return what it leads to."""

    def put(kind, path, content=b""):
        other = tmp_path / "other"
        if kind == "link":
            other.write_bytes(content)
        elif not other.exists():
            os.mkfifo(other)
        os.mkfifo(path) if kind == "FIFO" else path.symlink_to(other)
        return other

    return put


def in_time(work, *arguments):
    """Return what some work gives; fail where it waits for somebody."""
    given = []
    thread = threading.Thread(target=lambda: given.append(work(*arguments)), daemon=True)
    thread.start()
    thread.join(30)
    assert given, "it waits"
    return given[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_of_rays_never_waits_for_its_event_file_and_follows_no_link(events, put, kind):
    other = put(kind, events / f"event_EXPORT_A_{os.getpid()}.log")
    files = EventFiles(events)
    # more than a pipe holds
    taken = in_time(lambda: [files.append("A", {"text": "x" * 1000}) for _ in range(100)])
    assert not any(taken)
    assert files.lost == 100
    assert files.append("B", {}), "what is wrong with one file costs no event of another type"
    assert kind != "link" or other.read_bytes() == b""


@pytest.mark.parametrize("place", ["export_events", "logs"])
def test_event_files_are_not_written_behind_a_link(events, tmp_path, place):
    path = events if place == "export_events" else events.parent
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert not EventFiles(events).append("A", {})
    assert not list((tmp_path / "elsewhere").rglob("*.log"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_recalled_is_in_files(events, put, kind):
    put(kind, events / "event_EXPORT_A_1.log", b'{"event_data":{"secret":1}}\n' * 1000)
    (events / "event_EXPORT_A_2.log").write_bytes(b'{"event_data":{"number":2}}\n')
    assert in_time(lambda: list(recall(events, "A", most_bytes=1000))) == [{"number": 2}]


@pytest.mark.parametrize("kind", KINDS)
def test_a_poll_of_serve_waits_for_no_hook(events, put, kind):
    put(kind, events / "event_EXPORT_SERVE_INSTANCE_1.log", b"{}\n")
    poll = in_time(lambda: ServePoll(EventFiles(events), events, EVENT_TYPES))
    assert in_time(poll.hooked) is False
    poll.take(ANSWER)
    assert list(events.glob(f"event_EXPORT_SERVE_REPLICA_{os.getpid()}.log"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_receiver_that_is_started_again_reads_files_only(tmp_path, put, kind):
    events = tmp_path / posted.SESSION / "logs" / "export_events"
    events.mkdir(parents=True)
    put(kind, events / "event_EXPORT_NODE_01.log", b"{}\n")
    intake = Intake([tmp_path], SetAside(tmp_path / "set-aside.ndjson"))
    body = {"jobId": "AQ==", "driverNodeId": "Tg=="}
    event = posted.event("DRIVER_JOB_DEFINITION_EVENT", "driverJobDefinitionEvent", body)
    assert in_time(intake.take, json.dumps([event]).encode())
    intake.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_probes_lock_is_a_file(tmp_path, put, kind):
    put(kind, tmp_path / "raytrail_probe_aa.lock")
    asked = Probe(str(tmp_path), "", "aa", 0, (), SourcesConfig())

    def lock():
        with probe._alone(asked):
            return "locked"

    def refused():
        with pytest.raises(SourceTaken, match="and no file; remove it"):
            lock()
        return True

    assert in_time(refused)


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_copy_of_a_bucket_files_alone_are_read_and_the_rest_is_said(tmp_path, put, kind):
    nodes = tmp_path / "bucket" / SESSION / "aa" / "node_events"
    nodes.mkdir(parents=True)
    put(kind, nodes / "1.jsonl", b'{"secret": 1}\n')
    (nodes / os.fsdecode(b"\xff.jsonl")).write_bytes(b"no event\n")
    [session] = kuberay.find(kuberay.below(tmp_path / "bucket"))
    unread: list[Unread] = []
    keep: dict[str, Any] = {
        "cluster": "",
        "redact": lambda data, _: data,
        "wants": lambda _: True,
        "unread": unread.append,
    }
    pieces = in_time(lambda: list(read(session, **keep)))
    what = "a FIFO" if kind == "FIFO" else "a link"
    assert [(fault.file.place, fault.reason) for fault in unread] == [
        (f"{SESSION}/aa/node_events/1.jsonl", f"cannot be read: {what}, and no file")
    ]
    [chunk] = [chunk for piece in pieces for chunk in piece.chunks]
    assert b"node_events/\\\\xff.jsonl at 0: " in chunk.data
    assert b"secret" not in chunk.data
    for file in session.files:
        assert report_collected(SESSION, file)
