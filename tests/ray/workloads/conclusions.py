"""
The driver that lives through all of `tests/ray/test_conclusions.py`: it does one step for each line that it is given.

    conclusions.py <directory> <id of the second node> <of the third>      then, on stdin, the names of functions below

Whatever it prints itself, a line ``did <name>`` says that the step is done.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from pieces import Broken, Owner, Slow, connect, last, noted, on, parent
from ray.util.placement_group import placement_group, remove_placement_group

import ray


class Steps:
    """What is done in turn; references are kept, as what nobody refers to is gone."""

    def __init__(self, where, second, third):
        self.where, self.second, self.third = where, second, third
        self.first = ray.get_runtime_context().get_node_id()
        self.never = where / "never"
        self.kept = []

    def groups(self):
        """One group on all three nodes, one that waits for CPUs, one that cannot be placed."""
        self.spread = placement_group([{"CPU": 0.2}] * 3, strategy="STRICT_SPREAD", name="spread")
        ray.get(self.spread.ready())
        self.large = placement_group([{"CPU": 5}], name="large")
        ray.get(self.large.ready())
        self.waiting = placement_group([{"CPU": 5}], name="waiting")
        self.impossible = placement_group([{"GPU": 1}], name="impossible")

    def second_node(self):
        """On the second node whatever can die with it: with an owner there, and with one here."""
        where, there = self.where, on(self.second)
        self.kept += [
            last.options(**there).remote(self.never, where / "there"),
            parent.options(**there).remote(self.never, where / "parent-there"),
        ]
        dying = Owner.options(max_restarts=0, **there).remote()
        restarting = Owner.options(max_restarts=1, **on(self.second, soft=True)).remote()
        keeper = Owner.options(name="second-keeper", lifetime="detached", max_restarts=0, **there).remote()
        for number, actor in enumerate((dying, restarting, keeper)):
            self.kept += [actor, *ray.get(actor.put.remote(200_000))]
            ray.get(actor.submit.remote(self.never, where / f"of-actor-{number}"))
            self.kept += [actor.last.remote(self.never), actor.last.remote(self.never)]
        self.kept.append(Slow.options(max_restarts=0, **there).remote(self.never, where / "slow-there"))
        for begun in ("there", "parent-there-child", "of-actor-0", "of-actor-1", "of-actor-2", "slow-there"):
            noted(where / begun)

    def third_node(self):
        """On the third node, which lives to the end: a task, and an owner of a task that dies with the second one."""
        where, there = self.where, on(self.third)
        actor = Owner.options(max_restarts=0, **there).remote()
        self.kept += [actor, *ray.get(actor.put.remote(200_000))]
        ray.get(actor.submit.remote(self.never, where / "of-third"))
        ray.get(actor.submit.remote(self.never, where / "from-third", self.second))
        self.kept += [actor.last.remote(self.never), last.options(**there).remote(self.never, where / "third")]
        for begun in ("of-third", "from-third", "third"):
            noted(where / begun)

    def constructing(self):
        """An actor whose constructor does not end, with a call."""
        self.slow = Slow.options(**on(self.first)).remote(self.never, self.where / "slow")
        self.kept.append(self.slow.add.remote(1))
        noted(self.where / "slow")

    def constructor_killed(self):
        ray.kill(self.slow)

    def constructor_failed(self):
        """An actor whose constructor raises, with a call."""
        broken = Broken.options(**on(self.first)).remote()
        self.kept += [broken, failure(broken.add.remote(1))]

    def worker_killed(self):
        """Two workers of tasks: one of a task alone, one that owns another task."""
        alone = last.options(**on(self.first)).remote(self.never, self.where / "alone")
        above = parent.options(**on(self.first)).remote(self.never, self.where / "above")
        noted(self.where / "above-child")
        for begun in ("alone", "above"):
            os.kill(noted(self.where / begun), signal.SIGKILL)
        self.kept += [failure(alone), failure(above)]

    def actor_killed(self):
        """An actor's worker: it restarts, and what it owned is lost."""
        actor = Owner.options(max_restarts=1, **on(self.first)).remote()
        self.kept += [actor, *ray.get(actor.put.remote(200_000))]
        ray.get(actor.submit.remote(self.never, self.where / "of-killed"))
        pid, _ = ray.get(actor.pid.remote()), noted(self.where / "of-killed")
        calls = [actor.last.remote(self.never), actor.last.remote(self.never)]
        os.kill(pid, signal.SIGKILL)
        self.kept += [failure(call) for call in calls]

    def keeper_submits(self):
        """An actor that outlives its job goes on."""
        keeper = ray.get_actor("exits-keeper")
        number = len(list(self.where.glob("later-*")))
        ray.get(keeper.submit.remote(self.never, self.where / f"later-{number}"))
        noted(self.where / f"later-{number}")

    def keeper_killed(self):
        os.kill(ray.get(ray.get_actor("exits-keeper").pid.remote()), signal.SIGKILL)

    def retried(self):
        """What will be tried again, as its node dies; it has a name that no event tells before it ends."""
        options = {"name": "given", "max_retries": 1, **on(self.second, soft=True)}
        self.again = last.options(**options).remote(self.where / "retry", self.where / "given")
        noted(self.where / "given")

    def retry_ends(self):
        """The second attempt of what died with its node."""
        (self.where / "retry").touch()
        ray.get(self.again)

    def group_removed(self):
        """What has waited for its CPUs is placed."""
        remove_placement_group(self.large)
        ray.get(self.waiting.ready())


def failure(reference):
    """Wait for a task that has to fail; its reference is kept."""
    try:
        ray.get(reference)
    except ray.exceptions.RayError:
        return reference
    raise AssertionError("it should have failed")


def main(where, *nodes):
    connect()
    steps = Steps(where, *nodes)
    print("\ndid connect", flush=True)  # noqa: T201 (the test waits for it)
    for line in sys.stdin:
        getattr(steps, line.strip())()
        # what Ray prints of its own accord may have begun the line
        print(f"\ndid {line.strip()}", flush=True)  # noqa: T201 (the test waits for it)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
