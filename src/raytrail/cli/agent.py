"""``raytrail agent``: this node's event files to one broker or several."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from raytrail.agent.agent import Agent
from raytrail.config import Config
from raytrail.terminal import note, options, service


@click.command(cls=options.Command)
@options.logged
@options.settings("tail", "sources", "agent", reloadable=True)
def agent(config: Config, load: Callable[[], Config]) -> None:
    """
    Publish what Ray writes on this node.

    The agent reads the event files of Ray's sessions and nothing else of Ray. It may start before Ray, and it may stop
    or die at any time. The next start goes on where the broker's acknowledgements left off. SIGTERM ships the rest
    first, for `drain_seconds` at most. An agent that hangs after that is ended 10 seconds later. SIGHUP reads the
    settings again, without a pause. `raytrail doctor` says whether there is anything to ship.
    """
    service.keep_memory()
    agent = Agent(config, load)
    service.run(
        lambda stop: _agent(config, agent, stop), unfinished=service.SHIPPED_AGAIN, ends_within=agent.ends_within
    )


async def _agent(config: Config, agent: Agent, stop: asyncio.Event) -> None:
    with watched(config, agent):
        await agent.run(stop)


@contextmanager
def watched(config: Config, agent: Agent) -> Iterator[None]:
    """Answer the agent's metrics meanwhile, where the settings say so."""
    if not config.agent.listen:
        yield
        return
    # only an agent that listens loads its library
    from raytrail.agent.metrics import answering

    with answering(config.agent.listen, agent) as url:
        note(f"metrics on {url}/metrics")
        yield
