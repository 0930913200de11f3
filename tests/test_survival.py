"""
What the line must survive with a real Kafka in its middle: nothing is lost, and nothing is stored twice.

All of it are processes of their own, and what is in the store in the end is compared with what was written. What
came to the broker twice is printed (`pytest -rP`).
"""

import asyncio
import json
import os
import random
import re
import shutil
import sqlite3
import time
from collections import Counter
from contextlib import aclosing, closing, contextmanager
from uuid import uuid4

import msgspec
import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka.admin import NewTopic
from lab.generate import generate
from tests.brokers.kafka import Kafka
from tests.brokers.proxy import Proxy
from tests.line import SEED, Line, wait_for

from raytrail.event import Chunk, Unreadable
from raytrail.pubsub import connect

KILLS = 10
"""Of each."""

OUTAGE_SECONDS = 8
"""Four times as long as the agent waits for an answer, `timeout_seconds=2`."""

# what a killed history had is free after two seconds, so that it reads again before it is killed again; on a slow
# network that is not enough to join in
READER = {"session.timeout.ms": 2000, "heartbeat.interval.ms": 300}


PRODUCE = re.compile(rb"....\0\0\0[\x03-\x0f]....\0\x08raytrail", re.DOTALL)
"""The beginning of such a request: length, key, version, number, the client's name."""


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    yield from running(tmp_path_factory.mktemp("kafka"))


@pytest.fixture
def mortal(tmp_path):
    """A broker of one's own, to be killed."""
    yield from running(tmp_path / "kafka")


def running(directory):
    broker = Kafka(directory)
    try:
        broker.admin = broker.start()
        yield broker
    finally:
        broker.kill()


def begin(line, *state, **how):
    """Start an agent and a history, and wait until they are up."""
    line.start("history", **how)
    line.start("agent", *state, **how)
    wait_for((line.store / "catalogue.sqlite").exists, 60, "a store")
    wait_for(lambda: list(line.root.parent.rglob("state/checkpoint.sqlite")), 60, "a checkpoint")


class Through(Line):
    """A line through a topic."""

    topic: str


@contextmanager
def line(root, broker, **settings):
    """A line through a topic of its own. `settings` are in the agent's URL."""
    topic = uuid4().hex
    reader = {"proxied": True} if settings.get("proxied") else READER
    line = Through(root / "line", broker.url(topic, **settings), broker.url(topic, **reader))
    line.topic = topic
    try:
        yield line
    finally:
        line.end()


def end(line, broker, written, agents=("agent",), refused=None):
    """Ship what is left and check what has come of it; return how many events came to the broker twice."""
    for agent in agents:
        line.stop(agent)
    events = sum(written["events"].values())
    wait_for(lambda: line.arrived(written), 300, f"{events} events in the store")
    line.stop("history")
    line.check(written, refused)
    times = arrivals(broker, line.topic)
    assert len(times) == events
    print(f"{events} events, {sum(times.values()) - events} of them twice at the broker")  # noqa: T201 (with -rP)
    return sum(times.values()) - events


def arrivals(broker, topic):
    """Count how often each event is in the topic, by its file, generation and offset."""
    times: Counter[tuple[str, int, int]] = Counter()
    for message in broker.messages(topic):
        headers = dict(message.headers() or ())
        if headers:
            ranges, data = headers["segments"], message.value()
        else:
            ranges, data = message.key().rsplit(b" ", 2)[1], message.value() + b"\n"
        begin = 0
        for segment_text in filter(None, ranges.decode().split(",")):
            file, generation, start, length = segment_text.split(":")
            lines = data[begin : begin + int(length)].splitlines(keepends=True)
            offset = int(start)
            for text in lines:
                times[file, generation, offset] += 1
                offset += len(text)
            begin += int(length)
    return times


def rotated(line):
    return len(list(line.temp_dir.glob("session_*/logs/export_events/*.log.*")))


def until_rotated(line, writer, before):
    wait_for(lambda: rotated(line) > before or writer.poll() is not None, 60, "a rotation")


def made(directory, **shape):
    """Write the files of a session that is over."""
    return msgspec.to_builtins(generate(directory, seed=SEED, **shape), enc_hook=str)


@pytest.mark.slow
def test_nothing_is_lost_or_stored_twice_whoever_is_killed_the_broker_too(mortal, tmp_path):
    chosen = random.Random(SEED)
    rounds = ["agent", "history", "broker"] * KILLS
    chosen.shuffle(rounds)
    with line(tmp_path, mortal) as pipeline, pipeline.writer(seconds=60, rotate_bytes=3_000_000) as writer:
        begin(pipeline)
        for name in rounds:
            time.sleep(chosen.uniform(0.2, 1.5))
            if name == "broker":
                before = rotated(pipeline)
                mortal.kill()
                until_rotated(pipeline, writer, before)
                mortal.start()
            else:
                pipeline.kill(name)
                pipeline.to = mortal.url(pipeline.topic, envelope=chosen.choice(["chunk", "event"]))
                pipeline.start(name)
        written = json.loads(writer.communicate(timeout=120)[0])
        assert written["rotations"] >= 4
        assert written["half_lines"] > 0
        assert written["deleted_bytes"] == 0
        end(pipeline, mortal, written)


