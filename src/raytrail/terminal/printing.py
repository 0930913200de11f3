"""Write rows on stdout, for people and for programs. Notes about them go to stderr."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import click
import msgspec
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raytrail import times, words
from raytrail.config import StoreConfig
from raytrail.fold.literals import literal
from raytrail.store.engine import Engine, copy_parquet, lines
from raytrail.terminal import note

TEXT_CELLS = 40
"""Widest that a text of no fixed length may be in a table for people."""
FLAT_CELLS = 64
"""A JSON value up to this long stays on one line."""
WRAPPED_CELLS = 24
"""Least room for a column whose texts are wrapped."""
_COLOUR = re.compile("\x1b\\[[0-9;]*m")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
GAP = 2
"""Cells between two columns."""
ID_CELLS = 17
"""Widest that an id may be on a terminal: 16 letters, by which `raytrail get` finds it, and the mark of a cut."""
STATES = ("state", "status")
"""The names of columns that hold a state of Ray's."""
_STYLES = {"good": "green", "bad": "red", "": ""}
# from the first space of a run on: from each one, a long run would take time by its square
_TRAILING = re.compile("(?:(?<! ) |\x1b\\[[0-9;]*m)(?: |\x1b\\[[0-9;]*m)*$", re.MULTILINE)
TIMES = ("_ms", "_ns", "_event_s")
"""How the names of columns end that hold a time since the epoch."""
NOTE_CELLS = 40
"""Room for names in a note."""
OFF_TERMINAL = 100_000
"""Width where stdout is no terminal: nothing is cut or left out for want of room."""


class Field(NamedTuple):
    """A column of a table for people."""

    name: str
    rank: int = 0
    """When not all fit, those of the highest rank are left out first. Those of rank 0 always stay."""
    whole: bool = False
    """Never cut, whatever its length."""
    id: bool = False
    """Cut to its first letters, on a terminal."""
    right: bool = False
    """Set to the right. Numbers are anyway."""


def table(fields: Sequence[Field], rows: Sequence[Mapping[str, Any]], *, wrap: str = "") -> list[str]:
    """
    Print a table that fits the terminal. Off a terminal, nothing is cut or left out.

    Args:
        fields: The columns, from left to right.
        rows: Values by column. Columns that no field names are not shown.
        wrap: A column whose texts go on below, in the room that the others leave.

    Returns:
        The names of the columns that there was no room for.
    """
    console = _console()
    room = console.width
    cells = {f.name: [_cell(f.name, row.get(f.name)) for row in rows] for f in fields}
    widths = {f.name: _width(f, cells[f.name], cut=room < OFF_TERMINAL) for f in fields}
    ids = {f.name for f in fields if f.id}
    if wrap:
        widths[wrap] = min(widths[wrap], WRAPPED_CELLS)
    left_out = _crowded_out(fields, widths, room)
    _spread(widths, cells, left_out, {*ids, wrap}, room)
    grid = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold", collapse_padding=True)
    shown = [field for field in fields if field.name not in left_out]
    for field in shown:
        right = field.right or _numeric(field.name, rows)
        grid.add_column(
            field.name,
            justify="right" if right else "left",
            no_wrap=field.name != wrap,
            min_width=None if field.name == wrap else widths[field.name],
        )
    for index in range(len(rows)):
        texts = ((field.name, cells[field.name][index]) for field in shown)
        grid.add_row(
            *(Text(text if name == wrap else _cut(text, widths[name]), _style(name, text)) for name, text in texts)
        )
    with console.capture() as captured:
        console.print(grid, crop=False, no_wrap=not wrap, overflow="ignore")
    click.echo(_TRAILING.sub(_without_spaces, captured.get()), nl=False, color=True)
    return left_out


def told_apart_by_beginnings(ids: Iterable[str | None]) -> bool:
    """
    Return whether the letters that are shown of a cut id tell these from each other, and from others.

    A driver's task, and one that made an actor, begin with as many letters ``f``.
    """
    whole = {text for text in ids if text}
    beginnings = {text[: ID_CELLS - 1] for text in whole}
    return len(beginnings) == len(whole) and "f" * (ID_CELLS - 1) not in beginnings


def _style(name: str, text: str) -> str:
    return _STYLES[words.tone(text)] if name in STATES else ""


def _without_spaces(match: re.Match[str]) -> str:
    return match[0].replace(" ", "")


def record(row: Mapping[str, Any]) -> None:
    """Print all that is known of one row, a line a column. Large objects and long texts go on below."""
    known = {name: value for name, value in row.items() if value is not None}
    indent = max(map(len, known)) + GAP
    for name, value in known.items():
        if isinstance(value, str):
            text = _printable(value)
        else:
            text = _pretty(value) if isinstance(value, (dict, list)) else _cell(name, value)
        first, *more = text.splitlines() or [""]
        click.echo(click.style(name.ljust(indent), bold=True) + first)
        for line in more:
            click.echo(" " * indent + line)
    if len(known) < len(row):
        note(f"not known: {', '.join(name for name in row if name not in known)}")


def _pretty(value: Any, indent: str = "") -> str:
    """Return JSON with each member that is short on one line."""
    flat = msgspec.json.encode(value).decode()
    if not isinstance(value, (dict, list)) or len(flat) <= FLAT_CELLS:
        return flat
    inner = indent + "  "
    if isinstance(value, list):
        members, ends = [_pretty(member, inner) for member in value], "[]"
    else:
        members, ends = (
            [f"{msgspec.json.encode(k).decode()}: {_pretty(v, inner)}" for k, v in value.items()],
            "{}",
        )
    return f"{ends[0]}\n{inner}" + f",\n{inner}".join(members) + f"\n{indent}{ends[1]}"


