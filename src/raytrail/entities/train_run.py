"""A Ray Train run, from ``EXPORT_TRAIN_RUN`` (`ExportTrainRunEventData`, export_train_state.proto)."""

from __future__ import annotations

from raytrail.entities import Column, Emitted, Entity, Life

TRAIN_RUN = Entity(
    name="train_run",
    plural="train_runs",
    doc="A Ray Train run. Written only where the driver has RAY_TRAIN_ENABLE_STATE_TRACKING=1.",
    event_types=("EXPORT_TRAIN_RUN",),
    file_types=("TRAIN_STATE",),
    key=("run_id",),
    emitted=Emitted(
        source="Ray Train's state actor",
        when="each change of status",
        latency="at once",
        missed="everything, unless the driver has `RAY_TRAIN_ENABLE_STATE_TRACKING=1`, as `raytrail run` gives it",
    ),
    columns=(
        Column("run_id", "text", "event_data.id", "key", "The run."),
        Column("name", "text", "event_data.name", "last", "The name given to it."),
        Column("job_id", "id", "event_data.job_id", "last", "The driver job that runs it."),
        Column("controller_actor_id", "id", "event_data.controller_actor_id", "last", "The actor that steers it."),
        Column(
            "status",
            "text",
            "event_data.status",
            "last",
            "INITIALIZING, SCHEDULING, RUNNING, FINISHED, ERRORED, ABORTED, ...",
            values=(
                "INITIALIZING",
                "SCHEDULING",
                "RUNNING",
                "RESTARTING",
                "RESIZING",
                "FINISHED",
                "ERRORED",
                "ABORTED",
            ),
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
        Column(
            "controller_log_file_path", "text", "event_data.controller_log_file_path", "last", "The controller's log."
        ),
        Column("run_settings", "json", "event_data.run_settings", "last", "How it was asked to run."),
        Column("framework_versions", "json", "event_data.framework_versions", "last", "Versions of what it uses."),
        Column("train_run_panels", "json", "event_data.train_run_panels", "last", "Panels of Ray's Grafana dashboard."),
        Column("train_worker_panels", "json", "event_data.train_worker_panels", "last", "The same for its workers."),
        Column("ray_train_version", "int", "event_data.ray_train_version", "last", "Ray Train's generation."),
        Column("schema_version", "int", "event_data.schema_version", "last", "Version of this event's form."),
    ),
    sort=("run_id",),
    life=Life(
        state="status",
        terminal=("FINISHED", "ERRORED", "ABORTED"),
        closing=(("status", "'ABORTED'"), ("end_time_ns", "{end_ms} * 1000000")),
    ),
)
