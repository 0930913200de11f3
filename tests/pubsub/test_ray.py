"""Ray's own GCS, unmodified: what it drops is noticed, and published again."""

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import aclosing
from functools import partial
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from lab.ray_cluster import ray_cluster
from tests.brokers.promises import connected
from tests.line import Line, wait_for

from raytrail.errors import BrokerUnavailable, ChunkRefused, ConfigError, EventError
from raytrail.event import Chunk, Segment, Unreadable
from raytrail.pubsub import Delivery
from raytrail.pubsub.ray import RayPubSub, acks, gcs, sender, wire
from raytrail.pubsub.ray.gcs import Gcs
from raytrail.testing import check_pubsub

connect = partial(connected, RayPubSub)
DEADLINE_SECONDS = 30


def against_ray(test):
    return pytest.mark.ray(pytest.mark.slow(test))


@contextlib.contextmanager
def started(buffer_bytes=64 * 1024**2):
    if not Path(sys.executable).with_name("ray").exists():
        text = "no `ray` beside this Python; pip install 'ray[default]==2.60.0'"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(text)
    with ray_cluster(
        export=False, num_cpus=1, system_config={"publisher_entity_buffer_max_bytes": buffer_bytes}
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def cluster():
    with started() as cluster:
        yield cluster


@pytest.fixture
def url(cluster):
    """Of a topic that nobody else uses."""
    return f"ray://{cluster.address}/{uuid4().hex}"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Readers of this process tell more often that they are there, so that less time is waited for another."""
    monkeypatch.setattr(acks, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(acks, "_JOIN_SECONDS", 1.0)


def chunk(number, file="file0", data=b""):
    data = data or b'{"event_data":{"number":%06d}}\n' % number
    return Chunk(
        cluster="",
        session="session_1",
        node_id="0b" * 28,
        event_type="TASK",
        segments=(Segment(f"1795420800-{file}", 0, number * len(data), len(data)),),
        data=data,
    )


@contextlib.asynccontextmanager
async def listening(pubsub, group="history"):
    """Yield a queue of what the group hears, and does not ack by itself."""
    queue: asyncio.Queue[Delivery] = asyncio.Queue()

    async def listen():
        async with aclosing(pubsub.subscribe(group)) as deliveries:
            async for delivery in deliveries:
                await queue.put(delivery)

    task = asyncio.create_task(listen())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def acking(pubsub, heard):
    """Add to `heard` what the history hears, and ack it; subscribe again as it does."""

    async def read():
        while True:
            with contextlib.suppress(BrokerUnavailable):
                async with aclosing(pubsub.subscribe("history")) as deliveries:
                    async for delivery in deliveries:
                        heard.append(delivery.chunk)
                        await delivery.ack()
            await asyncio.sleep(0.1)

    task = asyncio.create_task(read())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def stored(pubsub, chunk):
    """As the agent does."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            return await pubsub.publish(chunk)
        except BrokerUnavailable:
            assert time.monotonic() < deadline, "not stored in time"
            await asyncio.sleep(0.1)


async def soon(awaitable):
    return await asyncio.wait_for(awaitable, DEADLINE_SECONDS)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        *(
            (
                url,
                f"{shown!r} names no topic of a GCS; write ray://host:6379/topic, or ray:///topic for the Ray of this "
                "machine, with letters, digits, '.', '_' and '-' in the topic",
            )
            for url, shown in [
                ("ray://head:6379", "ray://head:6379"),
                ("ray://head:6379/", "ray://head:6379/"),
                ("ray://head:6379/a/b", "ray://head:6379/a/b"),
                ("ray://a:1,b:2/topic", "ray://a:1,b:2/topic"),
                ("ray://me:secret@head/topic", "ray://me:***@head/topic"),
                ("ray://:6379/topic", "ray://:6379/topic"),
            ]
        ),
        (
            "ray://head/topic?ack=none",
            "'ray://head/topic': Object contains unknown field `ack`; the settings are acks, timeout_seconds",
        ),
        (
            "ray://head/topic?timeout_seconds=0.5",
            "'ray://head/topic': Expected `float` >= 3.0 - at `$.timeout_seconds`; "
            "the settings are acks, timeout_seconds",
        ),
    ],
)
def test_a_wrong_url_says_what_to_write(url, message):
    with pytest.raises(ConfigError) as caught:
        connect(url)
    assert str(caught.value) == message


