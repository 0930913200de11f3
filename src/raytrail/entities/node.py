"""A node of the cluster, from ``EXPORT_NODE`` (`ExportNodeData`, export_node_data.proto)."""

from __future__ import annotations

from raytrail.entities import Column, Derived, Emitted, Entity, Life, Posted, PostedEvent
from raytrail.entities.ends import NODE_BESIDE, NODE_ENDS

_POSTED = (
    PostedEvent(
        event_type="NODE_DEFINITION_EVENT",
        body="nodeDefinitionEvent",
        columns=(
            Posted("node_id", "nodeId", "id"),
            Posted("node_ip", "nodeIpAddress", "text"),
            Posted("node_name", "nodeName", "text"),
            Posted("start_time_ms", "startTimestamp", "time_ms"),
            Posted("hostname", "hostname", "text"),
            Posted("instance_id", "instanceId", "text"),
            Posted("instance_type", "instanceTypeName", "text"),
            Posted("labels", "labels", "json", default="{}"),
        ),
    ),
    PostedEvent(
        event_type="NODE_LIFECYCLE_EVENT",
        body="nodeLifecycleEvent",
        columns=(Posted("node_id", "nodeId", "id"),),
        each="stateTransitions",
        of_each=(
            Posted("state", "state", "text"),
            Posted("resources_total", "resources", "amounts"),
            # the resource that only the head node has
            Posted("is_head_node", "resources", "has", "node:__internal_head__"),
            Posted("end_time_ms", "timestamp", "time_ms", when=("state", "DEAD")),
            Posted("_death_reason", "deathInfo.reason", "text"),
            Posted("_death_message", "deathInfo.reasonMessage", "text"),
        ),
        blank=("aliveSubState",),
    ),
)

NODE = Entity(
    name="node",
    plural="nodes",
    doc="A node of the cluster. The GCS writes that it is alive, and that it died.",
    event_types=("EXPORT_NODE",),
    file_types=("NODE",),
    key=("node_id",),
    emitted=Emitted(
        source="the GCS", when="a node joins, or is found dead", latency="milliseconds", missed="nothing known"
    ),
    posted=_POSTED,
    columns=(
        Column("node_id", "id", "event_data.node_id", "key", "The node."),
        Column("node_ip", "text", "event_data.node_manager_address", "last", "Its address."),
        Column("node_name", "text", "event_data.node_name", "last", "Its name, by default its address."),
        Column("is_head_node", "bool", "event_data.is_head_node", "last", "True if the GCS runs on it."),
        Column("state", "text", "event_data.state", "last", "ALIVE or DEAD.", values=("ALIVE", "DEAD")),
        Column("hostname", "text", "event_data.hostname", "last", "Its host's name. Only Ray's HTTP export tells."),
        Column("instance_id", "text", "event_data.instance_id", "last", "The cloud's name for it, likewise."),
        Column(
            "instance_type", "text", "event_data.instance_type_name", "last", "The cloud's name for its kind, likewise."
        ),
        Column("resources_total", "json", "event_data.resources_total", "last", "Amounts by resource."),
        Column("labels", "json", "event_data.labels", "last", "Its labels."),
        Column("start_time_ms", "int", "event_data.start_time_ms", "max", "When it joined.", unset="0"),
        Column("end_time_ms", "int", "event_data.end_time_ms", "max", "When it was found dead.", unset="0"),
        Column(
            "_death_reason",
            "text",
            "event_data.death_info.reason",
            "last",
            "Why it died, as an enumeration.",
            values=(
                "UNSPECIFIED",
                "EXPECTED_TERMINATION",
                "UNEXPECTED_TERMINATION",
                "AUTOSCALER_DRAIN_PREEMPTED",
                "AUTOSCALER_DRAIN_IDLE",
            ),
        ),
        Column("_death_message", "text", "event_data.death_info.reason_message", "last", "Why it died, in words."),
    ),
    derived=(
        Derived(
            "state_message",
            "text",
            # compose_state_message in ray/dashboard/utils.py, Ray 2.60; concat_ws leaves out what is null
            "nullif(concat_ws(': ', CASE _death_reason WHEN 'EXPECTED_TERMINATION' THEN 'Expected termination' "
            "WHEN 'UNEXPECTED_TERMINATION' THEN 'Unexpected termination' "
            "WHEN 'AUTOSCALER_DRAIN_PREEMPTED' THEN 'Terminated due to preemption' "
            "WHEN 'AUTOSCALER_DRAIN_IDLE' THEN 'Terminated due to idle (no Ray activity)' END, _death_message), '')",
            "Why it died, in words.",
        ),
        Derived(
            "death_info",
            "json",
            "CASE WHEN coalesce(_death_reason, _death_message) IS NOT NULL THEN "
            "to_json({'reason': coalesce(_death_reason, 'UNSPECIFIED'), "
            "'reason_message': coalesce(_death_message, '')}) END",
            "Why it died, as Ray wrote it.",
        ),
    ),
    when="coalesce(CASE WHEN state = 'DEAD' THEN end_time_ms ELSE start_time_ms END, timestamp * 1000)",
    sort=("node_id",),
    life=Life(
        state="state", terminal=("DEAD",), ends=NODE_ENDS, closing=(("state", "'DEAD'"), ("end_time_ms", "{end_ms}"))
    ),
    beside=NODE_BESIDE,
)
