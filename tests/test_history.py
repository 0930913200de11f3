"""The loop that keeps the history up to date, where brokers and disks fail."""

import asyncio
import errno
import re
from contextlib import aclosing

import pytest
from tests.damage import LIVE, damage, fill
from tests.histories import (
    check_a_copy_is_refused,
    check_an_old_store_goes_on,
    check_each_gets_all,
    keeping,
    make_old,
    publish,
    stored,
    tasks,
    until,
)

from raytrail import history
from raytrail.config import StoreConfig
from raytrail.entities import installed
from raytrail.errors import BrokerUnavailable, PublishError, StoreUnavailable
from raytrail.pubsub import connect, groups
from raytrail.pubsub.groups import group_of
from raytrail.store import Store
from raytrail.testing.entities import SESSION, chunk, line

pytestmark = pytest.mark.slow

TASK = installed()["task"]
CONFIG = StoreConfig(threads=1, batch_seconds=0.05, fold_seconds=0.05)
LINES = [line(TASK, 1795419640, {"task_id": "AQ==", "attempt_number": n}) for n in (1, 2, 3)]


async def test_a_broker_that_goes_away_is_subscribed_to_again_and_the_log_says_so_once(tmp_path, caplog):
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
    assert caplog.text.count("broker: away; it is waited for") == 1


async def test_a_broker_that_refuses_for_good_ends_it(tmp_path):
    class Refused:
        async def subscribe(self, group, *, from_start=False):
            raise PublishError("topic: not allowed; ask for the right to read it")
            yield  # type: ignore[unreachable]  # makes it a generator

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
        group = group_of("history", store.id)

    async def next_delivery():
        async for delivery in broker.subscribe(group):
            return delivery

    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(next_delivery(), 0.2)


@pytest.mark.parametrize("group", ["history", "night.shift"])
@pytest.mark.parametrize("scheme", ["memory", "file"])
async def test_histories_with_a_store_each_get_everything_under_one_name(tmp_path, scheme, group):
    url = f"memory://each_{group.replace('.', '_')}" if scheme == "memory" else f"file://{tmp_path}/events"
    await check_each_gets_all(url, tmp_path, group)


async def test_a_store_of_an_older_version_misses_nothing_and_its_old_group_holds_nothing_back(tmp_path):
    url = f"file://{tmp_path}/events"

    async def held_for():
        return {path.stem for path in (tmp_path / "events/groups").glob("*.json")}

    await check_an_old_store_goes_on(url, tmp_path / "store", held_for)


async def test_the_old_group_stays_while_another_history_still_reads_as_it(tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "LEAVE_SECONDS", 0.05)
    url = f"file://{tmp_path}/events"
    with Store.open(tmp_path / "store", CONFIG, write=True) as store:
        store.append(tasks([1]))
    make_old(tmp_path / "store")
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(*tasks([2]))
        older = pubsub.subscribe("history")
        await anext(older)
        with Store.open(tmp_path / "store", CONFIG, write=True) as store:
            async with keeping(url, store):
                await until(lambda: stored(store) == 2)
                assert (tmp_path / "events/groups/history.json").exists()
                assert store.read_in_plain_group
                await older.aclose()
                await until(lambda: not store.read_in_plain_group)
                assert not (tmp_path / "events/groups/history.json").exists()


async def test_a_broker_that_cannot_forget_a_group_is_asked_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(groups, "LEAVE_SECONDS", 0.05)
    broker, asked = connect("memory://test_history_forgets"), []

    class Forgets:
        subscribe = broker.subscribe

        async def forget(self, group):
            asked.append(group)
            if len(asked) == 1:
                raise BrokerUnavailable("broker: away; it is waited for")
            return len(asked) > 2

    with Store.open(tmp_path, CONFIG, write=True) as store:
        store.append(tasks([1]))
    make_old(tmp_path)
    stop = asyncio.Event()
    with Store.open(tmp_path, CONFIG, write=True) as store:
        running = asyncio.create_task(history.run(Forgets(), store, CONFIG, stop, group="history"))
        await broker.publish(*tasks([2]))
        await until(lambda: not store.read_in_plain_group)
        stop.set()
        await running
    assert asked == ["history"] * 3
    assert "broker: away; it is waited for; the broker keeps for group 'history' what is published" in caplog.text


def test_a_store_gets_an_id_once_and_a_new_one_never_read_in_a_plain_group(tmp_path):
    with Store.open(tmp_path, write=True) as store:
        first = store.id
        assert re.fullmatch("[0-9a-f]{16}", first)
        store.append(tasks([1]))
    with Store.open(tmp_path, write=True) as store:
        assert (store.id, store.read_in_plain_group) == (first, False)
    with Store.open(tmp_path) as store:
        assert store.id == first
    make_old(tmp_path)
    with Store.open(tmp_path) as store:
        assert (store.id, stored(store)) == ("", 1)


async def test_a_history_of_a_copy_of_a_store_is_refused_while_one_of_the_store_reads(tmp_path):
    await check_a_copy_is_refused(f"file://{tmp_path}/events", tmp_path)


async def test_a_session_with_a_damaged_file_holds_up_no_other_and_ends_nothing(tmp_path, caplog):
    fill(tmp_path / "store")
    path = damage(tmp_path / "store", tmp_path / "copy", f"log/{LIVE}/placement_group-*")
    url = f"file://{tmp_path}/events"
    with Store.open(tmp_path / "copy", CONFIG, write=True) as store:
        async with keeping(url, store) as running:
            await publish(url, tasks(range(3)))
            # the damaged session may be folded, and said to be damaged, before the other one is there
            await until(lambda: str(path) in caplog.text and SESSION in store.events())
            await until(lambda: store.snapshot(SESSION).count("task") == 3)
            assert not running.done()
        await running
    assert "please report" not in caplog.text
