"""
A worker process, from ``EXPORT_WORKER``, which `raytrail.sources.workers` writes, or from Ray's HTTP export.

Source: `WorkerTableData` (gcs.proto), as the GCS answers it; `WorkerDefinitionEvent` and `WorkerLifecycleEvent`.
"""

from __future__ import annotations

from raytrail.entities import Column, Derived, Emitted, Entity, Life, Posted, PostedEvent
from raytrail.entities.ends import WORKER_BESIDE, WORKER_ENDS
from raytrail.entities.enumerations import WORKER_EXIT_TYPES


def _field(name: str) -> str:
    return f"event_data.{name}"


_POSTED = (
    PostedEvent(
        event_type="WORKER_DEFINITION_EVENT",
        body="workerDefinitionEvent",
        columns=(
            Posted("worker_id", "workerId", "id"),
            Posted("node_id", "nodeId", "id or none"),
            Posted("worker_type", "workerType", "text"),
            Posted("pid", "pid", "int", unset="0"),
            Posted("_time_ns", "", "time_ns"),
        ),
    ),
    PostedEvent(
        event_type="WORKER_LIFECYCLE_EVENT",
        body="workerLifecycleEvent",
        columns=(Posted("worker_id", "workerId", "id"), Posted("job_id", "jobId", "id or none")),
        each="stateTransitions",
        of_each=(
            Posted("is_alive", "state", "equals", "ALIVE"),
            Posted("worker_launch_time_ms", "workerLaunchTimeMs", "int", unset="0"),
            Posted("worker_launched_time_ms", "workerLaunchedTimeMs", "int", unset="0"),
            Posted("start_time_ms", "startTimeMs", "int", unset="0"),
            Posted("end_time_ms", "endTimeMs", "int", unset="0"),
            Posted("exit_type", "deathInfo.exitType", "text"),
            Posted("exit_detail", "deathInfo.exitDetail", "text"),
            Posted("_since_ns", "", "time_ns"),
            Posted("_time_ns", "", "time_ns"),
        ),
    ),
)

WORKER = Entity(
    name="worker",
    plural="workers",
    doc=(
        "A worker process, or a driver. Ray writes none. Raytrail asks the GCS for them, with `WORKER` among "
        "`sources.types`, or takes what Ray's HTTP export posts."
    ),
    event_types=("EXPORT_WORKER",),
    file_types=("WORKER",),
    key=("worker_id",),
    emitted=Emitted(
        source="the agent on the head node, which asks the GCS every `sources.worker_seconds`, or Ray's HTTP export",
        when="one has begun, changed or ended",
        latency="one such interval, but its beginning and its end are written at the time that Ray says",
        missed="everything, unless `WORKER` is among `sources.types` or events are posted, and drivers where they are "
        "posted",
    ),
    posted=_POSTED,
    columns=(
        Column("worker_id", "id", _field("worker_id"), "key", "The worker."),
        Column(
            "worker_type",
            "text",
            _field("worker_type"),
            "max",
            "WORKER, DRIVER, SPILL_WORKER or RESTORE_WORKER.",
            values=("WORKER", "DRIVER", "SPILL_WORKER", "RESTORE_WORKER"),
        ),
        # one that was dead once stays dead
        Column("is_alive", "bool", _field("is_alive"), "min", "True while it is alive."),
        Column("node_id", "id", _field("node_id"), "max", "Its node."),
        Column(
            "ip",
            "text",
            _field("ip"),
            "max",
            "Its node's address. It is filled in from the node where Ray's HTTP export tells of the worker.",
            filled="coalesce(s.ip, n.node_ip)",
        ),
        Column("job_id", "id", _field("job_id"), "max", "The job it works for. Only Ray's HTTP export tells."),
        # of a driver that has ended the GCS knows neither any more: 0 is what it says then, and so does Ray's list
        Column("pid", "int", _field("pid"), "last", "Its process. 0 for a driver that has ended."),
        Column(
            "exit_type",
            "text",
            _field("exit_type"),
            "last",
            "Why it ended, as an enumeration.",
            values=WORKER_EXIT_TYPES,
        ),
        Column("exit_detail", "text", _field("exit_detail"), "last", "Why it ended, in words."),
        Column(
            "worker_launch_time_ms",
            "int",
            _field("worker_launch_time_ms"),
            "max",
            "When its process was asked for.",
            unset="-1",
        ),
        Column(
            "worker_launched_time_ms",
            "int",
            _field("worker_launched_time_ms"),
            "max",
            "When its process had started.",
            unset="-1",
        ),
        Column("start_time_ms", "int", _field("start_time_ms"), "last", "When it was ready. 0 likewise."),
        Column("end_time_ms", "int", _field("end_time_ms"), "max", "When it ended.", unset="0"),
        Column("debugger_port", "int", _field("debugger_port"), "last", "The port that its debugger listens on."),
        Column("num_paused_threads", "int", _field("num_paused_threads"), "last", "Threads that wait for a debugger."),
        Column(
            "_since_ns",
            "int",
            _field("since_ns"),
            "max",
            "When this began, where the GCS keeps that. Else it is when it was seen.",
            unset="0",
        ),
        Column("_time_ns", "int", "time_ns", "max", "When it was written."),
    ),
    derived=(
        Derived(
            "state",
            "text",
            "CASE WHEN is_alive AND inferred IS NULL THEN 'ALIVE' ELSE 'DEAD' END",
            "ALIVE or DEAD. Ray's own list keeps workers of a node that died as alive, and so does `is_alive`.",
            stored=True,
            values=("ALIVE", "DEAD"),
        ),
    ),
    when="coalesce(_since_ns // 1000000, _time_ns // 1000000, timestamp * 1000)",
    sort=("worker_id",),
    life=Life(
        state="state",
        terminal=("DEAD",),
        ends=WORKER_ENDS,
        closing=(
            ("is_alive", "CASE WHEN {why} = 'session ended' THEN false ELSE is_alive END"),
            ("end_time_ms", "CASE WHEN {why} = 'session ended' THEN {end_ms} ELSE end_time_ms END"),
        ),
    ),
    beside=WORKER_BESIDE,
)
