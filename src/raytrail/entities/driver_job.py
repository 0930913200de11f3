"""A driver's job, from ``EXPORT_DRIVER_JOB`` (`ExportDriverJobEventData`, export_driver_job_event.proto)."""

from __future__ import annotations

from raytrail.entities import Beside, Column, Derived, Emitted, Entity, Life, Posted, PostedEvent

_POSTED = (
    PostedEvent(
        event_type="DRIVER_JOB_DEFINITION_EVENT",
        body="driverJobDefinitionEvent",
        columns=(
            Posted("job_id", "jobId", "id"),
            Posted("driver_pid", "driverPid", "int", unset="0"),
            Posted("driver_node_id", "driverNodeId", "id or none"),
            Posted("entrypoint", "entrypoint", "text"),
            Posted("metadata", "config.metadata", "json", default="{}"),
            Posted("runtime_env", "config.serializedRuntimeEnv", "text"),
        ),
    ),
    PostedEvent(
        event_type="DRIVER_JOB_LIFECYCLE_EVENT",
        body="driverJobLifecycleEvent",
        columns=(Posted("job_id", "jobId", "id"),),
        each="stateTransitions",
        of_each=(
            Posted("is_dead", "state", "equals", "FINISHED"),
            Posted("start_time_ms", "timestamp", "time_ms", when=("state", "CREATED")),
            Posted("end_time_ms", "timestamp", "time_ms", when=("state", "FINISHED")),
        ),
        states=("CREATED", "FINISHED"),
    ),
)

DRIVER_JOB = Entity(
    name="driver_job",
    plural="driver_jobs",
    doc="A driver's job. The GCS writes its start and its end. Ray's own internal jobs have no event.",
    event_types=("EXPORT_DRIVER_JOB",),
    file_types=("DRIVER_JOB",),
    key=("job_id",),
    emitted=Emitted(
        source="the GCS", when="a driver begins or ends", latency="milliseconds", missed="jobs of Ray's own"
    ),
    posted=_POSTED,
    columns=(
        Column("job_id", "id", "event_data.job_id", "key", "The job."),
        Column("is_dead", "bool", "event_data.is_dead", "max", "True once its driver has gone."),
        Column("driver_pid", "int", "event_data.driver_pid", "last", "Process of the driver."),
        Column(
            "driver_ip_address",
            "text",
            "event_data.driver_ip_address",
            "last",
            "Address of the driver's node. It is filled in from the node where Ray's HTTP export tells of the job.",
            filled="coalesce(s.driver_ip_address, n.node_ip)",
        ),
        Column(
            "driver_node_id",
            "id",
            "event_data.driver_node_id",
            "last",
            "The driver's node. Only Ray's HTTP export tells.",
        ),
        Column("entrypoint", "text", "event_data.entrypoint", "last", "The command that was run."),
        Column("start_time_ms", "int", "event_data.start_time", "max", "When it began.", unset="0"),
        Column("end_time_ms", "int", "event_data.end_time", "max", "When it ended.", unset="0"),
        Column("metadata", "json", "event_data.config.metadata", "last", "The metadata that its user gave it."),
        Column(
            "runtime_env",
            "text",
            "event_data.config.runtime_env_info.serialized_runtime_env",
            "last",
            "Its runtime environment, serialized.",
        ),
        Column(
            "_runtime_env_config",
            "json",
            "event_data.config.runtime_env_info.runtime_env_config",
            "last",
            "How its runtime environment is set up.",
        ),
        Column("_runtime_env_uris", "json", "event_data.config.runtime_env_info.uris", "last", "Its packages."),
    ),
    derived=(
        Derived(
            "submission_id",
            "text",
            "json_extract_string(metadata, '$.job_submission_id')",
            "The submission job that ran this driver.",
        ),
        Derived(
            "status",
            "text",
            "CASE WHEN is_dead THEN 'SUCCEEDED' ELSE 'RUNNING' END",
            "RUNNING or SUCCEEDED. A driver's exit code is not known, and Ray says the same.",
            values=("RUNNING", "SUCCEEDED"),
        ),
    ),
    when="coalesce(CASE WHEN is_dead THEN end_time_ms ELSE start_time_ms END, timestamp * 1000)",
    sort=("job_id",),
    life=Life(state="status", terminal=("SUCCEEDED",), closing=(("is_dead", "true"), ("end_time_ms", "{end_ms}"))),
    beside=(Beside("n", "node", "n.node_id = s.driver_node_id", ("node_id", "node_ip")),),
)
