"""What events add up to: live, sealed, and at an earlier moment."""

import base64
from copy import deepcopy
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.histories import forget_sums

from raytrail.config import StoreConfig
from raytrail.entities import installed
from raytrail.errors import ConfigError, NotFoundError
from raytrail.event import Chunk
from raytrail.fold import tally
from raytrail.store import Filter, Store, seal
from raytrail.store.live import LiveFold
from raytrail.testing.entities import SESSION, chunk, line

ENTITIES = installed()
S = 1_000_000_000
T0 = 1795419640
ACTOR = base64.b64encode(b"\x02" * 12 + b"\x01\0\0\0").decode()
NODE = base64.b64encode(b"\x03" * 28).decode()
WORKER = base64.b64encode(b"\x04" * 28).decode()
JOB = base64.b64encode(b"\x01\0\0\0").decode()


def times(**states):
    numbers = {
        "pending": "1",
        "submitted": "5",
        "args": "7",
        "running": "8",
        "get": "9",
        "finished": "11",
        "failed": "12",
        "pinning": "13",
    }
    return {"state_ts_ns": {numbers[name]: str((T0 + at) * S) for name, at in states.items()}}


def put(store, name, *lines, file=None):
    store.append([chunk(ENTITIES[name], lines, file=file or f"0000000000-{name}")])
    store.fold()


def only(store, name, at_ms=None):
    [state] = store.snapshot(SESSION, at_ms).rows(name)
    return state


@pytest.mark.parametrize(
    ("states", "state"),
    [
        ({}, "NIL"),
        ({"pending": 0}, "PENDING_ARGS_AVAIL"),
        ({"pending": 0, "running": 2, "get": 1}, "RUNNING_IN_RAY_GET"),
        ({"running": 5, "finished": 1}, "FINISHED"),
        ({"finished": 5, "failed": 1}, "FAILED"),
        ({"args": 1, "pinning": 2}, "GETTING_AND_PINNING_ARGS"),
        ({"pinning": 2, "running": 1}, "RUNNING"),
        ({"pinning": 9, "finished": 1}, "FINISHED"),
    ],
)
def test_the_state_of_a_task_is_the_highest_by_rank_and_not_by_number_or_time(store, task, states, state):
    put(store, "task", task(state_updates=times(**states)))
    assert only(store, "task")["state"] == state
    store.seal(SESSION)
    assert store.snapshot(SESSION).group("task", ["state"]) == [
        {"state": state if state in ("FINISHED", "FAILED") else "FAILED", "count": 1}
    ]


def test_a_submission_job_is_as_its_newest_event_says_it_nulls_included(store, event):
    failed = {"driver_exit_code": 3, "error_type": "JOB_ENTRYPOINT_COMMAND_ERROR", "message": "it failed"}
    put(
        store,
        "submission_job",
        event("submission_job", T0, submission_job_id="nightly", status="FAILED", start_time=5, end_time=9, **failed),
        event("submission_job", T0 + 1, submission_job_id="nightly", status="RUNNING", start_time=11),
    )
    [row] = store.snapshot(SESSION).rows("submission_job")
    assert (row["status"], row["start_time_ms"]) == ("RUNNING", 11)
    assert {name: row[name] for name in ("driver_exit_code", "error_type", "message", "end_time_ms")} == {
        "driver_exit_code": None,
        "error_type": None,
        "message": None,
        "end_time_ms": None,
    }


def test_a_null_or_an_unset_value_never_erases_a_known_one(store, event):
    put(
        store,
        "actor",
        event("actor", T0, actor_id=ACTOR, state="ALIVE", pid=7, node_id=NODE, name="a"),
        event("actor", T0 + 1, actor_id=ACTOR, state="RESTARTING", pid=0, node_id="", name=""),
    )
    actor = only(store, "actor")
    assert (actor["state"], actor["pid"], actor["name"]) == ("RESTARTING", 7, "a")
    assert actor["node_id"] == "03" * 28


def test_events_of_one_second_are_ordered_by_their_place_in_the_file_and_across_its_rotation(store, event):
    states = ["ALIVE", "RESTARTING", "ALIVE", "RESTARTING"]
    lines = [event("actor", T0, actor_id=ACTOR, state=state) for state in states]
    end = event("actor", T0, actor_id=ACTOR, state="DEAD")
    # the file that was begun later holds the later events, though they stand nearer to its start
    store.append([chunk(ENTITIES["actor"], [end], file=f"{T0}-ffff")])
    store.append([chunk(ENTITIES["actor"], lines, file=f"{T0 - 9}-0000")])
    store.fold()
    actor = only(store, "actor")
    assert (actor["state"], actor["num_restarts"]) == ("DEAD", 2)


