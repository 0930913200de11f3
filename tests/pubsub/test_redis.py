"""Chunks through a real Redis, which the fixtures start."""

import asyncio
import logging
import os
import time
from contextlib import aclosing
from functools import partial

import pytest

pytest.importorskip("redis")

from tests.brokers.promises import (
    DEADLINE_SECONDS,
    check_away_at_first,
    check_hanging,
    check_killed,
    chunk,
    connected,
    read,
    until_stored,
)
from tests.brokers.redis import Server, needed
from tests.histories import check_a_copy_is_refused, check_an_old_store_goes_on, check_each_gets_all

from raytrail.errors import BrokerUnavailable, ChunkRefused, ConfigError
from raytrail.event import Unreadable
from raytrail.pubsub.redis import RedisPubSub
from raytrail.testing import check_pubsub

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

connect = partial(connected, RedisPubSub)
BEHIND = (
    "more than the 20000 it may, since the groups ['behind'] have not acknowledged them; start their readers, or "
    "remove those no longer used with XGROUP DESTROY"
)
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


def started(server):
    needed()
    server.start()
    return server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = started(Server(tmp_path_factory.mktemp("redis"), "--appendonly", "yes"))
    yield server
    server.kill()


@pytest.fixture
def own(tmp_path):
    """Make a server with arguments of its own."""
    made: list[Server] = []

    def make(*arguments):
        (tmp_path / str(len(made))).mkdir()
        made.append(started(Server(tmp_path / str(len(made)), *arguments)))
        return made[-1]

    yield make
    for server in made:
        if server.process and server.process.poll() is None:
            server.kill()


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def attempt(call):
    try:
        await call
    except BrokerUnavailable as error:
        return error


async def until(condition):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_keeps_its_promises(server):
    url = server.url()
    await check_pubsub(lambda: connect(url))


@pytest.mark.slow
async def test_nothing_is_lost_when_the_server_is_killed_while_it_is_written_to_and_read(own, caplog):
    server = own(*DURABLE)
    url = server.url(timeout_seconds=2)
    await check_killed(server, url, under_way_seconds=0.005, away_seconds=0.2, says="does not answer")
    assert warnings(caplog) == []  # it is as durable as it can be


async def test_a_server_that_is_away_at_first_is_waited_for(tmp_path):
    needed()
    server = Server(tmp_path)
    begins = f"redis://127.0.0.1:{server.port} does not answer: "
    await check_away_at_first(server, server.url("away"), begins, "; start it, or mend the URL")


@pytest.mark.slow
async def test_a_server_that_hangs_is_given_up_in_time(own):
    server = own(*DURABLE)
    await check_hanging(server, server.url(timeout_seconds=2), "does not answer", within_seconds=8)


@pytest.mark.slow
async def test_who_is_not_let_in_is_told(own):
    enough = "+@stream +@scripting +@transaction +@connection +get +set +del +pexpire +exists +time +info +memory"
    rules = (f"agent on >secret ~s ~{{s}}:*:reader {enough}", "reader on >secret ~* +@all -xadd", "default off")
    server = own(*(word for rule in rules for word in ("--user", *rule.split())))
    says = "does not let us in: "
    for user in ("", "agent:wrong"):
        async with aclosing(connect(server.url(user=user))) as pubsub:
            with pytest.raises(ConfigError) as caught:
                await pubsub.publish(chunk(0))
        assert says in str(caught.value)
        assert "wrong" not in str(caught.value).replace("WRONGPASS", "")
        assert str(caught.value).endswith("; mend user and password")
    async with aclosing(connect(server.url("s", user="reader:secret"))) as pubsub:
        with pytest.raises(ConfigError) as caught:
            await pubsub.publish(chunk(0))
    assert "does not let us do it: " in str(caught.value)
    assert str(caught.value).endswith(f"; give the user {enough} on ~s and ~{{s}}:*:reader")
    url = server.url("s", user="agent:secret")
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
    assert await read(url, [chunk(0)]) == [chunk(0)]


