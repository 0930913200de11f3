"""``raytrail agent``: this node's event files to one broker or several."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import click

from raytrail.cli import _options, _service, _words
from raytrail.cli._shipping import Agent
from raytrail.config import Config


@click.command(cls=_options.Command)
@_options.settings("tail", "sources", "agent", reloadable=True)
def agent(config: Config, load: Callable[[], Config]) -> None:
    """
    Publish what Ray writes on this node.

    Reads the event files of Ray's sessions and nothing else of Ray: it may start before Ray, and stop or
    die at any time; the next start goes on where the broker's acknowledgements left off. SIGTERM ships what
    is left first, for `drain_seconds` at most. What hangs then is left 10 seconds later. SIGHUP reads the settings
    again, without a pause. `raytrail doctor` says whether there is anything to ship.
    """
    _service.keep_memory()
    agent = Agent(config, load)
    _service.run(lambda stop: _agent(config, agent, stop), left=_service.SHIPPED_AGAIN, ends_within=agent.ends_within)


async def _agent(config: Config, agent: Agent, stop: asyncio.Event) -> None:
    if not config.agent.listen:
        await _service.alive(agent.run(stop))
        return
    # its library is loaded by those who listen only
    from raytrail.cli._metrics import answering

    with answering(config.agent.listen, agent) as url:
        _words.note(f"metrics on {url}/metrics")
        await _service.alive(agent.run(stop))
