"""Nouns on the command line: the entities, and ``jobs``, which is Ray's own view of two of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from raytrail.entities import Type, installed
from raytrail.entities import entity as entity_of
from raytrail.entities.sql import shown
from raytrail.errors import ConfigError
from raytrail.store import Filter

_FILTER = re.compile(r"\s*(\w+)\s*(!=|<=|>=|=|<|>)(.*)", re.DOTALL)

_JOB: dict[str, Type] = {
    # JobState in ray/util/state/common.py, Ray 2.60
    "job_id": "id",
    "submission_id": "text",
    "type": "text",
    "status": "text",
    "entrypoint": "text",
    "start_time_ms": "int",
    "end_time_ms": "int",
    "message": "text",
    "error_type": "text",
    "driver_exit_code": "int",
    "driver_info": "json",
    "metadata": "json",
    "runtime_env": "json",
    "driver_agent_http_address": "text",
    "driver_node_id": "id",
}


ENGINE_TYPES: dict[Type, str] = {
    "id": "VARCHAR",
    "text": "VARCHAR",
    "texts": "VARCHAR[]",
    "int": "BIGINT",
    "float": "DOUBLE",
    "bool": "BOOLEAN",
    "json": "JSON",
    "spans": "JSON",
}
"""What a Parquet file of rows holds."""


class Noun(NamedTuple):
    """What can be listed."""

    entity: str
    plural: str
    keys: tuple[str, ...]
    """The columns that one is got by: the first that has the value given, further ones narrow it down."""
    state: str
    types: dict[str, Type]
    """Each column with what it holds, in the order of a table."""


def noun(word: str) -> Noun:
    """
    Return the noun of that name, singular or plural.

    Raises:
        NotFoundError: There is none.
    """
    if word in ("job", "jobs"):
        return Noun("job", "jobs", ("job_id", "submission_id"), "status", _JOB)
    entity = entity_of(word)
    return Noun(entity.name, entity.plural, entity.key, entity.state, {c.name: c.type for c in shown(entity)})


def nouns() -> list[str]:
    """Return every noun, in the plural."""
    return sorted(["jobs", *(entity.plural for entity in installed().values())])


def where(one: Noun, filters: tuple[str, ...], parse_time: Callable[[str], int]) -> list[Filter]:
    """
    Return what ``--filter`` says.

    Args:
        one: What is listed.
        filters: ``state=FAILED``, ``attempt_number>0``, ``start_time_ms>-5m``, ...
        parse_time: How a TIME becomes milliseconds.

    Raises:
        ConfigError: One is not of this form, or its value is not of the column's type.
    """
    return [_filter(one, text, parse_time) for text in filters]


def _filter(one: Noun, text: str, parse_time: Callable[[str], int]) -> Filter:
    match = _FILTER.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"filter {text!r} is not COLUMN OPERATOR VALUE; write it like state=FAILED, attempt_number>0 or name!=f"
        )
    column, operator, value = match[1], _operator(match[2]), match[3].strip()
    return Filter(column, operator, _value(column, one.types.get(column, "text"), value, parse_time))


def _operator(text: str) -> Literal["=", "!=", "<", "<=", ">", ">="]:
    return text  # type: ignore[return-value]  # the expression matches no others


def _value(column: str, kind: Type, text: str, parse_time: Callable[[str], int]) -> Any:
    if kind == "int" and column.endswith("_ms"):
        return parse_time(text)
    if kind == "int" and column.endswith("_ns"):
        return parse_time(text) * 1_000_000
    try:
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        return int(text) if kind == "int" else float(text) if kind == "float" else text
    except (ValueError, KeyError) as error:
        wanted = {"int": "a whole number", "float": "a number", "bool": "true or false"}[kind]
        raise ConfigError(f"filter on {column}: {text!r} is not {wanted}") from error
