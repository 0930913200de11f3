"""A small history, and the command line on it."""

import base64
import json
import os
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from raytrail.cli import main
from raytrail.event import Chunk, Segment
from raytrail.store import Store

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


@pytest.fixture
def history(tmp_path, monkeypatch):
    """The directory of a store with one sealed session, which every command finds by itself."""
    root = tmp_path / "history"
    with Store.open(root, write=True) as store:
        store.append(chunks())
        store.fold()
        store.seal(SESSION)
        store.cache(SESSION)
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
