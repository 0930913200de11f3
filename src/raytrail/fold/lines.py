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
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from raytrail.entities import EXTRA, MOST_SECONDS, Column, of_file_type, posted_event
from raytrail.errors import EventError
from raytrail.event import UNDECODABLE
from raytrail.fold.decode import SPAN_LIMITS
from raytrail.fold.layout import in_log, plant
from raytrail.fold.ray_event import file_lines
from raytrail.fold.strict import Field, Span, count_rows, optional, posted_decoder, raw, required, struct

_SPAN = {"event_name": "text", "start_time": "int", "end_time": "int", "extra_data": "text"}
_OF_ALL = ("source_type", "timestamp")  # every line has them, whatever its columns are
_TOP = (*_OF_ALL, "event_id")


class Sorted(NamedTuple):
    """What became of one line."""

    lines: tuple[bytes, ...]
    """It as the engine may read it, without newlines: one line, or several of an event that was posted. Else none."""
    verdict: Literal["good", "unknown", "rejected"]
    reason: str
    """Why it was set aside."""


class Checked(NamedTuple):
    """How much whole lines are."""

    lines: int
    rows: int
    """How many rows of the log they give."""


@cache
def _tree(file_type: str) -> dict[str, Any]:
    """Return the fields that a line may have, by name: an object's are a tree, others' a column or None (ignored)."""
    tree: dict[str, Any] = {}
    for entity in of_file_type(file_type):
        for column in in_log(entity):
            if column is not EXTRA:
                plant(tree, column.origin, column)
        for path in entity.ignored:
            plant(tree, path, None)
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
    """Return what reads lines that have the fields that are known, and no others."""
    tree = _tree(file_type)
    known = event_types(file_type)
    fields = [
        *_fields({name: node for name, node in tree.items() if name not in _OF_ALL}, "", _keys(file_type)),
        required("source_type", Literal[known]),
        required("timestamp", Annotated[int, msgspec.Meta(ge=0, le=MOST_SECONDS)]),
    ]
    if "event_id" not in tree:
        fields.append(raw("event_id"))
    return msgspec.json.Decoder(struct(fields))


def _fields(tree: dict[str, Any], path: str, keys: frozenset[str]) -> Iterator[Field]:
    """Yield the fields of an object that lies at a path; a key, and what it lies in, must be there."""
    for name, node in tree.items():
        below = f"{path}{name}"
        if isinstance(node, dict):
            kind = struct(_fields(node, f"{below}.", keys))
            holds_key = any(key.startswith(f"{below}.") for key in keys)
            yield required(name, kind) if holds_key else optional(name, kind)
        elif node is not None and node.type == "spans":
            yield required(name, list[Span]) if below in keys else optional(name, list[Span])
        else:
            yield required(name, msgspec.Raw) if below in keys else raw(name)


def check(file_type: str, data: bytes) -> Checked | None:
    """
    Return how many whole lines these are, if the engine can read them all and they have no field that we do not know.

    Else it returns None. It may be that some of them can be read, and that one was.
    """
    posted = posted_event(file_type)
    try:
        decoded = (posted_decoder(*posted) if posted else _decoder(file_type)).decode_lines(data)
    except UNDECODABLE:
        return None
    if len(decoded) != data.count(b"\n") + (not data.endswith(b"\n")):
        return None  # an empty line, which the decoder passes over
    return Checked(len(decoded), count_rows(posted[1], decoded) if posted else len(decoded))


def sort_out(file_type: str, line: bytes) -> Sorted:
    """
    Return what is to be done with one line: read it, perhaps mended, or set it aside.

    An event of Ray's HTTP export becomes lines of its entity's event files.
    """
    try:
        event = msgspec.json.decode(line)
        posted = posted_event(file_type)
        if posted is None:
            return _sort_event(file_type, event)
        file_type = posted[0].file_types[0]
        parts = [_sort_event(file_type, msgspec.json.decode(part)) for part in file_lines(*posted, event)]
    except EventError as error:
        return Sorted((), "rejected", str(error))
    except UNDECODABLE as error:
        return Sorted((), "rejected", str(error) or "it nests too deep")
    except (RecursionError, ValueError, OverflowError) as error:
        return Sorted((), "rejected", str(error))
    return next(
        (part for part in parts if part.verdict != "good"),
        Sorted(tuple(line for part in parts for line in part.lines), "good", ""),
    )


def _sort_event(file_type: str, event: Any) -> Sorted:
    source_type = _source_type(event)
    if source_type not in event_types(file_type):
        return Sorted((), "unknown", f"event type {source_type!r} is not known to this version")
    # encoded anew: a field given twice, which the engine refuses, is there once
    return Sorted((msgspec.json.encode(_mended(file_type, event)),), "good", "")


def _source_type(event: Any) -> str:
    if not isinstance(event, dict):
        raise EventError(f"expected an object, got {type(event).__name__} - at $")
    source_type = event.get("source_type")
    if not isinstance(source_type, str):
        raise EventError("expected a string - at $.source_type")
    return source_type


def _mended(file_type: str, event: dict[str, Any]) -> dict[str, Any]:
    """
    Return an event as the engine may read it, with the fields that are not known in ``_extra``.

    Raises:
        EventError: A field is not what its column says, or a key is missing.
    """
    _expect_int(event.get("timestamp"), "$.timestamp", (0, MOST_SECONDS))
    extra: dict[str, Any] = {}
    known = _known(event, _tree(file_type), "", extra)
    missing = [key for key in sorted(_keys(file_type)) if not _at(event, key)]
    if missing:
        raise EventError(f"missing or empty - at $.{missing[0]}")
    known |= {field: event[field] for field in _OF_ALL}
    return {**known, "_extra": extra} if extra else known


def _at(event: Any, path: str) -> Any:
    for part in path.split("."):
        event = event.get(part) if isinstance(event, dict) else None
    return event if event != 0 else "0"


def _known(value: Any, tree: dict[str, Any], path: str, extra: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an object that are known, and put the others into `extra`, by their paths."""
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
            known[field] = _known(inner, node, below, extra)
        else:
            known[field] = _leaf(node, inner, f"${below}", extra)
    return known


def _leaf(column: Column, value: Any, at: str, extra: dict[str, Any]) -> Any:
    """Return a column's value, which stands at a path of the line, as the engine may read it."""
    if column.type == "json":
        return value
    if column.type == "spans":
        return _expect_spans(value, at, extra)
    if column.type == "int" and column.scale == 1:
        return _expect_int(value, at, column.limits)
    if column.type in ("int", "float"):
        return _expect_float(value, at, column)
    if column.type == "bool":
        return _expect_bool(value, at)
    return _expect_base64(value, at) if column.type == "id" else _expect_text(value, at)


def _expect_spans(value: Any, at: str, extra: dict[str, Any]) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise EventError(f"expected a list, got {type(value).__name__} - at {at}")
    return [_span(span, f"{at}[{index}]", extra) for index, span in enumerate(value)]


def _expect_bool(value: Any, at: str) -> bool:
    if not isinstance(value, bool):
        raise EventError(f"expected true or false, got {value!r:.80} - at {at}")
    return value


def _expect_text(value: Any, at: str) -> str:
    if not isinstance(value, str):
        raise EventError(f"expected a string, got {type(value).__name__} - at {at}")
    return value


def _expect_base64(value: Any, at: str) -> str:
    text = _expect_text(value, at)
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error:
        raise EventError(f"expected base64, got {value!r:.80} - at {at}") from None
    return text


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
        else:
            known[field] = _expect_text(value, f"{at}.{field}")
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
