"""What a node's objects did unseen, from ``EXPORT_OBJECT_GAP``, which `raytrail.sources.objects` writes."""

from __future__ import annotations

from raytrail.entities import Column, Emitted, Entity


def _field(name: str) -> str:
    return f"event_data.{name}"


OBJECT_GAP = Entity(
    name="object_gap",
    plural="object_gaps",
    doc=(
        "A gap in what is known of a node's objects. It is written where some lived and died between two "
        "answers of the raylet, or where an answer was cut short. It comes with `objects`."
    ),
    event_types=("EXPORT_OBJECT_GAP",),
    file_types=("OBJECT_GAP",),
    key=("node_id", "until_ns"),
    emitted=Emitted(
        source="the agent, with `objects`",
        when="objects lived and died unseen, or an answer was cut short",
        latency="one interval",
        missed="nothing known",
    ),
    columns=(
        Column("node_id", "id", _field("node_id"), "key", "The node."),
        Column("until_ns", "int", _field("until_ns"), "key", "When the raylet was asked, in nanoseconds."),
        Column("since_ns", "int", _field("since_ns"), "max", "When it was asked before that.", unset="0"),
        Column(
            "unseen_objects",
            "int",
            _field("unseen_objects"),
            "max",
            "About how many objects its store created in that time that no answer shows. Copies from other nodes, and "
            "what came back from disk, are created, too.",
        ),
        Column("truncated", "bool", _field("truncated"), "max", "True if the answer was cut short."),
        Column("listed_references", "int", _field("listed_references"), "max", "References in the answer."),
        Column("total_references", "int", _field("total_references"), "max", "References that there were."),
    ),
    when="until_ns // 1000000",
    ignored=("time_ns",),
    sort=("node_id", "until_ns"),
)
