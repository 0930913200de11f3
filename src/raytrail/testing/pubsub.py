"""
What every pub/sub backend must do, checked on a real one.

>>> async def test_keeps_its_promises(url):
...     await check_pubsub(lambda: connect(url))
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from uuid import uuid4

from raytrail.event import Chunk, Segment
from raytrail.pubsub import Delivery, PubSub

_DEADLINE_SECONDS = 60.0  # joining a group takes some brokers half a minute
_REPEAT_SECONDS = 0.2


async def check_pubsub(make: Callable[[], PubSub]) -> None:
    """
    Check what `raytrail.pubsub.PubSub` promises.

    A repeated chunk breaks no promise, unless it was acked and its reader left in good order. Of a backend
    that is at-most-once only that is asked which it can keep: that a reader who is listening hears
    everything, whole and in order.

    Args:
        make: Makes a connection to one broker, which holds nothing yet. Called many times.

    Raises:
        AssertionError: A promise is broken; the text says which.
    """
    assert make().guarantee in ("at-least-once", "at-most-once"), "guarantee is one of the two"
    if make().guarantee == "at-most-once":
        await _check_listening(make)
    else:
        await _check_waiting(make)
        await _check_whole_and_in_order(make)
        await _check_concurrent(make)
        await _check_groups(make)
        await _check_acks(make)
        await _check_rejoining(make)
    await _check_closing(make)


async def _check_waiting(make: Callable[[], PubSub]) -> None:
    session, first, second = _session(), 0, 1
    async with aclosing(make()) as reader, aclosing(make()) as publisher:
        async with aclosing(reader.subscribe(session)) as deliveries:
            waiting = asyncio.ensure_future(_take(deliveries, [_chunk(session, first)]))
            await asyncio.sleep(0)  # it is listening to an empty broker now
            await publisher.publish(_chunk(session, first))
            taken = await waiting
            assert len(taken) == 1, "a reader that came before the first chunk gets it"

            waiting = asyncio.ensure_future(_take(deliveries, [_chunk(session, second)]))
            await asyncio.sleep(0)
            await publisher.publish(_chunk(session, second))
            assert len(await waiting) == 1, "a reader that waits gets what is published later"


async def _check_whole_and_in_order(make: Callable[[], PubSub]) -> None:
    session = _session()
    sent = _samples(session)
    await _publish(make, sent)
    async with aclosing(make()) as reader, aclosing(reader.subscribe(session)) as deliveries:
        _compare(await _take(deliveries, sent), sent)


async def _check_concurrent(make: Callable[[], PubSub]) -> None:
    session = _session()
    sent = [_chunk(session, number, file=f"f{number % 7}") for number in range(200)]
    async with aclosing(make()) as one, aclosing(make()) as other:
        publishing = [(one, other)[number % 7 % 2].publish(chunk) for number, chunk in enumerate(sent)]
        await asyncio.gather(*publishing)
    async with aclosing(make()) as reader, aclosing(reader.subscribe(session)) as deliveries:
        taken = [delivery.chunk for delivery in await _take(deliveries, sent)]
    lost = Counter(sent) - Counter(taken)
    assert not lost, f"of 200 chunks published at once, {lost.total()} never arrived"
    for file in sorted({chunk.segments[0].file for chunk in sent}):
        starts = [chunk.segments[0].start for chunk in taken if chunk.segments[0].file == file]
        assert starts == sorted(starts), f"chunks of one file that were published at once changed order: {starts}"


async def _check_groups(make: Callable[[], PubSub]) -> None:
    session = _session()
    sent = [_chunk(session, number) for number in range(3)]
    await _publish(make, sent)
    for group in (f"{session}-a", f"{session}-b"):
        async with aclosing(make()) as reader, aclosing(reader.subscribe(group)) as deliveries:
            taken = await _take(deliveries, sent)
            _compare(taken, sent)
            await _ack(taken)
    async with aclosing(make()) as reader:
        async with aclosing(reader.subscribe(f"{session}-a", from_start=True)) as deliveries:
            again = [delivery.chunk for delivery in await _take(deliveries, sent)]
            assert again == sent, f"from_start reads all again, acked or not; it read {_numbers(again)} of 0, 1, 2"


async def _check_acks(make: Callable[[], PubSub]) -> None:
    session = _session()
    sent = [_chunk(session, number) for number in range(4)]
    last = _chunk(session, 4)
    await _publish(make, sent)
    async with aclosing(make()) as reader, aclosing(reader.subscribe(session)) as deliveries:
        taken = await _take(deliveries, sent)
        await _ack([taken[3], taken[0]])

    async with aclosing(make()) as reader, aclosing(reader.subscribe(session)) as deliveries:
        taken = await _take(deliveries, sent[1:3])
        again = {delivery.chunk for delivery in taken}
        assert sent[0] not in again, "an acked chunk came again, though its reader left in good order"
        taken += await _take(deliveries, sent[3:]) if sent[3] in await _rest(make, session, again) else []
        await _ack(reversed(taken))

    await _publish(make, [last])
    async with aclosing(make()) as reader, aclosing(reader.subscribe(session)) as deliveries:
        taken = await _take(deliveries, [last])
        again = {delivery.chunk for delivery in taken}
        assert again == {last}, "chunks that were acked in reverse order came again"
        await _ack(taken)
