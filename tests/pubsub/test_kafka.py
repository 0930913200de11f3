"""Chunks through a real Apache Kafka, which the fixtures start."""

import asyncio
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import aclosing
from pathlib import Path
from uuid import uuid4

import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from raytrail.errors import BrokerUnavailable, ChunkRefused, ConfigError
from raytrail.event import Chunk, Segment
from raytrail.pubsub import connect
from raytrail.testing import check_pubsub

pytestmark = pytest.mark.anyio

JARS = Path(os.environ.get("RAYTRAIL_BROKERS") or "~/.cache/raytrail/brokers").expanduser() / "kafka"
DEADLINE_SECONDS = 60
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Kafka:
    """One node, broker and controller; whoever comes to `port` may do all, to `sasl_port` what is allowed."""

    def __init__(self, directory, **settings):
        self.directory, self.process = directory, None
        self.port, self.sasl_port, controller = free_port(), free_port(), free_port()
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},SASL_PLAINTEXT://127.0.0.1:{self.sasl_port},"
            f"CONTROLLER://127.0.0.1:{controller}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": f'{PLAIN} required user_agent="secret";',
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "log.dirs": directory / "log",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "group.initial.rebalance.delay.ms": 0,
            "broker.heartbeat.interval.ms": 200,  # a killed one is let in again once its session has ended
            "broker.session.timeout.ms": 1000,
            "message.max.bytes": 16 * 1024**2,
            "replica.fetch.max.bytes": 16 * 1024**2,
            "auto.create.topics.enable": "false",
        } | settings
        self.properties = directory / "server.properties"
        self.properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self.java("kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c").wait(60)

    def java(self, main, *arguments):
        command = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{JARS}/*", main]
        with open(self.directory / "kafka.log", "ab") as log:
            return subprocess.Popen([*command, *arguments, self.properties], stdout=log, stderr=log)

    def url(self, topic=None, *, user="", **settings):
        port = self.sasl_port if user else self.port
        query = "&".join(f"{name}={value}" for name, value in {"partitions": 3, **settings}.items() if value)
        sasl = "&security.protocol=SASL_PLAINTEXT" if user else ""
        return f"kafka://{user and user + '@'}127.0.0.1:{port}/{topic or uuid4().hex}?{query}{sasl}"

    def start(self):
        self.process = self.java("kafka.Kafka")
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{self.port}", "logger": logging.getLogger("test")})
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            assert self.process.poll() is None, (self.directory / "kafka.log").read_text()
            try:
                return admin.list_topics(timeout=1) and admin
            except KafkaException:
                assert time.monotonic() < deadline, (self.directory / "kafka.log").read_text()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


def needed():
    if not shutil.which("java") or not JARS.is_dir():
        text = "no Kafka: run `make brokers` (apt-get install maven openjdk-17-jre-headless)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(text)


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    needed()
    broker = Kafka(tmp_path_factory.mktemp("kafka"))
    broker.admin = broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def mortal(tmp_path):
    """A broker of one's own, to be started and killed."""
    needed()
    broker = Kafka(tmp_path, **{"auto.create.topics.enable": "true", "num.partitions": 2})
    yield broker
    if broker.process and broker.process.poll() is None:
        broker.kill()


def chunk(number, *, file="file0", data=b""):
    data = data or b'{"number":%06d}\n' % number
    segments = (Segment(f"1795420800-{file}", 0, number * len(data), len(data)),)
    return Chunk(cluster="c", session="s", node_id="0b" * 28, event_type="TASK", segments=segments, data=data)


async def until_stored(pubsub, wanted):
    """Send again as the agent does."""
    failed = 0
    while True:
        try:
            await pubsub.publish(wanted)
        except BrokerUnavailable:
            failed += 1
            await asyncio.sleep(0.2)
        else:
            return failed


async def read(url, wanted, group="history", *, ack=True, **how):
    """Read until all `wanted` have come, subscribing again as the history does; return them in order."""
    came, missing = [], set(wanted)
    async with aclosing(connect(url)) as pubsub:
        while missing:
            try:
                async with aclosing(pubsub.subscribe(group, **how)) as deliveries:
                    while missing:
                        delivery = await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS)
                        came.append(delivery.chunk)
                        missing.discard(delivery.chunk)
                        if ack:
                            await delivery.ack()
            except BrokerUnavailable:
                await asyncio.sleep(0.2)
    return came


@pytest.mark.slow
@pytest.mark.parametrize("envelope", ["chunk", "event"])
async def test_keeps_its_promises(kafka, envelope):
    url = kafka.url(envelope=envelope)
    await check_pubsub(lambda: connect(url))


@pytest.mark.slow
@pytest.mark.parametrize("envelope", ["chunk", "event"])
async def test_nothing_is_lost_when_the_broker_is_killed_while_it_is_written_to_and_read(mortal, envelope):
    mortal.start()
    url = mortal.url(partitions="", envelope=envelope)
    sent = [chunk(number, file=f"file{number % 5}") for number in range(600)]
    async with aclosing(connect(url)) as pubsub:
        await asyncio.gather(*(pubsub.publish(one) for one in sent[:200]))
        under_way = [asyncio.ensure_future(until_stored(pubsub, one)) for one in sent[200:400]]
        await asyncio.wait(under_way, timeout=0.02)
        mortal.kill()
        under_way += [asyncio.ensure_future(until_stored(pubsub, one)) for one in sent[400:]]
        await asyncio.to_thread(mortal.start)
        await asyncio.gather(*under_way)

        came = []
        deliveries = pubsub.subscribe("history")
        while len(came) < 300:
            delivery = await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS)
            came.append(delivery.chunk)
            await delivery.ack()
        mortal.kill()
        restarting = asyncio.create_task(asyncio.to_thread(mortal.start))
        try:
            while set(came) != set(sent):
                came.append((await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS)).chunk)
        except BrokerUnavailable:
            await restarting
            came += await read(url, set(sent) - set(came))
        await restarting
        await deliveries.aclose()
    first = list(dict.fromkeys(came))
    assert set(first) == set(sent)
    for number in range(5):
        assert [one for one in first if one in sent[number::5]] == sent[number::5]


@pytest.mark.slow
async def test_a_broker_that_is_away_at_first_is_waited_for_by_who_publishes_and_by_who_reads(mortal, caplog):
    async with aclosing(connect(mortal.url("away"))) as pubsub:
        for _ in range(2):
            began = time.monotonic()
            results = await asyncio.gather(*(pubsub.publish(chunk(n)) for n in range(20)), return_exceptions=True)
            assert {type(result) for result in results} == {BrokerUnavailable}
            assert time.monotonic() - began < 11
        assert str(results[0]).startswith(f"kafka://127.0.0.1:{mortal.port}/away: ")
        assert "Connection refused" in str(results[0])
        with pytest.raises(BrokerUnavailable):
            await anext(pubsub.subscribe("history"))
        assert not [record for record in caplog.records if record.levelno >= logging.INFO and "raytrail" in record.name]
        mortal.start()
        await pubsub.publish(chunk(0))
    assert await read(mortal.url("away"), [chunk(0)]) == [chunk(0)]


@pytest.mark.slow
async def test_an_outage_longer_than_the_bound_loses_nothing_and_keeps_the_order(mortal, caplog):
    mortal.start()
    url = mortal.url(timeout_seconds=2)
    sent = [chunk(number) for number in range(40)]
    async with aclosing(connect(url)) as pubsub:
        for one in sent[:10]:
            await pubsub.publish(one)
        mortal.kill()
        results = await asyncio.gather(*map(pubsub.publish, sent[10:30]), return_exceptions=True)
        assert {type(result) for result in results} == {BrokerUnavailable}
        results = await asyncio.gather(*map(pubsub.publish, sent[10:30]), return_exceptions=True)
        assert {type(result) for result in results} == {BrokerUnavailable}
        mortal.start()
        await asyncio.gather(*map(pubsub.publish, sent[10:]))
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
            f"kafka://127.0.0.1:{kafka.port}/{topic} takes no message of that size: Broker: Message size too large; "
            "raise max.message.bytes of the topic, or lower the agent's chunk_bytes"
        )
        assert results == [None] * 10
        await pubsub.publish(chunk(100))
    assert long not in await read(url, [*sent, chunk(99), chunk(100)])


async def test_events_are_plain_json_for_whoever_else_reads_them(kafka):
    topic = uuid4().hex
    url = kafka.url(topic, envelope="event", partitions=1)
    lines = [b'{"n":%d}\n' % number for number in range(5)]
    one = Segment("1795420800-a", 0, 100, 16)
    two = Segment("1795420800-b", 2, 0, 24)
    sent = Chunk(
        cluster="Zürich", session="s", node_id="n", event_type="TASK", segments=(one, two), data=b"".join(lines)
    )
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(sent)
    consumer = Consumer(
        {"bootstrap.servers": f"127.0.0.1:{kafka.port}", "group.id": "clickhouse", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    messages = consumer.consume(5, DEADLINE_SECONDS)
    consumer.close()
    assert [json.loads(message.value()) for message in messages] == [{"n": number} for number in range(5)]
    assert {message.key() for message in messages} == {b"1795420800-a"}
    header = rb'["1","Z\u00fcrich","s","n","TASK"] 1795420800-b:2:0:8 3/5'
    assert messages[2].headers() == [("raytrail-line", header)]
    assert await read(url, [sent]) == [sent]


async def test_a_chunk_that_came_in_part_is_given_all_the_same(kafka):
    topic = uuid4().hex
    url = kafka.url(topic, partitions=1)
    async with aclosing(connect(url)) as pubsub:
        await pubsub.publish(chunk(0))
    producer = Producer({"bootstrap.servers": f"127.0.0.1:{kafka.port}"})
    for line, place in (("1/3", 100), ("2/3", 116), ("1/2", 100), ("2/2", 116), ("2/3", 200)):
        header = f'["1","c","s","{"0b" * 28}","TASK"] f:0:{place}:17 {line}'
        producer.produce(topic, b'{"number":00000}', b"k", headers={"raytrail-line": header})
    producer.flush()
    came = []
    async with aclosing(connect(url)) as pubsub, aclosing(pubsub.subscribe("history")) as deliveries:
        while len(came) < 4:
            came.append((await asyncio.wait_for(anext(deliveries), DEADLINE_SECONDS)).chunk)
    assert [len(one.data) for one in came] == [18, 34, 34, 17]


async def test_what_a_collector_wrote_is_read(kafka, caplog):
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
        came = await read(url, [chunk(1)])
    assert [(one.session, one.event_type) for one in came] == [
        ("s", "TASK"),
        ("session_2026-11-23_07-40-30_867494_13129", "TASK"),
        ("s", "TASK"),
    ]
    assert came[1].data == line.encode() + b"\n"
    assert [record.message.partition(": ")[0] for record in caplog.records if record.levelname == "WARNING"] == [
        "partition 0, offset 2"
    ]


@pytest.mark.slow
async def test_two_readers_of_a_group_share_the_partitions_and_lose_nothing(kafka):
    url = kafka.url()
    sent = [chunk(number, file=f"file{number % 20}") for number in range(400)]
    async with aclosing(connect(url)) as pubsub:
        await asyncio.gather(*map(pubsub.publish, sent[:200]))
        taken = [[], []]

        async def reading(mine):
            async with aclosing(pubsub.subscribe("shared")) as deliveries:
                async for delivery in deliveries:
                    mine.append(delivery.chunk)
                    await delivery.ack()

        async def wait_for(condition):
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not condition():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)

        readers = [asyncio.create_task(reading(taken[0]))]
        await wait_for(lambda: len(taken[0]) >= 50)
        readers.append(asyncio.create_task(reading(taken[1])))
        more = iter(sent[200:])

        async def shared():
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not taken[1]:
                assert time.monotonic() < deadline
                await pubsub.publish(next(more))
                await asyncio.sleep(0.2)

        await shared()
        await asyncio.gather(*map(pubsub.publish, more))
        await wait_for(lambda: set(taken[0]) | set(taken[1]) == set(sent))
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        last = chunk(999)
        await pubsub.publish(last)
        assert await read(url, [last], "shared") == [last]


@pytest.mark.slow
async def test_a_group_that_is_read_is_not_taken_back_to_the_start(kafka):
    url = kafka.url(partitions=1)
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
        async with aclosing(connect(kafka.url("missing", partitions=""))) as pubsub:
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
        with pytest.raises(ConfigError) as caught:
            await pubsub.publish(chunk(0))
    assert str(caught.value).startswith(f"{shown}: ")
    assert str(caught.value).endswith("; mend user, password and sasl.mechanism")
    assert "wrong" not in str(caught.value)

    kafka.admin.create_topics([NewTopic(topic, 1)])[topic].result()
    rights = [
        AclBinding(
            ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:agent", "*", right, AclPermissionType.ALLOW
        )
        for right in (AclOperation.DESCRIBE, AclOperation.WRITE)
    ]

    def allow(*bindings):
        for made in kafka.admin.create_acls(list(bindings)).values():
            made.result()

    allow(rights[0])
    url = kafka.url(topic, user="agent:secret")
    async with aclosing(connect(url)) as pubsub:
        with pytest.raises(ConfigError) as caught:
            await pubsub.publish(chunk(0))
        assert str(caught.value).startswith(f"{shown}: ")
        assert str(caught.value).endswith(
            "Cluster authorization failed; allow this user Write on the topic, and Create where it is missing"
        )
        allow(rights[1])
        assert await until_allowed(pubsub, chunk(0)) >= 0
        right = AclBindingFilter(
            ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:agent", "*", AclOperation.WRITE,
            AclPermissionType.ALLOW,
        )  # fmt: skip
        for gone in kafka.admin.delete_acls([right]).values():
            gone.result()  # it holds some time later
        with pytest.raises(BrokerUnavailable):
            await asyncio.wait_for(publish_for_ever(pubsub), DEADLINE_SECONDS)
        allow(rights[1])
        await until_stored(pubsub, chunk(2))
    assert (await read(kafka.url(topic), [chunk(2)]))[-1] == chunk(2)


async def publish_for_ever(pubsub):
    while True:
        await pubsub.publish(chunk(1))


async def until_allowed(pubsub, wanted):
    for times in range(50):
        try:
            await pubsub.publish(wanted)
        except ConfigError:
            await asyncio.sleep(0.1)
        else:
            return times
    raise AssertionError("never allowed")


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
            "timeout_seconds",
        ),
        (
            "kafka://h/t?envelope=events",
            "'kafka://h/t': Invalid enum value 'events' - at `$.envelope`; the settings are envelope, partitions, "
            "timeout_seconds",
        ),
        (
            "kafka://h/t?partitions=0",
            "'kafka://h/t': Expected `int` >= 1 - at `$.partitions`; the settings are envelope, partitions, "
            "timeout_seconds",
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
