"""
The heads of Ray's HTTP events (`RayEvent`, events_base_event.proto): which event it is, of which session and type.

That is all that is looked at on the way in. Whatever else an event says stays as Ray wrote it, until the history reads
it. Not read is what is no event: a line of its session says why, and the ledger names it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache

import msgspec

from raytrail.errors import EventError
from raytrail.event import SET_ASIDE, UNDECODABLE

FILE_TYPES: Mapping[str, str] = {
    "TASK_DEFINITION_EVENT": "TASK",
    "ACTOR_TASK_DEFINITION_EVENT": "TASK",
    "TASK_LIFECYCLE_EVENT": "TASK",
    "TASK_PROFILE_EVENT": "TASK",
    "ACTOR_DEFINITION_EVENT": "ACTOR",
    "ACTOR_LIFECYCLE_EVENT": "ACTOR",
    "NODE_DEFINITION_EVENT": "NODE",
    "NODE_LIFECYCLE_EVENT": "NODE",
    "DRIVER_JOB_DEFINITION_EVENT": "DRIVER_JOB",
    "DRIVER_JOB_LIFECYCLE_EVENT": "DRIVER_JOB",
    "WORKER_DEFINITION_EVENT": "WORKER",
    "WORKER_LIFECYCLE_EVENT": "WORKER",
}
"""
Each of Ray's types that event files can say, with the event type of these.

Ray 2.60 defines events of placement groups and submission jobs, too, and sends none.
"""

_SESSION = re.compile(r"session_[A-Za-z0-9_.-]{1,193}")  # as long as `SESSION_NAME` has it
_TYPE = re.compile(r"[A-Z][A-Z0-9_]{0,100}")
LONGEST_ID = 1000
"""The longest id that is taken, in characters."""


class Head(msgspec.Struct, gc=False):
    """The head of an event, with the names that Ray mostly gives its fields, and those that it can be told to give."""

    eventId: str = ""
    eventType: str = ""
    sessionName: str = ""
    event_id: str = ""
    event_type: str = ""
    session_name: str = ""

    @property
    def id(self) -> str:
        """Ray's id of the event. The lines that the receivers of older versions wrote have it, too."""
        return self.eventId or self.event_id

    @property
    def type(self) -> str:
        """As in file names, e.g. ``TASK_LIFECYCLE_EVENT``."""
        return self.eventType or self.event_type

    @property
    def session(self) -> str:
        """Ray's session, which is its directory's name."""
        return self.sessionName or self.session_name


_ONE = msgspec.json.Decoder(Head)
_ARRAY = msgspec.json.Decoder(list[Head])


def of_event(event: bytes | msgspec.Raw) -> Head:
    """
    Return the head of an event, which has all that it must.

    Raises:
        EventError: It cannot be read, or lacks something.
    """
    try:
        head = _ONE.decode(event)
    except UNDECODABLE as error:
        raise EventError(str(error) or "it nests too deep") from None
    check(head)
    return head


def check(head: Head) -> None:
    """
    Check that a head has all that it must.

    Raises:
        EventError: It lacks something.
    """
    if not head.id or len(head.id) > LONGEST_ID:
        raise EventError(f"missing, empty or longer than {LONGEST_ID} characters - at $.eventId")
    if not _SESSION.fullmatch(head.session):
        raise EventError(f"expected a session's name, got {head.session!r:.80} - at $.sessionName")
    if not _TYPE.fullmatch(head.type):
        raise EventError(f"expected an event type's name, got {head.type!r:.80} - at $.eventType")


def of_array(body: bytes) -> list[Head] | None:
    """Return the heads of all events of a JSON array, which may lack something, or None where one cannot be read."""
    try:
        return _ARRAY.decode(body)
    except UNDECODABLE:
        return None


def of_lines(data: bytes) -> list[Head] | None:
    """Return the heads of all lines, which may lack something, or None where one cannot be read."""
    try:
        return _ONE.decode_lines(data)
    except UNDECODABLE:
        return None


