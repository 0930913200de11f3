"""
Read the events that processes before this one have written, for a source that is started again and must not contradict
it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raytrail import disk
from raytrail.sources.event_file import session_root, written_files


def recall(directory: Path, event_type: str, *, most_bytes: int) -> Iterator[dict[str, Any]]:
    """
    Yield the ``event_data`` of the events of that type that are on disk, oldest file first.

    Lines that are no events are passed over, and files that cannot be read.

    Args:
        directory: The directory of the event files.
        event_type: As in file names.
        most_bytes: Older files are left out where there is more than that.
    """
    room, chosen = most_bytes, list[Path]()
    for _, size, path in sorted(written_files(directory, f"event_EXPORT_{event_type}_[0-9]*.log*"), reverse=True):
        room -= size
        if room < 0:
            break
        chosen.append(path)
    for path in reversed(chosen):
        yield from _events(path, session_root(directory))


def _events(path: Path, root: Path) -> Iterator[dict[str, Any]]:
    try:
        with open(disk.open_file(path, root), "rb") as file:
            for line in file:
                try:
                    event = json.loads(line)
                except ValueError:  # half a line, of a disk that was full
                    continue
                if isinstance(event, dict) and isinstance(event.get("event_data"), dict):
                    yield event["event_data"]
    except OSError:
        return
