"""
Events of Ray's HTTP export (`RayEvent`, events_base_event.proto) as lines of event files, in the words of Ray's own.

It is the way of what `raytrail.fold.posted` does not read: an event that is odd, and one that somebody subscribes to.
Both follow from one declaration (`PostedEvent`), and say the same of the same event. Facts that a file could never tell
have fields of their own, e.g. call sites, times in nanoseconds, ports, reasons of restarts. Whatever else an event says
is kept under Ray's name for it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from raytrail.entities import Column, Entity, Posted, PostedEvent, PostedKind
from raytrail.errors import EventError
from raytrail.fold.layout import plant
from raytrail.ray_event import parse_time

_EMPTY: tuple[Any, ...] = ("", 0, "0", None, {}, [], "UNSPECIFIED")
_UPPER = re.compile("([A-Z])")
_NIL = re.compile("/*(w==|8=)?")
"""Base64 of bytes that are all ones, which is an id of nothing."""

_LONGEST_KEPT = 200
"""The longest name that is kept in memory. No field's name is as long."""


def file_lines(entity: Entity, event: PostedEvent, posted: Any) -> list[bytes]:
    """
    Return an event as lines of an event file, without their newlines. The last alone has the event's own id.

    Args:
        entity: What it is about.
        event: Its type.
        posted: The event, decoded.

    Raises:
        EventError: It cannot be read.
    """
    head = _Message(posted, "$")
    id, time_ns = head.text("event_id"), head.time("timestamp")
    body = head.message(_snake(event.body))
    if body is None:
        raise EventError(f"missing or empty - at $.{_snake(event.body)}")
    rows = list(_rows(entity, event, body, time_ns))
    if not rows:
        raise EventError(f"nothing has changed - at {body.at}")
    lines = []
    for row_id, row in zip(row_ids(id, len(rows)), rows, strict=True):
        line = {
            "event_id": row_id,
            "source_type": entity.event_types[0],
            "timestamp": row.time_ns // 1_000_000_000,
        }
        lines.append(msgspec.json.encode(line | row.fields))
    return lines


def row_ids(id: str, rows: int) -> list[str]:
    """Return the ids of an event's rows. The last alone has the event's own."""
    return [*(f"{id}.{number}" for number in range(1, rows)), id]


class _Row(NamedTuple):
    """What a row of the log says."""

    time_ns: int
    fields: dict[str, Any]


def _rows(entity: Entity, event: PostedEvent, body: _Message, time_ns: int) -> Iterator[_Row]:
    fields = _fields(entity, event.columns, body, time_ns)
    for path in event.required:
        if body.message(_snake(path)) is None:
            raise EventError(f"missing or empty - at {body.at}.{_snake(path)}")
    if not event.each:
        for moved in body.messages(_snake(event.times)) if event.times else ():
            number = _state_number(event, moved)
            plant(fields, f"{event.times_at}.{number}", str(moved.time("timestamp")))
        _add_rest(event, body, fields)
        yield _Row(time_ns, fields)
        return
    for member in body.messages(_snake(event.each)):
        at_ns = member.time("timestamp")
        if event.states:
            _state_number(event, member)
        fields = _fields(entity, event.columns, body, time_ns)
        _merge(fields, _fields(entity, event.of_each, member, at_ns))
        _add_rest(event, member, fields)
        _add_rest(event, body, fields)
        yield _Row(at_ns, fields)


def _state_number(event: PostedEvent, message: _Message) -> int:
    state = message.text("state")
    if state not in event.states:
        raise EventError(f"{state!r:.80} is no state that {event.event_type} tells of - at {message.at}.state")
    return event.states.index(state)


def _fields(entity: Entity, columns: tuple[Posted, ...], message: _Message, time_ns: int) -> dict[str, Any]:
    """Return the fields of a file's line that a message tells."""
    fields: dict[str, Any] = {}
    for posted in columns:
        column = entity.column(posted.column)
        assert isinstance(column, Column)
        value = _value(posted, message, time_ns)
        if column.merge == "key" and value is None:
            raise EventError(f"missing or empty - at {message.at}.{_snake(posted.path)}")
        if value is not None:
            plant(fields, column.origin, value)
    return fields


def _is_nothing(value: Any) -> bool:
    return value is None or (not value and isinstance(value, (str, dict, list)))


