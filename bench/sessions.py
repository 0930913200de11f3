"""Many small sessions at once: a node's temporary directory after months of short jobs."""

import resource
import subprocess
import sys
import time
from typing import NamedTuple

from lab.generate import BEGAN_SECONDS, generate

SESSIONS = 1000


def measure_sessions(data, work):
    """`raytrail import` of a directory of 1,000 sessions of 50 events, and a question over all, as a user runs them."""
    there = data.parent / "sessions"
    if not there.exists():
        make(there)
    imported = run(work, "import", str(there))
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    asked = run(work, "sql", "SELECT cluster, state, count(*) FROM task GROUP BY ALL")
    files = [path for path in (work / "store").rglob("*") if path.is_file()]
    return {
        "events a session": lines(there) / SESSIONS,
        "CPU-s": imported.cpu,
        "wall s": imported.wall,
        "peak MB": peak_mb,
        "raytrail sql over all, CPU-s": asked.cpu,
        "raytrail sql over all, wall s": asked.wall,
        "files a session": len(files) / SESSIONS,
        "kB a session on disk": sum(path.stat().st_blocks * 512 for path in files) / SESSIONS / 1000,
    }


class Ran(NamedTuple):
    """What a command took, in seconds."""

    cpu: float
    wall: float


def run(work, *command):
    """Run one of Raytrail's commands on the store."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    run_on_store = [sys.executable, "-m", "raytrail", *command, "--store", str(work / "store")]
    subprocess.run(run_on_store, stdout=subprocess.DEVNULL, check=True)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Ran(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall)


def make(directory):
    """Write the sessions."""
    for number in range(SESSIONS):
        began = BEGAN_SECONDS + 60 * number
        name = time.strftime("session_%Y-%m-%d_%H-%M-%S_", time.gmtime(began)) + f"{number:06d}_{100 + number}"
        generate(directory, tasks=9, seed=number, files=2, jobs=1, actors=1, nodes=1, session=name, began_seconds=began)


def lines(directory):
    return sum(path.read_bytes().count(b"\n") for path in directory.rglob("event_*.log"))
