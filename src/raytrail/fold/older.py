"""Files of older versions, as relations with the columns of today."""

from __future__ import annotations

from collections.abc import Collection

from raytrail.entities import Entity, Type
from raytrail.fold.layout import STORED, in_log
from raytrail.fold.literals import quote
from raytrail.fold.merge import empty


def filled(entity: Entity, source: str, *, partial: bool, names: Collection[str] | None = None) -> str:
    """
    Return the relation of (partial) states in files, with every column, or at least its key and these columns.

    Sealed states that an older version wrote lack the columns that were not known then; they are null.
    """
    states = f"({empty(entity, partial=partial, names=names)})"
    if partial:
        return f"(SELECT * FROM {states} UNION ALL BY NAME SELECT * FROM {source})"
    former = {c.name: (c.formerly[1], _FORMER_NULLS[c.type]) for c in entity.columns if c.formerly[1]}
    return _renamed(
        entity, states, source, {name: f"nullif({quote(old)}, {null})" for name, (old, null) in former.items()}
    )


_FORMER_NULLS: dict[Type, str] = {"text": "''", "json": "'null'", "float": "-1"}
"""What stood for null in a sealed state, before a column could merge by `latest`."""


def filled_log(entity: Entity, source: str) -> str:
    """Return the relation of rows of the log in files, with every column, as `filled`."""
    columns = "".join(f", NULL::{STORED[column.type]} AS {quote(column.name)}" for column in in_log(entity))
    former = {c.name: quote(c.formerly[0]) for c in entity.columns if c.formerly[0]}
    return _renamed(entity, f"(SELECT NULL::BIGINT AS timestamp{columns} LIMIT 0)", source, former)


def _renamed(entity: Entity, typed: str, source: str, former: dict[str, str]) -> str:
    """
    Return the relation of files with the columns of `typed`, which has no row.

    Args:
        entity: Whose files.
        typed: The relation of the columns, by today's names.
        source: The relation of the files, some of which may have columns by the names of old.
        former: Of each column that had another name, the expression over that.
    """
    if not former:
        return f"(SELECT * FROM {typed} UNION ALL BY NAME SELECT * FROM {source})"
    olds = {name: old for c in entity.columns for name in c.formerly if name for old in [STORED[c.type]]}
    columns = ", ".join(f"NULL::{kind} AS {quote(name)}" for name, kind in olds.items())
    joined = ", ".join(f"coalesce({quote(name)}, {old}) AS {quote(name)}" for name, old in former.items())
    return (
        f"(SELECT * EXCLUDE ({', '.join(map(quote, olds))}) REPLACE ({joined}) FROM (SELECT * FROM {typed} "
        f"UNION ALL BY NAME (SELECT {columns} LIMIT 0) UNION ALL BY NAME SELECT * FROM {source}))"
    )
