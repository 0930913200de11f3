"""A proxy of Ray Serve, from ``EXPORT_SERVE_PROXY``, which `raytrail.sources.serve` writes."""

from __future__ import annotations

from raytrail.entities import Column, Derived, Emitted, Entity, Life

SERVE_PROXY = Entity(
    name="serve_proxy",
    plural="serve_proxies",
    doc="A proxy of Ray Serve, which is an actor that takes requests on its node. Written where Raytrail's "
    "hooks are on.",
    event_types=("EXPORT_SERVE_PROXY",),
    file_types=("SERVE_PROXY",),
    key=("node_id", "actor_id"),
    emitted=Emitted(
        source="Serve's controller, by Raytrail's hooks",
        when="each change of status or of its actor, and its stop",
        latency="at once",
        missed="everything, unless the hooks are on, by `raytrail run` or `sources.types`",
    ),
    columns=(
        Column("node_id", "text", "event_data.node_id", "key", "The node that it runs on, as hex."),
        Column("actor_id", "text", "event_data.actor_id", "key", "The actor that it is, as hex."),
        Column(
            "status",
            "text",
            "event_data.status",
            "last",
            "STARTING, HEALTHY, UNHEALTHY, DRAINING or DRAINED, as in Serve, and STOPPED at last.",
            values=("STARTING", "HEALTHY", "UNHEALTHY", "DRAINING", "DRAINED", "STOPPED"),
        ),
        Column("actor_name", "text", "event_data.actor_name", "last", "The name of that actor."),
        Column("node_ip", "text", "event_data.node_ip", "last", "The address of that node."),
        Column("node_instance_id", "text", "event_data.node_instance_id", "last", "The node, as its cloud calls it."),
        Column("worker_id", "text", "event_data.worker_id", "last", "The worker that it runs in, as hex."),
        Column("log_file_path", "text", "event_data.log_file_path", "last", "Its log, below the session's logs."),
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
            "_stopped_ms",
            "int",
            "= CASE WHEN status = 'STOPPED' THEN updated_ns // 1000000 END",
            "max",
            "When it went.",
        ),
    ),
    derived=(Derived("end_time_ms", "int", "CASE WHEN status = 'STOPPED' THEN _stopped_ms END", "When it was gone."),),
    when="coalesce(updated_ns // 1000000, timestamp * 1000)",
    sort=("node_id", "actor_id"),
    life=Life(state="status", terminal=("STOPPED",), closing=(("status", "'STOPPED'"), ("_stopped_ms", "{end_ms}"))),
)
