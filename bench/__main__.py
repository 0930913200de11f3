"""
What the line costs and how fast it answers, on this machine.

    make bench                                    everything, mostly with a million tasks
    make bench BENCH_ARGS='query --tasks 7200000'

Each measurement runs in a process of its own, several times; medians are printed. CPU seconds are user and system
time of that process and its threads: they bear a busy machine better than wall time does.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from lab.generate import SESSION, generate

from bench import agent, first, gcs, kuberay, landing, pages, pairs, polling, profiles, receiver, sessions, timeline
from bench.polling import quantiles, serving
from raytrail.agent import drain
from raytrail.config import AgentConfig, StoreConfig, TailConfig
from raytrail.pubsub import connect
from raytrail.store import Filter, Store
from raytrail.tail import Checkpoint, Tailer

TWO = StoreConfig(threads=2)
ONE = StoreConfig(threads=1)


def spent():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Measured:
    """Wall, CPU and peak memory of a block."""

    def __enter__(self):
        self.cpu, self.wall = -spent(), -time.perf_counter()
        return self

    def __exit__(self, *_):
        self.cpu, self.wall = self.cpu + spent(), self.wall + time.perf_counter()

    def figures(self, count, unit, **more):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {
            f"{unit}/s": count / self.wall,
            f"{unit}/s/core": count / self.cpu,
            f"CPU-s/M {unit}": self.cpu / count * 1e6,
            "peak MB": peak,
            **more,
        }


def tailer(data, state, chunk_bytes=512 * 1024):
    config = TailConfig(
        temp_dir=str(data), sessions="all", state_dir=str(state), inotify=False, chunk_bytes=chunk_bytes
    )
    checkpoint = Checkpoint(Path(state) / "checkpoint.sqlite")
    return Tailer(config, checkpoint), checkpoint


def chunks(data, work, chunk_bytes=512 * 1024):
    """Yield the chunks of all files, as the agent reads them."""
    tail, checkpoint = tailer(data, work / "state", chunk_bytes)
    tail.look()
    while batch := tail.take(64 * 1024 * 1024, 0):
        yield batch
        for chunk in batch:
            checkpoint.acknowledge(chunk.segments)
    tail.close()
    checkpoint.close()


def measure_drain(data, work):
    """Agent: files -> tail -> file:// with fsync, until nothing is left."""
    tail, checkpoint = tailer(data, work / "state")
    broker = connect(f"file://{work}/events")

    async def run():
        assert await drain(tail, checkpoint, broker, AgentConfig(), lambda _: None) == 0
        await broker.aclose()

    with Measured() as measured:
        asyncio.run(run())
    events = sum(json.loads((data / "generated.json").read_text())["events"].values())
    return measured.figures(events, "events")


def measure_append(data, work):
    """History: chunks -> typed Parquet, with the ranges in the catalogue. One thread."""
    events = 0
    with Store.open(work / "store", ONE, write=True) as store:
        batches = chunks(data, work)
        cpu = wall = 0.0
        for batch in batches:
            with Measured() as measured:
                store.append(batch)
            cpu, wall = cpu + measured.cpu, wall + measured.wall
        [cluster] = store.clusters()
        events = cluster.events
    measured.cpu, measured.wall = cpu, wall
    log = sum(path.stat().st_size for path in (work / "store" / "log").rglob("*.parquet"))
    return measured.figures(events, "events", **{"log B/event": log / events})


def measure_live(data, work):
    """History: append and fold every 50,000 events or so, in the order they were written. One thread."""
    with Store.open(work / "store", ONE, write=True) as store:
        cpu = wall = slowest = 0.0
        batch, size = [], 0
        # while a cluster runs, agents ship all files as they grow; here they are there already
        written = sorted((chunk for batch in chunks(data, work, 65536) for chunk in batch), key=first_timestamp)
        for chunk in [*written, None]:
            if chunk is not None:
                batch.append(chunk)
                size += len(chunk.data)
            if batch and (chunk is None or size >= 40_000_000):
                with Measured() as measured:
                    store.append(batch)
                    store.fold()
                cpu, wall, slowest = cpu + measured.cpu, wall + measured.wall, max(slowest, measured.wall)
                batch, size = [], 0
        [cluster] = store.clusters()
    measured.cpu, measured.wall = cpu, wall
    return measured.figures(cluster.events, "events", **{"slowest round s": slowest})


