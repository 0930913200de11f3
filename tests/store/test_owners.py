"""Whose node's a log is, where several nodes wrote into one directory: as imported, and as an agent followed it."""

import base64
import json
import os

import httpx
import pytest
from click.testing import CliRunner

from raytrail.cli import main
from raytrail.config import ServerConfig, TailConfig
from raytrail.event import Chunk, Segment
from raytrail.server import app
from raytrail.store import Store
from raytrail.tail import Checkpoint, Tailer

SESSION = "session_2026-11-28_20-26-40_000000_100"
BEGAN_MS = 1_795_900_000_000
A, B, C = "cc" * 28, "aa" * 28, "bb" * 28
"""Nodes, whose ids are not in the order in which they began."""


def b64(id):
    return base64.b64encode(bytes.fromhex(id)).decode()


def worker(number):
    return f"{number:056x}"


def task_id(number):
    return f"{number:032x}ffffffff01000000"


class Directory:
    """A session's directory, written as Ray writes it."""

    def __init__(self, root):
        self.path = root / SESSION
        self.events = self.path / "logs" / "export_events"
        self.events.mkdir(parents=True)

    def event(self, event_type, timestamp_ms, name="", **data):
        event = {
            "event_data": data,
            "event_id": "0",
            "source_type": f"EXPORT_{event_type}",
            "timestamp": timestamp_ms // 1000,
        }
        with (self.events / f"event_EXPORT_{event_type}{name}.log").open("a") as file:
            file.write(json.dumps(event) + "\n")

    def node(self, id, second, *, head=False, ip="192.0.2.1", end=None, ports=True):
        """Have a node begin, and end."""
        if ports:
            for what in ("gcs_server", "metrics_agent") if head else ("metrics_agent",):
                path = self.path / f"{what}_port_{id}"
                path.write_text("1")
                os.utime(path, (second, second))
        for state in ("ALIVE", "DEAD") if end else ("ALIVE",):
            self.event(
                "NODE",
                BEGAN_MS + 1000 * (end if state == "DEAD" else second),
                node_id=b64(id),
                node_manager_address=ip,
                node_name=ip,
                state=state,
                is_head_node=head,
                start_time_ms=str(BEGAN_MS + 1000 * second),
                end_time_ms=str(BEGAN_MS + 1000 * end) if state == "DEAD" else "0",
            )

    def task(self, number, node_id, worker_id):
        """Have a worker of a node run a task."""
        times = {"5": f"{BEGAN_MS}000000", "8": f"{BEGAN_MS}100000", "11": f"{BEGAN_MS}200000"}
        self.event(
            "TASK",
            BEGAN_MS,
            name=f"_{number}",
            task_id=b64(task_id(number)),
            attempt_number=0,
            job_id=b64("01000000"),
            task_info={"type": "NORMAL_TASK", "func_or_class_name": "f", "task_id": b64(task_id(number))},
            state_updates={
                "node_id": b64(node_id),
                "worker_id": b64(worker_id),
                "worker_pid": 100 + number,
                "state_ts_ns": times,
                "task_log_info": {"stdout_file": "", "stdout_start": 0, "stdout_end": 99},
            },
        )

    def actor(self, node_id, pid, job_id="01000000"):
        actor_id = f"{pid:024x}{job_id}"
        self.event(
            "ACTOR",
            BEGAN_MS,
            actor_id=b64(actor_id),
            job_id=b64(job_id),
            state="ALIVE",
            node_id=b64(node_id),
            pid=pid,
        )
        return actor_id

    def submission(self, id, node_id):
        self.event("SUBMISSION_JOB", BEGAN_MS, submission_job_id=id, status="SUCCEEDED", driver_node_id=node_id)

    def driver(self, job_id, ip, second, **metadata):
        at = str(BEGAN_MS + 1000 * second)
        self.event(
            "DRIVER_JOB",
            BEGAN_MS,
            job_id=b64(job_id),
            is_dead=True,
            driver_ip_address=ip,
            start_time=at,
            end_time=at,
            config={"metadata": metadata},
        )

    def log(self, *names):
        """Write logs, in each of which its name stands."""
        for name in names:
            path = self.path / "logs" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{name}\n")


@pytest.fixture
def directory(tmp_path):
    return Directory(tmp_path / "ray")


