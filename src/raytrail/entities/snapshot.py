"""What a living cluster was asked for and answered, from ``RAYTRAIL_SNAPSHOT``, which `raytrail snapshot` writes."""

from __future__ import annotations

from raytrail.entities import Column, Emitted, Entity


def _field(name: str) -> str:
    return f"event_data.{name}"


SNAPSHOT = Entity(
    name="snapshot",
    plural="snapshots",
    doc=(
        "A list that Ray's State API was last asked for, and how much of it Ray gave. A session with such rows was "
        "taken from answers of the living cluster, by `raytrail snapshot`, and not from its events."
    ),
    event_types=("RAYTRAIL_SNAPSHOT",),
    file_types=("SNAPSHOT",),
    key=("resource",),
    emitted=Emitted(
        source="`raytrail snapshot`",
        when="it has asked for a list",
        latency="at once",
        missed="what Ray had forgotten before it was asked, and what came and went between two snapshots",
    ),
    columns=(
        Column("resource", "text", _field("resource"), "key", "What was asked for, as `ray list` names it."),
        Column("at_ms", "int", _field("at_ms"), "max", "When it was asked last, by the cluster's clock."),
        Column("first_at_ms", "int", _field("at_ms"), "min", "When it was asked first."),
        Column("listed_rows", "int", _field("listed_rows"), "latest", "Rows in Ray's last answer."),
        Column("total_rows", "int", _field("total_rows"), "latest", "Rows that Ray had then."),
        Column(
            "truncated", "bool", _field("truncated"), "latest", "True if Ray gave a part of its rows, or no answer."
        ),
        Column("message", "text", _field("message"), "latest", "Ray's warnings with it, or why it gave no answer."),
        Column("ray_version", "text", _field("ray_version"), "latest", "The cluster's Ray."),
    ),
    when="at_ms",
    sort=("resource",),
)
