"""
A chunk of whole lines flows along the line, with the byte ranges of the files that it came from.

A chunk travels as a value (its lines, plain NDJSON, as Ray wrote them) and string headers:

    raytrail-version  1
    cluster, session, node_id, event_type
    segments          <file>:<generation>:<start>:<length>[,...]     in the order of the lines
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

import msgspec

from raytrail.errors import EventError

FileId = str
"""
Names an event file for good, across renames, copies and machines: ``<began>-<hash>``.

``began`` is the ``timestamp`` of the file's first line, in whole seconds with ten digits, or zeros where the line has
none. Ids then sort as the files of one writer rotated. ``hash`` is the BLAKE2b-128 hex digest of the session's name and
the file's first line, which no other file has (every line carries a random event id).

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
UNKNOWN_SESSION = "session_unknown"
"""The session of what does not say whose it is, or says it with a name that no session has."""

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""The errors of decoding JSON or msgpack that anybody may have written: it is none, no UTF-8, or nests too deep."""

MOST_HEADERS_SHOWN = 500
"""How many characters of what somebody else wrote an error repeats."""

SESSION_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+@-]{0,200}")
"""The form of a session's name, which names directories of the store, and parts of URLs. Ids of files look alike."""
_EVENT_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
_SEGMENT = re.compile(r"([^:,]*):([0-9]{1,10}):([0-9]{1,19}):([0-9]{1,19})")
_MOST_GENERATION = 2**31
MOST_OFFSET = 2**50
"""A petabyte: far beyond any file, and within 64 bits where those of thousands are added up."""
_SURROGATES: Final = "surrogatepass"
_LONGEST_NAME = 1000
"""The longest names of a cluster and of a node, in characters."""


class Segment(NamedTuple):
    """
    A byte range of one file, cut at line ends: ``[start, start + length)``.

    Loss and repetition are arithmetic on it.
    """

    file: FileId
    generation: int
    """0, and one more each time the file was seen to shrink while its first line stayed."""
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
    """The name its operator gave the cluster. It may be empty. A session's name tells clusters apart."""
    session: str
    """Ray's session, e.g. ``session_2026-11-23_07-40-30_867494_13129``."""
    node_id: str
    """Hex id of the node whose agent read the lines. Empty where it could not be known."""
    event_type: str
    """
    The type in the file's name, e.g. ``TASK`` for ``event_EXPORT_TASK_123.log``. ``LOG`` stands for bytes of logs.
    """
    segments: tuple[Segment, ...]
    data: bytes
    """Lines, each ending in a newline. Bytes of logs may end anywhere."""

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

    def encoded_headers(self) -> dict[str, bytes]:
        """Return its headers as bytes, for a broker that takes any."""
        return {name: encoded(value) for name, value in self.headers().items()}

    def quoted_headers(self) -> dict[str, str]:
        """Return its headers percent-encoded, for a broker that takes ASCII alone."""
        return {name: quote(value, safe=":,", errors=_SURROGATES) for name, value in self.headers().items()}

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
                f"chunk format {version!r:.80} is not {FORMAT_VERSION!r}; a newer agent wrote it: upgrade the reader"
            )
        try:
            chunk = cls(
                cluster=headers["cluster"],
                session=headers["session"],
                node_id=headers["node_id"],
                event_type=headers["event_type"],
                segments=_segments(headers["segments"]),
                data=data,
            )
        except (KeyError, ValueError) as error:
            shown = f"{dict(headers)!r:.{MOST_HEADERS_SHOWN}}"
            raise EventError(f"chunk headers {shown}: {error!r}; they were cut or altered") from error
        chunk.check_ranges()
        return chunk

    def check(self) -> None:
        """
        Check all that the store relies on, of a chunk that anybody may have made.

        Raises:
            EventError: A name cannot be one, or a range is not what came.
        """
        for what, name, pattern in (
            ("session", self.session, SESSION_NAME),
            ("event type", self.event_type, _EVENT_TYPE),
            *(("file", segment.file, SESSION_NAME) for segment in self.segments),
        ):
            if not pattern.fullmatch(name):
                raise EventError(
                    f"{what} {name!r:.{MOST_HEADERS_SHOWN}} is no name that Raytrail takes: it has letters and "
                    f"digits of ASCII, after the first also ._- and, in sessions and files, =+@; 201 at most"
                )
        for what, name in (("cluster", self.cluster), ("node", self.node_id)):
            if len(name) > _LONGEST_NAME:
                raise EventError(f"the name of a {what} has {len(name)} characters, and {_LONGEST_NAME} are taken")
        self.check_ranges()

    def check_ranges(self) -> None:
        """
        Check that the segments cover the data, byte by byte.

        Raises:
            EventError: A number is out of range, or the lengths do not add up.
        """
        for segment in self.segments:
            if not (
                0 <= segment.generation < _MOST_GENERATION
                and segment.start >= 0
                and segment.length > 0
                and segment.end <= MOST_OFFSET
            ):
                raise EventError(f"chunk with a range {tuple(segment)!r:.{MOST_HEADERS_SHOWN}} that no file has")
        if self.segments and sum(segment.length for segment in self.segments) != len(self.data):
            shown = f"{self.headers()['segments']!r:.{MOST_HEADERS_SHOWN}}"
            raise EventError(f"chunk of {len(self.data)} bytes with segments {shown}: lengths differ")

    def parts(self) -> Iterator[tuple[Segment, memoryview]]:
        """Yield each segment with its lines."""
        view, offset = memoryview(self.data), 0
        for segment in self.segments:
            yield segment, view[offset : offset + segment.length]
            offset += segment.length


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """Data that arrived in place of a chunk and cannot be stored as one, as it came, and why."""

    place: str
    """The place that it lay in, e.g. ``kafka://host/topic, partition 3, offset 17``."""
    reason: str
    headers: Mapping[str, str]
    """As far as they are text."""
    data: bytes

    @property
    def session(self) -> str:
        """The session that it names. `UNKNOWN_SESSION` stands for none, or for one that cannot be."""
        name = self.headers.get("session", "")
        return name if SESSION_NAME.fullmatch(name) else UNKNOWN_SESSION

    def __hash__(self) -> int:
        return hash((self.place, self.data))


def received(headers: Mapping[str, str | bytes], data: bytes, place: str) -> Chunk | Unreadable:
    """
    Return the chunk that arrived, or what arrived in its place: no message of anybody stops a reader.

    Args:
        headers: As they came.
        data: As it came.
        place: The place that it lay in, for people who look into it.
    """
    texts = {name: value if isinstance(value, str) else header_text(value) for name, value in headers.items()}
    try:
        return Chunk.from_wire(texts, data)
    except EventError as error:
        return Unreadable(place=place, reason=str(error), headers=texts, data=data)


def encoded(header: str) -> bytes:
    """Return a header as it is sent. Names of clusters may hold lone surrogates, as the environment does."""
    return header.encode("utf-8", _SURROGATES)


def header_text(raw: bytes) -> str:
    """Return a header as `encoded` was given it. Others may have sent any bytes."""
    try:
        return raw.decode("utf-8", _SURROGATES)
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace")


def unquoted(header: str) -> str:
    """Return what a header says that was percent-encoded, which anybody may have done."""
    return header_text(unquote_to_bytes(encoded(header)))


def _segments(text: str) -> tuple[Segment, ...]:
    segments = []
    for part in text.split(",") if text else ():
        match = _SEGMENT.fullmatch(part)
        if match is None:
            raise ValueError(f"segment {part!r:.80}")
        file, generation, start, length = match.groups()
        segments.append(Segment(file, int(generation), int(start), int(length)))
    return tuple(segments)
