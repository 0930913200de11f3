"""Ray's log API over the history, against Ray's own code where that can be called."""

import asyncio
import io
import json
import tracemalloc
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ray.dashboard.modules.log.log_agent import find_start_offset_last_n_lines_from_offset
from ray.dashboard.modules.log.log_manager import LogsManager
from tests.server.conftest import MADE, b64
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from raytrail.config import ServerConfig
from raytrail.event import Chunk, Segment
from raytrail.server import application, serve
from raytrail.store import Store

NODE, WORKER, ACTOR = "aa" * 28, "bb" * 28, "cc" * 12 + "01000000"
LOGS = f"/clusters/{MADE}/api/v0/logs"
FILE = f"{LOGS}/file?node_id={NODE}&filename="


def log_chunks(name, data, *, node=NODE, start=0, report=True):
    file = f"1795420800-{name.encode().hex():0>32}"
    head = {"cluster": "", "session": MADE, "node_id": node}
    fields = {"file": file, "generation": 0, "name": name, "seen": f"{1:013d} {name}", "event_type": "LOG"}
    line = {"event_data": {**fields, "node_id": node}, "source_type": "RAYTRAIL_FILE", "timestamp": 1}
    chunks = (
        [Chunk(event_type="LOG", segments=(Segment(file, 0, start, len(data)),), data=data, **head)] if data else []
    )
    if report:
        chunks.append(Chunk(event_type="FILE", segments=(), data=json.dumps(line).encode() + b"\n", **head))
    return chunks


@pytest.fixture
def write(made):
    """Store logs, each a name and its bytes."""

    def write(**logs):
        for name, data in logs.items():
            made.append(log_chunks(name, data))
        made.fold()

    return write


@pytest.fixture
def cluster(add):
    """A node, a worker's actor, and what else is known of them."""
    add(
        (
            "EXPORT_NODE",
            {
                "node_id": b64(NODE),
                "node_manager_address": "192.0.2.2",
                "state": "ALIVE",
                "is_head_node": True,
                "start_time_ms": "1000",
            },
        ),
        ("EXPORT_ACTOR", {"actor_id": b64(ACTOR), "state": "ALIVE", "node_id": b64(NODE), "pid": 7}),
        ("EXPORT_ACTOR", {"actor_id": b64("dd" * 12 + "01000000"), "state": "PENDING_CREATION"}),
    )


async def test_logs_are_listed_by_component_as_ray_does(cluster, write, made_client):
    names = [
        f"worker-{WORKER}-01000000-7.out",
        f"worker-{WORKER}-01000000-7.err",
        "python-core-worker-1_2.log",
        "python-core-driver-1_2.log",
        "raylet.out",
        "gcs_server.out",
        "log_monitor.log",
        "monitor.log",
        "dashboard_agent.log",
        "dashboard.log",
        "job-driver-x.log",
        "serve/controller_1.log",
    ]
    write(**dict.fromkeys(names, b"x\n"))
    answer = (await made_client.get(f"{LOGS}?node_id={NODE}")).json()
    listed = [name for name in names if "/" not in name]
    rays = LogsManager(None)  # type: ignore[arg-type]  # to sort names it asks nobody
    assert answer["data"]["result"] == rays._categorize_log_files(sorted([*listed, "serve/"]))
    answer = (await made_client.get(f"{LOGS}?node_ip=192.0.2.2&glob=serve/*")).json()
    assert answer == {"result": True, "msg": "", "data": {"result": {"internal": ["serve/controller_1.log"]}}}
    elsewhere = (await made_client.get(f"{LOGS}?node_ip=192.0.2.9&glob=raylet*")).json()
    assert elsewhere["data"]["result"] == {"raylet": ["raylet.out"]}, "an address that no node has is the head's"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "Both node id and node ip are not provided. Please provide at least one of them."),
        (
            "?node_id=x&glob=../*",
            "Invalid glob filter: ../*. It must be a relative path and cannot contain '..'.",
        ),
        ("?node_id=x&glob=/etc/*", "Invalid glob filter: /etc/*. It must be a relative path and cannot contain '..'."),
    ],
)
async def test_what_ray_refuses_to_list_is_refused_in_its_words(cluster, made_client, query, message):
    answer = await made_client.get(f"{LOGS}{query}")
    assert (answer.status_code, answer.json()["msg"]) == (400, message)


