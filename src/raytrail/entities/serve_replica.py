"""A replica of a Serve deployment, from ``EXPORT_SERVE_REPLICA``, which `raytrail.sources.serve` writes."""

from __future__ import annotations

from raytrail.entities import Column, Derived, Emitted, Entity, Life

SERVE_REPLICA = Entity(
    name="serve_replica",
    plural="serve_replicas",
    doc="A replica of a Serve deployment, which is an actor. Written at each change where Raytrail's hooks are on.",
    event_types=("EXPORT_SERVE_REPLICA",),
    file_types=("SERVE_REPLICA",),
    key=("replica_id", "deployment_name", "app_name"),
    emitted=Emitted(
        source="Serve's controller, by Raytrail's hooks",
        when="each change of state or of its actor, and its stop",
        latency="at once",
        missed="everything, unless the hooks are on, by `raytrail run` or `sources.types`",
    ),
    columns=(
        Column("replica_id", "text", "event_data.replica_id", "key", "The replica, one of its deployment's."),
        Column("deployment_name", "text", "event_data.deployment_name", "key", "Its deployment."),
        Column("app_name", "text", "event_data.app_name", "key", "Its application."),
        Column(
            "state",
            "text",
            "event_data.state",
            "last",
            "STARTING, UPDATING, RECOVERING, RUNNING, PENDING_MIGRATION or STOPPING, as in Serve, and STOPPED at last.",
            values=("STARTING", "UPDATING", "RECOVERING", "RUNNING", "PENDING_MIGRATION", "STOPPING", "STOPPED"),
        ),
        Column("actor_id", "text", "event_data.actor_id", "last", "The actor that it is, as hex."),
        Column("actor_name", "text", "event_data.actor_name", "last", "The name of that actor."),
        Column("node_id", "text", "event_data.node_id", "last", "The node that it runs on, as hex."),
        Column("node_ip", "text", "event_data.node_ip", "last", "The address of that node."),
        Column("node_instance_id", "text", "event_data.node_instance_id", "last", "The node, as its cloud calls it."),
        Column("pid", "int", "event_data.pid", "last", "Its process."),
        Column("worker_id", "text", "event_data.worker_id", "last", "The worker that it runs in, as hex."),
        Column("log_file_path", "text", "event_data.log_file_path", "last", "Its log, below the session's logs."),
        Column(
            "start_time_ms",
            "int",
            "event_data.start_time_s",
            "last",
            "When it was started, or after a crash of the controller, when that found it again.",
            unset="0",
            scale=1000,
        ),
        Column(
            "outbound_deployments",
            "json",
            "event_data.outbound_deployments",
            "last",
            "The deployments that it calls, each with its name and application.",
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
            "running_time_ms",
            "int",
            "= CASE WHEN state = 'RUNNING' THEN updated_ns // 1000000 END",
            "min",
            "When it was first RUNNING.",
        ),
        Column(
            "_stopped_ms", "int", "= CASE WHEN state = 'STOPPED' THEN updated_ns // 1000000 END", "max", "When it went."
        ),
    ),
    derived=(Derived("end_time_ms", "int", "CASE WHEN state = 'STOPPED' THEN _stopped_ms END", "When it was gone."),),
    when="coalesce(updated_ns // 1000000, timestamp * 1000)",
    sort=("app_name", "deployment_name", "start_time_ms", "replica_id"),
    life=Life(state="state", terminal=("STOPPED",), closing=(("state", "'STOPPED'"), ("_stopped_ms", "{end_ms}"))),
)
