"""A node's raylet as the node's agent saw it: a sign of life, and an end that no event of Ray's tells."""

from __future__ import annotations

from raytrail.entities import Column, Emitted, Entity

RAYLET = Entity(
    name="raylet",
    plural="raylets",
    doc=(
        "A node's raylet, as the agent on its machine last saw it. It has gone where `gone_ms` is not before `seen_ms`."
    ),
    event_types=("RAYTRAIL_RAYLET",),
    file_types=("FILE",),
    key=("node_id",),
    emitted=Emitted(
        source="the agent",
        when="every minute while it runs, and when it has gone",
        latency="`agent.report_seconds`, and its end once it was missed twice",
        missed=(
            "an end that came while no agent ran is told by the next one, once nothing was written into the session's "
            "directory for five minutes"
        ),
    ),
    columns=(
        Column("node_id", "text", "event_data.node_id", "key", "Its node, as hex."),
        Column(
            "seen_ms",
            "int",
            "event_data.seen_ms",
            "max",
            "When it was last seen to run. An agent that sees files alone takes when its session's directory was "
            "written.",
        ),
        Column(
            "gone_ms",
            "int",
            "event_data.gone_ms",
            "max",
            "When it ended, which is when it was last seen, or its session's directory was last written before it "
            "was missed.",
        ),
        Column("reported_ms", "int", "event_data.reported_ms", "max", "When the agent reported last."),
    ),
    sort=("node_id",),
)