@pytest.mark.parametrize(
    "name", ["../../catalogue.sqlite", "/etc/passwd", "serve/../../x", "..%2F..%2Fcatalogue.sqlite"]
)
async def test_no_name_leads_out_of_the_logs(cluster, write, made_client, name):
    write(**{"raylet.out": b"x\n"})
    answer = await made_client.get(f"{FILE}{name}")
    assert answer.status_code == 500
    assert "is not within the logs" in answer.text


async def test_a_log_is_given_from_its_last_lines_as_plain_text(cluster, write, made_client):
    write(**{"raylet.out": b"".join(b"%d\n" % number for number in range(3000))})
    for query, lines in (("", 1000), ("&lines=2", 2), ("&lines=-1", 3000), ("&lines=0", 1000)):
        answer = await made_client.get(f"{FILE}raylet.out{query}")
        assert answer.text.split() == [str(number) for number in range(3000 - lines, 3000)]
        assert answer.headers["content-type"] == "text/plain"
        assert answer.headers["content-disposition"] == 'attachment; filename="file.txt"'
    stream = await made_client.get(f"{LOGS}/stream?node_id={NODE}&filename=raylet.out&lines=1&interval=5")
    assert stream.text == "2999\n"


async def test_the_name_of_a_download_is_the_callers_and_breaks_no_header(cluster, write, made_client):
    write(**{"raylet.out": b"x\n"})
    answer = await made_client.get(f'{FILE}raylet.out&download_filename=a"%0d%0aé.txt')
    assert answer.headers["content-disposition"] == 'attachment; filename="a____.txt"'


async def test_colours_are_left_out_where_that_is_asked_for_also_between_two_pieces(cluster, made, made_client):
    for chunk in log_chunks("raylet.out", b"a\x1b[3"):
        made.append([chunk])
    made.append(log_chunks("raylet.out", b"6mb\x1b[0m\n", start=4, report=False))
    made.fold()
    assert (await made_client.get(f"{FILE}raylet.out")).content == b"a\x1b[36mb\x1b[0m\n"
    assert (await made_client.get(f"{FILE}raylet.out&filter_ansi_code=true")).content == b"ab\n"


async def test_an_actors_log_is_that_of_its_process(cluster, write, made_client):
    write(**{f"worker-{WORKER}-ffffffff-7.out": b"mine\n", f"worker-{'ee' * 28}-01000000-77.out": b"not mine\n"})
    answer = await made_client.get(f"{LOGS}/file?actor_id={ACTOR}")
    assert answer.text == "mine\n"
    answer = await made_client.get(f"{LOGS}/file?node_id={NODE}&pid=7")
    assert answer.text == "mine\n"


async def test_the_log_of_an_actor_that_died_before_ray_heard_of_its_process_is_found_by_its_creation(
    add, cluster, write, made_client
):
    actor = "dd" * 12 + "01000000"
    written = f"worker-{'ee' * 28}-01000000-77.out"
    write(**{written: b"not today\n", f"worker-{WORKER}-01000000-7.out": b"not mine\n"})
    attempts = [
        ("EXPORT_TASK", {
            "task_id": b64("ff" * 8 + actor), "attempt_number": attempt, "job_id": b64("01000000"),
            "task_info": {"type": "ACTOR_CREATION_TASK", "actor_id": b64(actor), "func_or_class_name": "Broken"},
            "state_updates": {"node_id": b64(NODE), "worker_id": b64(worker), "worker_pid": pid,
                              "state_ts_ns": {"8": "1795419640000000000"}},
        })
        for attempt, worker, pid in ((1, "ee" * 28, 77), (0, WORKER, 7))
    ]  # fmt: skip
    add(*attempts, ("EXPORT_ACTOR", {"actor_id": b64(actor), "state": "DEAD"}))
    assert (await made_client.get(f"{LOGS}/file?actor_id={actor}")).text == "not today\n"


