"""Warnings of what is wrong on the disk. Each is logged once, however often it is met."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from raytrail import disk
from raytrail.tail.directory import Directory

log = logging.getLogger(__name__)

_MOST_COMPLAINTS = 1000
_MOST_NAMED = 100
"""How many refused names are logged one by one. Whoever makes them can make any number."""


class Complaints:
    """Warnings of which each is logged once."""

    def __init__(self) -> None:
        self._messages: set[str] = set()

    def warn(self, message: str) -> None:
        """Log a warning unless it was logged before."""
        if message not in self._messages and len(self._messages) < _MOST_COMPLAINTS:
            self._messages.add(message)
            log.warning("%s", message)


class Refusals:
    """The names that were taken by what is no file, or no directory of a session, and were not followed."""

    def __init__(self) -> None:
        self.count = 0
        self._sessions: set[Path] = set()
        """The paths that are named as a session now and are none."""

    def refuse_name(self, directory: Directory, name: str, kind: str) -> None:
        """Note that a name in a directory is taken by something of a `kind` that is not read."""
        if name not in directory.refused:
            directory.refused.add(name)
            self._count(f"{shown(directory.path(name))}: it is {kind}; it is not read")

    def refuse_directory(self, directory: Directory, error: disk.Refused, others: Iterable[Directory]) -> None:
        """
        Note that a directory cannot be reached, since a part of the way to it is no directory.

        Args:
            directory: The directory.
            error: Names that part.
            others: All directories that are followed. The part is logged once for all of them.
        """
        part = str(error.filename)
        if all(other.refused_at != part for other in others):
            self._count(f"{part}: it is {error.strerror}; nothing is read there")
        directory.refused_at = part

    def refuse_sessions(self, reasons: Mapping[Path, str]) -> None:
        """Note everything that is named as a session now and is none, and why."""
        for path in reasons.keys() - self._sessions:
            self._count(f"{shown(path)}: {reasons[path]}; nothing is read there")
        self._sessions = set(reasons)

    def _count(self, message: str) -> None:
        self.count += 1
        if self.count <= _MOST_NAMED:
            log.warning("%s", message)
        elif self.count == _MOST_NAMED + 1:
            log.warning(
                "more than %d names are taken by what is no file; the others are not named, and counted in "
                "raytrail_tail_refused_names_total",
                _MOST_NAMED,
            )


def shown(path: Path) -> str:
    """Return a path for people, in which any byte may be."""
    return disk.escape_name(str(path))