def test_an_actor_that_was_posted_has_its_times_to_the_millisecond_and_why_it_restarted(store):
    def posted(state, ms, **fields):
        data = {"actor_id": base64.b64encode(b"a" * 16).decode(), "state": state, **fields}
        return line(installed()["actor"], T0 + ms // 1000, data, time_ns=T0 * 10**9 + ms * 10**6)

    def restarting(ms, reason):
        return posted("RESTARTING", ms, restart_reason=reason)

    lines = [
        posted("ALIVE", 250, restart_reason="ACTOR_FAILURE"),
        restarting(300, "ACTOR_FAILURE"),
        restarting(400, "NODE_PREEMPTION"),
        restarting(400, "NODE_PREEMPTION"),  # told twice: it is one
        restarting(500, "LINEAGE_RECONSTRUCTION"),
        restarting(600, "LINEAGE_RECONSTRUCTION"),
        posted("DEAD", 1750, restart_reason="ACTOR_FAILURE"),
    ]
    store.append([chunk(installed()["actor"], lines)])
    store.fold()
    actor = only(store, "actor")
    assert (actor["start_time_ms"], actor["end_time_ms"]) == (T0 * 1000 + 250, T0 * 1000 + 1750)
    assert actor["num_restarts"] == 4
    assert actor["num_restarts_due_to_node_preemption"] == 1
    assert actor["num_restarts_due_to_lineage_reconstruction"] == 2
    assert only(store, "actor", T0 * 1000 + 450)["num_restarts"] == 2


def test_a_driver_of_which_only_the_node_is_told_has_the_address_of_that_node(store, event):
    put(store, "driver_job", event("driver_job", T0, job_id=JOB, driver_node_id=NODE))
    assert only(store, "driver_job")["driver_ip_address"] is None
    put(store, "node", event("node", T0, node_id=NODE, node_manager_address="192.0.2.7"))
    assert only(store, "driver_job")["driver_ip_address"] == "192.0.2.7"
    store.seal(SESSION)
    assert only(store, "driver_job")["driver_ip_address"] == "192.0.2.7"


def test_folding_again_and_restarting_change_nothing(tmp_path, task, config):
    lines = [
        task(n, task_info={"type": "NORMAL_TASK", "func_or_class_name": "f"}, state_updates=times(pending=n))
        for n in (1, 2)
    ]
    ends = [task(n, state_updates=times(running=n + 1, finished=n + 2)) for n in (1, 2)]
    with Store.open(tmp_path, config, write=True) as store:
        put(store, "task", *lines)
        store.fold()
    with Store.open(tmp_path, config, write=True) as store:
        put(store, "task", *ends, file="0000000000-executor")
        live = store.snapshot(SESSION).rows("task")
        assert [row["state"] for row in live] == ["FINISHED", "FINISHED"]
        store.seal(SESSION)
        assert store.snapshot(SESSION).rows("task") == live
        store.rebuild(SESSION)
        assert store.snapshot(SESSION).rows("task") == live


def complete(task, number, at):
    """A whole attempt in one line, of which nothing more is expected."""
    info = {"type": "NORMAL_TASK", "func_or_class_name": "f"}
    span = {"event_name": "task::f", "start_time": "1", "end_time": "2", "extra_data": "{}"}
    updates = {
        **times(pending=at, running=at, finished=at),
        "task_log_info": {"stdout_end": 1, "stderr_end": 1},
    }
    return task(
        number, at=T0 + at, task_info=info, state_updates=updates,
        profile_events={"component_type": "worker", "component_id": WORKER, "events": [span]},
    )  # fmt: skip


def test_a_backlog_that_is_divided_by_keys_first_loses_nothing_and_leaves_nothing_open(store, task, monkeypatch):
    monkeypatch.setattr("raytrail.store.live.PASS_EVENTS", 8)
    monkeypatch.setattr("raytrail.store.live.MOST_READS", 2)
    monkeypatch.setattr("raytrail.store.live.DIVIDE_EVENTS", 16)
    divide, divisions = LiveFold._divide, []

    def divided(*args):
        divisions.append(divide(*args))
        return divisions[-1]

    monkeypatch.setattr(LiveFold, "_divide", divided)
    whole = [complete(task, number, number) for number in range(1, 41)]
    begun = [task(number, at=T0, state_updates=times(pending=0)) for number in range(1, 41)]
    for half, lines in (("a", begun), ("b", whole)):
        # a chunk of each ten lines: a file of the log each, as a backlog is appended
        for first in range(0, 40, 10):
            store.append([chunk(ENTITIES["task"], lines[first : first + 10], file=f"{half}{first:09d}-f")])
    store.fold()
    [division] = divisions
    assert 1 < len(division) <= 10  # one for each pass that there is anything for
    assert all(len(files) > 1 for files in division)
    kinds = {file.kind: file.rows for file in store._catalogue.state_files(SESSION, "task")}
    assert kinds.get("open", 0) == 0
    assert store.snapshot(SESSION).count("task", [Filter("state", "=", "FINISHED")]) == 40
    assert not list((store._root / "tmp").glob("divided-*"))


def test_of_the_log_only_small_files_are_gathered(store, task, monkeypatch):
    monkeypatch.setattr("raytrail.store.live.SMALL_FILES", 2)
    monkeypatch.setattr("raytrail.store.live.SMALL_LOG_EVENTS", 2)

    def events_of_files():
        return sorted(file.events for file in store._catalogue.log_files(SESSION, "task"))

    for number in range(1, 4):
        put(store, "task", complete(task, number, 0), complete(task, number + 10, 0), file=f"{number:010d}-large")
    assert events_of_files() == [2, 2, 2]
    for number in range(4, 7):
        put(store, "task", complete(task, number, 0), file=f"{number:010d}-small")
    assert events_of_files() == [1, 2, 2, 2, 2]
    assert store.snapshot(SESSION).count("task") == 9


@pytest.mark.slow
def test_many_small_folds_are_gathered_and_lose_nothing(tmp_path, task, config):
    count = 120
    with Store.open(tmp_path, config, write=True) as store:
        for number in range(1, count + 1):
            put(store, "task", complete(task, number, number), file=f"{number:010d}-f")
        files = list((tmp_path / "state" / SESSION).glob("*closed*"))
        named = store._catalogue.state_files(SESSION, "task")
        assert len(named) < 60 < len(files) + len(named)
        assert len(store._catalogue.log_files(SESSION, "task")) < 60
        live = store.snapshot(SESSION)
        assert live.count("task") == live.count("task", [Filter("state", "=", "FINISHED")]) == count
        store.rebuild(SESSION)
        assert store.snapshot(SESSION).count("task") == count


@pytest.mark.parametrize("folded", [False, True])
def test_a_session_is_sealed_without_an_entity_that_is_installed_no_longer(folded, store, event, monkeypatch):
    lines = {
        "dataset": event("dataset", T0, dataset_id="d", state="RUNNING", job_id="01000000"),
        "actor": event("actor", T0, actor_id=ACTOR, state="ALIVE"),
    }
    for name, event_line in lines.items():
        store.append([chunk(ENTITIES[name], [event_line], file=f"0000000000-{name}")])
    if folded:
        store.fold()
    still_installed = {name: entity for name, entity in installed().items() if name != "dataset"}
    for module in ("live", "seal"):
        monkeypatch.setattr(f"raytrail.store.{module}.installed", lambda: still_installed)
    store.seal(SESSION)
    store.cache(SESSION)
    assert only(store, "actor")["state"] == "DEAD"


def test_a_straggler_of_a_closed_task_is_joined_to_it_when_the_session_is_sealed(store, task):
    put(store, "task", complete(task, 1, 0))
    put(store, "task", task(1, state_updates={"worker_pid": 77, "state_ts_ns": {}}), file="0000000000-late")
    store.seal(SESSION)
    assert only(store, "task")["worker_pid"] == 77


def test_what_gcs_concludes_is_inferred(store, task, event):
    def at(number, **more):
        return task(number, task_info={"type": "NORMAL_TASK", "func_or_class_name": "f"}, **more)

    node = {"node_id": NODE, "start_time_ms": str(T0 * 1000)}
    died = {"reason": "UNEXPECTED_TERMINATION", "reason_message": "no heartbeat"}
    put(
        store,
        "node",
        event("node", T0, **node, state="ALIVE"),
        event("node", T0 + 50, **node, state="DEAD", end_time_ms=str((T0 + 50) * 1000), death_info=died),
    )
    put(
        store,
        "driver_job",
        event("driver_job", T0 + 30, job_id=JOB, is_dead=True, end_time=str((T0 + 30) * 1000)),
    )
    exit_message = (
        "The actor is dead because its worker process has died. "
        "Worker exit type: SYSTEM_ERROR Worker exit detail: boom\nx"
    )
    cause = {"actor_died_error_context": {"error_message": exit_message}}
    put(
        store,
        "actor",
        event("actor", T0, actor_id=ACTOR, job_id=JOB, state="ALIVE", name="anna", repr_name="Anna()"),
        event("actor", T0 + 20, actor_id=ACTOR, job_id=JOB, state="DEAD", death_cause=cause),
    )
    other = base64.b64encode(b"\x09\0\0\0").decode()
    put(
        store,
        "task",
        at(1, state_updates=times(pending=1)),
        task(
            2,
            task_info={"type": "ACTOR_TASK", "func_or_class_name": "A.m", "actor_id": ACTOR},
            state_updates={**times(pending=1, running=2), "worker_id": WORKER, "worker_pid": 5},
        ),
        at(3, job=other, state_updates={**times(pending=1, running=2), "worker_id": WORKER, "node_id": NODE}),
        at(4, job=other, state_updates=times(pending=1)),
        at(5, job=other, state_updates=times(pending=1, finished=2)),
    )
    store.seal(SESSION)
    rows = {row["task_id"][:2]: row for row in store.snapshot(SESSION).rows("task")}
    assert {
        key: (row["state"], row["inferred"], row["end_time_ms"] and row["end_time_ms"] // 1000 - T0)
        for key, row in rows.items()
    } == {
        "01": ("FAILED", "job ended", 30),
        "02": ("FAILED", "actor died", 20),
        "03": ("FAILED", "node died", 50),
        "04": ("FAILED", "session ended", 50),
        "05": ("FINISHED", None, 2),
    }
    assert rows["01"]["error_type"] == "WORKER_DIED"
    assert (
        rows["01"]["error_message"]
        == "Job finishes (01000000) as driver exits. Marking all non-terminal tasks as failed."
    )
    assert rows["02"]["error_message"] == (
        f"Worker running the task ({'04' * 28}) died with exit_type: 0 with error_message: boom\nx"
    )
    assert rows["02"]["name"] == "Anna().m"
    assert rows["05"]["error_type"] is None
    # before its job ended, it was pending, and nobody knew better
    before = store.snapshot(SESSION, (T0 + 29) * 1000).rows(
        "task", where=[Filter("task_id", "=", rows["01"]["task_id"])]
    )
    assert (before[0]["state"], before[0]["error_type"]) == ("PENDING_ARGS_AVAIL", None)


def test_an_attempt_whose_worker_is_told_to_have_ended_ends_with_it_in_gcs_own_words(store, task, event):
    ms, ids = T0 * 1000, [base64.b64encode(bytes([n]) * 28).decode() for n in (5, 6, 7)]
    ended = {"is_alive": False, "exit_type": "USER_ERROR", "exit_detail": "it broke", "end_time_ms": str(ms + 507)}
    put(store, "driver_job", event("driver_job", T0, job_id=JOB, is_dead=True, end_time=str(ms + 491)))
    put(
        store,
        "worker",
        event("worker", T0, worker_id=ids[0], **ended),
        event("worker", T0, worker_id=ids[1], is_alive=True),
    )
    runs = [task(n, task_info={"type": "NORMAL_TASK"}, state_updates={"worker_id": id}) for n, id in enumerate(ids, 1)]
    put(store, "task", *runs)
    store.seal(SESSION)
    tasks = sorted(store.snapshot(SESSION).rows("task"), key=lambda row: row["task_id"])
    assert [(row["inferred"], row["end_time_ms"] - ms) for row in tasks] == [
        ("worker died", 507),
        ("job ended", 491),
        ("job ended", 491),
    ]
    assert tasks[0]["error_message"] == (
        f"Worker running the task ({'05' * 28}) died with exit_type: 2 with error_message: it broke"
    )


def test_the_files_of_a_tasks_output_are_known_live_and_sealed(store, task):
    """From an attempt of its worker that was told whole, or from its log's name and its node's directory."""
    workers = {name: bytes([number]) * 28 for number, name in enumerate(("told", "shipped", "elsewhere", "unknown"), 5)}
    directory = f"/tmp/ray/{SESSION}/logs/"

    def ran(number, worker, node=NODE, **log):
        starts = {"stdout_start": 0, "stderr_start": 0, **log}
        places = {"node_id": node, "worker_id": base64.b64encode(workers[worker]).decode(), "worker_pid": 7}
        info = {"type": "NORMAL_TASK"}
        return task(number, task_info=info, state_updates={**times(running=1), **places, "task_log_info": starts})

    def shipped(worker, job, place=""):
        name = f"{place}worker-{workers[worker].hex()}-{job}-7.out"
        report = {"file": name, "generation": 0, "name": name, "event_type": "LOG", "node_id": ""}
        return line(ENTITIES["file"], T0, report)

    whole = f"{directory}worker-{workers['told'].hex()}-ffffffff-7"
    put(
        store,
        "task",
        ran(1, "told", stdout_file=f"{whole}.out", stderr_file=f"{whole}.err"),
        *(ran(number, worker) for number, worker in enumerate(workers, 2)),
        ran(6, "elsewhere", node=WORKER),
        # of an actor, whose tasks' output is not recorded
        task(7, task_info={"type": "ACTOR_TASK"}, state_updates={"worker_id": NODE, "node_id": NODE}),
    )
    put(store, "file", shipped("shipped", "ffffffff"), shipped("elsewhere", "01000000", "old/"))
    live = {number: only_log(store, number) for number in range(1, 8)}
    store.seal(SESSION)
    assert {number: only_log(store, number) for number in range(1, 8)} == live
    outputs = {number: live[number]["stdout_file"] for number in range(1, 7)}
    assert outputs == {
        1: f"{whole}.out",
        2: f"{whole}.out",
        3: f"{directory}worker-{workers['shipped'].hex()}-ffffffff-7.out",
        4: f"{directory}worker-{workers['elsewhere'].hex()}-01000000-7.out",
        5: f"worker-{workers['unknown'].hex()}-01000000-7.out",
        # of another node, whose directory nobody tells: all that is told is the same
        6: f"{directory}worker-{workers['elsewhere'].hex()}-01000000-7.out",
    }
    assert only_log(store, 2)["stderr_file"] == f"{whole}.err"
    assert only_log(store, 7) is None
    # where nodes keep their logs in different places, a third one may have another
    other = f"/scratch/{SESSION}/logs/worker-{workers['unknown'].hex()}-ffffffff-7.out"
    put(store, "task", ran(8, "unknown", node=ACTOR, stdout_file=other), file="0000000001-task")
    assert only_log(store, 6)["stdout_file"] == f"worker-{workers['elsewhere'].hex()}-01000000-7.out"


def test_the_file_of_an_output_is_known_though_no_owner_told_the_worker(store, task):
    """It was killed before it could: what the worker's profile tells is enough."""
    worker, directory = b"\x05" * 28, f"/tmp/ray/{SESSION}/logs/"
    updates = {**times(running=1), "worker_pid": 7, "task_log_info": {"stdout_start": 0, "stderr_start": 0}}
    profile = {"component_id": base64.b64encode(worker).decode(), "component_type": "worker", "events": []}

    def ran(number, **more):
        return task(
            number, task_info={"type": "NORMAL_TASK"}, state_updates={**updates, **more}, profile_events=profile
        )

    put(store, "task", ran(1))
    name = f"worker-{worker.hex()}-01000000-7.out"
    assert only_log(store, 1)["stdout_file"] == name
    report = {"file": name, "generation": 0, "name": name, "event_type": "LOG", "node_id": ""}
    put(store, "file", line(ENTITIES["file"], T0, report))
    log_info = {**updates["task_log_info"], "stdout_file": f"{directory}worker-{'06' * 28}-ffffffff-8.out"}
    put(store, "task", ran(2, worker_id=NODE, task_log_info=log_info), file="0000000001-task")
    assert only_log(store, 1)["stdout_file"] == directory + name
    log_info["stdout_file"] = f"{directory}worker-{worker.hex()}-ffffffff-7.out"
    put(store, "task", ran(3, task_log_info=log_info), file="0000000002-task")
    store.seal(SESSION)
    assert only_log(store, 1)["stdout_file"] == log_info["stdout_file"]


def only_log(store, number):
    where = [Filter("task_id", "=", bytes([number]).hex() * 24)]
    [row] = store.snapshot(SESSION).rows("task", where=where)
    return row["task_log_info"]


def test_a_session_whose_nodes_end_is_not_told_ends_after_all_that_is(store, task, event):
    ms = T0 * 1000
    put(store, "node", event("node", T0 - 9, node_id=NODE, start_time_ms=str(ms - 9000), state="ALIVE"))
    put(store, "driver_job", event("driver_job", T0, job_id=JOB, is_dead=True, end_time=str(ms + 507)))
    put(store, "task", task(1, task_info={"type": "NORMAL_TASK"}, state_updates={"node_id": NODE, "worker_id": NODE}))
    store.seal(SESSION)
    assert (only(store, "task")["inferred"], only(store, "task")["end_time_ms"]) == ("job ended", ms + 507)
    assert only(store, "node")["end_time_ms"] == ms + 999


def test_a_retry_submitted_after_its_jobs_end_ended_with_the_job_as_gcs_has_it(store, task, event):
    put(store, "driver_job", event("driver_job", T0, job_id=JOB, is_dead=True, end_time=str(T0 * 1000 + 923)))
    put(store, "task", task(1, task_info={"type": "NORMAL_TASK"}, state_updates=times(pending=1)))
    store.seal(SESSION)
    row = only(store, "task")
    assert (row["state"], row["inferred"]) == ("FAILED", "job ended")
    assert (row["creation_time_ms"], row["end_time_ms"]) == ((T0 + 1) * 1000, T0 * 1000 + 923)


def test_what_a_worker_did_is_known_from_when_it_had_done_it(store, task):
    """Also of an attempt whose end nobody told, as its owner had gone first."""
    spans = [
        {"event_name": name, "start_time": str((T0 + since) * 10**9), "end_time": str((T0 + until) * 10**9)}
        for name, since, until in (("task:deserialize_arguments", 1, 2), ("task::given", 2, 5))
    ]
    log = {"stdout_start": 52, "stdout_end": 60}
    info = {"type": "NORMAL_TASK", "func_or_class_name": "f"}
    put(
        store,
        "task",
        task(1, task_info=info, state_updates={**times(pending=0, running=1), "task_log_info": {"stdout_start": 52}}),
        task(
            1,
            at=T0 + 6,
            state_updates={"task_log_info": log},
            profile_events={"component_type": "worker", "events": spans},
        ),
    )
    for sealed in (False, True):
        seen = {}
        for second in (1, 3, 5):
            row = only(store, "task", (T0 + second) * 1000)
            profile = row["profiling_data"]
            seen[second] = (row["name"], [span["event_name"] for span in profile.get("events", ())])
            assert profile.get("component_type") == (None if second == 1 else "worker")
            if second < 5:
                assert (row["task_log_info"]["stdout_start"], row["task_log_info"].get("stdout_end")) == (52, None)
        assert seen == {
            1: ("given", []),
            3: ("given", ["task:deserialize_arguments"]),
            5: ("given", ["task:deserialize_arguments", "task::given"]),
        }, sealed
        store.seal(SESSION)
    assert only(store, "task")["task_log_info"]["stdout_end"] == 60


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_the_process_that_created_an_actor_last_is_shown_where_one_attempt_has_several(store, task, order):
    """As Ray 2.48 has it of an actor that restarts."""
    processes = (b"\xff", b"\x01", b"\x7f")
    creation = base64.b64encode(b"\xff" * 8 + b"\x05" * 16).decode()
    driver = base64.b64encode(b"\xff" * 20 + b"\x01\0\0\0").decode()
    # where the larger number of digits counts, and not the larger first one
    ends = ("999999999999999999", "1795419645000000000", "1795419646000000000")
    lines = [
        task(
            task_id=task_id,
            profile_events={
                "component_type": "worker",
                "component_id": base64.b64encode(processes[number] * 28).decode(),
                "events": [{"event_name": "task::f", "start_time": "1", "end_time": ends[number]}],
            },
        )
        for task_id in (creation, driver)
        for number in order
    ]
    put(store, "task", task(task_id=creation, task_info={"type": "ACTOR_CREATION_TASK"}), *lines)
    for sealed in (False, True):
        rows = store.snapshot(SESSION).rows("task")
        shown = {row["task_id"][16:]: row["profiling_data"]["component_id"] for row in rows}
        # a driver's own id has as many ones before it, and an event of each flush
        assert shown == {"05" * 16: "7f" * 28, "ff" * 12 + "01000000": "ff" * 28}, sealed
        store.seal(SESSION)


def test_the_state_at_an_earlier_moment(store, task, event):
    put(
        store,
        "task",
        task(
            1,
            task_info={"type": "NORMAL_TASK"},
            state_updates={
                **times(pending=0, submitted=1, running=2, failed=4),
                "worker_pid": 5,
                "error_info": {"error_type": "E"},
            },
        ),
        task(2, state_updates=times(pending=9)),
    )
    put(
        store,
        "actor",
        event("actor", T0, actor_id=ACTOR, state="PENDING_CREATION"),
        event("actor", T0 + 2, actor_id=ACTOR, state="ALIVE", pid=7),
        event("actor", T0 + 4, actor_id=ACTOR, state="DEAD", pid=7),
    )
    for sealed in (False, True):
        seen = {}
        for second in (0, 1, 2, 3, 4):
            snapshot = store.snapshot(SESSION, (T0 + second) * 1000)
            [attempt] = snapshot.rows("task")
            actors = snapshot.rows("actor")
            seen[second] = (
                attempt["state"],
                attempt["worker_pid"],
                attempt["error_type"],
                actors[0]["state"],
                actors[0]["pid"],
            )
        assert seen == {
            0: ("PENDING_ARGS_AVAIL", None, None, "PENDING_CREATION", None),
            1: ("SUBMITTED_TO_WORKER", None, None, "PENDING_CREATION", None),
            2: ("RUNNING", 5, None, "ALIVE", 7),
            3: ("RUNNING", 5, None, "ALIVE", 7),
            4: ("FAILED", 5, "E", "DEAD", 7),
        }, sealed
        store.seal(SESSION)


def test_a_session_is_sealed_when_its_nodes_are_dead_or_when_it_went_quiet(tmp_path, event):
    config = StoreConfig(threads=1, seal_after_end_seconds=5, seal_after_quiet_seconds=100)
    with Store.open(tmp_path, config, write=True) as store:
        put(store, "node", event("node", T0, node_id=NODE, state="ALIVE"))
        [(heard,)] = store._catalogue.query("SELECT last_heard_ms FROM sessions")
        assert store.seal_due(heard + 50_000) == []
        assert store.clusters()[0].alive
        put(
            store,
            "node",
            event("node", T0 + 9, node_id=NODE, state="DEAD", end_time_ms="1795419649000"),
            file="1-b",
        )
        [(heard,)] = store._catalogue.query("SELECT last_heard_ms FROM sessions")
        assert store.seal_due(heard + 4_000) == []
        assert store.seal_due(heard + 5_000) == [SESSION]
        assert store.seal_due(heard + 500_000) == []
        [cluster] = store.clusters()
        assert (cluster.sealed, cluster.alive, cluster.ended_ms) == (True, False, 1795419649000)
        # what comes late opens it again, and it is sealed again
        put(store, "driver_job", event("driver_job", T0, job_id=JOB))
        assert not store.clusters()[0].sealed
        assert store.snapshot(SESSION).count("node") == 1
        assert store.seal_due(heard + 500_000) == [SESSION]
        assert store.snapshot(SESSION).rows("driver_job")[0]["inferred"] == "session ended"


def test_a_reader_in_another_place_sees_what_is_folded_and_what_is_sealed(tmp_path, task, config):
    with Store.open(tmp_path, config, write=True) as store:
        put(store, "task", complete(task, 1, 0))
        with Store.open(tmp_path, config) as reader:
            assert reader.snapshot(SESSION).count("task") == 1
            put(store, "task", complete(task, 2, 1), file="0000000000-b")
            assert reader.snapshot(SESSION).count("task") == 2
            store.seal(SESSION)
            assert reader.find("latest").sealed
            assert reader.snapshot(SESSION).count("task") == 2


ID = "07" * 24
INFO = {"type": "NORMAL_TASK", "func_or_class_name": "f"}
QUESTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"limit": 3},
    {"limit": 3, "offset": 2},
    {"limit": 2, "order": ["-task_id"]},
    {"where": [Filter("task_id", "=", ID)]},
    {"where": [Filter("task_id", "=", ID), Filter("state", "=", "FINISHED")], "limit": 10},
    {"where": [Filter("task_id", "=", ID), Filter("state", "=", "FAILED")], "limit": 10},
    {"where": [Filter("task_id", "=", "08")]},
    {"where": [Filter("job_id", "=", "01000000"), Filter("state", "!=", "FAILED")], "limit": 40},
    {"where": [Filter("job_id", "=", "02000000")], "limit": 4},
)


