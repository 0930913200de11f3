"""
A job that ends and leaves everything behind: running tasks, waiting ones, actors, a group, objects, one detached actor.

    leaves.py <directory> <name> exit|kill
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from pieces import Owner, Slow, connect, last, noted, on, parent
from ray.util.placement_group import placement_group

import ray


def main(where, name, how):
    never = where / "never"
    connect()
    # the second node dies later, and these are to outlive it
    here = on(ray.get_runtime_context().get_node_id())
    running = last.options(**here).remote(never, where / f"{name}-running")
    # each in a variable: what nobody refers to is cancelled, or never listed
    open_refs = [
        running,
        last.options(resources={"nowhere": 1}).remote(never),
        last.remote(running),
        parent.options(**here).remote(never, where / f"{name}-parent"),
        Slow.options(**here).remote(never, where / f"{name}-slow"),
        ray.put(b"y" * 200_000),
    ]
    group = placement_group([{"CPU": 0.1}], name=f"{name}-group")
    ray.get(group.ready())
    actor = Owner.options(**here).remote()
    open_refs += [*ray.get(actor.put.remote(200_000)), actor.last.remote(never), actor.last.remote(never)]
    keeper = Owner.options(name=f"{name}-keeper", lifetime="detached", max_concurrency=2, **here).remote()
    ray.get(keeper.submit.remote(never, where / f"{name}-kept"))
    open_refs.append(keeper.last.remote(never))
    for begun in ("running", "parent", "parent-child", "slow", "kept"):
        noted(where / f"{name}-{begun}")
    print(f"{len(open_refs)} left", flush=True)  # noqa: T201 (the test wants it)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
