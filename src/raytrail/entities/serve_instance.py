"""Ray Serve on a cluster, from ``EXPORT_SERVE_INSTANCE``, which `raytrail.sources.serve` writes."""

from __future__ import annotations

from raytrail.entities import Column, Derived, Emitted, Entity, Life

SERVE_INSTANCE = Entity(
    name="serve_instance",
    plural="serve_instances",
    doc="Ray Serve on a cluster, with its controller, and how its proxies listen. Written where Raytrail's "
    "hooks are on.",
    event_types=("EXPORT_SERVE_INSTANCE",),
    file_types=("SERVE_INSTANCE",),
    key=("controller_actor_id",),
    emitted=Emitted(
        source="Serve's controller, by Raytrail's hooks",
        when="it begins, its options change, it is shut down",
        latency="at once",
        missed="everything, unless the hooks are on, by `raytrail run` or `sources.types`",
    ),
    columns=(
        Column("controller_actor_id", "text", "event_data.actor_id", "key", "The controller's actor, as hex."),
        Column(
            "state",
            "text",
            "event_data.state",
            "last",
            "RUNNING, and SHUT_DOWN at last. The words are ours.",
            values=("RUNNING", "SHUT_DOWN"),
        ),
        Column("actor_name", "text", "event_data.actor_name", "last", "The name of the controller's actor."),
        Column("node_id", "text", "event_data.node_id", "last", "The node that the controller runs on, as hex."),
        Column("node_ip", "text", "event_data.node_ip", "last", "The address of that node."),
        Column("node_instance_id", "text", "event_data.node_instance_id", "last", "The node, as its cloud calls it."),
        Column("worker_id", "text", "event_data.worker_id", "last", "The worker that the controller runs in, as hex."),
        Column("log_file_path", "text", "event_data.log_file_path", "last", "Its log, below the session's logs."),
        Column(
            "proxy_location",
            "text",
            "event_data.proxy_location",
            "last",
            "Disabled, HeadOnly or EveryNode, by the nodes that proxies run on. EveryNode is each node with a replica.",
            values=("Disabled", "HeadOnly", "EveryNode"),
        ),
        Column("http_options", "json", "event_data.http_options", "last", "How proxies listen, as far as it was said."),
        Column("grpc_options", "json", "event_data.grpc_options", "last", "The same for gRPC."),
        Column(
            "target_capacity",
            "float",
            "event_data.target_capacity",
            "latest",
            "Percent of the replicas that are to run. Null is all.",
            formerly=("_capacity", "_capacity_said"),
        ),
        Column(
            "rest_fields",
            "json",
            "event_data.rest_fields",
            "last",
            "Which fields Serve's REST API has in that Ray, by model of ray/serve/schema.py.",
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
            "_shut_ms", "int", "= CASE WHEN state = 'SHUT_DOWN' THEN updated_ns // 1000000 END", "max", "When it went."
        ),
    ),
    derived=(Derived("end_time_ms", "int", "CASE WHEN state = 'SHUT_DOWN' THEN _shut_ms END", "When it was gone."),),
    when="coalesce(updated_ns // 1000000, timestamp * 1000)",
    sort=("updated_ns",),
    life=Life(state="state", terminal=("SHUT_DOWN",), closing=(("state", "'SHUT_DOWN'"), ("_shut_ms", "{end_ms}"))),
)