async def test_a_key_that_is_no_stream_is_an_error(server):
    with server.client() as client:
        client.set("text", "x")
    async with aclosing(connect(server.url("text"))) as pubsub:
        for call in (pubsub.publish(chunk(0)), anext(pubsub.subscribe("history"))):
            with pytest.raises(ConfigError) as caught:
                await call
            assert str(caught.value) == (f"redis://127.0.0.1:{server.port}: key 'text' is no stream; name another one")


async def test_an_entry_that_is_no_chunk_comes_as_what_cannot_be_read_and_stops_nobody(server):
    with server.client() as client:
        client.xadd("foreign", {"a": "b"})
        client.xadd("foreign", {b"\xff": b"\xfe", "data": b"x", "raytrail-version": "1"})
    url = server.url("foreign")
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
        async with aclosing(pubsub.subscribe("history")) as deliveries:
            odd, other, good = [(await anext(deliveries)).chunk for _ in range(3)]
    assert good == chunk(0)
    assert (odd.headers, odd.data) == ({"a": "b"}, b"")
    assert (other.headers, other.data) == ({"\ufffd": "\ufffd", "raytrail-version": "1"}, b"x")
    assert isinstance(other, Unreadable)
    assert other.place.startswith(f"redis://127.0.0.1:{server.port}")


async def test_a_chunk_over_the_servers_limit_is_refused_and_those_sent_with_it_are_stored(own):
    server = own("--proto-max-bulk-len", str(1024 * 1024), *DURABLE)
    url = server.url()
    long = chunk(9, file="long", data=b"x" * 1024 * 1024 + b"\n")
    async with aclosing(connect(url)) as pubsub:
        results = await asyncio.gather(
            pubsub.publish(chunk(0)), pubsub.publish(long), pubsub.publish(chunk(1)), return_exceptions=True
        )
    assert (results[0], results[2]) == (None, None)
    assert isinstance(results[1], ChunkRefused)
    assert str(results[1]) == (
        f"redis://127.0.0.1:{server.port} takes 1048576 bytes at most, and a chunk has 1048577; raise "
        f"proto-max-bulk-len there, or lower the agent's chunk_bytes"
    )
    assert await read(url, [chunk(0), chunk(1)]) == [chunk(0), chunk(1)]


@pytest.mark.slow
async def test_a_group_has_one_reader(server):
    url = server.url()
    async with aclosing(connect(url)) as first, aclosing(connect(url)) as other:
        await first.publish(chunk(0))
        async with aclosing(first.subscribe("history")) as deliveries:
            await anext(deliveries)
            waiting = asyncio.ensure_future(anext(deliveries))
            began = time.monotonic()
            for second in (first, other):
                with pytest.raises(ConfigError) as caught:
                    await anext(second.subscribe("history"))
                assert "is being read, and has one reader at a time; stop that one, or read as another group" in str(
                    caught.value
                )
            assert time.monotonic() - began > 9  # one that was killed would have been gone by then
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.slow
async def test_what_a_reader_that_was_killed_had_comes_to_the_next_one(server):
    url = server.url("killed")
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
        await pubsub.publish(chunk(1))
    with server.client() as client:
        client.xgroup_create("killed", "history", "0")
        client.xreadgroup("history", "reader", {"killed": ">"})
        client.set("{killed}:history:reader", "somebody", px=3000)
    began = time.monotonic()
    assert await read(url, [chunk(0), chunk(1)]) == [chunk(0), chunk(1)]
    assert time.monotonic() - began > 2


async def test_a_reader_that_lost_its_place_while_it_stood_still_takes_nothing_more(server):
    url = server.url("stalled")
    with server.client() as client:
        async with aclosing(connect(url)) as pubsub:
            await pubsub.publish(chunk(0))
            deliveries = pubsub.subscribe("history")
            await (await anext(deliveries)).ack()
            client.set("{stalled}:history:reader", "somebody", px=3000)
            await pubsub.publish(chunk(1))
            with pytest.raises(BrokerUnavailable, match="was not renewed for 10 seconds and may have another reader"):
                await anext(deliveries)
            await deliveries.aclose()
        # it would be given to the other reader only once that one is killed, too
        assert client.xpending("stalled", "history")["pending"] == 0
        assert client.get("{stalled}:history:reader") == b"somebody"


