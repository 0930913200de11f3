"""Chunks through a real NATS server, which the fixtures start."""

import asyncio
import logging
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import aclosing
from uuid import uuid4

import pytest

pytest.importorskip("nats")

import nats
from lab.ports import free_port
from tests.brokers.promises import (
    DEADLINE_SECONDS,
    check_away_at_first,
    check_hanging,
    check_killed,
    chunk,
    read,
)
from tests.histories import check_an_old_store_goes_on, check_each_gets_all

from raytrail.errors import BrokerUnavailable, ConfigError
from raytrail.event import Chunk
from raytrail.pubsub import connect
from raytrail.testing import check_pubsub

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


class Server:
    """One nats-server with JetStream on disk."""

    def __init__(self, directory, *arguments):
        self.directory, self.arguments = directory, arguments
        self.process: subprocess.Popen | None = None
        self.port = free_port()

    def url(self, stream=None, *, user="", **settings):
        query = "&".join(f"{name}={value}" for name, value in settings.items())
        return f"nats://{user and user + '@'}127.0.0.1:{self.port}/{stream or uuid4().hex}?{query}"

    def start(self, *arguments):
        command = [shutil.which("nats-server"), "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", self.directory]
        with open(self.directory / "nats.log", "ab") as log:
            self.process = subprocess.Popen([*command, *self.arguments, *arguments], stdout=log, stderr=log)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1):
                    return
            except OSError:
                assert self.process.poll() is None, (self.directory / "nats.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def kill(self):
        assert self.process
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


def needed():
    """Skip the test where there is no NATS; fail it in CI."""
    if not shutil.which("nats-server"):
        text = "no nats-server: run `make brokers` as root (apt-get install nats-server)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(text)


def started(server):
    needed()
    server.start()
    return server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = started(Server(tmp_path_factory.mktemp("nats")))
    yield server
    server.kill()


@pytest.fixture
def mortal(tmp_path):
    """A server of one's own, to be killed and started again."""
    server = started(Server(tmp_path))
    yield server
    if server.process.poll() is None:
        server.kill()


async def stored(url):
    """Return how many messages the stream holds."""
    client = await nats.connect(url.partition("?")[0].rpartition("/")[0])
    try:
        stream = url.partition("?")[0].rpartition("/")[2]
        return (await client.jetstream().stream_info(stream)).state.messages
    finally:
        await client.close()


@pytest.mark.slow
async def test_keeps_its_promises(server):
    url = server.url()
    await check_pubsub(lambda: connect(url))


@pytest.mark.slow
async def test_nothing_is_lost_when_the_server_is_killed_while_it_is_written_to_and_read(mortal):
    url = mortal.url(timeout_seconds=5)
    await check_killed(mortal, url, under_way_seconds=0.01, away_seconds=0, says="nats://")


async def test_a_server_that_is_away_at_first_is_waited_for(tmp_path, caplog):
    needed()
    server = Server(tmp_path)
    begins = f"nats://127.0.0.1:{server.port}/away does not answer: "
    await check_away_at_first(server, server.url("away"), begins, "; start it, or mend the URL")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_server_that_hangs_is_given_up_in_time_and_nothing_is_lost(mortal):
    url = mortal.url(timeout_seconds=1)
    shown = url.partition("?")[0]
    says = f"{shown} did not answer within 1 seconds; look after its servers, or raise timeout_seconds"
    await check_hanging(mortal, url, says)


async def test_what_is_sent_again_is_stored_once(server):
    url = server.url()
    large = chunk(7, file="large", data=b"x" * 3_000_000 + b"\n")
    async with aclosing(connect(url)) as agent, aclosing(connect(url)) as restarted:
        for pubsub in (agent, restarted):  # an agent whose answer was lost, and the same after a restart
            await asyncio.gather(*(pubsub.publish(chunk(number)) for number in range(10)), pubsub.publish(large))
    assert await stored(url) == 10 + 3
    assert set(await read(url, [*map(chunk, range(10)), large])) == {*map(chunk, range(10)), large}


async def test_a_chunk_of_which_a_part_never_came_holds_up_nothing(server):
    url = server.url("torn")
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
        client = await nats.connect(f"nats://127.0.0.1:{server.port}")
        torn = {"raytrail-id": "dead", "raytrail-part": "1/2"}
        await client.jetstream().publish("torn", b"half", headers=torn)
        await client.close()
        await pubsub.publish(chunk(1))
    assert await read(url, [chunk(0), chunk(1)]) == [chunk(0), chunk(1)]


async def test_two_readers_of_a_group_share_what_there_is(server):
    url = server.url()
    sent = [chunk(number) for number in range(300)]
    async with aclosing(connect(url)) as pubsub:
        await asyncio.gather(*map(pubsub.publish, sent))
        taken: list[list[Chunk]] = [[], []]

        async def take(mine):
            async with aclosing(pubsub.subscribe("shared")) as deliveries:
                async for delivery in deliveries:
                    mine.append(delivery.chunk)
                    await delivery.ack()
                    await asyncio.sleep(0.001)

        tasks = [asyncio.ensure_future(take(mine)) for mine in taken]
        deadline = time.monotonic() + DEADLINE_SECONDS
        while len(set(taken[0]) | set(taken[1])) < len(sent):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert taken[0]
    assert taken[1]
    assert not set(taken[0]) & set(taken[1])


async def test_a_group_that_is_read_is_not_taken_back_to_the_start(server):
    url = server.url()
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
        async with aclosing(pubsub.subscribe("busy")) as deliveries:
            await anext(deliveries)
            waiting = asyncio.ensure_future(anext(deliveries))
            await asyncio.sleep(0.3)
            with pytest.raises(ConfigError) as caught:
                await anext(pubsub.subscribe("busy", from_start=True))
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
    assert str(caught.value).endswith(
        ": group 'busy' is being read; stop its readers to read it from the start, or read as another group"
    )


@pytest.mark.slow
async def test_retention_deletes_what_every_group_has_and_nothing_else(server, monkeypatch):
    monkeypatch.setattr("raytrail.pubsub.nats._TIDY_SECONDS", 0.1)
    for module in ("nats", "nats.reader"):
        monkeypatch.setattr(f"raytrail.pubsub.{module}.ACK_WAIT_SECONDS", 2.0)
    url = server.url(retain_bytes=10_000)
    sent = [chunk(number, data=os.urandom(500).hex().encode() + b"\n") for number in range(50)]
    async with aclosing(connect(url)) as pubsub:
        await asyncio.gather(*map(pubsub.publish, sent))
        behind = pubsub.subscribe("behind")
        first = await anext(behind)
        async with aclosing(pubsub.subscribe("ahead")) as deliveries:
            for _ in sent:
                await (await anext(deliveries)).ack()
            waiting = asyncio.ensure_future(anext(deliveries))
            await asyncio.sleep(1)
            assert await stored(url) == 50  # the other group has acknowledged nothing
            await first.ack()
            for _ in sent[1:]:
                await (await anext(behind)).ack()
            deadline = time.monotonic() + DEADLINE_SECONDS
            while await stored(url) > 15:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await behind.aclose()


async def test_what_a_streams_own_limits_deleted_unread_is_warned_of(server, caplog):
    client = await nats.connect(f"nats://127.0.0.1:{server.port}")
    await client.jetstream().add_stream(name="short", subjects=["short"], max_msgs=3)
    url = server.url("short")
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
        await read(url, [chunk(0)])
        for number in range(1, 10):
            await pubsub.publish(chunk(number))
    assert await read(url, [chunk(9)]) == [chunk(7), chunk(8), chunk(9)]
    await client.close()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"nats://127.0.0.1:{server.port}/short: 6 messages were deleted before group 'history' had acknowledged them, "
        f"by the stream's own limits; raise its max_age and max_bytes"
    ]


