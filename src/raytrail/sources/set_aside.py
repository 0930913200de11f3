"""Events that cannot be read, kept for a person to look at: what they said, when they came, why they were not taken."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

MOST_BYTES = 10 << 20
"""At what size the file is renamed to ``.1``, in place of the one before it."""


class SetAside:
    """
    The file for them, which is made when there is one.

    Args:
        path: Where it is.
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
        try:
            msgspec.json.decode(event)
            said: msgspec.Raw | str = msgspec.Raw(bytes(event).strip())
        except (msgspec.DecodeError, UnicodeDecodeError):
            said = bytes(event).decode(errors="replace")
        line = msgspec.json.encode({"reason": reason, "came_ns": time.time_ns(), "event": said}) + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and self.path.stat().st_size + len(line) > MOST_BYTES:
            self.path.replace(f"{self.path}.1")
        with self.path.open("ab") as file:
            file.write(line)
        self.events += 1
