"""``raytrail summary`` counts rows by name and state."""

from __future__ import annotations

from typing import Any

import click

from raytrail.config import Config
from raytrail.entities import Entity
from raytrail.errors import ConfigError
from raytrail.terminal import note, nouns, options, printing, stores
from raytrail.terminal.printing import Field

BY = {
    "task": ("func_or_class_name", "type"),
    "actor": ("class_name",),
    "object": ("call_site", "reference_type"),
}
"""The columns that each entity is counted by, besides its state."""


def _complete(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    return [noun for noun in nouns.complete(context, parameter, begun) if nouns.named(noun).name in BY]


UNKNOWN = "null"
"""The column of rows whose state no event told, as a filter calls it."""


@click.command(cls=options.Command)
@click.argument("noun", metavar="NOUN", shell_complete=_complete)
@options.cluster
@options.filtered
@options.at
@options.output_format("table", "json", "csv")
@options.settings("store.dir", "store.threads", "store.memory_bytes")
def summary(
    noun: str, cluster_id: str, filters: tuple[str, ...], every: bool, at: str | None, form: str, config: Config
) -> None:
    """
    Count tasks, actors or objects by name and state.

    NOUN is tasks, actors or objects. The rows that count are those that `raytrail list` shows with the same --filter,
    --at and --all. Task attempts count as in `ray summary tasks`, without drivers, and without attempts of which only a
    part was exported. All actors count, and all references to objects, also those that are gone.
    """
    entity = _counted(noun)
    names = BY[entity.name]
    with stores.reading(config) as store:
        cluster = stores.chosen(store, cluster_id)
        view = stores.snapshot(store, cluster, at)
        where = [*nouns.counted(entity, every=every), *stores.where(store, cluster, view, entity, filters)]
        groups = view.group(entity.name, (*names, entity.life.state), where)
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for group in groups:
        row = rows.setdefault(
            tuple(group[name] for name in names), {**{name: group[name] for name in names}, "total": 0}
        )
        row["total"] += group["count"]
        row[group[entity.life.state] or UNKNOWN] = group["count"]
    ordered = sorted(rows.values(), key=lambda row: (-row["total"], *(str(row[name]) for name in names)))
    states = sorted({group[entity.life.state] or UNKNOWN for group in groups})
    columns = [*names, "total", *states]
    if form == "json":
        printing.write_json(ordered)
    elif form == "csv":
        printing.write_csv(columns, ordered)
    elif not ordered:
        note(f"no {entity.plural}")
    else:
        totals = {column: sum(row.get(column, 0) for row in ordered) for column in columns[len(names) :]}
        fields = [Field(name) for name in names] + [Field(column, right=True) for column in totals]
        printing.table(fields, [*ordered, {names[0]: "all", **totals}])


def _counted(noun: str) -> Entity:
    entity = nouns.named(noun)
    if entity.name not in BY:
        raise ConfigError(
            f"{entity.plural} are not summed up, only tasks, actors and objects; see `raytrail list {noun}`"
        )
    return entity
