"""Events that cannot be read, kept for a person to look at: what they said, when they came, why they were not taken."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from raytrail import disk
from raytrail.event import UNDECODABLE

MOST_BYTES = 10 << 20
"""At what size the file is renamed to ``.1``, in place of the one before it."""

KEPT_BYTES = 64 << 10
"""How much of an event is kept."""


class SetAside:
    """
    The file for them, which is made when there is one.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events = 0
        """How many it has been told of."""

    def put(self, event: bytes | msgspec.Raw, reason: str) -> None:
        """
        Append an event as it came, which may be no JSON.

        Raises:
            OSError: The disk takes nothing.
        """
        line = msgspec.json.encode({"reason": reason, "came_ns": time.time_ns(), "event": _readable(event)}) + b"\n"
        disk.make_private_directory(self.path.parent)
        if self.path.exists() and self.path.stat().st_size + len(line) > MOST_BYTES:
            self.path.replace(f"{self.path}.1")
        with open(disk.open_private(self.path, os.O_WRONLY | os.O_APPEND), "ab") as file:
            file.write(line)
        self.events += 1


def _readable(event: bytes | msgspec.Raw) -> msgspec.Raw | str:
    """Return an event as JSON, or as text where it is none. A long one gives its beginning."""
    text = bytes(event).strip()
    if len(text) <= KEPT_BYTES:
        try:
            msgspec.json.decode(text)
            return msgspec.Raw(text)
        except UNDECODABLE:
            pass
    return text[:KEPT_BYTES].decode(errors="replace")