@pytest.mark.slow
def test_nothing_is_lost_when_files_rotate_while_the_broker_is_silent_and_then_gone(mortal, tmp_path):
    with (
        line(tmp_path, mortal, timeout_seconds=2) as pipeline,
        pipeline.writer(seconds=2.5 * OUTAGE_SECONDS, rotate_bytes=2_000_000) as writer,
    ):
        begin(pipeline)
        before = rotated(pipeline)
        with mortal.frozen():
            time.sleep(OUTAGE_SECONDS)
            assert rotated(pipeline) > before
        wait_for(lambda: "trying again" in log(pipeline), 10, "a word of the agent")
        before = rotated(pipeline)
        mortal.kill()
        time.sleep(OUTAGE_SECONDS)
        assert rotated(pipeline) > before
        mortal.start()
        written = json.loads(writer.communicate(timeout=120)[0])
        end(pipeline, mortal, written)


@pytest.mark.slow
@pytest.mark.anyio
async def test_nothing_is_lost_on_a_slow_network_that_cuts_connections_and_swallows_answers(kafka, tmp_path):
    with line(tmp_path, kafka, proxied=True) as pipeline, pipeline.writer(seconds=15) as writer:
        async with Proxy(kafka.proxied_port, kafka.behind_port, delay_seconds=0.5, life_seconds=3, seed=SEED) as proxy:
            await asyncio.to_thread(begin, pipeline)
            await asyncio.to_thread(wait_for, lambda: proxy.cuts >= 3, 30, "connections that are cut")
            # now the acks: a connection that is cut before its answer comes has lost none
            proxy.life_seconds = 0
            proxy.lose_answer_to = lambda request: PRODUCE.search(request) and proxy.lost < 2
            await asyncio.to_thread(wait_for, lambda: proxy.lost == 2, 30, "acks that are lost")
            written = json.loads((await asyncio.to_thread(writer.communicate, timeout=60))[0])
            print(f"{proxy.cuts} connections cut, {proxy.lost} acks lost")  # noqa: T201 (with -rP)
            await asyncio.to_thread(end, pipeline, kafka, written)


@pytest.mark.slow
@pytest.mark.parametrize("envelope", ["chunk", "event"])
def test_a_line_over_the_brokers_limit_is_kept_aside_and_all_others_arrive(kafka, tmp_path, envelope):
    with line(tmp_path, kafka, envelope=envelope) as pipeline:
        kafka.admin.create_topics([NewTopic(pipeline.topic, 3, config={"max.message.bytes": "100000"})])[
            pipeline.topic
        ].result()
        written = made(pipeline.temp_dir, tasks=5000, files=4)
        [path, *_] = sorted(pipeline.temp_dir.glob("session_2*/logs/export_events/event_EXPORT_TASK_*.log"))
        lines = path.read_bytes().splitlines(keepends=True)
        middle = len(lines) // 2
        poison = b'{"event_data":"%b","source_type":"EXPORT_TASK"}\n' % os.urandom(200_000).hex().encode()
        path.write_bytes(b"".join([*lines[:middle], poison, *lines[middle:]]))
        start = sum(map(len, lines[:middle]))

        begin(pipeline)
        end(pipeline, kafka, written, refused={"TASK": [(start, start + len(poison))]})
        [dead] = asyncio.run(read(f"file://{pipeline.root}/state/dead-letters/checkpoint"))
        assert dead.data == poison
        assert [(segment.start, segment.length) for segment in dead.segments] == [(start, len(poison))]
        logged = re.findall(r"a line of .*", log(pipeline))
        file = dead.segments[0].file
        assert logged == [
            f"a line of {len(poison)} bytes (TASK) at offset {start} of {file} is kept with the dead letters, "
            "and shows as missing in the ledger"
        ]


async def read(url):
    """Return all chunks that are there."""
    chunks: list[Chunk | Unreadable] = []
    async with aclosing(connect(url)) as pubsub, aclosing(pubsub.subscribe("reader", from_start=True)) as deliveries:
        while True:
            try:
                chunks.append((await asyncio.wait_for(anext(deliveries), 2 if chunks else 10)).chunk)
            except asyncio.TimeoutError:
                return chunks


