"""Conditions and orders of rows, as the engine's SQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from raytrail.entities import Column, Derived, Entity, Type
from raytrail.errors import ConfigError
from raytrail.fold import show
from raytrail.fold.layout import find
from raytrail.fold.literals import literal

Op = Literal["=", "!=", "<", "<=", ">", ">="]


class Filter(NamedTuple):
    """A condition on one column. A null differs from every value, and is neither less nor greater than one."""

    column: str
    op: Op
    value: Any
    """Ids as hex text. A value that the column cannot hold equals nothing."""
    ignore_case: bool = False


def ids_of(entity: Entity, where: Sequence[Filter]) -> list[Filter]:
    """Return the conditions that the index of a table answers."""
    return [condition for condition in where if (condition.column, condition.op) == (entity.key[0], "=")]


def sort_of(entity: Entity, order: Sequence[str], besides: Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """Return the terms to sort by, which are the entity's own where none is asked for, and the columns they read."""
    if order:
        columns = [find(entity, name.removeprefix("-")) for name in order]
        return [_order(entity, name) for name in order], show.read_from(entity, columns)
    own = [term for term in entity.sort if term not in besides]
    return own, own


def _order(entity: Entity, name: str) -> str:
    column = find(entity, name.removeprefix("-"))
    return f"{show.raw(column)} {'DESC' if name.startswith('-') else 'ASC'} NULLS LAST"


def condition_of(entity: Entity, where: Sequence[Filter]) -> tuple[str, list[Any]]:
    """Return the WHERE clause of these conditions, which all must hold, with its parameters."""
    terms, params = [], []
    for condition in where:
        term, values = _term(find(entity, condition.column), condition)
        terms.append(term)
        params += values
    return (f" WHERE {' AND '.join(terms)}" if terms else ""), params


_OPERATORS = {"=": "=", "!=": "IS DISTINCT FROM", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


def _term(column: Column | Derived, condition: Filter) -> tuple[str, list[Any]]:
    operator = _OPERATORS.get(condition.op)
    if operator is None:
        raise ConfigError(f"filter {condition.column}{condition.op}: not one of {', '.join(_OPERATORS)}")
    operand = show.raw(column)
    if condition.value is None:
        return (
            f"{operand} IS {'NOT ' if condition.op == '!=' else ''}NULL" if condition.op in ("=", "!=") else "FALSE"
        ), []
    try:
        value = _stored_value(column, condition.value)
    except (ValueError, TypeError):
        return ("TRUE" if condition.op == "!=" else "FALSE"), []
    if isinstance(value, str) and condition.ignore_case:
        return f"lower({operand}) {operator} lower(?)", [value]
    return f"{operand} {operator} ?", [value]


def _stored_value(column: Column | Derived, value: Any) -> Any:
    if column.type == "id":
        return bytes.fromhex(value)
    if column.type == "int":
        return int(value)
    if column.type == "float":
        return float(value)
    if column.type == "bool":
        text = str(value).lower()
        if text not in ("true", "false", "1", "0"):
            raise ValueError(value)
        return text in ("true", "1")
    return str(value)


def literal_of(kind: Type, value: Any) -> str:
    """Return a value of a key as a literal."""
    if kind == "id":
        return "'" + "".join(f"\\x{byte:02X}" for byte in value) + "'::BLOB"
    return str(int(value)) if kind == "int" else literal(str(value))
