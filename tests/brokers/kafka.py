"""A real Apache Kafka, one node or several, on free ports."""

import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from lab.ports import free_port, free_ports
from tests.brokers.freeze import freeze

JARS = Path(os.environ.get("RAYTRAIL_BROKERS") or "~/.cache/raytrail/brokers").expanduser() / "kafka"
CLASSES = JARS / "classes.jsa"
"""Kafka's classes as a JVM has loaded them (JEP 350); one that begins with these is up in half the time."""

START_SECONDS = 60
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
PROTOCOLS = {"PLAINTEXT": "PLAINTEXT", "SASL_PLAINTEXT": "SASL_PLAINTEXT", "PROXIED": "PLAINTEXT"}


def needed():
    """Skip the test where there is no Kafka; fail it in CI."""
    if not shutil.which("java") or not JARS.is_dir():
        text = "no Kafka: run `make brokers` (apt-get install maven openjdk-17-jre-headless)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(text)


def keep_classes():
    """Write `CLASSES`, where there is none; a JVM that they are not made for passes over them."""
    if CLASSES.exists() or not os.access(JARS, os.W_OK):
        return
    part = CLASSES.with_suffix(f".{os.getpid()}")
    with tempfile.TemporaryDirectory() as directory:
        broker = Kafka(Path(directory), classes=f"-XX:ArchiveClassesAtExit={part}")
        try:
            broker.start()
            assert broker.process
            broker.process.terminate()  # killed, it would write nothing
            broker.process.wait(START_SECONDS)
        finally:
            broker.kill()
    part.replace(CLASSES)


class Kafka:
    """
    One node. Whoever comes to `port` may do all, to `sasl_port` what is allowed.

    Who comes to `behind_port` is told to go to `proxied_port`, where a `Proxy` to `behind_port` may listen.

    Args:
        directory: Where it keeps what it has; kept over a restart.
        controller: The node that leads the cluster; none makes a cluster of its own.
        node: Its number in the cluster.
        classes: The JVM's flag of the archive of its classes; none is that of the one that all share.
        settings: More lines of server.properties.
    """

    admin: AdminClient
    """Its client, where who started it put it here."""

    def __init__(self, directory, controller=None, node=1, classes="", **settings):
        needed()
        if not classes:
            keep_classes()
            classes = f"-XX:SharedArchiveFile={CLASSES}"
        self.classes = classes
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.process: subprocess.Popen | None = None
        self.port, self.sasl_port, self.behind_port, self.proxied_port = free_ports(4)
        self.controller_port = controller.controller_port if controller else free_port()
        listeners = {"PLAINTEXT": self.port, "SASL_PLAINTEXT": self.sasl_port, "PROXIED": self.behind_port}
        advertised = listeners | {"PROXIED": self.proxied_port}
        settings = {
            "process.roles": "broker" if controller else "broker,controller",
            "node.id": node,
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": written(listeners | ({} if controller else {"CONTROLLER": self.controller_port})),
            "advertised.listeners": written(advertised),
            "listener.security.protocol.map": ",".join(
                f"{name}:{protocol}" for name, protocol in (PROTOCOLS | {"CONTROLLER": "PLAINTEXT"}).items()
            ),
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": f'{PLAIN} required user_agent="secret";',
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "log.dirs": directory / "log",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "broker.heartbeat.interval.ms": 200,  # a killed one is let in again once its session has ended
            "broker.session.timeout.ms": 1000,
            "message.max.bytes": 16 * 1024**2,
            "replica.fetch.max.bytes": 16 * 1024**2,
            "auto.create.topics.enable": "false",
        } | settings
        self.properties = directory / "server.properties"
        self.properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        assert (
            self.java("kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c").wait(START_SECONDS)
            == 0
        ), self.log

    @property
    def log(self):
        return (self.directory / "kafka.log").read_text()

    def java(self, main, *arguments):
        flags = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", self.classes, "-cp", f"{JARS}/*"]
        with open(self.directory / "kafka.log", "ab") as log:
            return subprocess.Popen(["java", *flags, main, *arguments, self.properties], stdout=log, stderr=log)

    def url(self, topic=None, *, user="", proxied=False, **settings):
        port = self.sasl_port if user else self.proxied_port if proxied else self.port
        query = "&".join(f"{name}={value}" for name, value in {"partitions": 3, **settings}.items() if value)
        sasl = "&security.protocol=SASL_PLAINTEXT" if user else ""
        return f"kafka://{user and user + '@'}127.0.0.1:{port}/{topic or uuid4().hex}?{query}{sasl}"

    def launch(self):
        """Start it, not waiting until it is up."""
        self.process = self.java("kafka.Kafka")

    def start(self):
        """Start it, and return an admin client once it is up."""
        self.launch()
        return self.wait()

    def wait(self):
        """Return an admin client once it is up."""
        config: dict[str, Any] = {"bootstrap.servers": f"127.0.0.1:{self.port}", "logger": logging.getLogger("test")}
        admin = AdminClient(config)
        assert self.process
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self.process.poll() is not None:
                # while it was dead, a connection of somebody's may have got the number of one of its ports
                assert time.monotonic() < deadline, self.log
                time.sleep(0.5)
                self.launch()
            try:
                return admin.list_topics(timeout=1) and admin
            except KafkaException:
                assert time.monotonic() < deadline, self.log

    def messages(self, topic):
        """Return all messages of a topic, as whoever knows nothing of us reads them."""
        address = {"bootstrap.servers": f"127.0.0.1:{self.port}"}
        consumer = Consumer({**address, "group.id": "-", "enable.auto.commit": False})
        partitions = list(consumer.list_topics(topic, timeout=START_SECONDS).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        ends = [consumer.get_watermark_offsets(TopicPartition(topic, partition))[1] for partition in partitions]
        messages: list[Message] = []
        while len(messages) < sum(ends):
            messages += consumer.consume(sum(ends) - len(messages), 1)
        consumer.close()
        return messages

    @contextmanager
    def frozen(self):
        """Stop it for a while, saying nothing to anybody: its connections stay."""
        freeze(self.process)
        try:
            yield
        finally:
            assert self.process
            self.process.send_signal(signal.SIGCONT)

    def kill(self):
        """Kill it, if it runs."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)


def written(listeners):
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items())
