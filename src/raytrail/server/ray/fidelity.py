"""
What Ray's events cannot say of what Ray itself shows, and why: the one list for comparisons, answers and the docs.

Resources are those of Ray's State API, and those that `lab.questions` asks its dashboard for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_MEASURED = "measured by the node's agent or a worker while it runs; in no event"

CANNOT: Mapping[str, Mapping[str, str]] = {
    "tasks": {
        "call_site": "not in TaskInfo as exported; null unless RAY_record_task_actor_creation_sites is set",
        **dict.fromkeys(
            ("task_log_info.stdout_start", "task_log_info.stderr_start"),
            "0 where start and end of a task share a flush (TaskLogInfoToExport), unless one task alone is asked for: "
            "then it is read from the log, if that was shipped",
        ),
    },
    "actors": {
        "num_restarts_due_to_lineage_reconstruction": "not exported",
        "num_restarts_due_to_node_preemption": "not exported",
        "call_site": "not exported; null unless RAY_record_task_actor_creation_sites is set",
        "fallback_strategy": "not exported",
    },
    "nodes": {},
    "jobs": {},
    "workers": {},
    "placement_groups": {},
    "objects": {},
    "runtime_envs": {},
    "cluster_events": {},
    "tasks summary": {},
    "actors summary": {},
    "objects summary": {"total": "counts references that Ray's own list leaves out"},
    "lineage": {},
    "timeline": {},
    "submissions": {},
    "dashboard nodes": {
        **dict.fromkeys(
            ("hostname", "raylet.nodeManagerHostname"), "not exported; the node's name stands in its place"
        ),
        **dict.fromkeys(
            (
                "now",
                "cpu",
                "cpus",
                "mem",
                "hostMem",
                "cgroupMem",
                "shm",
                "bootTime",
                "loadAvg",
                "disk",
                "diskIo",
                "diskIoSpeed",
                "network",
                "networkSpeed",
                "cmdline",
                "agent",
                "gcs",
                "raylet.numWorkers",
                "raylet.coreWorkersStats",
                "raylet.storeStats",
            ),
            _MEASURED,
        ),
        **dict.fromkeys(
            (
                "raylet.rayletSocketName",
                "raylet.objectStoreSocketName",
                "raylet.nodeManagerPort",
                "raylet.objectManagerPort",
                "raylet.metricsExportPort",
                "raylet.runtimeEnvAgentPort",
                "raylet.metricsAgentPort",
                "raylet.dashboardAgentListenPort",
                "raylet.stateSnapshot",
                "raylet.tempDir",
                "raylet.sessionDir",
                "raylet.instanceId",
                "raylet.nodeTypeName",
                "raylet.instanceTypeName",
            ),
            "not in ExportNodeData",
        ),
    },
    "dashboard hosts": {"hostname": "not exported; the node's name stands in its place"},
    "dashboard workers": dict.fromkeys(
        (
            "createTime",
            "cpuPercent",
            "cpuTimes",
            "cmdline",
            "memoryInfo",
            "memoryFullInfo",
            "numFds",
            "gpuMemoryUsage",
            "gpuUtilization",
            "coreWorkerStats",
            "jobId",
        ),
        _MEASURED,
    ),
    "dashboard actors": {
        "address.port": "not in ExportActorData",
        **dict.fromkeys(("timestamp", "startTime", "endTime"), "exported in whole seconds"),
        **dict.fromkeys(
            (
                "processStats",
                "mem",
                "ipAddress",
                "port",
                "numExecutedTasks",
                "numRunningTasks",
                "numPendingTasks",
                "numObjectRefsInScope",
                "usedResources",
                "numInPlasma",
                "numLocalObjects",
                "usedObjectStoreMemory",
                "taskQueueLength",
                "objectRefs",
                "language",
                "workerType",
                "objectsTotal",
                "numOwnedObjects",
                "numOwnedActors",
                "numInFlightArgPinningRequests",
                "numOfFailedArgPinningRequests",
                "gpus",
            ),
            _MEASURED,
        ),
    },
    "dashboard events": {},
    "dashboard status": {},
    "dashboard settings": {
        **dict.fromkeys(("value", "offset"), "the time zone of whoever serves"),
        "usageStatsPromptEnabled": "a setting of the head node's; the history reports no usage",
        "profilingDefaults": "nothing can be profiled in a history",
        **dict.fromkeys(("rayVersion", "pythonVersion", "gitCommit", "os"), "in no event"),
    },
    "version": {"ray_commit": "in no event"},
    "serve": {},
    "train": {},
    "data": dict.fromkeys(("start_time", "end_time"), "exported in whole milliseconds"),
}
"""
Fields that Ray's export files cannot give, and why; ``a.b`` is member b of field a.

