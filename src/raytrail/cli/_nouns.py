"""What ``list`` and ``get`` say about an entity: its columns' types, and how a filter is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, cast

from raytrail.entities import Entity, Type
from raytrail.entities.sql import STORED, shown
from raytrail.errors import ConfigError
from raytrail.store import Filter
from raytrail.store.read import Op

FILE_TYPES: dict[Type, str] = {**STORED, "id": "VARCHAR"}
"""The engine's type of each of ours in a Parquet file for others: ids as the hex that Ray shows."""

_FILTER = re.compile(r"\s*(\w+)\s*(!=|<=|>=|=|<|>)(.*)", re.DOTALL)


def types(entity: Entity) -> dict[str, Type]:
    """Return what each column holds, in the order declared."""
    return {column.name: column.type for column in shown(entity)}


def where(entity: Entity, filters: Sequence[str], parse_time: Callable[[str], int]) -> list[Filter]:
    """
    Return what ``--filter`` says.

    Args:
        entity: What is listed.
        filters: ``state=FAILED``, ``attempt_number>0``, ``start_time_ms>-5m``, ...
        parse_time: How a TIME becomes milliseconds.

    Raises:
        ConfigError: One is not of this form, or its value is not of the column's type.
        NotFoundError: There is no such column.
    """
    return [_filter(types(entity), entity, text, parse_time) for text in filters]


def _filter(known: dict[str, Type], entity: Entity, text: str, parse_time: Callable[[str], int]) -> Filter:
    match = _FILTER.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"filter {text!r} is not COLUMN OPERATOR VALUE; write it like state=FAILED or attempt_number>0"
        )
    column, value = match[1], match[3].strip()
    kind = known[column] if column in known else entity.column(column).type
    return Filter(column, cast("Op", match[2]), _value(column, kind, value, parse_time))


def _value(column: str, kind: Type, text: str, parse_time: Callable[[str], int]) -> Any:
    if text == "null":
        return None
    for unit, per_ms in (("_ms", 1), ("_ns", 1_000_000)):
        if kind == "int" and column.endswith(unit):
            return parse_time(text) * per_ms
    try:
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        if kind == "id":
            bytes.fromhex(text)
        return int(text) if kind == "int" else float(text) if kind == "float" else text
    except (ValueError, KeyError) as error:
        wanted = {
            "int": "a whole number",
            "float": "a number",
            "bool": "true or false",
            "id": "an id in hex",
        }[kind]
        raise ConfigError(f"filter on {column}: {text!r} is not {wanted}") from error
