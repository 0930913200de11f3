"""A job as Ray's State API and Jobs API show it: what was submitted, and the drivers that nobody submitted."""

from __future__ import annotations

from raytrail.entities import Column, Entity, Life
from raytrail.entities.enumerations import JOB_ERROR_TYPES, JOB_STATUSES

_DRIVER_INFO = (
    "CASE WHEN d.job_id IS NOT NULL THEN to_json({'id': lower(hex(d.job_id)), 'node_ip_address': d.driver_ip_address, "
    "'pid': d.driver_pid::VARCHAR})::VARCHAR END"
)

_NAMESPACE = """json_extract_string(extra, '$."event_data.config.ray_namespace"')"""
"""Of a driver's job; no event of Ray 2.60 says it, and the GCS writes none of its own jobs."""

_SUBMITTED_METADATA = (
    # what its supervisor adds to what was submitted (job_supervisor.py, Ray 2.60)
    "json_merge_patch(d.metadata, CASE json_extract_string(d.metadata, '$.job_name') WHEN d.submission "
    """THEN '{"job_submission_id": null, "job_name": null}' ELSE '{"job_submission_id": null}' END)::VARCHAR"""
)

JOB = Entity(
    name="job",
    plural="jobs",
    doc=(
        "A job as Ray shows it. That is a submission job with the driver that it ran, or a driver that was not "
        "submitted. A submission has its driver's state where only the driver tells of it, as in Ray's HTTP "
        "export."
    ),
    event_types=(),
    file_types=(),
    key=("job_id", "submission_id"),
    columns=(
        Column("job_id", "id", "", "key", "The driver's job. Null where a submission ran no driver."),
        Column("submission_id", "text", "", "key", "The submission. Null for a driver that was not submitted."),
        Column("type", "text", "", "last", "DRIVER or SUBMISSION.", values=("DRIVER", "SUBMISSION")),
        Column("status", "text", "", "last", "PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.", values=JOB_STATUSES),
        Column("entrypoint", "text", "", "last", "The command that was run."),
        Column("message", "text", "", "last", "Ray's words about its status."),
        Column("error_type", "text", "", "last", "Why it failed.", values=JOB_ERROR_TYPES),
        Column("driver_info", "json", "", "last", "Id, address and process of its driver."),
        Column("start_time_ms", "int", "", "last", "When it began."),
        Column("end_time_ms", "int", "", "last", "When it ended."),
        Column("metadata", "json", "", "last", "The metadata that its user gave it."),
        Column("runtime_env", "json", "", "last", "Its runtime environment."),
        Column("driver_agent_http_address", "text", "", "last", "The dashboard agent beside its driver."),
        Column("driver_node_id", "text", "", "last", "The node that its driver runs on."),
        Column("driver_exit_code", "int", "", "last", "The exit code of its command."),
    ),
    sort=("coalesce(lower(hex(job_id)), '')", "submission_id"),
    life=Life(state="status", terminal=("STOPPED", "SUCCEEDED", "FAILED")),
    view=(
        # get_driver_jobs in ray/dashboard/modules/job/utils.py, Ray 2.60: jobs of Ray's own are left out, a driver with
        # a submission is no row of its own, and of several the last one is its submission's driver
        "WITH d AS (SELECT *, nullif(json_extract_string(metadata, '$.job_submission_id'), '') AS submission "
        f"FROM {{driver_job}} WHERE NOT coalesce(starts_with({_NAMESPACE}, '_ray_internal_'), false)), "
        "newest AS (SELECT * FROM d WHERE submission IS NOT NULL "
        "QUALIFY row_number() OVER (PARTITION BY {session}submission ORDER BY job_id DESC) = 1), "
        # a submission that nothing tells of but its drivers: those that were there together with the last one, as an id
        # may be used again; it runs as long as one of them does
        "untold AS (SELECT {session:n}n.submission, arg_min(d.entrypoint, d.job_id) AS entrypoint, "
        "bool_and(coalesce(d.is_dead, false)) AS is_dead, min(d.start_time_ms) AS start_time_ms, "
        f"max(d.end_time_ms) AS end_time_ms, arg_min({_SUBMITTED_METADATA}, d.job_id) AS metadata, "
        "arg_min(d.runtime_env, d.job_id) AS runtime_env, max(d.inferred) AS inferred, max(d.extra) AS extra, "
        "min(d.first_event_s) AS first_event_s, max(d.last_event_s) AS last_event_s "
        "FROM newest n JOIN d ON ({session:d}d.submission) = ({session:n}n.submission) "
        "AND (d.job_id = n.job_id OR d.is_dead IS NOT TRUE "
        "OR d.end_time_ms >= n.start_time_ms) "
        "WHERE ({session:n}n.submission) NOT IN (SELECT {session}submission_id FROM {submission_job}) "
        "GROUP BY {session:n}n.submission) "
        "SELECT {session:d}d.job_id, NULL::VARCHAR AS submission_id, 'DRIVER' AS type, "
        "CASE WHEN is_dead THEN 'SUCCEEDED' ELSE 'RUNNING' END AS status, entrypoint, NULL::VARCHAR AS message, "
        f"NULL::VARCHAR AS error_type, {_DRIVER_INFO} AS driver_info, "
        "start_time_ms, end_time_ms, metadata, runtime_env, "
        "NULL::VARCHAR AS driver_agent_http_address, NULL::VARCHAR AS driver_node_id, "
        "NULL::BIGINT AS driver_exit_code, "
        "inferred, extra, first_event_s, last_event_s FROM d WHERE submission IS NULL "
        "UNION ALL SELECT {session:s}d.job_id, s.submission_id, 'SUBMISSION', s.status, s.entrypoint, s.message, "
        f"s.error_type, {_DRIVER_INFO}, s.start_time_ms, s.end_time_ms, s.metadata, s.runtime_env, "
        "s.driver_agent_http_address, "
        "s.driver_node_id, s.driver_exit_code, s.inferred, s.extra, s.first_event_s, s.last_event_s "
        "FROM {submission_job} s LEFT JOIN newest d ON ({session:d}d.submission) = ({session:s}s.submission_id) "
        "UNION ALL SELECT {session:u}d.job_id, u.submission, 'SUBMISSION', "
        "CASE WHEN u.is_dead THEN 'SUCCEEDED' ELSE 'RUNNING' END, "
        f"u.entrypoint, NULL, NULL, {_DRIVER_INFO}, u.start_time_ms, CASE WHEN u.is_dead THEN u.end_time_ms END, "
        "u.metadata, u.runtime_env, NULL, lower(hex(d.driver_node_id)), NULL, u.inferred, u.extra, u.first_event_s, "
        "u.last_event_s FROM untold u JOIN newest d "
        "ON ({session:d}d.submission) = ({session:u}u.submission)"
    ),
)
