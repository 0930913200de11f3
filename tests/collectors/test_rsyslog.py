"""Debian's rsyslog in place of the agent, with the configuration that ships, into a real Kafka and a real history."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from uuid import uuid4

import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka.admin import AdminClient, NewTopic
from lab.generate import SESSION, generate
from tests.brokers.kafka import Kafka
from tests.collectors.folded import answers, events, imported
from tests.line import Line, wait_for

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "collectors" / "rsyslog.conf"
TASKS = 2000


def needed():
    modules = [*Path("/usr/lib").glob("*/rsyslog/omkafka.so"), *Path("/usr/lib/rsyslog").glob("omkafka.so")]
    if not shutil.which("rsyslogd") or not modules:
        text = "no rsyslog: run `make brokers` as root (apt-get install rsyslog rsyslog-kafka)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(text)


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    needed()
    broker = Kafka(tmp_path_factory.mktemp("kafka"))
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


class Rsyslog:
    """A process of its own, with nothing of the machine's."""

    def __init__(self, root, kafka, topic, temp_dir):
        self.root = root
        (root / "state").mkdir(parents=True)
        text = CONFIGURATION.read_text()
        for default, here in (
            ("/var/lib/raytrail/rsyslog", str(root / "state")),
            ("/tmp/ray/", f"{temp_dir}/"),
            ("broker:9092", f"127.0.0.1:{kafka.port}"),
            ('topic="ray-events"', f'topic="{topic}"'),
        ):
            assert default in text
            text = text.replace(default, here)
        self.configuration = root / "rsyslog.conf"
        self.configuration.write_text(text)

    def start(self):
        command = ["rsyslogd", "-n", "-f", self.configuration, "-i", self.root / "pid"]
        with (self.root / "rsyslog.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(60)
        (self.root / "pid").unlink(missing_ok=True)


@pytest.fixture
def shipped(tmp_path, kafka):
    """A topic, what is written for it, its history, and an rsyslog between them."""
    topic = uuid4().hex
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{kafka.port}"})
    admin.create_topics([NewTopic(topic, 3)])[topic].result()  # rsyslog drops what comes before there is one
    line = Line(tmp_path / "line", kafka.url(topic))
    rsyslog = Rsyslog(tmp_path / "rsyslog", kafka, topic, line.temp_dir)
    yield line, rsyslog
    line.end()
    if rsyslog.process.poll() is None:
        rsyslog.end(signal.SIGKILL)


@pytest.mark.slow
def test_what_rsyslog_ships_folds_to_what_an_import_of_the_same_files_does(shipped, tmp_path):
    line, rsyslog = shipped
    written = generate(line.temp_dir, tasks=TASKS, files=8, duplicate_ratio=0)
    expected = sum(written.events.values())
    line.start("history")
    rsyslog.start()
    wait_for(lambda: events(line.store) >= expected, 45, f"{expected} events in the store")
    rsyslog.end()
    line.stop("history")
    assert events(line.store) == expected
    assert answers(line.store) == imported(line.temp_dir, tmp_path / "imported")


@pytest.mark.slow
def test_what_rsyslog_ships_again_after_it_was_killed_changes_no_state(shipped, tmp_path):
    line, rsyslog = shipped
    written = generate(line.temp_dir, tasks=TASKS, files=8, duplicate_ratio=0)
    expected = sum(written.events.values())
    line.start("history")
    rsyslog.start()
    wait_for(lambda: events(line.store) > expected // 10, 60, "the first events")
    rsyslog.end(signal.SIGKILL)
    rsyslog.start()
    quiet = [0, time.monotonic()]

    def settled():
        now = events(line.store)
        if now != quiet[0]:
            quiet[:] = now, time.monotonic()
        return time.monotonic() - quiet[1] > 6

    wait_for(settled, 90, "an end of what comes")
    rsyslog.end()
    line.stop("history")
    ours, theirs = answers(line.store), imported(line.temp_dir, tmp_path / "imported")
    # what was in its memory is lost, as its documentation says: nothing else may differ
    assert ours.keys() <= theirs.keys()
    assert set(ours[SESSION, "node"]) <= set(theirs[SESSION, "node"])
    assert 0 < len(ours[SESSION, "task"]) <= len(theirs[SESSION, "task"])
    assert not any(rejected for key, counts in ours.items() if key[-1] == "events" for rejected in counts[1:])
    lost = max(0, expected - quiet[0])
    print(f"rsyslog killed once: {lost} of {expected} events lost, {max(0, quiet[0] - expected)} repeated")  # noqa: T201
