"""
Export event files as a Ray 2.60 session leaves them, of any size, with the numbers they must add up to.

    generate(tmp_path, tasks=1_000_000)            a session that is over, as fast as it can be written
    write_live(tmp_path, seconds=20, rate=5000)    one that is being written now, with rotation and half lines
    python -m lab.generate --help                  either, as a process of its own

Every driver job is simulated by itself, second by second, with its own random numbers. The seconds of all jobs are then
merged. The same arguments then give the same bytes, and no more is held than what is in flight.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import sys
import time
from binascii import a2b_base64, b2a_base64
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import msgspec

from raytrail.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

SESSION = "session_2026-11-23_07-40-30_867494_13129"
"""The session's name, in Ray's form."""

BEGAN_SECONDS = 1_795_419_630
"""When that session began, seconds since the epoch."""

BACKUPS = 20
"""How many rotated files Ray keeps (`LogEventReporter`, event.cc). The next one is deleted."""

Line = tuple[str, str]
"""The file's event part (``TASK_123``, ``ACTOR``), and a line with its newline."""


class Generated(msgspec.Struct, frozen=True, kw_only=True):
    """
    The figures of what was written.

    Counts are of attempts, actors and so on, each once, whatever was written twice.
    """

    directory: Path
    """The session's directory."""
    session: str
    files: dict[str, int]
    """Bytes by file name (``event_EXPORT_TASK_20001.log``), rotated parts included."""
    bytes: dict[str, int]
    """Bytes by event type, as the files' names have it: ``TASK``, ``TRAIN_STATE``."""
    events: dict[str, int]
    """Lines by event type, duplicates included."""
    duplicates: int
    """Lines among them that repeat another, event id and all."""
    attempts: int
    """Task attempts with a `task_info`, driver tasks included: what Ray's State API would list."""
    orphans: int
    """Task attempts without one, which Ray does not list."""
    task_states: dict[str, int]
    """Attempts by the last state the files tell."""
    task_final_states: dict[str, int]
    """The same once the end of its job has failed what was open."""
    task_types: dict[str, int]
    tasks_by_job: dict[str, int]
    """Attempts by hex job id."""
    tasks_by_function: dict[str, int]
    errors: dict[str, int]
    """Attempts by error type, as the files tell."""
    profile_events: int
    actors: int
    actor_states: dict[str, int]
    actor_final_states: dict[str, int]
    actor_restarts: int
    nodes: int
    node_states: dict[str, int]
    driver_jobs: int
    submission_states: dict[str, int]
    jobs: int
    """Rows of Ray's own list of jobs: submission jobs, and driver jobs of none."""
    dataset_states: dict[str, int]
    train_run_states: dict[str, int]
    train_run_attempt_states: dict[str, int]
    began_ms: int
    ended_ms: int
    rotations: int
    deleted_bytes: int
    """Bytes in files that rotation has deleted again."""
    half_lines: int
    """Lines that were on disk in part for a while."""


def generate(
    directory: Path,
    *,
    tasks: int,
    seed: int = 0,
    files: int = 16,
    jobs: int | None = None,
    actors: int | None = None,
    nodes: int = 50,
    failure_ratio: float = 0.01,
    duplicate_ratio: float = 0.005,
    open_ratio: float = 0.0005,
    tasks_per_second: float = 1000.0,
    ended: bool = True,
    session: str = SESSION,
    began_seconds: int = BEGAN_SECONDS,
) -> Generated:
    """
    Write the export event files of one session below `directory`.

    Args:
        directory: Ray's temporary directory. The session's is made in it.
        tasks: Calls of tasks and actor methods. Attempts are some more (retries, actor creations, drivers).
        seed: The same one gives the same bytes.
        files: Task event files, one a process: a driver for each job, the rest workers.
        jobs: Driver jobs. None is one for four files.
        actors: None is one for 200 tasks, at most 50,000.
        nodes: Nodes. The first is the head.
        failure_ratio: Share of attempts that fail. Half of them are retried.
        duplicate_ratio: Share of task lines that are written twice.
        open_ratio: Share of tasks that never end.
        tasks_per_second: The rate of each job, in the files' own time.
        ended: Whether jobs and nodes end as well. Otherwise everything still lives after the last line.
        session: The session's name.
        began_seconds: When it began, seconds since the epoch.

    Raises:
        ConfigError: The session exists, or there are too few files for the jobs.

    """
    shape = _Shape(
        seed=seed,
        nodes=nodes,
        failure_ratio=failure_ratio,
        duplicate_ratio=duplicate_ratio,
        open_ratio=open_ratio,
        tasks_per_second=tasks_per_second,
        ended=ended,
        session=session,
        began_seconds=began_seconds,
    )
    simulation = _Session(shape, tasks=tasks, files=files, jobs=jobs, actors=actors)
    session_dir = _make_session(directory, simulation)
    with ExitStack() as stack:
        handles: dict[str, BinaryIO] = {}
        for _, lines in simulation.seconds():
            for name, batch in lines.items():
                handle = handles.get(name)
                if handle is None:
                    path = _event_file(session_dir, name)
                    handle = handles[name] = stack.enter_context(path.open("wb", buffering=1 << 20))
                handle.write("".join(batch).encode("ascii"))
    return simulation.generated(session_dir)


