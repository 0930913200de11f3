"""Histories that read one broker, each with a store."""

import asyncio
import shutil
import sqlite3
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, closing

import anyio
import pytest

from raytrail import history
from raytrail.config import StoreConfig
from raytrail.entities import installed
from raytrail.errors import ConfigError
from raytrail.pubsub import connect
from raytrail.store import Store
from raytrail.testing.entities import chunk, line

DEADLINE_SECONDS = 60
TASK = installed()["task"]
CONFIG = StoreConfig(threads=1, batch_seconds=0.05, fold_seconds=0.05)


def tasks(numbers):
    """Chunks of one task each, each of a file of its own, which brokers put into different partitions."""
    return [
        chunk(TASK, [line(TASK, 1795419640, {"task_id": "AQ==", "attempt_number": n})], file=f"1795419640-{n}")
        for n in numbers
    ]


def stored(store):
    """Return how many events are in a store."""
    return sum(cluster.events for cluster in store.clusters())


async def until(condition, seconds=DEADLINE_SECONDS):
    """Wait until it is so."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 (what is waited for is in a store or a file, which has no event)
            await anyio.sleep(0.02)


@asynccontextmanager
async def keeping(url, store, group="history"):
    """Run a history of a store; an error that ends it is raised at the end."""
    stop = asyncio.Event()
    async with aclosing(connect(url)) as pubsub:
        running = asyncio.create_task(history.run(pubsub, store, CONFIG, stop, group=group))
        try:
            yield running
        finally:
            stop.set()
            await running


async def publish(url, chunks):
    """Publish chunks at once."""
    async with aclosing(connect(url)) as pubsub:
        await asyncio.gather(*map(pubsub.publish, chunks))


async def check_each_gets_all(url, root, group="history"):
    """Check that two histories with a store each both keep everything, at the same time and one after the other."""
    async with AsyncExitStack() as stack:
        first, other = (stack.enter_context(Store.open(root / name, CONFIG, write=True)) for name in ("one", "other"))
        assert first.id != other.id
        await publish(url, tasks(range(40)))
        async with keeping(url, first, group), keeping(url, other, group):
            await publish(url, tasks(range(40, 80)))
            await until(lambda: stored(first) == stored(other) == 80)
        async with keeping(url, first, group):
            await publish(url, tasks(range(80, 100)))
            await until(lambda: stored(first) == 100)
        async with keeping(url, other, group):
            await until(lambda: stored(other) == 100)


def make_old(store_root):
    """Take from a store what tells that it has an id, as one is that an older version wrote, and its checksums."""
    with closing(sqlite3.connect(store_root / "catalogue.sqlite")) as db, db:
        db.execute("DELETE FROM meta WHERE key != 'version'")
        db.execute("PRAGMA user_version = 0")
    forget_sums(store_root)


def forget_sums(store_root):
    """Make a store one of the first layout, which had no checksums."""
    (store_root / "catalogue.sqlite-sums").unlink(missing_ok=True)
    with closing(sqlite3.connect(store_root / "catalogue.sqlite")) as db, db:
        if db.execute("UPDATE meta SET value = '1' WHERE key = 'version' AND value != '1'").rowcount:
            for table, column in (("log", "crc32"), ("state", "bytes"), ("state", "crc32"), ("frames", "crc32")):
                db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
            db.execute("PRAGMA user_version = 0")


async def check_an_old_store_goes_on(url, root, held_for, group="history"):
    """
    Check that a store which read as the name alone misses nothing, and that the broker keeps nothing for that name.

    Args:
        url: The broker.
        root: Where the store is to be.
        held_for: Awaited, returns the groups that the broker keeps chunks for; None where it does so for none.
        group: The name.
    """
    with Store.open(root, CONFIG, write=True) as store:
        await publish(url, tasks(range(10)))
        # an older version read as the name alone
        async with aclosing(connect(url)) as pubsub, aclosing(pubsub.subscribe(group)) as deliveries:
            for _ in range(10):
                delivery = await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS)
                store.append([delivery.chunk])
                await delivery.ack()
    make_old(root)
    await publish(url, tasks(range(10, 20)))
    with Store.open(root, CONFIG, write=True) as store:
        assert store.read_in_plain_group
        async with keeping(url, store, group):
            await until(lambda: stored(store) == 20)
            await until(lambda: not store.read_in_plain_group)
            if held_for is not None:
                assert await held_for() == {f"{group}-{store.id}"}
            await publish(url, tasks(range(20, 30)))
            await until(lambda: stored(store) == 30)
        old_id = store.id
    with Store.open(root, CONFIG, write=True) as store:
        assert (store.id, store.read_in_plain_group) == (old_id, False)


async def check_a_copy_is_refused(url, root):
    """Check that two histories do not read at once for a store and its copy, and that one does after the other."""
    Store.open(root / "one", CONFIG, write=True).close()
    shutil.copytree(root / "one", root / "copy")
    with (
        Store.open(root / "one", CONFIG, write=True) as original,
        Store.open(root / "copy", CONFIG, write=True) as copy,
    ):
        await publish(url, tasks(range(20)))
        async with keeping(url, original):
            await until(lambda: stored(original) == 20)
            async with aclosing(connect(url)) as pubsub:
                with pytest.raises(
                    ConfigError, match=f"group 'history-{original.id}' .* is being read.* and has one reader"
                ):
                    await asyncio.wait_for(
                        history.run(pubsub, copy, CONFIG, asyncio.Event(), group="history"), DEADLINE_SECONDS
                    )
            await publish(url, tasks(range(20, 40)))
            await until(lambda: stored(original) == 40)
        assert stored(copy) == 0
        async with keeping(url, copy):
            await publish(url, tasks(range(40, 50)))
            await until(lambda: stored(copy) == 10)
