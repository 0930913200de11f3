"""An actor, from ``EXPORT_ACTOR`` (`ExportActorData`, export_actor_data.proto)."""

from __future__ import annotations

from raytrail.entities import Column, Derived, Emitted, Entity

ACTOR = Entity(
    name="actor",
    plural="actors",
    doc="An actor. The GCS writes each change of its state, with the whole of what it knows, to whole seconds.",
    event_types=("EXPORT_ACTOR",),
    file_types=("ACTOR",),
    key=("actor_id",),
    emitted=Emitted(
        source="the GCS", when="each change of state", latency="milliseconds", missed="when within a second it was"
    ),
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
        ),
        Column("name", "text", "event_data.name", "last", "The name given to it."),
        Column("node_id", "id", "event_data.node_id", "last", "Where it lives, or lived last."),
        Column("pid", "int", "event_data.pid", "last", "Its process, now or last.", unset="0"),
        Column("ray_namespace", "text", "event_data.ray_namespace", "last", "The namespace of its name."),
        Column(
            "serialized_runtime_env",
            "text",
            "event_data.serialized_runtime_env",
            "last",
            "Its runtime environment.",
        ),
        Column("required_resources", "json", "event_data.required_resources", "last", "Amounts by resource."),
        Column("_death_cause", "json", "event_data.death_cause", "last", "Why it died; empty while it lives."),
        Column("is_detached", "bool", "event_data.is_detached", "last", "Whether it outlives its job."),
        Column("placement_group_id", "id", "event_data.placement_group_id", "last", "Where it was placed."),
        Column("repr_name", "text", "event_data.repr_name", "last", "What its ``__repr__`` says."),
        Column("labels", "json", "event_data.labels", "last", "Labels given by libraries."),
        Column("label_selector", "json", "event_data.label_selector", "last", "Labels that its node must have."),
        Column(
            "start_time_ms",
            "int",
            "= CASE WHEN state = 'ALIVE' THEN timestamp * 1000 END",
            "min",
            "When it was first alive, to the second.",
        ),
        Column(
            "_restarting",
            "texts",
            "= CASE WHEN state = 'RESTARTING' THEN [file || ':' || line_offset] END",
            "union",
            "The events that said it restarts.",
        ),
        Column(
            "_dead_ms",
            "int",
            "= CASE WHEN state = 'DEAD' THEN timestamp * 1000 END",
            "min",
            "When it was first dead, to the second.",
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
        Derived("end_time_ms", "int", "CASE WHEN state = 'DEAD' THEN _dead_ms END", "When it died, to the second."),
    ),
    sort=("job_id", "actor_id"),
    state="state",
    terminal=("DEAD",),
    closing=(("state", "'DEAD'"), ("_dead_ms", "{end_ms}")),
)
