"""The timeline of a sealed session: windows at every zoom, as the page asks for them."""

import itertools
import json
import random
import time
import urllib.request

from lab.generate import SESSION

from bench.polling import quantiles, serving
from raytrail.config import StoreConfig
from raytrail.store import Store

WINDOWS = 20
"""Windows of each length, at random places."""
ZOOMS = (1, 2, 4, 16, 64, 256, 1024, 4096, 16384)
"""How many times shorter than all of the session they are."""
WIDTH = 1200


def measure(root):
    """Ask for windows of every length; return the figures."""
    with serving(root) as (server, url):
        base = f"{url}/clusters/{SESSION}"
        first_took, _, whole = ask(f"{base}/timeline.json?width={WIDTH}")
        life_ms = whole["last_ms"] - whole["first_ms"]
        rand, every, most, shown = random.Random(0), [], 0, {}
        for zoom in ZOOMS:
            span_ms = max(1, life_ms // zoom)
            took = []
            for number in range(WINDOWS):
                from_ms = whole["first_ms"] + rand.randrange(max(1, life_ms - span_ms + 1))
                query = f"from={from_ms}&to={from_ms + span_ms}&width={WIDTH + number}"
                seconds, size, _ = ask(f"{base}/timeline.json?{query}")
                took.append(seconds)
                most = max(most, size)
            every += took
            shown[f"a window of 1/{zoom}, ms"] = quantiles(took)
        selections = [ask(f"{base}/timeline/selection.json?to={whole['last_ms'] + n}")[0] for n in range(WINDOWS)]
        pages = [ask(f"{base}/timeline?width={WIDTH + n}", html=True) for n in range(WINDOWS)]
        return {
            "the first view of a server that has just started, ms": first_took * 1000,
            "any window, ms": quantiles(every),
            **shown,
            "largest answer, kB": most / 1000,
            "statistics of all, ms": quantiles(selections),
            "the page, ms": quantiles([took for took, _, _ in pages]),
            "the page, kB": max(size for _, size, _ in pages) / 1000,
            "server peak MB": peak(server.pid),
        }


def ask(url, *, html=False):
    """Return how long an answer took, how large it is, and what it says."""
    request = urllib.request.Request(url, headers={"Accept": "text/html" if html else "application/json"})
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=120) as answer:
        body = answer.read()
    return time.perf_counter() - began, len(body), None if html else json.loads(body)


def peak(pid):
    with open(f"/proc/{pid}/status") as status:
        [line] = itertools.islice((line for line in status if line.startswith("VmHWM")), 1)
    return int(line.split()[1]) / 1024


def fill(chunks, root):
    """Store the session, sealed, with its tables."""
    with Store.open(root, StoreConfig(threads=2), write=True) as store:
        for batch in chunks:
            store.append(batch)
        store.seal(SESSION)
        store.cache(SESSION)
