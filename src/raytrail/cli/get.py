"""``raytrail get`` shows one row in full."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from raytrail.config import Config
from raytrail.entities import Entity
from raytrail.errors import ConfigError, NotFoundError
from raytrail.store import Filter
from raytrail.terminal import nouns, options, printing, stores

LEAST_LETTERS = 8
"""How many letters of an id are enough to look for it. A job's id has no more."""
LONGEST_ID = 64
"""More letters than any id of Ray's has. A node's has 56."""
MOST_NAMED = 5
"""How many ids an error names."""


@click.command(cls=options.Command)
@click.argument("noun", shell_complete=nouns.complete)
@click.argument("key")
@options.cluster
@options.at
@options.output_format("table", "json")
@options.settings("store.dir", "store.threads", "store.memory_bytes")
def get(noun: str, key: str, cluster_id: str, at: str | None, form: str, config: Config) -> None:
    """
    Show one task, actor, node, job, ... in full.

    KEY is its id, or at least the first eight letters of it. A task shows all its attempts. ID:1 shows only the attempt
    of that number.
    """
    entity = nouns.named(noun)
    with stores.reading(config) as store:
        cluster = stores.chosen(store, cluster_id)
        view = stores.snapshot(store, cluster, at)
        for filters in _ways(entity, key):
            rows = view.rows(entity.name, where=filters, order=entity.key)
            if rows:
                break
        else:
            when = f" at {at}" if at else ""
            raise NotFoundError(
                f"no {entity.name} {key!r} in {cluster.session}{when}; see `raytrail list {entity.plural}`"
            )
    ids = sorted({row[entity.key[0]] for row in rows}) if not entity.view else []
    if len(ids) > 1:
        raise ConfigError(
            f"{key!r} begins the ids of several {entity.plural}: {', '.join(ids[:MOST_NAMED])}; give more of it"
        )
    if form == "json":
        printing.write_json(rows)
        return
    for index, row in enumerate(rows):
        if index:
            click.echo()
        printing.record(row)


def _ways(entity: Entity, key: str) -> Iterator[list[Filter]]:
    """Yield the filters that KEY may stand for."""
    first, _, second = key.rpartition(":")
    if entity.view:  # a job has an id, or a submission id, or both
        yield from (
            [nouns.key(entity, name, key)] for name in entity.key if entity.column(name).type != "id" or _is_hex(key)
        )
        return
    name, rest = entity.key[0], []
    if len(entity.key) > 1 and first:
        key, rest = first, [nouns.key(entity, entity.key[1], second)]
    if entity.column(name).type != "id":
        yield [nouns.key(entity, name, key), *rest]
        return
    if _is_hex(key):
        yield [nouns.key(entity, name, key), *rest]
    least = key + "0" * (len(key) % 2)
    if len(key) < LEAST_LETTERS or not _is_hex(least):
        raise ConfigError(
            f"{key!r} is no id of {entity.plural}: those are hex; "
            f"give one, or its first letters, {LEAST_LETTERS} at least"
        )
    yield [Filter(name, ">=", least), Filter(name, "<=", key.ljust(LONGEST_ID, "f")), *rest]


def _is_hex(text: str) -> bool:
    return re.fullmatch("([0-9a-f]{2})+", text) is not None
