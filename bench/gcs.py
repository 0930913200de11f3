"""Chunks through a real Ray's own GCS, and what that does to the GCS."""

import json
import select
import statistics
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import Any

from lab.ray_cluster import ray_cluster

ROUNDS, SECONDS, PACE = 4, 3, 50_000
ANSWER_SECONDS = 60

READER = """
import asyncio, sys
from contextlib import aclosing, suppress
from raytrail.errors import BrokerUnavailable
from raytrail.pubsub import connect

async def main():
    async with aclosing(connect(sys.argv[1])) as broker:
        while True:
            with suppress(BrokerUnavailable):
                async with aclosing(broker.subscribe("history")) as deliveries:
                    async for delivery in deliveries:
                        await delivery.ack()
            await asyncio.sleep(0.1)

asyncio.run(main())
"""

PUBLISHER = """
import asyncio, json, resource, sys, time
from contextlib import aclosing
from pathlib import Path
from raytrail.errors import BrokerUnavailable
from raytrail.config import AgentConfig, TailConfig
from raytrail.pubsub import connect
from raytrail.agent.flight import InFlight
from raytrail.tail import Checkpoint, Tailer

url, data, state = sys.argv[1:]
config = TailConfig(temp_dir=data, sessions="all", state_dir=state)
tailer = Tailer(config, Checkpoint(Path(state) / "checkpoint.sqlite"))
chunks = [(chunk, chunk.data.count(b"\\n")) for chunk in tailer.take(64 * 1024 * 1024, 0)]
events_of = {id(chunk): events for chunk, events in chunks}  # counted before, as to count is no part of publishing

def spent():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

async def publish(flight, seconds, pace):
    acked = sent = turn = failed = 0
    cpu, began = -spent(), time.perf_counter()
    while True:
        passed = time.perf_counter() - began
        while passed < seconds and flight.bytes < AgentConfig().in_flight_bytes and (not pace or sent < passed * pace):
            chunk, events = chunks[turn % len(chunks)]
            flight.send(chunk)
            turn, sent = turn + 1, sent + events
        if passed >= seconds and not flight:
            break
        for chunk, error in await flight.ended(0.005):
            failed += error is not None
            acked += 0 if error else events_of[id(chunk)]
    return {"events": acked, "wall": time.perf_counter() - began, "cpu": cpu + spent(), "failed": failed}

async def main():
    async with aclosing(connect(url)) as broker:
        while True:  # until its reader is there
            try:
                await broker.publish(chunks[0][0])
                break
            except BrokerUnavailable:
                await asyncio.sleep(0.1)
        print(json.dumps(len(chunks)), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await publish(InFlight(broker), *json.loads(line))), flush=True)

asyncio.run(main())
"""

PUTS = """
import json, sys, time
from ray._raylet import GcsClient

client = GcsClient(address=sys.argv[1])
print(json.dumps(0), flush=True)
for line in sys.stdin:
    took, ends = [], time.monotonic() + json.loads(line)
    while time.monotonic() < ends:
        began = time.perf_counter()
        client.internal_kv_put(b"raytrail-bench", b"x" * 100, True, None)
        took.append((time.perf_counter() - began) * 1e3)
        time.sleep(0.002)
    print(json.dumps(took), flush=True)
"""


@contextmanager
def child(script, *arguments, **more):
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **more,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ask(process, question):
    process.stdin.write(json.dumps(question) + "\n")
    process.stdin.flush()


def answer(process):
    ready, _, _ = select.select([process.stdout], [], [], ANSWER_SECONDS)
    line = process.stdout.readline() if ready else ""
    if not line:
        raise AssertionError(f"{process.args[2][:40]!r}...: no answer within {ANSWER_SECONDS} s, or it ended")
    return json.loads(line)


def logged(cluster):
    """Lines in the logs of Ray's own processes."""
    logs = (cluster.session_dir / "logs").glob("*")
    return sum(path.read_bytes().count(b"\n") for path in logs if path.is_file())


def measure_gcs(data, work):
    """Ray's GCS: chunks from one publisher to one acking reader, at full speed and at 50,000 events/s; its latency."""
    with ray_cluster(export=False, num_cpus=2) as cluster, ExitStack() as stack:
        url = f"ray://{cluster.address}/bench"
        stack.enter_context(child(READER, url, env=cluster.environment))
        publisher = stack.enter_context(child(PUBLISHER, url, data, work, env=cluster.environment))
        puts = stack.enter_context(child(PUTS, cluster.address, env=cluster.environment))
        for process in (publisher, puts):
            answer(process)
        ask(publisher, [SECONDS, PACE])  # what runs for the first time is slow
        answer(publisher)
        took: dict[str, list[float]] = {"idle": [], "paced": [], "full": []}
        published: dict[str, list[Any]] = {"paced": [], "full": []}
        lines = dict.fromkeys(took, 0)
        for _ in range(ROUNDS):  # in turn, as Ray and the machine are not the same for long
            for load, pace in (("idle", None), ("paced", PACE), ("full", 0)):
                lines[load] -= logged(cluster)
                if pace is not None:
                    ask(publisher, [SECONDS, pace])
                ask(puts, SECONDS)
                took[load] += answer(puts)
                if pace is not None:
                    published[load].append(answer(publisher))
                lines[load] += logged(cluster)
    idle = statistics.median(took["idle"])
    figures = {}
    for load, name in (("full", "full speed"), ("paced", f"{PACE} events/s")):
        runs = published[load]
        events = sum(run["events"] for run in runs)
        median = statistics.median(took[load])
        figures[f"{name}: events/s"] = events / sum(run["wall"] for run in runs)
        figures[f"{name}: publisher, CPU-s/M events"] = sum(run["cpu"] for run in runs) / events * 1e6
        figures[f"{name}: kv put, median ms"] = median
        figures[f"{name}: kv put, by that of idle"] = median / idle
    failed = sum(run["failed"] for runs in published.values() for run in runs)
    return {
        **figures,
        "idle: kv put, median ms": idle,
        "chunks that had to be published again": failed,
        **{f"lines in Ray's own logs meanwhile, {load}": count for load, count in lines.items()},
    }
