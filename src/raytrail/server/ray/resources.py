"""
What Ray's State API shows: the columns of each resource, and what it can be filtered by, each declared once.

Columns are those of Ray 2.60 (ray/util/state/common.py). Where we differ, the comment says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from raytrail.store import Filter


class Field(NamedTuple):
    """One of Ray's columns: where it comes from, and how a filter's text meets it."""

    name: str
    kind: Literal["id", "enum", "text", "int", "bool", "json"]
    default: Any = None
    """What Ray shows where nothing is known. The store keeps null for it."""
    filterable: bool = False
    detail: bool = False
    """Shown only to who asks for detail."""
    optional: bool = True
    """
    Ray may show null. It then compares numbers and flags with the filter's text as it stands, which ``!=``
    always finds unequal: ``worker_pid!=2888`` keeps every row, there as here.
    """
    absent: bool = False
    """Ray's row does not have the column where nothing is known. It then passes no filter of it, not even ``!=``."""
    gcs: Literal["", "equal", "cut", "select", "both"] = ""
    """
    Ray's GCS filters by it: by ``=`` alone, or by ``both`` predicates. It then parses ids, and refuses what is none.
    By ``both``, `total` counts only the rows that pass. By ``cut``, `num_after_truncation` does. By ``select``, that
    counts the rows that pass any filter of such columns.
    """
    id_bytes: int = 0
    """How many bytes an id has that the GCS parses."""
    values: tuple[str, ...] = ()
    """Ray refuses to look for any other value."""
    exact: bool = False
    """Ray's GCS looks for it letter by letter; otherwise case does not matter."""
    column: str = ""
    """Our column, where its name differs."""
    exported: bool = True
    """False: no event of Ray's says it, so it is always the default."""
    wire: Literal["", "text", "float", "floats"] = ""
    """
    What a whole number looks like in JSON, if not as such: as text, as protobuf writes 64 bits; with a point, as
    Python writes what it has divided; in an object each with a point, as protobuf writes doubles.
    """

    @property
    def stored(self) -> str:
        """Our column."""
        return self.column or self.name


class Resource(NamedTuple):
    """One of Ray's resources: its columns, and their order."""

    noun: str
    entity: str
    order: tuple[str, ...]
    """Our columns, ``-`` before one that descends."""
    fields: tuple[Field, ...]
    listed: tuple[Filter, ...] = ()
    """What holds of each row that Ray lists, and that `total` counts."""
    conclude: Callable[[dict[str, Any]], None] | None = None
    """Fills in what no column holds, in a row with details."""
    wrong_status: int = 400
    """The status of a wrong question. Where Ray's own server does not catch its error, that is 500."""
    no_failure: str | None = ""
    """Ray's value where no node failed to answer. It is null for resources that Ray asks the nodes for."""
    is_asked_for: bool = False
    """Ray exports no event of it: an agent asks Ray for it, if it is told to."""

    def find(self, key: str) -> Field | None:
        """Return the column that a filter names, in any case; None where Ray does not filter by such a one."""
        for field in self.fields:
            if field.filterable and field.name == key.lower():
                return field
        return None

    def shown(self, detail: bool) -> list[Field]:
        """Return the columns of a row."""
        return [field for field in self.fields if detail or not field.detail]


def _conclude_task(row: dict[str, Any]) -> None:
    # no event in a file tells it: what has no label_selector has nothing to fall back from
    if row["fallback_strategy"] is None and not row["label_selector"]:
        row["fallback_strategy"] = None if row["type"] == "DRIVER_TASK" else {"options": []}
    for event in row["events"]:
        event["created_ms"] = float(event["created_ms"])


def _conclude_job(row: dict[str, Any]) -> None:
    # null is the end of a submission that still runs; Ray shows a driver's as 0
    if row["type"] == "DRIVER" and row["end_time"] is None:
        row["end_time"] = 0


