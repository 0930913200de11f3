"""An application of Ray Serve, from ``EXPORT_SERVE_APPLICATION``, which `raytrail.sources.serve` writes."""

from __future__ import annotations

from raytrail.entities import Column, Derived, Emitted, Entity

SERVE_APPLICATION = Entity(
    name="serve_application",
    plural="serve_applications",
    doc="An application of Ray Serve. Written at each change where Raytrail's hooks are on in Serve's controller.",
    event_types=("EXPORT_SERVE_APPLICATION",),
    file_types=("SERVE_APPLICATION",),
    key=("name",),
    emitted=Emitted(
        source="Serve's controller, by Raytrail's hooks",
        when="each change of status, message or route; it is deleted",
        latency="at once",
        missed="everything, unless the hooks are on: `raytrail run`, or `sources.types`",
    ),
    columns=(
        Column("name", "text", "event_data.name", "key", "The application."),
        Column(
            "status",
            "text",
            "event_data.status",
            "last",
            "NOT_STARTED, DEPLOYING, RUNNING, DEPLOY_FAILED, UNHEALTHY or DELETING, as in Serve; DELETED at last.",
        ),
        Column("_message", "text", "event_data.message", "last", "What Serve says of its status."),
        # none is an answer as well: what was wrong before must not be said of one that is well again
        Column("_said", "text", "= coalesce(_message, '')", "last", "The message, empty where there is none."),
        Column("route_prefix", "text", "event_data.route_prefix", "last", "The path that leads to it."),
        Column(
            "last_deployed_time_ms",
            "int",
            "event_data.last_deployed_time_s",
            "last",
            "When it was deployed last, as Serve counts it: `serve.run` again does not.",
            scale=1000,
        ),
        Column("updated_ns", "int", "time_ns", "max", "When its last event was written."),
        Column(
            "_deleted_ms",
            "int",
            "= CASE WHEN status = 'DELETED' THEN updated_ns // 1000000 END",
            "max",
            "When it went.",
        ),
    ),
    derived=(
        Derived("message", "text", "nullif(_said, '')", "What Serve says of its status."),
        Derived("end_time_ms", "int", "CASE WHEN status = 'DELETED' THEN _deleted_ms END", "When it was gone."),
    ),
    when="coalesce(updated_ns // 1000000, timestamp * 1000)",
    sort=("name",),
    state="status",
    terminal=("DELETED",),
    closing=(("status", "'DELETED'"), ("_deleted_ms", "{end_ms}")),
)
