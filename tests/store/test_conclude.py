"""What is concluded where no event says so: of a living session, at every moment of it, and when it is sealed."""

import base64
import time

import pytest

from raytrail.config import StoreConfig
from raytrail.entities import installed
from raytrail.entities.ends import JOB_DONE_DELAY_MS, LEFT_OPEN_MS, WORKER_DEAD_DELAY_MS
from raytrail.event import Chunk
from raytrail.fold.conclude import MANY_ROWS
from raytrail.store import Store
from raytrail.testing.entities import SESSION, chunk, line

ENTITIES = installed()
S = 1_000_000_000
T0 = int(time.time()) - 3600
"""All of it is over by now: a living session's states are those of this moment."""
MS = T0 * 1000


def encoded(data):
    return base64.b64encode(data).decode()


HEAD, NODE = (encoded(bytes([n]) * 28) for n in (1, 2))
WORKER, OTHER = (encoded(bytes([n]) * 28) for n in (3, 4))
JOB_ID = b"\x01\0\0\0"
JOB = encoded(JOB_ID)
DETACHED_ID, ACTOR_ID = (bytes([n]) * 12 + JOB_ID for n in (5, 6))
DRIVER_WORKER = encoded(JOB_ID + b"\xff" * 24)
OBJECT = encoded(b"\x07" * 28)


@pytest.fixture(autouse=True, params=[0, MANY_ROWS], ids=["many states", "few states"])
def many_rows(request, monkeypatch):
    """So many states are concluded by reading them again and again. Fewer are made once."""
    monkeypatch.setattr("raytrail.fold.conclude.MANY_ROWS", request.param)


@pytest.fixture
def put(store, event):
    """Append events of an entity and fold them."""

    def put(name, at, /, **data):
        at_ms = data.pop("at_ms", None)
        number = sum(file.events for file in store._catalogue.log_files(SESSION))
        line = event(name, T0 + at, **data)
        if at_ms is not None:
            line = line[:-1] + b',"time_ns":%d}' % ((MS + at_ms) * 1_000_000)
        store.append([chunk(ENTITIES[name], [line], file=f"{number:010d}-0")])
        store.fold()

    return put


@pytest.fixture
def cluster(put):
    """A head that lives, and a driver that began."""
    put("node", 0, node_id=HEAD, state="ALIVE", is_head_node=True, start_time_ms=str(MS))
    put("driver_job", 1, job_id=JOB, is_dead=False, start_time=str(MS + 1000), driver_pid="7")


@pytest.fixture
def attempt(put):
    """Tell an attempt of a task: the seconds at which it was pending, submitted, running, finished or failed."""
    numbers = {"pending": "1", "submitted": "5", "running": "8", "finished": "11", "failed": "12"}

    def attempt(number=1, *, attempt=0, actor=None, parent=None, worker=None, node=None, info=(), **seconds):
        kind = {"type": "ACTOR_TASK", "actor_id": encoded(actor)} if actor else {"type": "NORMAL_TASK"}
        parents = {"parent_task_id": encoded(parent)} if parent else {}
        updates = {"state_ts_ns": {numbers[name]: str(int((T0 + at) * S)) for name, at in seconds.items()}}
        updates |= {name: value for name, value in (("worker_id", worker), ("node_id", node)) if value}
        put(
            "task",
            int(min(seconds.values())),
            task_id=encoded(bytes([number]) * 24),
            attempt_number=attempt,
            job_id=JOB,
            task_info={**kind, **parents, "func_or_class_name": "f", **dict(info)},
            state_updates=updates,
        )

    return attempt


def end_job(put, at):
    put("driver_job", at, job_id=JOB, is_dead=True, start_time=str(MS + 1000), end_time=str(MS + at * 1000))


def end_node(put, at, node=NODE):
    put("node", at, node_id=node, state="DEAD", start_time_ms=str(MS), end_time_ms=str(MS + at * 1000))


