"""What a broker promises where something fails, checked on a real one: killed, away at first, hanging."""

import asyncio
import signal
import time
from contextlib import aclosing
from typing import TypeVar

import pytest
from tests.brokers.freeze import freeze

from raytrail.errors import BrokerUnavailable
from raytrail.event import Chunk, Segment, Unreadable
from raytrail.pubsub import connect

DEADLINE_SECONDS = 60
AGAIN_SECONDS = 0.1


Kind = TypeVar("Kind")


def connected(kind: type[Kind], url: str) -> Kind:
    """Make the backend that the URL names, which is of this kind: for those who look into it."""
    pubsub = connect(url)
    assert isinstance(pubsub, kind)
    return pubsub


def chunk(number, *, file="file0", data=b""):
    data = data or b'{"number":%06d}\n' % number
    segments = (Segment(f"1795420800-{file}", 0, number * len(data), len(data)),)
    return Chunk(cluster="c", session="s", node_id="0b" * 28, event_type="TASK", segments=segments, data=data)


def numbered(count, files):
    """Chunks of so many files, which take turns."""
    return [chunk(number, file=f"file{number % files}") for number in range(count)]


async def until_stored(pubsub, wanted):
    """Publish until it is stored, as the agent does; return how often it failed."""
    failed = 0
    while True:
        try:
            await pubsub.publish(wanted)
        except BrokerUnavailable:
            failed += 1
            await asyncio.sleep(AGAIN_SECONDS)
        else:
            return failed


async def take(deliveries, count):
    """Take and acknowledge so many deliveries; return their chunks."""
    chunks: list[Chunk | Unreadable] = []
    while len(chunks) < count:
        delivery = await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS)
        chunks.append(delivery.chunk)
        await delivery.ack()
    return chunks


async def read(url, wanted, group="history", *, ack=True, **how):
    """Read until all `wanted` have come, subscribing again as the history does; return what came, in order."""
    received, missing = [], set(wanted)
    async with aclosing(connect(url)) as pubsub:
        while missing:
            try:
                async with aclosing(pubsub.subscribe(group, **how)) as deliveries:
                    while missing:
                        delivery = await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS)
                        received.append(delivery.chunk)
                        missing.discard(delivery.chunk)
                        if ack:
                            await delivery.ack()
            except BrokerUnavailable:
                await asyncio.sleep(AGAIN_SECONDS)
    return received


async def check_killed(broker, url, *, under_way_seconds, away_seconds, says):
    """
    Kill a broker while it is written to, and again while it is read; nothing is lost.

    Args:
        broker: With `start` and `kill`; it is running.
        url: Of a topic that holds nothing.
        under_way_seconds: When it is killed, after that much is under way.
        away_seconds: How long it stays away.
        says: What a reader's error has in it.
    """
    sent = numbered(600, files=5)
    async with aclosing(connect(url)) as pubsub:
        await asyncio.gather(*(until_stored(pubsub, sent_chunk) for sent_chunk in sent[:200]))
        under_way = [asyncio.ensure_future(until_stored(pubsub, sent_chunk)) for sent_chunk in sent[200:400]]
        await asyncio.wait(under_way, timeout=under_way_seconds)
        broker.kill()
        under_way += [asyncio.ensure_future(until_stored(pubsub, sent_chunk)) for sent_chunk in sent[400:]]
        await asyncio.sleep(away_seconds)
        broker.start()
        assert sum(await asyncio.gather(*under_way)) > 0, "none failed, so nothing was tried"

        deliveries = pubsub.subscribe("history")
        received = await take(deliveries, 300)
        broker.kill()
        try:
            while True:
                received.append((await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS)).chunk)
        except BrokerUnavailable as error:
            assert says in str(error)  # noqa: PT017 (it may rise at any of many turns)
        broker.start()
        received += await read(url, set(sent) - set(received))
        await deliveries.aclose()
    assert set(received) == set(sent)


async def check_away_at_first(broker, url, begins, ends):
    """
    Publish and read before a broker is there; both work once it is.

    Args:
        broker: With `start` and `kill`; it is not running.
        url: Of a topic.
        begins: How the publisher's error begins.
        ends: How it ends.
    """
    async with aclosing(connect(url)) as pubsub:
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable) as caught:
            await pubsub.publish(chunk(0))
        assert str(caught.value).startswith(begins)
        assert str(caught.value).endswith(ends)
        assert time.monotonic() - began < 10
        with pytest.raises(BrokerUnavailable):
            await anext(pubsub.subscribe("history"))
        broker.start()
        try:
            # on a busy machine the first try may take longer than the bound, and be stored all the same
            await until_stored(pubsub, chunk(0))
            assert set(await read(url, [chunk(0)])) == {chunk(0)}
        finally:
            broker.kill()


async def check_hanging(broker, url, says, within_seconds=10):
    """
    Freeze a broker: all that is published fails in time, and is stored once it goes on.

    Args:
        broker: With `process`; it is running.
        url: Of a topic that holds nothing; its `timeout_seconds` is small.
        says: What the first error has in it.
        within_seconds: How soon they fail.
    """
    async with aclosing(connect(url)) as pubsub:
        await until_stored(pubsub, chunk(0))
        freeze(broker.process)
        began = time.monotonic()
        results = await asyncio.gather(*(pubsub.publish(chunk(n)) for n in range(1, 20)), return_exceptions=True)
        assert {type(result) for result in results} == {BrokerUnavailable}
        assert says in str(results[0])
        assert time.monotonic() - began < within_seconds
        broker.process.send_signal(signal.SIGCONT)
        await asyncio.gather(*(until_stored(pubsub, chunk(n)) for n in range(1, 20)))
    assert set(await read(url, map(chunk, range(20)))) == set(map(chunk, range(20)))