def _value(posted: Posted, message: _Message, time_ns: int) -> Any:
    """Return what a message tells of a column, or None where it does not."""
    if not posted.path:
        return _READ_TIME[posted.kind](time_ns)
    *parents, name = map(_snake, posted.path.split("."))
    within: _Message | None = message
    for parent in parents:
        within = within and within.message(parent)
    if within is None:
        return None
    value = _READ[posted.kind](within, name, posted.argument)
    if posted.when[0] and message.text(_snake(posted.when[0])) != posted.when[1]:
        return None
    if _is_nothing(value) or (posted.unset and str(value) == posted.unset):
        return _default(posted, message)
    return value


def _default(posted: Posted, message: _Message) -> Any:
    unless, value = posted.default_unless
    has_none = not posted.default or (unless and message.text(_snake(unless)) == value)
    return None if has_none else msgspec.json.decode(posted.default)


def _add_rest(event: PostedEvent, message: _Message, fields: dict[str, Any]) -> None:
    """Put what a message says beside its columns where the fields of a line are that are not known."""
    ignored = {_snake(path) for path in event.ignored}
    for path, value in message.rest():
        parent = path.rpartition(".")[0]
        if path not in ignored and f"{parent}.*" not in ignored:
            tree: dict[str, Any] = {}
            plant(tree, f"{event.rest}.{path}", value)
            _merge(fields, tree)


def _merge(fields: dict[str, Any], more: dict[str, Any]) -> None:
    """Add fields, at any depth, that are not there."""
    for name, value in more.items():
        there = fields.setdefault(name, value)
        if there is not value and isinstance(there, dict) and isinstance(value, dict):
            _merge(there, value)


class _Message:
    """A message of an event: its fields by Ray's names, whether it wrote them in camel case or not."""

    def __init__(self, value: Any, at: str) -> None:
        if not isinstance(value, dict):
            raise EventError(f"expected an object, got {type(value).__name__} - at {at}")
        self.at = at
        self._fields = {_snake(name): inner for name, inner in value.items()}
        self._taken: set[str] = set()
        self._messages: dict[str, _Message] = {}

    def any(self, name: str) -> Any:
        """Take whatever it is."""
        self._taken.add(name)
        return self._fields.get(name)

    def text(self, name: str) -> str:
        """Take a string, an id or the name of an enumeration's value."""
        self._taken.add(name)
        value = self._fields.get(name)
        if value is None:  # protobuf's JSON may say so of what is unset
            return ""
        if not isinstance(value, str):
            raise EventError(f"expected a string, got {type(value).__name__} - at {self.at}.{name}")
        return value

    def id(self, name: str) -> str:
        """Take an id in base64. The id that Ray writes for none is empty."""
        value = self.text(name)
        return "" if _NIL.fullmatch(value) else value

    def whole(self, name: str) -> int | None:
        """Take a number. 64 bits are written as a string."""
        value = self.any(name)
        if value is None:
            return None
        try:
            return int(value)
        except (TypeError, ValueError, OverflowError):
            raise EventError(f"expected an integer, got {value!r:.80} - at {self.at}.{name}") from None

    def time(self, name: str) -> int:
        """Take a time, in nanoseconds since the epoch."""
        text = self.text(name)
        try:
            return parse_time(text)
        except EventError as error:
            raise EventError(f"{error} - at {self.at}.{name}") from None

    def message(self, name: str) -> _Message | None:
        """Take a message, or None where it is unset. What of it is not taken is among the `rest`."""
        value = self.any(name)
        if value is None:
            return None
        if name not in self._messages:
            self._messages[name] = _Message(value, f"{self.at}.{name}")
        return self._messages[name]

    def messages(self, name: str) -> list[_Message]:
        """Take a list of messages."""
        return [_Message(inner, f"{self.at}.{name}[{index}]") for index, inner in enumerate(self.list(name))]

    def list(self, name: str) -> list[Any]:
        """Take a list."""
        value = self.any(name) or []
        if not isinstance(value, list):
            raise EventError(f"expected a list, got {type(value).__name__} - at {self.at}.{name}")
        return value

    def map(self, name: str) -> dict[str, Any]:
        """Take an object with names of the user's own, sorted."""
        value = self.any(name) or {}
        if not isinstance(value, dict):
            raise EventError(f"expected an object, got {type(value).__name__} - at {self.at}.{name}")
        return {key: value[key] for key in sorted(value)}

    def rest(self) -> Iterator[tuple[str, Any]]:
        """Yield what says something and was not taken, each with its path."""
        for name, value in self._fields.items():
            if name in self._messages:
                yield from ((f"{name}.{path}", inner) for path, inner in self._messages[name].rest())
            elif name not in self._taken and value not in _EMPTY and value is not False:
                yield name, value


