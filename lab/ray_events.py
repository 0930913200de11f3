"""
RayEvents of a session that is over, as a Ray 2.60 posts them over HTTP, with the numbers they must add up to.

    lay_bucket(tmp_path, tasks=50_000)             files as KubeRay's collector leaves them in a bucket
    bodies(posted(tmp_path), size=1000)            the bodies of requests, as Ray's aggregator sends them
    python -m lab.ray_events --help                a bucket, as a process of its own

The forms, counts and sizes are those of a real Ray. An attempt has a definition, three lifecycles and a profile, of
815 bytes each. The same arguments give the same bytes. A driver job is simulated by itself, and no more than its events
are held.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from base64 import b64encode
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

CLUSTER = "made"
"""The name of the RayCluster, in the namespace ``default``."""

FILE_LINES = 40_000
"""The most lines of a file. The collector begins another one after five minutes or 100 MB."""

NODES, JOBS, WORKERS_OF_NODE, TASKS_OF_ACTOR = 4, 4, 8, 200
ACTOR_TASK_RATIO, FAILURE_RATIO, RETRY_RATIO, OPEN_RATIO = 0.3, 0.01, 0.5, 0.0005
NAMED_RATIO, RESTART_RATIO = 0.3, 0.05

_BEGAN_NS = 1_795_421_330_000_000_000
_US, _MS, _SECOND = 1_000, 1_000_000, 1_000_000_000
_NOBODY = {"nodeId": "", "workerId": "", "reprName": "", "pid": 0, "port": 0, "restartReason": "ACTOR_FAILURE"}
_ELSEWHERE = {"nodeId": "", "workerId": "", "workerPid": 0}
_ORDER = ("eventId", "sourceType", "eventType", "timestamp", "severity", "sessionName")
"""The fields of an event in Ray's order. Its body, `nodeId` and `message` come after these."""

_Body = dict[str, Any]


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of what was made."""

    session: str
    events: int
    bytes: int
    files: int
    attempts: int
    """Task attempts: what Ray's State API would list."""
    task_states: dict[str, int]
    """Attempts by the last state that an event tells."""
    task_final_states: dict[str, int]
    """The same once the end of its job has failed what was open."""
    errors: dict[str, int]
    """Attempts by error type, as the events tell."""
    actors: int
    actor_states: dict[str, int]
    actor_restarts: int
    job_states: dict[str, int]
    nodes: int


class _Event(NamedTuple):
    """An event, where it was posted, and which of the collector's directories it belongs to."""

    node: str
    """Hex."""
    directory: str
    """``node_events`` or ``job_events/<job>``, below the node's."""
    time_ns: int
    fields: _Body


def lay_bucket(directory: Path, *, tasks: int, seed: int = 0, cluster: str = CLUSTER) -> Made:
    """
    Lay the events of one session out below `directory`, as KubeRay's collector does below its root.

    Args:
        directory: The bucket's root. ``log`` is made in it.
        tasks: Calls of tasks and actor methods. Attempts are some more.
        seed: The same one gives the same bytes.
        cluster: The name of the RayCluster.

    Raises:
        FileExistsError: The session is there.
    """
    session = _Session(tasks=tasks, seed=seed)
    markers = directory / "log" / "cluster-metadata" / "raycluster" / f"default_{cluster}"
    markers.mkdir(parents=True, exist_ok=True)
    (markers / session.name).touch(exist_ok=False)
    root = directory / "log" / "cluster-history" / "raycluster" / "default" / cluster / session.name
    sizes = [size for part in session.parts() for size in _write(root, part)]
    return session.made(sum(sizes), len(sizes))


def posted(directory: Path) -> list[str]:
    """
    Return the events of a bucket in the order in which they happened, each as the JSON that Ray made of it.

    Args:
        directory: The bucket's root, or a part of it.
    """
    events = [
        json.loads(line) for path in sorted(directory.rglob("*.jsonl")) for line in path.read_bytes().splitlines()
    ]
    events.sort(key=lambda event: str(event["timestamp"]))
    return [json.dumps(_in_rays_order(event)) for event in events]