def ask(store, noun="task", at=None, **of):
    """Return the state, the reason, and the end in seconds since the beginning, at a moment or now."""
    at_ms = None if at is None else MS + int(at * 1000)
    end = {"worker": "end_time_ms", "object": "deletion_time_ms"}.get(noun, "end_time_ms")
    rows = store.snapshot(SESSION, at_ms).rows(noun)
    for row in rows:
        if all(row[name] == value for name, value in of.items()):
            ended = row[end]
            return row["state"], row["inferred"], None if ended is None else (ended - MS) / 1000
    return None


def test_a_job_closes_what_is_open_of_it_once_ray_looks_and_nothing_that_begins_later(store, cluster, put, attempt):
    attempt(1, pending=5)
    end_job(put, 20)
    attempt(2, pending=30)
    attempt(3, pending=20 + JOB_DONE_DELAY_MS / 1000 + 1)
    for at, first, second, third in (
        (19, ("PENDING_ARGS_AVAIL", None, None), None, None),
        (34.9, ("PENDING_ARGS_AVAIL", None, None), ("PENDING_ARGS_AVAIL", None, None), None),
        (35, ("FAILED", "job ended", 20), ("FAILED", "job ended", 20), None),
        (600, ("FAILED", "job ended", 20), ("FAILED", "job ended", 20), ("PENDING_ARGS_AVAIL", None, None)),
        (None, ("FAILED", "job ended", 20), ("FAILED", "job ended", 20), ("PENDING_ARGS_AVAIL", None, None)),
    ):
        answers = [ask(store, at=at, task_id=bytes([number]).hex() * 24) for number in (1, 2, 3)]
        assert answers == [first, second, third], at
    end_node(put, 1000, HEAD)
    before = {at: [ask(store, at=at, task_id=bytes([n]).hex() * 24) for n in (1, 2, 3)] for at in (19, 34, 35, 600)}
    store.seal(SESSION)
    assert {
        at: [ask(store, at=at, task_id=bytes([n]).hex() * 24) for n in (1, 2, 3)] for at in (19, 34, 35, 600)
    } == before
    assert ask(store, task_id="03" * 24) == ("FAILED", "session ended", 1000)
    assert ask(store, task_id="01" * 24) == ("FAILED", "job ended", 20)


def test_a_worker_that_is_told_to_have_died_closes_its_tasks_in_rays_words(store, cluster, put, attempt):
    attempt(1, pending=5, submitted=6, running=7, worker=WORKER, node=HEAD)
    put("worker", 6, worker_id=WORKER, node_id=HEAD, is_alive=True, pid=9, at_ms=6000)
    death = {"exit_type": "SYSTEM_ERROR", "exit_detail": "it crashed", "end_time_ms": str(MS + 9250)}
    put("worker", 9, worker_id=WORKER, node_id=HEAD, is_alive=False, pid=9, at_ms=9400, **death)
    end_job(put, 12)
    due = 9.25 + WORKER_DEAD_DELAY_MS / 1000
    assert ask(store, at=due - 0.001) == ("RUNNING", None, None)
    # Ray's milliseconds pass through a double, and may come out one lower
    died = ("FAILED", "worker died", pytest.approx(9.25, abs=0.002))
    assert (ask(store, at=due), ask(store)) == (died, died)
    [row] = store.snapshot(SESSION).rows("task")
    assert (row["error_type"], row["error_message"]) == (
        "WORKER_DIED",
        f"Worker running the task ({'03' * 28}) died with exit_type: 0 with error_message: it crashed",
    )