def _snake(name: str) -> str:
    # of names that anybody may have made, no long one is kept
    return _snake_of_short(name) if len(name) <= _LONGEST_KEPT else _as_snake(name)


def _as_snake(name: str) -> str:
    return _UPPER.sub(lambda match: f"_{match[1].lower()}", name)


_snake_of_short = lru_cache(maxsize=10_000)(_as_snake)


def _nested(value: Any) -> Any:
    """Return a message with the names that the files have, at any depth. Not for maps: their keys are the user's."""
    if isinstance(value, dict):
        return dict(sorted((_snake(key), _nested(inner)) for key, inner in value.items()))
    return [_nested(item) for item in value] if isinstance(value, list) else value


def _amounts(message: _Message, name: str, _: str) -> dict[str, Any]:
    """Take amounts by resource, as the files have them: sorted, and 1 for 1.0, as C++ prints them."""
    return {
        key: int(number) if isinstance(number, float) and number.is_integer() else number
        for key, number in message.map(name).items()
    }


def _has(message: _Message, name: str, argument: str) -> bool | None:
    amounts = message.map(name)
    return argument in amounts if amounts else None


def _texts(message: _Message, name: str, _: str) -> dict[str, str]:
    """Take what libraries said of it, which an event has as bytes under another name than the files."""
    try:
        return {key: base64.b64decode(value, validate=True).decode() for key, value in message.map(name).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise EventError(f"expected texts in base64: {error} - at {message.at}.{name}") from None


def _called(message: _Message, name: str, _: str) -> str:
    """
    Take what is called, of a function's descriptor.

    As Ray's own `_call_string` (ray/dashboard/modules/task_events/ray_event_converter.py, Ray 2.60).
    """
    value = message.any(name)
    if value is None:
        return ""
    descriptor = _Message(value, f"{message.at}.{name}")
    if (python := descriptor.message("python_function_descriptor")) is not None:
        parts = (python.text("class_name"), python.text("function_name"))
        return ".".join(part.rpartition(".")[2] for part in parts if part)
    if (java := descriptor.message("java_function_descriptor")) is not None:
        return ".".join(filter(None, (java.text("class_name"), java.text("function_name"))))
    if (cpp := descriptor.message("cpp_function_descriptor")) is not None:
        return cpp.text("function_name")
    return ""


def _created_actor(message: _Message, name: str, _: str) -> str:
    """Take the actor that a task creates: a task's id is 8 bytes of its own, then the actor's (TaskID, id.h)."""
    task_id = message.text(name)
    try:
        return base64.b64encode(base64.b64decode(task_id, validate=True)[8:]).decode()
    except binascii.Error:
        raise EventError(f"expected base64, got {task_id!r:.80} - at {message.at}.{name}") from None


_READ_TIME: dict[PostedKind, Callable[[int], int]] = {"time_ns": lambda ns: ns, "time_ms": lambda ns: ns // 1_000_000}
_READ: dict[PostedKind, Callable[[_Message, str, str], Any]] = {
    "id": lambda message, name, _: message.text(name),
    "id or none": lambda message, name, _: message.id(name),
    "text": lambda message, name, _: message.text(name),
    "int": lambda message, name, _: message.whole(name),
    "bool": lambda message, name, _: message.any(name),
    "spans": lambda message, name, _: _nested(message.list(name)),
    "json": lambda message, name, _: message.any(name) or {},
    "messages": lambda message, name, _: _nested(message.any(name)),
    "amounts": _amounts,
    "texts in base64": _texts,
    "time_ns": lambda message, name, _: message.time(name),
    "time_ms": lambda message, name, _: message.time(name) // 1_000_000,
    "function": _called,
    "creates actor": _created_actor,
    "runtime env": lambda message, name, _: {"serialized_runtime_env": message.text(name)},
    "constant": lambda *of_constant: of_constant[2],
    "equals": lambda message, name, argument: message.text(name) == argument,
    "has": _has,
}
"""How a field of each kind is taken from its message, by its name, with the kind's argument."""
