"""
The public form of an event, and its JSON Schema: both follow from the entities' columns.

    {"event_type": "ACTOR", "event_id": "97b5...", "timestamp_s": 1795419718, "cluster": "prod",
     "session": "session_...", "node_id": "c82f...", "actor": {"actor_id": "e68e...", "state": "ALIVE", ...}}

Ids are hex, as Ray shows them; states are names; times are integers whose name ends in the unit; what an event
does not say is left out. Fields that this version does not know are kept under ``extra``.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from raytrail.entities import EXTRA, Column, Entity, Type, installed, of_file_type
from raytrail.errors import ConfigError
from raytrail.event import LOG, Chunk
from raytrail.fold.lines import sort_out
from raytrail.fold.ray_event import row_ids
from raytrail.words import instead

SCHEMA_VERSION = 1
"""Raised by one when a reader of the last version could misread the new one."""

_JSON_TYPE: dict[Type, dict[str, Any]] = {
    "id": {"type": "string", "pattern": "^([0-9a-f]{2})+$"},
    "text": {"type": "string"},
    "texts": {"type": "array", "items": {"type": "string"}},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "json": {"type": ["object", "array"]},
    "spans": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "event_name": {"type": "string"},
                "start_time_ns": {"type": "integer"},
                "end_time_ns": {"type": "integer"},
                "extra_data": {"type": "string"},
            },
        },
    },
}


def event_type(source_type: str) -> str:
    """Return the public name of Ray's `source_type`: ``ACTOR`` for ``EXPORT_ACTOR``, ``CLUSTER_EVENT`` for ``GCS``."""
    public = source_type.removeprefix("EXPORT_").removeprefix("RAYTRAIL_")
    return "CLUSTER_EVENT" if public == source_type else public


def event_types(types: Collection[str]) -> frozenset[str]:
    """
    Return the event types that are asked for, in any case. None stands for all.

    Raises:
        ConfigError: There is none of that name.
    """
    known = sorted({event_type(source) for entity in installed().values() for source in entity.event_types})
    wanted = frozenset(name.upper() for name in types)
    for unknown in sorted(wanted.difference(known)):
        raise ConfigError(f"no event type {unknown!r}{instead(unknown, known, 'there are')}")
    return wanted


def field_name(column: Column) -> str:
    """Return the name of a column in the public form."""
    return column.name.lstrip("_")


def public_events(chunk: Chunk) -> Iterator[dict[str, Any]]:
    """Yield the chunk's events in their public form; lines that are not events are left out, and so are logs."""
    entities = {t: entity for entity in of_file_type(chunk.event_type) for t in entity.event_types}
    for line in () if chunk.event_type == LOG else chunk.data.splitlines():
        rows = sort_out(chunk.event_type, line).lines
        for id, row in zip(_ids(line, len(rows)), rows, strict=True):
            event = msgspec.json.decode(row)
            entity = entities[event["source_type"]]
            yield {
                "event_type": event_type(event["source_type"]),
                "event_id": id,
                "timestamp_s": event["timestamp"],
                "cluster": chunk.cluster,
                "session": chunk.session,
                "node_id": chunk.node_id,
                entity.name: _fields(entity, event),
            }


def _ids(line: bytes, rows: int) -> list[Any]:
    """Return the ids of the rows that an event gives. Mostly that is one, which has the event's own."""
    if not rows:
        return []
    event = msgspec.json.decode(line)
    own = event.get("event_id") or event.get("eventId")
    return row_ids(own, rows)


def _fields(entity: Entity, event: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for column in (*entity.columns, EXTRA):
        if column.computed:
            continue
        value: Any = event
        for part in column.origin.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        shown = _shown(column, value)
        if shown is not None:
            fields[field_name(column)] = shown
    return fields


def _shown(column: Column, value: Any) -> Any:
    if value is None or value == "":
        return None
    if column.type == "id":
        return base64.b64decode(value).hex()
    if column.type == "json":
        return None if column.unset and value == msgspec.json.decode(column.unset) else value
    if column.type == "spans":
        return [
            {f"{name}_ns" if name.endswith("_time") else name: inner for name, inner in span.items()} for span in value
        ]
    if column.scale != 1:
        value = round(value * column.scale)
    return None if column.unset and str(value) == column.unset else value


def json_schema(entity: Entity) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of an entity's events in their public form."""
    properties = {
        field_name(column): {**_JSON_TYPE[column.type], "description": column.doc, **_examples(column)}
        for column in (*entity.columns, EXTRA)
        if not column.computed
    }
    keys = [field_name(column) for column in entity.columns if column.merge == "key"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{event_type(entity.event_types[0])} event, version {SCHEMA_VERSION}",
        "description": entity.doc,
        "type": "object",
        "required": ["event_type", "timestamp_s", "cluster", "session", "node_id", entity.name],
        "properties": {
            "event_type": {"const": event_type(entity.event_types[0])},
            "event_id": {"type": ["string", "null"], "description": "Random, of Ray's making."},
            "timestamp_s": {
                "type": "integer",
                "description": "When it was written, in seconds since the epoch.",
            },
            "cluster": {
                "type": "string",
                "description": "The name its operator gave the cluster; may be empty.",
            },
            "session": {"type": "string", "description": "Ray's session."},
            "node_id": {"type": "string", "description": "The node whose agent read it; may be empty."},
            entity.name: {"type": "object", "required": keys, "properties": properties},
        },
    }


def _examples(column: Column) -> dict[str, Any]:
    # not `enum`: an event of a newer Ray, with a name that we do not know, is valid all the same
    return {"examples": list(column.values)} if column.values else {}


def schema() -> dict[str, Any]:
    """Return the JSON Schema of every event of this installation."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Raytrail event, version {SCHEMA_VERSION}",
        "oneOf": [json_schema(entity) for entity in installed().values() if entity.event_types],
    }
