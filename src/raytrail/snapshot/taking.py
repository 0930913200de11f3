"""Take a snapshot: ask a dashboard for all lists that it has, and make chunks of the answers."""

from __future__ import annotations

import hashlib
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from raytrail.entities import Column, Entity, installed
from raytrail.errors import EventError
from raytrail.event import SESSION_NAME, Chunk, Segment
from raytrail.file_report import ending, file_id, report_line
from raytrail.snapshot.dashboard import Dashboard, Refused, answered, plain
from raytrail.snapshot.rows import READERS, Beside, Event, Row
from raytrail.sources import endpoints, serve_poll
from raytrail.sources.messages import in_base64

ROW_LIMIT = 10_000
"""The most rows that Ray lists, unless it was told otherwise (`RAY_MAX_LIMIT_FROM_API_SERVER`)."""
_SUPPORTED = re.compile(r"exceeds the supported limit (\d{1,6})\b")
_CHUNK_BYTES = 1 << 20
_POLLED = {"placement_groups": "restful__api__v0__placement_groups", "serve": "restful__api__serve__applications"}
"""What `raytrail.sources.endpoints` reads, with the names that it goes by there."""
EVENT_TYPES: Mapping[str, str] = {
    "nodes": "NODE",
    "jobs": "DRIVER_JOB",
    "workers": "WORKER",
    "actors": "ACTOR",
    "tasks": "TASK",
    "placement_groups": "PLACEMENT_GROUP",
    "objects": "OBJECT",
    "serve": "SERVE_APPLICATION",
}
"""What is asked for, with the event type under which the ledger says how much of it Ray gave."""
_SERVE = "serve"
_CONTROLLER = "SERVE_CONTROLLER_ACTOR"  # ray/serve/_private/constants.py
_ENDS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "OBJECT": ("objects", {"change": "DELETED"}),
    "PLACEMENT_GROUP": ("placement_groups", {"state": "REMOVED"}),
    **{event_type: ("serve", end) for event_type, end in serve_poll.ENDS.items()},
}
"""Types of what Ray forgets when it has ended, with the list that no longer shows it, and what is then written."""

_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)
"""What goes wrong with answers of a Ray that has them in another form, or of who is none: 1e999, or too deep."""

_MESSAGE_CHARACTERS = 2_000
"""How much is kept of what a Ray says of an answer."""

Redact = Callable[[bytes, str], bytes]
"""Masks what is secret in lines of an event type. Masked lines are as long as they were."""


class Answer(NamedTuple):
    """What was answered to a list."""

    rows: list[Row]
    total: int | None
    """How many rows Ray has. None where it gave no answer."""
    message: str
    """Its warnings, or why it gave no answer."""
    listed: int
    """How many rows it gave."""
    body: bytes = b""
    """The answer, of those that `_POLLED` has."""
    partial: bool = False
    """Whether Ray says that it could not ask all of its nodes."""

    @property
    def lacking(self) -> str:
        """Why it is not the whole. Empty where it is."""
        if self.total is None:
            return f"not answered: {self.message}"
        if self.total > self.listed:
            lacking = f"Ray gave {self.listed:,} of {self.total:,} rows"
            return f"{lacking}: {self.message}" if self.message else lacking
        return self.message if self.partial else ""


class Taken(NamedTuple):
    """A snapshot."""

    session: str
    at_ns: int
    """Its moment, when the last answer had come, in nanoseconds since the epoch, by the cluster's clock."""
    ray_version: str
    answers: Mapping[str, Answer]
    """By what was asked for, as `EVENT_TYPES` has it."""
    events: list[tuple[str, bytes]]
    """Event types, each with a line."""

    @property
    def at_ms(self) -> int:
        """Its moment in milliseconds."""
        return self.at_ns // 1_000_000


def take(dashboard: Dashboard) -> Taken:
    """
    Ask for all that there is.

    Raises:
        ConfigError: The dashboard does not let us in.
        SourceError: It is none of Ray's, or does not list its nodes.
        SourceUnavailable: It cannot be reached.
    """
    version = dashboard.version()
    if not SESSION_NAME.fullmatch(version.session):
        raise Refused(f"{dashboard.url} names its session {version.session!r:.80}, which is no name of Ray's")
    answers = {resource: _ask(dashboard, resource) for resource in EVENT_TYPES if resource != _SERVE}
    answers[_SERVE] = _ask_serve(dashboard, answers["actors"])
    if answers["nodes"].total is None:
        raise Refused(f"{dashboard.url} does not list its nodes: {answers['nodes'].message}; look at its log")
    page = _actors_page(dashboard)
    at_ns = time.time_ns() + version.ahead_ns
    try:
        beside = Beside.of(at_ns, answers["workers"].rows, page)
    except _UNREADABLE:
        beside = Beside.of(at_ns, (), page)
    events: list[tuple[str, bytes]] = []
    for resource, answer in answers.items():
        lines, answers[resource] = _read(resource, answer, beside)
        events += lines
    return Taken(version.session, at_ns, version.ray_version, answers, events)


