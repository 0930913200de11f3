"""A node on which anybody may put anything where an agent reads: what is Ray's is shipped, and nothing waited for."""

import json
import os
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.rights import lacking

from raytrail import disk
from raytrail.config import TailConfig
from raytrail.tail import Checkpoint, Tailer, locate

SECRET = b'{"secret": 1, "timestamp": 1}\n'
SESSION = "session_2026-11-23_07-40-30_867494_13129"
PLACES = {
    "export_events/event_EXPORT_ACTOR.log": "export_events/event_EXPORT_TASK_1.log",
    "events/event_GCS.log": "events/event_RAYLET.log",
    "raylet.err": "raylet.out",
    "serve/controller_1.log": "serve/controller_2.log",
}
"""Names that are taken by something else, each with a neighbour in the same directory."""


def line(name):
    return b'{"event_id": "%s", "timestamp": 1}\n' % name.encode()


@pytest.fixture
def logs(temp_dir):
    """The logs of a session, with a file in each of their directories."""
    logs = temp_dir / SESSION / "logs"
    for name in PLACES.values():
        (logs / name).parent.mkdir(exist_ok=True)
        (logs / name).write_bytes(line(name))
    return logs


ALL = sorted(line(name) for name in PLACES.values())


@pytest.fixture
def secret(tmp_path):
    (tmp_path / "secrets").mkdir()
    for name in ("event_EXPORT_ACTOR.log", "event_GCS.log", "raylet.err", "controller_1.log"):
        (tmp_path / "secrets" / name).write_bytes(SECRET)
    return tmp_path / "secrets" / "event_EXPORT_ACTOR.log"


@contextmanager
def short(path):
    """Give a name for a directory's entry that is short enough for a socket's address."""
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


def listen(path, _):
    with socket.socket(socket.AF_UNIX) as listening, short(path) as name:
        listening.bind(name)


def device(path, _):
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero, which has no end
    except PermissionError:
        lacking("make a device")


def link_to_fifo(path, secret):
    fifo = secret.with_name("fifo")
    if not fifo.exists():
        os.mkfifo(fifo)
    path.symlink_to(fifo)


KINDS = {
    "link": lambda path, secret: path.symlink_to(secret),
    "link to nothing": lambda path, _: path.symlink_to("/nowhere/at/all"),
    "link to a FIFO": link_to_fifo,
    "link to a device": lambda path, _: path.symlink_to("/dev/zero"),
    "link to itself": lambda path, _: path.symlink_to(path),
    "FIFO": lambda path, _: os.mkfifo(path),
    "socket": listen,
    "device": device,
    "directory": lambda path, _: path.mkdir(),
}


def refusals(caplog):
    return [message for message in caplog.messages if "and no " in message]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_named_once_and_its_neighbours_arrive(tail, logs, secret, caplog, kind, place):
    KINDS[kind](logs / place, secret)
    it = tail()
    assert sorted(it.ship().splitlines(keepends=True)) == ALL
    assert it.ship() == b""
    if kind == "directory" and "/event_" not in place:  # of logs, whatever its name
        assert (it.tailer.refused, refusals(caplog)) == (0, [])
    else:
        what = {"FIFO": "FIFO", "socket": "socket", "device": "device", "directory": "directory"}.get(kind, "link")
        assert refusals(caplog) == [f"{logs / place}: it is a {what}, and no file; it is not read"]
        assert it.tailer.refused == 1


@pytest.mark.parametrize("kind", [*KINDS, "gone"])
def test_what_takes_a_files_place_after_it_was_listed_is_not_opened(tail, logs, secret, monkeypatch, kind):
    monkeypatch.setattr("raytrail.tail.open_files._MOST_OPEN_FILES", 1)
    places = [logs / place for place in PLACES]
    for place in places:
        place.write_bytes(line("a"))
    it = tail(poll_seconds=3600)  # so that it opens what it has listed, and does not list it again first
    for place in places:
        place.unlink()
        if kind != "gone":
            KINDS[kind](place, secret)
    shipped = it.ship()
    it.tailer.look()
    shipped += it.ship()
    # of the one file that was open when it was listed, all may have come
    assert sorted(shipped.replace(line("a"), b"").splitlines(keepends=True)) == ALL
    assert it.ship() == b""


