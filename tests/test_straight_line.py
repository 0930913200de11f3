"""
The whole of Raytrail in one test, from a line that Ray writes to an answer over HTTP.

    file -> tail -> chunk -> publish -> consume -> append -> fold -> serve
            \\______ agent.run _____/    \\_____ history.run ____/
"""

import asyncio
import base64
import contextlib
import json

import httpx

from raytrail import agent, history
from raytrail.config import AgentConfig, ServerConfig, StoreConfig, TailConfig
from raytrail.pubsub import connect
from raytrail.server import app
from raytrail.store import Store
from raytrail.tail import Checkpoint, Tailer

SESSION = "session_2026-11-23_07-40-30_867494_13129"
BEGAN_S = 1_795_419_640
JOB = "01000000"
TASK = "6f987653cd99dd4effffffffffffffffffffffff" + JOB
NODE = "c82f3ced206d8fe4f8f4eba5ec53cc2c50e818f00627a9d4b836c011"


async def test_an_event_that_ray_wrote_is_read_back_over_http(tmp_path):
    events = tmp_path / "ray" / SESSION / "logs" / "export_events"
    events.mkdir(parents=True)
    (tmp_path / "ray" / "session_latest").symlink_to(SESSION)

    # The agent reads what Ray writes on its node; the history keeps what the agents publish; the server shows it.
    store_config = StoreConfig(batch_seconds=0.05, fold_seconds=0.1, seal_after_end_seconds=0.2)
    with (
        contextlib.closing(Checkpoint(tmp_path / "checkpoint.sqlite")) as checkpoint,
        contextlib.closing(Tailer(TailConfig(temp_dir=str(tmp_path / "ray")), checkpoint)) as tailer,
        Store.open(tmp_path / "store", store_config, write=True) as store,
    ):
        broker = connect(f"file://{tmp_path}/events")
        server = httpx.ASGITransport(app(store, ServerConfig()))
        stop = asyncio.Event()
        async with httpx.AsyncClient(transport=server, base_url="http://history") as client:
            running = [
                asyncio.create_task(agent.run(tailer, checkpoint, broker, lambda: AgentConfig(drain_seconds=5), stop)),
                asyncio.create_task(history.run(broker, store, store_config, stop, group="history")),
            ]

            # A node joins. A driver submits a task; a worker runs it, and says so in a file of its own.
            write(events / "event_EXPORT_NODE.log", node_is("ALIVE"))
            write(events / "event_EXPORT_TASK_13699.log", the_driver_says())
            write(events / "event_EXPORT_TASK_13993.log", the_worker_says())
            await until(lambda: states(client, SESSION, "tasks"), ["RUNNING"])
            [task] = await rows(client, SESSION, "tasks")
            assert (task["task_id"], task["name"], task["worker_pid"]) == (TASK, "square", 13993)

            # The task ends; then the session does, with its last node. It is sealed, and goes on to answer.
            write(events / "event_EXPORT_TASK_13699.log", the_driver_says(finished=True))
            await until(lambda: states(client, SESSION, "tasks"), ["FINISHED"])
            write(events / "event_EXPORT_NODE.log", node_is("DEAD"))
            await until(lambda: sealed(client), [True])
            assert await states(client, SESSION, "tasks") == ["FINISHED"]
            assert await states(client, f"{SESSION}/final", "nodes") == ["DEAD"]
            # without a moment in its path: just before its shutdown, when there was something to see
            assert await states(client, SESSION, "nodes") == ["ALIVE"]

            # As of any earlier moment it answers as the live cluster would have then.
            then = f"{SESSION}/at/{BEGAN_S * 1000 + 2500}"
            assert await states(client, then, "tasks") == ["RUNNING"]
            assert await states(client, then, "nodes") == ["ALIVE"]

            # Every byte that Ray wrote is accounted for.
            stop.set()
            await asyncio.gather(*running)
            ledger = (await client.get(f"/api/clusters/{SESSION}")).json()["ledger"]
            assert {row["event_type"]: row["stored_bytes"] for row in ledger} == {
                "NODE": bytes_in(events, "event_EXPORT_NODE.log"),
                "TASK": bytes_in(events, "event_EXPORT_TASK_*.log"),
            }
            assert [row["missing_bytes"] for row in ledger] == [0, 0]
        await broker.aclose()


def write(path, event):
    """Append a line, as Ray does."""
    with path.open("a") as file:
        file.write(json.dumps(event) + "\n")


def node_is(state):
    dead = state == "DEAD"
    data = {
        "node_id": encoded(NODE),
        "node_manager_address": "192.0.2.2",
        "is_head_node": True,
        "start_time_ms": str(BEGAN_S * 1000),
        "end_time_ms": str((BEGAN_S + 9) * 1000 if dead else 0),
        "state": state,
    }
    return event("EXPORT_NODE", data, BEGAN_S + 9 if dead else BEGAN_S)


def the_driver_says(*, finished=False):
    """It owns the task: what it is, when it was submitted, how it ended."""
    states = {"1": 1, "5": 1, "11": 3} if finished else {"1": 1, "5": 1}
    data = {
        **KEY,
        "task_info": {"type": "NORMAL_TASK", "func_or_class_name": "square", "language": "PYTHON"},
        "state_updates": {"node_id": encoded(NODE), "state_ts_ns": times(states)},
    }
    return event("EXPORT_TASK", data, BEGAN_S + max(states.values()))


def the_worker_says():
    data = {**KEY, "state_updates": {"worker_pid": 13993, "state_ts_ns": times({"8": 2})}}
    return event("EXPORT_TASK", data, BEGAN_S + 2)


def event(source_type, data, timestamp):
    return {"event_data": data, "event_id": "259739f28a2d209c", "source_type": source_type, "timestamp": timestamp}


def times(states):
    return {number: str((BEGAN_S + second) * 10**9) for number, second in states.items()}


def encoded(hex_id):
    return base64.b64encode(bytes.fromhex(hex_id)).decode()


KEY = {"task_id": encoded(TASK), "attempt_number": 0, "job_id": encoded(JOB)}


async def rows(client, cluster, noun):
    """What Ray's State API lists; nothing as long as no event of the cluster has arrived."""
    answer = await client.get(f"/clusters/{cluster}/api/v0/{noun}?detail=1")
    return [] if answer.status_code == 404 else answer.json()["data"]["result"]["result"]


async def states(client, cluster, noun):
    return [row["state"] for row in await rows(client, cluster, noun)]


async def sealed(client):
    return [cluster["sealed"] for cluster in (await client.get("/api/clusters")).json()["clusters"]]


async def until(ask, expected, seconds=30):
    """Ask until the answer is as expected."""
    end = asyncio.get_running_loop().time() + seconds
    while (answer := await ask()) != expected:
        assert asyncio.get_running_loop().time() < end, f"still {answer} and not {expected} after {seconds} s"
        await asyncio.sleep(0.02)


def bytes_in(directory, pattern):
    return sum(path.stat().st_size for path in directory.glob(pattern))