def test_a_detached_actor_and_what_it_submits_outlive_the_job(store, cluster, put, attempt):
    put("actor", 2, actor_id=encoded(DETACHED_ID), job_id=JOB, state="ALIVE", is_detached=True, node_id=HEAD)
    # a child of it that is not detached, and its task, which began before the job's end
    put("actor", 3, actor_id=encoded(ACTOR_ID), job_id=JOB, state="ALIVE", is_detached=False, node_id=HEAD)
    parent = b"\x09" * 8 + DETACHED_ID
    end_job(put, 20)
    attempt(1, pending=100, submitted=101, running=102, worker=WORKER, node=HEAD, parent=parent)
    attempt(2, pending=100, submitted=101, running=102, worker=OTHER, node=HEAD, actor=DETACHED_ID)
    assert [row["state"] for row in store.snapshot(SESSION).rows("task")] == ["RUNNING", "RUNNING"]
    assert [row["state"] for row in store.snapshot(SESSION).rows("actor")] == ["ALIVE", "ALIVE"]
    end_node(put, 600, HEAD)
    store.seal(SESSION)
    assert [row["state"] for row in store.snapshot(SESSION, MS + 590_000).rows("task")] == ["RUNNING", "RUNNING"]
    assert {row["state"] for row in store.snapshot(SESSION).rows("task")} == {"FAILED"}


def test_what_a_detached_actor_finishes_after_ray_looked_stays_failed_as_in_ray(store, cluster, put, attempt):
    put("actor", 2, actor_id=encoded(DETACHED_ID), job_id=JOB, state="ALIVE", is_detached=True, node_id=HEAD)
    end_job(put, 20)
    attempt(1, pending=18, submitted=18, running=18, finished=50, worker=WORKER, node=HEAD, actor=DETACHED_ID)
    attempt(2, pending=18, submitted=18, running=18, finished=30, worker=WORKER, node=HEAD, actor=DETACHED_ID)
    for sealed in (False, True):
        if sealed:
            store.seal(SESSION)
        assert ask(store, at=40, task_id="01" * 24) == ("FAILED", "job ended", 20)
        assert ask(store, at=60, task_id="01" * 24) == ("FAILED", "job ended", 20)
        assert ask(store, at=60, task_id="02" * 24) == ("FINISHED", None, 30)


def test_what_an_event_ended_is_not_ended_by_anything_else(store, cluster, put, attempt):
    attempt(1, pending=5, submitted=6, running=7, finished=8, worker=WORKER, node=NODE)
    attempt(2, pending=5, submitted=6, running=7, failed=8, worker=WORKER, node=NODE)
    end_node(put, 15)
    end_job(put, 20)
    assert ask(store, task_id="01" * 24) == ("FINISHED", None, 8)
    assert ask(store, task_id="02" * 24) == ("FAILED", None, 8)


def test_a_node_closes_what_was_on_it_though_ray_keeps_its_workers_and_leaves_its_tasks(store, cluster, put, attempt):
    put("node", 0, node_id=NODE, state="ALIVE", start_time_ms=str(MS))
    put("worker", 6, worker_id=WORKER, node_id=NODE, is_alive=True, pid=9, at_ms=6000)
    put("worker", 6, worker_id=OTHER, node_id=HEAD, is_alive=True, pid=9, at_ms=6000)
    put("object", 7, object_id=OBJECT, worker_id=WORKER, node_id=NODE, change="CREATED", type="WORKER", at_ms=7000)
    put("object", 7, object_id=OBJECT, worker_id=OTHER, node_id=HEAD, change="CREATED", type="WORKER", at_ms=7000)
    put("actor", 8, actor_id=encoded(ACTOR_ID), job_id=JOB, state="ALIVE", node_id=NODE)
    attempt(1, pending=5, submitted=6, running=7, worker=WORKER, node=NODE)
    end_node(put, 15)
    worker = {"worker_id": "03" * 28}
    assert ask(store, "worker", at=14, **worker) == ("ALIVE", None, None)
    assert ask(store, "worker", at=15, **worker) == ask(store, "worker", **worker) == ("DEAD", "node died", None)
    assert {row["is_alive"] for row in store.snapshot(SESSION).rows("worker")} == {True}
    assert ask(store, "worker", worker_id="04" * 28) == ("ALIVE", None, None)
    assert ask(store, "object", at=14, **worker) == ("REFERENCED", None, None)
    assert ask(store, "object", at=15, **worker) == ask(store, "object", **worker) == ("DELETED", "node died", 15)
    assert ask(store, "object", worker_id="04" * 28) == ("REFERENCED", None, None)
    assert ask(store, "actor", at=14) == ("ALIVE", None, None)
    assert ask(store, "actor") == ("DEAD", "node died", 15)
    due = 15 + LEFT_OPEN_MS / 1000
    assert ask(store, at=due - 0.001) == ("RUNNING", None, None)
    assert ask(store, at=due) == ask(store) == ("FAILED", "node died", 15)


