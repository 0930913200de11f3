"""From the files of a session that is over to the first answer of a server."""

import json
import os
import resource
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

from lab.generate import SESSION

from bench.polling import serving
from raytrail.config import StoreConfig
from raytrail.store import Store

ANSWER_SECONDS = 900


def measure_first(data, work):
    """Files of a session that is over, to the first answer of a server that runs, and of one that is started then."""
    running, later = work / "running", work / "later"
    make_store(running)
    with serving(running) as (_, url):
        began = time.perf_counter()
        with importing(data / SESSION, running):
            await_tasks(f"{url}/clusters/{SESSION}")
            answered = time.perf_counter() - began
    began = time.perf_counter()
    with importing(data / SESSION, later):
        pass
    imported = time.perf_counter() - began
    with serving(later) as (_, url):
        assert count_tasks(f"{url}/clusters/{SESSION}")
        return {
            "first answer of a server that runs, s": answered,
            "import, s": imported,
            "first answer of a server started then, s": time.perf_counter() - began,
        }


def make_store(directory):
    """Make an empty store, for a server that runs before anything is imported."""
    Store.open(directory, StoreConfig(threads=2), write=True).close()


class Import(subprocess.Popen):
    """The command, whose `usage` is set in the end."""

    usage: resource.struct_rusage


@contextmanager
def importing(source, store):
    """Import with the command, and yield its process."""
    command = [sys.executable, "-m", "raytrail", "import", str(source), "--store", str(store), "--threads", "2"]
    with Import(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield process
        _, status, process.usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0


def await_tasks(base, attempts=None):
    """Ask for tasks until there are so many, or any: those of a session that is imported are all there, or none."""
    until = time.monotonic() + ANSWER_SECONDS
    while not (there := count_tasks(base)) or attempts not in (None, there):
        assert time.monotonic() < until, f"{base}: {there} tasks after {ANSWER_SECONDS} s, and not {attempts or 'some'}"
        time.sleep(0.05)


def count_tasks(base):
    """Ask for the first tasks, and return how many there are in all."""
    try:
        return ask(f"{base}/api/v0/tasks?detail=True")["data"]["result"]["total"]
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return 0


def ask(url):
    with urllib.request.urlopen(url, timeout=120) as answer:
        return json.load(answer)
