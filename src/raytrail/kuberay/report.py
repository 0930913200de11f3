"""What the ledger knows a file of the collection by, and the lines that report one, as an agent reports its files."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import msgspec

from raytrail.event import COLLECTED, FileId
from raytrail.kuberay.files import File, Unread


def file_id(text: str, began_s: int = 0) -> FileId:
    """
    Return the id of a file.

    Args:
        text: What no other file is known by.
        began_s: When its first event was made, in seconds since the epoch, or 0. Ids then sort as files do.
    """
    digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()
    return f"{min(began_s, 9_999_999_999):010d}-{digest}"


def collected_id(session: str, file: File) -> FileId:
    """Return what the report of one of the collection's own files goes by."""
    return file_id(f"{session}\n{COLLECTED} {file.place}")


def report_collected(session: str, unread: Unread | File) -> bytes:
    """
    Return the line that says of one of its files that reading it ended early, or, of a mere file, that it did not.

    None of its bytes is stored, but what became of them, and so there is nothing to count but what was not read.

    Args:
        session: The session of its folder.
        unread: The place where reading ended, or the file that was read whole.
    """
    file, now_ms = unread if isinstance(unread, File) else unread.file, time.time_ns() // 1_000_000
    ending = f"{now_ms:013d}"
    if isinstance(unread, Unread):
        ending += f" {unread.offset:020d} {unread.length:020d} {unread.reason}"
    fields = {"name": file.place, "event_type": COLLECTED, "node_id": "", "written_bytes": 0, "unread": ending}
    return report_line(collected_id(session, file), now_ms, fields)


def report_line(id: FileId, now_ms: int, fields: dict[str, Any]) -> bytes:
    """Return the line that reports a file, with these fields of `raytrail.entities.file`."""
    event_data = {"file": id, "generation": 0, **fields, "reported_ms": now_ms}
    event = {"event_data": event_data, "source_type": "RAYTRAIL_FILE", "timestamp": now_ms // 1000}
    return msgspec.json.encode(event) + b"\n"