def test_what_the_dashboard_reads_is_valid_to_it():
    models = pytest.importorskip("ray.dashboard.modules.reporter.reporter_models")
    model = models.StatsPayload
    validate = model.model_validate if hasattr(model, "model_validate") else model.parse_obj  # pydantic 1's
    validate(json.loads(gcs._STATS))


def test_lone_surrogates_pass():
    sent = Chunk(cluster="\udcff", session="", node_id="", event_type="TASK", segments=(), data=b"x\n")
    topic = connect("ray:///topic")._topic
    message = wire.decode_message(wire.pack("me", 0, 1, [sent]), wire.Message, topic)
    assert list(wire.unpack(message, topic)) == [([1], sent)]


@against_ray
async def test_keeps_its_promises(url):
    await check_pubsub(lambda: connect(f"{url}?acks=none"))


@against_ray
async def test_without_a_history_nothing_is_stored_and_with_one_it_is_when_acked(url):
    async with aclosing(connect(f"{url}?timeout_seconds=3")) as agent, aclosing(connect(url)) as history:
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable) as caught:
            await agent.publish(chunk(0))
        assert str(caught.value) == (
            f"no reader of group 'history' has acknowledged at {url} for 3 seconds; start `raytrail history`, or name "
            f"its group with acks=..., or write acks=none to lose what nobody hears"
        )
        assert 3 <= time.monotonic() - began < 6
        async with listening(history) as heard:
            publishing = asyncio.create_task(stored(agent, chunk(0)))
            delivery = await soon(heard.get())
            assert delivery.chunk == chunk(0)
            assert not publishing.done()
            await delivery.ack()
            await soon(publishing)
            # the reader is known now: no waiting
            publishing = asyncio.create_task(agent.publish(chunk(1)))
            delivery = await soon(heard.get())
            await delivery.ack()
            await soon(publishing)
            assert heard.empty()


@against_ray
async def test_other_groups_hear_and_their_acks_count_for_nothing(url):
    async with aclosing(connect(f"{url}?timeout_seconds=3")) as agent, aclosing(connect(url)) as reader:
        history: list[Chunk | Unreadable] = []
        async with listening(reader, "a") as a, listening(reader, "b") as b, acking(reader, history):
            await soon(stored(agent, chunk(0)))
            assert history == [chunk(0)]
            for heard in (a, b):
                delivery = await soon(heard.get())
                assert delivery.chunk == chunk(0)
                await delivery.ack()
        async with listening(reader, "a") as heard:
            publishing = asyncio.create_task(agent.publish(chunk(1)))
            while not publishing.done():
                with contextlib.suppress(asyncio.QueueEmpty):
                    await heard.get_nowait().ack()
                await asyncio.sleep(0.05)
            with pytest.raises(BrokerUnavailable):
                publishing.result()


@against_ray
async def test_an_ack_that_never_comes_has_the_chunk_published_again(url):
    agent, history = connect(f"{url}?timeout_seconds=3"), connect(url)
    async with aclosing(agent), aclosing(history), listening(history) as heard:
        publishing = asyncio.create_task(stored(agent, chunk(0)))
        lost = await soon(heard.get())
        again = await soon(heard.get())
        assert lost.chunk == again.chunk == chunk(0)
        await again.ack()
        await soon(publishing)


@against_ray
async def test_a_reader_that_is_behind_is_waited_for(url):
    agent, history = connect(f"{url}?timeout_seconds=3"), connect(url)
    async with aclosing(agent), aclosing(history), aclosing(history.subscribe("history")) as deliveries:
        first = asyncio.create_task(anext(deliveries))
        publishing = [asyncio.create_task(stored(agent, chunk(0)))]
        await soon(first)
        await first.result().ack()
        publishing += [asyncio.create_task(agent.publish(chunk(number))) for number in range(1, 4)]
        await asyncio.sleep(7)  # more than two time-outs
        assert [task.done() for task in publishing] == [True, False, False, False]
        received: list[Chunk | Unreadable] = []
        while len(received) < 3:
            delivery = await soon(anext(deliveries))
            received.append(delivery.chunk)
            await delivery.ack()
        assert received == [chunk(number) for number in range(1, 4)]
        await soon(asyncio.gather(*publishing))


