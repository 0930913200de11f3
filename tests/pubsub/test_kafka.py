"""Chunks through a real Apache Kafka, which the fixtures start."""

import asyncio
import itertools
import json
import logging
import os
import sys
import time
from collections import Counter
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any
from uuid import uuid4
from zlib import crc32

import msgspec
import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka import Producer
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)
from tests.brokers.kafka import Kafka
from tests.brokers.promises import DEADLINE_SECONDS, chunk, numbered, read, until_stored
from tests.brokers.proxy import Proxy
from tests.histories import check_an_old_store_goes_on, check_each_gets_all

from raytrail.errors import BrokerUnavailable, ChunkRefused, ConfigError
from raytrail.event import Chunk, Segment, Unreadable
from raytrail.pubsub import connect
from raytrail.pubsub.kafka.wire import by_line as lines_of
from raytrail.testing import check_pubsub

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    broker = Kafka(tmp_path_factory.mktemp("kafka"))
    try:
        broker.admin = broker.start()
        yield broker
    finally:
        broker.kill()


@pytest.fixture
def mortal(tmp_path):
    """A broker of one's own, to be started and killed."""
    broker = Kafka(tmp_path, **{"auto.create.topics.enable": "true", "num.partitions": 2})
    yield broker
    broker.kill()


@pytest.fixture
def cluster(tmp_path):
    """Three nodes that hold everything three times; the first one leads them."""
    thrice = {"default.replication.factor": 3, "offsets.topic.replication.factor": 3, "min.insync.replicas": 2}
    first = Kafka(tmp_path / "1", **thrice)
    nodes = [first, *(Kafka(tmp_path / str(node), first, node, **thrice) for node in (2, 3))]
    try:
        for node in nodes:
            node.launch()
        for node in nodes:
            node.admin = node.wait()
        yield nodes
    finally:
        for node in nodes:
            node.kill()


def in_order(received, sent, files):
    """Whether what came is what was sent, repetitions aside, each file in its order."""
    first = list(dict.fromkeys(received))
    assert set(first) == set(sent)
    return all(
        [received_chunk for received_chunk in first if received_chunk in set(sent[n::files])] == sent[n::files]
        for n in range(files)
    )


