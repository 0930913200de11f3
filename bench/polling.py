"""Browsers on the dashboard: what a server bears whose answers are polled."""

import asyncio
import re
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
from lab.generate import SESSION

from raytrail.config import StoreConfig
from raytrail.event import Chunk
from raytrail.store import Store

CLUSTERS, BROWSERS, POLLS, SECONDS = 20, 50, 8, 4.0
TASKS_OF_A_JOB = "filter_keys=job_id&filter_predicates=%3D&filter_values=01000000"
PAGES = (
    # what the dashboard asks again every 4 s on these pages (ray/dashboard/client/src, Ray 2.60)
    ("nodes?view=summary", "api/jobs/", "api/cluster_status?format=1", "events", "api/serve/applications/"),
    ("nodes?view=summary", "api/jobs/", f"api/v0/tasks/summarize?{TASKS_OF_A_JOB}"),
    (
        "nodes?view=summary",
        f"api/v0/tasks/summarize?{TASKS_OF_A_JOB}",
        f"api/v0/tasks?detail=1&limit=10000&{TASKS_OF_A_JOB}",
        "logical/actors",
        "api/v0/placement_groups?detail=1&limit=10000",
    ),
    ("nodes?view=summary", "logical/actors"),
)


@contextmanager
def serving(root):
    """Start the command that serves a history; yield its process and URL."""
    command = [sys.executable, "-m", "raytrail", "serve", "--store", str(root), "--port", "0", "--threads", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            served = re.search(r"serving on (\S+)", process.stderr.readline())
            assert served
            yield process, served[1].rstrip("/")
        finally:
            process.terminate()


def fill(chunks, root):
    """Store the session once for each cluster, all sealed; return their names."""
    names = [f"{SESSION}{n:02d}" for n in range(CLUSTERS)]
    with Store.open(root, StoreConfig(threads=2), write=True) as store:
        for batch in chunks:
            for name in names:
                store.append([renamed(chunk, name) for chunk in batch])
        for name in names:
            store.seal(name)
            store.cache(name)
    return names


def renamed(chunk, session):
    headers = chunk.headers() | {"session": session}
    return Chunk.from_wire(headers, chunk.data)


def measure(root, names):
    """Ask as browsers do, each its page of a cluster every 4 s, with the ETags that it has; return the figures."""
    with serving(root) as (_, url):
        first, again, errors = asyncio.run(browse(url, names))
    return {
        "requests": float(len(first) + len(again)),
        "errors": float(errors),
        "first look, ms": quantiles(first),
        "polled again, ms": quantiles(again),
    }


async def browse(url, names):
    first: list[float] = []
    again: list[float] = []
    errors = 0

    async def browser(n, client):
        nonlocal errors
        base = f"{url}/clusters/{names[n % len(names)]}/"
        etags: dict[str, str] = {}
        await asyncio.sleep(SECONDS * n / BROWSERS)
        for poll in range(POLLS):
            began = time.perf_counter()
            for path in PAGES[n % len(PAGES)]:
                at = time.perf_counter()
                headers = {"If-None-Match": etags[path]} if path in etags else {}
                answer = await client.get(base + path, headers=headers)
                (again if poll else first).append(time.perf_counter() - at)
                errors += answer.status_code not in (200, 304)
                etags[path] = answer.headers.get("etag", "")
            await asyncio.sleep(max(0.0, SECONDS - (time.perf_counter() - began)))

    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=BROWSERS)) as client:
        await asyncio.gather(*(browser(n, client) for n in range(BROWSERS)))
    return first, again, errors


def quantiles(took):
    took.sort()
    return took[len(took) // 2] * 1000, took[min(len(took) - 1, int(len(took) * 0.95))] * 1000
