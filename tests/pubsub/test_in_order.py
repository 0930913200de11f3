"""What waits behind a chunk that failed, wherever it is published."""

import asyncio

import pytest

from raytrail.errors import BrokerUnavailable
from raytrail.event import Chunk
from raytrail.pubsub.in_order import Batches, Turn, settle

pytestmark = pytest.mark.anyio


def chunk(number, data=b"{}\n"):
    return Chunk(cluster="", session="s", node_id=f"{number}", event_type="TASK", segments=(), data=data)


class Log:
    """Stores batches, and fails where it is told to."""

    def __init__(self):
        self.batches, self.fails, self.may_go_on = [], False, asyncio.Event()

    async def store(self, batch):
        await self.may_go_on.wait()
        if self.fails:
            raise BrokerUnavailable("away")
        self.batches.append([int(stored_chunk.node_id) for stored_chunk, _ in batch])
        settle(stored for _, stored in batch)


async def begin(publish, numbers, **how):
    """Begin to publish; return what is to end."""
    publishing = [asyncio.ensure_future(publish(chunk(number, **how))) for number in numbers]
    await asyncio.sleep(0.01)
    return publishing


async def ended(publishing):
    return await asyncio.wait_for(asyncio.gather(*publishing, return_exceptions=True), 10)


async def test_what_waits_behind_a_batch_that_failed_fails_with_it():
    log = Log()
    batches = Batches(log.store, "here")
    publishing = await begin(batches.publish, [0]) + await begin(batches.publish, [1, 2])
    log.fails = True
    log.may_go_on.set()
    assert [str(error) for error in await ended(publishing)] == ["away"] * 3
    log.fails = False
    assert await ended(await begin(batches.publish, range(3))) == [None] * 3
    assert log.batches == [[0, 1, 2]]


async def test_a_batch_holds_what_it_may_or_one_longer_chunk():
    log = Log()
    batches = Batches(log.store, "here", most_bytes=10)
    publishing = await begin(batches.publish, [0])
    publishing += await begin(batches.publish, [1, 2, 3], data=b"12345")
    publishing += await begin(batches.publish, [4], data=b"longer than ten")
    log.may_go_on.set()
    assert await ended(publishing) == [None] * 5
    assert log.batches == [[0], [1, 2], [3], [4]]


async def test_a_batch_is_waited_for_until_it_is_full():
    log = Log()
    log.may_go_on.set()
    batches = Batches(log.store, "here", most_bytes=10, linger_seconds=60)
    publishing = await begin(batches.publish, [0], data=b"12345")
    assert log.batches == []
    assert await ended(publishing + await begin(batches.publish, [1], data=b"12345")) == [None] * 2
    assert log.batches == [[0, 1]]


async def test_what_is_waited_for_fails_once_it_is_given_up():
    for linger_seconds in (0, 60):
        batches = Batches(Log().store, "here", linger_seconds=linger_seconds)
        publishing = await begin(batches.publish, [0]) + await begin(batches.publish, [1])
        await batches.cancel()
        assert [str(error) for error in await ended(publishing)] == ["here is being closed; publish it again"] * 2


async def test_a_chunk_whose_publisher_was_cancelled_is_not_stored():
    log = Log()
    batches = Batches(log.store, "here")
    publishing = await begin(batches.publish, [0]) + await begin(batches.publish, [1, 2])
    publishing[1].cancel()
    await asyncio.gather(publishing[1], return_exceptions=True)
    log.may_go_on.set()
    await ended([publishing[0], publishing[2]])
    assert log.batches == [[0], [2]]


async def test_all_that_fails_is_told_before_the_connection_is_given_up():
    errors, given_up, may_end = [], [], asyncio.Event()

    async def give_up(error):
        await may_end.wait()  # as a server that hangs has it
        given_up.append(str(error))

    log = Log()
    log.fails = True
    log.may_go_on.set()
    batches = Batches(log.store, "here", give_up=give_up)
    errors += await ended(await begin(batches.publish, range(2)))
    assert ([str(error) for error in errors], given_up) == (["away", "away"], [])
    log.fails = False
    again = await begin(batches.publish, [0])
    may_end.set()
    assert await ended(again) == [None]
    assert given_up == ["away"]


async def test_who_waited_for_a_turn_while_something_failed_does_not_get_it():
    turn, may_go_on, taken = Turn(), asyncio.Event(), []

    async def publish(published):
        async with turn:
            taken.append(int(published.node_id))
            await may_go_on.wait()

    publishing = await begin(publish, range(3))
    turn.fail(BrokerUnavailable("away"))
    may_go_on.set()
    assert [str(error) for error in await ended(publishing)] == ["None", "away", "away"]
    assert await ended(await begin(publish, [3])) == [None]
    assert taken == [0, 3]
