"""Many small sessions at once: a node's temporary directory after months of short jobs."""

import resource
import subprocess
import sys
import time

from lab.generate import BEGAN_SECONDS, generate

SESSIONS = 1000


def measure_sessions(data, work):
    """`raytrail import` of a directory of 1,000 sessions of 50 events, as a user runs it."""
    there = data.parent / "sessions"
    if not there.exists():
        make(there)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    command = [sys.executable, "-m", "raytrail", "import", str(there), "--store", str(work / "store")]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    files = [path for path in (work / "store").rglob("*") if path.is_file()]
    return {
        "events a session": lines(there) / SESSIONS,
        "CPU-s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall s": wall,
        "peak MB": after.ru_maxrss / 1024,
        "files a session": len(files) / SESSIONS,
        "kB a session on disk": sum(path.stat().st_blocks * 512 for path in files) / SESSIONS / 1000,
    }


def make(directory):
    """Write the sessions."""
    for number in range(SESSIONS):
        began = BEGAN_SECONDS + 60 * number
        name = time.strftime("session_%Y-%m-%d_%H-%M-%S_", time.gmtime(began)) + f"{number:06d}_{100 + number}"
        generate(directory, tasks=9, seed=number, files=2, jobs=1, actors=1, nodes=1, session=name, began_seconds=began)


def lines(directory):
    return sum(path.read_bytes().count(b"\n") for path in directory.rglob("event_*.log"))
