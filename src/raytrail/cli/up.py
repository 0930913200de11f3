"""``raytrail up``: the whole line on one machine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import click
import msgspec

from raytrail import history as history_loop
from raytrail.agent.agent import Agent
from raytrail.cli import agent as of_agent
from raytrail.cli import history as of_history
from raytrail.cli import serve as of_serve
from raytrail.config import Config, state_dir, store_dir
from raytrail.metrics.history import Watch
from raytrail.pubsub import connect
from raytrail.pubsub.collector import Collector
from raytrail.pubsub.url import shown
from raytrail.redact import Redactor
from raytrail.terminal import note, options, service, stores

log = logging.getLogger(__name__)


@click.command(cls=options.Command)
@options.logged
@options.settings("tail", "sources", "agent", "store", "history", "server", reloadable=True)
def up(config: Config, load: Callable[[], Config]) -> None:
    """
    Agent, history and server in one process, for one machine.

    It ships what Ray writes here, keeps it, and serves it while it happens and after Ray is gone. Without --to it
    publishes to file://<state dir>/events. SIGTERM or Ctrl-C ships the rest, then ends. Events that were published and
    not yet kept are kept at the next start. A part that hangs is ended by force after
    `drain_seconds` and `stop_seconds`.
    """
    # absolute, as a relative path would become the URL's host
    url = config.agent.to or f"file://{(state_dir(config) / 'events').absolute()}"
    service.keep_memory()
    config = _publishing(config, url)
    agent = Agent(config, lambda: _publishing(load(), url))
    unfinished = f"{service.SHIPPED_AGAIN}, and {service.COMES_AGAIN}"
    service.run(
        lambda stop: _up(config, agent, stop),
        unfinished=unfinished,
        ends_within=lambda: agent.ends_within() + config.store.stop_seconds,
    )


def _publishing(config: Config, url: str) -> Config:
    if config.agent.to not in ("", url):
        log.warning("publishing to %s until this is started anew: the history reads it from there", shown(url))
    return msgspec.structs.replace(config, agent=msgspec.structs.replace(config.agent, to=url))


async def _up(config: Config, agent: Agent, stop: asyncio.Event) -> None:
    url = config.agent.to
    server = service.server()
    service.collect_seldom()
    agent_stop, history_stop, server_stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
    with stores.writing(config) as store:
        pubsub = connect(url)
        elsewhere = connect(config.server.ingest) if config.server.ingest not in ("", "on") else None
        take = Collector(elsewhere or pubsub, Redactor(config.tail.redact)).take if config.server.ingest else None
        watch = Watch(store)
        try:
            note(f"reading {config.tail.temp_dir}, publishing to {shown(url)}, keeping {store_dir(config)}")
            history = history_loop.run(pubsub, store, config.store, history_stop, group="history", watch=watch)
            with of_agent.watched(config, agent), of_history.watched(config, watch, store):
                await service.all_of(
                    (agent.run(agent_stop), agent_stop),
                    (history, history_stop),
                    (
                        server.serve(
                            store,
                            config.server,
                            ready=_announce,
                            stop=server_stop,
                            take=take,
                            mask=of_serve.masked,
                        ),
                        server_stop,
                    ),
                    stop=stop,
                )
        finally:
            for broker in filter(None, [pubsub, elsewhere]):
                await broker.aclose()


def _announce(url: str) -> None:
    note(f"serving on {url}")