class Asked:
    """A store, asked as Ray is."""

    def __init__(self, root):
        self.store = Store.open(root)

    async def get(self, path):
        transport = httpx.ASGITransport(app(self.store, ServerConfig()))
        async with httpx.AsyncClient(transport=transport, base_url="http://history") as client:
            return await client.get(f"/clusters/{SESSION}{path}")

    async def listed(self, node_id):
        answer = await self.get(f"/api/v0/logs?node_id={node_id}&glob=**")
        assert answer.status_code == 200, answer.text
        return {name for names in answer.json()["data"]["result"].values() for name in names if name[-1] != "/"}

    async def file(self, query):
        return (await self.get(f"/api/v0/logs/file?{query}")).text.rstrip("\n")


@pytest.fixture
def asked(tmp_path, directory):
    """Import the directory and return its store."""
    opened = []

    def asked():
        root = tmp_path / "store"
        done = CliRunner().invoke(main, ["import", str(directory.path), "--store", str(root)])
        assert done.exit_code == 0, done.output
        opened.append(Asked(root))
        return opened[-1]

    yield asked
    for history in opened:
        history.store.close()


@pytest.fixture
def followed(tmp_path, directory):
    """Follow the directory with an agent; each call takes in what has come since, the last one returns the store."""
    root = tmp_path / "followed"
    store = Store.open(root, write=True)
    config = TailConfig(
        temp_dir=str(directory.path.parent), sessions="all", poll_seconds=1e-9, sweep_seconds=1e-9, inotify=False
    )
    tailers: list[tuple[Tailer, Checkpoint]] = []

    def followed():
        if not tailers:
            checkpoint = Checkpoint(tmp_path / "state" / "checkpoint.sqlite")
            tailers.append((Tailer(config, checkpoint), checkpoint))
        [(tailer, checkpoint)] = tailers
        tailer.look(last=True)
        while chunks := list(tailer.poll()):
            store.append(chunks)
            for chunk in chunks:
                checkpoint.acknowledge(chunk.segments)
        store.append(tailer.reports())
        store.fold()
        return Asked(root)

    yield followed
    store.close()
    for tailer, _ in tailers:
        tailer.close()


OLD_LOGS = {"raylet.out", "gcs_server.out", "dashboard_agent.log", "job-driver-old.log", "jobs/supervisor-old.log"}
NEW_LOGS = {"raylet.1.out", "gcs_server.1.out", "dashboard_agent.1.log", "job-driver-new.log"}
OLD_WORKER, NEW_WORKER = f"worker-{worker(1)}-01000000-101.out", f"worker-{worker(2)}-01000000-102.out"
BOTH = {"dashboard.log", "dashboard_NodeHead.log", "monitor.log"}


def old_life(directory, ip="192.0.2.9"):
    directory.node(A, 0, head=True, ip=ip, end=40)
    directory.submission("old", A)
    directory.task(1, A, worker(1))
    directory.log(*OLD_LOGS, OLD_WORKER, *BOTH)


def new_life(directory, ip="192.0.2.11"):
    directory.node(B, 40, head=True, ip=ip, end=100)
    directory.submission("new", B)
    directory.task(2, B, worker(2))
    directory.log(*NEW_LOGS, NEW_WORKER)


async def check(asked):
    finder = asked.store.log_finder(asked.store.snapshot(SESSION))
    for id, names in ((A, {*OLD_LOGS, OLD_WORKER}), (B, {*NEW_LOGS, NEW_WORKER, *BOTH})):
        assert await asked.listed(id) == names
        assert [log.name for log in finder.listed(id, "*")] == sorted(name for name in names if "/" not in name)
        assert {log.name for log in finder.listed() if log.node_id == id} == names
    for ip in ("192.0.2.11", "192.0.2.77"):
        answer = await asked.get(f"/api/v0/logs?node_ip={ip}&glob=raylet*")
        assert answer.json()["data"]["result"] == {"raylet": ["raylet.1.out"]}, (
            "an address of no node is the newest head's"
        )
    for name in ("old", "new"):
        assert (await asked.get(f"/api/jobs/{name}/logs")).json() == {"logs": f"job-driver-{name}.log\n"}
    for number, node_id, log in ((1, A, OLD_WORKER), (2, B, NEW_WORKER)):
        assert await asked.file(f"task_id={task_id(number)}") == log
        assert await asked.file(f"node_id={node_id}&pid={100 + number}") == log
        assert await asked.file(f"node_id={node_id}&filename={log}") == log
        assert await asked.file(f"node_id={node_id}&filename=dashboard.log") == "dashboard.log", "both have written it"
    assert await asked.file(f"node_id={A}&filename=gcs_server.out") == "gcs_server.out"
    assert "A file is not found" in await asked.file(f"node_id={B}&filename=gcs_server.out")
    assert "Could not find a log file" in await asked.file(f"node_id={B}&pid=101")


