"""``raytrail get`` shows one row in full."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from raytrail.config import Config
from raytrail.entities import Entity
from raytrail.errors import ConfigError, NotFoundError
from raytrail.store import Filter, Snapshot
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

    KEY is its id or name. The first eight letters of a hex id will do. A task shows all its attempts. ID:1 shows only
    the attempt of that number.
    """
    entity = nouns.named(noun)
    with stores.reading(config) as store:
        cluster = stores.chosen(store, cluster_id)
        view = stores.snapshot(store, cluster, at)
        for filters in _ways(view, entity, key.replace("…", "")):
            rows = view.rows(entity.name, where=filters, order=entity.key)
            if rows:
                break
        else:
            when = f" at {at}" if at else ""
            raise NotFoundError(
                f"no {entity.name} {key!r} in {cluster.session}{when}; see `raytrail list {entity.plural}`"
            )
    if form == "json":
        printing.write_json(rows)
        return
    for index, row in enumerate(rows):
        if index:
            click.echo()
        printing.record(row)


def _ways(view: Snapshot, entity: Entity, key: str) -> Iterator[list[Filter]]:
    """
    Yield the filters that KEY may stand for.

    Raises:
        ConfigError: It can be no key, or begins several ids.
    """
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
    key = key.lower()
    if _is_hex(key):
        yield [nouns.key(entity, name, key), *rest]
    yield [nouns.key(entity, name, _completed(view, entity, key)), *rest]


def _completed(view: Snapshot, entity: Entity, begun: str) -> str:
    """
    Return the id that begins so, or what was given where there is none.

    Raises:
        ConfigError: It is no beginning of an id, is too short, or begins several.
    """
    least = begun + "0" * (len(begun) % 2)
    if not _is_hex(least):
        raise ConfigError(f"{begun!r} is no id of {entity.plural}: those are hex; give one, or the beginning of one")
    if len(begun) < LEAST_LETTERS:
        raise ConfigError(
            f"{begun!r} is too short for the id of one of the {entity.plural}; give its first {LEAST_LETTERS} letters"
        )
    name = entity.key[0]
    range_of = [Filter(name, ">=", least), Filter(name, "<=", begun.ljust(LONGEST_ID, "f"))]
    ids = [group[name] for group in view.group(entity.name, [name], range_of, limit=MOST_NAMED)]
    if len(ids) > 1:
        raise ConfigError(f"{begun!r} begins the ids of several {entity.plural}: {', '.join(ids)}; give more of it")
    return ids[0] if ids else least


def _is_hex(text: str) -> bool:
    return re.fullmatch("([0-9a-f]{2})+", text) is not None
