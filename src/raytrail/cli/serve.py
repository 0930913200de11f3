"""``raytrail serve``: the history over HTTP."""

from __future__ import annotations

import asyncio
from functools import cache
from types import ModuleType

import click

from raytrail import systemd
from raytrail.config import Config
from raytrail.errors import ConfigError
from raytrail.pubsub import connect
from raytrail.pubsub.collector import Collector
from raytrail.redact import Redactor
from raytrail.store import Store
from raytrail.terminal import note, options, service, stores


@click.command(cls=options.Command)
@options.logged
@options.settings("store", "server", "tail.redact")
def serve(config: Config) -> None:
    """
    Answer over HTTP, as the clusters would have.

    Any number of servers may read one history, also while it is written to. Ray's own tools work on a cluster, e.g.
    ray list tasks --address http://HOST:PORT/clusters/ID. With --ingest, the server takes events, too, from
    `raytrail agent --to http://HOST:PORT/ingest`, Vector, Fluent Bit and the like.
    """
    # starlette and uvicorn come with an extra, which no other command needs
    server = service.server()
    service.collect_seldom()
    with stores.reading(config) as store:
        service.run(lambda stop: _serve(server, store, config, stop), unfinished="answers were cut off")


async def _serve(server: ModuleType, store: Store, config: Config, stop: asyncio.Event) -> None:
    if config.server.ingest == "on":
        raise ConfigError(
            "ingest='on' is for `raytrail up`; name the broker's URL, e.g. file:///var/lib/raytrail/events"
        )
    broker = connect(config.server.ingest) if config.server.ingest else None
    take = Collector(broker, Redactor(config.tail.redact)).take if broker else None
    try:
        await server.serve(store, config.server, ready=_announce, stop=stop, take=take, mask=masked)
    finally:
        if broker:
            await broker.aclose()


def masked(address: str) -> str:
    """Return what stands in the access log of an address, without its secrets."""
    return _redactor()(address.encode("latin-1"), "ACCESS").decode("latin-1")


@cache
def _redactor() -> Redactor:
    return Redactor()


def _announce(url: str) -> None:
    note(f"serving on {url}")
    systemd.notify("READY=1")