async def test_a_full_stream_is_waited_for(server):
    client = await nats.connect(f"nats://127.0.0.1:{server.port}")
    jetstream = client.jetstream()
    full = nats.js.api.StreamConfig(name="full", subjects=["full"], max_msgs=1, discard=nats.js.api.DiscardPolicy.NEW)
    await jetstream.add_stream(full)
    async with aclosing(connect(server.url("full"))) as pubsub:
        await pubsub.publish(chunk(0))
        with pytest.raises(BrokerUnavailable) as caught:
            await pubsub.publish(chunk(1))
        assert str(caught.value) == (
            f"nats://127.0.0.1:{server.port}/full: maximum messages exceeded; make room there, or switch JetStream on "
            f"(nats-server -js)"
        )
        await jetstream.purge_stream("full")
        await pubsub.publish(chunk(1))
    await client.close()


async def test_a_missing_stream_that_is_not_to_be_made_is_an_error(server):
    url = server.url("missing", create="false")
    async with aclosing(connect(url)) as pubsub:
        with pytest.raises(ConfigError) as caught:
            await pubsub.publish(chunk(0))
    assert str(caught.value) == (
        f"nats://127.0.0.1:{server.port}/missing: no such stream; make it, or leave create=false out"
    )


async def test_who_is_not_let_in_is_told(tmp_path):
    server = started(Server(tmp_path, "--user", "agent", "--pass", "secret"))
    try:
        for user in ("", "agent:wrong", "token"):
            async with aclosing(connect(server.url("s", user=user))) as pubsub:
                with pytest.raises(ConfigError) as caught:
                    await pubsub.publish(chunk(0))
            assert str(caught.value).endswith(
                f"127.0.0.1:{server.port}/s does not let us in; mend user, password, token or creds_file"
            )
            assert "wrong" not in str(caught.value)
        async with aclosing(connect(server.url("s", user="agent:secret"))) as pubsub:
            await pubsub.publish(chunk(0))
    finally:
        server.kill()


