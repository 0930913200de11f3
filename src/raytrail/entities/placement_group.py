"""
A placement group, from ``EXPORT_PLACEMENT_GROUP``, which `raytrail.sources.placement_groups` writes.

Source: `PlacementGroupTableData` (gcs.proto), as the GCS answers it.
"""

from __future__ import annotations

from raytrail.entities import Column, Derived, Emitted, Entity, Life


def _field(name: str) -> str:
    return f"event_data.{name}"


PLACEMENT_GROUP = Entity(
    name="placement_group",
    plural="placement_groups",
    doc=(
        "A placement group. Ray exports none. Raytrail asks the GCS for them, with `PLACEMENT_GROUP` among "
        "`sources.types`."
    ),
    event_types=("EXPORT_PLACEMENT_GROUP",),
    file_types=("PLACEMENT_GROUP",),
    key=("placement_group_id",),
    emitted=Emitted(
        source="the agent on the head node, which asks the GCS every `sources.placement_group_seconds`",
        when="one has changed",
        latency="one such interval, and what happened between two answers is then written at the time that Ray says",
        missed="the moment of a removal, but for the interval, and everything unless `PLACEMENT_GROUP` is among "
        "`sources.types`",
    ),
    columns=(
        Column("placement_group_id", "id", _field("placement_group_id"), "key", "The placement group."),
        Column("name", "text", _field("name"), "last", "The name given to it."),
        Column("creator_job_id", "id", _field("creator_job_id"), "last", "The driver job that created it."),
        Column("creator_actor_id", "id", _field("creator_actor_id"), "last", "The actor that created it, if one did."),
        Column(
            "state",
            "text",
            _field("state"),
            "last",
            "PENDING, PREPARED, CREATED, RESCHEDULING or REMOVED.",
            values=("PENDING", "PREPARED", "CREATED", "RESCHEDULING", "REMOVED"),
        ),
        Column(
            "strategy",
            "text",
            _field("strategy"),
            "last",
            "PACK, SPREAD, STRICT_PACK or STRICT_SPREAD.",
            values=("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"),
        ),
        Column("bundles", "json", _field("bundles"), "last", "Its bundles, with what each holds, and on which node."),
        Column("is_detached", "bool", _field("is_detached"), "last", "True if it outlives its creator."),
        Column("stats", "json", _field("stats"), "last", "How it was scheduled."),
        Column("ray_namespace", "text", _field("ray_namespace"), "last", "The namespace of its name."),
        Column("creator_job_dead", "bool", _field("creator_job_dead"), "last", "True once its job has ended."),
        Column(
            "creator_actor_dead",
            "bool",
            _field("creator_actor_dead"),
            "last",
            "True once its actor has ended, or if there is none.",
        ),
        Column("soft_target_node_id", "id", _field("soft_target_node_id"), "last", "The node that it was wished on."),
        Column("topology_strategy", "json", _field("topology_strategy"), "last", "A strategy for each topology label."),
        Column("topology_assignments", "json", _field("topology_assignments"), "last", "The values chosen for those."),
        Column(
            "creation_time_ms",
            "int",
            _field("placement_group_creation_timestamp_ms"),
            "min",
            "When the GCS was asked for it.",
            unset="0",
        ),
        Column(
            "placement_time_ms",
            "int",
            _field("placement_group_final_bundle_placement_timestamp_ms"),
            "max",
            "When the last of its bundles was placed.",
            unset="0",
        ),
        Column(
            "_since_ns",
            "int",
            _field("since_ns"),
            "max",
            "When this state began, where the GCS keeps that. Else it is when the state was seen.",
            unset="0",
        ),
        Column("_time_ns", "int", "time_ns", "max", "When it was written."),
        Column(
            "_removed_ms",
            "int",
            "= CASE WHEN state = 'REMOVED' THEN _time_ns // 1000000 END",
            "min",
            "When it was first seen to be removed.",
        ),
    ),
    derived=(
        Derived(
            "removal_time_ms",
            "int",
            "CASE WHEN state = 'REMOVED' THEN _removed_ms END",
            "When it was seen to be removed, up to a poll after it was.",
        ),
    ),
    when="coalesce(_since_ns // 1000000, _time_ns // 1000000, timestamp * 1000)",
    sort=("placement_group_id",),
    life=Life(state="state", terminal=("REMOVED",), closing=(("state", "'REMOVED'"), ("_removed_ms", "{end_ms}"))),
)