DIRECTORIES = {
    "export_events": ["events/event_RAYLET.log", "raylet.out", "serve/controller_2.log"],
    "events": ["export_events/event_EXPORT_TASK_1.log", "raylet.out", "serve/controller_2.log"],
    "serve": ["export_events/event_EXPORT_TASK_1.log", "events/event_RAYLET.log", "raylet.out"],
    ".": [],
}


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("directory", DIRECTORIES)
@pytest.mark.parametrize("inotify", [False, True])
def test_a_directory_that_is_a_link_is_not_read(tail, logs, secret, caplog, directory, later, inotify):
    before = b""
    if later:
        it = tail(inotify=inotify)
        before = it.ship()
        assert sorted(before.splitlines(keepends=True)) == ALL
    path = (logs / directory).resolve()
    path.rename(secret.parents[1] / "moved")
    os.symlink(secret.parent, path)
    if directory == ".":
        (secret.parent / "export_events").symlink_to(".")
    if not later:
        it = tail(inotify=inotify)
    expected = [line(name) for name in DIRECTORIES[directory]]
    assert sorted(it.ship().splitlines(keepends=True)) == ([] if later else sorted(expected))
    if later:  # the others are read on
        for name in DIRECTORIES[directory]:
            with (logs / name).open("ab") as file:
                file.write(line("more"))
        it.tailer.look()
        assert it.ship() == line("more") * len(expected)
    assert it.tailer.refused >= 1
    assert set(refusals(caplog)) == {
        message for message in refusals(caplog) if message.startswith(f"{path}: it is a link, and no ")
    }
    assert 1 <= len(refusals(caplog)) <= 3  # the logs, and the two directories of events in them


def test_what_is_swapped_all_the_time_is_never_followed(tail, logs, secret, tmp_path, monkeypatch):
    monkeypatch.setattr("raytrail.tail.open_files._MOST_OPEN_FILES", 1)
    place, events = logs / "export_events" / "event_EXPORT_ACTOR.log", logs / "export_events"
    (tmp_path / "a").symlink_to(secret)
    (tmp_path / "b").symlink_to(secret.parent)
    os.mkfifo(tmp_path / "c")
    (tmp_path / "d").write_bytes(line("d"))
    stop, swaps = threading.Event(), [0]

    def swap(path, other):
        path.rename(tmp_path / "aside")
        other.rename(path)
        (tmp_path / "aside").rename(other)

    def swap_all():
        while not stop.is_set():
            for other in "acd":
                swap(place, tmp_path / other)
            swap(events, tmp_path / "b")  # and back, so that both are there again
            swap(events, tmp_path / "b")
            swaps[0] += 1

    place.write_bytes(line("e"))
    swapping = threading.Thread(target=swap_all)
    swapping.start()
    try:
        it, shipped = tail(), b""
        while swaps[0] < 100:
            it.tailer.look()
            shipped += it.ship()
    finally:
        stop.set()
        swapping.join()
    place.unlink()
    place.write_bytes(line("f"))
    it.tailer.look()
    shipped += it.ship()
    assert b"secret" not in shipped
    assert {*ALL, line("f")} <= set(shipped.splitlines(keepends=True))


def test_a_flood_of_links_is_counted_and_not_said_one_by_one(tail, logs, caplog):
    for number in range(300):
        (logs / f"link-{number}.out").symlink_to("/dev/zero")
    it = tail()
    assert sorted(it.ship().splitlines(keepends=True)) == ALL
    assert it.tailer.refused == 300
    assert len(refusals(caplog)) == 100
    assert caplog.messages[-1] == (
        "more than 100 names are taken by what is no file; the others are not named, and counted in "
        "raytrail_tail_refused_names_total"
    )


def test_directories_of_logs_are_followed_to_a_depth_and_no_further(tail, logs, caplog):
    path = logs
    for depth in range(1, 40):
        path /= "d"
        path.mkdir()
        (path / "x.out").write_bytes(b"%d\n" % depth)
    it = tail()
    it.tailer.look(last=True)
    assert it.ship().replace(b"".join(ALL), b"").split()[-16:] == [b"%d" % depth for depth in range(1, 17)]
    assert it.tailer.refused == 1
    assert refusals(caplog) == []


