"""A bucket that KubeRay's collector filled: from its files to the first right list, and what that takes."""

import json
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager

from bench.agent import cpu_seconds
from bench.first import ask, await_tasks, importing, make_store
from bench.polling import serving

SIZES = (10_000, 50_000, 200_000)
PEERS = {50_250: (12.7, 12.8), 200_971: (50.8, 59.0)}
"""
By attempts, the seconds and CPU seconds of KubeRay's own server from its start to the first right list.

Measured in another run, of 2026-11-29, on two cores and with the same buckets, which an S3 server held. Its commit is
feeaf72f, of 2026-08-19.
"""


def prepare(data, tasks):
    """Make the bucket if it is not there, and return how many attempts, events and bytes it holds."""
    if not (data / "made.json").exists():
        command = [sys.executable, "-m", "lab.ray_events", str(data / "bucket"), "--tasks", str(tasks)]
        made = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        (data / "made.json").write_bytes(made)
    made = json.loads((data / "made.json").read_text())
    return made["attempts"], made["events"], made["bytes"]


def measure_kuberay(data, work):
    """A bucket of KubeRay's collector, by `raytrail import`, to the first right list of a server that runs."""
    made = json.loads((data / "made.json").read_text())
    with shown(work / "alone", made) as (server, base):
        cpu, began = -cpu_seconds(server.pid), time.perf_counter()
        with importing(data / "bucket", work / "alone") as process:
            pass
        await_tasks(base, made["attempts"])
        answered = time.perf_counter() - began
        import_cpu = process.usage.ru_utime + process.usage.ru_stime
        cpu += import_cpu + cpu_seconds(server.pid)
        peak = process.usage.ru_maxrss / 1024
    with shown(work / "asked", made) as (server, base):
        asked_cpu, began = -cpu_seconds(server.pid), time.perf_counter()
        with importing(data / "bucket", work / "asked") as process:
            await_tasks(base, made["attempts"])
            asked = time.perf_counter() - began
            asked_cpu += cpu_seconds(process.pid) + cpu_seconds(server.pid)
    return {
        "first right list, asked for after the import, s": answered,
        "until then, CPU-s": cpu,
        "the import, CPU-s": import_cpu,
        "the import, peak MB": peak,
        "asked all the time, first right list, s": asked,
        "asked all the time, until then, CPU-s": asked_cpu,
        **of_peer(made["attempts"]),
    }


@contextmanager
def shown(store, made):
    """Serve a store that is empty, and yield the server and the URL of what was made, which it must show in the end."""
    make_store(store)
    with serving(store) as (server, url):
        base = f"{url}/clusters/{made['session']}"
        yield server, base
        check(base, made)


def of_peer(attempts):
    """Return what KubeRay's own server took for that bucket, if that was measured."""
    names = (f"KubeRay's feeaf72f (2026-08-19), another run, {unit}" for unit in ("s", "CPU-s"))
    return dict(zip(names, PEERS.get(attempts, ()), strict=False))


def check(base, made):
    """Ask for what the bucket is known to hold."""
    states = counted(f"{base}/api/v0/tasks/summarize")
    # those that are open are shown as Ray showed them last: it fails them only some seconds after their job's end
    assert states == made["task_states"], (states, made["task_states"])
    [error] = made["errors"]
    where = f"filter_keys=error_type&filter_predicates=%3D&filter_values={error}"
    failed = ask(f"{base}/api/v0/tasks?detail=True&limit=10000&{where}")["data"]["result"]
    assert failed["num_filtered"] == made["errors"][error], failed["num_filtered"]
    assert all("boom" in task["error_message"] for task in failed["result"])
    actors = counted(f"{base}/api/v0/actors/summarize")
    assert actors == made["actor_states"], (actors, made["actor_states"])
    jobs = Counter(job["status"] for job in ask(f"{base}/api/jobs/"))
    assert jobs == {"SUCCEEDED": made["job_states"]["FINISHED"]}, jobs


def counted(url):
    """Ask for a summary, and return how many are in each state."""
    summary = ask(url)["data"]["result"]["result"]["node_id_to_summary"]["cluster"]["summary"]
    return sum((Counter(group["state_counts"]) for group in summary.values()), Counter())