def test_objects_go_with_whom_they_are_referred_to_by(store, cluster, put):
    put("worker", 6, worker_id=WORKER, node_id=HEAD, is_alive=True, pid=9, at_ms=6000)
    put("object", 7, object_id=OBJECT, worker_id=WORKER, node_id=HEAD, change="CREATED", type="WORKER", at_ms=7000)
    driver = {"worker_id": DRIVER_WORKER, "node_id": HEAD, "type": "DRIVER"}
    put("object", 7, object_id=OBJECT, change="CREATED", at_ms=7000, **driver)
    death = {"exit_type": "SYSTEM_ERROR", "end_time_ms": str(MS + 9250)}
    put("worker", 9, worker_id=WORKER, node_id=HEAD, is_alive=False, pid=9, at_ms=9400, **death)
    end_job(put, 12)
    assert ask(store, "object", at=9, worker_id="03" * 28) == ("REFERENCED", None, None)
    assert ask(store, "object", worker_id="03" * 28) == ("DELETED", "worker died", 9.25)
    assert ask(store, "object", at=11, type="DRIVER") == ("REFERENCED", None, None)
    assert ask(store, "object", type="DRIVER") == ("DELETED", "job ended", 12)


def test_without_events_of_workers_a_jobs_workers_end_with_it_and_an_actors_with_that(store, cluster, put, attempt):
    cause = {"actor_died_error_context": {"error_message": "The actor is dead because it was killed."}}
    put("actor", 3, actor_id=encoded(ACTOR_ID), job_id=JOB, state="ALIVE", node_id=HEAD)
    attempt(1, pending=5, submitted=6, running=7, worker=WORKER, node=HEAD)
    attempt(2, pending=5, submitted=6, running=7, worker=OTHER, node=HEAD, actor=ACTOR_ID)
    put("actor", 9, actor_id=encoded(ACTOR_ID), job_id=JOB, state="DEAD", node_id=HEAD, death_cause=cause)
    end_job(put, 20)
    assert ask(store, at=9, task_id="02" * 24) == ("RUNNING", None, None)
    assert ask(store, at=10, task_id="02" * 24) == ("FAILED", "actor died", 9)
    assert ask(store, at=20.9, task_id="01" * 24) == ("RUNNING", None, None)
    assert ask(store, at=21, task_id="01" * 24) == ("FAILED", "job ended", 20)


def test_an_inferred_end_is_never_before_the_first_event(store, cluster, put, attempt):
    attempt(1, pending=30, submitted=30, running=30, worker=WORKER, node=NODE)
    end_node(put, 15)  # by another clock
    put("object", 20, object_id=OBJECT, worker_id=OTHER, node_id=NODE, change="CREATED", type="WORKER", at_ms=20_000)
    assert ask(store) == ("FAILED", "node died", 30)
    store.seal(SESSION)
    for noun, began in (("task", 30), ("object", 20)):
        assert ask(store, noun)[2] >= began