async def test_groups_and_clusters_may_have_any_name(server):
    url = server.url()
    odd = Chunk(cluster="a\udc80 b\r\nc", session="s", node_id="", event_type="FILE", segments=(), data=b'{"a":1}\n')
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(odd)
    assert await read(url, [odd], "Zürich / *.>") == [odd]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nats://h", "'nats://h' names no stream; write nats://host:4222/stream, with letters, digits, '_' and '-' in "
                     "its name"),
        ("nats:///s", "'nats:///s' names no stream; write nats://host:4222/stream, with letters, digits, '_' and '-' "
                      "in its name"),
        ("nats://h/a.b", "'nats://h/a.b' names no stream; write nats://host:4222/stream, with letters, digits, '_' "
                         "and '-' in its name"),
        ("nats://h/s?replicas=9", "'nats://h/s': Expected `int` <= 5 - at `$.replicas`; the settings are create, "
                                  "replicas, retain_bytes, retain_seconds, timeout_seconds, tls, ca_file, creds_file"),
    ],
)  # fmt: skip
def test_a_wrong_url_is_refused(url, says):
    with pytest.raises(ConfigError) as caught:
        connect(url)
    assert str(caught.value) == says


@pytest.mark.slow
@pytest.mark.parametrize("group", ["history", "night shift"])
async def test_histories_with_a_store_each_get_everything_under_one_name(server, tmp_path, group):
    await check_each_gets_all(server.url(), tmp_path, group)


@pytest.mark.slow
async def test_a_store_of_an_older_version_misses_nothing_and_its_old_group_holds_nothing_back(server, tmp_path):
    url = server.url()

    async def held_for():
        client = await nats.connect(url.partition("?")[0].rpartition("/")[0])
        try:
            stream = url.partition("?")[0].rpartition("/")[2]
            return {consumer.name for consumer in await client.jetstream().consumers_info(stream)}
        finally:
            await client.close()

    await check_an_old_store_goes_on(url, tmp_path, held_for)
