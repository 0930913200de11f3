"""
How far a Ray Data dataset is, from ``EXPORT_DATASET_PROGRESS``, which `raytrail.sources.data` writes.

Not columns of `dataset`: that follows from Ray's own events, whose order among these nobody knows within a second.
"""

from __future__ import annotations

from raytrail.entities import Column, Emitted, Entity, Life

DATASET_PROGRESS = Entity(
    name="dataset_progress",
    plural="datasets_progress",
    doc="How far a Ray Data dataset is. Raytrail's hooks, where they are on, write it at each change of state, "
    "and every five seconds while it runs. `operators_progress` has a row for each operator.",
    event_types=("EXPORT_DATASET_PROGRESS",),
    file_types=("DATASET_PROGRESS",),
    key=("dataset_id",),
    emitted=Emitted(
        source="Ray Data's `_StatsActor`, by Raytrail's hooks",
        when="Ray Data reports anything new, which it does at each change of state, and every 5 s",
        latency="at once",
        missed="what happened within the 5 s, and everything unless the hooks are on, by `raytrail run` or "
        "`sources.types`",
    ),
    columns=(
        Column("dataset_id", "text", "event_data.dataset_id", "key", "The dataset."),
        Column("job_id", "text", "event_data.job_id", "last", "The driver job that runs it."),
        Column(
            "state",
            "text",
            "event_data.state",
            "last",
            "PENDING, RUNNING, FINISHED or FAILED.",
            values=("UNKNOWN", "PENDING", "RUNNING", "FINISHED", "FAILED"),
        ),
        Column("progress", "int", "event_data.progress", "last", "Blocks that its last operator has put out."),
        # 0 is what Ray Data says as long as it knows nothing
        Column("total", "int", "event_data.total", "last", "Blocks expected of it, as estimated then.", unset="0"),
        Column("total_rows", "int", "event_data.total_rows", "last", "Rows expected, as estimated then.", unset="0"),
        Column("start_time_ms", "int", "event_data.start_time", "min", "When it was made.", scale=1000),
        Column("end_time_ms", "int", "event_data.end_time", "max", "When it ended.", scale=1000),
        Column(
            "operators",
            "json",
            "event_data.operators",
            "last",
            "Its operators, from its input on, each with id, name, state, progress, total, total rows and blocks "
            "queued.",
        ),
        Column("updated_ns", "int", "time_ns", "max", "When its last event was written."),
    ),
    when="coalesce(updated_ns // 1000000, timestamp * 1000)",
    sort=("job_id", "start_time_ms"),
    life=Life(
        state="state", terminal=("FINISHED", "FAILED"), closing=(("state", "'FAILED'"), ("end_time_ms", "{end_ms}"))
    ),
)