READER = """
import asyncio, sys
from raytrail.pubsub import connect
async def read():
    async for delivery in connect(sys.argv[1]).subscribe("history"):
        number = delivery.chunk.segments[0].start // len(delivery.chunk.data)
        if number % 5:
            await delivery.ack()
        await asyncio.sleep(0.3)  # the ack is told meanwhile
        print(number, bool(number % 5), flush=True)
asyncio.run(read())
"""


async def mailbox(agent, subscriber_id):
    """Return the chunks that wait for that subscriber."""
    gcs = Gcs(agent._topic)
    try:
        await gcs.subscribe(agent._topic.chunks + b".none")
        gcs.subscriber_id = subscriber_id
        payloads = [payload for key, payload in await gcs.poll(2) if key == agent._topic.chunks]
        messages = [wire.decode_message(payload, wire.Message, agent._topic) for payload in payloads]
        return [unpacked for message in messages for _, unpacked in wire.unpack(message, agent._topic)]
    finally:
        await gcs.aclose()


@against_ray
async def test_nothing_is_lost_when_readers_are_killed(url):
    sent = [chunk(number) for number in range(40)]
    safe, killed = set(), []
    async with aclosing(connect(f"{url}?timeout_seconds=20")) as agent:
        publishing = [asyncio.create_task(stored(agent, sent_chunk)) for sent_chunk in sent]
        for _ in range(2):
            reader = await asyncio.create_subprocess_exec(
                sys.executable, "-c", READER, url, stdout=subprocess.PIPE, start_new_session=True
            )
            for _ in range(4):
                assert reader.stdout
                number, acked = (await soon(reader.stdout.readline())).split()
                if acked == b"True":
                    safe.add(int(number))
            killed.append(agent._sender._reader)
            reader.send_signal(signal.SIGKILL)
            await reader.wait()
        assert not all(task.done() for task in publishing)
        began = time.monotonic()
        heard: list[Chunk | Unreadable] = []
        async with aclosing(connect(url)) as history, acking(history, heard):
            await soon(asyncio.gather(*publishing))
            await soon(stored(agent, chunk(40)))
            # nothing more waits in the GCS for those that are gone
            for subscriber_id in killed:
                waiting = await mailbox(agent, subscriber_id)
                assert waiting
                assert chunk(40) not in waiting
        # what the last one had heard is given up when the next one reports, and not at its time-out
        assert time.monotonic() - began < 15
        number_of = {sent_chunk: number for number, sent_chunk in enumerate(sent)}
        # one killed between its ack and its line had acked no more than a chunk
        number_of[chunk(40)] = 40
        assert len(set(range(40)) - safe - {number_of[heard_chunk] for heard_chunk in heard}) <= 2


@against_ray
async def test_chunks_published_at_once_stay_in_order(url):
    sent = [chunk(number, file=f"file{number % 7}", data=b"x" * 50_000 + b"\n") for number in range(200)]
    heard: list[Chunk | Unreadable] = []
    async with aclosing(connect(url)) as agent, aclosing(connect(url)) as history, acking(history, heard):
        await soon(asyncio.gather(*(agent.publish(sent_chunk) for sent_chunk in sent)))
    assert heard == sent