def findings(rows: Iterable[tuple[str, str, str, str]]) -> None:
    """Print verdicts: how it is, what was looked at, what was found, and on the line below the cure."""
    styles = {"ok": "green", "warn": "yellow", "bad": "bold red"}
    grid = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for verdict, check, detail, cure in rows:
        grid.add_row(Text(verdict, style=styles[verdict]), Text(check), Text(detail))
        if cure:
            grid.add_row("", Text("cure", justify="right"), Text(cure, style="bold"))
    _console().print(grid)


def write_json(rows: Iterable[Any], output: Path | None = None) -> None:
    """Write rows as a JSON array, a row a line, which both ``jq`` and ``grep`` like."""
    with _writing(output) as file:
        separator = "[\n"
        for row in rows:
            file.write(separator + _encode(row))
            separator = ",\n"
        file.write("[]\n" if separator == "[\n" else "\n]\n")


def write_object(answer: Any) -> None:
    """Write one answer as JSON, indented, as the page of that answer gives it."""
    click.echo(msgspec.json.format(msgspec.json.encode(answer)).decode())


def _encode(row: Any) -> str:
    try:
        return msgspec.json.encode(row).decode()
    except OverflowError:  # msgspec stops at 64 bits, where SQL's sums go further
        return json.dumps(row, default=str, separators=(",", ":"))


def write_csv(columns: Iterable[str], rows: Iterable[Mapping[str, Any]], output: Path | None = None) -> None:
    """Write rows as CSV with a header. Objects and lists are JSON, and unknown values are empty fields."""
    columns = list(columns)
    with _writing(output) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_plain(row.get(column)) for column in columns] for row in rows)


def write_parquet(types: Mapping[str, str], rows: Iterable[Mapping[str, Any]], output: Path) -> None:
    """
    Write rows as Parquet.

    Args:
        types: The engine's types, by column.
        rows: The values of each row, by column. They are read once.
        output: The file, which is replaced at once when all is written.
    """
    columns = "{" + ", ".join(f"{literal(name)}: {literal(kind)}" for name, kind in types.items()) + "}"
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".raytrail-") as scratch:
        spool, finished = Path(scratch) / "rows.json", Path(scratch) / "rows.parquet"
        longest = 0
        with spool.open("wb") as file:
            for row in rows:
                longest = max(longest, file.write(msgspec.json.encode(row) + b"\n"))
        engine = Engine(StoreConfig(), Path(scratch))
        try:
            engine.run(copy_parquet(f"SELECT * FROM {lines(spool, columns, longest)}", finished))
        finally:
            engine.close()
        finished.replace(output)


@contextmanager
def _writing(output: Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    # a name that is there is a file that is whole
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            yield file
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)


def leave_note(left_out: Sequence[str], how: str = "--format json has all") -> None:
    """Say which columns there was no room for."""
    if left_out:
        few = [name for index, name in enumerate(left_out) if len(", ".join(left_out[: index + 1])) < NOTE_CELLS]
        more = ", ..." if len(few) < len(left_out) else ""
        note(f"not shown: {', '.join(few)}{more} ({how})")


def _console() -> Console:
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=OFF_TERMINAL)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and name.endswith(TIMES):
        unit = name.rpartition("_")[2]
        return times.show({"s": value * 1_000, "ms": value, "ns": value // 1_000_000}[unit], digits=3 * (unit != "s"))
    if isinstance(value, (dict, list)):
        return msgspec.json.encode(value).decode()
    return " ".join(_printable(str(value)).split())


def plain(text: str) -> str:
    """Return a text of several lines without what colours or steers a terminal."""
    return _printable(text)


def _printable(text: str) -> str:
    # Ray colours its error messages. Anything else that steers a terminal is somebody's trick
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _COLOUR.sub("", text))


def _plain(value: Any) -> Any:
    return msgspec.json.encode(value).decode() if isinstance(value, (dict, list, tuple, bool)) else value


def _numeric(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    if name.endswith(TIMES):
        return False
    values = [row[name] for row in rows if row.get(name) is not None]
    return bool(values) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def _width(field: Field, cells: Sequence[str], *, cut: bool) -> int:
    widest = max(map(cell_len, cells), default=0)
    most = ID_CELLS if field.id else TEXT_CELLS
    return max(cell_len(field.name), widest if field.whole or not cut else min(widest, most))


def _spread(
    widths: dict[str, int],
    cells: Mapping[str, Sequence[str]],
    left_out: Collection[str],
    stay: Collection[str],
    room: int,
) -> None:
    """Give what room is left to the columns that are cut, from left to right, but for those that stay as they are."""
    spare = room - sum(width + GAP for name, width in widths.items() if name not in left_out)
    for name in widths:
        if name not in left_out and name not in stay and spare > 0:
            more = min(spare, max(map(cell_len, cells[name]), default=0) - widths[name])
            widths[name] += max(0, more)
            spare -= max(0, more)


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def _crowded_out(fields: Sequence[Field], widths: Mapping[str, int], room: int) -> list[str]:
    out: list[str] = []
    for field in sorted(fields, key=lambda field: -field.rank):
        if not field.rank or sum(w + GAP for name, w in widths.items() if name not in out) - GAP <= room:
            break
        out.append(field.name)
    return [field.name for field in fields if field.name in out]
