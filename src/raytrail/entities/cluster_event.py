"""
What Ray tells people, from the files of its event framework, ``logs/events/event_<source>.log`` (event.proto).

C++ writes ``timestamp`` as a number, and `pid` and `host_name`; Python writes it as a string, and `source_pid` and
`source_hostname`.
"""

from __future__ import annotations

from raytrail.entities import Column, Derived, Emitted, Entity

_SOURCES = ("COMMON", "CORE_WORKER", "GCS", "RAYLET", "CLUSTER_LIFECYCLE", "AUTOSCALER", "JOBS")
"""Event.SourceType (event.proto, Ray 2.60)."""

CLUSTER_EVENT = Entity(
    name="cluster_event",
    plural="cluster_events",
    doc="A message of Ray's to people, such as that a node or worker died, a job began or ended, or the "
    "autoscaler acted.",
    event_types=_SOURCES,
    file_types=("CLUSTER_EVENT",),
    key=("event_id",),
    emitted=Emitted(
        source="GCS, raylets, core workers, the autoscaler and the job manager",
        when="something that people should know",
        latency="at once",
        missed="nothing known",
    ),
    columns=(
        Column("event_id", "text", "event_id", "key", "The event."),
        Column(
            "source_type",
            "text",
            "source_type",
            "max",
            "Its writer, such as GCS, RAYLET, AUTOSCALER or JOBS.",
            values=_SOURCES,
        ),
        Column(
            "severity",
            "text",
            "severity",
            "max",
            "INFO, WARNING, ERROR, FATAL, DEBUG or TRACE.",
            values=("INFO", "WARNING", "ERROR", "FATAL", "DEBUG", "TRACE"),
        ),
        Column("label", "text", "label", "max", "The kind of event, such as RAY_NODE_REMOVED."),
        Column("_message", "text", "message", "max", "The message, with newlines escaped."),
        Column("custom_fields", "json", "custom_fields", "max", "More of it, such as ids.", unset="{}"),
        Column("_host_name", "text", "host_name", "max", "The host, of C++."),
        Column("_source_hostname", "text", "source_hostname", "max", "The host, of Python."),
        Column("_pid", "int", "pid", "max", "The process, of C++."),
        Column("_source_pid", "int", "source_pid", "max", "The process, of Python."),
    ),
    derived=(
        Derived("time_ms", "int", "first_event_s * 1000", "When it happened. Ray writes whole seconds."),
        Derived(
            "time",
            "text",
            "strftime(make_timestamp(first_event_s * 1000000), '%Y-%m-%d %H:%M:%S')",
            "The same as Ray's dashboard shows it, but in UTC. The dashboard takes its server's time zone.",
        ),
        Derived(
            "message",
            "text",
            # as _restore_newline in ray/dashboard/modules/event/event_utils.py, Ray 2.60
            r"replace(replace(_message, '\n', chr(10)), '\r', chr(10))",
            "The message.",
        ),
        Derived("host_name", "text", "coalesce(_host_name, _source_hostname)", "The host that says so."),
        Derived("pid", "int", "coalesce(_pid, _source_pid)", "The process that says so."),
        Derived("job_id", "text", "json_extract_string(custom_fields, '$.job_id')", "The driver job, if it names one."),
        Derived("node_id", "text", "json_extract_string(custom_fields, '$.node_id')", "The node, if it names one."),
    ),
    sort=("first_event_s",),
)