@pytest.mark.parametrize("ip", ["192.0.2.9", "192.0.2.11"])  # another one than the second head's, and the same
@pytest.mark.parametrize("times", ["as they were", "all alike", "the other way round"])
async def test_logs_of_a_directory_in_which_a_head_restarted_are_those_of_the_head_that_wrote_them(
    directory, asked, ip, times
):
    old_life(directory, ip)
    new_life(directory)
    for path in directory.path.glob("*_port_*"):  # as copies come
        if times != "as they were":
            second = 7 if times == "all alike" else (7 if path.name.endswith(B) else 9)
            os.utime(path, (second, second))
    await check(asked())


def test_the_command_line_lists_them_so_too(tmp_path, directory, asked):
    old_life(directory)
    new_life(directory)
    asked()
    for id, names in ((A, {*OLD_LOGS, OLD_WORKER}), (B, {*NEW_LOGS, NEW_WORKER, *BOTH})):
        done = CliRunner().invoke(main, ["logs", "--node", id, "--format", "json", "--store", str(tmp_path / "store")])
        assert {log["name"] for log in json.loads(done.stdout)} == names
        assert {log["node_id"] for log in json.loads(done.stdout)} == {id}


async def test_also_as_an_agent_saw_them_which_was_there_all_the_time(directory, followed):
    old_life(directory)
    idle = f"worker-{worker(9)}-ffffffff-909.out"
    directory.log(idle)
    followed()
    new_life(directory)
    asked = followed()
    assert idle in await asked.listed(A), "events tell nothing of it; the agent has seen it in that head's life"
    assert (await asked.listed(A)) - {idle} == {*OLD_LOGS, OLD_WORKER}
    assert await asked.listed(B) == {*NEW_LOGS, NEW_WORKER, *BOTH}
    assert (await asked.get("/api/jobs/old/logs")).json() == {"logs": "job-driver-old.log\n"}
    assert await asked.file(f"node_id={B}&filename=monitor.log") == "monitor.log"
    assert await asked.file(f"node_id={A}&filename=monitor.log") == "monitor.log"


async def test_also_as_an_agent_saw_them_that_came_with_the_second_head(directory, followed):
    old_life(directory)
    new_life(directory)
    await check(followed())


async def test_three_heads_of_one_directory(directory, asked):
    for number, (id, second) in enumerate(((A, 0), (C, 100), (B, 200))):
        directory.node(id, second, head=True, ip="192.0.2.1", end=second + 90)
        suffix = f".{number}" if number else ""
        directory.log(
            f"raylet{suffix}.out", f"gcs_server{suffix}.out", f"worker-{worker(number)}-01000000-{number}.out"
        )
        directory.task(number, id, worker(number))
    it = asked()
    for number, id in enumerate((A, C, B)):
        suffix = f".{number}" if number else ""
        own = {f"raylet{suffix}.out", f"gcs_server{suffix}.out", f"worker-{worker(number)}-01000000-{number}.out"}
        assert await it.listed(id) == own


async def test_two_raylets_of_one_machine_have_each_its_own_workers(directory, asked):
    directory.node(A, 0, head=True)
    directory.node(B, 1)
    directory.task(1, A, worker(1))
    directory.task(2, B, worker(2))
    first = {f"python-core-worker-{worker(1)}_101.log", f"worker-{worker(1)}-01000000-101.err", "raylet.out"}
    second = {f"python-core-worker-{worker(2)}_102.log", f"worker-{worker(2)}-ffffffff-102.err", "raylet.1.out"}
    untold = {"gcs_server.out", "monitor.log", f"worker-{worker(3)}-ffffffff-103.out", "serve/notes.log"}
    directory.log(*first, *second, *untold)
    it = asked()
    assert await it.listed(A) == first | untold
    assert await it.listed(B) == second
    assert await it.file(f"node_id={B}&filename=monitor.log") == "monitor.log"
    assert await it.file(f"task_id={task_id(2)}&suffix=err") != ""