def bodies(events: Sequence[str], size: int) -> Iterator[bytes]:
    """
    Yield the bodies of requests.

    Args:
        events: The events, each as JSON.
        size: The most events of a request. Ray's aggregator sends 1,000.
    """
    for start in range(0, len(events), size):
        yield f"[{', '.join(events[start : start + size])}]".encode()


class _Session:
    """
    A session, which is simulated once.

    Args:
        tasks: Calls of tasks and actor methods.
        seed: The same one gives the same events.
    """

    def __init__(self, *, tasks: int, seed: int = 0) -> None:
        self.name = f"session_2026-11-23_08-08-44_{tasks:06d}_11619"
        self.random = random.Random(f"{tasks}/{seed}")
        self.nodes = [_Node(self.random.randbytes(28), f"192.0.2.{number + 2}") for number in range(NODES)]
        self.events = 0
        self.task_states: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.actor_states: Counter[str] = Counter()
        self.actor_restarts = 0
        self.job_states: Counter[str] = Counter()
        self._tasks = tasks

    def parts(self) -> Iterator[list[_Event]]:
        """Yield the events of the nodes, and then those of each job. No two parts share a directory."""
        yield list(self._node_events())
        workers = [
            [
                _Worker(node, self.random.randbytes(28), 10_000 + 100 * number + index)
                for index in range(WORKERS_OF_NODE)
            ]
            for number, node in enumerate(self.nodes)
        ]
        for number in range(JOBS):
            yield list(_Job(self, number, workers).events(self._tasks // JOBS, self._tasks // TASKS_OF_ACTOR // JOBS))

    def event(
        self, node: _Node, directory: str, time_ns: int, kind: str, field: str, body: _Body, source: str = "CORE_WORKER"
    ) -> _Event:
        """Return an event that was posted on a node."""
        self.events += 1
        fields = {
            "eventId": _base64(self.random.randbytes(28)),
            "eventType": kind,
            field: body,
            "message": "",
            "nodeId": _base64(node.id),
            "sessionName": self.name,
            "severity": "INFO",
            "sourceType": source,
            "timestamp": _time(time_ns),
        }
        return _Event(node.id.hex(), directory, time_ns, fields)

    def made(self, size: int, files: int) -> Made:
        """Return the figures, once all parts were taken."""
        final = Counter(self.task_states)
        final["FAILED"] += final.pop("RUNNING", 0)
        return Made(
            session=self.name,
            events=self.events,
            bytes=size,
            files=files,
            attempts=self.task_states.total(),
            task_states=dict(self.task_states),
            task_final_states=dict(final),
            errors=dict(self.errors),
            actors=self.actor_states.total(),
            actor_states=dict(self.actor_states),
            actor_restarts=self.actor_restarts,
            job_states=dict(self.job_states),
            nodes=len(self.nodes),
        )

    def _node_events(self) -> Iterator[_Event]:
        for number, node in enumerate(self.nodes):
            definition = {
                "nodeId": _base64(node.id),
                "nodeIpAddress": node.ip,
                "labels": {"ray.io/node-id": node.id.hex()},
                "startTimestamp": _time(_BEGAN_NS),
                "hostname": f"vm{number}",
                "nodeName": node.ip,
                "instanceId": "",
                "instanceTypeName": "",
            }
            yield self._node_event(_BEGAN_NS, "NODE_DEFINITION_EVENT", "nodeDefinitionEvent", definition)
            resources = {f"node:{node.ip}": 1.0, "CPU": 16.0, "memory": 1e10, "object_store_memory": 5e9}
            if not number:
                resources["node:__internal_head__"] = 1.0
            alive = _transition(_BEGAN_NS + _US, "ALIVE", resources=resources, aliveSubState="UNSPECIFIED")
            lifecycle = {"nodeId": _base64(node.id), "stateTransitions": [alive]}
            yield self._node_event(_BEGAN_NS + _US, "NODE_LIFECYCLE_EVENT", "nodeLifecycleEvent", lifecycle)

    def _node_event(self, time_ns: int, kind: str, field: str, body: _Body) -> _Event:
        """Return an event of the GCS, which is on the first node."""
        return self.event(self.nodes[0], "node_events", time_ns, kind, field, body, "GCS")


class _Node(NamedTuple):
    id: bytes
    ip: str


class _Worker(NamedTuple):
    """A process that runs tasks."""

    node: _Node
    id: bytes
    pid: int


class _Actor(NamedTuple):
    id: bytes
    worker: _Worker
    class_name: str
    name: str


class _Attempt(NamedTuple):
    task: bytes
    number: int
    job: bytes
    name: str
    worker: _Worker
    actor: _Actor | None

    def event_id(self) -> _Body:
        """Return what says, in each of its events but the profile, which attempt it is."""
        return {"taskId": _base64(self.task), "jobId": _base64(self.job), "taskAttempt": self.number}


class _Job:
    """A driver job, its actors and its tasks."""

    def __init__(self, session: _Session, number: int, workers: Sequence[Sequence[_Worker]]) -> None:
        self._session, self._number, self._workers = session, number, workers
        self._random = session.random
        self._id = (number + 1).to_bytes(4, "little")
        self._directory = f"job_events/{self._id.hex()}"
        self._actors: list[_Actor] = []
        self._ended_ns = 0

    def events(self, tasks: int, actors: int) -> Iterator[_Event]:
        """Yield all events of the job, whose number of tasks and actors is given."""
        yield from self._begin()
        for number in range(max(actors, 1)):
            yield from self._begin_actor(number)
        time_ns = _BEGAN_NS + 5 * _SECOND
        for number in range(tasks):
            time_ns += self._random.randrange(200 * _US, 3 * _MS)
            yield from self._task(number, time_ns)
        yield from self._end(self._ended_ns + _MS)

    def _begin(self) -> Iterator[_Event]:
        began = _BEGAN_NS + 2 * _SECOND
        definition = {
            "jobId": _base64(self._id),
            "driverPid": str(9000 + self._number),
            "driverNodeId": _base64(self._session.nodes[0].id),
            "entrypoint": f"python main{self._number}.py",
            "config": {"serializedRuntimeEnv": "{}", "metadata": {}},
        }
        yield self._by_gcs(began, "DRIVER_JOB_DEFINITION_EVENT", "driverJobDefinitionEvent", definition)
        yield self._job_state(began + _US, "CREATED")

    def _end(self, time_ns: int) -> Iterator[_Event]:
        for actor in self._actors:
            yield self._dead_actor(actor, time_ns)
        yield self._job_state(time_ns + _US, "FINISHED")
        self._session.job_states["FINISHED"] += 1

    def _job_state(self, time_ns: int, state: str) -> _Event:
        body = {"jobId": _base64(self._id), "stateTransitions": [_transition(time_ns, state)]}
        return self._by_gcs(time_ns, "DRIVER_JOB_LIFECYCLE_EVENT", "driverJobLifecycleEvent", body)

    def _begin_actor(self, number: int) -> Iterator[_Event]:
        id = self._random.randbytes(12) + self._id
        node = self._session.nodes[self._random.randrange(NODES)]
        worker = _Worker(node, self._random.randbytes(28), self._random.randrange(10_000, 60_000))
        began = _BEGAN_NS + 3 * _SECOND + self._random.randrange(2 * _SECOND)
        name = f"a{self._number}_{number}" if self._random.random() < NAMED_RATIO else ""
        actor = _Actor(id, worker, f"Actor{number % 7}", name)
        self._actors.append(actor)
        definition = _actor_definition(actor, self._id)
        yield self._by_gcs(began, "ACTOR_DEFINITION_EVENT", "actorDefinitionEvent", definition)
        pending = (
            _transition(began + 3 * _US, "DEPENDENCIES_UNREADY", **_NOBODY),
            _transition(began + 4 * _US, "PENDING_CREATION", **_NOBODY),
        )
        yield self._actor_states(actor, began + 5 * _US, *pending)
        alive = _alive(actor, f"{actor.class_name}(x={number})")
        yield self._actor_states(actor, began + 400 * _MS, _transition(began + 400 * _MS, "ALIVE", **alive))
        if self._random.random() < RESTART_RATIO:
            self._session.actor_restarts += 1
            again = _transition(began + 900 * _MS, "ALIVE", **alive)
            restarting = _transition(began + 800 * _MS, "RESTARTING", **_NOBODY)
            yield self._actor_states(actor, began + 900 * _MS, restarting, again)

    def _dead_actor(self, actor: _Actor, time_ns: int) -> _Event:
        self._session.actor_states["DEAD"] += 1
        cause = {"actorDiedErrorContext": _owner_died(actor, self._id)}
        return self._actor_states(actor, time_ns, _transition(time_ns, "DEAD", **_NOBODY, deathCause=cause))

    def _actor_states(self, actor: _Actor, time_ns: int, *transitions: _Body) -> _Event:
        body = {"actorId": _base64(actor.id), "stateTransitions": list(transitions)}
        return self._by_gcs(time_ns, "ACTOR_LIFECYCLE_EVENT", "actorLifecycleEvent", body)

    def _task(self, number: int, time_ns: int) -> Iterator[_Event]:
        """Yield the events of a task, which is tried again in half of the cases where it fails."""
        task, name, worker, actor = self._called(number)
        fails, opened = self._random.random() < FAILURE_RATIO, self._random.random() < OPEN_RATIO
        for again in range(2 if fails and self._random.random() < RETRY_RATIO else 1):
            attempt = _Attempt(task, again, self._id, name, worker, actor)
            state = "RUNNING" if opened else "FAILED" if fails and not again else "FINISHED"
            ended = yield from self._attempt(attempt, time_ns, state, f"boom {number}")
            time_ns = ended + _US
            self._ended_ns = max(self._ended_ns, ended)

    def _called(self, number: int) -> tuple[bytes, str, _Worker, _Actor | None]:
        """Return the id of a task, the name it has, and who runs it."""
        if self._random.random() < ACTOR_TASK_RATIO:
            actor = self._random.choice(self._actors)
            method = ("step", "poll", "predict")[number % 3]
            return self._random.randbytes(8) + actor.id, f"{actor.class_name}.{method}", actor.worker, actor
        worker = self._random.choice(self._workers[self._random.randrange(NODES)])
        return self._random.randbytes(8) + b"\xff" * 12 + self._id, f"fn_{number % 40}", worker, None

    def _attempt(self, attempt: _Attempt, time_ns: int, state: str, message: str) -> Generator[_Event, None, int]:
        """Yield the events of an attempt, and return when it ended."""
        kind, field, body = _task_definition(attempt)
        yield self._on_head(time_ns, kind, field, body)
        assigned = time_ns + self._random.randrange(1 * _US, 90 * _US)
        submitted = time_ns + self._random.randrange(100 * _US, 900 * _US)
        began = submitted + self._random.randrange(100 * _US, 3 * _MS)
        ended = began + self._random.randrange(1 * _MS, 400 * _MS)
        on_worker = {"nodeId": _base64(attempt.worker.node.id), "workerId": _base64(attempt.worker.id), "workerPid": 0}
        yield self._task_states(
            submitted,
            attempt,
            _transition(time_ns, "PENDING_ARGS_AVAIL"),
            _transition(assigned, "PENDING_NODE_ASSIGNMENT"),
            _transition(submitted, "SUBMITTED_TO_WORKER"),
            **on_worker,
        )
        yield self._running(attempt, began)
        if state != "RUNNING":
            yield self._on_worker(
                attempt, began, "TASK_PROFILE_EVENT", "taskProfileEvents", _profile(attempt, began, ended)
            )
            error = _error(attempt, message) if state == "FAILED" else {}
            yield self._task_states(ended, attempt, _transition(ended, state), **_ELSEWHERE, **error)
            self._session.errors.update(info["errorType"] for info in error.values())
        self._session.task_states[state] += 1
        return ended

    def _running(self, attempt: _Attempt, time_ns: int) -> _Event:
        worker = attempt.worker
        log = f"/tmp/ray/{self._session.name}/logs/worker-{worker.id.hex()}-{self._id.hex()}-{worker.pid}"
        places = dict.fromkeys(("stdoutStart", "stdoutEnd", "stderrStart", "stderrEnd"), "30")
        body = {
            **attempt.event_id(),
            "stateTransitions": [_transition(time_ns, "RUNNING")],
            "workerPid": worker.pid,
            "nodeId": "",
            "workerId": "",
            "taskLogInfo": {"stdoutFile": f"{log}.out", "stderrFile": f"{log}.err", **places},
        }
        return self._on_worker(attempt, time_ns, "TASK_LIFECYCLE_EVENT", "taskLifecycleEvent", body)

    def _task_states(self, time_ns: int, attempt: _Attempt, *transitions: _Body, **more: Any) -> _Event:
        """Return the states that the owner of a task tells."""
        body = {**attempt.event_id(), "stateTransitions": list(transitions), **more}
        return self._on_head(time_ns, "TASK_LIFECYCLE_EVENT", "taskLifecycleEvent", body)

    def _on_head(self, time_ns: int, kind: str, field: str, body: _Body) -> _Event:
        return self._session.event(self._session.nodes[0], self._directory, time_ns, kind, field, body)

    def _on_worker(self, attempt: _Attempt, time_ns: int, kind: str, field: str, body: _Body) -> _Event:
        return self._session.event(attempt.worker.node, self._directory, time_ns, kind, field, body)

    def _by_gcs(self, time_ns: int, kind: str, field: str, body: _Body) -> _Event:
        return self._session.event(self._session.nodes[0], self._directory, time_ns, kind, field, body, "GCS")


def _actor_definition(actor: _Actor, job: bytes) -> _Body:
    return {
        "actorId": _base64(actor.id),
        "jobId": _base64(job),
        "name": actor.name,
        "rayNamespace": "ns",
        "serializedRuntimeEnv": "{}",
        "className": actor.class_name,
        "requiredResources": {"CPU": 0.1},
        "isDetached": False,
        "placementGroupId": "",
        "labelSelector": {},
        "callSite": "",
        "parentId": "",
        "refIds": {},
    }


def _alive(actor: _Actor, representation: str) -> _Body:
    worker = actor.worker
    ids = {"nodeId": _base64(worker.node.id), "workerId": _base64(worker.id)}
    return {**_NOBODY, **ids, "reprName": representation, "pid": worker.pid, "port": 11_000}


def _owner_died(actor: _Actor, job: bytes) -> _Body:
    return {
        "errorMessage": "The actor is dead because its owner has died.",
        "ownerId": _base64(job + b"\xff" * 24),
        "ownerIpAddress": "192.0.2.2",
        "nodeIpAddress": actor.worker.node.ip,
        "pid": actor.worker.pid,
        "name": actor.name,
        "rayNamespace": "ns",
        "className": actor.class_name,
        "actorId": _base64(actor.id),
        "reason": "OWNER_DIED",
        "neverStarted": False,
    }


def _task_definition(attempt: _Attempt) -> tuple[str, str, _Body]:
    """Return the type, the field and the body of an event that says what an attempt is."""
    body = {
        **attempt.event_id(),
        "requiredResources": {} if attempt.actor else {"CPU": 1.0},
        "parentTaskId": _base64(b"\xff" * 20 + attempt.job),
        "placementGroupId": _base64(b"\xff" * 18),
        "serializedRuntimeEnv": "{}",
        "language": "PYTHON",
        "refIds": {},
        "labelSelector": {},
        "isDetachedActor": False,
    }
    if attempt.actor is None:
        function = _function("", attempt.name, "d230ab96b1244b7488695f71ebd01ba7")
        body |= {"taskFunc": function, "taskName": attempt.name, "taskType": "NORMAL_TASK"}
        return "TASK_DEFINITION_EVENT", "taskDefinitionEvent", body
    function = _function(attempt.actor.class_name, attempt.name.partition(".")[2], "")
    body |= {"actorFunc": function, "actorTaskName": attempt.name, "actorId": _base64(attempt.actor.id)}
    return "ACTOR_TASK_DEFINITION_EVENT", "actorTaskDefinitionEvent", body


def _function(class_name: str, name: str, digest: str) -> _Body:
    descriptor = {"moduleName": "m", "className": class_name, "functionName": name, "functionHash": digest}
    return {"pythonFunctionDescriptor": descriptor}


def _profile(attempt: _Attempt, began: int, ended: int) -> _Body:
    spans = (
        ("task:deserialize_arguments", began, began + 50 * _US),
        ("task:execute", began + 60 * _US, ended - 100 * _US),
        ("task:store_outputs", ended - 90 * _US, ended - 50 * _US),
        (f"task::{attempt.name}", began - _US, ended - 40 * _US),
    )
    return {
        "taskId": _base64(attempt.task),
        "jobId": _base64(attempt.job),
        "attemptNumber": attempt.number,
        "profileEvents": {
            "componentType": "worker",
            "componentId": _base64(attempt.worker.id),
            "nodeIpAddress": attempt.worker.node.ip,
            "events": [
                {"startTime": str(start), "endTime": str(end), "extraData": "{}", "eventName": name}
                for name, start, end in spans
            ],
        },
    }


def _error(attempt: _Attempt, message: str) -> _Body:
    name, worker = attempt.name, attempt.worker
    where = f"ray::{name}() (pid={worker.pid}, ip={worker.node.ip})"
    text = f'User exception:\n{where}\n  File "/srv/app/m.py", line 8, in {name}\nValueError: {message}'
    return {"rayErrorInfo": {"errorMessage": text, "errorType": "TASK_EXECUTION_EXCEPTION"}}


def _transition(time_ns: int, state: str, **more: Any) -> _Body:
    return {"state": state, "timestamp": _time(time_ns), **more}


def _write(root: Path, events: Sequence[_Event]) -> Iterator[int]:
    """Write the files of some directories, and yield the size of each."""
    directories: dict[tuple[str, str], list[_Event]] = {}
    for event in events:
        directories.setdefault((event.node, event.directory), []).append(event)
    for (node, name), among in directories.items():
        directory = root / node / name
        directory.mkdir(parents=True)
        among.sort(key=lambda event: event.time_ns)
        for start in range(0, len(among), FILE_LINES):
            time_ns = among[start].time_ns
            hour = datetime.fromtimestamp(time_ns // _SECOND, timezone.utc).strftime("%Y-%m-%d-%H")
            text = "".join(_as_collected(event.fields) for event in among[start : start + FILE_LINES])
            yield (directory / f"{node}-{hour}-{time_ns}.jsonl").write_text(text)


def _as_collected(fields: _Body) -> str:
    """Return a line of the collector, which is in Go and sorts the names."""
    return json.dumps(fields, separators=(",", ":"), sort_keys=True) + "\n"


def _in_rays_order(fields: _Body) -> _Body:
    """Return an event with its fields in Ray's order."""
    first = {name: fields[name] for name in _ORDER}
    last = {name: fields[name] for name in ("nodeId", "message")}
    return first | {name: value for name, value in fields.items() if name not in last} | last


def _base64(raw: bytes) -> str:
    return b64encode(raw).decode()


def _time(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, _SECOND)
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def main(argv: Sequence[str] | None = None, write: Callable[[str], object] = sys.stdout.write) -> None:
    """Lay a bucket out and then, as one line of JSON, write what it holds."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.ray_events",
        description="Write RayEvents of a session as KubeRay's collector leaves them in a bucket.",
    )
    parser.add_argument("directory", type=Path, help="the bucket's root; log/ is made in it")
    parser.add_argument("--tasks", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    made = lay_bucket(options.directory, tasks=options.tasks, seed=options.seed)
    write(msgspec.json.encode(made).decode() + "\n")


if __name__ == "__main__":
    main()