@asynccontextmanager
async def running(program, *arguments):
    """A Python process of its own, killed at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):  # it ended just now
                process.kill()
        await process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("envelope", ["chunk", "event"])
async def test_keeps_its_promises(kafka, envelope):
    url = kafka.url(envelope=envelope)
    await check_pubsub(lambda: connect(url))


@pytest.mark.slow
@pytest.mark.parametrize("envelope", ["chunk", "event"])
async def test_nothing_is_lost_when_the_broker_is_killed_while_it_is_written_to_and_read(mortal, envelope):
    mortal.start()
    topic = uuid4().hex
    url = mortal.url(topic, partitions="", envelope=envelope)
    sent = numbered(600, files=5)
    async with aclosing(connect(url)) as pubsub:
        await asyncio.gather(*(pubsub.publish(sent_chunk) for sent_chunk in sent[:200]))
        under_way = [asyncio.ensure_future(until_stored(pubsub, sent_chunk)) for sent_chunk in sent[200:400]]
        await asyncio.wait(under_way, timeout=0.02)
        mortal.kill()
        under_way += [asyncio.ensure_future(until_stored(pubsub, sent_chunk)) for sent_chunk in sent[400:]]
        await asyncio.to_thread(mortal.start)
        assert sum(await asyncio.gather(*under_way)) == 0, "failed, though it was back in time"
        assert len(mortal.messages(topic)) == len(sent), "sent again, it was stored again"

        received: list[Chunk | Unreadable] = []
        deliveries = pubsub.subscribe("history")
        while len(received) < 300:
            delivery = await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS)
            received.append(delivery.chunk)
            await delivery.ack()
        mortal.kill()
        restarting = asyncio.create_task(asyncio.to_thread(mortal.start))
        try:
            while set(received) != set(sent):
                received.append((await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS)).chunk)
        except BrokerUnavailable:
            await restarting
            received += await read(url, set(sent) - set(received))
        await restarting
        await deliveries.aclose()
    assert in_order(received, sent, files=5)


@pytest.mark.slow
async def test_a_new_leader_has_all_that_the_killed_one_had(cluster):
    topic = uuid4().hex
    ports = ",".join(f"127.0.0.1:{node.port}" for node in cluster)
    url = f"kafka://{ports}/{topic}?partitions=3"
    sent = numbered(900, files=9)
    reading = asyncio.create_task(read(url, sent))
    async with aclosing(connect(url)) as pubsub:
        await asyncio.gather(*map(pubsub.publish, sent[:300]))
        under_way = [asyncio.ensure_future(until_stored(pubsub, sent_chunk)) for sent_chunk in sent[300:600]]
        await asyncio.wait(under_way, timeout=0.01)
        partitions = cluster[0].admin.list_topics(topic).topics[topic].partitions.values()
        assert {(len(partition.replicas), len(partition.isrs)) for partition in partitions} == {(3, 3)}
        killed = next(partition.leader for partition in partitions if partition.leader != 1)
        cluster[killed - 1].kill()
        under_way += [asyncio.ensure_future(until_stored(pubsub, sent_chunk)) for sent_chunk in sent[600:]]
        assert sum(await asyncio.gather(*under_way)) == 0
    assert in_order(await reading, sent, files=9)
    partitions = cluster[0].admin.list_topics(topic).topics[topic].partitions.values()
    assert killed not in {partition.leader for partition in partitions}
    assert len(cluster[0].messages(topic)) == len(sent)


@pytest.mark.slow
async def test_a_file_goes_to_the_partition_that_librdkafka_itself_chooses(kafka):
    topic = uuid4().hex
    sent = numbered(30, files=30)
    async with aclosing(connect(kafka.url(topic, partitions=7))) as pubsub:
        await asyncio.gather(*map(pubsub.publish, sent))
    ours = {message.key(): message.partition() for message in kafka.messages(topic)}
    theirs = {}
    producer = Producer({"bootstrap.servers": f"127.0.0.1:{kafka.port}"})
    for key in ours:
        heard = lambda _, message: theirs.update({message.key(): message.partition()})  # noqa: E731
        producer.produce(topic, b"{}", key, on_delivery=heard)
    producer.flush()
    assert ours == theirs
    assert len(set(ours.values())) > 1


@pytest.mark.slow
async def test_all_lines_of_a_file_go_to_its_partition_whatever_their_keys(kafka):
    topic = uuid4().hex
    sent = [chunk(0, file=f"file{number}", data=b"{}\n" * 5) for number in range(30)]
    async with aclosing(connect(kafka.url(topic, partitions=7, envelope="event"))) as pubsub:
        await asyncio.gather(*map(pubsub.publish, sent))
    partitions = {
        (message.key().split()[1].partition(b":")[0], message.partition()) for message in kafka.messages(topic)
    }
    files = [sent_chunk.segments[0].file.encode() for sent_chunk in sent]
    assert partitions == {(file, crc32(file) % 7) for file in files}


@pytest.mark.slow
async def test_half_a_second_each_way_and_connections_cut_at_random_lose_nothing(kafka):
    topic = uuid4().hex
    url = kafka.url(topic, proxied=True)
    sent = numbered(600, files=4)
    kafka.admin.create_topics([NewTopic(topic, 3)])[topic].result()
    bad = {"delay_seconds": 0.5, "life_seconds": 6}
    async with Proxy(kafka.proxied_port, kafka.behind_port, **bad) as proxy, aclosing(connect(url)) as pubsub:
        reading = asyncio.create_task(read(url, sent))
        unsent = iter(sent)
        while proxy.cuts < 2 and (some := list(itertools.islice(unsent, 20))):
            await asyncio.gather(*(until_stored(pubsub, sent_chunk) for sent_chunk in some))
        assert proxy.cuts >= 2
        await asyncio.gather(*(until_stored(pubsub, sent_chunk) for sent_chunk in unsent))
        proxy.life_seconds = 0
        received = await reading
    assert in_order(received, sent, files=4)
    assert {message.value() for message in kafka.messages(topic)} == {sent_chunk.data for sent_chunk in sent}


@pytest.mark.slow
async def test_a_chunk_whose_ack_was_lost_is_stored_once(kafka):
    topic = uuid4().hex
    sent = numbered(60, files=2)
    async with (
        Proxy(kafka.proxied_port, kafka.behind_port) as proxy,
        aclosing(connect(kafka.url(topic, proxied=True))) as pubsub,
    ):
        await pubsub.publish(sent[0])
        proxy.lose_answer_to = lambda request: request[4:6] == b"\0\0" and proxy.lost < 3  # Produce
        await asyncio.gather(*map(pubsub.publish, sent[1:]))
        assert proxy.lost == 3
    assert len(kafka.messages(topic)) == len(sent)
    assert in_order(await read(kafka.url(topic), sent), sent, files=2)


@pytest.mark.slow
@pytest.mark.parametrize("envelope", ["chunk", "event"])
async def test_the_first_of_a_partition_is_not_lost_where_its_leader_takes_the_second_before_it(kafka, envelope):
    # A leader that has not heard of a new topic, or has too few replicas, refuses the first and may take what is on
    # its way behind it. It takes any sequence number from a producer it knows nothing of; the first, sent again, then
    # is a duplicate to it, and to librdkafka a success.
    topic = uuid4().hex
    kafka.admin.create_topics([NewTopic(topic, 1)])[topic].result()
    url = kafka.url(topic, proxied=True, partitions=1, envelope=envelope)
    sent = numbered(60, files=3)
    refused: list[bytes] = []

    def refuse_first(data):
        if data[4:6] != b"\0\0" or refused:  # no Produce
            return data
        refused.append(data)
        return data.replace(topic.encode(), b"x" * len(topic), 1)

    async with Proxy(kafka.proxied_port, kafka.behind_port) as proxy, aclosing(connect(url)) as pubsub:
        proxy.change_request = refuse_first
        proxy.change_answer = lambda data: data.replace(b"x" * len(topic), topic.encode())
        proxy.answer_delay_seconds = 0.2
        first = asyncio.create_task(pubsub.publish(sent[0]))
        while not refused:  # noqa: ASYNC110 (the proxy has no event for it)
            await asyncio.sleep(0.01)
        await asyncio.gather(first, *map(pubsub.publish, sent[1:]))
    values = [message.value() for message in kafka.messages(topic)]
    assert sorted(values) == sorted(
        sent_chunk.data.rstrip(b"\n") if envelope == "event" else sent_chunk.data for sent_chunk in sent
    )
    assert in_order(await read(kafka.url(topic), sent), sent, files=3)


@pytest.mark.slow
async def test_after_a_while_without_any_a_partitions_next_message_goes_alone_again(kafka, monkeypatch):
    # brokers forget a producer that sends nothing, by default after a day
    topic = uuid4().hex
    sent = numbered(5, files=1)
    produced = []

    def count(data):
        produced.extend([data] if data[4:6] == b"\0\0" else [])  # Produce
        return data

    async def under_way(pubsub, *chunks):
        """How many are sent while no answer comes to the first of them."""
        produced.clear()
        sending = []
        for sent_chunk in chunks:
            sending.append(asyncio.create_task(pubsub.publish(sent_chunk)))
            await asyncio.sleep(0.2)
        count_then = len(produced)
        await asyncio.gather(*sending)
        return count_then

    async with (
        Proxy(kafka.proxied_port, kafka.behind_port) as proxy,
        aclosing(connect(kafka.url(topic, proxied=True, partitions=1))) as pubsub,
    ):
        proxy.change_request = count
        await pubsub.publish(sent[0])
        proxy.answer_delay_seconds = 1
        assert await under_way(pubsub, *sent[1:3]) == 2
        monkeypatch.setattr("raytrail.pubsub.kafka.sender._KNOWN_SECONDS", 0.0)
        await pubsub.publish(sent[3])
        assert await under_way(pubsub, sent[4], sent[0]) == 1


@pytest.mark.slow
async def test_a_broker_that_falls_silent_is_given_up_and_what_it_had_all_the_same_comes_twice_in_order(kafka):
    url = kafka.url(proxied=True, timeout_seconds=2)
    sent = numbered(60, files=2)
    async with Proxy(kafka.proxied_port, kafka.behind_port) as proxy, aclosing(connect(url)) as pubsub:
        await pubsub.publish(sent[0])
        proxy.answer_delay_seconds = 10
        began = time.monotonic()
        results = await asyncio.gather(*map(pubsub.publish, sent[1:30]), return_exceptions=True)
        assert {str(result) for result in results} == {
            f"{url.partition('?')[0]} did not say within 2 seconds that a chunk is stored; "
            "look after its brokers, or raise timeout_seconds"
        }
        proxy.freeze()
        with pytest.raises(BrokerUnavailable):
            await pubsub.publish(sent[1])
        assert time.monotonic() - began < 8
        proxy.answer_delay_seconds = 0
        proxy.thaw()
        assert await asyncio.gather(*(until_stored(pubsub, sent_chunk) for sent_chunk in sent[1:])) == [0] * 59
        received = await read(url, sent)
    assert len(received) > len(sent), "nothing came twice, so nothing was tried"
    assert in_order(received, sent, files=2)


@pytest.mark.slow
async def test_a_reader_leaves_a_broker_that_has_fallen_silent(kafka, monkeypatch):
    monkeypatch.setattr("raytrail.pubsub.kafka.reader._SETTLE_SECONDS", 1)
    async with Proxy(kafka.proxied_port, kafka.behind_port) as proxy:
        async with aclosing(connect(kafka.url(proxied=True))) as pubsub:
            await pubsub.publish(chunk(0))
            deliveries = pubsub.subscribe("history")
            await (await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS)).ack()
            proxy.freeze()
            began = time.monotonic()
            await deliveries.aclose()
        assert time.monotonic() - began < 4
        proxy.thaw()


@pytest.mark.slow
async def test_a_broker_that_is_away_at_first_is_waited_for_by_who_publishes_and_by_who_reads(mortal, caplog):
    async with aclosing(connect(mortal.url("away", timeout_seconds=1))) as pubsub:
        for _ in range(2):
            began = time.monotonic()
            results = await asyncio.gather(*(pubsub.publish(chunk(n)) for n in range(20)), return_exceptions=True)
            assert {type(result) for result in results} == {BrokerUnavailable}
            assert time.monotonic() - began < 10  # one after the other they would take 20
        assert str(results[0]).startswith(f"kafka://127.0.0.1:{mortal.port}/away: ")
        assert "Connection refused" in str(results[0])
        with pytest.raises(BrokerUnavailable):
            await anext(pubsub.subscribe("history"))
        assert not [record for record in caplog.records if record.levelno >= logging.INFO and "raytrail" in record.name]
        mortal.start()
        await until_stored(pubsub, chunk(0))
    assert set(await read(mortal.url("away"), [chunk(0)])) == {chunk(0)}


@pytest.mark.slow
async def test_an_outage_longer_than_the_bound_loses_nothing_and_keeps_the_order(mortal, caplog):
    mortal.start()
    url = mortal.url(timeout_seconds=2)
    sent = [chunk(number) for number in range(40)]
    async with aclosing(connect(url)) as pubsub:
        for sent_chunk in sent[:10]:
            await until_stored(pubsub, sent_chunk)
        mortal.kill()
        results = await asyncio.gather(*map(pubsub.publish, sent[10:30]), return_exceptions=True)
        assert {type(result) for result in results} == {BrokerUnavailable}
        results = await asyncio.gather(*map(pubsub.publish, sent[10:30]), return_exceptions=True)
        assert {type(result) for result in results} == {BrokerUnavailable}
        mortal.start()
        await asyncio.gather(*(until_stored(pubsub, sent_chunk) for sent_chunk in sent[10:]))
    assert list(dict.fromkeys(await read(url, sent))) == sent
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and "raytrail" in record.name]


@pytest.mark.parametrize("envelope", ["chunk", "event"])
async def test_a_chunk_over_the_topics_limit_is_refused_and_those_sent_with_it_are_stored(kafka, envelope):
    topic = uuid4().hex
    kafka.admin.create_topics([NewTopic(topic, 1, config={"max.message.bytes": "3000"})])[topic].result()
    url = kafka.url(topic, envelope=envelope)
    long = chunk(0, file="long", data=os.urandom(5000).replace(b"\n", b"x") + b"\n")
    sent = [chunk(number, data=os.urandom(500).hex().encode() + b"\n") for number in range(10)]
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(99))
        results = await asyncio.gather(
            *map(pubsub.publish, sent[:5]), pubsub.publish(long), *map(pubsub.publish, sent[5:]), return_exceptions=True
        )
        refused = results.pop(5)
        assert isinstance(refused, ChunkRefused)
        assert str(refused) == (
            f"kafka://127.0.0.1:{kafka.port}/{topic} does not take a chunk: Broker: Message size too large; "
            "raise max.message.bytes of the topic, or lower the agent's chunk_bytes"
        )
        assert results == [None] * 10
        await pubsub.publish(chunk(100))
    assert long not in await read(url, [*sent, chunk(99), chunk(100)])


@pytest.mark.parametrize("batches", [True, False])
async def test_lines_that_find_no_room_in_the_client_follow_in_order_once_there_is_some(kafka, monkeypatch, batches):
    if not batches:  # as in a client before 2.12
        monkeypatch.setattr("raytrail.pubsub.kafka.Producer", _Producer)
    topic = uuid4().hex
    url = kafka.url(topic, envelope="event", partitions=1, **{"queue.buffering.max.messages": 7})
    sent = [chunk(0, file=file, data=b"".join(b'{"n":%d}\n' % number for number in range(50))) for file in "ab"]
    async with aclosing(connect(url)) as pubsub:
        await asyncio.gather(*map(pubsub.publish, sent))
    numbers = [json.loads(message.value())["n"] for message in kafka.messages(topic)]
    assert numbers == [*range(50), *range(50)]
    assert in_order(await read(url, sent), sent, files=2)


@pytest.mark.parametrize("batches", [True, False])
async def test_a_line_that_the_client_refuses_is_refused_in_the_middle_of_a_chunk(kafka, monkeypatch, batches):
    if not batches:
        monkeypatch.setattr("raytrail.pubsub.kafka.Producer", _Producer)
    topic = uuid4().hex
    url = kafka.url(topic, envelope="event", partitions=1, **{"message.max.bytes": 5000})
    lines = [b'{"n":%d}\n' % number for number in range(20)]
    long = [*lines[:10], b'{"x":"%b"}\n' % (b"x" * 6000), *lines[10:]]
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0, data=b"".join(lines)))
        with pytest.raises(ChunkRefused):
            await pubsub.publish(chunk(1, file="long", data=b"".join(long)))
        await pubsub.publish(chunk(2, data=b"".join(lines)))
        sizes = [len(message.value()) for message in kafka.messages(topic)]
    assert max(sizes) < 100
    assert {chunk(0, data=b"".join(lines)), chunk(2, data=b"".join(lines))} <= set(
        await read(url, [chunk(0, data=b"".join(lines)), chunk(2, data=b"".join(lines))])
    )


class _Producer(Producer):
    """The client as it was before it took batches."""

    produce_batch = None  # type: ignore[assignment]  # which is what it lacked


async def test_events_are_plain_json_for_whoever_else_reads_them(kafka):
    topic = uuid4().hex
    url = kafka.url(topic, envelope="event", partitions=1)
    lines = [b'{"n":%d}\n' % number for number in range(5)]
    first = Segment("1795420800-a", 0, 100, 16)
    second = Segment("1795420800-b", 2, 0, 24)
    sent = Chunk(
        cluster="Zürich", session="s", node_id="n", event_type="TASK", segments=(first, second), data=b"".join(lines)
    )
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(sent)
    messages = kafka.messages(topic)
    assert [json.loads(message.value()) for message in messages] == [{"n": number} for number in range(5)]
    assert messages[2].key() == rb'["1","Z\u00fcrich","s","n","TASK"] 1795420800-b:2:0:8 3/5'
    assert not any(message.headers() for message in messages)
    assert await read(url, [sent]) == [sent]


@pytest.mark.slow
@pytest.mark.parametrize("earlier", [False, True])
async def test_a_chunk_that_came_in_part_is_given_all_the_same(kafka, earlier):
    topic = uuid4().hex
    url = kafka.url(topic, partitions=1)
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
    producer = Producer({"bootstrap.servers": f"127.0.0.1:{kafka.port}"})
    for line, place in (("1/3", 100), ("2/3", 116), ("1/2", 100), ("2/2", 116), ("2/3", 200)):
        of_line = f'["1","c","s","{"0b" * 28}","TASK"] f:0:{place}:17 {line}'
        headers: dict[str, str | bytes | None] = {"raytrail-line": of_line} if earlier else {"traceparent": "00-1"}
        producer.produce(topic, b'{"number":00000}', b"k" if earlier else of_line, headers=headers)
    producer.flush()
    received: list[Chunk | Unreadable] = []
    async with aclosing(connect(url)) as pubsub, aclosing(pubsub.subscribe("history")) as deliveries:
        while len(received) < 4:
            received.append((await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS)).chunk)
    assert [len(received_chunk.data) for received_chunk in received] == [18, 34, 34, 17]


@pytest.mark.slow
async def test_a_chunk_whose_publisher_was_killed_in_the_middle_comes_in_part_and_then_whole(kafka):
    topic = uuid4().hex
    lines = [b'{"number":%d}\n' % number for number in range(1000)]
    whole = chunk(0, data=b"".join(lines))
    # about ten lines at a time, and the next ones once it is known that they are stored
    slowly = {"batch.size": 1000, "max.in.flight.requests.per.connection": 1}
    url = kafka.url(topic, partitions=1, envelope="event", proxied=True, **slowly)
    program = (
        "import asyncio, sys, msgspec; from raytrail.pubsub import connect; from raytrail.event import Chunk\n"
        "chunk = msgspec.json.decode(sys.stdin.buffer.read(), type=Chunk)\n"
        "async def main(): await connect(sys.argv[1]).publish(chunk)\n"
        "asyncio.run(main())"
    )
    async with (
        Proxy(kafka.proxied_port, kafka.behind_port, delay_seconds=0.1),
        aclosing(connect(kafka.url(topic, partitions=1, envelope="event"))) as pubsub,
    ):
        deliveries = pubsub.subscribe("history")
        coming = asyncio.ensure_future(anext(deliveries))
        async with running(program, url) as publisher:
            publisher.stdin.write(msgspec.json.encode(whole))
            publisher.stdin.close()
            first = (await asyncio.wait_for(coming, DEADLINE_SECONDS)).chunk
            assert publisher.returncode is None
        parts: list[Any] = [first]
        await pubsub.publish(whole)  # as the agent does that is started next
        while parts[-1] != whole:
            parts.append((await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS)).chunk)
        await deliveries.aclose()
    parts.pop()
    [segment] = {part.segments[0]._replace(start=0, length=0) for part in parts}
    assert (segment.file, segment.generation) == whole.segments[0][:2]
    assert [part.segments[0].length for part in parts] == [len(part.data) for part in parts]
    assert [part.segments[0].start for part in parts] == [
        sum(len(p.data) for p in parts[:n]) for n in range(len(parts))
    ]
    assert whole.data.startswith(b"".join(part.data for part in parts))
    read_by_others = [json.loads(message.value())["number"] for message in kafka.messages(topic)]
    killed_at = len(read_by_others) - len(lines)
    assert 0 < killed_at < len(lines)
    assert read_by_others == [*range(killed_at), *range(len(lines))]


async def test_what_is_no_chunk_comes_as_what_cannot_be_read_and_stops_nobody(kafka):
    topic = uuid4().hex
    url = kafka.url(topic, partitions=1)
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
    producer = Producer({"bootstrap.servers": f"127.0.0.1:{kafka.port}"})
    newer = dict(chunk(1).headers(), **{"raytrail-version": "2"})
    producer.produce(topic, chunk(1).data, b"k", headers=newer)
    producer.produce(topic, b"{}", b"k", headers={"raytrail-line": "[] f:0:0:3 1"})
    producer.produce(topic, b"{}", b"k", headers={"raytrail-line": "[1,2,3,4,5] f:0:0:3 1/1"})
    producer.produce(topic, b"{}", b'["1",2,3,4,5] f:0:0:3 1/1')
    producer.produce(topic, b'{"event_id":1}', b'["1","s"] of somebody else 1/1')
    producer.produce(topic, b"{}", b"k", headers=dict(chunk(1).headers(), session=b"\xff"))
    producer.flush()
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(1))
        async with aclosing(pubsub.subscribe("history")) as deliveries:
            received = [await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS) for _ in range(8)]
            for delivery in received:
                await delivery.ack()
        await pubsub.publish(chunk(2))
        async with aclosing(pubsub.subscribe("history")) as deliveries:  # all before it is acknowledged
            assert (await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS)).chunk == chunk(2)
    first, newer_one, cut, numbers, in_key, foreign, _, last = [delivery.chunk for delivery in received]
    assert [first, last] == [chunk(0), chunk(1)]
    assert isinstance(newer_one, Unreadable)
    assert newer_one.reason == "chunk format '2' is not '1'; a newer agent wrote it: upgrade the reader"
    assert (newer_one.headers, newer_one.data) == (newer, chunk(1).data)
    assert newer_one.place == f"topic {topic}, partition 0, offset 1"
    assert isinstance(cut, Unreadable)
    assert cut.reason == (
        "header raytrail-line=b'[] f:0:0:3 1': not enough values to unpack (expected 2, got 1); it was cut or altered"
    )
    assert isinstance(numbers, Unreadable)
    assert numbers.reason.endswith("Expected `str`, got `int` - at `$[0]`; it was cut or altered")
    assert isinstance(in_key, Unreadable)
    assert in_key.reason == (
        "key b'[\"1\",2,3,4,5] f:0:0:3 1/1': Expected `str`, got `int` - at `$[1]`; it was cut or altered"
    )
    assert isinstance(foreign, Chunk)
    assert foreign.event_type == "UNKNOWN"


async def test_what_a_collector_wrote_is_read(kafka):
    topic = uuid4().hex
    url = kafka.url(topic, partitions=1)
    line = '{"source_type":"EXPORT_TASK","timestamp":1795420800,"event_data":{}}'
    path = "/tmp/ray/session_2026-11-23_07-40-30_867494_13129/logs/export_events/event_EXPORT_TASK_1.log"
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
        producer = Producer({"bootstrap.servers": f"127.0.0.1:{kafka.port}"})
        producer.produce(topic, json.dumps({"message": line, "file": path}))
        producer.produce(topic, "[broken")
        producer.flush()
        await pubsub.publish(chunk(1))
        received = await read(url, [chunk(1)])
    broken = received.pop(2)
    assert [(received_chunk.session, received_chunk.event_type) for received_chunk in received] == [
        ("s", "TASK"),
        ("session_2026-11-23_07-40-30_867494_13129", "TASK"),
        ("s", "TASK"),
    ]
    assert received[1].data == line.encode() + b"\n"
    assert (broken.data, broken.place) == (b"[broken", f"topic {topic}, partition 0, offset 2")
    assert broken.reason.startswith("JSON array of 7 bytes: ")


async def until(readers, condition):
    """Wait for a condition while these tasks read."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        for reader in readers:
            if reader.done():
                reader.result()  # raises what it died of
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_two_readers_of_a_group_share_the_partitions_and_lose_nothing(kafka, monkeypatch):
    # only a reader that gives partitions up, or leaves, writes down how far it is
    monkeypatch.setattr("raytrail.pubsub.kafka.reader._COMMIT_SECONDS", 3600)
    # a reader that leaves is waited for, however slow the machine
    monkeypatch.setattr("raytrail.pubsub.kafka.reader._SETTLE_SECONDS", DEADLINE_SECONDS)
    url = kafka.url(**{"session.timeout.ms": 30_000})  # a machine that stalls takes no partitions away
    sent = numbered(400, files=20)
    held = sent[180:200]  # the last ones of each file: they come to whoever has its partition next
    taken: list[list[Chunk]] = [[], []]
    readers: list[asyncio.Task[None]] = []

    async def reading(mine, holds=()):
        to_hold = set(holds)
        async with aclosing(pubsub.subscribe("shared")) as deliveries:
            async for delivery in deliveries:
                mine.append(delivery.chunk)
                if delivery.chunk not in to_hold:
                    await delivery.ack()
                to_hold.discard(delivery.chunk)

    async with aclosing(connect(url)) as pubsub:
        await asyncio.gather(*map(pubsub.publish, sent[:200]))
        readers.append(asyncio.create_task(reading(taken[0], held)))
        await until(readers, lambda: set(taken[0]) == set(sent[:200]))
        readers.append(asyncio.create_task(reading(taken[1])))
        await until(readers, lambda: taken[1])
        await asyncio.gather(*map(pubsub.publish, sent[200:]))
        await until(readers, lambda: set(taken[0]) | set(taken[1]) == set(sent))
        counts = Counter(taken[0] + taken[1])
        assert {sent_chunk for sent_chunk in sent[:200] if counts[sent_chunk] > 1} == set(held)
        for reader in reversed(readers):  # the one that gave partitions up knows least of how far they were read
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        # behind whatever comes again in any partition
        last = [chunk(999, file=f"file{number}") for number in range(20)]
        await asyncio.gather(*map(pubsub.publish, last))
        assert Counter(await read(url, last, "shared")) == Counter(last)


