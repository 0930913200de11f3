"""
Half a minute of what goes on in a Ray cluster: tasks and actors that work, fail, retry and die, and more.

Needs a running Ray, found by RAY_ADDRESS; `lab.ray_cluster` starts one. An argument says how many of the first,
small tasks there are, instead of 300. When this ends, a
detached actor is alive, and two tasks are open: one runs for long, one never can.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

import ray

HERE = Path(__file__).resolve().parent
ENDED = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED}


@ray.remote(num_cpus=1)
def square(number):
    return number * number


@ray.remote(num_cpus=1)
def total(count):
    return sum(ray.get([square.remote(number) for number in range(count)]))


@ray.remote(num_cpus=1, max_retries=0)
def boom(number):
    raise ValueError(f"boom {number}")


@ray.remote(num_cpus=1, max_retries=2, retry_exceptions=True)
def flaky(directory):
    """Fail twice, then work."""
    tries = len(list(directory.iterdir()))
    (directory / str(tries)).touch()
    if tries < 2:
        raise RuntimeError(f"try {tries}")
    return tries


@ray.remote(num_cpus=1, max_retries=1)
def crash_once(marker):
    """Take the worker down the first time."""
    if not marker.exists():
        marker.touch()
        os._exit(7)
    return "second time lucky"


@ray.remote(num_cpus=1, max_retries=0)
def crash():
    time.sleep(1)  # long enough for the worker to have told that it runs
    os._exit(9)


@ray.remote(num_cpus=1)
def sleep(seconds, begun=None):
    # Ray cancels by SIGINT, which is ignored in all that a shell has started in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if begun:
        begun.touch()
    for _ in range(seconds * 10):  # a cancellation is noticed between two Python instructions
        time.sleep(0.1)


@ray.remote(num_cpus=1)
def shout(number):
    print("hello", number)
    print("trouble", number, file=sys.stderr)


@ray.remote(num_cpus=0.1, max_restarts=2)
class Counter:
    def __init__(self, count=0):
        self.count = count

    def add(self, number):
        self.count += number
        return self.count

    def fail(self):
        raise KeyError("no such count")

    def die(self):
        os._exit(3)

    def pid(self):
        return os.getpid()

    def __repr__(self):
        return "Counter()"


@ray.remote(num_cpus=0.1)
class Broken:
    def __init__(self):
        raise RuntimeError("not today")

    def add(self, number):
        return number


@ray.remote(num_cpus=0.1)
class Waiter:
    async def wait(self, seconds):
        await asyncio.sleep(seconds)
        return seconds

    def leave(self):
        ray.actor.exit_actor()


def failure(reference):
    """Wait for a task that has to fail, and return the name of its error."""
    try:
        ray.get(reference)
    except Exception as error:  # noqa: BLE001 (which error it is, is what we want to know)
        return type(error).__name__
    raise AssertionError("it should have failed")


def wait_for(condition, seconds=60):
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in {seconds} seconds")
        time.sleep(0.1)


def tasks(directory, squares):
    print("squares:", sum(ray.get([square.remote(number) for number in range(squares)])))
    print("nested:", ray.get(total.remote(20)))
    print("failed:", {failure(boom.remote(number)) for number in range(5)})
    tries = directory / "tries"
    tries.mkdir()
    print("flaky:", ray.get(flaky.remote(tries)))
    print("crashed once:", ray.get(crash_once.remote(directory / "crashed")))
    print("crashed:", failure(crash.remote()))
    begun = directory / "begun"
    cancelled = sleep.remote(600, begun)
    wait_for(begun.exists)
    ray.cancel(cancelled)
    print("cancelled:", failure(cancelled))
    ray.get([shout.options(name=f"shout_{number}").remote(number) for number in range(4)])


def actors():
    named = Counter.options(name="named").remote()
    print("counted:", ray.get([named.add.remote(1) for _ in range(20)])[-1], failure(named.fail.remote()))
    kept = Counter.options(name="kept", lifetime="detached").remote(5)
    ray.get(kept.add.remote(1))

    restarted = Counter.options(name="restarted").remote()
    ray.get(restarted.add.remote(1))
    time.sleep(0.7)
    print("died:", failure(restarted.die.remote()))
    while True:
        try:
            print("restarted:", ray.get(restarted.add.remote(2)))
            break
        except ray.exceptions.RayActorError:
            time.sleep(0.1)

    print("broken:", failure(Broken.remote().add.remote(1)))
    waiter = Waiter.options(max_concurrency=10).remote()
    print("waited:", round(sum(ray.get([waiter.wait.remote(0.01 * number) for number in range(20)])), 2))
    print("left:", failure(waiter.leave.remote()))

    killed = Counter.options(name="killed", max_restarts=0).remote()
    ray.get(killed.add.remote(1))
    ray.kill(killed)
    shot = Counter.options(max_restarts=0).remote()
    os.kill(ray.get(shot.pid.remote()), signal.SIGKILL)
    print("shot:", failure(shot.add.remote(1)))
    time.sleep(1)


def groups():
    group = placement_group([{"CPU": 0.2}, {"CPU": 0.2}], strategy="PACK", name="group")
    ray.get(group.ready())
    inside = PlacementGroupSchedulingStrategy(group)
    print("in a group:", ray.get(square.options(num_cpus=0.1, scheduling_strategy=inside).remote(3)))
    remove_placement_group(group)


def main():
    # the jobs' drivers take their time to start: let them do so meanwhile
    client = JobSubmissionClient(os.environ["RAY_API_SERVER_ADDRESS"])
    python = sys.executable
    jobs = [
        client.submit_job(
            entrypoint=f"{python} {HERE / 'jobs' / 'succeed.py'}",
            metadata={"who": "demo"},
            runtime_env={"env_vars": {"GREETING": "hello"}},
        ),
        client.submit_job(entrypoint=f"{python} {HERE / 'jobs' / 'fail.py'}", submission_id="fails_demo"),
    ]
    pipeline = subprocess.Popen(
        [python, HERE / "jobs" / "pipeline.py"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        ray.init(namespace="demo", log_to_driver=False, job_config=ray.job_config.JobConfig(metadata={"of": "demo"}))
        with tempfile.TemporaryDirectory() as directory:
            tasks(Path(directory), int(sys.argv[1]) if sys.argv[1:] else 300)
            actors()
            groups()
        impossible = square.options(resources={"unobtainium": 1}).remote(1)
        abandoned = sleep.options(name="abandoned").remote(600)
        output, _ = pipeline.communicate(timeout=120)
        if pipeline.returncode:
            raise SystemExit(f"the pipeline failed:\n{output}")
    finally:
        pipeline.kill()  # does nothing where it has ended
    wait_for(lambda: all(client.get_job_status(job) in ENDED for job in jobs))
    print("jobs:", *(str(client.get_job_status(job)) for job in jobs))
    print("left open:", len(ray.wait([impossible, abandoned], timeout=0.5)[1]))


if __name__ == "__main__":
    main()