async def test_the_log_of_an_actor_killed_in_its_constructor_is_found_by_what_says_why_it_died(
    add, cluster, write, made_client
):
    actor = "ee" * 12 + "01000000"
    write(**{f"worker-{'ee' * 28}-01000000-78.out": b"constructing\n"})
    died = {"actor_died_error_context": {"error_message": "killed", "node_ip_address": "192.0.2.2", "pid": 78}}
    add(("EXPORT_ACTOR", {"actor_id": b64(actor), "state": "DEAD", "pid": 78, "death_cause": died}))
    assert (await made_client.get(f"{LOGS}/file?actor_id={actor}")).text == "constructing\n"


TASK_LOG = b":job_id:01000000\n:task_name:f\nfirst\n:task_name:f\nsecond\nof f\n:task_name:f\nthird\n"


@pytest.mark.parametrize("start", [0, TASK_LOG.index(b"second")])
async def test_a_task_has_its_part_of_its_workers_log_also_where_rays_event_leaves_out_its_start(
    cluster, write, add, task, made_client, start
):
    source, data = task(5)
    end = TASK_LOG.index(b":task_name:f\nthird")
    data["state_updates"] = {
        "node_id": b64(NODE),
        "worker_id": b64(WORKER),
        "worker_pid": 7,
        "state_ts_ns": {"8": "1000000000"},
        "task_log_info": {
            "stdout_file": f"worker-{WORKER}-01000000-7.out",
            "stdout_start": start,
            "stdout_end": end,
        },
    }
    add((source, data))
    # it was started in advance, of which its task's event says nothing
    write(**{f"worker-{WORKER}-ffffffff-7.out": TASK_LOG})
    answer = await made_client.get(f"{LOGS}/file?task_id={5:040x}01000000&attempt_number=0")
    assert answer.text == "second\nof f\n"
    answer = await made_client.get(f"{LOGS}/file?task_id={5:040x}01000000&lines=1")
    assert answer.text == "of f\n"


@pytest.fixture
def printed(cluster, add, task):
    """Tell of a task that a worker ran, and where its output ended, as Ray does where its start was not told before."""

    def printed(number, **ends):
        source, data = task(number)
        data["state_updates"] = {
            "node_id": b64(NODE),
            "worker_id": b64(WORKER),
            "worker_pid": 7,
            "state_ts_ns": {"8": "1000000000", "11": "2000000000"},
            "task_log_info": {
                **dict.fromkeys(("stdout_file", "stderr_file"), ""),
                **{f"std{name}_start": 0 for name in ends},
                **{f"std{name}_end": end for name, end in ends.items()},
            },
        }
        add((source, data))

    return printed


@pytest.fixture
def listed(made, made_client):
    """Ask for tasks with all detail: for one, or for a list."""

    async def listed(number=None):
        asked = f"&filter_keys=task_id&filter_predicates=%3D&filter_values={number:040x}01000000" if number else ""
        answer = await made_client.get(f"/clusters/{MADE}/api/v0/tasks?detail=1{asked}")
        assert answer.status_code == 200, answer.text
        return [row["task_log_info"] for row in answer.json()["data"]["result"]["result"]]

    return listed


async def test_of_one_task_the_log_tells_where_its_output_starts(printed, write, listed):
    end, errors = TASK_LOG.index(b":task_name:f\nthird"), b":job_id:01000000\n:task_name:f\noh\n"
    printed(5, out=end, err=len(errors))
    write(**{f"worker-{WORKER}-01000000-7.out": TASK_LOG, f"worker-{WORKER}-01000000-7.err": errors})
    [attempt] = await listed(5)
    assert (attempt["stdout_start"], attempt["stdout_end"]) == (TASK_LOG.index(b"second"), end)
    assert (attempt["stderr_start"], attempt["stderr_end"]) == (errors.index(b"oh"), len(errors))
    [row] = await listed()
    assert (row["stdout_start"], row["stderr_start"]) == (0, 0), "a list reads no logs"