def test_of_directories_of_logs_so_many_are_followed(tail, logs, monkeypatch, caplog):
    monkeypatch.setattr("raytrail.tail.listing._MOST_DIRECTORIES", 5)
    for number in range(20):
        (logs / f"d{number}").mkdir()
        (logs / f"d{number}" / "x.out").write_bytes(b"x\n")
    it = tail()
    shipped = it.ship() + it.ship()
    assert set(ALL) - set(shipped.splitlines(keepends=True)) <= {line("serve/controller_2.log")}
    followed = 5 if line("serve/controller_2.log") not in shipped else 4
    assert shipped.count(b"x\n") == followed
    assert it.tailer.refused == 21 - 5
    assert sum("it is one of more than 5 directories of logs; it is not read" in text for text in caplog.messages) == 16


@pytest.mark.slow
@pytest.mark.parametrize("first", [b"", line("a")], ids=["nothing", "a line"])
@pytest.mark.parametrize("holes_are_seen", [True, False])
def test_a_file_of_terabytes_without_a_line_holds_up_none_beside_it(tail, logs, monkeypatch, first, holes_are_seen):
    if not holes_are_seen:  # as on a file system that does not tell them
        monkeypatch.setattr("raytrail.tail.file._SEEK_DATA", None)
    huge = logs / "export_events" / "event_EXPORT_TASK_0.log"
    huge.write_bytes(first)
    os.truncate(huge, 1 << 43)
    it = tail(max_line_bytes=10_000)
    shipped = b""
    for _ in range(30):
        for chunk in it.tailer.poll():
            it.checkpoint.acknowledge(chunk.segments)
            shipped += chunk.data
    assert sorted(shipped.splitlines(keepends=True)) == sorted([*ALL, *filter(None, [first])])
    with huge.open("r+b") as file:  # its line has an end after all
        file.truncate(len(first) + 50_000_000)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + line("b"))
    it.tailer.look()
    assert it.ship().splitlines(keepends=True)[-1] == line("b")


def test_an_end_that_a_line_has_after_all_is_found_behind_a_hole(tail, logs, caplog):
    huge = logs / "export_events" / "event_EXPORT_TASK_0.log"
    with huge.open("ab") as file:
        file.truncate(1 << 40)
        file.write(b"\n" + line("b"))
    it = tail(max_line_bytes=10_000)
    shipped = b""
    while it.tailer.behind:
        shipped += it.ship()
    assert sorted(shipped.splitlines(keepends=True)) == sorted([*ALL, line("b")])
    assert it.reports()["event_EXPORT_TASK_0.log"]["skipped_bytes"] == (1 << 40) + 1


# -- names

NAMES = st.binary(min_size=1, max_size=60).filter(lambda name: not set(name) & {0, 47} and name not in (b".", b".."))


@given(NAMES)
def test_a_name_of_any_bytes_is_text_and_comes_back(name):
    text = disk.escape_name(os.fsdecode(name))
    assert text.encode()
    assert text.isprintable() or any(not chr.isprintable() for chr in text)
    assert not any(ord(chr) < 32 or 127 <= ord(chr) < 160 for chr in text)
    assert os.fsencode(disk.unescape_name(text)) == name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"raylet.out", "raylet.out"),
        ("zähler.out".encode(), "zähler.out"),
        (b"z\xe4hler.out", "z\\xe4hler.out"),
        (b"a\\b", "a\\x5cb"),
        (b"\x1b[2Ja\n", "\\x1b[2Ja\\x0a"),
        ("\u202egpj.out".encode(), "\\xe2\\x80\\xaegpj.out"),
    ],
)
def test_bytes_that_are_no_text_are_written_in_hex(name, text):
    assert disk.escape_name(os.fsdecode(name)) == text


@pytest.mark.slow
@given(st.sets(NAMES, max_size=6), st.sets(NAMES, max_size=3), st.sets(NAMES, max_size=3))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_files_and_directories_are_called_all_arrive(tmp_path_factory, names, within, sessions):
    root = os.fsencode(tmp_path_factory.mktemp("names"))
    logs = os.path.join(root, b"ray", os.fsencode(SESSION), b"logs")
    os.makedirs(os.path.join(logs, b"export_events"))
    files = {b"raylet.out", *(name + b".out" for name in names), *(name + b".d/x" for name in within)}
    for name in files:
        os.makedirs(os.path.dirname(os.path.join(logs, name)), exist_ok=True)
        Path(os.fsdecode(os.path.join(logs, name))).write_bytes(b"one\n")
    event_files = {b"event_EXPORT_TASK_1.log", *(b"event_EXPORT_TASK_1.log" + name for name in names)}
    for name in event_files:
        Path(os.fsdecode(os.path.join(logs, b"export_events", name))).write_bytes(line("x"))
    for name in sessions:
        os.makedirs(os.path.join(root, b"ray", b"session_" + name, b"logs", b"export_events"), exist_ok=True)
        Path(os.fsdecode(os.path.join(root, b"ray", b"session_" + name, b"logs/raylet.out"))).write_bytes(b"one\n")
    first, second = (read_all(os.fsdecode(root)) for _ in range(2))  # the second one goes on where the first one ended
    assert first == (b"one\n" * len(files), files)
    assert second == (b"", files)