def test_the_name_that_one_attempt_tells_is_that_of_all(store, cluster, attempt, put):
    attempt(1, pending=5, submitted=6, running=7, failed=9, worker=WORKER, node=NODE)
    attempt(1, attempt=1, pending=10, submitted=10, running=10, finished=12, worker=OTHER, node=HEAD)
    span = {"event_name": "task::given", "start_time": str((T0 + 10) * S), "end_time": str((T0 + 11) * S)}
    put(
        "task",
        12,
        task_id=encoded(b"\x01" * 24),
        attempt_number=1,
        job_id=JOB,
        profile_events={"component_id": OTHER, "component_type": "worker", "events": [span]},
    )
    assert [row["name"] for row in store.snapshot(SESSION).rows("task")] == ["given", "given"]
    store.seal(SESSION)
    assert [row["name"] for row in store.snapshot(SESSION).rows("task")] == ["given", "given"]


def test_a_clock_that_is_ahead_hides_nothing_just_before_the_shutdown(store, cluster, put, attempt):
    put("node", 0, node_id=NODE, state="ALIVE", start_time_ms=str(MS))
    attempt(1, pending=5, submitted=6, running=7, worker=WORKER, node=HEAD)
    # told by the node's own clock, ten minutes ahead; and one that is behind
    attempt(2, pending=604, submitted=604, running=604, failed=605, worker=OTHER, node=NODE)
    attempt(3, pending=-600, submitted=-600, running=-600, failed=-599, worker=OTHER, node=NODE)
    put("actor", 604, actor_id=encoded(ACTOR_ID), job_id=JOB, state="ALIVE", node_id=NODE)
    end_node(put, 59)
    end_node(put, 60, HEAD)
    store.seal(SESSION)
    cluster = store.find(SESSION)
    states = {
        row["task_id"][:2]: row["state"] for row in store.snapshot(SESSION, cluster.before_shutdown_ms).rows("task")
    }
    assert states == {"01": "RUNNING", "02": "FAILED", "03": "FAILED"}
    store.cache(SESSION)
    counted = store.snapshot(SESSION, cluster.before_shutdown_ms).group("task", ["state"])
    assert counted == [{"state": "FAILED", "count": 2}, {"state": "RUNNING", "count": 1}]
    assert store.snapshot(SESSION, cluster.before_shutdown_ms).count("actor") == 1
    assert {row["state"] for row in store.snapshot(SESSION, cluster.ended_ms).rows("task")} == {"FAILED"}


def raylet(node, **seconds):
    """Make a report of an agent: a chunk of no file."""
    node_id = base64.b64decode(node).hex()
    event = {name: MS + at * 1000 for name, at in seconds.items()}
    report = line(ENTITIES["raylet"], T0 + max(seconds.values()), {"node_id": node_id, **event})
    return Chunk(cluster="", session=SESSION, node_id=node_id, event_type="FILE", segments=(), data=report + b"\n")


def test_a_raylet_that_has_gone_ends_its_node_and_so_the_session(tmp_path, event):
    config = StoreConfig(threads=1, seal_after_end_seconds=5, seal_after_quiet_seconds=10_000)
    with Store.open(tmp_path, config, write=True) as store:
        alive = event("node", T0, node_id=HEAD, state="ALIVE", start_time_ms=str(MS))
        store.append([chunk(ENTITIES["node"], [alive]), raylet(HEAD, seen_ms=60, reported_ms=60)])
        store.fold()
        now_ms = time.time_ns() // 1_000_000
        assert store.seal_due(now_ms + 9_000_000) == []
        assert ask(store, "node") == ("ALIVE", None, None)
        store.append([raylet(HEAD, seen_ms=60, gone_ms=90, reported_ms=95)])
        store.fold()
        assert ask(store, "node") == ("DEAD", "raylet gone", 90)
        assert store.seal_due(now_ms + 9_000_000) == [SESSION]
        assert ask(store, "node") == ("DEAD", "raylet gone", 90)
        assert store.find(SESSION).ended_ms == MS + 90_000
        assert ask(store, "node", at=80) == ("ALIVE", None, None)


