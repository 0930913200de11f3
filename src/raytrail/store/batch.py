"""What one batch brings: the chunks of each session and event type, and which of them are decoded together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from raytrail.event import LOG, Segment
from raytrail.store.files import MOST_SESSIONS, Written
from raytrail.store.logs import Frame
from raytrail.store.ranges import Ranges

PART_BYTES = 16 * 1024 * 1024
"""How many bytes of an event type are decoded at once: while they are, the next ones are made ready."""

ALONE_BYTES = 1024 * 1024
"""
A session with so many bytes is decoded by itself, as planning that takes less time than marking each line with its
session.
"""


class Line(NamedTuple):
    """A line with its place."""

    file: str
    generation: int
    offset: int
    data: bytes

    @property
    def segment(self) -> Segment:
        """Its range, with its newline."""
        return Segment(self.file, self.generation, self.offset, len(self.data) + 1)


class Rejected(NamedTuple):
    """A line that cannot be read."""

    line: Line
    reason: str


class Touched:
    """A file that a batch brings ranges of."""

    def __init__(self, event_type: str, ranges: Ranges) -> None:
        self.event_type = event_type
        self.ranges = ranges
        """With those of the batch, once it has been gone through."""
        self.before = ranges.extent()


class Group:
    """The lines that one batch brings of one session and event type, or a part of them."""

    def __init__(self, session: str, event_type: str) -> None:
        self.session = session
        self.event_type = event_type
        self.pieces: list[tuple[Segment, bytes]] = []
        self.bytes = 0
        self.unknown: list[Line] = []
        self.rejected: list[Rejected] = []
        self.files: list[tuple[str, Written]] = []
        """Each with its entity's name."""
        self.body: tuple[Path, list[Frame]] | None = None
        self.good = 0
        """How many lines are to be decoded."""
        self.rows = 0
        """How many rows they give."""
        self.events = 0

    @property
    def full(self) -> bool:
        """Whether it is enough to be decoded at once."""
        # lines of logs lie in as few bodies as may be
        return self.bytes >= PART_BYTES and self.event_type != LOG

    def add(self, segment: Segment, data: bytes) -> None:
        """Add new lines with their place."""
        segment, data = _ended(self.event_type, segment, data)
        if data:
            self.pieces.append((segment, data))
            self.bytes += segment.length

    def lines(self) -> list[Line]:
        """Return its lines, each with its place."""
        return [line for segment, data in self.pieces for line in lines_of(segment, data)]

    def clear(self) -> None:
        """Forget what was found out of its lines."""
        self.unknown.clear()
        self.rejected.clear()
        self.good = self.rows = 0


class Part:
    """Groups of one event type, each of another session, that are decoded at once."""

    def __init__(self, event_type: str) -> None:
        self.event_type = event_type
        self.groups: list[Group] = []
        self.bytes = 0

    def takes(self, group: Group) -> bool:
        """Return whether a group is to be decoded together with those in here."""
        return (
            max(self.bytes, group.bytes) < ALONE_BYTES
            and len(self.groups) < MOST_SESSIONS
            and all(other.session != group.session for other in self.groups)
        )

    def add(self, group: Group) -> None:
        """Add a group that it takes."""
        self.groups.append(group)
        self.bytes += group.bytes


def parts_of(groups: Iterable[Group]) -> list[Part]:
    """Return groups by what is decoded at once, the most bytes first: what is short then goes beside it."""
    parts: list[Part] = []
    filling: dict[str, Part] = {}
    for group in groups:
        part = filling.get(group.event_type)
        if part is None or not part.takes(group):
            part = filling[group.event_type] = Part(group.event_type)
            parts.append(part)
        part.add(group)
    return sorted(parts, key=lambda part: part.bytes, reverse=True)


def _ended(event_type: str, segment: Segment, data: bytes) -> tuple[Segment, bytes]:
    """
    Return lines that all end in a newline. Lines of a log stay as they are.

    The last line of a file whose writer was killed may have none. If it comes after all, it is all that is new of that
    line, and ends nothing.
    """
    if event_type == LOG:
        return segment, data
    if data.startswith(b"\n"):
        segment, data = segment._replace(start=segment.start + 1, length=segment.length - 1), data[1:]
    return segment, data if data.endswith(b"\n") or not data else data + b"\n"


def lines_of(segment: Segment, data: bytes) -> list[Line]:
    """Return lines that end in a newline, each with its place."""
    whole_lines, offset = [], segment.start
    for line in data.split(b"\n")[:-1]:
        whole_lines.append(Line(segment.file, segment.generation, offset, line))
        offset += len(line) + 1
    return whole_lines