def read_all(root):
    """Read and acknowledge what is there; return the bytes of the session's logs, and the names that are reported."""
    config = TailConfig(
        temp_dir=f"{root}/ray", poll_seconds=1e-9, sweep_seconds=1e-9, inotify=False, sessions="all", log_exclude=()
    )
    checkpoint = Checkpoint(Path(os.fsdecode(os.fsencode(root) + b"/state-\xff/checkpoint.sqlite")))
    tailer, shipped, reported = Tailer(config, checkpoint), b"", set()
    while chunks := [*tailer.poll()]:
        for chunk in chunks:
            assert all(value.encode() for value in chunk.headers().values() if value)
            checkpoint.acknowledge(chunk.segments)
            shipped += chunk.data if chunk.session == SESSION and chunk.event_type == "LOG" else b""
    for chunk in tailer.reports():
        for report in map(json.loads, chunk.data.splitlines()):
            if chunk.session == SESSION and "seen" in report["event_data"]:
                reported.add(os.fsencode(disk.unescape_name(report["event_data"]["seen"].split(" ", 1)[1])))
    tailer.close()
    checkpoint.close()
    return shipped, reported


def test_a_session_whose_name_ray_does_not_give_is_named_and_left_alone(tail, logs, temp_dir, caplog):
    for name in (b"session_a b", b"session_\xff", b"session_" + b"x" * 201):
        os.makedirs(os.path.join(os.fsencode(temp_dir), name, b"logs", b"export_events"))
    it = tail(sessions="all")
    assert it.tailer.sessions == [SESSION]
    assert sorted(it.ship().splitlines(keepends=True)) == ALL
    assert it.tailer.refused == 3
    assert f"{temp_dir}/session_\\xff: no session of Ray's has such a name; nothing is read there" in caplog.messages


# -- links to sessions


def test_a_link_that_is_not_followed_is_named(tail, logs, temp_dir, tmp_path, caplog):
    (temp_dir / "session_2").symlink_to(tmp_path / "nowhere")
    it = tail(sessions="all")
    it.tailer.look()
    assert sorted(it.ship().splitlines(keepends=True)) == ALL
    assert [message for message in caplog.messages if "session_2" in message] == [
        f"{temp_dir}/session_2: it is a link, but not to a directory of the user who made it; nothing is read there"
    ]
    assert it.tailer.refused == 1


@pytest.mark.usefixtures("as_root")
def test_a_link_to_a_session_that_comes_to_lead_to_somebody_elses_directory_is_not_followed(
    tail, logs, temp_dir, tmp_path
):
    session = temp_dir / SESSION
    session.rename(tmp_path / "moved")
    for path in (tmp_path / "moved", *(tmp_path / "moved").rglob("*")):
        os.chown(path, 5, -1)
    session.symlink_to(tmp_path / "moved")
    os.chown(session, 5, -1, follow_symlinks=False)
    it = tail()
    assert sorted(it.ship().splitlines(keepends=True)) == ALL
    (tmp_path / "other" / "logs").mkdir(parents=True)
    (tmp_path / "other" / "logs" / "raylet.err").write_bytes(SECRET)
    os.chown(tmp_path / "other", 6, -1)
    session.unlink()
    session.symlink_to(tmp_path / "other")
    os.chown(session, 5, -1, follow_symlinks=False)
    it.tailer.look()
    assert it.ship() == b""


# -- import


def test_an_import_follows_no_more_than_an_agent_does(tail, logs, secret, caplog):
    for place in PLACES:
        (logs / place).symlink_to(secret)
    it = tail([logs.parent])
    it.tailer.look(last=True)
    assert sorted(it.ship().splitlines(keepends=True)) == ALL
    assert it.tailer.refused == len(PLACES)


def test_a_directory_that_no_session_can_be_called_after_says_so(tmp_path):
    (tmp_path / "my session" / "export_events").mkdir(parents=True)
    with pytest.raises(Exception, match="no session can be called 'my session'"):
        locate(tmp_path / "my session")