async def test_a_primary_that_becomes_a_replica_is_left(own):
    first, second = own(*DURABLE), own(*DURABLE)
    url = first.url("s")
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
        with first.client() as client:
            client.replicaof("127.0.0.1", second.port)
            with pytest.raises(BrokerUnavailable, match=r"is a replica: .*; name the primary"):
                await pubsub.publish(chunk(1))
            client.replicaof("no", "one")
        await until_stored(pubsub, chunk(1))


@pytest.mark.slow
async def test_retention_trims_what_every_group_has_and_nothing_else(server, monkeypatch, caplog):
    monkeypatch.setattr("raytrail.pubsub.redis.reader._TIDY_SECONDS", 0.1)
    url = server.url("kept", retain_bytes=20_000)
    sent = [chunk(number, data=os.urandom(500).hex().encode() + b"\n") for number in range(200)]
    with server.client() as client:
        async with aclosing(connect(url)) as pubsub:
            await asyncio.gather(*map(pubsub.publish, sent))
            behind = pubsub.subscribe("behind")
            first = await anext(behind)
            async with aclosing(pubsub.subscribe("ahead")) as deliveries:
                for _ in sent:
                    await (await anext(deliveries)).ack()
                waiting = asyncio.ensure_future(anext(deliveries))
                await until(lambda: warnings(caplog))
                assert client.xlen("kept") == 200  # the other group has acknowledged nothing
                await first.ack()
                for _ in sent[1:]:
                    await (await anext(behind)).ack()
                both = asyncio.ensure_future(anext(behind))
                await until(lambda: client.xlen("kept") <= 110)  # Redis trims whole nodes, of a hundred entries
                for task in (waiting, both):
                    task.cancel()
                await asyncio.gather(waiting, both, return_exceptions=True)
            await behind.aclose()
    logged = warnings(caplog)
    assert all(text.startswith(f"redis://127.0.0.1:{server.port}: stream 'kept' takes ") for text in logged)
    assert [text for text in logged if text.endswith(BEHIND)]


@pytest.mark.slow
async def test_a_group_that_is_long_away_holds_nothing_back(server, monkeypatch, caplog):
    monkeypatch.setattr("raytrail.pubsub.redis.reader._TIDY_SECONDS", 0.1)
    url = server.url("away", retain_seconds=1)
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
        await read(url, [chunk(0)], "gone", ack=False)
        await asyncio.sleep(1.5)
        with server.client() as client:
            async with aclosing(pubsub.subscribe("here")) as deliveries:
                await (await anext(deliveries)).ack()
                waiting = asyncio.ensure_future(anext(deliveries))
                await until(lambda: client.xlen("away") == 0)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
    assert warnings(caplog) == [
        f"redis://127.0.0.1:{server.port}: the groups ['gone'] of stream 'away' have been away longer than "
        f"retain_seconds=1 and no longer hold back what they have not read"
    ]


async def test_a_server_that_is_full_is_waited_for(own):
    server = own("--maxmemory", "8mb", "--maxmemory-policy", "noeviction", *DURABLE)
    url = server.url()
    sent = [chunk(number, data=os.urandom(50_000).hex().encode() + b"\n") for number in range(100)]
    async with aclosing(connect(url)) as pubsub:
        results = [await asyncio.wait_for(attempt(pubsub.publish(sent_chunk)), DEADLINE_SECONDS) for sent_chunk in sent]
        caught = next(result for result in results if result is not None)
        assert isinstance(caught, BrokerUnavailable)
        assert "is out of memory: " in str(caught)
        assert str(caught).endswith("; start the readers of its groups, raise maxmemory, or lower retain_bytes")
        reading = asyncio.ensure_future(read(url, sent))
        await asyncio.wait_for(
            asyncio.gather(*(until_stored(pubsub, sent_chunk) for sent_chunk in sent)), DEADLINE_SECONDS
        )
        assert set(await reading) == set(sent)


