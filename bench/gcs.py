"""Chunks through a real Ray's own GCS, and what that does to it."""

import asyncio
import statistics
import subprocess
import sys
import time
from contextlib import aclosing, suppress

from bench.agent import cpu_seconds
from raytrail.pubsub import connect
from raytrail.testing.ray_cluster import ray_cluster

SECONDS = 12
CHUNK_LINES, UNDER_WAY = 300, 32
LINE = b'{"event_data":{"task_id":"%032x","pad":"' + b"f00d" * 180 + b'"},"timestamp":1795420800}\n'

READER = """
import asyncio, sys
from contextlib import aclosing
from raytrail.pubsub import connect
async def main():
    async with aclosing(connect(sys.argv[1])) as broker, aclosing(broker.subscribe("history")) as deliveries:
        async for delivery in deliveries:
            await delivery.ack()
asyncio.run(main())
"""

PUTS = """
import sys, time, statistics
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
for _ in sys.stdin:
    took = []
    ends = time.monotonic() + 5
    while time.monotonic() < ends:
        began = time.perf_counter()
        client.internal_kv_put(b"raytrail-bench", b"x" * 100, True, None)
        took.append((time.perf_counter() - began) * 1e3)
        time.sleep(0.005)
    print(statistics.median(took), flush=True)
"""


def logged(cluster):
    """Bytes of what Ray has written into its own logs, by file; its workers' are not about us."""
    return {
        path.name: path.stat().st_size
        for path in (cluster.session_dir / "logs").glob("*")
        if path.is_file() and path.name.startswith(("gcs_server", "dashboard", "raylet"))
    }


async def publish(url, seconds):
    from raytrail.event import Chunk, Segment

    lines = [b"".join(LINE % (n * CHUNK_LINES + m) for m in range(CHUNK_LINES)) for n in range(50)]
    stored = 0

    async def one(broker, number):
        nonlocal stored
        while time.monotonic() < ends:
            data = lines[number % 50]
            segment = Segment(f"1795420800-{number % UNDER_WAY}", 0, number * len(data), len(data))
            rest = {"cluster": "", "session": "s", "node_id": "n", "event_type": "TASK"}
            await broker.publish(Chunk(segments=(segment,), data=data, **rest))
            stored += 1
            number += UNDER_WAY

    async with aclosing(connect(url)) as broker:
        ends = time.monotonic() + 30
        await one_chunk(broker)  # until its reader is there
        ends = began = time.monotonic()
        ends += seconds
        await asyncio.gather(*(one(broker, number) for number in range(UNDER_WAY)))
        return stored * CHUNK_LINES / (time.monotonic() - began)


async def one_chunk(broker):
    from raytrail.errors import BrokerUnavailable
    from raytrail.event import Chunk

    chunk = Chunk(cluster="", session="s", node_id="n", event_type="FILE", segments=(), data=b"{}\n")
    while True:
        with suppress(BrokerUnavailable):
            return await broker.publish(chunk)


def measure_gcs(_, work):
    """Ray's GCS: chunks from one publisher to one acking reader, and the GCS's latency meanwhile."""
    with ray_cluster() as cluster:
        url = f"ray://{cluster.address}/bench"
        puts = subprocess.Popen(
            [sys.executable, "-c", PUTS, cluster.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=cluster.environment,
        )
        reader = subprocess.Popen([sys.executable, "-c", READER, url], env=cluster.environment)

        def latency():
            puts.stdin.write("\n")
            puts.stdin.flush()
            return puts.stdout.readline

        try:
            idle = [float(latency()()) for _ in range(2)]
            before = logged(cluster)
            answer = latency()
            rate = asyncio.run(publish(url, SECONDS))
            loaded = float(answer())
            after = logged(cluster)
            cpu = cpu_seconds(reader.pid)
        finally:
            for process in (puts, reader):
                process.kill()
                process.wait()
    median = statistics.median(idle)
    return {
        "events/s": rate,
        "MB/s": rate * len(LINE % 0) / 1e6,
        "reader, CPU-s": cpu,
        "kv put idle, median ms": median,
        "kv put under load, median ms": loaded,
        "ratio": loaded / median,
        "bytes in Ray's own logs": sum(size - before.get(name, 0) for name, size in after.items()),
    }