TASKS = Resource(
    noun="tasks",
    entity="task",
    # the GCS does not show an attempt whose owner's part never came
    listed=(Filter("type", "!=", None),),
    conclude=_conclude_task,
    # Ray orders by task alone; the newest attempt first, as `ray get tasks` and the dashboard show one
    order=("task_id", "-attempt_number"),
    fields=(
        Field("task_id", "id", "", filterable=True, optional=False, id_bytes=24, gcs="both"),
        Field("attempt_number", "int", filterable=True, optional=False),
        Field("name", "text", "", filterable=True, optional=False, gcs="both"),
        Field("state", "enum", "NIL", filterable=True, optional=False, gcs="both"),
        Field("job_id", "id", "", filterable=True, optional=False, id_bytes=4, gcs="both"),
        Field("actor_id", "id", filterable=True, id_bytes=16, gcs="both"),
        Field("type", "enum", "NORMAL_TASK", filterable=True, optional=False),
        Field("func_or_class_name", "text", "", filterable=True, optional=False),
        Field("parent_task_id", "id", "", filterable=True, optional=False),
        Field("node_id", "id", filterable=True),
        Field("worker_id", "id", filterable=True),
        Field("worker_pid", "int", filterable=True),
        Field("error_type", "enum", filterable=True, absent=True),
        Field("language", "enum", filterable=True, detail=True),
        Field("required_resources", "json", {}, detail=True, wire="floats"),
        Field("runtime_env_info", "json", detail=True),
        Field("placement_group_id", "id", filterable=True, detail=True),
        Field("events", "json", [], detail=True),
        Field("profiling_data", "json", {}, detail=True),
        Field("creation_time_ms", "int", detail=True, wire="float"),
        Field("start_time_ms", "int", detail=True, wire="float"),
        Field("end_time_ms", "int", detail=True, wire="float"),
        Field("task_log_info", "json", detail=True),
        Field("error_message", "text", detail=True),
        Field("is_debugger_paused", "bool", filterable=True, detail=True),
        Field("call_site", "text", detail=True),
        Field("label_selector", "json", {}, detail=True),
        Field("fallback_strategy", "json", detail=True),
    ),
)

ACTORS = Resource(
    noun="actors",
    entity="actor",
    order=("actor_id",),
    fields=(
        Field("actor_id", "id", "", filterable=True, optional=False, id_bytes=16, gcs="equal"),
        Field("class_name", "text", "", filterable=True, optional=False),
        Field(
            "state",
            "enum",
            "DEPENDENCIES_UNREADY",
            filterable=True,
            optional=False,
            gcs="equal",
            values=("DEPENDENCIES_UNREADY", "PENDING_CREATION", "ALIVE", "RESTARTING", "DEAD"),
        ),
        Field("job_id", "id", "", filterable=True, optional=False, id_bytes=4, gcs="equal"),
        Field("name", "text", "", filterable=True),
        Field("node_id", "id", filterable=True, absent=True),
        Field("pid", "int", 0, filterable=True),
        Field("ray_namespace", "text", "", filterable=True),
        Field("serialized_runtime_env", "text", "", detail=True),
        Field("required_resources", "json", {}, detail=True, wire="floats"),
        Field("death_cause", "json", detail=True),
        Field("is_detached", "bool", False, detail=True),
        Field("placement_group_id", "id", filterable=True, detail=True, absent=True),
        Field("repr_name", "text", "", filterable=True, detail=True),
        Field("num_restarts", "int", 0, detail=True, optional=False, wire="text"),
        Field("num_restarts_due_to_lineage_reconstruction", "int", 0, detail=True, wire="text"),
        Field("num_restarts_due_to_node_preemption", "int", 0, detail=True, wire="text"),
        Field("call_site", "text", detail=True),
        Field("label_selector", "json", {}, detail=True),
        Field("fallback_strategy", "json", detail=True, exported=False),
    ),
)

NODES = Resource(
    noun="nodes",
    entity="node",
    order=("node_id",),
    fields=(
        Field("node_id", "id", "", filterable=True, optional=False, id_bytes=28, gcs="select"),
        Field("node_ip", "text", "", filterable=True, optional=False),
        Field("is_head_node", "bool", False, filterable=True, optional=False),
        Field("state", "enum", "ALIVE", filterable=True, optional=False, gcs="cut", values=("ALIVE", "DEAD")),
        Field("state_message", "text"),
        Field("node_name", "text", "", filterable=True, optional=False, exact=True, gcs="select"),
        Field("resources_total", "json", {}, optional=False, wire="floats"),
        Field("labels", "json", {}, optional=False),
        Field("start_time_ms", "int", 0, detail=True),
        Field("end_time_ms", "int", 0, detail=True),
    ),
)

JOBS = Resource(
    noun="jobs",
    entity="job",
    conclude=_conclude_job,
    wrong_status=500,
    # the store's own, which is Ray's: by job, those without one first
    order=(),
    fields=(
        Field("type", "enum", "DRIVER", filterable=True, optional=False),
        Field("job_id", "id", filterable=True),
        Field("submission_id", "text", filterable=True),
        Field("driver_info", "json"),
        Field("status", "enum", "PENDING", filterable=True, optional=False),
        Field("entrypoint", "text", "", optional=False),
        Field("message", "text"),
        Field("error_type", "text"),
        Field("start_time", "int", detail=True, column="start_time_ms"),
        Field("end_time", "int", detail=True, column="end_time_ms"),
        Field("metadata", "json", {}, detail=True),
        Field("runtime_env", "json", {}, detail=True),
        Field("driver_agent_http_address", "text", detail=True),
        Field("driver_node_id", "text", detail=True),
        Field("driver_exit_code", "int", detail=True),
    ),
)

