"""``raytrail sql``: one question to all clusters."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from raytrail.config import Config
from raytrail.terminal import note, options, printing, service, stores
from raytrail.terminal.printing import Field

_GIVE_UP_SECONDS = 5.0
"""How long the engine has to give up a question, which it does between two steps."""


@click.command(cls=options.Command)
@click.argument("query")
@options.output_format("table", "json", "csv", "parquet")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="File to write to.")
@options.settings(
    "store.dir", "store.threads", "store.memory_bytes", "store.sql_seconds", "store.sql_rows", "store.sql_spill_bytes"
)
def sql(query: str, form: str, output: Path | None, config: Config) -> None:
    """
    Ask all clusters in SQL.

    QUERY is one SELECT in DuckDB's SQL. It can change nothing. It is given up after `sql_seconds`, or by Ctrl-C.
    The views are named after the entities (task, actor, node, job, driver_job, ...). Their first two columns are
    cluster and session. A dash (-) reads the query from stdin.

    \b
    raytrail sql "SELECT session, state, count(*) FROM task GROUP BY ALL ORDER BY ALL"
    """
    if form == "parquet" and output is None:
        raise click.UsageError("--format parquet needs --output FILE: it is not text")
    if form == "table" and output is not None:
        raise click.UsageError("--output needs --format json, csv or parquet")
    text = sys.stdin.read() if query == "-" else query
    with stores.reading(config) as store:
        seconds = config.store.sql_seconds + _GIVE_UP_SECONDS
        with service.ended_after(
            seconds, f"SQL: not given up within {seconds:g} seconds; ended by force; ask for less"
        ):
            result = store.sql(text)
    rows = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
    if form == "json":
        printing.write_json(rows, output)
    elif form == "csv":
        printing.write_csv(result.columns, rows, output)
    elif output is not None:
        printing.write_parquet(dict(zip(result.columns, result.types, strict=True)), rows, output)
    else:
        printing.table([Field(name, whole=True) for name in result.columns], rows)
        note(f"{len(rows):,} row" + ("" if len(rows) == 1 else "s"))
