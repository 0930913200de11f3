"""
One process's event files, as Ray's own are: one an event type, one append a line, rotated by their writer.

    <session>/logs/export_events/event_EXPORT_<EVENT TYPE>_<pid>.log[.<rotation>]

A writer that may share the directory with processes of another container, whose ids are other ones, puts a 0 before its
own, which no process of Ray's does.

    {"event_id": <36 hex digits>, "source_type": "EXPORT_<EVENT TYPE>", "timestamp": <s>, "time_ns": <ns>,
     "event_data": {...}}

Runs in Ray's processes, so nothing that goes wrong here is heard of there.
"""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from raytrail import disk

_RETRY_SECONDS = 5.0
_OPEN_FILES = 32  # more than Ray has event types: a sender may make up any number of them

_JSON = msgspec.json.Encoder(enc_hook=str)


class EventFiles:
    """
    The event files of this process in one session.

    Any thread may append. A forked child writes files of its own.

    Args:
        directory: Their directory, or a function that finds it once there is a first event. It is made if it is
            missing.
        rotation_bytes: The size at which a file is renamed and a new one begun, as Ray's.
        rotation_files: How many renamed ones are kept.
        prefix: Stands before the process's id in their names.
    """

    def __init__(
        self,
        directory: Path | Callable[[], Path],
        *,
        rotation_bytes: int = 100_000_000,
        rotation_files: int = 20,
        prefix: str = "",
    ) -> None:
        self.lost = 0
        """Events that could not be written."""
        self._directory = directory
        self._rotation_bytes, self._rotation_files = rotation_bytes, rotation_files
        self._prefix = prefix
        self._fork()
        os.register_at_fork(after_in_child=self._fork)

    def append(self, event_type: str, data: dict[str, Any]) -> bool:
        """
        Write one event, and say whether it is in the file. It never raises.

        Args:
            event_type: As in file names, e.g. ``SERVE_REPLICA``.
            data: JSON values, or values that msgspec writes as such. Anything else in it is written as its ``str()``.
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
            try:
                line = _JSON.encode(event) + b"\n"
            except UnicodeEncodeError:  # a lone surrogate, as the environment's bytes may become
                line = json.dumps(event, default=str).encode() + b"\n"
        except Exception:  # noqa: BLE001 (whatever it is, Ray goes on)
            self.lost += 1
            return False
        return self.append_lines(event_type, line, 1) == 1

    def append_lines(self, event_type: str, lines: bytes, count: int) -> int:
        """Write so many whole lines at once, and say how many of them are in the file. It never raises."""
        try:
            with self._lock:
                written = self._write(event_type, lines, count)
        except Exception:  # noqa: BLE001 (whatever it is, Ray goes on)
            written = 0
        self.lost += count - written
        return written

    def close(self) -> None:
        """Let go of the files. The next event opens them again."""
        with self._lock:
            for file in self._open.values():
                file.close()
            self._open.clear()

    def _fork(self) -> None:
        self._lock = threading.Lock()  # another thread may have held it when this process was forked off
        self._open: dict[str, _Open] = {}
        self._closed_until: dict[str, float] = {}

    def _write(self, event_type: str, lines: bytes, count: int) -> int:
        # a directory that is not there is not asked for at each event
        if time.monotonic() < self._closed_until.get(event_type, 0.0):
            return 0
        try:
            file = self._open.pop(event_type, None)
            if file is not None and file.size + len(lines) > self._rotation_bytes:
                self._rotate(file)
                file = None
            if file is None:
                directory = self._directory if isinstance(self._directory, Path) else self._directory()
                root = session_root(directory)
                disk.make_directories(directory, root)
                name = f"event_EXPORT_{event_type}_{self._prefix}{os.getpid()}.log"
                file = _Open(directory / name, root)
            self._open[event_type] = file  # the one that was written last is the last
            if len(self._open) > _OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            written = file.write(lines)
        except Exception:  # whatever it is, it is not tried again at each event
            self._closed_until[event_type] = time.monotonic() + _RETRY_SECONDS
            raise
        if written == len(lines):
            return count
        self._closed_until[event_type] = time.monotonic() + _RETRY_SECONDS
        return lines.count(b"\n", 0, written)

    def _rotate(self, file: _Open) -> None:
        file.close()
        for number in range(self._rotation_files - 1, -1, -1):
            older = Path(f"{file.path}.{number + 1}")
            newer = Path(f"{file.path}.{number}") if number else file.path
            if newer.exists():
                newer.replace(older)


def session_root(directory: Path) -> Path:
    """Return the directory below which the way to event files follows no link: their session's, if they are in one."""
    return directory.parents[1] if directory.parts[-2:] == ("logs", "export_events") else directory


def written_files(directory: Path, pattern: str) -> list[tuple[int, int, Path]]:
    """Return the event files there are with such names, each with its time of change in ns and its size in bytes."""
    files: list[tuple[int, int, Path]] = []
    for path in directory.glob(pattern):
        try:
            status = path.lstat()
        except OSError:  # rotated away just now
            continue
        if stat.S_ISREG(status.st_mode):
            files.append((status.st_mtime_ns, status.st_size, path))
    return files


class _Open:
    """A file that is being written: a FIFO in its place would take what nobody reads, and then hold its writer up."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path = path
        self._fd = disk.open_file(path, root, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self.size = os.fstat(self._fd).st_size
        # a process before this one, with the same id, may have been killed while it wrote it
        self._torn = self.size > 0 and os.pread(self._fd, 1, self.size - 1) != b"\n"

    def write(self, lines: bytes) -> int:
        """
        Append lines, and return how many bytes of them are there.

        A part of a line that a full disk took is left, and the next line begins anew.
        """
        ending = b"\n" if self._torn else b""
        written = os.write(self._fd, ending + lines)
        self.size += written
        if written < len(ending):
            return 0
        written -= len(ending)
        self._torn = written < len(lines) and not lines.endswith(b"\n", 0, written)
        return written

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)