@pytest.mark.slow
async def test_what_a_killed_reader_had_comes_to_the_other_one(kafka):
    url = kafka.url(partitions=2, **{"session.timeout.ms": 2000, "heartbeat.interval.ms": 300})
    program = (
        "import asyncio, sys; from raytrail.pubsub import connect\n"
        "async def main():\n"
        "    async for delivery in connect(sys.argv[1]).subscribe('pair'):\n"
        "        print(*delivery.chunk.segments[0], flush=True)\n"
        "        if sys.argv[2] == 'acks': await delivery.ack()\n"
        "asyncio.run(main())"
    )
    sent = numbered(200, files=10)

    async def printed(reader, count):
        lines = [await asyncio.wait_for(reader.stdout.readline(), DEADLINE_SECONDS) for _ in range(count)]
        return [line.decode().split() for line in lines]

    async with (
        aclosing(connect(url)) as pubsub,
        running(program, url, "acks") as survivor,
        running(program, url, "holds") as killed,
    ):
        asked, at = asyncio.ensure_future(printed(killed, 1)), iter(sent)
        while not asked.done():
            await pubsub.publish(next(at))
            await asyncio.wait([asked], timeout=0.1)
        await asyncio.gather(*map(pubsub.publish, at))
        killed.kill()
        missing = {(sent_chunk.segments[0].file, sent_chunk.segments[0].start) for sent_chunk in sent}
        while missing:
            [(file, _, start, _)] = await printed(survivor, 1)
            missing.discard((file, int(start)))