def of_whole_lines(data: bytes) -> list[Head]:
    """Return the heads of lines, of which some may be none of events, as half a line is."""
    heads = of_lines(data)
    if heads is not None:
        return heads
    heads = []
    for line in data.split(b"\n"):
        try:
            heads.append(_ONE.decode(line))
        except UNDECODABLE:
            continue
    return heads


def by_type(
    heads: Sequence[Head] | None, events: Sequence[bytes | msgspec.Raw], refuse: Callable[[int, str], None]
) -> dict[tuple[str, str], dict[str, int]]:
    """
    Return the numbers of events by their ids, by session and event type. An event that comes twice counts once.

    Args:
        heads: The heads of all of them, or None where one cannot be read.
        events: The events.
        refuse: Takes the number of an event that lacks what it must have, and the reason.
    """
    groups: dict[tuple[str, str], dict[str, int]] = {}
    for number, event in enumerate(events):
        try:
            head = of_event(event) if heads is None else heads[number]
            id = head.eventId or head.event_id
            group = groups.get((head.sessionName or head.session_name, head.eventType or head.event_type))
            if group is None or not 0 < len(id) <= LONGEST_ID:
                check(head)
                group = groups.setdefault((head.session, head.type), {})
        except EventError as error:
            refuse(number, str(error))
        else:
            group.setdefault(id, number)
    return groups


def as_lines(events: Sequence[bytes | msgspec.Raw], *, are_lines: bool) -> bytes:
    """
    Return events as lines, each ending in a newline.

    Args:
        events: The events.
        are_lines: Whether each is known to be written in one line.
    """
    data = b"\n".join((*events, b""))
    if are_lines or data.count(b"\n") == len(events):
        return data
    texts = map(bytes, events)
    return b"".join((msgspec.json.format(text, indent=-1) if b"\n" in text else text) + b"\n" for text in texts)


_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")


def time_ns(event: bytes) -> int:
    """Return when an event was made, in nanoseconds since the epoch, or 0 where it does not say."""
    try:
        return in_ns(msgspec.json.decode(event, type=_Time).timestamp)
    except UNDECODABLE:
        return 0


def in_ns(text: str) -> int:
    """Return a time as Ray writes it, in nanoseconds since the epoch, or 0 where it is none, or before the epoch."""
    try:
        return max(0, parse_time(text))
    except EventError:
        return 0


def parse_time(text: str) -> int:
    """
    Return a time as Ray writes it (RFC 3339, in UTC), in nanoseconds since the epoch.

    Raises:
        EventError: It is none.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise EventError(f"expected a time as 2026-01-31T12:00:00.123456789Z, got {text!r:.80}")
    try:
        return _seconds(match[1]) * 1_000_000_000 + int((match[2] or "").ljust(9, "0"))
    except (ValueError, OverflowError):
        raise EventError(f"there is no such time as {text}") from None


@lru_cache(maxsize=1000)
def _seconds(text: str) -> int:
    return int(datetime.strptime(f"{text}+0000", "%Y-%m-%dT%H:%M:%S%z").timestamp())


class _Time(msgspec.Struct):
    timestamp: str = ""


def set_aside_line(event: bytes | msgspec.Raw, reason: str) -> bytes:
    """
    Return the line of a session's event file that says of an event that it cannot be read: always the same for it.

    The event is not in it: what cannot be read may hold secrets where nobody looks for them, and lines leave the node.

    Args:
        event: As it came.
        reason: Why.
    """
    record = {
        "event_id": digest(event),
        "source_type": f"EXPORT_{SET_ASIDE}",
        "timestamp": 0,
        "event_data": {"reason": reason},
    }
    return msgspec.json.encode(record) + b"\n"


def digest(event: bytes | msgspec.Raw) -> str:
    """Return what an event goes by that may not say so itself."""
    return hashlib.blake2b(bytes(event), digest_size=18).hexdigest()


def session_name(event: bytes | msgspec.Raw) -> str:
    """Return the session of an event that may be none, or nothing where it names none that a session can have."""
    try:
        fields = msgspec.json.decode(event, type=dict[str, msgspec.Raw])
        name = msgspec.json.decode(fields.get("sessionName") or fields.get("session_name") or b'""', type=str)
    except UNDECODABLE:
        return ""
    return name if _SESSION.fullmatch(name) else ""
