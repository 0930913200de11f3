"""
What Raytrail costs Ray, in pairs of two Rays that live side by side.

One of them is idle while the other works, a second or two at a time, in turn: what the machine does besides meets both
alike. The median of many such pairs tells a few percent where two Rays one after the other differ by twenty.
"""

import signal
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from lab.ports import free_port
from lab.ray_cluster import ray_cluster

from bench.agent import agent
from raytrail import export

PAIRS = 40
SETTLE_SECONDS = 2.0
"""After this long what a slice left to be written, by a Ray or an agent, is written."""

DRIVER = """
import http.client, logging, sys, time
from concurrent.futures import ThreadPoolExecutor
import ray
from ray import serve
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
@ray.remote(num_cpus=0.5)
def nothing():
    pass
def tasks(count):
    ray.get([nothing.remote() for _ in range(count)])
def requests(count):
    def one(_):
        connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[2]))
        for _ in range(count // 4):
            connection.request("GET", "/bench")
            answer = connection.getresponse()
            assert answer.status == 200
            answer.read()
        connection.close()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(4)))
if sys.argv[2] != "0":
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
    @serve.deployment
    class Nothing:
        async def __call__(self, request):
            return ""
    serve.run(Nothing.bind(), name="bench", route_prefix="/bench")
    requests(1000)
tasks(1000)
for line in sys.stdin:
    call, count = {"tasks": (tasks, 4000), "requests": (requests, 600)}[line.strip()]
    call(count // 4)  # after a pause the first are slow
    began = time.perf_counter()
    call(count)
    print(count / (time.perf_counter() - began), flush=True)
"""


class Driven:
    """A Ray and the driver that keeps it busy when it is told to."""

    def __init__(self, stack, port, **cluster):
        self.cluster = stack.enter_context(ray_cluster(num_cpus=2, **cluster))
        command = [sys.executable, "-c", DRIVER, self.cluster.address, str(port)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = stack.enter_context(subprocess.Popen(command, env=self.cluster.environment, **pipes))
        stack.callback(self.process.stdin.close)

    def rate(self, what):
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


@contextmanager
def awake(process):
    """Let a process run that is stopped otherwise."""
    process.send_signal(signal.SIGCONT)
    try:
        yield
    finally:
        process.send_signal(signal.SIGSTOP)


def paired(alone, accompanied, whats, beside=nullcontext):
    """Return the rates of each pair of slices: `alone` by itself, and `accompanied` with what goes on `beside` it."""
    pairs: dict[str, list[tuple[float, float]]] = {what: [] for what in whats}
    for turn in range(PAIRS):
        rates = {}
        for driven in (alone, accompanied) if turn % 2 else (accompanied, alone):
            with beside() if driven is accompanied else nullcontext():
                for what in whats:
                    rates[driven, what] = driven.rate(what)
                time.sleep(SETTLE_SECONDS)
        for what in whats:
            pairs[what].append((rates[alone, what], rates[accompanied, what]))
        print(turn, {what: slices[-1] for what, slices in pairs.items()}, file=sys.stderr, flush=True)
    return pairs


def compared(pairs, alone, accompanied):
    """Return the medians, and by how much the other is slower, with the bounds within which that median lies."""
    # of the middle of n values, the order statistics n/2 -+ 0.98 sqrt(n) are the bounds of 95 %
    edge = int(PAIRS / 2 - 0.98 * PAIRS**0.5)
    figures = {}
    for what, slices in pairs.items():
        figures[f"{alone}, {what}/s"] = statistics.median(rate for rate, _ in slices)
        figures[f"{accompanied}, {what}/s"] = statistics.median(rate for _, rate in slices)
        slower = sorted((1 - mine / its) * 100 for its, mine in slices)
        figures[f"{what}: slower by, % (median of {PAIRS} pairs)"] = statistics.median(slower)
        figures[f"{what}: slower by, %, at least (95 %)"] = slower[edge]
        figures[f"{what}: slower by, %, at most (95 %)"] = slower[-1 - edge]
    return figures


@contextmanager
def agent_of(driven, work, *more):
    """An agent that sees all that is written there, and sleeps while `awake` does not hold."""
    work.mkdir()
    with agent(work, driven.cluster.session_dir.parent, f"file://{work}/events", *more) as process:
        time.sleep(5)  # its start, and what there was before
        process.send_signal(signal.SIGSTOP)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)


def measure_sources(_, work):
    """Ray: no-op tasks and Serve requests a second with its export alone, and with our settings, hooks and probes."""
    with ExitStack() as stack:
        switch = {"system_config": {export.SWITCH: True}, "environment": {f"RAY_{export.SWITCH}": "1"}}
        alone = Driven(stack, free_port(), export=False, **switch)
        ours = Driven(stack, free_port())
        # the agent that has the probes; what it costs to ship tasks and logs is measured below
        flags = ("--types", "ALL", "--without-event-types", "TASK", "--no-logs")
        process = stack.enter_context(agent_of(ours, work / "agent", *flags))
        pairs = paired(alone, ours, ("tasks", "requests"), lambda: awake(process))
    return compared(pairs, "export alone", "with sources")


def measure_ray(_, work):
    """Ray: no-op tasks a second with our settings, and with an agent beside it that ships all, too."""
    with ExitStack() as stack:
        alone, beside = Driven(stack, 0), Driven(stack, 0)
        process = stack.enter_context(agent_of(beside, work / "agent"))
        return compared(paired(alone, beside, ("tasks",), lambda: awake(process)), "alone", "with the agent")


def measure_lean(_, work):
    """Ray: no-op tasks a second without export, and with that of `raytrail run --profile lean`."""
    with ExitStack() as stack:
        off, lean = Driven(stack, 0, export=False), Driven(stack, 0, profile="lean")
        return compared(paired(off, lean, ("tasks",)), "off", "lean")