@pytest.mark.slow
async def test_a_group_that_is_read_is_not_taken_back_to_the_start(kafka):
    url = kafka.url(partitions=1, **{"session.timeout.ms": 2000, "heartbeat.interval.ms": 300})
    async with aclosing(connect(url)) as pubsub, aclosing(pubsub.subscribe("g")) as deliveries:
        await pubsub.publish(chunk(0))
        await anext(deliveries)
        with pytest.raises(ConfigError) as caught:
            await anext(pubsub.subscribe("g", from_start=True))
    shown = url.partition("?")[0]
    assert str(caught.value) == (
        f"{shown}: group 'g' is being read; stop its readers to read it from the start, or read as another group"
    )


@pytest.mark.slow
async def test_a_missing_topic_is_an_error_that_says_what_to_do(kafka):
    for use in (lambda pubsub: pubsub.publish(chunk(0)), lambda pubsub: anext(pubsub.subscribe("g"))):
        async with aclosing(connect(kafka.url("missing", partitions="", timeout_seconds=1))) as pubsub:
            with pytest.raises(ConfigError) as caught:
                await use(pubsub)
        assert str(caught.value) == (
            f"kafka://127.0.0.1:{kafka.port}/missing: Broker: Unknown topic or partition; "
            "make it, or say ?partitions=8 and it is made"
        )


