"""The agent against a real Kafka, beside rsyslog in the same run; at a steady pace; idle; and beside a real Ray."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from lab.generate import SESSION
from tests.brokers.kafka import Kafka

TICKS = os.sysconf("SC_CLK_TCK")
PARTITIONS = 4
STEADY_FILES, STEADY_RATE, STEADY_SECONDS = 500, 10_000, 20
IDLE_SECONDS = 30

DRAIN = """
import asyncio, json, resource, sys, time
from pathlib import Path
from raytrail.agent import drain
from raytrail.terminal.service import keep_memory
from raytrail.config import AgentConfig, TailConfig
from raytrail.pubsub import connect
from raytrail.tail import Checkpoint, Tailer
data, state, url = sys.argv[1:]
keep_memory()
checkpoint = Checkpoint(Path(state) / "checkpoint.sqlite")
tailer = Tailer(TailConfig(temp_dir=data, sessions="all", state_dir=state), checkpoint)
async def run():
    broker = connect(url)
    assert await drain(tailer, checkpoint, broker, AgentConfig(), lambda _: None) == 0
    await broker.aclose()
def spent():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
cpu, wall = -spent(), -time.perf_counter()
asyncio.run(run())
cpu, wall = cpu + spent(), wall + time.perf_counter()
events = sum(events for events, _ in checkpoint.published.values())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"events": events, "cpu": cpu, "wall": wall, "peak": peak}))
"""

BARE = """
import json, os, resource, sys, time
from confluent_kafka import Producer
brokers, name, *files = sys.argv[1:]
producer = Producer({
    "bootstrap.servers": brokers, "enable.idempotence": True, "linger.ms": 10, "compression.type": "lz4",
    "message.max.bytes": 95 * 1024**2, "queue.buffering.max.kbytes": 128 * 1024,
})
producer.list_topics(timeout=10)
acknowledged = 0
def hear(error, _):
    global acknowledged
    acknowledged += error is None
def spent():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
cpu, wall, sent = -spent(), -time.perf_counter(), 0
for path in files:
    descriptor, at = os.open(path, os.O_RDONLY), 0
    while length := (block := os.pread(descriptor, 256 * 1024, at)).rfind(b"\\n") + 1:
        at, sent = at + length, sent + 1
        while True:
            try:
                producer.produce(name, block[:length], path, on_delivery=hear)
                break
            except BufferError:
                producer.poll(0.005)
        producer.poll(0)
producer.flush()
assert acknowledged == sent
print(json.dumps({"cpu": cpu + spent(), "wall": wall + time.perf_counter()}))
"""
"""What it costs whoever ships files to Kafka from Python, with none of what an agent is for."""

RSYSLOG = """
global(workDirectory="{state}" maxMessageSize="64m")
main_queue(queue.type="FixedArray" queue.size="100000" queue.dequeueBatchSize="4096")
module(load="imfile" mode="inotify")
module(load="omkafka")
input(type="imfile" file="{data}/session_2*/logs/export_events/event_EXPORT_*.log*" tag="ray")
template(name="line" type="string" string="%msg%")
action(type="omkafka" broker=["{broker}"] topic="{topic}" template="line" partitions.auto="on"
       confParam=["compression.codec=lz4", "linger.ms=50", "request.required.acks=-1", "message.max.bytes=67108864",
                  "queue.buffering.max.messages=1000000"] action.resumeRetryCount="-1")
