"""
One process's event files, as Ray's own are: one an event type, one append a line, rotated by their writer.

    <session>/logs/export_events/event_EXPORT_<EVENT TYPE>_<pid>.log[.<rotation>]

    {"event_id": <36 hex digits>, "source_type": "EXPORT_<EVENT TYPE>", "timestamp": <s>, "time_ns": <ns>,
     "event_data": {...}}

Runs in Ray's processes, so it needs nothing but Python, and nothing that goes wrong here is heard of there.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_RETRY_SECONDS = 5.0

_JSON = json.JSONEncoder(separators=(",", ":"), default=str)
"""Made once: `json.dumps` makes one anew for each call that is not all defaults, a sixth of an event's cost."""


class EventFiles:
    """
    The event files of this process in one session.

    Any thread may append. A forked child writes files of its own.

    Args:
        directory: Where they are, or what finds it out once there is a first event; made if it is missing.
        rotation_bytes: At what size a file is renamed and a new one begun; as Ray's.
        rotation_files: How many renamed ones are kept.
    """

    def __init__(
        self,
        directory: Path | Callable[[], Path],
        *,
        rotation_bytes: int = 100_000_000,
        rotation_files: int = 20,
    ) -> None:
        self.lost = 0
        """Events that could not be written."""
        self._directory = directory
        self._rotation_bytes, self._rotation_files = rotation_bytes, rotation_files
        self._fork()
        os.register_at_fork(after_in_child=self._fork)

    def append(self, event_type: str, data: dict[str, Any]) -> bool:
        """
        Write one event, and say whether it is in the file; never raises.

        Args:
            event_type: As in file names, e.g. ``SERVE_REPLICA``.
            data: What is JSON; anything else in it is written as its ``str()``.
        """
        try:
            now_ns = time.time_ns()
            event = {
                "event_id": os.urandom(18).hex(),
                "source_type": f"EXPORT_{event_type}",
                "timestamp": now_ns // 1_000_000_000,
                "time_ns": now_ns,
                "event_data": data,
            }
            line = _JSON.encode(event).encode() + b"\n"
            with self._lock:
                return self._write(event_type, line)
        except Exception:  # noqa: BLE001 (whatever it is, Ray goes on)
            self.lost += 1
            return False

    def _fork(self) -> None:
        self._lock = threading.Lock()  # another thread may have held it when this process was forked off
        self._open: dict[str, _Open] = {}
        self._closed_until = 0.0

    def _write(self, event_type: str, line: bytes) -> bool:
        if time.monotonic() < self._closed_until:  # a directory that is not there is not asked for at each event
            self.lost += 1
            return False
        try:
            file = self._open.get(event_type)
            if file is not None and file.size + len(line) > self._rotation_bytes:
                self._rotate(self._open.pop(event_type))
                file = None
            if file is None:
                directory = self._directory if isinstance(self._directory, Path) else self._directory()
                directory.mkdir(parents=True, exist_ok=True)
                file = self._open[event_type] = _Open(directory / f"event_EXPORT_{event_type}_{os.getpid()}.log")
            file.write(line)
        except Exception:
            self._closed_until = time.monotonic() + _RETRY_SECONDS
            raise
        return True

    def _rotate(self, file: _Open) -> None:
        file.close()
        for number in range(self._rotation_files - 1, -1, -1):
            older = Path(f"{file.path}.{number + 1}")
            newer = Path(f"{file.path}.{number}") if number else file.path
            if newer.exists():
                newer.replace(older)


class _Open:
    """A file that is being written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.size = os.fstat(self._fd).st_size
        self._torn = False

    def write(self, line: bytes) -> None:
        """Append a line; where the disk takes part of it only, that part is left, and the next begins anew."""
        written = os.write(self._fd, b"\n" + line if self._torn else line)
        self.size += written
        torn, self._torn = self._torn, written < len(line) + self._torn
        if self._torn:
            raise OSError(f"{self.path}: {written} of {len(line) + torn} bytes were written")

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)
