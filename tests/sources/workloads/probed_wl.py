"""A driver with placement groups and objects of every kind, which goes on when it is told to."""

import sys
import time

import numpy
from ray.util.placement_group import placement_group, remove_placement_group

import ray


@ray.remote(num_cpus=0)
def made(size):
    return numpy.zeros(size, dtype=numpy.uint8)


@ray.remote(num_cpus=0)
def waiting(argument):
    time.sleep(3600)


@ray.remote(num_cpus=0)
class Keeper:
    def keep(self, references):
        self.kept = references


def say(what):
    print(what, flush=True)  # noqa: T201 (the test waits for it)
    sys.stdin.readline()


ray.init(log_to_driver=False, namespace="probed")
keeper = Keeper.remote()
put = [ray.put(numpy.zeros(size, dtype=numpy.uint8)) for size in (1, 100_000, 1_000_000)]
returned = [made.remote(10), made.remote(500_000)]
ray.get(returned)
inside = ray.put([ray.put("captured")])
ray.get(keeper.keep.remote([put[1]]))
pending = waiting.remote(ray.put(numpy.zeros(200_000, dtype=numpy.uint8)))
pinned = ray.get(put[2])
doomed = ray.put("doomed")
groups = {
    "pack": placement_group([{"CPU": 0.1}, {"CPU": 0.1}], "PACK", name="pack"),
    "spread": placement_group([{"CPU": 0.1}, {"CPU": 0.1}], "SPREAD", name="spread"),
    "strict": placement_group([{"CPU": 0.1}], "STRICT_PACK"),
    "detached": placement_group([{"CPU": 0.1}], name="detached", lifetime="detached"),
}
ray.get([group.ready() for group in groups.values()])
groups["infeasible"] = placement_group([{"GPU": 8}], name="infeasible")
say("held")

remove_placement_group(groups["strict"])
short = placement_group([{"CPU": 0.1}], name="short")
ray.get(short.ready())
time.sleep(0.05)
remove_placement_group(short)
del doomed, pinned
for number in range(200):
    ray.put(number)
say("gone")

del inside
say("unwatched")
