"""
An actor, from ``EXPORT_ACTOR`` (`ExportActorData`, export_actor_data.proto).

Or from Ray's HTTP export (`ActorDefinitionEvent`, `ActorLifecycleEvent`), which tells nanoseconds and why an actor
restarts.
"""

from __future__ import annotations

from raytrail.entities import Column, Derived, Emitted, Entity, Life, Posted, PostedEvent
from raytrail.entities.ends import ACTOR_BESIDE, ACTOR_ENDS

_WHEN_MS = "coalesce(_time_ns // 1000000, timestamp * 1000)"
_RESTART = "coalesce(_time_ns::VARCHAR, timestamp || ':' || file || ':' || line_offset)"
"""Tells one restart from another: by its time, where that is fine enough, and it may be told twice."""
_RESTARTED_MS = (
    "CASE WHEN contains(restart, ':') THEN try_cast(split_part(restart, ':', 1) AS BIGINT) * 1000 "
    "ELSE try_cast(restart AS BIGINT) // 1000000 END"
)
"""When a restart was. One that an older version of Raytrail stored from a file tells no time."""


def _restarts(reason: str) -> tuple[Column, Derived]:
    """Return the column of the restarts for a reason, and that of how many: null where no event gives reasons."""
    name = reason.lower()
    column = Column(
        f"_restarting_{name}",
        "texts",
        f"= CASE WHEN state = 'RESTARTING' AND _restart_reason = '{reason}' THEN [{_RESTART}] END",
        "union",
        f"The events that said it restarts, for {reason}.",
    )
    due = Derived(
        f"num_restarts_due_to_{name}",
        "int",
        f"CASE WHEN _restart_reason IS NOT NULL THEN coalesce(len(_restarting_{name}), 0) END",
        f"How often it restarted for {reason}. Only Ray's HTTP export tells.",
    )
    return column, due


_FOR_LINEAGE, _NUM_FOR_LINEAGE = _restarts("LINEAGE_RECONSTRUCTION")
_FOR_PREEMPTION, _NUM_FOR_PREEMPTION = _restarts("NODE_PREEMPTION")

_POSTED = (
    PostedEvent(
        event_type="ACTOR_DEFINITION_EVENT",
        body="actorDefinitionEvent",
        columns=(
            Posted("actor_id", "actorId", "id"),
            Posted("job_id", "jobId", "id"),
            Posted("class_name", "className", "text"),
            Posted("name", "name", "text"),
            Posted("ray_namespace", "rayNamespace", "text"),
            Posted("serialized_runtime_env", "serializedRuntimeEnv", "text"),
            Posted("placement_group_id", "placementGroupId", "id or none"),
            Posted("call_site", "callSite", "text"),
            Posted("parent_id", "parentId", "id or none"),
            Posted("is_detached", "isDetached", "bool"),
            Posted("required_resources", "requiredResources", "amounts", default="{}"),
            Posted("labels", "refIds", "texts in base64", default="{}"),
            Posted("label_selector", "labelSelector", "json", default="{}"),
            Posted("_time_ns", "", "time_ns"),
        ),
    ),
    PostedEvent(
        event_type="ACTOR_LIFECYCLE_EVENT",
        body="actorLifecycleEvent",
        columns=(Posted("actor_id", "actorId", "id"),),
        each="stateTransitions",
        of_each=(
            Posted("state", "state", "text"),
            Posted("node_id", "nodeId", "id or none"),
            Posted("worker_id", "workerId", "id or none"),
            Posted("repr_name", "reprName", "text"),
            Posted("pid", "pid", "int", unset="0"),
            Posted("port", "port", "int", unset="0"),
            Posted("_restart_reason", "restartReason", "text"),
            Posted("_death_cause", "deathCause", "messages"),
            Posted("_time_ns", "", "time_ns"),
        ),
    ),
)

