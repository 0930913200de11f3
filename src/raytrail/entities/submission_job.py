"""
A submitted job, from ``EXPORT_SUBMISSION_JOB``.

Source: `ExportSubmissionJobEventData`, export_submission_job_event.proto.
"""

from __future__ import annotations

from raytrail.entities import Column, Emitted, Entity, Life
from raytrail.entities.enumerations import JOB_ERROR_TYPES, JOB_STATUSES

SUBMISSION_JOB = Entity(
    name="submission_job",
    plural="submission_jobs",
    doc="A job submitted through Ray's Jobs API. Its manager and its supervisor write each change.",
    event_types=("EXPORT_SUBMISSION_JOB",),
    file_types=("SUBMISSION_JOB",),
    key=("submission_id",),
    emitted=Emitted(
        source="the dashboard agent's job manager, and the job's supervisor",
        when="each change of status",
        latency="at once",
        missed="nothing known",
    ),
    columns=(
        Column("submission_id", "text", "event_data.submission_job_id", "key", "The submission."),
        Column(
            "status",
            "text",
            "event_data.status",
            "latest",
            "PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.",
            values=JOB_STATUSES,
        ),
        Column("entrypoint", "text", "event_data.entrypoint", "latest", "The command that is run."),
        Column("message", "text", "event_data.message", "latest", "Ray's words about its status."),
        Column("error_type", "text", "event_data.error_type", "latest", "Why it failed.", values=JOB_ERROR_TYPES),
        Column("start_time_ms", "int", "event_data.start_time", "latest", "When it was submitted.", unset="0"),
        Column("end_time_ms", "int", "event_data.end_time", "latest", "When it ended.", unset="0"),
        Column("metadata", "json", "event_data.metadata", "latest", "The metadata that its user gave it."),
        Column("runtime_env", "text", "event_data.runtime_env_json", "latest", "Its runtime environment, as JSON."),
        Column(
            "driver_agent_http_address",
            "text",
            "event_data.driver_agent_http_address",
            "latest",
            "The dashboard agent beside its driver.",
        ),
        Column("driver_node_id", "text", "event_data.driver_node_id", "latest", "The node that its driver runs on."),
        Column("driver_exit_code", "int", "event_data.driver_exit_code", "latest", "The exit code of its command."),
    ),
    when="coalesce(end_time_ms, timestamp * 1000)",
    sort=("submission_id",),
    life=Life(
        state="status",
        terminal=("STOPPED", "SUCCEEDED", "FAILED"),
        closing=(("status", "'FAILED'"), ("end_time_ms", "{end_ms}")),
    ),
)
