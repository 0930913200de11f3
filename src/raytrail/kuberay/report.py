"""What the ledger knows a file of the collection by, and the line that reports one."""

from __future__ import annotations

import time
from typing import Any

from raytrail.event import COLLECTED, FileId
from raytrail.file_report import ending, file_id, report_line
from raytrail.kuberay.files import File, Unread


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
    where = (unread.offset, unread.length, unread.reason) if isinstance(unread, Unread) else ()
    fields: dict[str, Any] = {"name": file.place, "event_type": COLLECTED, "node_id": "", "written_bytes": 0}
    fields["unread"] = ending(now_ms, *where)
    return report_line(collected_id(session, file), now_ms, fields)
