"""What the ledger knows a file by that no agent tailed, and the line that reports one, as an agent reports its own."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from raytrail.event import FileId


def file_id(text: str, began_s: int = 0) -> FileId:
    """
    Return the id of a file.

    Args:
        text: What no other file is known by.
        began_s: When its first event was made, in seconds since the epoch, or 0. Ids then sort as files do.
    """
    digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()
    return f"{min(began_s, 9_999_999_999):010d}-{digest}"


def report_line(id: FileId, now_ms: int, fields: dict[str, Any]) -> bytes:
    """Return the line that reports a file, with these fields of `raytrail.entities.file`."""
    event_data = {"file": id, "generation": 0, **fields, "reported_ms": now_ms}
    event = {"event_data": event_data, "source_type": "RAYTRAIL_FILE", "timestamp": now_ms // 1000}
    return msgspec.json.encode(event) + b"\n"


def ending(now_ms: int, offset: int = 0, length: int = 0, reason: str = "") -> str:
    """
    Return the field ``unread`` of a report: that a file is read to its end, or where it is not any more, and why.

    Args:
        now_ms: When that was so, in milliseconds since the epoch. The latest report counts.
        offset: Where the end that is not read begins.
        length: How many bytes that is.
        reason: Why it is not read. Empty: it is.
    """
    return f"{now_ms:013d} {offset:020d} {length:020d} {reason}" if reason else f"{now_ms:013d}"
