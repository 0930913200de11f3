"""``raytrail list``: rows of a cluster, as they were at any time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from raytrail import times
from raytrail.config import Config
from raytrail.entities import Entity, Type
from raytrail.store import Filter, Snapshot
from raytrail.terminal import note, nouns, options, printing, stores
from raytrail.terminal.printing import Field

PAGE_ROWS = 50_000
"""How many rows are asked of the store at once, which bounds the memory of a long list."""
WHAT = ("name", "class_name", "entrypoint")
"""Columns that say what a row of any entity is. A table shows them before others."""
WHY = ("error_type", "message", "state_message")
"""Columns that say what went wrong."""
SPAN = ("start_time_ms", "end_time_ms")
LASTED = "lasted"
"""A column of the time from start to end, for people. Only tables have it."""


@click.command("list", cls=options.Command)
@click.argument("noun", shell_complete=nouns.complete)
@options.cluster
@options.filtered
@options.at
@click.option("--limit", type=click.IntRange(min=0), help="The most rows to list. [default: 100 in a table, else all]")
@click.option(
    "--columns", metavar="A,B,...", help="Columns to show, in this order. [default: all that there is room for]"
)
@click.option("--order", metavar="COLUMN,...", help="Columns to sort by. -COLUMN sorts the largest first.")
@options.output_format("table", "json", "csv", "parquet")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="File to write to.")
@options.settings("store.dir", "store.threads", "store.memory_bytes")
def list_(
    noun: str,
    cluster_id: str,
    filters: tuple[str, ...],
    every: bool,
    at: str | None,
    limit: int | None,
    columns: str | None,
    order: str | None,
    form: str,
    output: Path | None,
    config: Config,
) -> None:
    """
    List tasks, actors, nodes, jobs, ... of a cluster, as they were at any time.

    NOUN is one of tasks, actors, nodes, jobs, driver_jobs, submission_jobs, datasets, train_runs, files, ...
    Tasks are attempts. Their rows are those that `raytrail summary` counts and that Ray's own list shows. Drivers, and
    attempts of which only a part was exported, are listed only with --all. Dead actors, deleted objects and the like
    are listed, too, with their state. JSON is one array, a row a line, with times as integers.

    \b
    raytrail list tasks --filter state=FAILED --columns task_id,name,error_type
    raytrail list actors --at -10m --format json
    raytrail list tasks --format parquet --output tasks.parquet
    """
    if form == "parquet" and output is None:
        raise click.UsageError("--format parquet needs --output FILE: it is not text")
    if form == "table" and output is not None:
        raise click.UsageError("--output needs --format json, csv or parquet")
    entity = nouns.named(noun)
    types, sort = nouns.types(entity), nouns.columns(entity, order)
    has_lasted = form == "table" and types.keys() >= set(SPAN)
    names = nouns.columns(entity, columns, also=(LASTED,) if has_lasted else ())
    with stores.reading(config) as store:
        cluster = stores.chosen(store, cluster_id)
        view = stores.snapshot(store, cluster, at)
        asked = stores.where(store, cluster, view, entity, filters)
        where = [*nouns.counted(entity, every=every), *asked]
        shown = names or list(types)
        if form == "table":
            read = [name for name in dict.fromkeys([*names, *SPAN]) if name in types] if names else None
            rows = view.rows(entity.name, columns=read, where=where, order=sort, limit=100 if limit is None else limit)
            total = view.count(entity.name, where)
            _table(entity, rows, names, total, view.count(entity.name, asked) - total)
            return
        pages = _pages(view, entity, names, where, sort, limit)
        if form == "json":
            printing.write_json(pages, output)
        elif form == "csv":
            printing.write_csv(shown, pages, output)
        elif output is not None:
            printing.write_parquet({name: nouns.FILE_TYPES[types[name]] for name in shown}, pages, output)


def _pages(
    view: Snapshot,
    entity: Entity,
    columns: Sequence[str],
    where: Sequence[Filter],
    order: Sequence[str],
    limit: int | None,
) -> Iterator[dict[str, Any]]:
    # pages join without a gap only where the order is complete
    complete = [*order, *(key for key in entity.key if key not in {name.lstrip("-") for name in order})]
    offset = 0
    while limit is None or offset < limit:
        size = PAGE_ROWS if limit is None else min(PAGE_ROWS, limit - offset)
        page = view.rows(entity.name, columns=columns or None, where=where, order=complete, limit=size, offset=offset)
        yield from page
        offset += len(page)
        if len(page) < size:
            return


def _table(entity: Entity, rows: list[dict[str, Any]], columns: list[str], total: int, uncounted: int) -> None:
    more = f" ({uncounted:,} more with --all: drivers, or only in part exported)" if uncounted else ""
    if not rows:
        note(f"no {entity.plural}" + (f" shown of {total:,}" if total else "") + more)
        return
    types = nouns.types(entity)
    for row in rows:
        row[LASTED] = _lasted(row)
    shown = columns or _by_interest(entity, types, rows)
    ids = {name for name in shown if types.get(name) == "id"}
    cut = {name for name in ids if not columns and printing.told_apart_by_beginnings([row[name] for row in rows])}
    fields = [
        Field(
            name,
            rank=0 if columns or name in entity.key else rank,
            whole=name not in cut and name in {*ids, *entity.key},
            id=name in cut,
            right=name == LASTED,
        )
        for rank, name in enumerate(shown)
    ]
    left_out = printing.table(fields, rows)
    note(f"{len(rows):,} of {total:,} {entity.plural}" + more + ("" if len(rows) == total else "; --limit shows more"))
    printing.leave_note(left_out, "--columns a,b chooses, --format json has all")


def _lasted(row: Mapping[str, Any]) -> str:
    start_ms, end_ms = (row.get(name) for name in SPAN)
    return times.show_span(end_ms - start_ms) if start_ms is not None and end_ms is not None else ""


def _by_interest(entity: Entity, types: Mapping[str, Type], rows: list[dict[str, Any]]) -> list[str]:
    """
    Return the columns with values, but for objects.

    The state, the name and the like come first, then the other columns, then those that all rows share, and ids last.
    """
    filled = [name for name in (*types, LASTED) if any(row[name] not in (None, "") for row in rows)]
    first = [name for name in (entity.life.state, *WHAT, *WHY, LASTED, "start_time_ms") if name in filled]
    plain = [name for name in filled if types.get(name) not in ("json", "spans", "texts") and not name.endswith("_ns")]
    common = [name for name in plain if len(rows) > 1 and all(row[name] == rows[0][name] for row in rows)]
    ids = [name for name in plain if types.get(name) == "id"]
    last = [*(name for name in ids if name not in entity.key), *(name for name in entity.key if name in filled)]
    rest = [*(name for name in plain if name not in common), *common]
    return list(dict.fromkeys([*first, *(name for name in rest if name not in last), *last]))
