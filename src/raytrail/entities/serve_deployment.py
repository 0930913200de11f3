"""A deployment of Ray Serve, from ``EXPORT_SERVE_DEPLOYMENT``, which `raytrail.sources.serve` writes."""

from __future__ import annotations

from raytrail.entities import Column, Derived, Emitted, Entity, Life

_TRIGGERS = (
    "UNSPECIFIED",
    "CONFIG_UPDATE_STARTED",
    "CONFIG_UPDATE_COMPLETED",
    "UPSCALE_COMPLETED",
    "DOWNSCALE_COMPLETED",
    "AUTOSCALING",
    "REPLICA_STARTUP_FAILED",
    "DEPLOYMENT_ACTOR_FAILED",
    "HEALTH_CHECK_FAILED",
    "INTERNAL_ERROR",
    "DELETING",
)
"""DeploymentStatusTrigger (ray/serve/_private/common.py, Ray 2.60)."""

SERVE_DEPLOYMENT = Entity(
    name="serve_deployment",
    plural="serve_deployments",
    doc="A deployment of a Serve application. Written at each change where Raytrail's hooks are on.",
    event_types=("EXPORT_SERVE_DEPLOYMENT",),
    file_types=("SERVE_DEPLOYMENT",),
    key=("app_name", "name"),
    emitted=Emitted(
        source="Serve's controller, by Raytrail's hooks",
        when="each change of status, message or target, and its deletion",
        latency="at once",
        missed="everything, unless the hooks are on, by `raytrail run` or `sources.types`",
    ),
    columns=(
        Column("app_name", "text", "event_data.app_name", "key", "Its application."),
        Column("name", "text", "event_data.name", "key", "The deployment."),
        Column(
            "status",
            "text",
            "event_data.status",
            "last",
            "UPDATING, UPSCALING, DOWNSCALING, HEALTHY, UNHEALTHY or DEPLOY_FAILED, as in Serve, and DELETED at last.",
            values=("UPDATING", "UPSCALING", "DOWNSCALING", "HEALTHY", "UNHEALTHY", "DEPLOY_FAILED", "DELETED"),
        ),
        Column(
            "status_trigger",
            "text",
            "event_data.status_trigger",
            "last",
            "The cause of that status.",
            values=_TRIGGERS,
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
            "target_num_replicas", "int", "event_data.target_num_replicas", "last", "How many replicas it is to have."
        ),
        Column(
            "deployment_config",
            "json",
            "event_data.deployment_config",
            "last",
            "Its options, from code, config and defaults. Not where they are too long for an event.",
        ),
        Column(
            "required_resources",
            "json",
            "event_data.required_resources",
            "last",
            "The resources that each replica needs.",
        ),
        Column(
            "docs_path",
            "text",
            "event_data.docs_path",
            "latest",
            "The path at which FastAPI serves its documentation.",
            formerly=("_docs", "_documented"),
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
    sort=("app_name", "name"),
    life=Life(state="status", terminal=("DELETED",), closing=(("status", "'DELETED'"), ("_deleted_ms", "{end_ms}"))),
)