async def test_a_worker_that_was_started_anew_on_the_same_disk_is_another_node(directory, asked):
    directory.node(A, 0, end=50)
    directory.node(B, 60)
    directory.task(1, A, worker(1))
    directory.log("raylet.out", "raylet.1.out", OLD_WORKER, f"worker-{worker(7)}-01000000-107.out")
    it = asked()
    assert await it.listed(A) == {"raylet.out", OLD_WORKER}
    assert await it.listed(B) == {"raylet.1.out", f"worker-{worker(7)}-01000000-107.out"}


@pytest.mark.parametrize("ports", [True, False])
async def test_what_actors_drivers_and_datasets_say_tells_too(directory, asked, ports):
    directory.node(A, 0, head=True, ip="192.0.2.9", end=40, ports=ports)
    directory.node(B, 40, head=True, ip="192.0.2.9", ports=ports)
    actors = {id: directory.actor(id, pid, job) for id, pid, job in ((A, 71, "02000000"), (B, 72, "04000000"))}
    directory.driver("01000000", "192.0.2.9", 10, job_submission_id="lost")
    directory.driver("03000000", "192.0.2.9", 50)
    for dataset, job in (("d1", "01000000"), ("d3", "03000000")):
        directory.event("DATASET_METADATA", BEGAN_MS, dataset_id=dataset, job_id=job, state="RUNNING")
    names = {
        A: (
            f"worker-{worker(71)}-02000000-71.out",
            f"python-core-driver-01000000{'f' * 48}_11.log",
            f"python-core-driver-02000000{'f' * 48}_12.log",
            "runtime_env_setup-01000000.log",
            "ray-data/ray-data-d1.log",
            "job-driver-lost.log",
        ),
        B: (
            f"worker-{worker(72)}-04000000-72.out",
            f"python-core-driver-03000000{'f' * 48}_13.log",
            "ray-data/ray-data-d3.log",
        ),
    }
    directory.log(*names[A], *names[B])
    it = asked()
    for id in (A, B):
        assert await it.listed(id) == set(names[id])
        assert await it.file(f"actor_id={actors[id]}") == names[id][0]
    assert await it.file(f"node_id={A}&submission_id=lost") == "job-driver-lost.log"


async def test_a_node_of_which_nothing_came_but_its_events_has_no_others_logs(directory, asked):
    directory.node(A, 0, head=True, ip="192.0.2.1")
    directory.node(B, 1, ip="192.0.2.2", ports=False)
    directory.log("raylet.out", "gcs_server.out")
    it = asked()
    assert await it.listed(A) == {"raylet.out", "gcs_server.out"}
    assert await it.listed(B) == set()


async def test_a_head_that_moved_to_another_disk_shares_nothing_with_the_one_before(tmp_path, directory):
    """Each head's agent has shipped its own, under its own id."""
    old_life(directory)
    with Store.open(tmp_path / "store", write=True) as store:
        for id, logs in ((A, OLD_LOGS), (B, {"raylet.out", "gcs_server.out", "dashboard.log"})):
            directory.node(id, 0 if id == A else 50, head=True, ip=f"192.0.2.{id[:2] == 'aa'}")
            for name in logs:
                file = f"1795900000-{(id[:2] + name).encode().hex():0>32}"
                fields = {"file": file, "generation": 0, "name": name, "seen": f"{1:013d} {name}", "event_type": "LOG"}
                line = {"event_data": {**fields, "node_id": id}, "source_type": "RAYTRAIL_FILE", "timestamp": 1}
                head = {"cluster": "", "session": SESSION, "node_id": id}
                data = json.dumps(line).encode() + b"\n"
                store.append([Chunk(event_type="FILE", segments=(), data=data, **head)])
        data = (directory.events / "event_EXPORT_NODE.log").read_bytes()
        segments = (Segment("1-1", 0, 0, len(data)),)
        store.append([Chunk(cluster="", session=SESSION, node_id=A, event_type="NODE", segments=segments, data=data)])
        store.fold()
        finder = store.log_finder(store.snapshot(SESSION))
        assert {log.name for log in finder.of_node(A)} == OLD_LOGS
        assert {log.name for log in finder.of_node(B)} == {"raylet.out", "gcs_server.out", "dashboard.log"}