@pytest.mark.slow
async def test_who_is_not_let_in_is_told_and_an_agent_that_worked_outlives_it(kafka):
    topic = uuid4().hex
    shown = f"kafka://agent:***@127.0.0.1:{kafka.sasl_port}/{topic}"
    async with aclosing(connect(kafka.url(topic, user="agent:wrong"))) as pubsub:
        began = time.monotonic()
        with pytest.raises(ConfigError) as caught:
            await pubsub.publish(chunk(0))
        assert time.monotonic() - began < 8, "waited as for a broker that is away"
    assert str(caught.value).startswith(f"{shown}: ")
    assert str(caught.value).endswith("; mend user, password and sasl.mechanism")
    assert "wrong" not in str(caught.value)

    kafka.admin.create_topics([NewTopic(topic, 1)])[topic].result()
    right = Rights(kafka.admin, topic)
    right.allow(AclOperation.DESCRIBE)
    async with aclosing(connect(kafka.url(topic, user="agent:secret"))) as pubsub:
        deadline, refusal = time.monotonic() + DEADLINE_SECONDS, ""
        while "Cluster authorization failed" not in refusal:  # a right that was given holds some time later
            assert time.monotonic() < deadline, refusal
            with pytest.raises(ConfigError) as caught:
                await pubsub.publish(chunk(0))
            refusal = str(caught.value)
        assert refusal.startswith(f"{shown}: ")
        assert refusal.endswith(
            "Cluster authorization failed; allow this user Write on the topic, and Create where it is missing"
        )
        right.allow(AclOperation.WRITE)
        await until_allowed(pubsub, chunk(0))
        right.take(AclOperation.WRITE)
        with pytest.raises(BrokerUnavailable) as refused:
            await asyncio.wait_for(publish_for_ever(pubsub), DEADLINE_SECONDS)
        assert str(refused.value).endswith("; allow this user Describe, and Write or Read, on the topic")
        right.allow(AclOperation.WRITE)
        await until_stored(pubsub, chunk(2))
    assert (await read(kafka.url(topic), [chunk(2)]))[-1] == chunk(2)