def first_timestamp(chunk):
    return json.loads(chunk.data[: chunk.data.index(b"\n")])["timestamp"]


def measure_rebuild(data, work):
    """History: fold a session from its log; then seal it, and build its cache. Two threads."""
    with Store.open(work / "store", TWO, write=True) as store:
        for batch in chunks(data, work):
            store.append(batch)
    return fresh("rebuild_only", data, work)


def measure_rebuild_only(data, work):
    with Store.open(work / "store", TWO, write=True) as store:
        with Measured() as folding:
            store.fold()
        with Measured() as sealing:
            store.seal(SESSION)
        tasks = store.snapshot(SESSION).count("task")
        with Measured() as caching:
            store.cache(SESSION)
        state = (work / "store" / "state" / SESSION).glob
        sealed = sum(path.stat().st_size for path in state("task-sealed-*.parquet"))
        cache = sum(path.stat().st_size for path in state("*.duckdb"))
    return folding.figures(
        tasks,
        "tasks",
        **{
            "fold and seal, tasks/s": tasks / (folding.wall + sealing.wall),
            "fold and seal, CPU-s/M": (folding.cpu + sealing.cpu) / tasks * 1e6,
            "cache, CPU-s/M": caching.cpu / tasks * 1e6,
            "sealed B/task": sealed / tasks,
            "cache B/task": cache / tasks,
        },
    )


def measure_replay(data, work):
    """For comparison: what a history server does that replays events one by one (json.loads, a dict a task)."""
    tasks: dict[tuple[str, int], dict[str, Any]] = {}
    events = 0
    with Measured() as measured:
        for path in sorted((data / SESSION / "logs" / "export_events").glob("event_EXPORT_TASK_*")):
            with path.open("rb") as file:
                for line in file:
                    event = json.loads(line)["event_data"]
                    task = tasks.setdefault((event["task_id"], event["attempt_number"]), {})
                    for part in ("task_info", "state_updates", "profile_events"):
                        if part in event:
                            task.setdefault(part, {}).update(event[part])
                    events += 1
    return measured.figures(len(tasks), "tasks", **{"events/s/core": events / measured.cpu})


def measure_query(data, work):
    """A sealed session: the engine's answers, and the server's over HTTP."""
    store_dir = work / "store"
    if not store_dir.exists():
        with Store.open(store_dir, TWO, write=True) as store:
            for batch in chunks(data, work):
                store.append(batch)
            store.seal(SESSION)
            store.cache(SESSION)
    return fresh("query_only", data, work)


