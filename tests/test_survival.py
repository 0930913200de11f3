"""SIGKILL, at random, of agent, history and a real Kafka between them: nothing is lost or stored twice."""

import json
import random
import time
from uuid import uuid4

import pytest

pytest.importorskip("confluent_kafka")

from tests.brokers.kafka import Kafka
from tests.line import SEED, Line, wait_for

KILLS = 4
"""Of each."""


@pytest.fixture
def kafka(tmp_path):
    broker = Kafka(tmp_path / "kafka")
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


@pytest.fixture
def line(tmp_path, kafka):
    topic = uuid4().hex
    # what a killed history had is free after two seconds, so that it reads again before it is killed again
    session = {"session.timeout.ms": 2000, "heartbeat.interval.ms": 300}
    line = Line(tmp_path / "line", kafka.url(topic), kafka.url(topic, **session))
    line.envelopes = [kafka.url(topic, envelope=envelope) for envelope in ("chunk", "event")]
    yield line
    line.end()


@pytest.mark.slow
def test_nothing_is_lost_or_stored_twice_whoever_is_killed_the_broker_too(kafka, line):
    chosen = random.Random(SEED)
    rounds = ["agent", "history", "broker"] * KILLS
    chosen.shuffle(rounds)
    with line.writer(seconds=40, rotate_bytes=2_000_000) as writer:
        for name in ("agent", "history"):
            line.start(name)
        wait_for((line.store / "catalogue.sqlite").exists, 60, "a store")
        for name in rounds:
            time.sleep(chosen.uniform(0.3, 2.5))
            if name == "broker":
                before = rotated(line)
                kafka.kill()
                wait_for(lambda before=before: rotated(line) > before or writer.poll() is not None, 60, "a rotation")
                kafka.start()
            else:
                line.kill(name)
                line.to = chosen.choice(line.envelopes)
                line.start(name)
        output, _ = writer.communicate(timeout=120)
    written = json.loads(output)
    assert written["rotations"] >= 4
    assert written["half_lines"] > 0
    assert written["deleted_bytes"] == 0

    line.stop("agent")
    wait_for(lambda: line.arrived(written), 90, f"{sum(written['events'].values())} events in the store")
    line.stop("history")
    line.check(written)


def rotated(line):
    return len(list(line.temp_dir.glob("session_*/logs/export_events/*.log.*")))
