"""The loop that keeps the history up to date, where brokers and disks fail."""

import asyncio
import errno

import anyio
import pytest

from raytrail import history
from raytrail.config import StoreConfig
from raytrail.entities import installed
from raytrail.errors import BrokerUnavailable, PublishError, StoreUnavailable
from raytrail.pubsub import connect
from raytrail.store import Store
from raytrail.testing.entities import SESSION, chunk, line

TASK = installed()["task"]
CONFIG = StoreConfig(threads=1, batch_seconds=0.05, fold_seconds=0.05)
LINES = [line(TASK, 1795419640, {"task_id": "AQ==", "attempt_number": n}) for n in (1, 2, 3)]


async def until(condition):
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 (what is waited for is in the store, which has no event)
            await anyio.sleep(0.02)


def stored(store):
    return sum(cluster.events for cluster in store.clusters())


async def test_a_broker_that_goes_away_is_subscribed_to_again(tmp_path):
    broker = connect("memory://test_history_away")

    class Away:
        failures = 2

        async def subscribe(self, group, *, from_start=False):
            async for delivery in broker.subscribe(group):
                if self.failures:
                    self.failures -= 1
                    raise BrokerUnavailable("broker: away; it is waited for")
                yield delivery

    await broker.publish(chunk(TASK, LINES))
    stop = asyncio.Event()
    with Store.open(tmp_path, CONFIG, write=True) as store:
        running = asyncio.create_task(history.run(Away(), store, CONFIG, stop, group="history"))
        await until(lambda: stored(store) == 3)
        stop.set()
        await running


async def test_a_broker_that_refuses_for_good_ends_it(tmp_path):
    class Refused:
        async def subscribe(self, group, *, from_start=False):
            raise PublishError("topic: not allowed; ask for the right to read it")
            yield

    with Store.open(tmp_path, CONFIG, write=True) as store, pytest.raises(PublishError, match="not allowed"):
        await history.run(Refused(), store, CONFIG, asyncio.Event(), group="history")


async def test_a_full_disk_is_waited_for_and_nothing_is_acknowledged_meanwhile(tmp_path, monkeypatch):
    broker = connect("memory://test_history_full")
    await broker.publish(chunk(TASK, LINES))
    stop, tries = asyncio.Event(), []
    with Store.open(tmp_path, CONFIG, write=True) as store:
        append = store.append

        def full(chunks):
            tries.append(len(chunks))
            if len(tries) < 3:
                raise StoreUnavailable(f"disk: {errno.ENOSPC}; make room")
            append(chunks)

        monkeypatch.setattr(store, "append", full)
        running = asyncio.create_task(history.run(broker, store, CONFIG, stop, group="history"))
        await until(lambda: stored(store) == 3)
        stop.set()
        await running
        assert len(tries) == 3
        assert store.snapshot(SESSION).count("task") == 3

    async def next_delivery():
        async for delivery in broker.subscribe("history"):
            return delivery

    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(next_delivery(), 0.2)
