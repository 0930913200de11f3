"""``raytrail agent``: this node's event files to a broker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager

import click

from raytrail import agent as loop
from raytrail.cli import _options, _output, _service
from raytrail.config import Config, checkpoint_file
from raytrail.pubsub import Publisher, connect
from raytrail.tail import Checkpoint, Tailer

log = logging.getLogger(__name__)


@click.command(cls=_options.Command)
@click.option(
    "--to",
    "url",
    required=True,
    metavar="URL",
    help="Where to publish, e.g. file:///var/lib/raytrail/events.",
)
@_options.settings("tail", "agent")
def agent(url: str, config: Config) -> None:
    """
    Publish what Ray writes on this node.

    Reads the event files of Ray's sessions and nothing else of Ray: it may start before Ray, and stop or
    die at any time; the next start goes on where the broker's acknowledgements left off. SIGTERM ships what
    is left first. `raytrail doctor` says whether there is anything to ship.
    """
    _service.run(lambda stop: _agent(url, config, stop))


async def _agent(url: str, config: Config, stop: asyncio.Event) -> None:
    pubsub = connect(url)
    try:
        await tailing(pubsub, config, stop)
    finally:
        await pubsub.aclose()


async def tailing(publisher: Publisher, config: Config, stop: asyncio.Event) -> None:
    """Ship this node's events until told to stop."""
    with _tailer(config) as (tailer, checkpoint):
        left = await loop.run(
            tailer, checkpoint, publisher, config.agent, stop, drain_seconds=config.agent.drain_seconds
        )
    if left:
        log.warning("%s were not shipped in time; the next agent begins with them", _output.size(left))


@contextmanager
def _tailer(config: Config) -> Iterator[tuple[Tailer, Checkpoint]]:
    with (
        closing(Checkpoint(checkpoint_file(config))) as checkpoint,
        closing(Tailer(config.tail, checkpoint)) as tailer,
    ):
        yield tailer, checkpoint