async def test_what_was_deleted_by_hand_before_it_was_read_is_warned_of(server, caplog):
    url = server.url("holes")
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
        await read(url, [chunk(0)], ack=False)
        with server.client() as client:
            [(entry, _)] = client.xrange("holes")
            client.xdel("holes", entry)
        await pubsub.publish(chunk(1))
    caplog.clear()
    assert await read(url, [chunk(1)]) == [chunk(1)]
    assert warnings(caplog) == [
        f"redis://127.0.0.1:{server.port}: entry {entry.decode()} was deleted before group 'history' had acknowledged "
        f"it; retention did not do that"
    ]


async def test_a_server_that_may_forget_is_warned_of_once(own, caplog):
    server = own("--maxmemory", "0", "--maxmemory-policy", "allkeys-lru")
    async with aclosing(connect(server.url("s"))) as pubsub:
        await pubsub.publish(chunk(0))
        await pubsub.publish(chunk(1))
    where = f"redis://127.0.0.1:{server.port}"
    assert warnings(caplog) == [
        f"{where} keeps no append-only file: what is stored is lost when it stops without a snapshot; set appendonly "
        f"yes and appendfsync always in redis.conf",
        f"{where} has no maxmemory: while nobody reads it may take all memory of its machine; set maxmemory, and "
        f"maxmemory-policy noeviction, in redis.conf",
        f"{where} may evict the stream 's' when its memory is full, unread or not: its maxmemory-policy is "
        f"allkeys-lru; set it to noeviction",
    ]


@pytest.mark.slow
async def test_an_idle_reader_asks_for_little(server):
    url = server.url()
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
        async with aclosing(pubsub.subscribe("history")) as deliveries:
            await (await anext(deliveries)).ack()
            waiting = asyncio.ensure_future(anext(deliveries))
            await asyncio.sleep(0.5)
            with server.client() as client:
                before = client.info("stats")["total_commands_processed"]
                await asyncio.sleep(2)
                made = client.info("stats")["total_commands_processed"] - before
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
    assert made < 20


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://", "'redis://' names no Redis database; write redis://[user:password@]host[:6379][/number]"),
        ("redis://h/x", "'redis://h/x' names no Redis database; write redis://[user:password@]host[:6379][/number]"),
        ("redis://h?strem=x", "'redis://h': Object contains unknown field `strem`; the settings are stream, "
                              "retain_bytes, retain_seconds, timeout_seconds, tls, ca_file"),
    ],
)  # fmt: skip
def test_a_wrong_url_is_refused(url, says):
    with pytest.raises(ConfigError) as caught:
        connect(url)
    assert str(caught.value) == says


@pytest.mark.parametrize("group", ["history", "night shift"])
async def test_histories_with_a_store_each_get_everything_under_one_name(server, tmp_path, group):
    await check_each_gets_all(server.url(), tmp_path, group)


async def test_a_store_of_an_older_version_misses_nothing_and_its_old_group_holds_nothing_back(server, tmp_path):
    async def held_for():
        with server.client() as client:
            return {group["name"].decode() for group in client.xinfo_groups("upgraded")}

    await check_an_old_store_goes_on(server.url("upgraded"), tmp_path, held_for)


async def test_a_group_that_is_read_as_is_not_forgotten(server):
    url = server.url()
    async with aclosing(connect(url)) as pubsub:
        assert await pubsub.forget("nobody")  # there is not even a stream
        await pubsub.publish(chunk(0))
        deliveries = pubsub.subscribe("history")
        await (await anext(deliveries)).ack()
        assert not await pubsub.forget("history")
        await deliveries.aclose()
        assert await pubsub.forget("history")
        async with aclosing(pubsub.subscribe("history")) as deliveries:
            assert (await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS)).chunk == chunk(0)


async def test_a_history_of_a_copy_of_a_store_is_refused_while_one_of_the_store_reads(server, tmp_path):
    await check_a_copy_is_refused(server.url(), tmp_path)