"""


@contextmanager
def kafka(work):
    broker = Kafka(work / "kafka")
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


def topic(broker, name):
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.port}"})
    admin.create_topics([NewTopic(name, PARTITIONS)])[name].result()
    return name


def stored(broker, name):
    """Messages in a topic; none while it is being made."""
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    consumer = Consumer({"bootstrap.servers": f"127.0.0.1:{broker.port}", "group.id": "count"})
    try:
        return sum(
            consumer.get_watermark_offsets(TopicPartition(name, partition))[1] for partition in range(PARTITIONS)
        )
    except KafkaException:
        return 0
    finally:
        consumer.close()


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_mb(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise AssertionError(pid)


def drained(data, work, url):
    state = tempfile.mkdtemp(dir=work)
    done = subprocess.run([sys.executable, "-c", DRAIN, data, state, url], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def bare(data, broker, events):
    # not by `session_latest`, which is a link to it
    files = sorted((data / SESSION / "logs" / "export_events").iterdir())
    command = [sys.executable, "-c", BARE, f"127.0.0.1:{broker.port}", topic(broker, "bare"), *files]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return {**json.loads(done.stdout), "events": events}


def rsyslogged(data, work, broker, events):
    state, name = Path(tempfile.mkdtemp(dir=work)), topic(broker, f"rsyslog-{time.time_ns()}")
    configuration = state / "rsyslog.conf"
    broker_address = f"127.0.0.1:{broker.port}"
    configuration.write_text(RSYSLOG.format(state=state, data=data, broker=broker_address, topic=name))
    began = time.perf_counter()
    process = subprocess.Popen(["rsyslogd", "-n", "-f", configuration, "-i", state / "pid"])
    try:
        deadline = time.monotonic() + 200
        # repeated lines in the files are repeated in the topic, and imfile leaves out empty ones only
        while stored(broker, name) < events and time.monotonic() < deadline:
            time.sleep(0.25)
        wall = time.perf_counter() - began
        arrived = stored(broker, name)
        return {"events": arrived, "cpu": cpu_seconds(process.pid), "wall": wall, "peak": peak_mb(process.pid)}
    finally:
        process.terminate()
        process.wait()


def measure_kafka(data, work):
    """Agent: files -> a real Kafka (lz4, acks=all), in chunks and an event a message; rsyslog beside it, and a loop."""
    events = sum(json.loads((data / "generated.json").read_text())["events"].values())
    with kafka(work) as broker:
        url = f"kafka://127.0.0.1:{broker.port}/"
        chunks = drained(data, work, url + topic(broker, "chunks"))
        peer = rsyslogged(data, work, broker, events)
        single = drained(data, work, url + topic(broker, "single") + "?envelope=event")
        plain = drained(data, work, url + topic(broker, "plain") + "?envelope=chunk")
        loop = bare(data, broker, events)
    assert chunks["events"] == single["events"] == events
    figures = {}
    shippers = {"chunks": chunks, "chunks, again": plain, "event a message": single, "rsyslog": peer, "bare loop": loop}
    for name, run in shippers.items():
        figures[f"{name}: events/s"] = run["events"] / run["wall"]
        figures[f"{name}: CPU-s/M events"] = run["cpu"] / run["events"] * 1e6
        if "peak" in run:
            figures[f"{name}: peak MB"] = run["peak"]
    ours = figures["chunks: CPU-s/M events"]
    figures["rsyslog's CPU per event, by that of chunks"] = figures["rsyslog: CPU-s/M events"] / ours
    return figures


@contextmanager
def agent(work, temp_dir, url, *more):
    flags = ["--to", url, "--temp-dir", temp_dir, "--sessions", "all", "--state-dir", work / "state", *more]
    with (work / "agent.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "raytrail", "agent", *map(str, flags)], stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def event_files(work):
    events = work / "ray" / SESSION / "logs" / "export_events"
    events.mkdir(parents=True)
    return [open(events / f"event_EXPORT_TASK_{number}.log", "ab", 0) for number in range(STEADY_FILES)]


def measure_steady(_, work):
    """Agent: 10,000 events a second over 500 files to a real Kafka; from the write to a consumer."""
    pad = "x" * 700
    took: list[float] = []
    stop = threading.Event()
    with kafka(work) as broker:
        name = topic(broker, "steady")

        def consume():
            from confluent_kafka import Consumer

            where = {"bootstrap.servers": f"127.0.0.1:{broker.port}", "group.id": "steady", "fetch.wait.max.ms": 10}
            consumer = Consumer({**where, "auto.offset.reset": "earliest"})
            consumer.subscribe([name])
            while not stop.is_set():
                for message in consumer.consume(1000, 0.02):
                    now = time.time_ns()
                    lines = [line for line in (message.value() or b"").splitlines() if line.startswith(b'{"at":')]
                    took.extend((now - int(line[6:25])) / 1e6 for line in lines)
            consumer.close()

        consumer = threading.Thread(target=consume)
        consumer.start()
        files = event_files(work)
        for file in files:
            file.write(b'{"begins":1}\n')
        with agent(work, work / "ray", f"kafka://127.0.0.1:{broker.port}/{name}") as process:
            time.sleep(4)  # it has opened all of them
            took.clear()
            cpu, began, number = -cpu_seconds(process.pid), time.perf_counter(), 0
            while (passed := time.perf_counter() - began) < STEADY_SECONDS:
                while number < passed * STEADY_RATE:
                    line = b'{"at":%d,"pad":"%s","timestamp":1795420800}\n' % (time.time_ns(), pad.encode())
                    files[number % STEADY_FILES].write(line)
                    number += 1
                time.sleep(0.005)
            cpu += cpu_seconds(process.pid)
            wall, peak = time.perf_counter() - began, peak_mb(process.pid)
            time.sleep(2)
        stop.set()
        consumer.join()
    took.sort()
    return {
        "events": number,
        "arrived": len(took),
        "% of a core": cpu / wall * 100,
        "write to consumer, p50 ms": took[len(took) // 2],
        "write to consumer, p99 ms": took[len(took) * 99 // 100],
        "peak MB": peak,
    }


def measure_idle(_, work):
    """Agent: 500 files in which nothing happens."""
    with kafka(work) as broker:
        for file in event_files(work):
            file.write(b'{"begins":1}\n')
        with agent(work, work / "ray", f"kafka://127.0.0.1:{broker.port}/{topic(broker, 'idle')}") as process:
            time.sleep(70)  # it looks at what is quiet for a minute more rarely
            cpu = -cpu_seconds(process.pid)
            time.sleep(IDLE_SECONDS)
            cpu += cpu_seconds(process.pid)
            peak = peak_mb(process.pid)
    return {"% of a core": cpu / IDLE_SECONDS * 100, "peak MB": peak}