def _ask(dashboard: Dashboard, resource: str) -> Answer:
    try:
        body = _list(dashboard, resource, ROW_LIMIT)
        answer = answered(body)["result"]
        rows, partial = answer["result"], plain(answer.get("partial_failure_warning") or "", _MESSAGE_CHARACTERS)
        if not all(isinstance(row, dict) for row in rows):
            raise TypeError("some rows have no fields")
        return Answer(rows, int(answer["total"]), partial, len(rows), body, bool(partial))
    except Refused as error:
        return Answer([], None, str(error), 0)
    except _UNREADABLE as error:
        return Answer([], None, f"no answer of Ray's: {error!r}", 0)


def _list(dashboard: Dashboard, resource: str, limit: int) -> bytes:
    """Ask for so many rows, or for as many as this Ray was told to list at most."""
    try:
        return dashboard.ask(f"/api/v0/{resource}?detail=1&limit={limit}&exclude_driver=False")
    except Refused as error:
        supported = _SUPPORTED.search(str(error))
        if supported is None or not 0 < int(supported[1]) < limit:
            raise
        return _list(dashboard, resource, int(supported[1]))


def _ask_serve(dashboard: Dashboard, actors: Answer) -> Answer:
    """Return what Serve says. Where it does not run it is not asked: Ray would start a driver for the answer."""
    if not actors.lacking and not any(row.get("name") == _CONTROLLER for row in actors.rows):
        return Answer([], 0, "", 0, b"{}")
    try:
        body = dashboard.ask("/api/serve/applications/")
        applications = msgspec.json.decode(body)["applications"]
        return Answer([], len(applications), "", len(applications), body)
    except Refused as error:
        return Answer([], None, str(error), 0)
    except _UNREADABLE as error:
        return Answer([], None, f"no answer of Serve's: {error!r}", 0)


def _actors_page(dashboard: Dashboard) -> Mapping[str, Row]:
    """Return what the dashboard's own page says of actors, which is when they began and ended."""
    try:
        actors = answered(dashboard.ask("/logical/actors"))["actors"]
    except (Refused, TypeError, KeyError):
        return {}  # they have no times then
    return actors if isinstance(actors, dict) else {}


def _read(resource: str, answer: Answer, beside: Beside) -> tuple[list[tuple[str, bytes]], Answer]:
    """Return the events of an answer, and the answer as far as it could be read."""
    if resource in _POLLED:
        return _read_polled(resource, answer, beside)
    read, events, wrong = READERS[resource], list[tuple[str, bytes]](), list[str]()
    for row in answer.rows:
        try:
            events += [(event.event_type, _line(event, beside.at_ns)) for event in read(row, beside)]
        except _UNREADABLE as error:
            wrong.append(f"this version of Raytrail cannot read some: {error!r}")
    return events, answer._replace(listed=answer.listed - len(wrong), message=wrong[0]) if wrong else answer


def _read_polled(resource: str, answer: Answer, beside: Beside) -> tuple[list[tuple[str, bytes]], Answer]:
    if answer.total is None:
        return [], answer
    try:
        return list(endpoints.events(_POLLED[resource], answer.body, beside.at_ns)), answer
    except EventError as error:
        return [], answer._replace(listed=0, message=f"this version of Raytrail cannot read them: {error}")


def _line(event: Event, at_ns: int) -> bytes:
    at_s = event.timestamp_s or at_ns // 1_000_000_000
    times = {"time_ns": event.time_ns} if event.time_ns else {}
    event_id = hashlib.blake2b(msgspec.json.encode((event, at_ns)), digest_size=18).hexdigest()
    return endpoints.line(event.event_type, event.data, event_id, at_s, times)


# -- what a snapshot adds to those before it


class Repeated:
    """Leaves out what the last snapshot that was kept has said already, with the same words."""

    def __init__(self) -> None:
        self._kept: set[bytes] = set()

    def new(self, taken: Taken) -> list[tuple[str, bytes]]:
        """Return the events of a snapshot that are new."""
        return [event for event in taken.events if _digest(*event, taken.at_ns) not in self._kept]

    def keep(self, taken: Taken) -> None:
        """Take note that a snapshot is stored."""
        self._kept = {_digest(*event, taken.at_ns) for event in taken.events}


class _Line(msgspec.Struct, frozen=True):
    event_data: msgspec.Raw
    time_ns: int = 0


def _digest(event_type: str, line: bytes, at_ns: int) -> bytes:
    """Return what tells events apart, but for when they were seen."""
    event = msgspec.json.decode(line, type=_Line)
    time_ns = 0 if event.time_ns == at_ns else event.time_ns
    return hashlib.blake2b(b"%b %d %b" % (event_type.encode(), time_ns, event.event_data), digest_size=16).digest()


