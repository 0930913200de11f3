"""
What the engine can read of a line, as types: `msgspec` looks whole lines through by them, and keeps nothing.

A field that is not in them may be one that a newer Ray writes, and somebody has to keep it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from raytrail.entities import Column, Entity, Posted, PostedEvent, PostedKind
from raytrail.fold.layout import in_log, plant


class Field(NamedTuple):
    """A field of an object in a line."""

    name: str
    kind: Any
    default: Any


def required(name: str, kind: Any) -> Field:
    """Return a field that must be there."""
    return Field(name, kind, msgspec.NODEFAULT)


def optional(name: str, kind: Any) -> Field:
    """Return a field that may be missing, or null."""
    return Field(name, kind | None, None)


def raw(name: str) -> Field:
    """Return a field that may be missing and hold anything: the engine reads its value."""
    return Field(name, msgspec.Raw, msgspec.Raw())


def struct(fields: Iterable[Field], *, closed: bool = True) -> type[msgspec.Struct]:
    """Return the type of an object with these fields and, if it is closed, no others."""
    ordered = sorted(fields, key=lambda field: field.default is not msgspec.NODEFAULT)
    # Ray's names need not be Python's
    members = [
        (f"f{number}", field.kind, msgspec.field(name=field.name, default=field.default))
        for number, field in enumerate(ordered)
    ]
    return msgspec.defstruct("Object", members, forbid_unknown_fields=closed, frozen=True, gc=False)


class Span(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A profile event of a file."""

    event_name: msgspec.Raw = msgspec.Raw()
    start_time: msgspec.Raw = msgspec.Raw()
    end_time: msgspec.Raw = msgspec.Raw()
    extra_data: msgspec.Raw = msgspec.Raw()


_HEAD = ("eventId", "eventType", "sessionName", "timestamp")
_UNREAD = ("severity", "sourceType", "message", "nodeId")
"""Fields of every event of which nothing is kept."""
_KEY = Annotated[str, msgspec.Meta(min_length=1)]
_NOTHING = struct(())
_BLANK = Literal["", "UNSPECIFIED"]
_INT = int | Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]{1,19}\Z")]
_SPAN = struct(
    (
        *(Field(name, int | str, 0) for name in ("startTime", "endTime")),  # there are many, and a pattern is dear
        *(Field(name, str, "") for name in ("eventName", "extraData")),
    )
)
_OBJECT = struct((), closed=False)
_CALLED = struct((optional("className", str), optional("functionName", str)), closed=False)
_FUNCTION = struct(
    (optional(f"{language}FunctionDescriptor", _CALLED) for language in ("python", "java", "cpp")), closed=False
)
_KINDS: dict[PostedKind, Any] = {
    "int": _INT,
    "bool": bool,
    "spans": list[_SPAN],  # type: ignore[valid-type]
    "messages": _NOTHING,
    # the engine would make a number of "1" and of true, and nothing of null
    "amounts": dict[str, float],
    "texts in base64": dict[str, str],
    "function": _FUNCTION,
    **dict.fromkeys(("json", "has"), _OBJECT),
}
"""What a field holds, by its kind. All others are texts."""


@cache
def posted_decoder(entity: Entity, event: PostedEvent) -> msgspec.json.Decoder[Any]:
    """Return what reads events of a type of Ray's HTTP export that the engine can read, and no others."""
    body = _message(entity, event, event.columns)
    if event.each:
        member = _message(entity, event, event.of_each)
        if event.states:
            member["state"] = required("state", Literal[event.states])
        member["timestamp"] = required("timestamp", msgspec.Raw)
        members: Any = list[struct(member.values())]  # type: ignore[misc]
        body[event.each] = required(event.each, Annotated[members, msgspec.Meta(min_length=1)])
    if event.times:
        origins = {column.origin for column in in_log(entity)}
        states = [state for number, state in enumerate(event.states) if f"{event.times_at}.{number}" in origins]
        moved = struct([required("state", Literal[tuple(states)]), required("timestamp", msgspec.Raw)])
        body[event.times] = optional(event.times, list[moved])  # type: ignore[valid-type]
    head = [required(name, msgspec.Raw) for name in _HEAD if name != "eventType"]
    head += [required("eventType", Literal[event.event_type]), *map(raw, _UNREAD)]
    return msgspec.json.Decoder(struct([*head, required(event.body, struct(body.values()))]))


def count_rows(event: PostedEvent, decoded: Sequence[Any]) -> int:
    """Return how many rows of the log events give that a `posted_decoder` has read."""
    if not event.each or not decoded:
        return len(decoded)
    body = _attribute(type(decoded[0]), event.body)
    members = _attribute(type(getattr(decoded[0], body)), event.each)
    return sum(len(getattr(getattr(line, body), members)) for line in decoded)


def _attribute(of: type[msgspec.Struct], field: str) -> str:
    return of.__struct_fields__[of.__struct_encode_fields__.index(field)]


def _message(entity: Entity, event: PostedEvent, columns: Sequence[Posted]) -> dict[str, Field]:
    """Return the fields of a message by their names."""
    tree: dict[str, Any] = {}
    for posted in reversed(columns):  # of what two columns are told by, the first one says what it must be
        if posted.path:
            plant(tree, posted.path, _leaf(entity, posted))
    if columns is (event.of_each or event.columns):
        for path in event.ignored:
            plant(tree, path, msgspec.Raw)
        for path in event.blank:
            plant(tree, path, _BLANK)
    return {name: _field(event, name, node) for name, node in tree.items()}


def _leaf(entity: Entity, posted: Posted) -> Any:
    column = entity.column(posted.column)
    if isinstance(column, Column) and column.merge == "key" and posted.kind == "id":
        return _KEY
    return _KINDS.get(posted.kind, str)


def _field(event: PostedEvent, name: str, node: Any) -> Field:
    if isinstance(node, dict):
        closed = "*" not in node
        kind = struct((_field(event, inner, leaf) for inner, leaf in node.items() if inner != "*"), closed=closed)
        return required(name, kind) if name in event.required else optional(name, kind)
    if node is msgspec.Raw:
        return raw(name)
    return required(name, node) if node is _KEY else optional(name, node)
