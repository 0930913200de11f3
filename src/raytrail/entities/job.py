"""A job as Ray's State API and Jobs API show it: what was submitted, and the drivers that nobody submitted."""

from __future__ import annotations

from raytrail.entities import Column, Entity
from raytrail.entities.submission_job import ERROR_TYPES, STATUSES

_DRIVER_INFO = (
    "CASE WHEN d.job_id IS NOT NULL THEN to_json({'id': lower(hex(d.job_id)), 'node_ip_address': d.driver_ip_address, "
    "'pid': d.driver_pid::VARCHAR})::VARCHAR END"
)

JOB = Entity(
    name="job",
    plural="jobs",
    doc="A job as Ray shows it: a submission job with the driver that it ran, or a driver that was not submitted.",
    event_types=(),
    file_types=(),
    key=("job_id", "submission_id"),
    columns=(
        Column("job_id", "id", "", "key", "The driver's job; null where a submission ran no driver."),
        Column("submission_id", "text", "", "key", "The submission; null for a driver that was not submitted."),
        Column("type", "text", "", "last", "DRIVER or SUBMISSION.", values=("DRIVER", "SUBMISSION")),
        Column("status", "text", "", "last", "PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.", values=STATUSES),
        Column("entrypoint", "text", "", "last", "The command that was run."),
        Column("message", "text", "", "last", "What Ray says of its status."),
        Column("error_type", "text", "", "last", "Why it failed.", values=ERROR_TYPES),
        Column("driver_info", "json", "", "last", "Id, address and process of its driver."),
        Column("start_time_ms", "int", "", "last", "When it began."),
        Column("end_time_ms", "int", "", "last", "When it ended."),
        Column("metadata", "json", "", "last", "What its user said of it."),
        Column("runtime_env", "json", "", "last", "Its runtime environment."),
        Column("driver_agent_http_address", "text", "", "last", "The dashboard agent beside its driver."),
        Column("driver_node_id", "text", "", "last", "Where its driver runs."),
        Column("driver_exit_code", "int", "", "last", "What its command returned."),
    ),
    sort=("coalesce(lower(hex(job_id)), '')", "submission_id"),
    state="status",
    terminal=("STOPPED", "SUCCEEDED", "FAILED"),
    view=(
        # get_job_info in ray/dashboard/modules/job/utils.py, Ray 2.60: a driver with a submission is no row of its own
        "WITH d AS (SELECT *, json_extract_string(metadata, '$.job_submission_id') AS submission_id "
        "FROM {driver_job}), "
        "newest AS (SELECT * FROM d WHERE submission_id IS NOT NULL "
        "QUALIFY row_number() OVER (PARTITION BY submission_id ORDER BY job_id DESC) = 1) "
        "SELECT d.job_id, NULL::VARCHAR AS submission_id, 'DRIVER' AS type, "
        "CASE WHEN is_dead THEN 'SUCCEEDED' ELSE 'RUNNING' END AS status, entrypoint, NULL::VARCHAR AS message, "
        f"NULL::VARCHAR AS error_type, {_DRIVER_INFO} AS driver_info, "
        "start_time_ms, end_time_ms, metadata, runtime_env, "
        "NULL::VARCHAR AS driver_agent_http_address, NULL::VARCHAR AS driver_node_id, "
        "NULL::BIGINT AS driver_exit_code, "
        "inferred, extra, first_event_s, last_event_s FROM d WHERE submission_id IS NULL "
        "UNION ALL SELECT d.job_id, s.submission_id, 'SUBMISSION', s.status, s.entrypoint, s.message, s.error_type, "
        f"{_DRIVER_INFO}, s.start_time_ms, s.end_time_ms, s.metadata, s.runtime_env, s.driver_agent_http_address, "
        "s.driver_node_id, s.driver_exit_code, s.inferred, s.extra, s.first_event_s, s.last_event_s "
        "FROM {submission_job} s LEFT JOIN newest d ON d.submission_id = s.submission_id"
    ),
)