def test_silence_ends_a_session_where_it_was_last_heard_of_and_a_sign_of_life_opens_it_again(tmp_path, event):
    config = StoreConfig(threads=1, seal_after_end_seconds=5, seal_after_quiet_seconds=100)
    with Store.open(tmp_path, config, write=True) as store:
        alive = event("node", T0, node_id=HEAD, state="ALIVE", start_time_ms=str(MS))
        began = event("driver_job", T0 + 1, job_id=JOB, is_dead=False, start_time=str(MS + 1000))
        store.append([chunk(ENTITIES["node"], [alive]), chunk(ENTITIES["driver_job"], [began], file="0000000000-1")])
        store.append([raylet(HEAD, seen_ms=900, reported_ms=900)])
        store.fold()
        now_ms = time.time_ns() // 1_000_000
        assert store.seal_due(now_ms + 200_000) == [SESSION]
        # idle for a quarter of an hour, but alive
        assert store.find(SESSION).ended_ms == MS + 900_000
        [job] = store.snapshot(SESSION).rows("driver_job")
        assert (job["inferred"], job["end_time_ms"]) == ("session ended", MS + 900_000)
        store.append([raylet(HEAD, seen_ms=960, reported_ms=960)])
        store.fold()
        assert not store.find(SESSION).sealed
        assert ask(store, "node") == ("ALIVE", None, None)
        # what ended otherwise is not opened by an agent that goes on
        dead = event("node", T0 + 970, node_id=HEAD, state="DEAD", end_time_ms=str(MS + 970_000))
        store.append([chunk(ENTITIES["node"], [dead], file="0000000000-2")])
        store.fold()
        assert store.seal_due(time.time_ns() // 1_000_000 + 10_000) == [SESSION]
        store.append([raylet(HEAD, seen_ms=980, reported_ms=980)])
        store.fold()
        assert store.find(SESSION).sealed


def test_the_process_of_an_actor_is_known_from_its_constructor(store, cluster, put):
    put("worker", 6, worker_id=WORKER, node_id=NODE, ip="192.0.2.7", is_alive=True, pid=9, at_ms=6000)
    put("actor", 5, actor_id=encoded(ACTOR_ID), job_id=JOB, state="PENDING_CREATION", pid=0)
    put(
        "task",
        7,
        task_id=encoded(b"\xff" * 8 + ACTOR_ID),
        attempt_number=0,
        job_id=JOB,
        state_updates={"worker_pid": 9, "state_ts_ns": {"8": str((T0 + 7) * S)}},
        profile_events={"component_id": WORKER, "component_type": "worker", "events": []},
    )
    [row] = store.snapshot(SESSION).rows("actor", columns=["pid", "node_id", "_leased_node_id", "_leased_worker_id"])
    assert row == {"pid": 9, "node_id": None, "_leased_node_id": "02" * 28, "_leased_worker_id": "03" * 28}
    assert store.snapshot(SESSION, MS + 6000).rows("actor", columns=["pid"]) == [{"pid": None}]
    store.seal(SESSION)
    assert store.snapshot(SESSION).rows("actor", columns=["pid", "_leased_ip"]) == [
        {"pid": 9, "_leased_ip": "192.0.2.7"}
    ]


def test_a_head_that_another_one_followed_did_not_begin_the_shutdown(store, put):
    for id, began, ended in ((NODE, 0, 50), (HEAD, 50, 60)):
        put("node", began, node_id=id, state="ALIVE", is_head_node=True, start_time_ms=str(MS + began * 1000))
        put(
            "node",
            ended,
            node_id=id,
            state="DEAD",
            is_head_node=True,
            start_time_ms=str(MS + began * 1000),
            end_time_ms=str(MS + ended * 1000),
        )
    store.seal(SESSION)
    assert store.find(SESSION).before_shutdown_ms == MS + 59_999