@pytest.mark.parametrize(
    ("name", "pieces", "blocks"),
    [
        ("another", [(0, 99)], 4),
        ("worker", [(0, -2)], 4),  # its end did not come
        ("worker", [(0, 40), (41, 99)], 4),  # something before it did not
        ("worker", [(0, 99)], 2),  # its start is farther off
    ],
)
async def test_a_log_that_does_not_tell_all_tells_no_start(printed, made, listed, monkeypatch, name, pieces, blocks):
    monkeypatch.setattr("raytrail.store.finder.BLOCK_BYTES", 8)
    monkeypatch.setattr("raytrail.server.ray.logs.NEAR_BLOCKS", blocks)
    printed(5, out=len(TASK_LOG))
    for start, end in pieces:
        for chunk in log_chunks(f"{name}-{WORKER}-01000000-7.out", TASK_LOG[start:end], start=start):
            made.append([chunk])
    made.fold()
    [attempt] = await listed(5)
    assert attempt["stdout_start"] == 0


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (f"actor_id={'0f' * 16}", f"Actor ID {'0f' * 16} not found."),
        (
            "actor_id=" + "dd" * 12 + "01000000",
            f"Worker ID for Actor ID {'dd' * 12}01000000 not found. Actor is not scheduled yet.",
        ),
        (f"task_id={'0f' * 24}", f"Could not find log file for task: {'0f' * 24} (attempt 0) with suffix: out"),
        (f"node_id={NODE}&filename=none.log", "A file is not found at: none.log"),
        ("filename=x", "node_id or node_ip must be provided as constructor arguments when no "),
        (
            "node_id=a&node_ip=b&filename=x",
            "Both node_id and node_ip are given. Only one of them can be provided. ",
        ),
        ("node_id=a", "None of actor_id, task_id, pid, submission_id or filename is provided. At least one"),
        ("node_id=a&pid=1&suffix=log", "Invalid suffix: log. Must be one of 'out' or 'err'."),
        ("node_id=a&pid=x", "pid 'x' is not a number"),
        (f"node_id={NODE}&submission_id=none", "Could not find a log file. Please make sure the given option"),
    ],
)
async def test_what_is_not_found_is_said_in_rays_words(cluster, write, made_client, query, message):
    write(**{"raylet.out": b"x\n"})
    answer = await made_client.get(f"{LOGS}/file?{query}")
    assert answer.status_code == 500  # for all that is wrong, as Ray, which catches none of its errors here
    assert message in answer.text


async def test_logs_of_a_node_that_never_was_are_not_listed(cluster, write, made_client):
    write(**{"raylet.out": b"x\n"})
    for node in ("x", "0f" * 28):
        answer = await made_client.get(f"{LOGS}?node_id={node}")
        assert (answer.status_code, answer.text) == (500, f"Agent for node id: {node} doesn't exist.")


@pytest.fixture
def job(add, write):
    add(
        (
            "EXPORT_SUBMISSION_JOB",
            {"submission_job_id": "s1", "status": "SUCCEEDED", "driver_node_id": NODE, "start_time": 1, "end_time": 2},
        ),
        ("EXPORT_DRIVER_JOB", {"job_id": b64("01000000"), "is_dead": True}),
    )
    write(**{"job-driver-s1.log": 'one\r\n10%\r20%\n"quoted" ☃\n'.encode() + b"\xff"})


JOB_TEXT = 'one\n10%\n20%\n"quoted" ☃\n�'


async def test_a_jobs_output_is_given_as_ray_reads_it(cluster, job, made_client):
    answer = await made_client.get(f"/clusters/{MADE}/api/jobs/s1/logs")
    assert (answer.json(), answer.headers["content-type"]) == ({"logs": JOB_TEXT}, "application/json")
    answer = await made_client.get(f"/clusters/{MADE}/api/jobs/01000000/logs")
    assert (answer.status_code, answer.text) == (400, "Can only get logs of submission type jobs")
    answer = await made_client.get(f"/clusters/{MADE}/api/jobs/none/logs")
    assert (answer.status_code, answer.text) == (404, "Job none does not exist")


@asynccontextmanager
async def listening(store):
    """The address of a server of its own."""
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(store, ServerConfig(port=0), ready=ready.set_result, stop=stop))
    try:
        yield await asyncio.wait_for(ready, 30)
    finally:
        stop.set()
        await asyncio.wait_for(serving, 30)


