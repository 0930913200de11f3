"""An application of Ray Serve, from ``EXPORT_SERVE_APPLICATION``, which `raytrail.sources.serve` writes."""

from __future__ import annotations

from raytrail.entities import Column, Derived, Emitted, Entity, Life

SERVE_APPLICATION = Entity(
    name="serve_application",
    plural="serve_applications",
    doc="An application of Ray Serve. Written at each change where Raytrail's hooks are on in Serve's controller.",
    event_types=("EXPORT_SERVE_APPLICATION",),
    file_types=("SERVE_APPLICATION",),
    key=("name",),
    emitted=Emitted(
        source="Serve's controller, by Raytrail's hooks",
        when="each change of status, message or route, and its deletion",
        latency="at once",
        missed="everything, unless the hooks are on, by `raytrail run` or `sources.types`",
    ),
    columns=(
        Column("name", "text", "event_data.name", "key", "The application."),
        Column(
            "status",
            "text",
            "event_data.status",
            "last",
            "NOT_STARTED, DEPLOYING, RUNNING, DEPLOY_FAILED, UNHEALTHY or DELETING, as in Serve, and DELETED at last.",
            values=("NOT_STARTED", "DEPLOYING", "RUNNING", "DEPLOY_FAILED", "UNHEALTHY", "DELETING", "DELETED"),
        ),
        Column(
            "message",
            "text",
            "event_data.message",
            "latest",
            "Serve's words about its status.",
            formerly=("_message", "_said"),
        ),
        Column(
            "route_prefix",
            "text",
            "event_data.route_prefix",
            "latest",
            "The path that leads to it.",
            formerly=("_route", "_routed"),
        ),
        Column(
            "last_deployed_time_ms",
            "int",
            "event_data.last_deployed_time_s",
            "last",
            "When it was deployed last, as Serve counts it. A further `serve.run` does not count.",
            scale=1000,
        ),
        Column(
            "api_type",
            "text",
            "event_data.source",
            "last",
            "The way it was deployed, imperative (Python) or declarative (a config). Serve's REST API says `source`.",
            values=("unknown", "imperative", "declarative"),
        ),
        Column(
            "external_scaler_enabled",
            "bool",
            "event_data.external_scaler_enabled",
            "last",
            "True if it is scaled from outside.",
        ),
        Column(
            "deployed_app_config",
            "json",
            "event_data.deployed_app_config",
            "latest",
            "The config that it was deployed with. None where Python deployed it, and where it is too long for an "
            "event.",
            formerly=("_config", "_configured"),
        ),
        Column("deployments", "json", "event_data.deployments", "last", "The names of its deployments."),
        Column(
            "ingress_deployment",
            "text",
            "event_data.ingress_deployment",
            "last",
            "The deployment that its requests come to first.",
        ),
        Column(
            "polled",
            "bool",
            "event_data.polled",
            "max",
            "True if any of it was found by asking Serve now and then, as no hook was there. Anything between two "
            "answers is missing.",
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
    derived=(Derived("end_time_ms", "int", "CASE WHEN status = 'DELETED' THEN _deleted_ms END", "When it was gone."),),
    when="coalesce(updated_ns // 1000000, timestamp * 1000)",
    sort=("name",),
    life=Life(state="status", terminal=("DELETED",), closing=(("status", "'DELETED'"), ("_deleted_ms", "{end_ms}"))),
)
