"""The entities of commands, with their nouns, their columns' types, the rows that count, and the form of filters."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, cast

import click

from raytrail.answers.scope import COUNTED
from raytrail.api import column, enumerated
from raytrail.entities import Column, Derived, Entity, Type, installed
from raytrail.errors import ConfigError
from raytrail.fold.layout import STORED, shown
from raytrail.store import Filter
from raytrail.store.filters import Op
from raytrail.words import instead

FILE_TYPES: dict[Type, str] = {**STORED, "id": "VARCHAR"}
"""The engine's type of each of ours in a Parquet file for others: ids as the hex that Ray shows."""

_FILTER = re.compile(r"\s*(\w+)\s*(!=|<=|>=|=|<|>)(.*)", re.DOTALL)


class Asked(NamedTuple):
    """The parts that a filter is understood by, besides the entity."""

    parse_time: Callable[[str], int]
    """How a TIME becomes milliseconds."""
    is_there: Callable[[Filter], bool]
    """Tells whether any row of the cluster, at any time that can be asked for, is as a condition says."""


def named(noun: str) -> Entity:
    """
    Return the entity that a noun means: singular or plural, in any case, with ``-`` for ``_`` as in Ray's commands.

    Raises:
        ConfigError: None is installed under it.
    """
    plain = noun.lower().replace("-", "_")
    for entity in installed().values():
        if plain in (entity.name, entity.plural):
            return entity
    plurals = sorted(entity.plural for entity in installed().values())
    raise ConfigError(f"no entity {noun!r}{instead(plain, plurals, 'there are')}")


def complete(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """Return the nouns that begin so, for the shell."""
    return sorted(
        entity.plural for entity in installed().values() if entity.plural.startswith(begun.lower().replace("-", "_"))
    )


def columns(entity: Entity, text: str | None, also: Collection[str] = ()) -> list[str]:
    """
    Return the names in a comma-separated list of columns. A name to sort downwards by keeps its ``-``.

    Args:
        entity: The entity whose columns they are.
        text: The list, or None for an empty one.
        also: Names beside those of its columns.

    Raises:
        ConfigError: There is no such column.
    """
    names = [part.strip() for part in (text or "").split(",") if part.strip()]
    return [
        name if name in also else "-" * name.startswith("-") + column(entity, name.removeprefix("-")).name
        for name in names
    ]


def counted(entity: Entity, *, every: bool) -> tuple[Filter, ...]:
    """Return the conditions of the rows that count: those that Ray's own list shows, or every row."""
    return () if every else COUNTED.get(entity.name, ())


def types(entity: Entity) -> dict[str, Type]:
    """Return what each column holds, in the order declared."""
    return {column.name: column.type for column in shown(entity)}


def where(entity: Entity, filters: Sequence[str], asked: Asked) -> list[Filter]:
    """
    Return what ``--filter`` says.

    Args:
        entity: The entity whose rows are listed.
        filters: ``state=FAILED``, ``attempt_number>0``, ``start_time_ms>-5m``, ...
        asked: How they are understood.

    Raises:
        ConfigError: One is not of this form, there is no such column, or its value is not of the column's type.
    """
    return [_filter(entity, text, asked) for text in filters]


def key(entity: Entity, name: str, text: str) -> Filter:
    """
    Return the condition that a column of the key is exactly that.

    Raises:
        ConfigError: It is not of the column's type.
    """
    return Filter(name, "=", _value(column(entity, name), text, int))


def _filter(entity: Entity, text: str, asked: Asked) -> Filter:
    match = _FILTER.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"filter {text!r} is not COLUMN OPERATOR VALUE; write it like state=FAILED or attempt_number>0"
        )
    named_column, op = column(entity, match[1]), cast("Op", match[2])
    value = _value(named_column, match[3].strip(), asked.parse_time)
    condition = Filter(named_column.name, op, value)
    if not isinstance(value, str) or named_column.type != "text" or op not in ("=", "!="):
        return condition
    # as Ray's own filters compare texts (`do_filter`, ray/dashboard/state_api_utils.py, Ray 2.60)
    condition = condition._replace(ignore_case=True)
    return enumerated(named_column, condition, asked.is_there) if named_column.values else condition


def _value(column: Column | Derived, text: str, parse_time: Callable[[str], int]) -> Any:
    if text == "null":
        return None
    for unit, per_ms in (("_ms", 1), ("_ns", 1_000_000)):
        if column.type == "int" and column.name.endswith(unit):
            return parse_time(text) * per_ms
    try:
        if column.type == "bool":
            return {"true": True, "false": False}[text.lower()]
        if column.type == "id":
            bytes.fromhex(text)
        return int(text) if column.type == "int" else float(text) if column.type == "float" else text
    except (ValueError, KeyError) as error:
        wanted = {
            "int": "a whole number",
            "float": "a number",
            "bool": "true or false",
            "id": "an id in hex",
        }[column.type]
        raise ConfigError(f"filter on {column.name}: {text!r} is not {wanted}") from error