PLACEMENT_GROUPS = Resource(
    noun="placement_groups",
    entity="placement_group",
    is_asked_for=True,
    order=("placement_group_id",),
    fields=(
        Field("placement_group_id", "id", "", filterable=True, optional=False),
        Field("name", "text", "", filterable=True, optional=False),
        Field("creator_job_id", "id", "", filterable=True, optional=False),
        Field("state", "enum", "PENDING", filterable=True, optional=False),
        Field("bundles", "json", [], detail=True),
        Field("is_detached", "bool", False, filterable=True, detail=True),
        Field("stats", "json", detail=True),
        Field("topology_strategy", "json", {}, detail=True),
        Field("topology_assignments", "json", {}, detail=True),
    ),
)

_UNKNOWN_MS = (1 << 64) - 1
"""What Ray shows for a worker's time that it does not know: its -1, in an unsigned field."""

WORKERS = Resource(
    noun="workers",
    entity="worker",
    is_asked_for=True,
    order=("worker_id",),
    fields=(
        Field("worker_id", "id", "", filterable=True, optional=False),
        Field("is_alive", "bool", False, filterable=True, optional=False, gcs="cut"),
        Field("worker_type", "enum", "WORKER", filterable=True, optional=False),
        Field("exit_type", "enum", filterable=True, absent=True),
        Field("node_id", "id", "", filterable=True, optional=False),
        Field("ip", "text", "", filterable=True, optional=False),
        Field("pid", "int", 0, filterable=True, optional=False),
        Field("exit_detail", "text", detail=True),
        Field("worker_launch_time_ms", "int", _UNKNOWN_MS, detail=True),
        Field("worker_launched_time_ms", "int", _UNKNOWN_MS, detail=True),
        Field("start_time_ms", "int", 0, detail=True),
        Field("end_time_ms", "int", 0, detail=True),
        Field("debugger_port", "int", filterable=True, detail=True, absent=True),
        Field("num_paused_threads", "int", filterable=True, detail=True, absent=True),
    ),
)

OBJECTS = Resource(
    noun="objects",
    entity="object",
    # Ray forgets what is gone; `raytrail list objects` does not
    listed=(Filter("state", "!=", "DELETED"),),
    no_failure=None,
    is_asked_for=True,
    order=("object_id",),
    fields=(
        Field("object_id", "id", "", filterable=True, optional=False),
        Field("object_size", "int", -1, filterable=True, optional=False),
        Field("task_status", "enum", "NIL", filterable=True, optional=False),
        Field("attempt_number", "int", 1, filterable=True, optional=False),
        Field("reference_type", "enum", "UNKNOWN_STATUS", filterable=True, optional=False),
        Field("call_site", "text", "disabled", filterable=True, optional=False),
        Field("type", "enum", "WORKER", filterable=True, optional=False),
        Field("pid", "int", 0, filterable=True, optional=False),
        Field("ip", "text", "", filterable=True, optional=False),
    ),
)

CLUSTER_EVENTS = Resource(
    noun="cluster_events",
    entity="cluster_event",
    order=("time",),
    fields=(
        Field("severity", "enum", "", filterable=True, optional=False),
        Field("time", "text", "", optional=False),
        Field("source_type", "enum", "", filterable=True, optional=False),
        Field("message", "text", "", optional=False),
        Field("event_id", "text", "", filterable=True, optional=False),
        Field("custom_fields", "json", {}, detail=True),
    ),
)

RUNTIME_ENVS = Resource(
    noun="runtime_envs",
    entity="",
    no_failure=None,
    order=(),
    fields=(
        Field("runtime_env", "json", {}, filterable=True, optional=False, exported=False),
        Field("success", "bool", filterable=True, optional=False, exported=False),
        Field("creation_time_ms", "int", exported=False),
        Field("node_id", "id", "", filterable=True, optional=False, exported=False),
        Field("ref_cnt", "int", detail=True, exported=False),
        Field("error", "text", filterable=True, detail=True, exported=False),
    ),
)

RESOURCES = {
    resource.noun: resource
    for resource in (TASKS, ACTORS, NODES, JOBS, PLACEMENT_GROUPS, WORKERS, OBJECTS, CLUSTER_EVENTS, RUNTIME_ENVS)
}
NO_DRIVERS = Filter("type", "!=", "DRIVER_TASK")
"""Leaves out the drivers' own tasks, as Ray's clients do by default."""