def measure_query_only(data, work):
    os.system("sync")
    figures = {}
    began = time.perf_counter()
    with Store.open(work / "store", TWO) as store:
        store.find("latest")
        snapshot = store.snapshot(SESSION)
        first = snapshot.rows("task", order=["task_id"], limit=100)
        figures["open and first 100, ms"] = (time.perf_counter() - began) * 1000
        cluster = store.find("latest")
        figures["tasks"] = cluster.tasks
        jobs = snapshot.group("task", ["job_id"])
        job = max(jobs, key=lambda row: row["count"])["job_id"]
        figures["tasks of the largest job"] = max(row["count"] for row in jobs)
        ids = [row["task_id"] for row in snapshot.rows("task", columns=["task_id"], limit=50, offset=1000)]
        assert cluster.began_ms is not None
        assert cluster.ended_ms is not None
        middle_ms = (cluster.began_ms + cluster.ended_ms) // 2
        in_job = Filter("job_id", "=", job)
        failed = [in_job, Filter("state", "=", "FAILED")]
        questions = {
            "100 FAILED of a job by time": lambda n: snapshot.rows(
                "task", where=failed, order=["-start_time_ms"], limit=100
            ),
            "task by id": lambda n: snapshot.rows("task", where=[Filter("task_id", "=", ids[n % 50])]),
            "summarize a job": lambda n: snapshot.group("task", ["name", "state"], [in_job]),
            "states at T": lambda n: store.snapshot(SESSION, middle_ms - n).group("task", ["state"]),
            "100 RUNNING at T": lambda n: store.snapshot(SESSION, middle_ms - n).rows(
                "task", columns=["task_id", "name", "state"], where=[Filter("state", "=", "RUNNING")], limit=100
            ),
        }
        for name, ask in questions.items():
            ask(0)
            took = []
            for n in range(20):
                at = time.perf_counter()
                ask(n)
                took.append(time.perf_counter() - at)
            figures[f"{name}, ms"] = quantiles(took)
        assert len(first) == 100
    figures["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures | over_http(work, [row["job_id"] for row in jobs], ids, middle_ms)


def over_http(work, jobs, ids, middle_ms):
    with serving(work / "store") as (server, url):
        base = f"{url}/clusters/{SESSION}"

        asked = itertools.count()

        def get(path):
            at = time.perf_counter()
            # a query of its own each time: answers that the server keeps are not what is measured
            with urllib.request.urlopen(f"{base}{path}&asked={next(asked)}", timeout=120) as answer:
                answer.read()
            return time.perf_counter() - at

        where = "filter_keys={}&filter_predicates=%3D&filter_values={}"
        paths = {
            "list 100 FAILED of a job": lambda n: (
                "/api/v0/tasks?limit=100&detail=True&"
                + where.format("job_id", jobs[n % len(jobs)])
                + "&"
                + where.format("state", "FAILED")
            ),
            "list 10,000 of a job": lambda n: (
                "/api/v0/tasks?limit=10000&detail=True&" + where.format("job_id", jobs[n % len(jobs)])
            ),
            "get a task": lambda n: "/api/v0/tasks?detail=True&" + where.format("task_id", ids[n % 50]),
            "summarize a job": lambda n: "/api/v0/tasks/summarize?" + where.format("job_id", jobs[n % len(jobs)]),
            "100 tasks at T": lambda n: f"/at/{middle_ms - n}/api/v0/tasks?limit=100",
            "list 100 actors": lambda n: "/api/v0/actors?limit=100&detail=True",
        }
        figures = {"HTTP, the first page of the dashboard, from the disk, ms": first_page(base)}
        for name, path in paths.items():
            get(path(0))
            for clients in (1, 8):
                with ThreadPoolExecutor(clients) as pool:
                    took = list(pool.map(lambda n, path=path: get(path(n)), range(40)))
                figures[f"HTTP, {clients} client{'s' * (clients > 1)}: {name}, ms"] = quantiles(took)
        for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                figures["server peak MB"] = int(line.split()[1]) / 1024
        return figures


def first_page(base):
    """Ask for what the dashboard's first page shows, all at once, of a server that has just started."""
    with suppress(OSError):  # only root may have the system forget what it read from the disk
        Path("/proc/sys/vm/drop_caches").write_text("3")
    paths = ("", *polling.PAGES[0], "api/version", "api/v0/tasks/summarize")
    began = time.perf_counter()
    with ThreadPoolExecutor(len(paths)) as pool:
        list(pool.map(lambda path: urllib.request.urlopen(f"{base}/{path}", timeout=120).read(), paths))
    return (time.perf_counter() - began) * 1000


def measure_polling(data, work):
    """Server: 50 browsers on 20 sealed clusters, each polling its page of the dashboard every 4 s."""
    return polling.measure(work / "store", polling.fill(chunks(data, work), work / "store"))


def measure_pages(data, work):
    """Server: our own pages of a sealed session, each the first that a server is asked for."""
    root = work.parent / "query"
    if not root.exists():
        timeline.fill(chunks(data, work), root)
    return pages.measure(root)


def measure_timeline(data, work):
    """Server: windows of a sealed session's timeline, at random places and at every zoom."""
    root = work / "store"
    if not root.exists():
        timeline.fill(chunks(data, work), root)
    return timeline.measure(root)


MEASUREMENTS = {
    name.removeprefix("measure_"): function
    for name, function in {
        **globals(),
        **vars(agent),
        **vars(first),
        **vars(kuberay),
        **vars(receiver),
        **vars(gcs),
        **vars(profiles),
        **vars(pairs),
        **vars(sessions),
        **vars(landing),
    }.items()
    if name.startswith("measure_")
}
LISTED = (
    "drain",
    "append",
    "live",
    "rebuild",
    "replay",
    "first",
    "kuberay",
    "receiver",
    "sessions",
    "landing",
    "query",
    "polling",
    "timeline",
    "pages",
    "kafka",
    "steady",
    "idle",
    "ray",
    "gcs",
    "profiles",
    "sources",
    "lean",
)


SIZES = {"kuberay": kuberay.SIZES, "receiver": receiver.SIZES}
PREPARED = {"kuberay": kuberay.prepare, "receiver": kuberay.prepare}
"""What makes the data of those that are not of Ray's own files."""


def fresh(name, data, work):
    """Measure in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--child", name, str(data), str(work)], stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def prepare(data, tasks):
    """Make the session's files if they are not there, and return how many attempts, events and bytes they are."""
    if not (data / "generated.json").exists():
        made = generate(data, tasks=tasks)
        (data / "generated.json").write_text(
            json.dumps({"events": made.events, "bytes": made.bytes, "attempts": made.attempts})
        )
    made = json.loads((data / "generated.json").read_text())
    return made["attempts"], sum(made["events"].values()), sum(made["bytes"].values())


def repeat(name, data, root, runs, keep):
    """Measure some times, and return the figures of each."""
    figures = []
    for _ in range(1 if name == "query" else runs):
        work = root / "query" if name == "query" and keep else Path(tempfile.mkdtemp(dir=root))
        work.mkdir(exist_ok=True)
        figures.append(fresh(name, data, work))
        if name != "query" or not keep:
            shutil.rmtree(work)
    return figures


def report(runs):
    """Print the medians."""
    for figure, value in runs[0].items():
        middle = value if isinstance(value, list) else statistics.median(run[figure] for run in runs)
        print(f"  {figure:48} {show(middle)}", flush=True)


def show(value):
    if isinstance(value, list):
        return f"p50 {value[0]:.0f}  p95 {value[1]:.0f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def main():
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("measurement", nargs="*", metavar="NAME", help=f"one or more of {', '.join(LISTED)} (all)")
    sizes = "; ".join(f"{name}: {', '.join(map(str, counts))}" for name, counts in SIZES.items())
    parser.add_argument("--tasks", type=int, help=f"tasks of the made-up session (1000000; {sizes})")
    parser.add_argument("--runs", type=int, default=3, help="runs of each; medians are printed (3)")
    parser.add_argument("--keep", type=Path, help="where to keep the data and the store of `query` for the next time")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        name, data, work = args.child
        print(json.dumps(MEASUREMENTS[name](Path(data), Path(work))))
        return
    root = args.keep or Path(tempfile.mkdtemp(prefix="raytrail-bench-"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    try:
        for name in args.measurement or LISTED:
            for tasks in [args.tasks] if args.tasks else SIZES.get(name, [1_000_000]):
                data = root / f"data-{tasks}"
                attempts, events, size = PREPARED.get(name, prepare)(data, tasks)
                print(f"\n{name}: {MEASUREMENTS[name].__doc__}")
                print(
                    f"  {attempts:,} task attempts, {events:,} events, {size / 1e6:,.0f} MB, "
                    f"{size / events:.0f} B/event; load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
                report(repeat(name, data, root, args.runs, args.keep))
    finally:
        if not args.keep:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
