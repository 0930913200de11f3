"""Show: the SQL that gives the world the columns of states."""

from __future__ import annotations

import re
from collections.abc import Iterable

from raytrail.entities import Column, Derived, Entity
from raytrail.fold.layout import find, shown, stored
from raytrail.fold.literals import quote
from raytrail.fold.names import reads


def public(column: Column | Derived) -> str:
    """Return the expression that shows a column of a state to the world."""
    value = raw(column)
    if column.type == "id":
        return f"lower(hex({value}))"
    if column.type == "json":
        return f"try_cast(({value}) AS JSON)"  # of texts, anybody's may be none
    return value


def raw(column: Column | Derived) -> str:
    """Return the expression to filter and sort a column by: what `public` shows, before it is made readable."""
    if isinstance(column, Derived) and not column.stored:
        return f"({column.sql})"
    return quote(column.name)


def view(entity: Entity, source: str, names: Iterable[str] | None = None) -> str:
    """Return the SELECT that shows states to the world, with these columns or all."""
    wanted = shown(entity) if names is None else [find(entity, name) for name in names]
    return f"SELECT {', '.join(f'{public(c)} AS {quote(c.name)}' for c in wanted)} FROM {source}"


def columns_in(entity: Entity, statement: str) -> list[Column | Derived]:
    """Return the columns of an entity's view that a SELECT of ours names. The engine plans each that the view has."""
    words = set(re.findall(r"\w+", statement))
    return [column for column in shown(entity) if column.name in words]


def read_from(entity: Entity, wanted: Iterable[Column | Derived]) -> list[str]:
    """Return the names of the stored columns that these are made of."""
    names: dict[str, None] = {}
    for column in wanted:
        names |= dict.fromkeys([column.name] if column.name in stored(entity) else reads(entity, raw(column)))
    return list(names)
