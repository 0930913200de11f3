"""
One attempt of a Ray Train run, from ``EXPORT_TRAIN_RUN_ATTEMPT``.

Source: `ExportTrainRunAttemptEventData`, export_train_state.proto.
"""

from __future__ import annotations

from raytrail.entities import Column, Emitted, Entity, Life

TRAIN_RUN_ATTEMPT = Entity(
    name="train_run_attempt",
    plural="train_run_attempts",
    doc="One attempt of a Ray Train run, with its workers.",
    event_types=("EXPORT_TRAIN_RUN_ATTEMPT",),
    file_types=("TRAIN_STATE",),
    key=("run_id", "attempt_id"),
    emitted=Emitted(
        source="Ray Train's state actor",
        when="each change of status",
        latency="at once",
        missed="everything, unless the driver has `RAY_TRAIN_ENABLE_STATE_TRACKING=1`, as `raytrail run` gives it",
    ),
    columns=(
        Column("run_id", "text", "event_data.run_id", "key", "The run."),
        Column("attempt_id", "text", "event_data.attempt_id", "key", "The attempt."),
        Column(
            "status",
            "text",
            "event_data.status",
            "last",
            "PENDING, RUNNING, FINISHED, ERRORED or ABORTED.",
            values=("PENDING", "RUNNING", "FINISHED", "ERRORED", "ABORTED"),
        ),
        Column(
            "status_detail",
            "text",
            "event_data.status_detail",
            "latest",
            "Ray's words about its status.",
            formerly=("_detail", "_said"),
        ),
        Column("start_time_ns", "int", "event_data.start_time_ns", "max", "When it began.", unset="0"),
        Column("end_time_ns", "int", "event_data.end_time_ns", "max", "When it ended.", unset="0"),
        Column("resources", "json", "event_data.resources", "last", "The resources that each worker asked for."),
        Column(
            "workers",
            "json",
            "event_data.workers",
            "last",
            "Its workers, each with rank, actor, node, process and log.",
            unset="[]",
            ids_inside=("actor_id", "node_id"),
        ),
        Column("ray_train_version", "int", "event_data.ray_train_version", "last", "Ray Train's generation."),
        Column("schema_version", "int", "event_data.schema_version", "last", "Version of this event's form."),
    ),
    sort=("run_id", "attempt_id"),
    life=Life(
        state="status",
        terminal=("FINISHED", "ERRORED", "ABORTED"),
        closing=(("status", "'ABORTED'"), ("end_time_ns", "{end_ms} * 1000000")),
    ),
)