@pytest.mark.slow
async def test_who_may_no_longer_read_reads_on_once_he_may_again(kafka):
    topic, sent = uuid4().hex, numbered(20, files=1)
    kafka.admin.create_topics([NewTopic(topic, 1)])[topic].result()
    right = Rights(kafka.admin, topic)
    right.allow(AclOperation.READ)
    right.allow(AclOperation.READ, "history", ResourceType.GROUP)
    url = kafka.url(topic, user="agent:secret")
    async with aclosing(connect(kafka.url(topic))) as publisher, aclosing(connect(url)) as pubsub:
        await asyncio.gather(*map(publisher.publish, sent[:10]))
        deadline = time.monotonic() + DEADLINE_SECONDS
        received: list[Chunk | Unreadable] = []
        while not received:
            with suppress(ConfigError):  # rights hold some time after they were given
                deliveries = pubsub.subscribe("history")
                received.append((await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS)).chunk)
            assert time.monotonic() < deadline
        right.take(AclOperation.READ)
        with pytest.raises(BrokerUnavailable) as caught:
            await asyncio.wait_for(read_for_ever(deliveries, received), DEADLINE_SECONDS)
        assert str(caught.value) == (
            f"kafka://agent:***@127.0.0.1:{kafka.sasl_port}/{topic}: Fetch from broker 1 failed: "
            "Broker: Topic authorization failed; allow this user Describe, and Write or Read, on the topic"
        )
        with pytest.raises(BrokerUnavailable):
            await anext(pubsub.subscribe("history"))
        await asyncio.gather(*map(publisher.publish, sent[10:]))
        right.allow(AclOperation.READ)
        while set(received) != set(sent):
            with suppress(BrokerUnavailable):
                async for delivery in pubsub.subscribe("history"):
                    received.append(delivery.chunk)
                    if set(received) == set(sent):
                        break
            assert time.monotonic() < deadline
    assert in_order(received, sent, files=1)


