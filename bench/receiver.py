"""What a receiver of Ray's HTTP export takes for what is posted to it."""

import http.client
import time
from itertools import chain
from urllib.parse import urlsplit

from lab.ray_events import bodies, posted

from bench.gcs import answer, ask, child

SIZES = (50_000,)
POSTS = {"1,000 a post": (1000, 1), "100 a post": (100, 1), "1,000 a post, each twice": (1000, 2)}
"""By what is posted, the events of a post and how often it is sent: Ray sends one again that was not answered."""

RECEIVER = """
import json, re, resource, sys
from pathlib import Path
from raytrail.sources.receiver import Intake, Receiver
from raytrail.sources.set_aside import SetAside

directory = Path(sys.argv[1])
receiver = Receiver("127.0.0.1:0", Intake([directory], SetAside(directory / "set-aside.ndjson")))

def spent():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

cpu = -spent()
print(json.dumps(receiver.url), flush=True)
sys.stdin.readline()
cpu += spent()
status = Path("/proc/self/status").read_text()  # ru_maxrss is that of whoever started it, if that is more
print(json.dumps([cpu, int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1024]), flush=True)
receiver.close()
"""


def measure_receiver(data, work):
    """A receiver of Ray's HTTP export: CPU for what is posted, and memory. Each line has a receiver of its own."""
    events = posted(data / "bucket")
    figures = {}
    for name, (size, times) in POSTS.items():
        directory = work / f"{size}-{times}"
        directory.mkdir()
        requests = list(bodies(events, size))
        with child(RECEIVER, directory) as receiver:
            took = post(answer(receiver), chain.from_iterable([body] * times for body in requests))
            ask(receiver, None)
            cpu, peak = answer(receiver)
        lines = sum(path.read_bytes().count(b"\n") for path in directory.rglob("event_EXPORT_*"))
        assert lines == len(events), f"{lines} lines of {len(events)} events"
        took.sort()
        figures[f"{name}: CPU-s/M events"] = cpu / len(events) / times * 1e6
        figures[f"{name}: a post, median ms"] = took[len(took) // 2] * 1000
        figures[f"{name}: peak MB"] = peak
    return figures


def post(url, requests):
    """Post one after the other, as Ray's aggregator does, and return how long each took."""
    where, took = urlsplit(url), []
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=60)
    for body in requests:
        began = time.perf_counter()
        connection.request("POST", where.path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        assert response.status == 204, response.status
        took.append(time.perf_counter() - began)
    connection.close()
    return took
