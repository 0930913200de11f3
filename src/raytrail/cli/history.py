"""``raytrail history``: from a broker to the history on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import click

from raytrail import history as loop
from raytrail import systemd
from raytrail.config import Config, store_dir
from raytrail.kuberay import follow
from raytrail.metrics.history import Watch, answering
from raytrail.pubsub import PubSub, connect
from raytrail.pubsub.groups import group_of
from raytrail.pubsub.url import shown
from raytrail.redact import Redactor
from raytrail.store import Store
from raytrail.tail.selection import wants_log, wants_type
from raytrail.terminal import note, options, service, stores


@click.command(cls=options.Command)
@click.option("--from", "url", required=True, metavar="URL", help="URL that the agents publish to.")
@click.option(
    "--group",
    default="history",
    show_default=True,
    help="Name under which the broker remembers how far the history is. The store's id is added to it, so that "
    "histories with a store each get everything.",
)
@options.logged
@options.settings(
    "store",
    "history",
    "tail.cluster",
    "tail.event_types",
    "tail.redact",
    "tail.redact_logs",
    "tail.logs",
    "tail.log_include",
    "tail.log_exclude",
    "tail.log_file_bytes",
)
def history(url: str, group: str, config: Config) -> None:
    """
    Keep what the agents publish.

    One history writes to a store. Any number of commands and servers may read it meanwhile. It may stop or die at any
    time, since a chunk that it has not acknowledged comes again, and a chunk that comes twice is stored once. SIGTERM
    ends it within `stop_seconds`. A store that is new to a broker gets all that the broker still holds.

    Where KubeRay's collector stores events in a bucket, give the bucket: --from kuberay+s3://bucket/log, kuberay+gs://,
    kuberay+az:// or, of a copy, kuberay+file:///path. Its files are read as they come. The `tail` settings are for it
    alone, as agents have their own.
    """
    service.run(
        lambda stop: _keep(url, group, config, stop),
        unfinished=service.COMES_AGAIN,
        ends_within=lambda: config.store.stop_seconds,
    )


async def _keep(url: str, group: str, config: Config, stop: asyncio.Event) -> None:
    with stores.writing(config) as store:
        pubsub = _open(url, config)
        note(f"reading {shown(url)} as group {group_of(group, store.id)!r}, keeping {store_dir(config)}")
        watch = Watch(store)
        try:
            with watched(config, watch, store):
                systemd.notify("READY=1")
                await loop.run(pubsub, store, config.store, stop, group=group, watch=watch)
        finally:
            await pubsub.aclose()


@contextmanager
def watched(config: Config, watch: Watch, store: Store) -> Iterator[None]:
    """Answer the history's metrics meanwhile, where the settings say so."""
    if not config.history.metrics:
        yield
        return
    with answering(config.history.metrics, watch, store) as url:
        note(f"metrics of the history on {url}/metrics")
        yield


def _open(url: str, config: Config) -> PubSub:
    """Return what is read: a broker, or what KubeRay's collector has stored, whose events nobody has masked yet."""
    if not url.startswith(follow.PREFIX):
        return connect(url)
    redact = Redactor(config.tail.redact)
    return follow.KubeRay(
        url,
        redact=redact,
        wants=partial(wants_type, config.tail),
        wants_log=partial(wants_log, config.tail),
        redact_logs=redact if config.tail.redact_logs else None,
        log_bytes=config.tail.log_file_bytes,
        cluster=config.tail.cluster,
        places=store_dir(config),
    )
