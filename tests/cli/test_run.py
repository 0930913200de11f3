"""Commands that run until they are stopped, as processes of their own."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

from raytrail.cli import USAGE
from raytrail.cli._service import all_of
from raytrail.store import Store

PROGRAM = "from raytrail.cli import main; main()"


class Running:
    """A command that runs, with what it has said so far."""

    def __init__(self, arguments, environ):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environ},
        )
        self.said = {"out": "", "err": ""}
        self._readers = [
            threading.Thread(target=self._read, args=item)
            for item in (("out", self.process.stdout), ("err", self.process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name, stream):
        for line in stream:
            self.said[name] += line

    def wait_for(self, condition, seconds=30):
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)
        return found

    def stop(self, number=signal.SIGTERM, seconds=30):
        self.process.send_signal(number)
        return self.wait(seconds)

    def wait(self, seconds=30):
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return code


@pytest.fixture
def start():
    started = []

    def start(*arguments, **environ):
        started.append(Running(arguments, environ))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.wait()


@pytest.fixture
def ray_dir(tmp_path, make):
    """Ray's temp dir with one session, whose node is alive."""
    events = tmp_path / "ray" / make.SESSION / "logs" / "export_events"
    events.mkdir(parents=True)
    (tmp_path / "ray" / "session_latest").symlink_to(make.SESSION)
    (events / "event_EXPORT_NODE.log").write_bytes(make.node("ALIVE"))
    (events / "event_EXPORT_TASK_7.log").write_bytes(make.task(1) + make.task(2))
    return tmp_path / "ray"


def url_of(running):
    return running.wait_for(lambda: re.search(r"serving on (http://\S+)", running.said["err"]))[1]


def clusters_of(url):
    return httpx.get(f"{url}/api/clusters").json()["clusters"]


def rows_of(store, noun="task"):
    try:
        with Store.open(store) as opened:
            return opened.snapshot(opened.find("latest").session).rows(noun)
    except Exception:  # noqa: BLE001 (not made yet)
        return []


@pytest.mark.slow
def test_up_ships_keeps_and_serves_what_ray_writes_and_stops_when_told(start, run, tmp_path, make, ray_dir):
    state = tmp_path / "state"
    up = start("up", "--temp-dir", ray_dir, "--port", "0", "--fold-seconds", "0.2", "--batch-seconds", "0.1")
    url = url_of(up)
    up.wait_for(lambda: [c["tasks"] for c in clusters_of(url)] == [2])
    with (ray_dir / make.SESSION / "logs/export_events/event_EXPORT_TASK_7.log").open("ab") as file:
        file.write(make.task(3))
    up.wait_for(lambda: clusters_of(url)[0]["tasks"] == 3)
    assert up.stop() == 0
    assert len(json.loads(run("list", "tasks", "--store", state / "store", "--format", "json").stdout)) == 3
    done = run("subscribe", f"file://{state}/events", "--types", "task", "--from-start", "--no-follow")
    assert [json.loads(line)["task"]["task_id"] for line in done.stdout.splitlines()] == [
        make.task_id(number) for number in (1, 2, 3)
    ]


@pytest.mark.slow
def test_agent_history_and_server_do_the_same_as_processes_of_their_own(start, tmp_path, ray_dir):
    events, store = f"file://{tmp_path}/events", tmp_path / "store"
    agent = start("agent", "--to", events, "--temp-dir", ray_dir)
    history = start("history", "--from", events, "--store", store, "--fold-seconds", "0.2")
    history.wait_for(lambda: len(rows_of(store)) == 2)
    server = start("serve", "--store", store, "--port", "0")
    assert clusters_of(url_of(server))[0]["tasks"] == 2
    assert [one.stop() for one in (agent, history, server)] == [0, 0, 0]


@pytest.mark.slow
def test_an_agent_that_is_told_to_stop_ships_what_is_left_first(start, run, tmp_path, make, ray_dir):
    with (ray_dir / make.SESSION / "logs/export_events/event_EXPORT_TASK_7.log").open("ab") as file:
        for number in range(3, 3000):
            file.write(make.task(number))
    url = f"file://{tmp_path}/events"
    agent = start("agent", "--to", url, "--temp-dir", ray_dir, "--chunk-bytes", "2048")
    agent.wait_for(lambda: list((tmp_path / "events").glob("*.chunks")))
    assert agent.stop() == 0
    done = run("subscribe", url, "--types", "TASK", "--no-follow")
    assert len(done.stdout.splitlines()) == 2999


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_subscriber_prints_what_comes_until_it_is_stopped(start, tmp_path, ray_dir, number):
    url = f"file://{tmp_path}/events"
    subscriber = start("subscribe", url, "--types", "TASK,NODE")
    agent = start("agent", "--to", url, "--temp-dir", ray_dir)
    subscriber.wait_for(lambda: subscriber.said["out"].count("\n") == 3)
    assert subscriber.stop(number) == 0
    assert agent.stop() == 0
    events = [json.loads(line) for line in subscriber.said["out"].splitlines()]
    assert sorted(event["event_type"] for event in events) == ["NODE", "TASK", "TASK"]
    assert subscriber.said["err"] == ""


def test_a_named_group_goes_on_where_it_left_off(run, tmp_path, make, publish):
    url = publish(make.chunk("TASK", make.task(1)))
    again = ("subscribe", url, "--no-follow", "--group", "audit", "--idle-seconds", "0.3")
    assert len(run(*again).stdout.splitlines()) == 1
    publish(make.chunk("TASK", make.task(2), file="second"))
    assert [json.loads(text)["task"]["task_id"] for text in run(*again).stdout.splitlines()] == [make.task_id(2)]
    assert len(run(*again, "--from-start").stdout.splitlines()) == 2


@pytest.fixture
def publish(tmp_path):
    import asyncio

    from raytrail.pubsub import connect

    url = f"file://{tmp_path}/events"

    async def send(chunk):
        pubsub = connect(url)
        await pubsub.publish(chunk)
        await pubsub.aclose()

    def publish(chunk):
        asyncio.run(send(chunk))
        return url

    return publish


def test_a_url_that_no_backend_knows_is_refused(run):
    assert "no pub/sub backend for 'kafkaa://x'" in run("subscribe", "kafkaa://x", code=USAGE).stderr


def test_a_server_without_its_extra_says_what_to_install(run, history, monkeypatch):
    monkeypatch.setitem(sys.modules, "raytrail.server", None)
    done = run("serve", code=USAGE)
    assert done.stderr == (
        "raytrail: error: the server needs 'raytrail.server', which is not installed; "
        "run `pip install 'raytrail[server]'`\n"
    )


async def test_the_parts_of_a_process_are_stopped_in_their_order():
    import asyncio

    ended = []

    async def part(name, stop):
        await stop.wait()
        await asyncio.sleep(0)
        ended.append(name)

    stops = [asyncio.Event() for _ in range(3)]
    stop = asyncio.Event()
    running = asyncio.ensure_future(all_of(*((part(i, event), event) for i, event in enumerate(stops)), stop=stop))
    stop.set()
    await running
    assert ended == [0, 1, 2]


async def test_a_part_that_fails_stops_the_others_and_its_error_rises():
    import asyncio

    ended = []

    async def good(stop):
        await stop.wait()
        ended.append("good")

    async def bad():
        raise OSError("disk")

    stop = asyncio.Event()
    with pytest.raises(OSError, match="disk"):
        await all_of((good(stop), stop), (bad(), asyncio.Event()), stop=asyncio.Event())
    assert ended == ["good"]
