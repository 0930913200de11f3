"""
Rows of Ray's State API as the events that its export would have written of them.

Rows tell a state and some times. An event is written for each time that a row tells, with what was known then, so that
the history before the snapshot is what the rows themselves say. Fields that a row has not are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from raytrail.entities.enumerations import TASK_STATES
from raytrail.sources import workers
from raytrail.sources.messages import in_base64

Row = Mapping[str, Any]

_NUMBERS = {name: number for number, name in TASK_STATES}
_WITHIN_NS = 256
"""
Nanoseconds that are added to a time in milliseconds.

Ray's answers pass nanoseconds through a double, whose steps are 256 ns: without this, a whole millisecond may come out
one lower.
"""
_IDS_OF_DEATH = ("actor_id", "owner_id", "node_id", "job_id", "placement_group_id")
_MOST_RESTARTS = 100_000
"""Each restart is an event. More would fill the memory."""
_TASK_BYTES, _JOB_BYTES = 24, 4
_DEATHS = (
    # compose_state_message in ray/dashboard/utils.py, Ray 2.60
    ("EXPECTED_TERMINATION", "Expected termination"),
    ("UNEXPECTED_TERMINATION", "Unexpected termination"),
    ("AUTOSCALER_DRAIN_PREEMPTED", "Terminated due to preemption"),
    ("AUTOSCALER_DRAIN_IDLE", "Terminated due to idle (no Ray activity)"),
)
_SUBMISSION_ENDS = ("STOPPED", "SUCCEEDED", "FAILED")


class Event(NamedTuple):
    """An event, before it is a line."""

    event_type: str
    data: dict[str, Any]
    time_ns: int = 0
    """When it happened, for types whose lines say that. 0: theirs do not."""
    timestamp_s: int = 0
    """Where it stands among those of the same key, in seconds since the epoch. 0: at the snapshot's moment."""


class Beside(NamedTuple):
    """What other answers tell of the rows."""

    at_ns: int
    """The snapshot's moment, in nanoseconds since the epoch."""
    workers: Mapping[tuple[str, int], Row]
    """Living workers by address and process."""
    drivers: Mapping[str, Row]
    """Drivers among the workers, by their jobs."""
    actors: Mapping[str, Row]
    """Actors as the dashboard's own page has them, with times, by their ids."""

    @classmethod
    def of(cls, at_ns: int, workers: Iterable[Row], actors: Mapping[str, Row]) -> Beside:
        """Return it, of all workers that were listed."""
        listed = list(workers)
        # a driver's worker has its job's id, and ones after that
        drivers = {row["worker_id"][: 2 * _JOB_BYTES]: row for row in listed if row["worker_type"] == "DRIVER"}
        return cls(at_ns, {(row["ip"], row["pid"]): row for row in listed if row["is_alive"]}, drivers, actors)


def task(row: Row, _: Beside) -> Iterator[Event]:
    """Yield the event of a task attempt."""
    data: dict[str, Any] = {
        "task_id": _id(row["task_id"]),
        "attempt_number": row["attempt_number"],
        "job_id": _id(row["job_id"]),
        "task_info": {
            **_known(row, ("type", "func_or_class_name", "name", "language", "required_resources", "runtime_env_info")),
            **_known(row, ("label_selector", "fallback_strategy", "call_site")),
            **_ids(row, ("actor_id", "parent_task_id", "placement_group_id")),
        },
        "state_updates": {
            **_ids(row, ("node_id", "worker_id")),
            **_known(row, ("worker_pid", "is_debugger_paused", "task_log_info")),
            "error_info": _known(row, ("error_type", "error_message")),
            "state_ts_ns": {
                str(_NUMBERS[event["state"]]): int(event["created_ms"]) * 1_000_000 + _WITHIN_NS
                for event in row.get("events") or ()
                if event["state"] in _NUMBERS
            },
        },
    }
    profile = row.get("profiling_data")
    if profile:
        data["profile_events"] = {
            **_known(profile, ("component_type", "node_ip_address")),
            **_ids(profile, ("component_id",)),
            "events": [_span(span) for span in profile["events"]],
        }
    yield Event("TASK", data)


