"""
Foreign records to chunks: what Vector, Fluent Bit, rsyslog and the like send of Ray's event files, with no agent.

A record is one line of an event file, in one of these shapes:

    {"message": "<line>", "file": "<path>", ...}      Vector's file source; `log` and `path` with Fluent Bit
    {"event_data": {...}, ..., "file": "<path>"}      the line as an object, which a parser of the collector made
    {"eventId": ..., "sessionName": ..., ...}         an event of Ray's HTTP export, likewise, or as Ray posts it
    <line>                                            rsyslog, Vector with ``codec = "text"``

and a message holds one, or NDJSON of many, or a JSON array of them. The line may be under ``message``, ``log``
or ``line``, the path under ``file``, ``path``, ``filename``, ``file_path`` or ``log_file``.

The path says session and event type: collect ``/tmp/ray/session_2*/logs/export_events/event_EXPORT_*.log*``, by
the session's own name and not by ``session_latest``. Without a path the event says its type; its session is what
the sender says of all its records (`Sender`), else ``session_unknown``, in which clusters are not told apart.
Lines of files that are no event files are left out, with a warning; a line that cannot be read, cut by the
collector say, is passed on, and the store sets it aside.

A chunk's only segment is named for its content: ``<timestamp of the first line>-collector-<hash of the lines>``.
So a batch that is sent again is the same range and stored once, whatever was killed. A collector's own offset is
not used, since it comes with a path and not with a file: after a rotation other lines have the same path and
offset, and would pass for stored. What follows from it, and is so:

* Nobody knows what was written. The ledger shows what arrived as written; what the collector lost is not missing.
* A line that comes again in another batch, as after the collector was killed, is counted again as an event
  stored. States are folded the same, but for an actor's `num_restarts`, which may count it twice.
* Of one writer's events in the same second, the order is known within a batch only.
* Each batch is a file of its own to the store: let a collector gather for some seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import msgspec

from raytrail import ray_event, records
from raytrail.errors import EventError, RaytrailError
from raytrail.event import SESSION_NAME, UNDECODABLE, UNKNOWN_SESSION, Chunk, Segment, encoded, unquoted
from raytrail.pubsub import Publisher
from raytrail.redact import Redactor, default

UNKNOWN = "UNKNOWN"
"""The event type of lines that say none."""

MOST_KINDS = 1_000
"""Most sessions and event types in a message, of which each makes chunks of its own."""

_CHUNK_BYTES = 256 * 1024
_THREAD_BYTES = 64 * 1024  # below, a thread costs more than it frees the loop for
_PREFIX = "raytrail-"
_VERSION = "raytrail-version"

_LINES = ("message", "log", "line")
_PATHS = ("file", "path", "filename", "file_path", "log_file")
_TOLD_PATHS = 3
_TOLD_CHARACTERS = 300
_ADDED = {*_LINES, *_PATHS, "host", "hostname", "date", "offset", "tag", "@timestamp"}
"""What collectors put beside the fields of an event."""
_EVENTS = ({"event_data"}, {"eventId", "eventType"}, {"event_id", "event_type", "session_name"})
"""Fields that an event has: one of a file, one of Ray's HTTP export, and one whose names Ray was told to keep."""

_FILE = re.compile(r"(?:^|/)event_EXPORT_([A-Z][A-Z0-9_]*?)(?:_\d+)?(?:\.\d+)?\.log(?:\.\d+)?")
_SESSION = re.compile(r"(?:^|/)(session_\d[^/]*)/")
_FILE_TYPES = {"TRAIN_RUN": "TRAIN_STATE", "TRAIN_RUN_ATTEMPT": "TRAIN_STATE"}  # where it is not the event's type

log = logging.getLogger(__name__)


class Sender(NamedTuple):
    """What is known of all records of a message, where they do not say it themselves."""

    cluster: str = ""
    session: str = ""
    node_id: str = ""
    path: str = ""


_NOBODY = Sender()


