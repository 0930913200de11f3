"""A small history, the command line on it, and commands that run until they are stopped."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from raytrail.cli import main
from raytrail.event import Chunk, Segment
from raytrail.store import Store

PROGRAM = "from raytrail.cli import main; main()"

SESSION = "session_2026-11-23_07-40-30_867494_13129"
BEGAN_S = 1_795_419_630


def encoded(hex_id):
    return base64.b64encode(bytes.fromhex(hex_id)).decode()


def line(source_type, data, timestamp=BEGAN_S):
    event = {"event_data": data, "event_id": "0" * 36, "source_type": source_type, "timestamp": timestamp}
    return json.dumps(event).encode() + b"\n"


def chunk(event_type, *lines, session=SESSION, file=None, start=0):
    data = b"".join(lines)
    file = file or f"{BEGAN_S}-{event_type.lower():0>32}"
    return Chunk(
        cluster="lab",
        session=session,
        node_id="aa" * 28,
        event_type=event_type,
        segments=(Segment(file, 0, start, len(data)),),
        data=data,
    )


def task_id(number):
    return f"{number:032x}" + "ffffffff" + "01000000"


def task_data(number, *, state=11, name="f", attempt=0):
    """A task that was submitted `number` seconds after the beginning, and took one."""
    at = (BEGAN_S + number) * 10**9
    times = {"1": str(at), "8": str(at + 10**8), str(state): str(at + 10**9)}
    return {
        "task_id": encoded(task_id(number)),
        "attempt_number": attempt,
        "job_id": encoded("01000000"),
        "task_info": {
            "type": "NORMAL_TASK",
            "language": "PYTHON",
            "func_or_class_name": name,
            "task_id": encoded(task_id(number)),
            "required_resources": {"CPU": 1},
        },
        "state_updates": {"worker_pid": 4711, "state_ts_ns": times},
    }


def task(number, **options):
    return line("EXPORT_TASK", task_data(number, **options), BEGAN_S + number + 1)


def node(state="DEAD"):
    data = {
        "node_id": encoded("aa" * 28),
        "node_manager_address": "192.0.2.2",
        "state": state,
        "node_name": "head",
        "start_time_ms": str(BEGAN_S * 1000),
        "end_time_ms": str((BEGAN_S + 600) * 1000) if state == "DEAD" else "0",
        "is_head_node": True,
        "resources_total": {"CPU": 4.0},
    }
    return line("EXPORT_NODE", data, BEGAN_S + 600 if state == "DEAD" else BEGAN_S)


def actor(number, state="DEAD", name=""):
    data = {
        "actor_id": encoded(f"{number:024x}01000000"),
        "job_id": encoded("01000000"),
        "state": state,
        "class_name": "Counter",
        "name": name,
        "pid": 99,
    }
    return line("EXPORT_ACTOR", data, BEGAN_S + 5)


def chunks():
    """One session: five tasks of which one failed, two actors, a node that died at last."""
    return [
        chunk("NODE", node("ALIVE"), node("DEAD")),
        chunk("TASK", *(task(n) for n in range(1, 5)), task(5, state=12, name="boom")),
        chunk("ACTOR", actor(1, "ALIVE", name="keeper"), actor(1, name="keeper"), actor(2)),
    ]


@pytest.fixture
def make():
    """What tests build events with; a conftest cannot be imported."""
    return SimpleNamespace(
        SESSION=SESSION,
        BEGAN_S=BEGAN_S,
        actor=actor,
        chunk=chunk,
        line=line,
        node=node,
        task=task,
        task_data=task_data,
        task_id=task_id,
    )


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """Nothing of the developer's own settings, and no store of theirs."""
    for name in list(os.environ):
        if name.startswith("RAYTRAIL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RAYTRAIL_TAIL_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture(scope="session")
def sealed(tmp_path_factory):
    """The directory of a store with one sealed session, to be copied: to fold it takes longer than to ask it."""
    root = tmp_path_factory.mktemp("sealed")
    with Store.open(root, write=True) as store:
        store.append(chunks())
        store.fold()
        store.seal(SESSION)
        store.cache(SESSION)
    return root


@pytest.fixture
def history(sealed, tmp_path, monkeypatch):
    """The directory of a store with one sealed session, which every command finds by itself."""
    root = shutil.copytree(sealed, tmp_path / "history")
    monkeypatch.setenv("RAYTRAIL_STORE_DIR", str(root))
    return root


@pytest.fixture
def run():
    """Run a command; says what it printed."""

    def run(*arguments, code=0):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.output
        return result

    return run


def _buffered():
    """This process's environment, without what would flush for a command that forgets to: containers often say it."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


class Running:
    """A command that runs, with what it has said so far."""

    def __init__(self, arguments, environ):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**_buffered(), **environ},
        )
        self.printed = {"out": "", "err": ""}
        self._readers = [
            threading.Thread(target=self._read, args=item)
            for item in (("out", self.process.stdout), ("err", self.process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name, stream):
        for line in stream:
            self.printed[name] += line

    def wait_for(self, condition, seconds=30):
        deadline = time.monotonic() + seconds
        while not (outcome := condition()):
            assert self.process.poll() is None, self.printed
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.02)
        return outcome

    def messages(self, level):
        """Return what was logged at a level, without its time and place."""
        return re.findall(rf"^\S+ {level} \S+: (.*)$", self.printed["err"], re.MULTILINE)

    def stop(self, number=signal.SIGTERM, seconds=30):
        self.process.send_signal(number)
        return self.wait(seconds)

    def wait(self, seconds=30):
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream
            stream.close()
        return code


@pytest.fixture
def start():
    """Start a command; one that still runs at the end is killed."""
    started = []

    def start(*arguments, **environ):
        started.append(Running(arguments, environ))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()  # if it still runs
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


@pytest.fixture
def write(ray_dir, make):
    """Append lines to an event file of the session."""

    def write(event_type, *lines):
        name = "event_EXPORT_TASK_7.log" if event_type == "TASK" else f"event_EXPORT_{event_type}.log"
        with (ray_dir / make.SESSION / "logs" / "export_events" / name).open("ab") as file:
            file.write(b"".join(lines))

    return write


_FRAME = re.compile(rb"#raytrail ([0-9]{8}) ([0-9]{12}) [0-9a-f]{8} [0-9a-f]{8}\n")


@pytest.fixture
def shipped():
    """Return the chunks that a `file://` broker's directory holds, as they were published."""

    def shipped(directory):
        read_chunks = []
        for path in sorted(directory.glob("*.chunks")):
            content, at = path.read_bytes(), 0
            while (frame := _FRAME.match(content, at)) is not None:
                headers_end = frame.end() + int(frame[1])
                at = headers_end + int(frame[2])
                if at > len(content):  # it is being written
                    break
                headers = json.loads(content[frame.end() + 1 : headers_end])
                read_chunks.append(Chunk.from_wire(headers, content[headers_end:at]))
        return read_chunks

    return shipped


@pytest.fixture
def notified(tmp_path, monkeypatch):
    """What a service has told systemd so far: a function; every process that is started may tell."""
    path = tmp_path / "notify"
    states, done = [], threading.Event()

    def listen(manager):  # all the time: who finds ten unread messages waits
        while not done.is_set():
            with suppress(TimeoutError):
                states.append(manager.recv(4096).decode())

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(0.1)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        listening = threading.Thread(target=listen, args=(manager,))
        listening.start()
        yield lambda: list(states)
        done.set()
        listening.join()
