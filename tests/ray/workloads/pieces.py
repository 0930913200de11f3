"""What the drivers of `tests/ray/test_conclusions.py` are made of: work that lasts until it is told to end."""

from __future__ import annotations

import os
import time

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import ray

NAMESPACE = "conclusions"


@ray.remote(num_cpus=0.1, max_retries=0)
def last(until, begun=None):
    """Write down this process's id, then wait for a file."""
    if begun:
        note(begun, os.getpid())
    wait_for(until)
    return str(until)


@ray.remote(num_cpus=0, max_retries=0)  # while it waits it would give its CPUs back, which no event tells
def parent(until, begun):
    """Wait for a task of one's own."""
    note(begun, os.getpid())
    here = on(ray.get_runtime_context().get_node_id())
    return ray.get(last.options(**here).remote(until, begun.with_name(f"{begun.name}-child")))


@ray.remote(num_cpus=0.1)
class Owner:
    """Owns what it puts and what it submits."""

    def __init__(self):
        self.references = []

    def pid(self):
        return os.getpid()

    def put(self, count):
        self.references.append(ray.put(b"x" * count))
        return self.references[-1:]

    def submit(self, until, begun, node_id=None):
        here = on(node_id or ray.get_runtime_context().get_node_id())
        self.references.append(last.options(**here).remote(until, begun))

    def last(self, until):
        wait_for(until)


@ray.remote(num_cpus=0.1)
class Slow:
    """Its constructor lasts until it is told to end."""

    def __init__(self, until, begun):
        note(begun, os.getpid())
        wait_for(until)

    def add(self, number):
        return number + 1


@ray.remote(num_cpus=0.1)
class Broken:
    """Its constructor fails."""

    def __init__(self):
        raise RuntimeError("not today")

    def add(self, number):
        return number + 1


def note(path, number):
    """Write a number, all of it at once."""
    made = path.with_name(f".{path.name}-{os.getpid()}")
    made.write_text(str(number))
    made.rename(path)


def noted(path):
    """Wait until a number is written, and return it."""
    wait_for(path)
    return int(path.read_text())


def wait_for(path, seconds=600):
    """Wait until a file is there."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} is not there after {seconds} seconds")
        time.sleep(0.02)


def on(node_id, *, soft=False):
    """Return options that place work on a node."""
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=soft)}


def connect():
    """Join the cluster, without what its workers print."""
    ray.init(namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")  # type: ignore[arg-type]  # Ray takes names, too
