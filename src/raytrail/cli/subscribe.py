"""``raytrail subscribe``: events as they are published."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing

import click
import msgspec

from raytrail.event import Unreadable
from raytrail.fold.public import event_types, public_events
from raytrail.pubsub import Delivery, Subscriber, connect
from raytrail.pubsub.groups import passing_group
from raytrail.terminal import note, options, service

EPHEMERAL = "ephemeral"


@click.command(cls=options.Command)
@click.argument("url")
@click.option("--types", metavar="A,B,...", default="", help="Only these event types: TASK, ACTOR, ... [default: all]")
@click.option(
    "--group", default=EPHEMERAL, show_default=True, metavar="NAME",
    help="Go on where the group of this name left off. A new group begins with all that the broker holds. The group "
    "ephemeral is always new.",
)  # fmt: skip
@click.option("--from-start", is_flag=True, help="Forget where the group left off.")
@click.option(
    "--follow/--no-follow", default=True, show_default=True, help="Wait for more events, or end when there are none."
)
@click.option(
    "--idle-seconds", type=click.FloatRange(min=0, min_open=True), default=2.0, show_default=True,
    help="How long --no-follow waits for an event before it ends.",
)  # fmt: skip
def subscribe(url: str, types: str, group: str, from_start: bool, follow: bool, idle_seconds: float) -> None:
    """
    Print events as they are published.

    URL is the broker that the agents publish to. Events are printed in the public form, one a line (NDJSON).
    `raytrail schema` prints its JSON Schema.

    \b
    raytrail subscribe file:///var/lib/raytrail/events --types ACTOR | jq .actor.state
    """
    wanted = event_types([part.strip() for part in types.split(",") if part.strip()])
    name = passing_group() if group == EPHEMERAL else group
    idle = None if follow else idle_seconds

    async def body(stop: asyncio.Event) -> None:
        pubsub = connect(url)
        try:
            await _print(pubsub, name, from_start, wanted, idle, stop)
        finally:
            await pubsub.aclose()

    service.run(body, unfinished=service.COMES_AGAIN)


async def _print(
    subscriber: Subscriber,
    group: str,
    from_start: bool,
    wanted: frozenset[str],
    idle_seconds: float | None,
    stop: asyncio.Event,
) -> None:
    stopped = asyncio.ensure_future(stop.wait())
    async with aclosing(subscriber.subscribe(group, from_start=from_start)) as deliveries:
        while True:
            arriving = asyncio.ensure_future(anext(deliveries))
            await asyncio.wait([arriving, stopped], timeout=idle_seconds, return_when=asyncio.FIRST_COMPLETED)
            if not arriving.done():
                arriving.cancel()
                await asyncio.wait([arriving])
                return
            await _show(arriving.result(), wanted)


async def _show(delivery: Delivery, wanted: frozenset[str]) -> None:
    if isinstance(delivery.chunk, Unreadable):
        note(f"{delivery.chunk.place}: {delivery.chunk.reason}; it is passed over")
    else:
        for event in public_events(delivery.chunk):
            if not wanted or event["event_type"] in wanted:
                sys.stdout.write(msgspec.json.encode(event).decode() + "\n")
        sys.stdout.flush()
    await delivery.ack()
