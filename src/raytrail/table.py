"""A table of the Python API: rows, columns for other libraries, and itself in a notebook."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib import import_module
from typing import Any, TypeAlias, overload

import msgspec

from raytrail.errors import ConfigError
from raytrail.store import Rows

Row: TypeAlias = dict[str, Any]

_SHOWN_ROWS = 20
"""How many rows of a table a notebook shows."""


class Table(Sequence[Row]):
    """
    Rows with named columns, read when they are first looked at. To count those of
    an entity, or to show the first, reads no others.

    It is a sequence of dictionaries. Polars, pandas, Arrow and DuckDB read it as columns, without a Python object for
    each value: ``polars.DataFrame(table)``, ``pyarrow.table(table)``. Values that are objects or lists in JSON are text
    there.
    """

    def __init__(
        self,
        name: str,
        columns: Sequence[str],
        rows: Callable[[int | None], list[Row]],
        *,
        count: Callable[[], int] | None = None,
        stream: Callable[[], object] | None = None,
    ) -> None:
        """
        Make a table.

        Args:
            name: The name of its rows, in the plural.
            columns: Their names, in order.
            rows: Reads the first so many of them. None means all.
            count: Counts them. None reads them all.
            stream: Reads them as an Arrow stream (a PyCapsule). None makes it of the rows.
        """
        self._name = name
        self.columns = tuple(columns)
        self._read = rows
        self._count = count
        self._stream = stream

    @cached_property
    def _rows(self) -> list[Row]:
        return self._read(None)

    @property
    def _is_read(self) -> bool:
        return "_rows" in self.__dict__

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows) if self._is_read or self._count is None else self._count()

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __repr__(self) -> str:
        return f"<{len(self):,} {self._name}: {', '.join(self.columns)}>"

    def _repr_html_(self) -> str:
        """Return the first rows as a table, for a notebook."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_cell(row[name]))}</td>" for name in self.columns) + "</tr>"
            for row in (self[:_SHOWN_ROWS] if self._is_read or self._count is None else self._read(_SHOWN_ROWS))
        )
        count = len(self)
        more = f"{min(count, _SHOWN_ROWS):,} of {count:,} {html.escape(self._name)}"
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{more}</p>"

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """
        Return the rows as Arrow's C stream, which other libraries ask for.

        Args:
            requested_schema: Is not minded, as the interface allows.
        """
        if self._stream is not None:
            return self._stream()
        return self.arrow().__arrow_c_stream__(requested_schema)

    def arrow(self) -> Any:
        """
        Return a ``pyarrow.Table``.

        Raises:
            ConfigError: pyarrow is not installed.
        """
        pyarrow = _library("pyarrow")
        if self._stream is not None:
            return pyarrow.table(self)
        return pyarrow.table({name: [_plain(row[name]) for row in self] for name in self.columns})

    def polars(self) -> Any:
        """
        Return a ``polars.DataFrame``.

        Raises:
            ConfigError: Polars is not installed.
        """
        return _library("polars").DataFrame(self if self._stream is not None else self.arrow())

    def pandas(self) -> Any:
        """
        Return a ``pandas.DataFrame``.

        Raises:
            ConfigError: pandas or pyarrow is not installed.
        """
        _library("pandas")
        return self.arrow().to_pandas()


def of_structs(name: str, kind: type[msgspec.Struct], read: Callable[[], Sequence[msgspec.Struct]]) -> Table:
    """Return the table of structs of one kind."""
    return Table(name, kind.__struct_fields__, lambda most: [msgspec.to_builtins(struct) for struct in read()[:most]])


def of_answer(rows: Rows) -> Table:
    """Return the table of what a question in SQL gives."""

    def read(most: int | None) -> list[Row]:
        return [dict(zip(rows.columns, row, strict=True)) for row in rows.rows[:most]]

    return Table("rows", rows.columns, read)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} is not installed here ({error}); pip install {name}") from error


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _plain(value: Any) -> Any:
    """Return a value as a column holds it: objects and lists as JSON."""
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list | tuple) else value