@pytest.mark.slow
def test_what_two_agents_of_one_node_ship_is_stored_once(kafka, tmp_path):
    with line(tmp_path, kafka) as pipeline, pipeline.writer(seconds=8, rotate_bytes=500_000, rate=3000) as writer:
        other = ("--state-dir", pipeline.root / "other state")
        begin(pipeline)
        pipeline.start("other agent", *other, command="agent")
        wait_for(lambda: "following" in log(pipeline, "other agent"), 60, "another agent")
        pipeline.kill("other agent")
        pipeline.start("other agent", *other, command="agent")
        written = json.loads(writer.communicate(timeout=60)[0])
        assert written["rotations"] >= 2
        doubled = end(pipeline, kafka, written, agents=("agent", "other agent"))
        assert doubled >= sum(written["events"].values())


@pytest.mark.slow
def test_two_thousand_files_that_appear_at_once_arrive(kafka, tmp_path):
    with line(tmp_path, kafka) as pipeline:
        begin(pipeline)
        written = made(tmp_path / "made", tasks=20_000, files=2000, jobs=20)
        assert len(written["files"]) > 2000
        session = pipeline.temp_dir / written["session"]
        (tmp_path / "made" / written["session"]).rename(session)
        end(pipeline, kafka, written)


def stands_still(state):
    """Say whether nothing was written down for a second; now and then SQLite finds room that it has used before."""
    with closing(sqlite3.connect(f"file:{state}/checkpoint.sqlite?mode=ro", uri=True)) as checkpoint:
        ask = "SELECT sum(acknowledged) FROM file"
        before = checkpoint.execute(ask).fetchone()
        time.sleep(1)
        return checkpoint.execute(ask).fetchone() == before


def fill(path):
    """Write a file until there is no more room."""
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return


@pytest.mark.slow
def test_nothing_is_lost_when_the_checkpoints_disk_is_full(kafka, tmp_path, small_disk):
    state = ("--state-dir", small_disk / "state")
    with line(tmp_path, kafka) as pipeline, pipeline.writer(seconds=20, rotate_bytes=500_000) as writer:
        begin(pipeline, *state)
        ballast = small_disk / "ballast"
        fill(ballast)
        wait_for(lambda: "disk is full" in log(pipeline), 20, "a word of the agent")
        before = rotated(pipeline)
        until_rotated(pipeline, writer, before)
        wait_for(lambda: stands_still(small_disk / "state"), 20, "a checkpoint that falls behind")
        assert writer.poll() is None
        pipeline.kill("agent")
        warnings = [text for text in log(pipeline).splitlines() if "WARNING" in text]
        assert len(warnings) == 1
        assert warnings[0].endswith(
            f"checkpoint {small_disk}/state/checkpoint.sqlite: database or disk is full; nothing is lost, but what is "
            "published from now on will be published again after a restart; make room on that disk"
        )
        ballast.unlink()
        pipeline.start("agent", *state)
        written = json.loads(writer.communicate(timeout=60)[0])
        doubled = end(pipeline, kafka, written)
        assert doubled, "nothing came twice, so nothing was tried"


CLOCK_SET_BACK = """
import time

began, now, now_ns = time.monotonic(), time.time, time.time_ns
back = lambda: 3600 if time.monotonic() > began + 2 else 0
time.time = lambda: now() - back()
time.time_ns = lambda: now_ns() - back() * 10**9
"""


@pytest.mark.slow
def test_nothing_is_lost_when_the_clock_is_set_back(kafka, tmp_path):
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(CLOCK_SET_BACK)
    with line(tmp_path, kafka) as pipeline, pipeline.writer(seconds=3, rate=10_000, rotate_bytes=1_500_000) as writer:
        written = json.loads(writer.communicate(timeout=60)[0])
        assert written["rotations"] >= 4
        assert written["deleted_bytes"] == 0
        # as if the clock had been set back by an hour when the last but one of each writer's files was half full
        for newest in pipeline.temp_dir.glob("session_2*/logs/export_events/*.log"):
            set_back(newest, 0)
            if (before := newest.with_name(f"{newest.name}.1")).exists():
                set_back(before, before.stat().st_size // 2)
        session = pipeline.temp_dir / written["session"]
        shutil.move(session, tmp_path / "made")
        begin(pipeline, clock=tmp_path / "clock")
        time.sleep(2)  # until their clocks are set back, too
        shutil.move(tmp_path / "made", session)
        end(pipeline, kafka, written)


def set_back(path, offset):
    """Make the timestamps of a file's lines an hour older from that offset on."""
    data = path.read_bytes()
    later = re.sub(
        rb'(?<="timestamp":)( ?)(\d{10})(?=[,}])', lambda at: at[1] + b"%d" % (int(at[2]) - 3600), data[offset:]
    )
    assert len(later) == len(data) - offset
    path.write_bytes(data[:offset] + later)


def log(line, name="agent"):
    return (line.root / f"{name}.log").read_text()
