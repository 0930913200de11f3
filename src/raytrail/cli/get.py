"""``raytrail get``: one row in full."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from raytrail.config import Config
from raytrail.entities import Entity
from raytrail.errors import NotFoundError
from raytrail.store import Filter
from raytrail.terminal import nouns, options, printing, stores


@click.command(cls=options.Command)
@click.argument("noun")
@click.argument("key")
@options.cluster
@options.at
@options.output_format("table", "json")
@options.settings("store.dir", "store.threads", "store.memory_bytes")
def get(noun: str, key: str, cluster_id: str, at: str | None, form: str, config: Config) -> None:
    """
    Show one task, actor, node, job, ... in full.

    KEY is its id. A task shows all its attempts; ID:1 is only the attempt of that number.
    """
    one = nouns.named(noun)
    with stores.reading(config) as store:
        cluster = stores.chosen(store, cluster_id)
        view = stores.snapshot(store, cluster, at)
        for filters in _ways(one, key):
            rows = view.rows(one.name, where=filters, order=one.key)
            if rows:
                break
        else:
            when = f" at {at}" if at else ""
            raise NotFoundError(f"no {one.name} {key!r} in {cluster.session}{when}; see `raytrail list {one.plural}`")
    if form == "json":
        printing.write_json(rows)
        return
    for index, row in enumerate(rows):
        if index:
            click.echo()
        printing.record(row)


def _ways(one: Entity, key: str) -> Iterator[list[Filter]]:
    """Yield the filters that KEY may stand for."""
    first, _, second = key.rpartition(":")
    if one.view:  # a job has an id, or a submission id, or both
        yield from ([nouns.key(one, name, key)] for name in one.key if one.column(name).type != "id" or _is_hex(key))
    elif len(one.key) > 1 and first:
        yield [nouns.key(one, one.key[0], first), nouns.key(one, one.key[1], second)]
    else:
        yield [nouns.key(one, one.key[0], key)]


def _is_hex(text: str) -> bool:
    return re.fullmatch("([0-9a-f]{2})+", text) is not None
