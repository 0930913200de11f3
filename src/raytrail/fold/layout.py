"""Which columns an entity has: in the log, in its states, and as the world sees them."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

from raytrail.entities import COMMON, EXTRA, INFERRED, INFERRED_MS, Column, Derived, Entity, Type

STORED: dict[Type, str] = {
    "id": "BLOB",
    "text": "VARCHAR",
    "texts": "VARCHAR[]",
    "int": "BIGINT",
    "float": "DOUBLE",
    "bool": "BOOLEAN",
    "json": "VARCHAR",
    "spans": "STRUCT(start_time BIGINT, end_time BIGINT, event_name VARCHAR, extra_data VARCHAR)[]",
}
"""The engine's type for each of ours, on disk and in the fold."""


def in_log(entity: Entity) -> tuple[Column, ...]:
    """Return the columns that the log keeps of an event, besides its timestamp and place."""
    return (*(c for c in entity.columns if not c.computed), EXTRA)


def in_state(entity: Entity, names: Collection[str] | None = None) -> tuple[Column, ...]:
    """Return the columns of a state, without the derived ones: its key and those of these names, or all."""
    every = (*entity.columns, *COMMON)
    return (
        every if names is None else tuple(column for column in every if column.name in names or column.merge == "key")
    )


def plant(tree: dict[str, Any], path: str, leaf: object) -> None:
    """Put a leaf into a tree of a line's fields, at its path in the line."""
    *parents, name = path.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[name] = leaf


@cache
def stored(entity: Entity) -> dict[str, None]:
    """Return the names of the columns that a sealed state has, in order."""
    derived = (d.name for d in entity.derived if d.stored)
    return dict.fromkeys([*(c.name for c in in_state(entity)), "inferred", INFERRED_MS, *derived])


def shown(entity: Entity) -> tuple[Column | Derived, ...]:
    """Return the columns of a row as the world sees it."""
    every: list[Column | Derived] = [*entity.columns]
    every += [*entity.derived, INFERRED, *COMMON]
    return tuple(column for column in every if not column.name.startswith("_"))


def find(entity: Entity, name: str) -> Column | Derived:
    """
    Return the column of that name, those that every entity has among them.

    Raises:
        NotFoundError: It has none of that name.
    """
    for column in (INFERRED, *COMMON):
        if column.name == name:
            return column
    return entity.column(name)
