"""An agent as a process where anything may lie in Ray's directories: it ships, and it ends."""

import os
import socket

import pytest

from raytrail.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture
def agent(start, ray_dir, tmp_path):
    def agent(*arguments):
        return start(
            *("agent", "--to", f"file://{tmp_path}/events", "--temp-dir", ray_dir, "--poll-seconds", "0.02"),
            *("--sweep-seconds", "0.1", *arguments),
        )

    return agent


def events(shipped, tmp_path):
    chunks = [chunk for chunk in shipped(tmp_path / "events") if chunk.event_type not in ("FILE", "LOG")]
    return sum(chunk.data.count(b"\n") for chunk in chunks)


def hostile(ray_dir, make, tmp_path):
    """Put one of each in all directories of a session; return the names."""
    logs = ray_dir / make.SESSION / "logs"
    (tmp_path / "secret").write_bytes(make.actor(1))
    (logs / "events").mkdir()
    taken = []
    for directory, name in (("export_events", "event_EXPORT_ACTOR"), ("events", "event_GCS"), (".", "raylet")):
        paths = [(logs / directory / f"{name}_{number}.log").resolve() for number in range(5)]
        os.mkfifo(paths[0])
        paths[1].symlink_to(tmp_path / "secret")
        paths[2].symlink_to("/proc/kmsg")
        paths[3].symlink_to(paths[0])
        here = os.open(paths[4].parent, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"/proc/self/fd/{here}/{paths[4].name}")
        os.close(here)
        taken += paths
    return taken


def test_it_ships_what_is_rays_names_what_is_not_and_ends_when_it_is_told_to(
    agent, ray_dir, make, write, shipped, tmp_path
):
    taken = hostile(ray_dir, make, tmp_path)
    running = agent("--drain-seconds", "1")
    running.wait_for(lambda: events(shipped, tmp_path) == 3)
    write("TASK", make.task(3))
    running.wait_for(lambda: events(shipped, tmp_path) == 4)
    assert running.stop() == 0
    messages = [message for message in running.messages("WARNING") if "and no file" in message]
    assert sorted(message.partition(": ")[0] for message in messages) == sorted(map(str, taken))
    assert not any(b"Counter" in chunk.data for chunk in shipped(tmp_path / "events"))


def test_a_fifo_that_takes_a_files_place_while_it_runs_keeps_it_from_nothing(
    agent, ray_dir, make, write, shipped, tmp_path
):
    running = agent("--drain-seconds", "1")
    running.wait_for(lambda: events(shipped, tmp_path) == 3)
    path = ray_dir / make.SESSION / "logs" / "export_events" / "event_EXPORT_NODE.log"
    path.unlink()
    os.mkfifo(path)
    write("TASK", make.task(3))
    running.wait_for(lambda: events(shipped, tmp_path) == 4)
    running.wait_for(lambda: any(f"{path}: it is a FIFO" in message for message in running.messages("WARNING")))
    assert running.stop() == 0


def test_names_of_any_bytes_go_all_the_way(agent, ray_dir, make, shipped, tmp_path):
    logs = ray_dir / make.SESSION / "logs"
    names = {b"\xff\xfe.out": "\\xff\\xfe.out", b"a\nb\\.out": "a\\x0ab\\x5c.out", "zähler.out".encode(): "zähler.out"}
    for name in names:
        (logs / os.fsdecode(name)).write_bytes(name)

    def ship():
        running = agent()
        running.wait_for(lambda: "following" in running.printed["err"] and events(shipped, tmp_path) == 3)
        assert running.stop() == 0

    ship()
    ship()  # by what the first one wrote down
    with Store.open(tmp_path / "kept", write=True) as store:
        store.append(shipped(tmp_path / "events"))
        store.fold()
        kept = {log.name: b"".join(store.read_log(make.SESSION, log)) for log in store.logs(make.SESSION)}
    assert kept == {text: name for name, text in names.items()}
