"""The order of an answer's rows, by any of their columns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from raytrail.errors import ConfigError
from raytrail.words import instead

T = TypeVar("T", bound=msgspec.Struct)


def ordered(rows: Iterable[T], kind: type[T], order: str) -> list[T]:
    """
    Return rows sorted by a column. Rows without a value come last, and rows of one value stay as they are.

    Args:
        rows: The rows.
        kind: Their struct.
        order: The column, with ``-`` before one that descends.

    Raises:
        ConfigError: There is no such column, or its values have no order.
    """
    name = order.removeprefix("-")
    columns = [field.name for field in msgspec.structs.fields(kind) if not str(field.type).startswith("dict")]
    if name not in columns:
        raise ConfigError(f"order {order!r}{instead(name, columns, 'the columns are')}")
    every = list(rows)
    known = [row for row in every if getattr(row, name) is not None]
    known.sort(key=lambda row: getattr(row, name), reverse=order.startswith("-"))
    return [*known, *(row for row in every if getattr(row, name) is None)]


def order_by(order: str) -> str:
    """Return the same in SQL."""
    return f"{order.removeprefix('-')}{' DESC' * order.startswith('-')} NULLS LAST"
