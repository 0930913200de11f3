"""What Ray's export costs Ray itself: none, and each profile of `raytrail run`, in turn, a fresh Ray each."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lab.ray_cluster import ray_cluster

from raytrail import export

TURNS = 3
ROUND, ROUNDS = 5_000, 3
TICKS = os.sysconf("SC_CLK_TCK")
FLUSH_SECONDS = 2.5
"""After this long every process has written what it held, whatever the profile's interval is."""

DRIVER = f"""
import logging, sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
@ray.remote(num_cpus=1)
def nothing():
    pass
@ray.remote(num_cpus=0)
class Counter:
    def nothing(self):
        pass
counter = Counter.remote()
ray.get([nothing.remote() for _ in range(1000)] + [counter.nothing.remote() for _ in range(1000)])
for line in sys.stdin:
    call = nothing if line == "tasks\\n" else counter.nothing
    began = time.perf_counter()
    ray.get([call.remote() for _ in range({ROUND})])
    print({ROUND} / (time.perf_counter() - began), flush=True)
"""
CALLS = 2 * (1_000 + ROUNDS * ROUND)


def cpu_seconds(driver, temp_dir):
    """CPU so far of what has to do with tasks: the driver, and this Ray's workers, raylet and GCS; by pid."""
    seen = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            command = os.fsdecode((stat.parent / "cmdline").read_bytes())
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended just now
            continue
        seen[int(stat.parent.name)] = command, int(fields[1]), (int(fields[11]) + int(fields[12])) / TICKS
    servers = {
        pid
        for pid, (command, _, _) in seen.items()
        if Path(command.partition("\0")[0]).name in ("raylet", "gcs_server") and f"{temp_dir}/" in command
    }
    return {
        pid: seconds
        for pid, (command, parent, seconds) in seen.items()
        if pid == driver or pid in servers or (parent in servers and command.startswith("ray::"))
    }


def measured(profile=None, **more):
    """Return the figures of one fresh Ray: `profile` of `raytrail run`, or no export at all."""
    with ray_cluster(num_cpus=2, export=profile is not None, profile=profile or "full", **more) as cluster:
        command = [sys.executable, "-c", DRIVER, cluster.address]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        driver = subprocess.Popen(command, env=cluster.environment, **pipes)
        assert driver.stdin
        try:
            figures = {}
            for what in ("tasks", "calls"):
                time.sleep(FLUSH_SECONDS)
                before = cpu_seconds(driver.pid, cluster.temp_dir)
                rates = [rate(driver, what) for _ in range(ROUNDS)]
                time.sleep(FLUSH_SECONDS)
                after = cpu_seconds(driver.pid, cluster.temp_dir)
                spent = sum(seconds - before.get(pid, 0) for pid, seconds in after.items())
                figures[f"{what}/s"] = statistics.median(rates)
                figures[f"CPU-s per 1,000 {what}"] = spent / (ROUNDS * ROUND) * 1_000
        finally:
            driver.stdin.close()
            driver.wait()
        cluster.stop()
        return figures | written(cluster.session_dir / "logs" / "export_events")


def rate(driver, what):
    driver.stdin.write(f"{what}\n")
    driver.stdin.flush()
    return float(driver.stdout.readline())


def written(directory):
    """Count what the task files say of tasks and calls, and what they take."""
    lines = size = 0
    finished, ran = set(), set()
    for path in directory.glob("event_EXPORT_TASK_*"):
        with path.open("rb") as file:
            for line in file:
                lines, size = lines + 1, size + len(line)
                data = json.loads(line)["event_data"]
                times = data.get("state_updates", {}).get("state_ts_ns", {})
                attempt = data["task_id"], data["attempt_number"]
                if "11" in times:
                    finished.add(attempt)
                if "8" in times:
                    ran.add(attempt)
    return {
        "lines per task": lines / CALLS,
        "bytes per task": size / CALLS,
        # two more than the calls: the driver and the making of the actor
        "% FINISHED": len(finished) / (CALLS + 2) * 100,
        "% RUNNING": len(ran) / (CALLS + 2) * 100,
    }


def measure_profiles(_, work):
    """Ray: no-op tasks and actor calls without export and with each profile, in turn; a fresh Ray each."""
    runs: dict[str | None, list[Any]] = {name: [] for name in (None, *export.PROFILES)}
    for turn in range(TURNS):
        order = list(runs) if turn % 2 else list(reversed(runs))
        for name in order:
            runs[name].append(measured(name))
            print(name or "off", runs[name][-1], file=sys.stderr, flush=True)  # the whole takes ten minutes
    return compared(runs)


def compared(runs):
    """Return the medians of each kind of run, and how much more each takes than no export does."""
    figures = {}
    for name, turns in runs.items():
        for figure in turns[0]:
            values = [turn[figure] for turn in turns]
            figures[f"{name or 'off'}: {figure}"] = statistics.median(values)
            if figure.startswith("CPU"):
                figures[f"{name or 'off'}: {figure}, least"] = min(values)
                figures[f"{name or 'off'}: {figure}, most"] = max(values)
    for name in filter(None, runs):
        for figure in (f"CPU-s per 1,000 {what}" for what in ("tasks", "calls")):
            off, on = (statistics.median(turn[figure] for turn in runs[kind]) for kind in (None, name))
            figures[f"{name}: more {figure} than off, %"] = (on / off - 1) * 100
    return figures
