"""
Telling good lines from bad ones, before the engine sees them.

`check` reads a whole chunk in one call and says only whether every line is what the entity's columns say: about
1 CPU-second per million events. Where it is not, `sort_out` looks at one line at a time, slowly: what cannot be
read is set aside with a reason, fields that are not known are kept as the event's ``extra``.
"""

from __future__ import annotations

import base64
import binascii
import math
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from raytrail.entities import MOST_SECONDS, Column, of_file_type
from raytrail.errors import EventError
from raytrail.event import UNDECODABLE
from raytrail.fold.decode import SPAN_LIMITS
from raytrail.fold.layout import in_log

_SPAN = {"event_name": "text", "start_time": "int", "end_time": "int", "extra_data": "text"}
_OF_ALL = ("source_type", "timestamp")  # every line has them, whatever its columns are
_TOP = (*_OF_ALL, "event_id")


class Sorted(NamedTuple):
    """What became of one line."""

    line: bytes
    """The line as the engine may read it, without its newline; empty where it was set aside."""
    verdict: Literal["good", "unknown", "rejected"]
    reason: str
    """Why it was set aside."""


class _Span(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    event_name: msgspec.Raw = msgspec.Raw()
    start_time: msgspec.Raw = msgspec.Raw()
    end_time: msgspec.Raw = msgspec.Raw()
    extra_data: msgspec.Raw = msgspec.Raw()


@cache
def _tree(file_type: str) -> dict[str, Any]:
    """Return the fields that a line may have: columns at the leaves, by name."""
    tree: dict[str, Any] = {}
    for entity in of_file_type(file_type):
        for column in in_log(entity):
            node = tree
            *parents, leaf = column.origin.split(".")
            for parent in parents:
                node = node.setdefault(parent, {})
            if leaf != "_extra":
                node[leaf] = column
        for path in entity.ignored:
            *parents, leaf = path.split(".")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = None
    return tree


@cache
def event_types(file_type: str) -> tuple[str, ...]:
    """Return the `source_type`s that are known in chunks of this event type."""
    return tuple(t for entity in of_file_type(file_type) for t in entity.event_types)


@cache
def _keys(file_type: str) -> frozenset[str]:
    """Return the origins of the columns without which an event is about nothing."""
    entities = of_file_type(file_type)
    keys = [{c.origin for c in entity.columns if c.merge == "key"} for entity in entities]
    return frozenset(set.intersection(*keys)) if keys else frozenset()


@cache
def _decoder(file_type: str) -> msgspec.json.Decoder[Any]:
    keys = _keys(file_type)

    def struct(name: str, tree: dict[str, Any], path: str) -> type[msgspec.Struct]:
        required: list[Any] = []
        optional: list[Any] = []
        for field, node in tree.items():
            below = f"{path}{field}"
            if below in _OF_ALL:
                continue
            if isinstance(node, dict):
                kind: Any = struct(f"{name}_{field}", node, f"{below}.")
                holds_key = any(key.startswith(f"{below}.") for key in keys)
            else:
                kind = list[_Span] if node is not None and node.type == "spans" else msgspec.Raw
                holds_key = below in keys
            if holds_key:
                required.append((f"f{len(required)}_{len(optional)}", kind, msgspec.field(name=field)))
            else:
                optional.append(
                    (
                        f"f{len(required)}_{len(optional)}",
                        kind | None,
                        msgspec.field(name=field, default=None),
                    )
                    if kind is not msgspec.Raw
                    else (
                        f"f{len(required)}_{len(optional)}",
                        kind,
                        msgspec.field(name=field, default=msgspec.Raw()),
                    )
                )
        if not path:
            known = event_types(file_type)
            required += [
                ("source_type", Literal[known], msgspec.field(name="source_type")),
                ("timestamp", Annotated[int, msgspec.Meta(ge=0, le=MOST_SECONDS)], msgspec.field(name="timestamp")),
            ]
            if "event_id" not in tree:
                optional.append(("event_id", msgspec.Raw, msgspec.field(name="event_id", default=msgspec.Raw())))
        return msgspec.defstruct(name, [*required, *optional], forbid_unknown_fields=True, frozen=True, gc=False)

    return msgspec.json.Decoder(struct("Line", _tree(file_type), ""))


def check(file_type: str, data: bytes | memoryview) -> bool:
    """Return whether every line is one that the engine can read, with no field that we do not know."""
    try:
        _decoder(file_type).decode_lines(data)
    except UNDECODABLE:
        return False
    return True


def sort_out(file_type: str, line: bytes) -> Sorted:
    """Return what is to be done with one line: read it, perhaps mended, or set it aside."""
    try:
        event = msgspec.json.decode(line)
    except UNDECODABLE as error:
        return Sorted(b"", "rejected", str(error) or "it nests too deep")
    try:
        if not isinstance(event, dict):
            raise EventError(f"expected an object, got {type(event).__name__} - at $")
        source_type = event.get("source_type")
        if not isinstance(source_type, str):
            raise EventError("expected a string - at $.source_type")
        if source_type not in event_types(file_type):
            return Sorted(b"", "unknown", f"event type {source_type!r} is not known to this version")
        _expect_int(event.get("timestamp"), "$.timestamp", (0, MOST_SECONDS))
        extra: dict[str, Any] = {}
        known = _known(event, _tree(file_type), "", extra, _keys(file_type))
        missing = [key for key in sorted(_keys(file_type)) if not _at(event, key)]
        if missing:
            raise EventError(f"missing or empty - at $.{missing[0]}")
    except EventError as error:
        return Sorted(b"", "rejected", str(error))
    for field in ("source_type", "timestamp"):
        known[field] = event[field]
    if extra:
        known["_extra"] = extra
    try:
        # encoded anew: a field given twice, which the engine refuses, is there once
        return Sorted(msgspec.json.encode(known), "good", "")
    except (RecursionError, ValueError, OverflowError) as error:
        return Sorted(b"", "rejected", str(error))


def _at(event: Any, path: str) -> Any:
    for part in path.split("."):
        event = event.get(part) if isinstance(event, dict) else None
    return event if event != 0 else "0"


def _known(value: Any, tree: dict[str, Any], path: str, extra: dict[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EventError(f"expected an object, got {type(value).__name__} - at ${path}")
    known: dict[str, Any] = {}
    for field, inner in value.items():
        below = f"{path}.{field}"
        if field not in tree:
            if path or field not in _TOP:
                extra[below[1:]] = inner
            continue
        node = tree[field]
        if inner is None or node is None:
            continue
        if isinstance(node, dict):
            known[field] = _known(inner, node, below, extra, keys)
        else:
            known[field] = _leaf(node, inner, f"${below}", extra)
    return known


def _leaf(column: Column, value: Any, at: str, extra: dict[str, Any]) -> Any:
    if column.type == "json":
        return value
    if column.type == "spans":
        if not isinstance(value, list):
            raise EventError(f"expected a list, got {type(value).__name__} - at {at}")
        return [_span(span, f"{at}[{index}]", extra) for index, span in enumerate(value)]
    if column.type == "int" and column.scale == 1:
        return _expect_int(value, at, column.limits)
    if column.type in ("int", "float"):
        return _expect_float(value, at, column)
    if column.type == "bool":
        if not isinstance(value, bool):
            raise EventError(f"expected true or false, got {value!r:.80} - at {at}")
        return value
    if not isinstance(value, str):
        raise EventError(f"expected a string, got {type(value).__name__} - at {at}")
    if column.type == "id":
        try:
            base64.b64decode(value, validate=True)
        except binascii.Error:
            raise EventError(f"expected base64, got {value!r:.80} - at {at}") from None
    return value


def _span(span: Any, at: str, extra: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(span, dict):
        raise EventError(f"expected an object, got {type(span).__name__} - at {at}")
    known: dict[str, Any] = {}
    for field, value in span.items():
        kind = _SPAN.get(field)
        if kind is None:
            extra[f"{at[2:]}.{field}"] = value
        elif kind == "int":
            known[field] = _expect_int(value, f"{at}.{field}", SPAN_LIMITS)
        elif isinstance(value, str):
            known[field] = value
        else:
            raise EventError(f"expected a string, got {type(value).__name__} - at {at}.{field}")
    return known


def _expect_int(value: Any, at: str, limits: tuple[int, int]) -> int:
    """Return a number as Ray writes it: JSON's own, or (64 bits) a string of digits."""
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool) or not -(2**63) <= number < 2**63:
        raise EventError(f"expected a 64-bit integer, got {value!r:.80} - at {at}")
    if not limits[0] <= number <= limits[1]:
        raise EventError(f"expected an integer from {limits[0]} to {limits[1]}, got {number} - at {at}")
    return number


def _expect_float(value: Any, at: str, column: Column) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise EventError(f"expected a number, got {value!r:.80} - at {at}") from None
    if not math.isfinite(number) or not (
        column.type == "float" or column.limits[0] <= number * column.scale <= column.limits[1]
    ):
        raise EventError(f"expected a number that is one, got {value!r:.80} - at {at}")
    return number
