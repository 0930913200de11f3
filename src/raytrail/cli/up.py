"""``raytrail up``: the whole line on one machine."""

from __future__ import annotations

import asyncio

import click

from raytrail import history as history_loop
from raytrail.cli import _history, _options, _output, _service
from raytrail.cli.agent import tailing
from raytrail.config import Config, state_dir, store_dir
from raytrail.pubsub import connect


@click.command(cls=_options.Command)
@click.option("--to", "url", metavar="URL", help="The broker. [default: file://<state dir>/events]")
@_options.settings("tail", "agent", "store", "server")
def up(url: str | None, config: Config) -> None:
    """
    Agent, history and server in one process, for one machine.

    Ships what Ray writes here, keeps it, and serves it while it happens and after Ray is gone. SIGTERM or
    Ctrl-C ships what is left, then ends; what was published and not yet kept is kept at the next start.
    """
    # absolute, as a relative path would become the URL's host
    url = url or f"file://{(state_dir(config) / 'events').absolute()}"
    _service.run(lambda stop: _up(url, config, stop))


async def _up(url: str, config: Config, stop: asyncio.Event) -> None:
    server = _service.server()
    agent_stop, history_stop, server_stop = asyncio.Event(), asyncio.Event(), asyncio.Event()
    with _history.writing(config) as store:
        pubsub = connect(url)
        try:
            _output.note(f"reading {config.tail.temp_dir}, publishing to {url}, keeping {store_dir(config)}")
            await _service.all_of(
                (tailing(pubsub, config, agent_stop), agent_stop),
                (history_loop.run(pubsub, store, config.store, history_stop, group="history"), history_stop),
                (server.serve(store, config.server, ready=_announce, stop=server_stop), server_stop),
                stop=stop,
            )
        finally:
            await pubsub.aclose()


def _announce(url: str) -> None:
    _output.note(f"serving on {url}")
