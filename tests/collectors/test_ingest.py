"""Agent -> HTTP -> server -> broker -> history, all of them processes; the server is killed in between."""

import os
import signal
import subprocess
import sys

import pytest
from lab.generate import generate
from lab.ports import free_port
from tests.line import Line, wait_for

TOKEN = "only-for-this-test"


class Served(Line):
    """A line whose history is fed by a server, which may be ended and started again."""

    port: int
    served: list[subprocess.Popen]


@pytest.fixture
def line(tmp_path, monkeypatch):
    port = free_port()
    monkeypatch.setenv("RAYTRAIL_SERVER_INGEST_TOKEN", TOKEN)
    monkeypatch.setenv("RAYTRAIL_HTTP_TOKEN", TOKEN)
    line = Served(tmp_path / "line", f"http://127.0.0.1:{port}/ingest", f"file://{tmp_path}/events")
    line.port, line.served = port, []
    yield line
    line.end()
    for process in line.served:
        if process.poll() is None:
            process.kill()
            process.wait()


def serve(line):
    flags = ["--store", line.store, "--port", str(line.port), "--ingest", line.history_from]
    with (line.root / "serve.log").open("ab") as log:
        line.served.append(
            subprocess.Popen([sys.executable, "-m", "raytrail", "serve", *flags], stdout=log, stderr=log)
        )


def received(line):
    directory = line.history_from.removeprefix("file://")
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return sum(os.path.getsize(os.path.join(directory, name)) for name in names if name.endswith(".chunks"))


@pytest.mark.slow
def test_what_agents_post_is_kept_once_though_the_server_is_killed(line):
    line.start("history")
    wait_for((line.store / "catalogue.sqlite").exists, 60, "a store")
    written = generate(line.temp_dir, tasks=8000, files=8)
    line.start("agent")  # there is nobody yet to post to
    serve(line)
    for turn in range(3):
        before = received(line)
        wait_for(lambda before=before: received(line) > before, 60, f"something that arrives, after {turn} kills")
        line.served[-1].send_signal(signal.SIGKILL)
        line.served[-1].wait()
        serve(line)
    wait_for(lambda: line.arrived({"events": written.events}), 90, "all events in the store")
    line.stop("agent")
    line.stop("history")
    assert line.arrived({"events": written.events})