def gone(taken: Taken, known: Callable[[str], Iterable[Row]]) -> list[tuple[str, bytes]]:
    """
    Return the events of what is not in a snapshot any more, of those that Ray forgets when they have ended.

    Args:
        taken: The snapshot.
        known: Returns what is open of an entity in the store, by its keys.
    """
    ending = {
        event_type: _Keyed.of(event_type)
        for event_type, (resource, _) in _ENDS.items()
        if not taken.answers[resource].lacking  # else it may be in the part that Ray did not give
    }
    present: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
    for event_type, line in taken.events:
        if event_type in ending:
            data = msgspec.json.decode(line)["event_data"]
            try:
                present[event_type].add(tuple(data[field] for field in ending[event_type].fields))
            except (KeyError, TypeError):  # what it is about is not known, and so not what is gone
                del ending[event_type]
    events = []
    for event_type, keyed in ending.items():
        for row in known(keyed.entity.name):
            key = tuple(_written(column, row[column.name]) for column in keyed.columns)
            if key not in present[event_type]:
                data = {**dict(zip(keyed.fields, key, strict=True)), **_ENDS[event_type][1]}
                events.append((event_type, _line(Event(event_type, data, taken.at_ns), taken.at_ns)))
    return events


class _Keyed(NamedTuple):
    """How lines of an event type say what they are about."""

    entity: Entity
    columns: list[Column]
    """The columns of its key."""

    @classmethod
    def of(cls, event_type: str) -> _Keyed:
        entity = next(entity for entity in installed().values() if event_type in entity.file_types)
        return cls(entity, [column for column in entity.columns if column.name in entity.key])

    @property
    def fields(self) -> list[str]:
        """The fields of a line that have these."""
        return [column.origin.removeprefix("event_data.") for column in self.columns]


def _written(column: Column, value: Any) -> Any:
    """Return a value of a key as lines have it."""
    return in_base64(bytes.fromhex(value)) if column.type == "id" else value


# -- chunks


def chunks(taken: Taken, events: Iterable[tuple[str, bytes]], *, cluster: str, redact: Redact) -> Iterator[Chunk]:
    """
    Yield the chunks of a snapshot, and what the ledger is to say of it.

    Args:
        taken: The snapshot.
        events: Those of its events that are to be written.
        cluster: The name that its operator gave the cluster.
        redact: Masks what is secret.
    """
    lines: dict[str, list[bytes]] = defaultdict(list)
    for event_type, line in (*events, *_snapshot_lines(taken)):
        lines[event_type].append(line)
    at_s = taken.at_ns // 1_000_000_000

    def chunk(event_type: str, segments: tuple[Segment, ...], data: bytes) -> Chunk:
        return Chunk(
            cluster=cluster,
            session=taken.session,
            node_id="",
            event_type=event_type,
            segments=segments,
            data=data,
        )

    for event_type, of_type in lines.items():
        file = file_id(f"{taken.session}\nsnapshot {taken.at_ns} {event_type}", at_s)
        start = 0
        for data in _pieces(of_type):
            segment = Segment(file, 0, start, len(data))
            start = segment.end
            yield chunk(event_type, (segment,), redact(data, event_type))
    yield chunk("FILE", (), b"".join(_reports(taken)))


def _pieces(lines: Iterable[bytes]) -> Iterator[bytes]:
    piece: list[bytes] = []
    size = 0
    for line in lines:
        piece.append(line)
        size += len(line)
        if size >= _CHUNK_BYTES:
            yield b"".join(piece)
            piece, size = [], 0
    if piece:
        yield b"".join(piece)


def _snapshot_lines(taken: Taken) -> Iterator[tuple[str, bytes]]:
    for resource, answer in taken.answers.items():
        data = {
            "resource": resource,
            "at_ms": taken.at_ms,
            "listed_rows": answer.listed,
            "total_rows": answer.total,
            "truncated": bool(answer.lacking),
            "message": answer.message or None,
            "ray_version": taken.ray_version,
        }
        event = {"source_type": "RAYTRAIL_SNAPSHOT", "timestamp": taken.at_ms // 1000, "event_data": data}
        yield "SNAPSHOT", msgspec.json.encode(event) + b"\n"


def _reports(taken: Taken) -> Iterator[bytes]:
    """Yield what the ledger says of each list: that Ray did not give all of it, or that it did, this time."""
    for resource, answer in taken.answers.items():
        fields = {
            "name": f"ray list {resource.replace('_', '-')}" if resource != _SERVE else "serve status",
            "event_type": EVENT_TYPES[resource],
            "node_id": "",
            "written_bytes": 0,
            "unread": ending(taken.at_ms, reason=answer.lacking),
        }
        yield report_line(file_id(f"{taken.session}\nsnapshot of {resource}"), taken.at_ms, fields)