ACTOR = Entity(
    name="actor",
    plural="actors",
    doc="An actor. The GCS writes each change of its state, with the whole of what it knows, to whole seconds.",
    event_types=("EXPORT_ACTOR",),
    file_types=("ACTOR",),
    key=("actor_id",),
    emitted=Emitted(
        source="the GCS",
        when="each change of state",
        latency="milliseconds",
        missed="when within a second it was, which Ray's HTTP export tells",
    ),
    posted=_POSTED,
    columns=(
        Column("actor_id", "id", "event_data.actor_id", "key", "The actor."),
        Column("job_id", "id", "event_data.job_id", "last", "The driver job that created it."),
        Column("class_name", "text", "event_data.class_name", "last", "Its class."),
        Column(
            "state",
            "text",
            "event_data.state",
            "last",
            "DEPENDENCIES_UNREADY, PENDING_CREATION, ALIVE, RESTARTING or DEAD.",
            values=("DEPENDENCIES_UNREADY", "PENDING_CREATION", "ALIVE", "RESTARTING", "DEAD"),
        ),
        Column("name", "text", "event_data.name", "last", "The name given to it."),
        Column("node_id", "id", "event_data.node_id", "last", "The node that it lives on, or lived on last."),
        Column(
            "pid",
            "int",
            "event_data.pid",
            "last",
            "Its process, now or last.",
            unset="0",
            filled="coalesce(s.pid, c.pid)",
        ),
        Column("ray_namespace", "text", "event_data.ray_namespace", "last", "The namespace of its name."),
        Column(
            "serialized_runtime_env", "text", "event_data.serialized_runtime_env", "last", "Its runtime environment."
        ),
        Column("required_resources", "json", "event_data.required_resources", "last", "Amounts by resource."),
        Column("_death_cause", "json", "event_data.death_cause", "last", "Why it died. Empty while it lives."),
        Column("is_detached", "bool", "event_data.is_detached", "last", "True if it outlives its job."),
        Column(
            "placement_group_id",
            "id",
            "event_data.placement_group_id",
            "last",
            "The placement group that it was placed in.",
        ),
        Column("repr_name", "text", "event_data.repr_name", "last", "The text that its ``__repr__`` returns."),
        Column("labels", "json", "event_data.labels", "last", "Labels given by libraries."),
        Column("label_selector", "json", "event_data.label_selector", "last", "Labels that its node must have."),
        Column(
            "worker_id", "id", "event_data.worker_id", "last", "Its worker, now or last. Only Ray's HTTP export tells."
        ),
        Column("port", "int", "event_data.port", "last", "The port that its worker listens on, likewise."),
        Column("parent_id", "id", "event_data.parent_id", "last", "The id of its creator, likewise."),
        Column(
            "call_site",
            "text",
            "event_data.call_site",
            "last",
            "The place in the code that created it, likewise, and only with `RAY_record_task_actor_creation_sites`.",
        ),
        Column(
            "_node_ids",
            "texts",
            "= CASE WHEN node_id IS NOT NULL THEN [lower(hex(node_id))] END",
            "union",
            "Each node that it has lived on, as hex.",
        ),
        Column(
            "_leased_worker_id",
            "id",
            "= NULL::BLOB",
            "max",
            "The worker that ran its constructor last, filled in from the task that creates it.",
            filled="c.worker_id",
        ),
        Column(
            "_leased_node_id",
            "id",
            "= NULL::BLOB",
            "max",
            "The node of that worker, likewise.",
            filled="coalesce(c.node_id, l.node_id)",
        ),
        Column("_leased_ip", "text", "= NULL::VARCHAR", "max", "That node's address, likewise.", filled="l.ip"),
        Column("_restart_reason", "text", "event_data.restart_reason", "last", "Why it restarts, likewise."),
        Column("_time_ns", "int", "time_ns", "max", "When it happened, likewise."),
        Column(
            "start_time_ms",
            "int",
            f"= CASE WHEN state = 'ALIVE' THEN {_WHEN_MS} END",
            "min",
            "When it was first alive. Ray's files tell it to the second.",
        ),
        Column(
            "_restarting",
            "texts",
            f"= CASE WHEN state = 'RESTARTING' THEN [{_RESTART}] END",
            "union",
            "The events that said it restarts.",
        ),
        _FOR_LINEAGE,
        _FOR_PREEMPTION,
        Column(
            "_dead_ms",
            "int",
            f"= CASE WHEN state = 'DEAD' THEN {_WHEN_MS} END",
            "min",
            "When it was first dead. Ray's files tell it to the second.",
        ),
    ),
    derived=(
        Derived(
            "death_cause",
            "json",
            "nullif(_death_cause, '{}')",
            "Why it died.",
            ids_inside=("actor_id", "owner_id", "node_id", "job_id", "placement_group_id"),
        ),
        Derived("num_restarts", "int", "coalesce(len(_restarting), 0)", "How often it restarted."),
        Derived(
            "restart_times_ms",
            "json",
            "CASE WHEN _restarting IS NOT NULL "
            f"THEN to_json(list_sort([{_RESTARTED_MS} FOR restart IN _restarting])) END",
            "When it restarted, each time. Ray's files tell it to the second.",
        ),
        _NUM_FOR_LINEAGE,
        _NUM_FOR_PREEMPTION,
        Derived(
            "end_time_ms",
            "int",
            "CASE WHEN state = 'DEAD' THEN _dead_ms END",
            "When it died. Ray's files tell it to the second.",
        ),
        Derived(
            "changed_ms",
            "int",
            "coalesce(_time_ns // 1000000, last_event_s * 1000)",
            "When it changed last. Ray's files tell it to the second.",
        ),
    ),
    when=_WHEN_MS,
    sort=("job_id", "actor_id"),
    life=Life(
        state="state", terminal=("DEAD",), ends=ACTOR_ENDS, closing=(("state", "'DEAD'"), ("_dead_ms", "{end_ms}"))
    ),
    beside=ACTOR_BESIDE,
)