def actor(row: Row, beside: Beside) -> Iterator[Event]:
    """
    Yield the events of an actor: when it began, each restart, and its state.

    When it restarted no answer tells. The events of that have times right after its beginning, so that they stay the
    same in each snapshot.
    """
    page = beside.actors.get(row["actor_id"], {})
    address = page.get("address") or {}
    began_ns, ended_ns = (int(page.get(name) or 0) * 1_000_000 for name in ("startTime", "endTime"))
    born = {
        **_ids(row, ("actor_id", "job_id", "placement_group_id")),
        **_known(row, ("class_name", "name", "ray_namespace", "serialized_runtime_env", "required_resources")),
        **_known(row, ("is_detached", "label_selector", "labels", "call_site")),
        "death_cause": {},
    }
    now = {
        **born,
        **_ids(row, ("node_id",)),
        **_known(row, ("pid", "repr_name")),
        **({"port": address["port"]} if address.get("port") else {}),
        **({"worker_id": _id(address["workerId"])} if address.get("workerId") else {}),
        "state": row["state"],
        "death_cause": _in_base64(row.get("death_cause") or {}),
    }
    if not began_ns:
        yield Event("ACTOR", now, ended_ns or beside.at_ns)
        return
    restarts = _restarts(row)
    yield Event("ACTOR", {**now, **born, "state": "ALIVE"}, began_ns)
    for number, reason in enumerate(restarts, 1):
        yield Event("ACTOR", {**born, "state": "RESTARTING", "restart_reason": reason}, began_ns + number)
    if row["state"] != ("RESTARTING" if restarts else "ALIVE"):
        since_ns = {"DEAD": ended_ns, "ALIVE": began_ns + len(restarts) + 1}.get(row["state"], 0)
        yield Event("ACTOR", now, since_ns or beside.at_ns)


def _restarts(row: Row) -> list[str]:
    """
    Return the reason of each restart, in any order.

    Raises:
        ValueError: There are more than an actor has.
    """
    every, lineage, preemption = (
        int(row.get(f"num_restarts{due}") or 0)
        for due in ("", "_due_to_lineage_reconstruction", "_due_to_node_preemption")
    )
    if (most := max(every, lineage, preemption)) > _MOST_RESTARTS:
        raise ValueError(f"{most} restarts of an actor")
    other = max(0, every - lineage - preemption)
    return ["ACTOR_FAILURE"] * other + ["LINEAGE_RECONSTRUCTION"] * lineage + ["NODE_PREEMPTION"] * preemption


def node(row: Row, _: Beside) -> Iterator[Event]:
    """Yield the events of a node: that it joined, and that it died."""
    joined = {
        "node_id": _id(row["node_id"]),
        "node_manager_address": row["node_ip"],
        **_known(row, ("node_name", "is_head_node", "resources_total", "labels", "start_time_ms")),
        "state": "ALIVE",
    }
    yield Event("NODE", joined)
    if row["state"] != "ALIVE":
        died = {"state": row["state"], **_known(row, ("end_time_ms", "resources_total"))}
        yield Event("NODE", {**joined, **died, "death_info": _death_info(row.get("state_message") or "")})


def _death_info(message: str) -> dict[str, Any]:
    for reason, words in _DEATHS:
        if message == words or message.startswith(f"{words}: "):
            return {"reason": reason, "reason_message": message[len(words) + 2 :]}
    return {"reason_message": message}


def job(row: Row, beside: Beside) -> Iterator[Event]:
    """Yield the events of a job: of its submission, if it was submitted, and of its driver."""
    if row.get("submission_id"):
        yield from _submission(row)
    if row.get("job_id"):
        yield from _driver(row, beside.drivers.get(row["job_id"]))


def _submission(row: Row) -> Iterator[Event]:
    data = {
        "submission_job_id": row["submission_id"],
        **_known(row, ("entrypoint", "metadata", "driver_agent_http_address", "driver_node_id")),
        **_known(row, ("start_time",)),
        "runtime_env_json": json.dumps(row.get("runtime_env") or {}),
    }
    began_s = int(row.get("start_time") or 0) // 1000
    if began_s:
        yield Event("SUBMISSION_JOB", {**data, "status": "PENDING"}, timestamp_s=began_s)
    if began_s and row["status"] != "PENDING":
        # when it began to run no answer tells
        yield Event("SUBMISSION_JOB", {**data, "status": "RUNNING"}, timestamp_s=began_s)
    now = _known(row, ("status", "message", "error_type", "driver_exit_code"))
    if row["status"] in _SUBMISSION_ENDS:
        now |= _known(row, ("end_time",))
    yield Event("SUBMISSION_JOB", {**data, **now})


