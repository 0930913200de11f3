"""Decode: the SQL that reads the rows of the log from a spool of lines, and says which of them cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from raytrail.entities import MOST_SECONDS, Column, Entity, Type
from raytrail.fold.layout import STORED, in_log, plant
from raytrail.fold.literals import literal, quote

_IN_LINE: dict[Type, str] = {**STORED, "id": "VARCHAR", "json": "JSON"}


@cache
def line_type(entity: Entity) -> str:
    """Return the ``columns`` argument of `read_json`: the type of a line of the spool."""
    tree: dict[str, object] = {"timestamp": "BIGINT", "source_type": "VARCHAR"}
    if entity.ordered():
        tree |= {"_file": "VARCHAR", "_offset": "BIGINT"}
    for column in in_log(entity):
        plant(tree, column.origin, "DOUBLE" if column.scale != 1 else _IN_LINE[column.type])

    def render(node: object) -> str:
        if isinstance(node, dict):
            return "STRUCT(" + ", ".join(f"{quote(k)} {render(v)}" for k, v in node.items()) + ")"
        return str(node)

    return "{" + ", ".join(f"{quote(k)}: {literal(render(v))}" for k, v in tree.items()) + "}"


def _decoded(column: Column) -> str:
    head, *rest = column.origin.split(".")
    value = ".".join([quote(head), *map(quote, rest)])
    if column.type == "id":
        return f"from_base64(nullif({value}, ''))"
    if column.type == "text":
        return f"nullif({value}, '')"
    if column.scale != 1:
        value = f"round({value} * {column.scale})::BIGINT"
    if column.type == "json":
        value = f"{value}::VARCHAR"
    if column.unset:
        unset = column.unset if column.type in ("int", "float") else literal(column.unset)
        return f"nullif({value}, {unset})"
    return value


def decode(entity: Entity, source: str) -> str:
    """Return the SELECT that reads the log's rows from `source`, the relation of a spool of lines."""
    columns = ["timestamp"]
    if entity.ordered():
        columns += ['"_file" AS file', '"_offset" AS line_offset']
    columns += [f"{_decoded(column)} AS {quote(column.name)}" for column in in_log(entity)]
    types = ", ".join(literal(event_type) for event_type in entity.event_types)
    return f"SELECT {', '.join(columns)} FROM {source} WHERE source_type IN ({types})"


SPAN_LIMITS = (-1, MOST_SECONDS * 10**9)
"""Between which values the times of profile events lie, in nanoseconds."""


@cache
def limits(entity: Entity) -> dict[str, tuple[int, int]]:
    """Return between which values the integers of a log's file lie, by the engine's names of its columns."""
    limits_of = {quote(column.name): column.limits for column in in_log(entity) if column.type == "int"}
    for column in in_log(entity):
        if column.type == "spans":
            for time in ("start_time", "end_time"):
                limits_of[f'{quote(column.name)}."element".{quote(time)}'] = SPAN_LIMITS
    return limits_of


@cache
def extremes(entity: Entity) -> dict[str, tuple[str, str]]:
    """Return the expressions over rows of the log of the least and the greatest of each of `limits`' integers."""
    by_column = {}
    for column in in_log(entity):
        name = quote(column.name)
        if column.type == "int":
            by_column[name] = (f"min({name})", f"max({name})")
        elif column.type == "spans":
            for time in map(quote, ("start_time", "end_time")):
                times = f"list_transform({name}, lambda s: s.{time})"
                by_column[f'{name}."element".{time}'] = (f"min(list_min({times}))", f"max(list_max({times}))")
    return by_column


def beyond_limits(entity: Entity, statistics: Mapping[str, Mapping[str, str]]) -> str:
    """
    Return which integer of a log's file is none that can be; an empty string where all can be.

    Args:
        entity: Whose file.
        statistics: What the engine says of its columns: the least and the greatest of each.
    """
    for name, (least, most) in limits(entity).items():
        of_column = statistics.get(name, {})
        for which in ("min", "max"):
            if which in of_column and not least <= int(of_column[which]) <= most:
                return f"{of_column[which]} is not from {least} to {most} - at {name}"
    return ""
