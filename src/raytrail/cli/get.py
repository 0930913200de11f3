"""``raytrail get``: one row in full."""

from __future__ import annotations

import click

from raytrail.cli import _history, _nouns, _options, _output
from raytrail.config import Config
from raytrail.errors import NotFoundError


@click.command(cls=_options.Command)
@click.argument("noun")
@click.argument("key")
@_options.cluster
@_options.at
@_options.output_format("table", "json")
@_options.settings("store.dir", "store.threads", "store.memory_bytes")
def get(noun: str, key: str, cluster_id: str, at: str | None, form: str, config: Config) -> None:
    """
    Show one task, actor, node, job, ... in full.

    KEY is its id. A task shows all its attempts; ID:1 is only the attempt of that number.
    """
    one = _nouns.noun(noun)
    value, _, second = key.partition(":") if len(one.keys) > 1 and one.entity != "job" else (key, "", "")
    with _history.reading(config) as store:
        cluster = _history.chosen(store, cluster_id)
        view = _history.snapshot(store, cluster, at)
        ways = [[one.keys[0]], [one.keys[1]]] if one.entity == "job" else [[*one.keys[: 2 if second else 1]]]
        for keys in ways:
            texts = tuple(f"{name}={text}" for name, text in zip(keys, (value, second), strict=False))
            rows = view.rows(one.entity, where=_nouns.where(one, texts, int), order=one.keys)
            if rows:
                break
        else:
            when = f" at {at}" if at else ""
            raise NotFoundError(
                f"no {one.entity} {key!r} in {cluster.session}{when}; see `raytrail list {one.plural}`"
            )
    if form == "json":
        _output.write_json(rows)
        return
    for index, row in enumerate(rows):
        if index:
            click.echo()
        _output.record(row)