@against_ray
async def test_what_was_not_heard_is_counted(url, caplog):
    async with aclosing(connect(f"{url}?acks=none")) as agent, aclosing(connect(f"{url}?acks=none")) as reader:
        async with listening(reader) as heard:
            while heard.empty():
                await agent.publish(chunk(0))
                await asyncio.sleep(0.1)
        await agent.publish(chunk(1))  # heard or not: the reader is leaving
        await agent.publish(chunk(2))
        await agent.publish(chunk(3))
        assert reader.missed_chunks == 0
        async with listening(reader) as heard:
            while heard.empty():
                await agent.publish(chunk(4))
                await asyncio.sleep(0.1)
        assert reader.missed_chunks >= 3
        [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert warning.getMessage() == (
            f"{url}: group 'history' did not hear {reader.missed_chunks} chunks of {agent._sender._producer}; "
            f"let a history ack them (acks=...) to miss none"
        )


@against_ray
async def test_a_group_that_acks_has_one_reader(url):
    refusal = (
        f"group 'history' at {url} is being read, and has one reader at a time; stop that one, or read as another group"
    )
    async with aclosing(connect(url)) as agent, aclosing(connect(url)) as history, aclosing(connect(url)) as other:
        async with acking(history, []):
            await soon(stored(agent, chunk(0)))
            for reader in (history, other):
                with pytest.raises(ConfigError) as caught:
                    await soon(anext(reader.subscribe("history")))
                assert str(caught.value) == refusal
            await soon(stored(agent, chunk(1)))
        heard: list[Chunk | Unreadable] = []
        async with acking(other, heard):
            await soon(stored(agent, chunk(2)))
        assert heard == [chunk(2)]


@against_ray
@pytest.mark.parametrize("first", ["history", "history-0123456789abcdef"])
async def test_whichever_store_a_history_keeps_the_acking_group_has_one_reader(url, first):
    async with aclosing(connect(url)) as agent, aclosing(connect(url)) as history, aclosing(connect(url)) as other:
        reading = asyncio.create_task(anext(deliveries := history.subscribe(first)))
        publishing = asyncio.create_task(soon(stored(agent, chunk(0))))
        delivery = await soon(reading)
        for pubsub in (history, other):
            with pytest.raises(ConfigError, match="is being read, and has one reader at a time"):
                await soon(anext(pubsub.subscribe("history-fedcba9876543210")))
        await delivery.ack()
        # an agent that waits for acks of the name alone hears them
        await publishing
        await deliveries.aclose()


@against_ray
async def test_of_two_readers_that_come_at_once_one_stays(url):
    async with aclosing(connect(url)) as history, aclosing(connect(url)) as other:
        reading = [asyncio.create_task(anext(reader.subscribe("history"))) for reader in (history, other)]
        done, [still_reading] = await asyncio.wait(
            reading, timeout=DEADLINE_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        assert [type(task.exception()) for task in done] == [ConfigError]
        async with aclosing(connect(url)) as agent:
            publishing = asyncio.create_task(agent.publish(chunk(0)))
            delivery = await soon(still_reading)
            assert delivery.chunk == chunk(0)
            publishing.cancel()


@against_ray
async def test_a_chunk_too_long_is_refused_and_the_next_one_is_not(url):
    long = chunk(0, data=os.urandom(32 * 1024**2))
    heard: list[Chunk | Unreadable] = []
    async with aclosing(connect(url)) as agent, aclosing(connect(url)) as history, acking(history, heard):
        publishing = asyncio.create_task(agent.publish(long))
        with pytest.raises(ChunkRefused) as caught:
            await agent.publish(chunk(0, data=long.data + b"\n"))
        assert str(caught.value) == (
            f"{url} takes 33554432 bytes at most, and a chunk has 33554433; lower the agent's chunk_bytes"
        )
        await soon(asyncio.gather(publishing, agent.publish(chunk(1))))
    assert heard == [long, chunk(1)]


@against_ray
async def test_a_message_of_somebody_else_comes_as_what_cannot_be_read_and_stops_nobody(url):
    async with aclosing(connect(f"{url}?acks=none")) as agent, aclosing(connect(f"{url}?acks=none")) as reader:
        await agent.publish(chunk(0))
        reading = asyncio.create_task(anext(reader.subscribe("any")))
        assert agent._sender._gcs
        while not reading.done():
            await agent._sender._gcs.publish(agent._topic.chunks, b"\x93\x01\x02\x03")
            await asyncio.wait([reading], timeout=0.2)
        delivery = reading.result()
        await delivery.ack()
        assert isinstance(delivery.chunk, Unreadable)
        assert delivery.chunk.reason == (
            f"a message at {url} is not ours: Expected `array` of at least length 5, got 3; a newer agent or reader "
            f"wrote it: upgrade, or take another topic"
        )
        assert delivery.chunk.data == b"\x93\x01\x02\x03"


def test_chunks_whose_message_was_altered_are_acknowledged_as_what_cannot_be_read():
    topic = connect("ray:///topic")._topic
    packed = msgspec.msgpack.decode(wire.pack("producer", 0, 5, [chunk(0), chunk(1)]), type=wire.Message)
    assert [unpacked for _, unpacked in wire.unpack(packed, topic)] == [chunk(0), chunk(1)]
    altered = msgspec.structs.replace(packed, lines=b"garbage")
    [(numbers, odd)] = wire.unpack(altered, topic)
    assert (list(numbers), odd.data) == ([5, 6], b"garbage")
    short = msgspec.structs.replace(packed, chunks=[(head, length // 2) for head, length in packed.chunks])
    assert [type(unpacked).__name__ for _, unpacked in wire.unpack(short, topic)] == ["Unreadable", "Unreadable"]


NO_TEXT = b"\xa1\xff"
DEEP = b"\x91" * 100_000 + b"\x01"


@pytest.mark.parametrize(
    "payload",
    [
        b"\x95" + NO_TEXT + b"\x00\x01\x90\xc4\x00",
        b"\x96\xa1p\x00\x01\x90\xc4\x00" + DEEP,  # of a newer version, which wrote one thing more
        msgspec.msgpack.encode(("p", 0, 2**64 - 1, [({}, 0), ({}, 0)], b"")),
        msgspec.msgpack.encode(("p", 2**64 - 1, 1, [], b"")),
        msgspec.msgpack.encode(("p", 0, -1, [], b"")),
    ],
    ids=["no text", "deep", "numbers no ack can hold", "a gap no report can hold", "a negative number"],
)
def test_a_message_that_cannot_be_is_an_error_of_ours(payload):
    topic = connect("ray:///topic")._topic
    with pytest.raises(EventError, match="a message at ray:///topic is not ours: "):
        wire.decode_message(payload, wire.Message, topic)


def test_the_last_numbers_of_a_message_can_be_acknowledged():
    topic = connect("ray:///topic")._topic
    packed = wire.pack("producer", 2**62, 2**62, [chunk(0), chunk(1)])
    numbers = [
        number for some, _ in wire.unpack(wire.decode_message(packed, wire.Message, topic), topic) for number in some
    ]
    report = wire.Report("history", b"x" * 28, False, {"producer": numbers}, {"producer": [(1, 2**62)]})
    assert [read_report.acked for read_report in wire.read_reports([msgspec.msgpack.encode(report)], topic)] == [
        {"producer": numbers}
    ]


def test_what_is_no_report_says_nothing():
    topic = connect("ray:///topic")._topic
    report = msgspec.msgpack.encode(("history", b"x" * 28, False, {}, {}))
    odd = [b"\xff", b"", b"\x95" + NO_TEXT + report[9:], b"\x96" + report[1:] + DEEP]
    assert [read_report.group for read_report in wire.read_reports([*odd, report, b"\x93"], topic)] == ["history"]


def gcs_of(cluster):
    """Return the pid of the cluster's GCS, and a function that starts it again, as Kubernetes may."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().decode().split("\0")[:-1] if entry.name.isdigit() else []
            if command and Path(command[0]).name == "gcs_server" and str(cluster.temp_dir) in "".join(command):
                environment = dict(
                    part.split("=", 1) for part in (entry / "environ").read_text().split("\0") if "=" in part
                )
                quiet = subprocess.DEVNULL
                return int(entry.name), partial(subprocess.Popen, command, env=environment, stdout=quiet, stderr=quiet)
    raise AssertionError("no GCS")


@against_ray
async def test_where_a_service_does_not_serve_the_channel_nothing_is_published(cluster, url, monkeypatch):
    pid, _ = gcs_of(cluster)
    served, unserved = gcs._SERVICES, ("ControlPlanePubSubGcsService", "NoSuchService")
    monkeypatch.setattr(gcs, "_SERVICES", unserved)
    async with aclosing(connect(f"{url}?acks=none")) as agent:
        with pytest.raises(ConfigError) as caught:
            await agent.publish(chunk(0))
        assert str(caught.value) == (
            f"there is no pub/sub of a GCS at {url}; name the address that `ray start --head` prints, of port 6379 "
            f"mostly and not Ray Client's 10001, of a Ray from 2.48 to 2.60"
        )
        monkeypatch.setattr(gcs, "_SERVICES", (*unserved, *served))
        await agent.publish(chunk(0))
    assert gcs_of(cluster)[0] == pid


@against_ray
async def test_without_a_host_it_is_the_ray_of_the_environment(cluster, monkeypatch):
    url = f"ray:///{uuid4().hex}?acks=none"
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    async with aclosing(connect(url)) as agent:
        await agent.publish(chunk(0))
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    async with aclosing(connect(url)) as agent:
        with pytest.raises(ConfigError) as caught:
            await agent.publish(chunk(0))
    assert str(caught.value) == (
        f"{url.partition('?')[0]}: RAY_ADDRESS is 'ray://head:10001', which is no GCS; write its address into the URL"
    )


@against_ray
async def test_ray_itself_notices_nothing(cluster, url):
    logs = [cluster.session_dir / "logs" / name for name in ("dashboard_NodeHead.log", "gcs_server.out")]
    before = [path.read_bytes() for path in logs]
    sent = [chunk(number, data=os.urandom(5000).hex().encode() + b"\n") for number in range(200)]
    agents = [connect(url) for _ in range(4)]
    heard: list[Chunk | Unreadable] = []
    async with aclosing(connect(url)) as history, acking(history, heard):
        for start in range(0, 200, 4):
            some = sent[start : start + 4]
            await soon(
                asyncio.gather(*(agent.publish(sent_chunk) for agent, sent_chunk in zip(agents, some, strict=True)))
            )
        for agent in agents:
            await agent.aclose()
    assert set(heard) == set(sent)
    grown = [path.read_bytes()[len(old) :].decode() for path, old in zip(logs, before, strict=True)]
    # the GCS itself has something to say in its first seconds, and each minute
    printed = [line for line in grown[1].splitlines() if re.match(r"\[[^]]+ [WEFC] ", line) or url[-32:] in line]
    assert (grown[0], printed) == ("", [])
    assert cluster.ask("/nodes?view=summary")["result"]


@contextlib.asynccontextmanager
async def relay(port, target):
    """Pass connections to `port` on to `target`; yield the port, and what cuts those that there are."""
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader, writer):
        with contextlib.suppress(OSError):
            while some := await reader.read(65536):
                writer.write(some)
                await writer.drain()
        writer.close()

    async def accept(reader, writer):
        far_reader, far_writer = await asyncio.open_connection(*target.split(":"))
        writers.extend((writer, far_writer))
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", port)

    def cut():
        for writer in writers:
            writer.transport.abort()

    try:
        yield server.sockets[0].getsockname()[1], cut
    finally:
        server.close()
        cut()


@against_ray
async def test_a_gcs_that_comes_later_and_goes_in_between_loses_nothing(cluster):
    async with relay(0, cluster.address) as (port, _):
        pass
    url = f"ray://127.0.0.1:{port}/{uuid4().hex}"
    async with aclosing(connect(url)) as agent, aclosing(connect(url)) as history:
        for call in (agent.publish(chunk(0)), anext(history.subscribe("history"))):
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable, match=f"the GCS of {url} does not answer"):
                await call
            assert time.monotonic() - began < 5
        for round in range(2):
            async with relay(port, cluster.address):
                heard: list[Chunk | Unreadable] = []
                async with acking(history, heard):
                    await soon(stored(agent, chunk(round)))
                assert set(heard) == {chunk(round)}
                publishing = asyncio.create_task(agent.publish(chunk(9)))
                await asyncio.wait([publishing], timeout=0.5)
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                await soon(publishing)
            assert time.monotonic() - began < 5


@against_ray
async def test_a_connection_that_is_cut_while_a_chunk_is_packed_has_it_published_again(cluster, monkeypatch):
    async with relay(0, cluster.address) as (port, cut):
        url = f"ray://127.0.0.1:{port}/{uuid4().hex}"
        loop, pack = asyncio.get_running_loop(), wire.pack

        async with aclosing(connect(url)) as agent, aclosing(connect(url)) as history:
            async with acking(history, []):
                await soon(stored(agent, chunk(0)))

            def cut_and_pack(*args):
                loop.call_soon_threadsafe(cut)
                deadline = time.monotonic() + DEADLINE_SECONDS
                assert agent._sender._listening
                while not agent._sender._listening.done() and time.monotonic() < deadline:
                    time.sleep(0.01)
                return pack(*args)

            monkeypatch.setattr(sender, "pack", cut_and_pack)
            with pytest.raises(BrokerUnavailable):  # the GCS took it, but nobody was left to hear of an ack
                await soon(agent.publish(chunk(1)))


@against_ray
async def test_what_is_published_while_it_is_being_closed_fails_at_once(url):
    agent = connect(url)
    publishing = [asyncio.create_task(agent.publish(chunk(0)))]
    await asyncio.wait(publishing, timeout=1)  # it waits for a reader
    closing = asyncio.create_task(agent.aclose())
    for number in range(1, 6):
        await asyncio.sleep(0)
        publishing.append(asyncio.create_task(agent.publish(chunk(number))))
    assert not closing.done()
    ended = await asyncio.wait_for(asyncio.gather(*publishing, return_exceptions=True), 5)
    assert {str(error) for error in ended} == {f"{url} is being closed; publish it again"}
    await closing


@against_ray
async def test_a_service_that_is_looked_for_again_is_used_meanwhile(url, monkeypatch):
    # as with a Ray before 2.60, which has not the first of them
    monkeypatch.setattr(gcs, "_SERVICES", ("NoSuchService", *gcs._SERVICES))
    async with aclosing(connect(url)) as agent:
        connection = Gcs(agent._topic)
        try:
            await connection.subscribe(agent._topic.acks)
            await soon(
                asyncio.gather(
                    connection.subscribe(), *(connection.publish(agent._topic.chunks, b"") for _ in range(5))
                )
            )
        finally:
            await connection.aclose()


@against_ray
async def test_a_reader_hears_from_the_moment_that_it_is_known(url, monkeypatch):
    subscribe = Gcs.subscribe

    async def slow(gcs, *keys):
        if keys and keys[0].endswith(b".chunks"):
            await asyncio.sleep(1)
        await subscribe(gcs, *keys)

    monkeypatch.setattr(Gcs, "subscribe", slow)
    heard: list[Chunk | Unreadable] = []
    async with aclosing(connect(url)) as agent, aclosing(connect(url)) as history, acking(history, heard):
        await soon(agent.publish(chunk(0)))
    assert heard == [chunk(0)]


def test_a_report_whose_reader_is_no_subscriber_is_not_taken():
    # the GCS dies of an id of another length, and the agent would name it to the GCS
    topic = connect("ray:///topic")._topic
    report = msgspec.msgpack.encode(("history", b"x" * 16, False, {}, {}))
    with pytest.raises(EventError) as caught:
        wire.decode_message(report, wire.Report, topic)
    assert str(caught.value) == (
        "a message at ray:///topic is not ours: Expected `bytes` of length >= 28 - at `$[1]`; a newer agent or reader "
        "wrote it: upgrade, or take another topic"
    )


@against_ray
def test_gaps_are_known_and_filled_from_the_files_until_the_ledger_is_whole(tmp_path):
    """Real processes; messages dropped by the GCS, the history killed, the GCS killed, the agent killed."""
    # so little that the GCS drops most of what it holds for a reader that stands still
    with started(buffer_bytes=64 * 1024) as cluster:
        line = Line(tmp_path / "line", f"ray://{cluster.address}/topic?timeout_seconds=5")
        pid, start_gcs = gcs_of(cluster)
        gcs = None

        def written_bytes():
            files = line.temp_dir.glob("session_*/logs/export_events/*")
            return sum(path.stat().st_size for path in files)

        def wait_for_more(count):
            before = written_bytes()
            wait_for(lambda: written_bytes() >= before + count, 30, "bytes in the files")

        def count_in_log(name, words):
            return (line.root / f"{name}.log").read_text().count(words)

        try:
            with line.writer(seconds=20, rotate_bytes=2_000_000) as writer:
                for name in ("agent", "history"):
                    line.start(name)
                wait_for((line.store / "catalogue.sqlite").exists, 30, "a store")
                wait_for(lambda: stored_chunks(line.store), 30, "a chunk in the store")

                history = line.processes["history"]
                history.send_signal(signal.SIGSTOP)
                wait_for_more(3_000_000)
                gaps = count_in_log("history", "did not hear")
                history.send_signal(signal.SIGCONT)
                wait_for(lambda: count_in_log("history", "did not hear") > gaps, 30, "a gap that the history knows of")

                line.kill("history")
                wait_for_more(500_000)
                line.start("history")
                stored_before = stored_chunks(line.store)
                wait_for(lambda: stored_chunks(line.store) > stored_before, 30, "chunks after the kill")

                os.kill(pid, signal.SIGKILL)
                wait_for(lambda: count_in_log("history", "does not answer"), 30, "a history that knows of it")
                gcs = start_gcs()
                line.kill("agent")
                line.start("agent")
                output, _ = writer.communicate(timeout=60)
            written = json.loads(output)
            assert written["deleted_bytes"] == 0
            wait_for(lambda: line.arrived(written), 60, f"{sum(written['events'].values())} events in the store")
            line.stop("agent")
            line.stop("history")
            line.check(written)
        finally:
            line.end()
            if gcs:
                gcs.kill()
                gcs.wait()


def stored_chunks(store):
    return len(list((store / "log").rglob("*.parquet")))