They are counted like the others, and do not keep a score from being exact.
"""


CANNOT_BY_HTTP: Mapping[str, Mapping[str, str]] = {
    **{resource: {} for resource in CANNOT},
    "tasks": {
        "runtime_env_info.runtime_env_config": "not in RayEvents",
        "runtime_env_info.uris": "not in RayEvents",
    },
    "nodes": {"end_time_ms": "the time of the event, at times a millisecond after the one that the GCS keeps"},
    "jobs": {
        "start_time": "the time of the event, at times a millisecond after the one that the GCS keeps",
        "end_time": "the time of the event, at times a millisecond after the one that the GCS keeps",
    },
}
"""The same of Ray's HTTP export. It has no events of drivers as workers, and none of placement groups and objects."""

INFERRED: Mapping[str, Mapping[str, str]] = {
    "tasks": {
        "fallback_strategy": "not in TaskInfo as exported; Ray's default, where a task has no label_selector to fall "
        "back from"
    },
}
"""Fields that no event tells and that are concluded from others, and how."""

WITHOUT_LOGS: Mapping[str, Mapping[str, str]] = {
    "tasks": dict.fromkeys(
        ("task_log_info.stdout_file", "task_log_info.stderr_file"),
        "'' as exported where start and end of a task share a flush; made up of ids where no log was shipped",
    ),
}
"""Fields that are known from the logs, where an agent ships these, and what they are without them."""

ROWS: Mapping[str, str] = {
    "dashboard workers": "the processes that the node's agent saw some seconds before; events tell whose worker lives",
    "objects": "asked of the raylets once a second; what lives shorter is seen by the one and not by the other",
}
"""Resources whose rows cannot all be the same, and why."""


class Excuse(NamedTuple):
    """Fields that the files cannot give for some rows."""

    resource: str
    fields: tuple[str, ...]
    """As in `CANNOT`, ``a.b`` is member b of field a."""
    applies: Callable[[Mapping[str, Any]], bool]
    """Whether to a live row."""
    reason: str


def _ran_to_its_end(row: Mapping[str, Any]) -> bool:
    spans = (row["profiling_data"] or {}).get("events", ())
    return any(span["event_name"].startswith("task::") for span in spans)


EXCUSES: tuple[Excuse, ...] = (
    Excuse(
        "tasks",
        ("fallback_strategy",),
        lambda row: bool(row.get("label_selector")),
        "not in TaskInfo as exported; of a task with a label_selector it may be any",
    ),
    Excuse(
        "tasks",
        ("name",),
        lambda row: (
            row.get("state") != "FINISHED"
            and not _ran_to_its_end(row)
            and not row["name"].endswith(row["func_or_class_name"])
        ),
        "only the profile event of the whole run tells options(name=), and there is none",
    ),
    Excuse(
        "tasks",
        ("end_time_ms", "events"),
        lambda row: str(row.get("error_message") or "").startswith("Worker running the task ("),
        "GCS saw the worker die; the files tell its actor's death in whole seconds, or its job's end",
    ),
    Excuse(
        "tasks",
        ("error_message",),
        lambda row: str(row.get("error_message") or "").startswith("Worker running the task (") and not row["actor_id"],
        "how a worker without an actor ended is in no event",
    ),
    Excuse(
        "tasks",
        ("error_message",),
        lambda row: str(row.get("error_message") or "").startswith("Job finishes (") and bool(row["worker_id"]),
        # mark_tasks_failed_on_worker_dead in Ray 2.60, ray/dashboard/modules/task_events/task_event_storage.py
        "Ray blames the job's end where it heard of the worker's end before it heard that the task was there; in which "
        "order it heard, no event tells",
    ),
    Excuse(
        "placement_groups",
        ("state",),
        lambda row: row["state"] == "REMOVED",
        "agents ask for them; a removal is dated to the answer that told it",
    ),
    Excuse(
        "placement_groups",
        ("stats.scheduling_attempt", "stats.scheduling_started_time_ns", "stats.highest_retry_delay_ms"),
        lambda row: (row.get("stats") or {}).get("scheduling_state") == "NO_RESOURCES",
        "one that waits for resources is tried once a second; agents tell it each time that the number has doubled",
    ),
    Excuse(
        "dashboard status",
        ("text",),
        lambda row: row["text"].endswith(" object_store_memory"),
        "what of the object store is in use is in no event",
    ),
)
"""What the files cannot give for some rows only."""