def write_live(
    directory: Path,
    *,
    seconds: float | None = None,
    tasks: int | None = None,
    rate: float = 2000.0,
    rotate_bytes: int | None = None,
    half_lines: bool = True,
    seed: int = 0,
    files: int = 4,
    jobs: int | None = None,
    nodes: int = 2,
    failure_ratio: float = 0.01,
    session: str | None = None,
) -> Generated:
    """
    Write a session as if it ran now: line by line at a pace, rotating as Ray does.

    Returns when it is over.

    The time in the files is today's and runs with the clock as far as `rate` allows.

    Args:
        directory: Ray's temporary directory. The session's is made in it.
        seconds: When to stop submitting tasks. Those in flight are then written without a pause.
        tasks: How many to submit. With `seconds`, the limit that is reached first counts.
        rate: Lines a second, over all files.
        rotate_bytes: Size beyond which a file is renamed to ``.log.1``, that one to ``.log.2``, and so on.
        half_lines: Whether now and then a line is written in two parts, other files' lines between them.
        seed: The same one gives the same lines, but for their times and for where `seconds` cuts.
        files: Task event files.
        jobs: Driver jobs. None is one for four files.
        nodes: Nodes. The first is the head.
        failure_ratio: Share of attempts that fail.
        session: The session's name. None makes one of today, as Ray would.

    Raises:
        ConfigError: Neither `seconds` nor `tasks` is given, or the session exists.

    """
    if seconds is None and tasks is None:
        raise ConfigError("live session without an end: seconds and tasks are None; give one of them")
    began = time.time()
    if session is None:
        now = time.localtime(began)
        session = f"session_{time.strftime('%Y-%m-%d_%H-%M-%S', now)}_{int(began % 1 * 1e6):06}_{os.getpid()}"
    shape = _Shape(
        seed=seed,
        nodes=nodes,
        failure_ratio=failure_ratio,
        duplicate_ratio=0.005,
        open_ratio=0.002,
        # about three lines a task. The jobs run side by side
        tasks_per_second=max(rate / 3 / max(jobs or files // 4, 1), 0.1),
        ended=True,
        session=session,
        began_seconds=int(began),
    )
    simulation = _Session(shape, tasks=tasks, files=files, jobs=jobs, actors=None)
    session_dir = _make_session(directory, simulation)
    writer = _LiveFiles(session_dir, rotate_bytes, half_lines, random.Random(f"{seed}/live"))
    with writer:
        due = time.monotonic()
        stop_at = due + seconds if seconds is not None else float("inf")
        for _, lines in simulation.seconds():
            for line in _interleaved(lines):
                if not simulation.stopping:
                    due += 1 / rate
                    early = due - time.monotonic()
                    if early > 0.001:
                        time.sleep(early)
                    if time.monotonic() >= stop_at:
                        simulation.stop()
                writer.write(*line)
    return simulation.generated(session_dir, writer)


class _Shape(msgspec.Struct, frozen=True, kw_only=True):
    """The common state of all jobs of a session."""

    seed: int
    nodes: int
    failure_ratio: float
    duplicate_ratio: float
    open_ratio: float
    tasks_per_second: float
    ended: bool
    session: str
    began_seconds: int


class _Node(NamedTuple):
    id: str
    """Base64."""
    hex: str
    ip: str


class _Worker(NamedTuple):
    """A process that runs tasks, and so writes a file."""

    file: str
    id: str
    """Base64."""
    pid: int
    node: _Node
    head: str
    """The start of its profile events, which is the same in every line."""


class _Actor(NamedTuple):
    id: bytes
    class_number: int
    name: str
    detached: bool


class _Tally:
    """The counts that `Generated` is made of."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.file_bytes: Counter[str] = Counter()
        self.duplicates = 0
        self.orphans = 0
        self.attempts: Counter[tuple[str, str, str, str, str | None]] = Counter()
        """By job, type, function, last state and error type."""
        self.profile_events = 0
        self.actor_states: Counter[str] = Counter()
        self.actor_final_states: Counter[str] = Counter()
        self.actor_restarts = 0
        self.submissions: Counter[str] = Counter()
        self.datasets: Counter[str] = Counter()
        self.train_runs: Counter[str] = Counter()
        self.train_run_attempts: Counter[str] = Counter()


def _base64(raw: bytes) -> str:
    return b2a_base64(raw, newline=False).decode("ascii")


def _cpp_json(value: object) -> str:
    """JSON as Ray's C++ writes it: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


_FUNCTIONS = tuple(
    f"{module}.{verb}"
    for module in ("train", "preprocess", "etl", "serve_app", "features")
    for verb in ("load", "tokenize", "map_batches", "compute", "shuffle_map", "reduce", "score", "write")
)
_METHODS = ("step", "poll", "predict", "update_weights", "sample")
_CLASSES = 7
_ERRORS = (
    "ValueError: boom",
    "KeyError: 'shard'",
    "RuntimeError: CUDA error: out of memory",
    "TimeoutError: deadline exceeded",
)
_PLAIN_ENV = {
    "runtime_env_config": {"eager_install": True, "log_files": [], "setup_timeout_seconds": 600},
    "serialized_runtime_env": "{}",
    "uris": {"py_modules_uris": [], "working_dir_uri": ""},
}
_HEXDIGITS = "0123456789abcdefABCDEF"
_SECOND = 1_000_000_000


class _Job:
    """
    One driver job: its driver, its workers, its tasks and its actors.

    Lines wait in `_waiting` under the second in which their process flushes them, and leave it in that order.
    """

    def __init__(
        self,
        shape: _Shape,
        index: int,
        tasks: int | None,
        actors: int | None,
        worker_files: int,
        nodes: Sequence[_Node],
        tally: _Tally,
    ) -> None:
        self._shape = shape
        self._index = index
        self._tasks = tasks
        self._random = random.Random(f"{shape.seed}/job/{index}")
        self._tally = tally
        self._nodes = nodes
        self._waiting: dict[int, dict[str, list[str]]] = {}
        self._log_bytes: Counter[str] = Counter()
        self.stopping = False
        self.id = (index + 1).to_bytes(4, "little")
        self._id = _base64(self.id)
        self._driver_pid = 20_000 + index * 1000
        self._driver_file = f"TASK_{self._driver_pid}"
        self._driver_task = _base64(b"\xff" * 20 + self.id)
        self._began_ns = (shape.began_seconds + 3 + 5 * index) * _SECOND + self._random.randrange(_SECOND)
        self.ended_ns = 0
        self._submission = f"raysubmit_{index:04}{self._letters(12)}" if index % 2 else None
        environment = dict(_PLAIN_ENV)
        if self._submission:
            package = f"gcs://_ray_pkg_{self._random.getrandbits(64):016x}.zip"
            environment["serialized_runtime_env"] = json.dumps({"working_dir": package, "env_vars": {"A": "1"}})
            environment["uris"] = {"py_modules_uris": [], "working_dir_uri": package}
        self._environment = environment
        self._environment_json = _cpp_json(environment)
        self._workers = [
            self._worker(self._driver_pid + 1 + number, nodes[(index + number) % len(nodes)])
            for number in range(worker_files)
        ]
        self._task_tails = [self._task_tail(function) for function in range(len(_FUNCTIONS))]
        self._submitted: list[str] = []
        self._driver_began = False

        if actors is not None and tasks is not None:
            self._actor_every = max(tasks // (2 * actors), 1) if actors else 0
        else:
            self._actor_every = 200
        self._actors_left = actors if actors is not None else 50_000
        self._actors: list[tuple[_Actor, _Worker]] = []
        self._places: dict[bytes, int] = {}
        self._states: dict[bytes, str] = {}
        self._fates: list[tuple[int, int, str, _Actor]] = []
        self._fate_number = 0
        self.detached: list[tuple[_Actor, _Worker]] = []

    def file_names(self) -> list[str]:
        """Return the event parts of the names of its processes' files."""
        return [self._driver_file, *(worker.file for worker in self._workers)]

    # the lines that are written

    def _letters(self, count: int) -> str:
        return "".join(self._random.choices("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789", k=count))

    def _python_line(self, event_type: str, second: int, body: Mapping[str, object]) -> str:
        """A line as Ray's Python writes it: with spaces, keys in the order they were set."""
        event_id = "".join(self._random.choices(_HEXDIGITS, k=18))
        line = {
            "event_id": event_id,
            "timestamp": second,
            "source_type": f"EXPORT_{event_type}",
            "event_data": body,
        }
        return json.dumps(line) + "\n"

    def _cpp_line(self, event_type: str, second: int, body: Mapping[str, object]) -> str:
        event_id = f"{self._random.getrandbits(144):036x}"
        line = {
            "event_data": body,
            "event_id": event_id,
            "source_type": f"EXPORT_{event_type}",
            "timestamp": second,
        }
        return _cpp_json(line) + "\n"

    def _stamp(self, second: int) -> str:
        """The end of a task's line, after the members of its `event_data`."""
        event_id = self._random.getrandbits(144)
        return f'}},"event_id":"{event_id:036x}","source_type":"EXPORT_TASK","timestamp":{second}}}\n'

    def _put(self, second: int, file: str, line: str) -> None:
        waiting = self._waiting.get(second)
        if waiting is None:
            waiting = self._waiting[second] = {}
        lines = waiting.get(file)
        if lines is None:
            waiting[file] = [line]
        else:
            lines.append(line)
        if self._random.random() < self._shape.duplicate_ratio and file.startswith("TASK"):
            waiting[file].append(line)
            self._tally.duplicates += 1

    def _due(self, before: int) -> Iterator[tuple[int, dict[str, list[str]]]]:
        for second in sorted(second for second in self._waiting if second < before):
            yield second, self._waiting.pop(second)

    def seconds(self) -> Iterator[tuple[int, dict[str, list[str]]]]:
        """Yield each second of the job with the lines that its processes flush in it, by file."""
        now = self._began_ns
        self._begin(now)
        rate = self._shape.tasks_per_second / _SECOND
        expovariate = self._random.expovariate
        flushed = now // _SECOND
        submitted = 0
        while not self.stopping and (self._tasks is None or submitted < self._tasks):
            now += int(expovariate(rate)) + 1
            second = now // _SECOND
            if second > flushed:
                self._flush_driver(flushed + 1)
                yield from self._due(second)
                flushed = second
            if self._actor_every and submitted % self._actor_every == 0 and self._actors_left:
                self._create_actor(now)
            while self._fates and self._fates[0][0] <= now:
                _, number, fate, actor = heapq.heappop(self._fates)
                if actor.id in self._places:
                    self._meet_fate(now, number, fate, actor)
            if self._actors and self._random.random() < 0.25:
                self._actor_task(now)
            else:
                self._normal_task(now)
            submitted += 1
        self._flush_driver(flushed + 1)
        # the driver leaves once the last of its tasks has ended
        last = max(self._waiting, default=flushed)
        yield from self._due(last)
        self._end(last * _SECOND + self._random.randrange(_SECOND))
        yield from self._due(last + 1_000_000)

    # The job itself, and what its libraries write

    def _begin(self, now: int) -> None:
        second = now // _SECOND
        self._put(second, "DRIVER_JOB", self._driver_job_line(second, ended_ms=0))
        if self._submission:
            for status, message in (
                ("PENDING", "Job has not started yet."),
                ("RUNNING", "Job is currently running."),
            ):
                self._put(second, "SUBMISSION_JOB", self._submission_line(second, status, message, None))
        self._dataset_lines(second, "PENDING", "RUNNING")
        if self._index % 2 == 0:
            self._train_lines(second, ("INITIALIZING", None), ("SCHEDULING", "PENDING"), ("RUNNING", "RUNNING"))

    def _end(self, now: int) -> None:
        second = now // _SECOND
        tally = self._tally
        self.ended_ns = now
        train = self._index % 2 == 0
        if not self._shape.ended:
            self._count("DRIVER_TASK", "", "RUNNING")
            tally.submissions["RUNNING"] += self._submission is not None
            tally.datasets["RUNNING"] += 1
            tally.train_runs["RUNNING"] += train
            tally.train_run_attempts["RUNNING"] += train
            for actor, _ in self._actors:
                self._count_actor(self._states[actor.id])
            return
        self._dataset_lines(second, "FINISHED")
        tally.datasets["FINISHED"] += 1
        if train:
            self._train_lines(second, ("FINISHED", "FINISHED"))
        tally.train_runs["FINISHED"] += train
        tally.train_run_attempts["FINISHED"] += train
        for actor, worker in self._actors:
            if actor.detached:
                self.detached.append((actor, worker))
            else:
                self._actor_line(second, actor, "DEAD", worker, "OWNER_DIED")
                self._count_actor("DEAD")
        line = self._driver_task_line(second, states=f'"11":"{now}"', spans=())
        self._put(second, self._driver_file, line)
        self._count("DRIVER_TASK", "", "FINISHED")
        self._put(second, "DRIVER_JOB", self._driver_job_line(second, ended_ms=now // 1_000_000))
        if self._submission:
            status, message = "SUCCEEDED", "Job finished successfully."
            if self._index % 4 == 3:
                status, message = (
                    "FAILED",
                    "Job entrypoint command failed with exit code 3, last available logs\n",
                )
            line = self._submission_line(second, status, message, now // 1_000_000)
            self._put(second, "SUBMISSION_JOB", line)
            tally.submissions[status] += 1

    def _driver_job_line(self, second: int, ended_ms: int) -> str:
        metadata = {"job_name": self._submission, "job_submission_id": self._submission} if self._submission else {}
        body = {
            "config": {"metadata": metadata, "runtime_env_info": self._environment},
            "driver_ip_address": self._nodes[0].ip,
            "driver_pid": str(self._driver_pid),
            "end_time": str(ended_ms),
            "entrypoint": f"python jobs/job_{self._index}.py",
            "is_dead": ended_ms > 0,
            "job_id": self._id,
            "start_time": str(self._began_ns // 1_000_000),
        }
        return self._cpp_line("DRIVER_JOB", second, body)

    def _submission_line(self, second: int, status: str, message: str, ended_ms: int | None) -> str:
        body: dict[str, object] = {
            "submission_job_id": self._submission,
            "status": status,
            "entrypoint": f"python jobs/job_{self._index}.py",
            "message": message,
        }
        if status == "FAILED":
            body["error_type"] = "JOB_ENTRYPOINT_COMMAND_ERROR"
        body["start_time"] = str(self._began_ns // 1_000_000 - 700)
        if ended_ms is not None:
            body["end_time"] = str(ended_ms)
        body["metadata"] = {"who": "lab"}
        body["runtime_env_json"] = self._environment["serialized_runtime_env"]
        if status != "PENDING":
            body["driver_agent_http_address"] = f"http://{self._nodes[0].ip}:52365"
            body["driver_node_id"] = self._nodes[0].hex
        if ended_ms is not None:
            body["driver_exit_code"] = 3 if status == "FAILED" else 0
        return self._python_line("SUBMISSION_JOB", second, body)

    def _dataset_lines(self, second: int, *states: str) -> None:
        start = float(self._began_ns // 1_000_000) / 1000
        for state in states:
            over = state == "FINISHED"
            operators = [
                {
                    "name": name,
                    "id": f"{name}_{number}",
                    "uuid": f"{self._index:08x}-0000-4000-8000-{number:012x}",
                    "input_dependencies": [below] if below else [],
                    "args": {f"{name}[{name}]_{number}": {"_compute": "None"}} if state == "PENDING" else {},
                    "execution_start_time": 0.0 if state == "PENDING" else start + 1,
                    "execution_end_time": float(second) if over else 0.0,
                    "state": state,
                    "sub_stages": [],
                }
                for number, (name, below) in enumerate(
                    (
                        ("Input", ""),
                        ("ReadRange->MapBatches(<lambda>)", "Input_0"),
                        ("RandomShuffle", "ReadRange_1"),
                    )
                )
            ]
            body = {
                "topology": {"operators": operators},
                "dataset_id": f"dataset_{self._index:04}_0",
                "job_id": self.id.hex(),
                "start_time": start,
                "data_context": {"target_max_block_size": "134217728"} if state == "PENDING" else {},
                "execution_start_time": 0.0 if state == "PENDING" else start + 1,
                "execution_end_time": float(second) if over else 0.0,
                "state": state,
                "operator_panels": [{"id": "11", "title": "Rows Output / Second"}],
            }
            self._put(second, "DATASET_METADATA", self._python_line("DATASET_METADATA", second, body))
            if state == "RUNNING":
                schema = {
                    "operator_uuid": operators[1]["uuid"],
                    "schema_fields": {"id": "int64", "text": "string"},
                }
                line = self._python_line("DATASET_OPERATOR_SCHEMA", second, schema)
                self._put(second, "DATASET_OPERATOR_SCHEMA", line)
                issue = {
                    "dataset_id": body["dataset_id"],
                    "operator_id": operators[1]["id"],
                    "operator_name": operators[1]["name"],
                    "event_time": float(second),
                    "event_type": "ISSUE_DETECTION_HANGING",
                    "message": "A task of operator ReadRange has been running for 40.00s",
                }
                line = self._python_line("DATASET_OPERATOR_EVENT", second, issue)
                self._put(second, "DATASET_OPERATOR_EVENT", line)

    def _train_lines(self, second: int, *states: tuple[str, str | None]) -> None:
        run, attempt = f"{self._index:032x}", f"{self._index:031x}f"
        node = self._nodes[0]
        for status, attempt_status in states:
            times = {"start_time_ns": str(self._began_ns)}
            if status == "FINISHED":
                times["end_time_ns"] = str(second * _SECOND)
            body: dict[str, object] = {
                "schema_version": 4,
                "id": run,
                "name": f"run_{self._index}",
                "job_id": self._id,
                "controller_actor_id": _base64(b"\x01" * 12 + self.id),
                "status": status,
                **times,
                "controller_log_file_path": f"/tmp/ray/{self._shape.session}/logs/train/controller.log",
                "ray_train_version": 2,
                "framework_versions": {"ray": "2.60.0"},
                "run_settings": {
                    "scaling_config": {"num_workers_fixed": 1, "use_gpu": False},
                    "datasets": [],
                },
            }
            self._put(second, "TRAIN_STATE", self._python_line("TRAIN_RUN", second, body))
            if attempt_status is None:
                continue
            worker = {
                "actor_id": _base64(b"\x02" * 12 + self.id),
                "node_id": node.id,
                "node_ip": node.ip,
                "pid": self._workers[0].pid,
                "status": "ALIVE",
                "resources": {"resources": {"CPU": 0.2}},
                "world_rank": 0,
                "local_rank": 0,
                "node_rank": 0,
                "gpu_ids": [],
            }
            body = {
                "schema_version": 4,
                "run_id": run,
                "attempt_id": attempt,
                "status": attempt_status,
                **times,
                "resources": [{"resources": {"CPU": 0.2}}],
                "workers": [] if attempt_status == "PENDING" else [worker],
                "ray_train_version": 2,
            }
            self._put(second, "TRAIN_STATE", self._python_line("TRAIN_RUN_ATTEMPT", second, body))

    # Tasks

    def _worker(self, pid: int, node: _Node) -> _Worker:
        worker_id = _base64(self._random.randbytes(28))
        head = f'"profile_events":{{"component_id":"{worker_id}","component_type":"worker","events":['
        return _Worker(f"TASK_{pid}", worker_id, pid, node, head)

    def _task_tail(self, function: int) -> tuple[str, str, list[int]]:
        """The part of a task's `task_info` before its id, its name, and how long it runs, in 1024 draws."""
        name = _FUNCTIONS[function]
        group, cpus = "", (1, 0.5)[function % 2]
        if function % 8 == 7:
            group = f'"placement_group_id":"{_base64(bytes([function]) * 14 + self.id)}",'
        tail = (
            f'"func_or_class_name":"{name}","label_selector":{{}},"labels":{{}},"language":"PYTHON",'
            f'"parent_task_id":"{self._driver_task}",{group}"required_resources":{{"CPU":{cpus}}},'
            f'"runtime_env_info":{self._environment_json},"task_id":"'
        )
        return (
            tail,
            name,
            [int(self._random.lognormvariate(17.5 + function * 0.05, 1.2)) for _ in range(1024)],
        )

    def _count(self, task_type: str, function: str, state: str, error: str | None = None) -> None:
        self._tally.attempts[self.id.hex(), task_type, function, state, error] += 1

    def _count_actor(self, state: str) -> None:
        self._tally.actor_states[state] += 1
        self._tally.actor_final_states["DEAD" if self._shape.ended else state] += 1

    def _error(self, name: str, worker: _Worker) -> tuple[str, str, str]:
        """An error's type, its `error_info` member, and the `extra_data` of the span that it ended."""
        kind = self._random.choice(_ERRORS) + f" [{self._random.randrange(10**6)}]"
        module, *_, function = name.split(".")[:1] + name.split(".")[-1:]
        frames = "".join(
            f'  File "/app/{module}.py", line {self._random.randrange(500)}, in {function}\n    x = step(batch)\n'
            for _ in range(self._random.randrange(1, 6))
        )
        place = f"(pid={worker.pid}, ip={worker.node.ip})"
        message = f"User exception:\n\x1b[36mray::{name}()\x1b[39m {place}\n{frames}{kind}"
        info = _cpp_json({"error_message": message, "error_type": "TASK_EXECUTION_EXCEPTION"})
        trace = f"Traceback (most recent call last):\n{frames}{kind}\n"
        extra = json.dumps({"type": f"<class '{kind.split(':')[0]}'>", "value": kind, "traceback": trace})
        return "TASK_EXECUTION_EXCEPTION", f'"error_info":{info},', json.dumps(extra)[1:-1]

    def _submit_span(self, now: int) -> None:
        self._submitted.append(
            f'{{"end_time":"{now + 40_000}","event_name":"submit_task","extra_data":"{{}}","start_time":"{now}"}}'
        )

    def _flush_driver(self, second: int) -> None:
        if not self._submitted and self._driver_began:
            return
        states = "" if self._driver_began else f'"8":"{self._began_ns}"'
        # Ray keeps 1000 profile events a task and flush
        spans = self._submitted[:1000]
        self._put(second, self._driver_file, self._driver_task_line(second, states, spans))
        self._tally.profile_events += len(spans)
        self._driver_began = True
        self._submitted.clear()

    def _driver_task_line(self, second: int, states: str, spans: Sequence[str]) -> str:
        info = ""
        if not self._driver_began:
            info = (
                ',"task_info":{"func_or_class_name":"","label_selector":{},"labels":{},"language":"PYTHON",'
                f'"parent_task_id":"{_base64(bytes([255]) * 24)}","required_resources":{{}},'
                '"runtime_env_info":{"runtime_env_config":{"eager_install":false,"log_files":[],"setup_timeout_seconds":0},'
                '"serialized_runtime_env":"","uris":{"py_modules_uris":[],"working_dir_uri":""}},'
                f'"task_id":"{self._driver_task}","type":"DRIVER_TASK"}}'
            )
        profile = updates = ""
        if spans:
            component = _base64(self.id + b"\xff" * 24)
            profile = (
                f'"profile_events":{{"component_id":"{component}","component_type":"driver",'
                f'"events":[{",".join(spans)}],"node_ip_address":"{self._nodes[0].ip}"}},'
            )
        if states:
            updates = f'"state_updates":{{"state_ts_ns":{{{states}}}}},'
        return (
            f'{{"event_data":{{"attempt_number":0,"job_id":"{self._id}",{profile}{updates}"task_id":'
            f'"{self._driver_task}"{info}{self._stamp(second)}'
        )

    def _normal_task(self, now: int) -> None:
        source = self._random
        chance, bits, shape, put = source.random, source.getrandbits, self._shape, self._put
        number = int(len(_FUNCTIONS) * chance() ** 3)  # a few functions are called most
        tail, function, durations = self._task_tails[number]
        raw = bits(64).to_bytes(8, "big") + b"\xff" * 12 + self.id
        task, task_hex, job, pid = _base64(raw), raw.hex(), self._id, self._driver_file
        name = function if chance() > 0.02 else f"custom_{bits(4)}"
        self._submit_span(now)
        attempt = 0
        while True:
            worker = self._workers[bits(16) % len(self._workers)]
            created, assigned = now, now + 1000 + bits(16)
            sent = assigned + bits(29)
            began = sent + 200_000 + bits(21)
            ended = began + durations[bits(10)]
            second = assigned // _SECOND + 1
            put(
                second,
                pid,
                f'{{"event_data":{{"attempt_number":{attempt},"job_id":"{job}","state_updates":{{"state_ts_ns":'
                f'{{"1":"{created}","2":"{assigned}"}}}},"task_id":"{task}","task_info":{{{tail}{task}",'
                f'"type":"NORMAL_TASK"}}{self._stamp(second)}',
            )
            fate = chance()
            if fate < shape.open_ratio:
                self._leave_open(task, attempt, function, worker, sent, began, pending=fate < shape.open_ratio / 4)
                return
            failed, died, long = chance() < shape.failure_ratio, False, chance() < 0.001
            state, error, trace = '"11"', "", "{}"
            if failed:
                state, kind = '"12"', "WORKER_DIED"
                died = chance() < 0.2
                if died:
                    error = '"error_info":{"error_message":"","error_type":"WORKER_DIED"},'
                else:
                    kind, error, trace = self._error(name, worker)
                self._count("NORMAL_TASK", function, "FAILED", kind)
            else:
                self._count("NORMAL_TASK", function, "FINISHED")
            second = ended // _SECOND + 1
            if long:
                # it spans many flushes, so that what else goes in one line comes in two
                ended += (1 + bits(5)) * _SECOND
                self._long_lines(task, attempt, worker, sent, began)
                second, times = ended // _SECOND + 1, f'{state}:"{ended}"'
                place = ""
            else:
                times = f'{state}:"{ended}","5":"{sent}"'
                place = f'"node_id":"{worker.node.id}",'
            put(
                second,
                pid,
                f'{{"event_data":{{"attempt_number":{attempt},"job_id":"{job}","state_updates":{{{error}{place}'
                f'"state_ts_ns":{{{times}}}'
                + (f',"worker_id":"{worker.id}"' if place else "")
                + f'}},"task_id":"{task}"{self._stamp(second)}',
            )
            if not died:
                # the worker of a died one was gone before its flush
                offset = self._log_bytes[worker.file] = self._log_bytes[worker.file] + 12 + len(name)
                pinned = f'"13":"{sent + 90_000}",' if chance() < 0.02 and not long else ""
                running = "" if long else f'{pinned}"8":"{began}"'
                worker_pid = "" if long else f',"worker_pid":{worker.pid}'
                extra = f'{{\\"name\\": \\"__main__.{function}\\", \\"task_id\\": \\"{task_hex}\\"}}'
                put(
                    second,
                    worker.file,
                    f'{{"event_data":{{"attempt_number":{attempt},"job_id":"{job}",{worker.head}'
                    f"{self._spans(began, ended, name, extra, trace)}],"
                    f'"node_ip_address":"{worker.node.ip}"}},'
                    f'"state_updates":{{"state_ts_ns":{{{running}}},"task_log_info":{{"stderr_end":{offset},'
                    f'"stderr_file":"","stderr_start":0,"stdout_end":{offset},"stdout_file":"","stdout_start":0}}{worker_pid}}},'
                    f'"task_id":"{task}"{self._stamp(second)}',
                )
            if not failed or attempt == 3 or chance() < 0.5:
                return
            attempt += 1
            now = ended + 1000

    def _spans(self, began: int, ended: int, name: str, extra: str, error: str = "{}") -> str:
        """The four profile events of a task that ran. `error` is what ended the second."""
        self._tally.profile_events += 4
        read, execute = began + 300_000, began + 450_000
        store = max(ended - 90_000, execute + 1)
        return (
            f'{{"end_time":"{execute - 20_000}","event_name":"task:deserialize_arguments",'
            f'"extra_data":"{{}}","start_time":"{read}"}},{{"end_time":"{store - 10_000}","event_name":'
            f'"task:execute","extra_data":"{error}","start_time":"{execute}"}},'
            f'{{"end_time":"{store + 60_000}","event_name":"task:store_outputs",'
            f'"extra_data":"{{}}","start_time":"{store}"}},{{"end_time":"{store + 70_000}","event_name":'
            f'"task::{name}","extra_data":"{extra}","start_time":"{read - 9_000}"}}'
        )

    def _long_lines(self, task: str, attempt: int, worker: _Worker, sent: int, began: int) -> None:
        """The lines that a task's owner and executor write of it while it runs."""
        job = self._id
        second = sent // _SECOND + 1
        self._put(
            second,
            self._driver_file,
            f'{{"event_data":{{"attempt_number":{attempt},"job_id":"{job}","state_updates":{{"node_id":'
            f'"{worker.node.id}","state_ts_ns":{{"5":"{sent}"}},"worker_id":"{worker.id}"}},"task_id":"{task}"{self._stamp(second)}',
        )
        second = began // _SECOND + 1
        offset = self._log_bytes[worker.file]
        worker_hex = a2b_base64(worker.id).hex()
        log = f"/tmp/ray/{self._shape.session}/logs/worker-{worker_hex}-{self.id.hex()}-{worker.pid}"
        self._put(
            second,
            worker.file,
            f'{{"event_data":{{"attempt_number":{attempt},"job_id":"{job}","state_updates":{{"state_ts_ns":'
            f'{{"8":"{began}"}},"task_log_info":{{"stderr_end":0,"stderr_file":"{log}.err","stderr_start":{offset},'
            f'"stdout_end":0,"stdout_file":"{log}.out","stdout_start":{offset}}},"worker_pid":{worker.pid}}},'
            f'"task_id":"{task}"{self._stamp(second)}',
        )

    def _leave_open(
        self, task: str, attempt: int, function: str, worker: _Worker, sent: int, began: int, *, pending: bool
    ) -> None:
        """Count a task that never ends: still pending, or running."""
        if not pending:
            self._long_lines(task, attempt, worker, sent, began)
        state = "PENDING_NODE_ASSIGNMENT" if pending else "RUNNING"
        self._count("NORMAL_TASK", function, state)

    # Actors

    def _actor_info(self, actor: _Actor, method: str, task: str, task_type: str) -> str:
        return (
            f'"task_info":{{"actor_id":"{_base64(actor.id)}","func_or_class_name":"{method}","label_selector":{{}},'
            f'"labels":{{}},"language":"PYTHON","parent_task_id":"{self._driver_task}","required_resources":{{}},'
            f'"runtime_env_info":{self._environment_json},"task_id":"{task}","type":"{task_type}"}}'
        )

    def _actor_task(self, now: int) -> None:
        source = self._random
        chance, bits, put, job = source.random, source.getrandbits, self._put, self._id
        actor, worker = self._actors[bits(20) % len(self._actors)]
        method = f"Actor{actor.class_number}.{_METHODS[bits(8) % len(_METHODS)]}"
        raw = bits(64).to_bytes(8, "big") + actor.id
        task = _base64(raw)
        self._submit_span(now)
        assigned = now + 1000 + bits(15)
        sent = assigned + 20_000 + bits(16)
        began = sent + 300_000 + bits(20)
        ended = began + 500_000 + bits(26)
        failed = chance() < self._shape.failure_ratio
        error, state, kind, trace = "", '"11"', None, "{}"
        extra = f'{{\\"name\\": \\"{method}\\", \\"task_id\\": \\"{raw.hex()}\\"}}'
        if failed:
            state = '"12"'
            kind, error, trace = self._error(method, worker)
        self._count("ACTOR_TASK", method, "FAILED" if failed else "FINISHED", kind)
        place = f'"node_id":"{worker.node.id}",'
        info = self._actor_info(actor, method, task, "ACTOR_TASK")
        head = f'{{"event_data":{{"attempt_number":0,"job_id":"{job}",'
        owner = '"state_updates":{' + error + place + '"state_ts_ns":{'
        first, second = sent // _SECOND + 1, ended // _SECOND + 1
        if first == second:
            put(
                second,
                self._driver_file,
                f'{head}{owner}"1":"{now}",{state}:"{ended}","2":"{assigned}","5":"{sent}"}},"worker_id":'
                f'"{worker.id}"}},"task_id":"{task}",{info}{self._stamp(second)}',
            )
        else:
            put(
                first,
                self._driver_file,
                f'{head}"state_updates":{{{place}"state_ts_ns":{{"1":"{now}","2":"{assigned}","5":"{sent}"}},'
                f'"worker_id":"{worker.id}"}},"task_id":"{task}",{info}{self._stamp(first)}',
            )
            put(
                second,
                self._driver_file,
                f'{head}"state_updates":{{{error}"state_ts_ns":{{{state}:"{ended}"}}}},"task_id":"{task}"{self._stamp(second)}',
            )
        put(
            second,
            worker.file,
            f"{head}{worker.head}{self._spans(began, ended, method, extra, trace)}],"
            f'"node_ip_address":"{worker.node.ip}"}},'
            f'"state_updates":{{"state_ts_ns":{{"7":"{began - 9000}","8":"{began}"}},'
            f'"worker_pid":{worker.pid}}},"task_id":"{task}"{self._stamp(second)}',
        )

    def _create_actor(self, now: int) -> None:
        source = self._random
        self._actors_left -= 1
        class_number = source.randrange(_CLASSES)
        number = source.getrandbits(96)
        name = f"actor_{number:x}" if source.random() < 0.1 else ""
        actor = _Actor(number.to_bytes(12, "big") + self.id, class_number, name, source.random() < 0.02)
        worker = source.choice(self._workers)
        second = now // _SECOND
        for state in ("DEPENDENCIES_UNREADY", "PENDING_CREATION"):
            self._actor_line(second, actor, state, None)

        began = now + 200_000_000 + source.getrandbits(28)
        ended = began + 2_000_000
        failed = source.random() < 0.02
        raw = b"\xff" * 8 + actor.id
        task, method = _base64(raw), f"Actor{class_number}.__init__"
        info = self._actor_info(actor, method, task, "ACTOR_CREATION_TASK")
        error, state, kind, trace = "", '"11"', None, None
        if failed:
            state = '"12"'
            kind, error, trace = self._error(method, worker)
        self._count("ACTOR_CREATION_TASK", method, "FAILED" if failed else "FINISHED", kind)
        first, last = now // _SECOND + 1, ended // _SECOND + 1
        head = f'{{"event_data":{{"attempt_number":0,"job_id":"{self._id}",'
        self._put(
            first,
            self._driver_file,
            f'{head}"state_updates":{{"state_ts_ns":{{"1":"{now}","2":"{now + 90_000}"}}}},'
            f'"task_id":"{task}",{info}{self._stamp(first)}',
        )
        self._put(
            last,
            self._driver_file,
            f'{head}"state_updates":{{{error}"state_ts_ns":{{{state}:"{ended}"}}}},"task_id":"{task}"{self._stamp(last)}',
        )
        self._creation_line(actor, worker, 0, began, ended, trace)
        alive = ended // _SECOND
        if failed:
            self._actor_line(alive, actor, "DEAD", worker, "CREATION_TASK_FAILED")
            self._count_actor("DEAD")
            return
        self._actor_line(alive, actor, "ALIVE", worker)
        self._places[actor.id] = len(self._actors)
        self._actors.append((actor, worker))
        self._states[actor.id] = "ALIVE"
        if source.random() < 0.1:
            self._promise(ended + source.randrange(2, 20) * _SECOND, "RESTARTING", actor)
        if not actor.detached and source.random() < 0.5:
            self._promise(ended + source.randrange(25, 60) * _SECOND, "DEAD", actor)

    def _promise(self, when: int, fate: str, actor: _Actor) -> None:
        self._fate_number += 1
        heapq.heappush(self._fates, (when, self._fate_number, fate, actor))

    def _meet_fate(self, now: int, number: int, fate: str, actor: _Actor) -> None:
        second, place = now // _SECOND, self._places[actor.id]
        worker = self._actors[place][1]
        self._states[actor.id] = fate
        if fate == "DEAD":
            last = self._actors.pop()
            del self._places[actor.id]
            if last[0] is not actor:
                self._actors[place] = last
                self._places[last[0].id] = place
            # GCS tells a quarter of the deaths twice, each time with a new event id
            for _ in range(2 if number % 4 == 0 else 1):
                self._actor_line(second, actor, "DEAD", worker, "RAY_KILL")
            self._count_actor("DEAD")
        elif fate == "RESTARTING":
            self._actor_line(second, actor, fate, worker)
            self._promise(now + 700_000_000, "ALIVE", actor)
            self._tally.actor_restarts += 1
        else:
            worker = self._random.choice(self._workers)
            self._actors[place] = (actor, worker)
            self._actor_line(second, actor, fate, worker)
            self._creation_line(actor, worker, 1, now - 3_000_000, now - 1_000_000, None)
            self._tally.orphans += 1

    def _creation_line(
        self, actor: _Actor, worker: _Worker, attempt: int, began: int, ended: int, error: str | None
    ) -> None:
        """
        The lines that the executor writes of a creation task.

        Nobody else tells anything of a restart (attempt 1).
        """
        second = ended // _SECOND + 1
        raw = b"\xff" * 8 + actor.id
        extra = f'{{\\"name\\": \\"__init__\\", \\"task_id\\": \\"{raw.hex()}\\"}}'
        name = f"Actor{actor.class_number}.__init__"
        if actor.name:
            name = f"{actor.name}:{name}"
        self._put(
            second,
            worker.file,
            f'{{"event_data":{{"attempt_number":{attempt},"job_id":"{self._id}",{worker.head}'
            f"{self._spans(began, ended, name, extra, error or '{}')}],"
            f'"node_ip_address":"{worker.node.ip}"}},'
            f'"state_updates":{{"state_ts_ns":{{"8":"{began}"}},"worker_pid":{worker.pid}}},"task_id":"'
            f'{_base64(raw)}"{self._stamp(second)}',
        )

    def _actor_line(
        self, second: int, actor: _Actor, state: str, worker: _Worker | None, reason: str | None = None
    ) -> None:
        self._put(second, "ACTOR", self.actor_line(second, actor, state, worker, reason))

    def actor_line(
        self, second: int, actor: _Actor, state: str, worker: _Worker | None, reason: str | None = None
    ) -> str:
        """A line of the actor file."""
        number, actor_id = actor.class_number, _base64(actor.id)
        namespace = f"9c1e3fd4-6d8d-4a56-8a6e-{self._index:012x}"
        death = ""
        if reason == "CREATION_TASK_FAILED":
            death = (
                '"creation_task_failure_context":{"formatted_exception_string":"Traceback (most recent call '
                'last):\\n\\nRuntimeError: init failed\\n","language":"PYTHON",'
                '"serialized_exception":"gAWVugYAAAAAAACM"}'
            )
        elif reason is not None and worker is not None:
            text = {
                "RAY_KILL": "The actor is dead because it was killed by `ray.kill`.",
                "OWNER_DIED": "The actor is dead because its owner has died.",
                "WORKER_DIED": "The actor is dead because its worker process has died. Worker exit type: "
                "SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits.",
            }[reason]
            death = (
                f'"actor_died_error_context":{{"actor_id":"{actor_id}","class_name":"Actor{number}","error_message":'
                f'"{text}","name":"{actor.name}","never_started":false,"node_ip_address":"{worker.node.ip}",'
                f'"owner_id":"{_base64(self.id + bytes([255]) * 24)}",'
                f'"owner_ip_address":"{self._nodes[0].ip}","pid":{worker.pid},"ray_namespace":"{namespace}","reason":"{reason}"}}'
            )
        return (
            f'{{"event_data":{{"actor_id":"{actor_id}","class_name":"Actor{number}","death_cause":{{{death}}},'
            f'"is_detached":{"true" if actor.detached else "false"},"job_id":"{self._id}",'
            f'"label_selector":{{}},"labels":{{}},"name":"{actor.name}",'
            f'"node_id":"{worker.node.id if worker else ""}",'
            f'"pid":{worker.pid if worker else 0},"placement_group_id":"","ray_namespace":"{namespace}",'
            f'"repr_name":"","required_resources":{{"CPU":0.1}},"serialized_runtime_env":"{{}}","state":"{state}"}},"event_id":"{self._random.getrandbits(144):036x}","source_type":"EXPORT_ACTOR","timestamp":{second}}}\n'
        )


class _Session:
    """All jobs of a session, and its nodes."""

    def __init__(self, shape: _Shape, *, tasks: int | None, files: int, jobs: int | None, actors: int | None) -> None:
        job_count = jobs if jobs is not None else max(files // 4, 1)
        if files < 2 * job_count:
            raise ConfigError(f"{files} files for {job_count} jobs; give each job a driver and a worker, so two")
        if actors is None and tasks is not None:
            actors = min(max(tasks // 200, 1), 50_000)
        self._shape = shape
        self.session = shape.session
        self._random = random.Random(f"{shape.seed}/session")
        self.tally = _Tally()
        self.nodes = [self._node(number) for number in range(shape.nodes)]
        self._jobs = [
            _Job(
                shape,
                index,
                _share(tasks, job_count, index),
                _share(actors, job_count, index),
                (files - job_count) // job_count + (index < (files - job_count) % job_count),
                self.nodes,
                self.tally,
            )
            for index in range(job_count)
        ]
        self._node_states: Counter[str] = Counter()
        self._ended_second = shape.began_seconds
        self.file_names = sorted(name for job in self._jobs for name in job.file_names())
        self.stopping = False

    def _node(self, number: int) -> _Node:
        raw = self._random.randbytes(28)
        return _Node(_base64(raw), raw.hex(), f"10.0.{number // 250}.{number % 250 + 1}")

    def stop(self) -> None:
        """Let no job submit another task."""
        self.stopping = True
        for job in self._jobs:
            job.stopping = True

    def seconds(self) -> Iterator[tuple[int, dict[str, list[str]]]]:
        """Yield the lines of every second in order, by file. A second may come in several parts."""
        began = self._shape.began_seconds
        yield began, {"NODE": [self._node_line(began, number, None) for number in range(len(self.nodes))]}
        for second, lines in heapq.merge(*(job.seconds() for job in self._jobs), key=lambda part: part[0]):
            self._ended_second = second
            yield self._tallied(second, lines)
        if not self._shape.ended:
            self._node_states["ALIVE"] = len(self.nodes)
            return
        second = self._ended_second + 1
        if len(self.nodes) > 1:
            yield second, {"NODE": [self._node_line(second, 1, "UNEXPECTED_TERMINATION")]}
        second += 2
        # actors that outlive their jobs go down with the cluster, which Ray tells of some as a restart
        actors = []
        for job in self._jobs:
            for number, (actor, worker) in enumerate(job.detached):
                state, reason = ("RESTARTING", None) if number % 2 else ("DEAD", "WORKER_DIED")
                actors.append(job.actor_line(second, actor, state, worker, reason))
                self.tally.actor_restarts += state == "RESTARTING"
                self.tally.actor_states[state] += 1
                self.tally.actor_final_states["DEAD"] += 1
        if actors:
            yield self._tallied(second, {"ACTOR": actors})
        others = [number for number in range(len(self.nodes) - 1, -1, -1) if number != 1]
        yield second, {"NODE": [self._node_line(second, number, "EXPECTED_TERMINATION") for number in others]}
        self._node_states["DEAD"] = len(self.nodes)
        self._ended_second = second

    def _tallied(self, second: int, lines: dict[str, list[str]]) -> tuple[int, dict[str, list[str]]]:
        tally = self.tally
        for name, batch in lines.items():
            event_type = name.split("_")[0] if name.startswith("TASK_") else name
            tally.events[event_type] += len(batch)
            tally.file_bytes[name] += sum(map(len, batch))
        return second, lines

    def _node_line(self, second: int, number: int, reason: str | None) -> str:
        node = self.nodes[number]
        began_ms = self._shape.began_seconds * 1000 + number
        body: dict[str, object] = {
            "end_time_ms": str(second * 1000 + number if reason else 0),
            "is_head_node": number == 0,
            "labels": {"ray.io/node-id": node.hex},
            "node_id": node.id,
            "node_manager_address": node.ip,
            "node_name": node.ip,
            "resources_total": {"CPU": 64, "memory": 16564043776, f"node:{node.ip}": 1},
            "start_time_ms": str(began_ms),
            "state": "DEAD" if reason else "ALIVE",
        }
        if reason:
            expected = reason == "EXPECTED_TERMINATION"
            message = "received SIGTERM" if expected else "health check failed due to missing too many heartbeats"
            body["death_info"] = {"reason": reason, "reason_message": message}
        line = {
            "event_data": body,
            "event_id": f"{self._random.getrandbits(144):036x}",
            "source_type": "EXPORT_NODE",
            "timestamp": second,
        }
        text = _cpp_json(line) + "\n"
        self.tally.events["NODE"] += 1
        self.tally.file_bytes["NODE"] += len(text)
        return text

    def generated(self, session_dir: Path, writer: _LiveFiles | None = None) -> Generated:
        """Return what was written, once it was."""
        tally = self.tally
        type_bytes: Counter[str] = Counter()
        for name, count in tally.file_bytes.items():
            type_bytes["TASK" if name.startswith("TASK_") else name] += count
        drivers = len(self._jobs)
        by_job, by_type, by_function, by_state, by_error = (Counter[str]() for _ in range(5))
        for (job_id, task_type, function, state, error), count in tally.attempts.items():
            by_job[job_id] += count
            by_type[task_type] += count
            by_function[function] += count
            by_state[state] += count
            if error is not None:
                by_error[error] += count
        final_states = dict(by_state)
        if self._shape.ended:
            final_states = {"FINISHED": by_state["FINISHED"]}
            final_states["FAILED"] = by_state.total() - by_state["FINISHED"]
        return Generated(
            directory=session_dir,
            session=self._shape.session,
            files={_file_name(name): count for name, count in sorted(tally.file_bytes.items())},
            bytes=dict(type_bytes),
            events=dict(tally.events),
            duplicates=tally.duplicates,
            attempts=tally.attempts.total(),
            orphans=tally.orphans,
            task_states=dict(by_state),
            task_final_states=final_states,
            task_types=dict(by_type),
            tasks_by_job=dict(by_job),
            tasks_by_function=dict(by_function),
            errors=dict(by_error),
            profile_events=tally.profile_events,
            actors=tally.actor_states.total(),
            actor_states=dict(tally.actor_states),
            actor_final_states=dict(tally.actor_final_states),
            actor_restarts=tally.actor_restarts,
            nodes=len(self.nodes),
            node_states=dict(+self._node_states),
            driver_jobs=drivers,
            submission_states=dict(+tally.submissions),
            jobs=drivers,
            dataset_states=dict(+tally.datasets),
            train_run_states=dict(+tally.train_runs),
            train_run_attempt_states=dict(+tally.train_run_attempts),
            began_ms=self._shape.began_seconds * 1000,
            ended_ms=self._ended_second * 1000,
            rotations=writer.rotations if writer else 0,
            deleted_bytes=writer.deleted_bytes if writer else 0,
            half_lines=writer.half_lines if writer else 0,
        )


def _share(total: int | None, parts: int, index: int) -> int | None:
    return None if total is None else total // parts + (index < total % parts)


def _file_name(name: str) -> str:
    return f"event_EXPORT_{name}.log"


def _event_file(session_dir: Path, name: str) -> Path:
    return session_dir / "logs" / "export_events" / _file_name(name)


def _make_session(directory: Path, simulation: _Session) -> Path:
    """Make the session's directory with what identifies it, and the empty files that processes begin with."""
    session = simulation.session
    session_dir = directory / session
    try:
        (session_dir / "logs" / "export_events").mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigError(f"session {session!r} exists in {directory}; choose another name or place") from error
    head = simulation.nodes[0].hex
    for number, marker in enumerate(
        ("gcs_server", "metrics_agent", "metrics_export", "dashboard_agent_listen", "runtime_env_agent")
    ):
        (session_dir / f"{marker}_port_{head}").write_text(str(46_000 + number))
    for name in simulation.file_names:
        _event_file(session_dir, name).touch()
    latest = directory / "session_latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to(session)
    return session_dir


def _interleaved(lines: Mapping[str, Sequence[str]]) -> Iterator[Line]:
    """Yield one line of each file in turn, as processes that run side by side write them."""
    iterators = [(name, iter(batch)) for name, batch in lines.items()]
    while iterators:
        unfinished = []
        for name, batch in iterators:
            for line in batch:
                yield name, line
                unfinished.append((name, batch))
                break
        iterators = unfinished


class _LiveFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle: BinaryIO = path.open("ab", buffering=0)
        self.size = self.handle.tell()
        self.rest = b""
        """The missing rest of the line that is there in part."""
        self.complete_at = 0
        """Number of the write, over all files, before which it is completed."""
        self.held: list[bytes] = []
        """Lines that wait for it."""


class _LiveFiles:
    """The event files of a running Ray: written line by line, rotated, some lines in two parts."""

    def __init__(self, session_dir: Path, rotate_bytes: int | None, half_lines: bool, source: random.Random) -> None:
        self._session_dir = session_dir
        self._rotate_bytes = rotate_bytes
        self._halves = half_lines
        self._random = source
        self._files: dict[str, _LiveFile] = {}
        self._half: list[_LiveFile] = []
        self._writes = 0
        self.rotations = 0
        self.deleted_bytes = 0
        self.half_lines = 0

    def __enter__(self) -> _LiveFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for file in list(self._half):
            self._complete(file)
        for file in self._files.values():
            file.handle.close()

    def write(self, name: str, line: str) -> None:
        """Append a line, or the first part of it."""
        self._writes += 1
        for half in [file for file in self._half if file.complete_at <= self._writes]:
            self._complete(half)
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = _LiveFile(_event_file(self._session_dir, name))
        data = line.encode("ascii")
        if file.rest:
            file.held.append(data)
        elif self._halves and self._random.random() < 0.01:
            cut = self._random.randrange(1, len(data))
            self._append(file, data[:cut], whole=len(data))
            file.rest, file.complete_at = data[cut:], self._writes + self._random.randrange(1, 40)
            self._half.append(file)
            self.half_lines += 1
        else:
            self._append(file, data, whole=len(data))

    def _complete(self, file: _LiveFile) -> None:
        self._half.remove(file)
        file.handle.write(file.rest)
        file.size += len(file.rest)
        file.rest = b""
        for data in file.held:
            self._append(file, data, whole=len(data))
        file.held.clear()

    def _append(self, file: _LiveFile, data: bytes, whole: int) -> None:
        if self._rotate_bytes is not None and file.size and file.size + whole > self._rotate_bytes:
            self._rotate(file)
        file.handle.write(data)
        file.size += len(data)

    def _rotate(self, file: _LiveFile) -> None:
        """Rename ``x.log.1`` to ``x.log.2`` and so on, then ``x.log`` to ``x.log.1``. Begin anew."""
        file.handle.close()
        backups = [file.path.with_name(f"{file.path.name}.{number}") for number in range(1, BACKUPS + 1)]
        if backups[-1].exists():
            self.deleted_bytes += backups[-1].stat().st_size
            backups[-1].unlink()
        for older, newer in zip(reversed(backups[1:]), reversed(backups[:-1]), strict=True):
            if newer.exists():
                newer.rename(older)
        file.path.rename(backups[0])
        file.handle = file.path.open("ab", buffering=0)
        file.size = 0
        self.rotations += 1


def main(argv: Sequence[str] | None = None, write: Callable[[str], object] = sys.stdout.write) -> None:
    """Write a session and then, as one line of JSON, what it holds."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.generate",
        description="Write the export event files of a Ray session.",
    )
    parser.add_argument("directory", type=Path, help="Ray's temporary directory; the session's is made in it")
    parser.add_argument("--tasks", type=int, help="how many tasks to submit (100000, without --live)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", type=int, help="task event files (16; live: 4)")
    parser.add_argument("--jobs", type=int, help="driver jobs (one for four files)")
    parser.add_argument("--actors", type=int, help="actors, not with --live (one for 200 tasks)")
    parser.add_argument("--nodes", type=int, help="nodes (50; live: 2)")
    parser.add_argument("--failure-ratio", type=float, default=0.01)
    parser.add_argument("--session", help="the session's name")
    parser.add_argument("--open", action="store_true", help="leave jobs and nodes alive, not with --live")
    parser.add_argument("--live", action="store_true", help="write as if it ran now, and rotate")
    parser.add_argument("--seconds", type=float, help="live: when to stop submitting")
    parser.add_argument("--rate", type=float, default=2000.0, help="live: lines a second")
    parser.add_argument("--rotate-bytes", type=int, help="live: the size at which a file rotates")
    parser.add_argument("--no-half-lines", action="store_true", help="live: write whole lines only")
    options = parser.parse_args(argv)
    try:
        if options.live:
            result = write_live(
                options.directory,
                seconds=options.seconds,
                tasks=options.tasks,
                rate=options.rate,
                rotate_bytes=options.rotate_bytes,
                half_lines=not options.no_half_lines,
                seed=options.seed,
                files=options.files or 4,
                jobs=options.jobs,
                nodes=options.nodes or 2,
                failure_ratio=options.failure_ratio,
                session=options.session,
            )
        else:
            result = generate(
                options.directory,
                tasks=100_000 if options.tasks is None else options.tasks,
                seed=options.seed,
                files=options.files or 16,
                jobs=options.jobs,
                actors=options.actors,
                nodes=options.nodes or 50,
                failure_ratio=options.failure_ratio,
                ended=not options.open,
                session=options.session or SESSION,
            )
    except ConfigError as error:
        parser.error(str(error))
    write(msgspec.json.encode(result, enc_hook=str).decode() + "\n")


if __name__ == "__main__":
    main()