class _Head(ray_event.Head):
    """The head of a line, of an event file or of Ray's HTTP export."""

    source_type: str = ""
    timestamp: int | str = 0

    @property
    def began_s(self) -> int:
        """When the event was made, in seconds since the epoch, or 0."""
        at = self.timestamp
        return at if isinstance(at, int) else ray_event.in_ns(at) // 1_000_000_000


class Collector:
    """
    Takes what is posted to ``/ingest``, by our agents and by foreign collectors, and publishes it.

    Args:
        publisher: Stores it.
        redact: Masks secrets in foreign records; None is the default one. Chunks of our agents were masked on their
            nodes.
    """

    def __init__(self, publisher: Publisher, redact: Redactor | None = None) -> None:
        self._publisher, self._redact = publisher, redact or default()

    async def take(self, headers: Mapping[str, str], body: bytes) -> None:
        """
        Publish what a request holds, returning once all of it is stored.

        Args:
            headers: The request's, names in lower case. With ``raytrail-version`` it is a chunk of ours; else
                ``raytrail-cluster``, ``raytrail-session`` and ``raytrail-node-id`` may say what records do not.
            body: As it was before it was compressed.

        Raises:
            EventError: The headers or the body cannot be read; nothing was published.
            PublishError: Some of it was not stored; send all of it again where `retryable`.
            ConfigError: Nothing can be stored before somebody mends the broker, or its URL.
        """
        read = asyncio.to_thread(_read, headers, body, self._redact) if len(body) > _THREAD_BYTES else None
        chunks = await read if read else _read(headers, body, self._redact)
        results = await asyncio.gather(*map(self._publisher.publish, chunks), return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        # what may be stored later comes first: the sender must not think that all is refused for good
        for error in sorted(errors, key=lambda error: not (isinstance(error, RaytrailError) and error.retryable)):
            raise error


def to_http(chunk: Chunk) -> dict[str, str]:
    """Return a chunk's headers as HTTP's, with hyphens (proxies drop underscores) and percent-encoded."""
    return {
        _PREFIX + name.removeprefix(_PREFIX).replace("_", "-"): value for name, value in chunk.quoted_headers().items()
    }


def from_message(value: bytes, sender: Sender = _NOBODY, *, redact: Redactor | None = None) -> list[Chunk]:
    """
    Make the chunks of a foreign message: one per session and event type, and each 256 KiB of lines.

    The same message gives the same chunks. Several messages of one sender may be joined by newlines.

    Args:
        value: The message.
        sender: What it does not say itself.
        redact: Masks secrets in its lines, which were read where no agent of ours is; None is the default one.

    Raises:
        EventError: It begins as a JSON array and is none, or holds more records than its bytes can.
    """
    gathered: dict[tuple[str, str], list[bytes]] = {}
    left_out: dict[str, int] = {}
    count = 0
    for record in _records(value):
        lines, path = _lines(record)
        path = path or sender.path
        count += len(lines)
        records.check(count, len(value))
        named, session = _FILE.search(path), _SESSION.search(path)
        for line in lines:
            event_type = named[1] if named else _event_type(line)
            if event_type == UNKNOWN and path:
                left_out[path] = left_out.get(path, 0) + 1
                continue
            key = (session[1] if session else sender.session or _session(line), event_type)
            gathered.setdefault(key, []).append(line)
        if len(gathered) > MOST_KINDS:
            raise EventError(f"more than {MOST_KINDS} sessions and event types at once; send them one after the other")
    _tell(left_out)
    redact = redact or default()
    return [_chunk(sender, *key, data, redact) for key, some in gathered.items() for data in _joined(some)]


def _read(headers: Mapping[str, str], body: bytes, redact: Redactor) -> list[Chunk]:
    chunk_headers = {
        name if name == _VERSION else name.removeprefix(_PREFIX).replace("-", "_"): unquoted(value)
        for name, value in headers.items()
        if name.startswith(_PREFIX)
    }
    session = chunk_headers.get("session", "")
    if session and not SESSION_NAME.fullmatch(session):
        raise EventError(f"session {session!r:.500} cannot name a directory; send Ray's own name for it")
    if _VERSION not in chunk_headers:
        return from_message(
            body, Sender(chunk_headers.get("cluster", ""), session, chunk_headers.get("node_id", "")), redact=redact
        )
    if not session:
        raise EventError(f"chunk headers {chunk_headers!r:.500} name no session; they were cut or altered")
    if headers.get("content-type", "").startswith("application/json"):
        body = b"".join(line + b"\n" for line in _records(body))
    chunk = Chunk.from_wire(chunk_headers, body)
    chunk.check()
    return [chunk]


def _tell(left_out: Mapping[str, int]) -> None:
    """Say which files' lines are left out; of very many, of a few."""
    for path, count in islice(left_out.items(), _TOLD_PATHS):
        shown = path[:_TOLD_CHARACTERS]
        log.warning(
            "%d lines of %r are left out, as they are no events; collect event_EXPORT_*.log* only", count, shown
        )
    if (more := len(left_out) - _TOLD_PATHS) > 0:
        log.warning("so are those of %d more files", more)


def _records(value: bytes) -> Iterator[bytes]:
    if value.lstrip()[:1] != b"[":
        records.check(value.count(b"\n"), len(value))
        yield from filter(None, (line.strip() for line in value.split(b"\n")))
        return
    for record in records.array(value):
        # a raw newline in JSON is white space
        yield bytes(record) if b"\n" not in bytes(record) else msgspec.json.format(bytes(record), indent=-1)


def _lines(record: bytes) -> tuple[list[bytes], str]:
    """
    Return a record's lines (one, unless the collector joins them) and the path it names.

    Raises:
        EventError: They are more than its bytes can hold.
    """
    try:
        fields = msgspec.json.decode(record, type=dict[str, msgspec.Raw])
    except UNDECODABLE:
        return [record + b"\n"], ""
    path = next(filter(None, (_text(fields.get(name)) for name in _PATHS)), "")
    if any(names <= fields.keys() for names in _EVENTS):
        if _ADDED.isdisjoint(fields):
            return [record + b"\n"], path
        kept = {name: value for name, value in fields.items() if name not in _ADDED}
        return [msgspec.json.encode(kept) + b"\n"], path
    for name in _LINES:
        if text := _text(fields.get(name)):
            records.check(text.count("\n"), len(text))
            lines = [line.strip() for line in text.encode().split(b"\n")]
            return [line + b"\n" for line in lines if line], path
    return [record + b"\n"], path


def _joined(lines: list[bytes]) -> Iterator[bytes]:
    run, size = list[bytes](), 0
    for line in lines:
        if run and size + len(line) > _CHUNK_BYTES:
            yield b"".join(run)
            run, size = [], 0
        run.append(line)
        size += len(line)
    yield b"".join(run)


def _text(value: msgspec.Raw | None) -> str:
    try:
        return msgspec.json.decode(value or b'""', type=str)
    except UNDECODABLE:  # it is no text, or not one that UTF-8 can hold
        return ""


def _head(line: bytes) -> _Head:
    try:
        return msgspec.json.decode(line, type=_Head)
    except UNDECODABLE:
        return _Head()


def _event_type(line: bytes) -> str:
    head = _head(line)
    source, export, name = head.source_type.partition("EXPORT_")
    if export and not source:
        return _FILE_TYPES.get(name, name)
    return head.type if head.type in ray_event.FILE_TYPES else UNKNOWN


def _session(line: bytes) -> str:
    """Return the session that an event names itself, as those of Ray's HTTP export do."""
    name = _head(line).session
    return name if SESSION_NAME.fullmatch(name) else UNKNOWN_SESSION


def _chunk(sender: Sender, session: str, event_type: str, data: bytes, redact: Redactor) -> Chunk:
    began = _head(data[: data.index(b"\n")]).began_s
    name = hashlib.blake2b(encoded(session) + b"\n" + data, digest_size=16).hexdigest()
    return Chunk(
        cluster=sender.cluster,
        session=session,
        node_id=sender.node_id,
        event_type=event_type,
        # begins with the time as an agent's does, for what the fold orders by file
        segments=(Segment(f"{began:010d}-collector-{name}", 0, 0, len(data)),),
        data=redact(data, event_type),
    )