@pytest.mark.parametrize("at_ms", [None, (T0 + 4) * 1000])
def test_the_cache_answers_as_the_files_do(store, task, at_ms):
    lines = [
        task(
            number,
            attempt=attempt,
            task_info=INFO,
            state_updates=times(pending=attempt + number // 2, running=3, finished=5),
        )
        for number in range(9)
        for attempt in range(2)
    ]
    put(store, "task", *lines)
    store.seal(SESSION)
    plain = [store.snapshot(SESSION, at_ms).rows("task", **asked) for asked in QUESTIONS]
    counted = [store.snapshot(SESSION, at_ms).count("task", asked.get("where", ())) for asked in QUESTIONS]
    store.cache(SESSION)
    cached = store.snapshot(SESSION, at_ms)
    for asked, rows, count in zip(QUESTIONS, plain, counted, strict=True):
        assert sorted(map(str, cached.rows("task", **asked))) == sorted(map(str, rows)), asked
        assert [cached.count("task", asked.get("where", ())) for _ in range(2)] == [count, count]
    assert counted[4] > 0


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("at_ms", [None, (T0 + 1) * 1000 + 500])
def test_a_few_of_many_are_those_that_come_first_of_all(at_ms, cached, store, event):
    def actor(number, seconds, state):
        of = {"actor_id": base64.b64encode(bytes([number]) * 16).decode(), "job_id": JOB, "pid": number % 3}
        return event("actor", T0 + seconds, state=state, **of)

    put(store, "actor", *(actor(number, seconds, state) for seconds, state in enumerate(("ALIVE", "RESTARTING", "DEAD"))
                          for number in (5, 3, 9, 1, 7)))  # fmt: skip
    if cached:
        store.seal(SESSION)
        store.cache(SESSION)
    snapshot = store.snapshot(SESSION, at_ms)
    questions: tuple[dict[str, Any], ...] = (
        {},
        {"order": ["-pid"]},
        {"where": [Filter("pid", "!=", 0)]},
        {"order": ["pid", "-actor_id"]},
    )
    for asked in questions:
        every = snapshot.rows("actor", **asked)
        assert {row["state"] for row in every} == {"DEAD" if at_ms is None else "RESTARTING"}
        order = [name.removeprefix("-") for name in asked.get("order", ["actor_id"])]
        for few in (snapshot.rows("actor", limit=2, **asked), snapshot.rows("actor", limit=2, offset=1, **asked)):
            assert all(row in every for row in few)
        few = [[row[name] for name in order] for row in snapshot.rows("actor", limit=3, **asked)]
        assert few == [[row[name] for name in order] for row in every[:3]]


TALLIED = ("name", "state", "inferred")
ATTEMPT = st.fixed_dictionaries(
    {"name": st.sampled_from("fg"), "job": st.sampled_from([JOB, base64.b64encode(b"\x02\0\0\0").decode()])},
    optional={name: st.integers(0, 9) for name in ("pending", "running", "finished", "failed")},
)


@pytest.mark.slow
@given(attempts=st.lists(ATTEMPT, min_size=1, max_size=12))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_counted_when_it_was_sealed_is_what_counting_gives_at_every_moment(
    attempts, tmp_path_factory, task, monkeypatch
):
    monkeypatch.setattr(seal, "TALLY_SAVES", 0)
    monkeypatch.setattr(tally, "TALLY_STEPS", 3)
    moments = [None, *(T0 * 1000 + ms for ms in range(-500, 10_000, 1000))]
    wheres: tuple[list[Filter], ...] = (
        [],
        [Filter("type", "!=", "DRIVER_TASK"), Filter("name", "=", "F", ignore_case=True)],
        [Filter("job_id", "=", "01000000"), Filter("state", "!=", "FAILED")],
    )
    with Store.open(tmp_path_factory.mktemp("store"), StoreConfig(threads=1), write=True) as store:
        lines = [
            task(
                number,
                job=attempt.pop("job"),
                task_info={"type": "NORMAL_TASK", "func_or_class_name": attempt.pop("name")},
                state_updates=times(**attempt),
            )
            for number, attempt in enumerate(deepcopy(attempts))
        ]
        put(store, "task", *lines)
        store.seal(SESSION)

        def counted(at_ms):
            snapshot = store.snapshot(SESSION, at_ms)
            return [(snapshot.group("task", TALLIED, where), snapshot.count("task", where)) for where in wheres]

        plain = [counted(at_ms) for at_ms in moments]
        store.cache(SESSION)
        assert store.snapshot(SESSION)._find_tally(ENTITIES["task"]) is not None
        assert [counted(at_ms) for at_ms in moments] == plain


def test_what_is_nearly_each_of_a_kind_of_its_own_is_not_counted_beforehand(store, task):
    put(store, "task", *(complete(task, number, number) for number in range(1, 6)))
    store.seal(SESSION)
    store.cache(SESSION)
    snapshot = store.snapshot(SESSION)
    assert snapshot._find_tally(ENTITIES["task"]) is None
    assert snapshot.group("task", ["state"]) == [{"state": "FINISHED", "count": 5}]


def test_a_session_whose_cache_was_never_finished_gets_one(store, task, config, monkeypatch):
    monkeypatch.setattr("raytrail.store.writer.CACHED_ROWS", 1)
    put(store, "task", complete(task, 1, 0))
    store.seal(SESSION)
    assert store.seal_due(0) == []
    assert "cache" in {file.kind for file in store._catalogue.state_files(SESSION)}


def test_the_cache_of_a_sealed_session_can_be_deleted(tmp_path, task, config):
    with Store.open(tmp_path, config, write=True) as store:
        put(store, "task", complete(task, 1, 0))
        store.seal(SESSION)
        store.cache(SESSION)
        with_cache = store.snapshot(SESSION).rows("task")
    for path in (tmp_path / "state" / SESSION).glob("*.duckdb"):
        path.unlink()
    with Store.open(tmp_path, config) as reader:
        assert reader.snapshot(SESSION).rows("task") == with_cache


def test_a_cluster_is_found_by_its_name_or_a_part_of_its_sessions(store, task):
    for name, cluster in (
        ("session_2026-01-01_a", "prod"),
        ("session_2026-01-02_b", "prod"),
        ("session_2026-01-03_c", ""),
    ):
        template = chunk(ENTITIES["task"], [task(1, at=T0)])
        store.append(
            [
                Chunk(
                    cluster=cluster,
                    session=name,
                    node_id="",
                    event_type="TASK",
                    segments=template.segments,
                    data=template.data,
                )
            ]
        )
    assert store.find("02_b").session == "session_2026-01-02_b"
    assert store.find("prod").cluster == "prod"
    with pytest.raises(NotFoundError, match="cluster 'session_2026': not one but several have it; there are"):
        store.find("session_2026")
    with pytest.raises(NotFoundError, match="cluster 'nope': not in the store; there are session_"):
        store.find("nope")


def test_filters_order_and_limits(store, task):
    put(store, "task", *(complete(task, number, number) for number in range(1, 6)))
    snapshot = store.snapshot(SESSION)

    def ids(**query):
        return [row["task_id"][:2] for row in snapshot.rows("tasks", columns=["task_id"], **query)]

    assert ids(order=["-start_time_ms"], limit=2) == ["05", "04"]
    assert ids(order=["task_id"], limit=2, offset=1) == ["02", "03"]
    assert ids(where=[Filter("task_id", "=", "03" * 24)]) == ["03"]
    assert ids(where=[Filter("task_id", "!=", "03" * 24)], order=["task_id"]) == ["01", "02", "04", "05"]
    assert ids(
        where=[
            Filter("state", "=", "finished", ignore_case=True),
            Filter("start_time_ms", ">", (T0 + 3) * 1000),
        ]
    ) == ["04", "05"]
    assert ids(where=[Filter("worker_pid", "=", "many")]) == []
    assert len(ids(where=[Filter("worker_pid", "!=", 5)])) == 5
    assert snapshot.count("task", [Filter("error_type", "=", None)]) == 5
    assert snapshot.group("task", ["name", "state"]) == [{"name": "f", "state": "FINISHED", "count": 5}]
    with pytest.raises(NotFoundError, match="task has no column 'nope'; it has"):
        ids(where=[Filter("nope", "=", 1)])
    with pytest.raises(NotFoundError, match="no entity 'nope'; there are actors"):
        snapshot.rows("nope")


def test_sql_reads_all_clusters_and_nothing_else(store, task):
    put(store, "task", complete(task, 1, 0))
    answer = store.sql("WITH t AS (SELECT * FROM task) SELECT cluster, session, task_id, state FROM t;")
    assert answer.columns == ("cluster", "session", "task_id", "state")
    assert answer.rows == [("", SESSION, "01" * 24, "FINISHED")]
    assert store.sql("SELECT count(*) FROM actor -- a comment").rows == [(0,)]
    store.seal(SESSION)
    assert store.sql("SELECT count(*) FROM task").rows == [(1,)]
    for statement in ("DROP TABLE task", "COPY task TO 'x'", "SELECT * FROM read_text('/etc/hostname')"):
        with pytest.raises(ConfigError, match=r"^SQL: "):
            store.sql(statement)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("at_ms", [None, 10**15])
def test_what_an_older_version_wrote_lacks_only_what_it_did_not_know(sealed, at_ms, tmp_path, task, event):
    labels = {"zone": "a"}
    with Store.open(tmp_path, StoreConfig(threads=1), write=True) as store:
        put(store, "task", complete(task, 1, 0))
        put(store, "node", event("node", T0, node_id=NODE, state="ALIVE", node_name="n", labels=labels))
        if sealed:
            store.seal(SESSION)
            store.cache(SESSION)
        assert only(store, "node", at_ms)["labels"] == labels
    forget(tmp_path, "task", "worker_pid")
    forget(tmp_path, "node", "labels")
    with Store.open(tmp_path, StoreConfig(threads=1), write=True) as store:
        assert (only(store, "task", at_ms)["worker_pid"], only(store, "task", at_ms)["state"]) == (None, "FINISHED")
        assert (only(store, "node", at_ms)["labels"], only(store, "node", at_ms)["node_name"]) == (None, "n")
        assert store.snapshot(SESSION, at_ms).rows("worker") == []
        # and goes on from there
        put(store, "node", event("node", T0 + 1, node_id=NODE, state="DEAD", labels=labels), file="0000000001-node")
        store.seal(SESSION)
        assert (only(store, "task")["worker_pid"], only(store, "node")["labels"]) == (None, labels)


def test_the_cache_of_what_an_older_version_sealed_has_what_that_did_not_work_out(tmp_path, task):
    with Store.open(tmp_path, StoreConfig(threads=1), write=True) as store:
        put(store, "task", complete(task, 1, 0))
        store.seal(SESSION)
    forget(tmp_path, "task", "_earliest_ns", "sealed-*")
    with Store.open(tmp_path, StoreConfig(threads=1), write=True) as store:
        store.cache(SESSION)
        assert store.snapshot(SESSION)._find_table(ENTITIES["task"]) is not None
        assert only(store, "task", 10**15)["state"] == "FINISHED"


def forget(root, name, column, files="*"):
    """Take a column, and the table of workers, from files of a store, which then are as older versions wrote them."""
    forget_sums(root)
    with duckdb.connect() as db:
        for path in root.rglob(f"{name}-{files}.parquet"):
            # the live states of tasks and nodes, and their logs, are files of these names
            db.execute(f"COPY (SELECT * EXCLUDE ({column}) FROM '{path}') TO '{path}.new' (FORMAT parquet)")
            path.with_suffix(".parquet.new").rename(path)
        for path in root.rglob("*.duckdb"):
            db.execute(f"ATTACH '{path}' AS cache")
            db.execute(f"CREATE OR REPLACE TABLE cache.{name} AS SELECT * EXCLUDE ({column}) FROM cache.{name}")
            db.execute("DROP TABLE IF EXISTS cache.worker")
            db.execute("DETACH cache")
