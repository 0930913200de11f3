"""An event file as its node's agent saw it: Raytrail's own report, for the completeness ledger."""

from __future__ import annotations

from raytrail.entities import Column, Derived, Emitted, Entity

FILE = Entity(
    name="file",
    plural="files",
    doc="An event file or a log, as an agent last reported it. Bytes that were written and are not stored are missing.",
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
        Column("generation", "int", "event_data.generation", "key", "0, and one more each time it was seen to shrink."),
        Column(
            "name",
            "text",
            "event_data.name",
            "max",
            "Its name when first seen. A log's is without the number of its backup.",
        ),
        Column("_seen", "text", "event_data.seen", "max", "When a log was reported, in ms, and its name then."),
        Column(
            "event_type",
            "text",
            "event_data.event_type",
            "max",
            "LOG for a log, else the event type in its name, such as TASK.",
        ),
        Column("node_id", "text", "event_data.node_id", "max", "The node that it lies on, as hex."),
        Column("written_bytes", "int", "event_data.written_bytes", "max", "The bytes that Ray has written."),
        Column(
            "published_bytes", "int", "event_data.published_bytes", "max", "The prefix that the broker acknowledged."
        ),
        Column("published_events", "int", "event_data.published_events", "max", "Lines in that prefix."),
        Column(
            "skipped_bytes",
            "int",
            "event_data.skipped_bytes",
            "max",
            "Bytes of lines too long to ship, or of a log over its limit.",
        ),
        Column("lost_bytes", "int", "event_data.lost_bytes", "max", "Gone from the disk before they were read."),
        Column(
            "_unread",
            "text",
            "event_data.unread",
            "max",
            "When it was reported, in ms, with the offset and length of what is not read though its writer is "
            "gone, and why.",
        ),
        Column("reported_ms", "int", "event_data.reported_ms", "max", "When the agent reported last."),
    ),
    derived=(
        Derived("path", "text", "substr(_seen, 15)", "A log's name in `logs/` when it was last reported."),
        Derived(
            "unread_offset",
            "int",
            "try_cast(nullif(substr(_unread, 15, 20), '') AS BIGINT)",
            "The byte at which its unread end begins once its writer is gone. That is half a line, or all that "
            "cannot be read.",
        ),
        Derived("unread_bytes", "int", "try_cast(nullif(substr(_unread, 36, 20), '') AS BIGINT)", "How much that is."),
        Derived("unread_reason", "text", "nullif(substr(_unread, 57), '')", "Why it was not read."),
    ),
    sort=("event_type", "file"),
)
