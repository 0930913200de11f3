"""``raytrail summary``: how many of what are in which state."""

from __future__ import annotations

from typing import Any

import click

from raytrail.cli import _history, _options, _output
from raytrail.cli._output import Field
from raytrail.config import Config
from raytrail.store import Filter

BY = {
    "tasks": ("task", ("func_or_class_name", "type"), "state"),
    "actors": ("actor", ("class_name",), "state"),
}

COUNTED = {"tasks": (Filter("type", "!=", None), Filter("type", "!=", "DRIVER_TASK")), "actors": ()}


@click.command(cls=_options.Command)
@click.argument("noun", type=click.Choice(sorted(BY)))
@_options.cluster
@_options.at
@_options.output_format("table", "json", "csv")
@_options.settings("store.dir", "store.threads", "store.memory_bytes")
def summary(noun: str, cluster_id: str, at: str | None, form: str, config: Config) -> None:
    """
    Count tasks or actors by name and state.

    Counts the task attempts that `ray summary tasks` would: without drivers, and without those of which only
    a part was exported.
    """
    entity, names, state = BY[noun]
    with _history.reading(config) as store:
        cluster = _history.chosen(store, cluster_id)
        groups = _history.snapshot(store, cluster, at).group(entity, (*names, state), COUNTED[noun])
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for group in groups:
        row = rows.setdefault(
            tuple(group[name] for name in names), {**{name: group[name] for name in names}, "total": 0}
        )
        row["total"] += group["count"]
        row[group[state]] = group["count"]
    ordered = sorted(rows.values(), key=lambda row: (-row["total"], *(str(row[name]) for name in names)))
    states = sorted({str(group[state]) for group in groups})
    columns = [*names, "total", *states]
    if form == "json":
        _output.write_json(ordered)
    elif form == "csv":
        _output.write_csv(columns, ordered)
    elif not ordered:
        _output.note(f"no {noun}")
    else:
        totals = {column: sum(row.get(column, 0) for row in ordered) for column in columns[len(names) :]}
        fields = [Field(name) for name in names] + [Field(column, right=True) for column in totals]
        _output.table(fields, [*ordered, {names[0]: "all", **totals}])