class Rights:
    """What ``agent`` may do with a topic. They hold, and no longer hold, some time after they are given or taken."""

    def __init__(self, admin, topic):
        self.admin, self.topic = admin, topic

    def allow(self, operation, name="", kind=ResourceType.TOPIC):
        right = (kind, name or self.topic, ResourcePatternType.LITERAL, "User:agent", "*", operation)
        [made] = self.admin.create_acls([AclBinding(*right, AclPermissionType.ALLOW)]).values()
        made.result()

    def take(self, operation):
        right = (ResourceType.TOPIC, self.topic, ResourcePatternType.LITERAL, "User:agent", "*", operation)
        [gone] = self.admin.delete_acls([AclBindingFilter(*right, AclPermissionType.ALLOW)]).values()
        gone.result()


async def read_for_ever(deliveries, received):
    async for delivery in deliveries:
        received.append(delivery.chunk)


async def publish_for_ever(pubsub):
    while True:
        await pubsub.publish(chunk(1))


async def until_allowed(pubsub, wanted):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            return await pubsub.publish(wanted)
        except ConfigError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def test_librdkafkas_properties_are_passed_on(kafka):
    url = kafka.url(**{"message.max.bytes": 2000, "compression.type": "zstd"})
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0, data=b"x" * 1000 + b"\n"))
        with pytest.raises(ChunkRefused):
            await pubsub.publish(chunk(0, data=b"x" * 3000 + b"\n"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("kafka://", "'kafka://' names no topic; write kafka://host:9092/topic"),
        ("kafka://h:9092", "'kafka://h:9092' names no topic; write kafka://host:9092/topic"),
        ("kafka://h:9092/a/b", "'kafka://h:9092/a/b' names no topic; write kafka://host:9092/topic"),
        (
            "kafka://h/t?envelop=event",
            "'kafka://h/t': Object contains unknown field `envelop`; the settings are envelope, partitions, "
            "redact, timeout_seconds",
        ),
        (
            "kafka://h/t?envelope=events",
            "'kafka://h/t': Invalid enum value 'events' - at `$.envelope`; the settings are envelope, partitions, "
            "redact, timeout_seconds",
        ),
        (
            "kafka://h/t?partitions=0",
            "'kafka://h/t': Expected `int` >= 1 - at `$.partitions`; the settings are envelope, partitions, "
            "redact, timeout_seconds",
        ),
        (
            "kafka://u:p@h/t?compression.typ=lz4",
            "'kafka://u:***@h/t': No such configuration property: \"compression.typ\"; mend the URL",
        ),
        (
            "kafka://h/t?compression.type=lz5",
            '\'kafka://h/t\': Invalid value "lz5" for configuration property "compression.codec"; mend the URL',
        ),
        (
            "kafka://h/t?enable.idempotence=false",
            "'kafka://h/t': property 'enable.idempotence' is Raytrail's to set; leave it out",
        ),
        (
            "kafka://h/t?linger.ms=1&linger.ms=2",
            "'kafka://h/t': property 'linger.ms' is given twice; leave it out",
        ),
    ],
)
def test_a_wrong_url_says_what_is_wrong(url, message):
    with pytest.raises(ConfigError) as caught:
        connect(url)
    assert str(caught.value) == message


