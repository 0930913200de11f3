"""Every backend against the one contract, and the contract against backends that break it."""

import itertools
from contextlib import aclosing
from functools import partial
from uuid import uuid4

import pytest

from raytrail import testing
from raytrail.event import Chunk
from raytrail.pubsub import Delivery, Guarantee, connect
from raytrail.pubsub.backlog import Backlog
from raytrail.pubsub.memory import MemoryPubSub
from raytrail.testing import check_pubsub

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def url(request, tmp_path):
    return {
        "file": f"file://{tmp_path}/not/there/yet",
        "file in small files": f"file://{tmp_path}?file_bytes=1000",
        "memory": f"memory://{uuid4().hex}",
    }[request.param]


@pytest.mark.parametrize("url", ["file", "file in small files", "memory"], indirect=True)
async def test_keeps_its_promises(url):
    await check_pubsub(lambda: connect(url))


class Listening(MemoryPubSub):
    """At-most-once: who joins hears what comes from then on."""

    guarantee: Guarantee = "at-most-once"

    async def subscribe(self, group, *, from_start=False):
        heard = len(self._log.chunks)
        async with aclosing(super().subscribe(group)) as deliveries:
            async for delivery in deliveries:
                if heard:
                    heard -= 1
                else:
                    yield delivery


async def test_a_backend_that_is_at_most_once_is_asked_for_no_more():
    url = f"memory://{uuid4().hex}"
    await check_pubsub(lambda: Listening(url))


class Losing(MemoryPubSub):
    """Loses one chunk in ten."""

    count = itertools.count(1)

    async def publish(self, chunk):
        if next(self.count) % 10:
            await super().publish(chunk)


class LosingAtMostOnce(Listening, Losing):
    """Does not even reach whoever listens."""

    count = itertools.count(1)


class Cutting(MemoryPubSub):
    """Holds at most a megabyte a chunk."""

    async def publish(self, chunk):
        headers = chunk.headers() if len(chunk.data) < 1024**2 else chunk.headers() | {"segments": ""}
        await super().publish(Chunk.from_wire(headers, chunk.data[: 1024**2]))


class Latin(MemoryPubSub):
    """Its headers are what HTTP's were."""

    async def publish(self, chunk):
        headers = {k: v.encode("latin-1", "replace").decode("latin-1") for k, v in chunk.headers().items()}
        await super().publish(Chunk.from_wire(headers, chunk.data))


class Shuffling(MemoryPubSub):
    """Lets every second one overtake the one before it, once there is traffic."""

    async def publish(self, chunk):
        await super().publish(chunk)
        if len(self._log.chunks) > 10 and len(self._log.chunks) % 2:
            self._log.chunks[-2:] = reversed(self._log.chunks[-2:])


class OneGroup(MemoryPubSub):
    """What one group has acked is gone for all."""

    def subscribe(self, group, *, from_start=False):
        return super().subscribe("all", from_start=from_start)


class Forgetting(MemoryPubSub):
    """Knows no acks."""

    def subscribe(self, group, *, from_start=False):
        return super().subscribe(group, from_start=True)


class AckingAhead(MemoryPubSub):
    """Takes what it has given for acked."""

    async def subscribe(self, group, *, from_start=False):
        async with aclosing(super().subscribe(group, from_start=from_start)) as deliveries:
            async for delivery in deliveries:
                await delivery.ack()
                yield delivery


class HighWater(MemoryPubSub):
    """Takes an ack for one of all before it, too."""

    async def subscribe(self, group, *, from_start=False):
        given = []
        async with aclosing(super().subscribe(group, from_start=from_start)) as deliveries:
            async for delivery in deliveries:
                given.append(delivery)
                yield Delivery(delivery.chunk, partial(self._ack_all, given[:]))

    async def _ack_all(self, given):
        for delivery in given:
            await delivery.ack()


class NoRewind(MemoryPubSub):
    """Does not listen to from_start."""

    def subscribe(self, group, *, from_start=False):
        return super().subscribe(group)


class Ending(MemoryPubSub):
    """Ends when it has no more."""

    async def subscribe(self, group, *, from_start=False):
        chunk_count = len(self._log.chunks)
        async with aclosing(super().subscribe(group, from_start=from_start)) as deliveries:
            for _ in range(chunk_count):
                yield await anext(deliveries)


class Boasting(MemoryPubSub):
    """Says that it holds nothing."""

    async def backlog(self, group):
        return Backlog(chunks=0)


class Complaining(MemoryPubSub):
    """Says that it holds something, always."""

    async def backlog(self, group):
        return Backlog(bytes=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "promise"),
    [
        (Losing, "not all that was published arrived"),
        (LosingAtMostOnce, "whoever listens did not hear everything"),
        (Cutting, "not all that was published arrived"),
        (Latin, "not all that was published arrived"),
        (Shuffling, "chunks of one file changed order"),
        (OneGroup, "each group reads everything, but one did not"),
        (Forgetting, "the first chunk came again, though it was acked"),
        (AckingAhead, "what was not acked did not come again"),
        (HighWater, "what was not acked did not come again"),
        (Boasting, "nothing was acked, and the backlog is empty"),
        (Complaining, "all was acked, and the backlog stays Backlog(chunks=None, bytes=1)"),
        (NoRewind, "from_start did not read again what was acked"),
        (
            Ending,
            "a reader that came before the first chunk did not get it: the subscription ended by itself",
        ),
    ],
)
async def test_the_contract_finds_a_backend_that_breaks_it(backend, promise, monkeypatch):
    monkeypatch.setattr(testing.pubsub, "_DEADLINE_SECONDS", 0.6)
    url = f"memory://{uuid4().hex}"
    with pytest.raises(AssertionError) as caught:
        await check_pubsub(lambda: backend(url))
    assert str(caught.value).startswith(promise)