async def test_a_job_is_followed_to_its_end_by_websocket(cluster, job, made):
    async with listening(made) as address:
        url = f"{address.replace('http', 'ws', 1)}/clusters/{MADE}/api/jobs"
        async with connect(f"{url}/s1/logs/tail") as socket:
            texts: list[Any] = [text async for text in socket]
        assert "".join(texts) == JOB_TEXT
        assert socket.close_code == 1000
        for name, status, reason in (
            ("none", 404, b"Job none does not exist"),
            ("01000000", 400, b"Can only get logs of submission type jobs"),
        ):
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"{url}/{name}/logs/tail")
            assert (refused.value.response.status_code, refused.value.response.body) == (status, reason)


async def test_a_job_is_followed_at_a_moment_only_if_it_was_there(cluster, job, made):
    async with listening(made) as address:
        url = f"{address.replace('http', 'ws', 1)}/clusters/{MADE}/at"
        async with connect(f"{url}/1000000000000/api/jobs/s1/logs/tail") as socket:
            texts: list[Any] = [text async for text in socket]
            assert "".join(texts) == JOB_TEXT
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{url}/0/api/jobs/s1/logs/tail")
        assert (refused.value.response.status_code, refused.value.response.body) == (404, b"Job s1 does not exist")


async def test_the_log_of_a_job_whose_name_has_a_slash_is_found(cluster, add, write, made, made_client):
    add(("EXPORT_SUBMISSION_JOB", {"submission_job_id": "team/job-1", "status": "SUCCEEDED", "driver_node_id": NODE}))
    write(**{"job-driver-team/job-1.log": b"hi\n", "job-driver-job-1.log": b"another's\n"})
    answer = await made_client.get(f"/clusters/{MADE}/api/jobs/team%2Fjob-1/logs")
    assert answer.json() == {"logs": "hi\n"}
    async with listening(made) as address:
        url = f"{address.replace('http', 'ws', 1)}/clusters/{MADE}/api/jobs"
        async with connect(f"{url}/team%2Fjob-1/logs/tail") as socket:
            assert [text async for text in socket] == ["hi\n"]


@pytest.mark.slow
@given(
    data=st.lists(st.sampled_from([b"\n", b"x", b"line\n", b"y" * 50]), max_size=40).map(b"".join),
    lines=st.integers(1, 20),
    end=st.integers(0, 300),
)
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lines_are_counted_from_the_end_as_ray_counts_them(tmp_path_factory, monkeypatch, data, lines, end):
    monkeypatch.setattr("raytrail.store.finder.BLOCK_BYTES", 16)
    end = min(end, len(data))
    with Store.open(tmp_path_factory.mktemp("store"), write=True) as store:
        store.append(log_chunks("raylet.out", data or b"\n"))
        store.fold()
        [log] = store.logs(MADE)
        ours = store.log_finder(store.snapshot(MADE)).last_lines(log, end, lines)
    theirs = find_start_offset_last_n_lines_from_offset(io.BytesIO(data), offset=end, n=lines, block_size=16)
    assert ours == theirs


@pytest.fixture
def large(cluster, made):
    """A log of 200 MB, of the line that is returned."""
    line = b"%0199d\n" % 7
    piece = line * 20_000
    for number in range(50):
        made.append(log_chunks("raylet.out", piece, start=number * len(piece), report=number == 0))
    made.fold()
    return line


async def test_a_large_log_is_told_from_its_end_and_whole_in_little_memory(large, made, made_client):
    tracemalloc.start()
    try:
        async with made_client.stream("GET", f"{FILE}raylet.out&lines=3") as answer:
            assert await answer.aread() == large * 3
        [log] = made.logs(MADE)
        assert sum(len(data) for data in made.read_log(MADE, log)) == 200_000_000
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


async def test_readers_that_take_nothing_fill_no_memory_and_hold_up_nobody(large, made):
    request = f"GET {FILE}raylet.out&lines=-1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    async with listening(made) as address, AsyncExitStack() as readers:
        tracemalloc.start()
        readers.callback(tracemalloc.stop)
        for _ in range(3 * application.QUERIES_AT_ONCE):
            # beyond twice this limit a reader takes nothing more from its socket
            reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(address).port, limit=1024)
            readers.callback(writer.close)
            writer.write(request)
            assert b"200" in await asyncio.wait_for(reader.readline(), 30)
        async with httpx.AsyncClient(base_url=address, timeout=30) as client:
            assert (await client.get(f"{FILE}raylet.out&lines=3")).content == large * 3
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