@pytest.mark.slow
@pytest.mark.parametrize("group", ["history", "night shift"])
async def test_histories_with_a_store_each_get_everything_under_one_name(kafka, tmp_path, group):
    await check_each_gets_all(kafka.url(), tmp_path, group)


@pytest.mark.slow
async def test_a_store_of_an_older_version_misses_nothing(kafka, tmp_path):
    await check_an_old_store_goes_on(kafka.url(), tmp_path, held_for=None)


@pytest.mark.slow
async def test_a_history_goes_on_for_one_that_was_killed(kafka):
    url = kafka.url() + "&session.timeout.ms=6000&heartbeat.interval.ms=500"
    group = "history-0123456789abcdef"
    program = """
import asyncio, sys
from raytrail.pubsub import connect

async def main():
    async for delivery in connect(sys.argv[1]).subscribe(sys.argv[2]):
        print("came", flush=True)

asyncio.run(main())
"""
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
        async with running(program, url, group) as process:
            assert await asyncio.wait_for(process.stdout.readline(), DEADLINE_SECONDS) == b"came\n"
        assert await read(url, [chunk(0)], group) == [chunk(0)]


@pytest.mark.slow
async def test_a_group_that_may_not_be_read_is_named_with_what_its_name_begins_with(kafka):
    topic = uuid4().hex
    kafka.admin.create_topics([NewTopic(topic, 1)])[topic].result()
    right = Rights(kafka.admin, topic)
    right.allow(AclOperation.READ)
    group = "nightly-0123456789abcdef"
    deadline = time.monotonic() + DEADLINE_SECONDS
    message = ""
    while "on group" not in message:  # rights hold some time after they were given
        async with aclosing(connect(kafka.url(topic, user="agent:secret"))) as pubsub:
            with pytest.raises(ConfigError) as caught:
                await asyncio.wait_for(anext(pubsub.subscribe(group)), DEADLINE_SECONDS)
        message = str(caught.value)
        assert time.monotonic() < deadline, message
    assert message.endswith(f"; allow this user Read on group '{group}', or on all that begin with 'nightly'")


def test_a_last_line_that_has_no_newline_is_a_message_with_its_own_length_where_each_line_is_one():
    data = b'{"event_data":{},"timestamp":1}'
    segments = (Segment("0000000001-f", 0, 40, len(data)),)
    chunk = Chunk(cluster="c", session="session_1", node_id="", event_type="TASK", segments=segments, data=data)
    messages: Any = lines_of(chunk)
    [message] = messages
    assert Chunk.from_wire({name: text.decode() for name, text in message["headers"]}, message["value"]) == chunk
