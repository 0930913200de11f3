"""An event file as its node's agent saw it: Raytrail's own report, for the completeness ledger."""

from __future__ import annotations

from raytrail.entities import Column, Derived, Emitted, Entity

FILE = Entity(
    name="file",
    plural="files",
    doc="An event file or a log, as an agent last reported it. What was written, less what is stored, is missing.",
    event_types=("RAYTRAIL_FILE",),
    file_types=("FILE",),
    key=("file", "generation"),
    emitted=Emitted(
        source="the agent",
        when="a file has grown, or was acknowledged",
        latency="`agent.report_seconds`",
        missed="what grew and was deleted while no agent ran",
    ),
    columns=(
        Column("file", "text", "event_data.file", "key", "The file's id."),
        Column("generation", "int", "event_data.generation", "key", "0; one more each time it was seen to shrink."),
        Column(
            "name",
            "text",
            "event_data.name",
            "max",
            "Its name when first seen; a log's without the number of its backup.",
        ),
        Column("_seen", "text", "event_data.seen", "max", "Of a log: when it was reported, in ms, and its name then."),
        Column("event_type", "text", "event_data.event_type", "max", "What its name says, e.g. TASK; LOG for a log."),
        Column("node_id", "text", "event_data.node_id", "max", "The node that it lies on, as hex."),
        Column("written_bytes", "int", "event_data.written_bytes", "max", "What Ray has written."),
        Column(
            "published_bytes", "int", "event_data.published_bytes", "max", "The prefix that the broker acknowledged."
        ),
        Column("published_events", "int", "event_data.published_events", "max", "Lines in that prefix."),
        Column(
            "skipped_bytes",
            "int",
            "event_data.skipped_bytes",
            "max",
            "Lines too long to ship; of a log, what is over its limit.",
        ),
        Column("lost_bytes", "int", "event_data.lost_bytes", "max", "Gone from the disk before they were read."),
        Column(
            "_unread",
            "text",
            "event_data.unread",
            "max",
            "When it was reported, in ms; offset and length of what is not read though its writer is gone, and why.",
        ),
        Column("reported_ms", "int", "event_data.reported_ms", "max", "When the agent reported last."),
    ),
    derived=(
        Derived("path", "text", "substr(_seen, 15)", "Of a log: its name in `logs/` when it was last reported."),
        Derived(
            "unread_offset",
            "int",
            "try_cast(nullif(substr(_unread, 15, 20), '') AS BIGINT)",
            "Where its unread end begins once its writer is gone: half a line, or all that cannot be read.",
        ),
        Derived("unread_bytes", "int", "try_cast(nullif(substr(_unread, 36, 20), '') AS BIGINT)", "How much that is."),
        Derived("unread_reason", "text", "nullif(substr(_unread, 57), '')", "Why it was not read."),
    ),
    sort=("event_type", "file"),
)
