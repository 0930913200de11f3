"""
What flows along the line: a chunk of whole lines, and the byte ranges of the files that it came from.

A chunk travels as a value (its lines, plain NDJSON, as Ray wrote them) and string headers:

    raytrail-version  1
    cluster, session, node_id, event_type
    segments          <file>:<generation>:<start>:<length>[,...]     in the order of the lines
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from raytrail.errors import EventError

FileId = str
"""
Names an event file for good, across renames, copies and machines: ``<began>-<hash>``.

``began`` is the ``timestamp`` of the file's first line (whole seconds, ten digits; zeros where the line has
none), so that ids sort as the files of one writer rotated. ``hash`` is the BLAKE2b-128 hex digest of the
session's name and the file's first line, which no other file has (every line carries a random event id).

A log's first line may be any other's, too. Its id is made of the session's name, its inode and the nanosecond of its
birth, of which ``began`` is the second: the same across renames, another one for a copy.
"""

FORMAT_VERSION = "1"
LOG = "LOG"
"""The event type of chunks that hold no events, but bytes of log files."""
COLLECTED = "COLLECTED"
"""The event type of reports on files of others, of which no byte is stored: their events are, as lines of ours."""
SET_ASIDE = "SET_ASIDE"
"""The event type of lines that say what a source could not read, each with the reason, so that the ledger names it."""


class Segment(NamedTuple):
    """
    A byte range of one file, cut at line ends: ``[start, start + length)``.

    Loss and repetition are arithmetic on it.
    """

    file: FileId
    generation: int
    """0; one more each time the file was seen to shrink while its first line stayed."""
    start: int
    length: int

    @property
    def end(self) -> int:
        """Offset after the last byte."""
        return self.start + self.length


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """
    Whole lines of one event type, as Ray wrote them.

    Its segments cover `data` in order: their lengths add up to ``len(data)``. A chunk of Raytrail's own
    reports, which no file holds, has no segments.
    """

    cluster: str
    """The name its operator gave the cluster; may be empty. A session's name tells clusters apart."""
    session: str
    """Ray's session, e.g. ``session_2026-11-23_07-40-30_867494_13129``."""
    node_id: str
    """Hex id of the node whose agent read the lines; empty where it could not be known."""
    event_type: str
    """What the file's name says: ``TASK`` for ``event_EXPORT_TASK_123.log``; ``LOG`` for bytes of logs."""
    segments: tuple[Segment, ...]
    data: bytes
    """Lines, each ending in a newline; of logs, bytes that may end anywhere."""

    def headers(self) -> dict[str, str]:
        """Return everything but the lines, for the wire."""
        return {
            "raytrail-version": FORMAT_VERSION,
            "cluster": self.cluster,
            "session": self.session,
            "node_id": self.node_id,
            "event_type": self.event_type,
            "segments": ",".join(f"{s.file}:{s.generation}:{s.start}:{s.length}" for s in self.segments),
        }

    @classmethod
    def from_wire(cls, headers: Mapping[str, str], data: bytes) -> Chunk:
        """
        Make the chunk that `headers` and `data` describe.

        Raises:
            EventError: A header is missing or unreadable, or the version is not ours.
        """
        version = headers.get("raytrail-version")
        if version != FORMAT_VERSION:
            raise EventError(
                f"chunk format {version!r} is not {FORMAT_VERSION!r}; a newer agent wrote it: upgrade the reader"
            )
        try:
            segments = tuple(
                Segment(file, int(generation), int(start), int(length))
                for file, generation, start, length in (
                    part.split(":") for part in headers["segments"].split(",") if part
                )
            )
            chunk = cls(
                cluster=headers["cluster"],
                session=headers["session"],
                node_id=headers["node_id"],
                event_type=headers["event_type"],
                segments=segments,
                data=data,
            )
        except (KeyError, ValueError) as error:
            raise EventError(f"chunk headers {dict(headers)!r}: {error!r}; they were cut or altered") from error
        if segments and sum(segment.length for segment in segments) != len(data):
            raise EventError(f"chunk of {len(data)} bytes with segments {headers['segments']!r}: lengths differ")
        return chunk

    def parts(self) -> Iterator[tuple[Segment, memoryview]]:
        """Yield each segment with its lines."""
        view, offset = memoryview(self.data), 0
        for segment in self.segments:
            yield segment, view[offset : offset + segment.length]
            offset += segment.length