def _driver(row: Row, worker: Row | None) -> Iterator[Event]:
    """Yield the events of a job's driver. A submission's row has its own times, and its driver's are its worker's."""
    info, submission = row.get("driver_info") or {}, row.get("submission_id")
    times: Row = row
    is_dead = row["status"] != "RUNNING"
    metadata = dict(row.get("metadata") or {})
    if submission:
        # what its supervisor adds (job_supervisor.py, Ray 2.60)
        metadata |= {"job_submission_id": submission, "job_name": metadata.get("job_name", submission)}
        times = {"start_time": (worker or {}).get("start_time_ms"), "end_time": (worker or {}).get("end_time_ms")}
        is_dead = not worker["is_alive"] if worker else row["status"] in _SUBMISSION_ENDS
    data = {
        "job_id": _id(row["job_id"]),
        "is_dead": False,
        "driver_ip_address": info.get("node_ip_address"),
        **({"driver_pid": int(info["pid"])} if info.get("pid") else {}),
        **({"driver_node_id": _id(worker["node_id"])} if worker and worker.get("node_id") else {}),
        **_known(row, ("entrypoint",)),
        **_known(times, ("start_time",)),
        "config": {
            "metadata": metadata,
            "runtime_env_info": {"serialized_runtime_env": json.dumps(row.get("runtime_env") or {})},
        },
    }
    yield Event("DRIVER_JOB", data)
    if is_dead:
        yield Event("DRIVER_JOB", {**data, "is_dead": True, **_known(times, ("end_time",))})


def worker(row: Row, beside: Beside) -> Iterator[Event]:
    """Yield the events of a worker: its beginning and its end."""
    fields = {
        **_known(row, ("ip", "is_alive", "worker_type", "pid", "exit_type", "exit_detail")),
        **_known(row, ("debugger_port", "num_paused_threads")),
        **_ids(row, ("worker_id", "node_id")),
        **{name: workers.signed(int(row.get(name) or 0)) for name in workers.TIMES},
    }
    for step in workers.steps(fields, began=False):
        yield Event("WORKER", step, beside.at_ns)


def reference(row: Row, beside: Beside) -> Iterator[Event]:
    """Yield the event of a worker's reference to an object. Of a worker that has gone since, there is none."""
    holder = beside.workers.get((row["ip"], row["pid"]))
    if holder is None:
        return
    object_id = bytes.fromhex(row["object_id"])
    data = {
        "change": "CREATED",
        "object_id": in_base64(object_id),
        "task_id": in_base64(object_id[:_TASK_BYTES]),
        "job_id": in_base64(object_id[_TASK_BYTES - _JOB_BYTES : _TASK_BYTES]),
        **_ids(holder, ("worker_id", "node_id")),
        **_known(row, ("object_size", "task_status", "attempt_number", "reference_type", "call_site")),
        **_known(row, ("type", "pid", "ip")),
    }
    yield Event("OBJECT", data, beside.at_ns)


READERS: Mapping[str, Callable[[Row, Beside], Iterator[Event]]] = {
    "nodes": node,
    "jobs": job,
    "workers": worker,
    "actors": actor,
    "tasks": task,
    "objects": reference,
}
"""What reads a row of a list of the State API."""


def _known(row: Row, names: Iterable[str]) -> dict[str, Any]:
    return {name: row[name] for name in names if row.get(name) is not None}


def _ids(row: Row, names: Iterable[str]) -> dict[str, str]:
    return {name: _id(row[name]) for name in names if row.get(name)}


def _id(hexadecimal: str) -> str:
    """Return an id as Ray's own events have it."""
    return in_base64(bytes.fromhex(hexadecimal))


def _in_base64(value: Any) -> Any:
    """Return why an actor died, with ids as Ray's own events have them."""
    if isinstance(value, dict):
        return {
            name: _id(member) if name in _IDS_OF_DEATH and isinstance(member, str) else _in_base64(member)
            for name, member in value.items()
        }
    return value


def _span(span: Row) -> dict[str, Any]:
    return {
        "event_name": span["event_name"],
        "start_time": _ns(span["start_time"]),
        "end_time": _ns(span["end_time"]),
        "extra_data": json.dumps(span.get("extra_data") or {}),
    }


def _ns(ms: float) -> int:
    """Return nanoseconds that come out as these milliseconds again when they are divided as Ray divides."""
    near = int(ms * 1_000_000)
    return next((ns for ns in (near, near - 256, near + 256) if ns / 1e6 == ms), near)
