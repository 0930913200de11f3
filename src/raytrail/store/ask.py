"""Check what others may ask in SQL, which is one SELECT over the store's views, as the engine's own parser reads it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from raytrail.errors import ConfigError

_KINDS = frozenset(
    {
        *("SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"),
        *("BASE_TABLE", "EMPTY", "EXPRESSION_LIST", "JOIN", "PIVOT", "SHOW_REF", "SUBQUERY", "TABLE_FUNCTION"),
        *("DISTINCT_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "ORDER_MODIFIER"),
        *("ORDER_DEFAULT", "ASCENDING", "DESCENDING"),
    }
)
"""
The parts that a question may be made of, beside expressions. They read and write nothing.

All that is not named here is refused, whatever a later engine knows. In DuckDB 2.0 a SELECT may hold an INSERT or a
COPY as a common table expression.
"""
FUNCTIONS = frozenset({"generate_series", "json_each", "json_tree", "range", "repeat", "repeat_row", "unnest"})
"""Functions in the place of a table that see nothing but what they are given."""
_ALL_TABLES = "tables"
_NO_FILE = re.compile(r"[\w -]+")
"""
The names that a question may give with WITH.

Outside its scope such a name is one that the engine does not know. It takes that for a file's, if it has a dot.
"""


def tables(tree: Mapping[str, Any], known: Collection[str]) -> frozenset[str]:
    """
    Return which of the views a question asks.

    Args:
        tree: The question, as `raytrail.store.engine.Engine.tree` gives it.
        known: The views' names.

    Raises:
        ConfigError: It is not one SELECT, or asks for anything but these views.
    """
    statements = tree["statements"]
    if len(statements) != 1:
        raise ConfigError(f"SQL: {len(statements)} statements; ask one SELECT")
    parts = [*_parts(statements[0])]
    asked = {name for part in parts if (name := _table(part)) is not None}
    defined = {str(entry["key"]).lower() for part in parts for entry in part.get("cte_map", {}).get("map", ())}
    for name in sorted(defined):
        if not _NO_FILE.fullmatch(name):
            raise ConfigError(f"SQL: WITH names {name!r}; write a name of letters, digits, spaces, - and _")
    for name in sorted(asked - defined - {_ALL_TABLES} - {view.lower() for view in known}):
        near = difflib.get_close_matches(name, known, n=1)
        guess = f"did you mean {near[0]}" if near else f"there are {', '.join(sorted(known))}"
        raise ConfigError(f"SQL: no table {name!r}; {guess}{'?' if near else ''}")
    return frozenset(known if _ALL_TABLES in asked else (view for view in known if view.lower() in asked))


def _parts(tree: Any) -> Iterator[Mapping[str, Any]]:
    """
    Yield every object of a tree.

    It may be as deep as the engine parses, which is too deep for recursion in Python.
    """
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _table(part: Mapping[str, Any]) -> str | None:
    """Return the table that a part of a question names, if it is one that does."""
    kind = part.get("type")
    if not isinstance(kind, str) or "class" in part:
        return None
    if kind not in _KINDS and not kind.endswith("_TYPE_INFO"):  # which DuckDB 1.5 says of a cast, and 2.0 does not
        raise ConfigError(f"SQL: {kind.removesuffix('_QUERY_NODE')} is not taken; ask one SELECT, which only reads")
    if kind == "TABLE_FUNCTION":
        function = part["function"]
        name = str(function.get("function_name", ""))
        if name.lower() not in FUNCTIONS or function.get("schema") or function.get("catalog"):
            raise ConfigError(
                f"SQL: the function {name} cannot stand for a table; ask the views, or {', '.join(sorted(FUNCTIONS))}"
            )
        return None
    name = str(part.get("table_name", "")).strip('"').lower()
    if kind == "BASE_TABLE" and (part.get("schema_name") or part.get("catalog_name")):
        raise ConfigError(f"SQL: {name!r} is asked for in another schema; views are named without one")
    if kind == "BASE_TABLE" or (kind == "SHOW_REF" and "query" not in part):
        return name
    return None
