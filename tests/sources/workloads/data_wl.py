"""Datasets of Ray Data: one that takes its time, and one that fails."""

import contextlib
import threading
import time

from asking import tell

import ray

ray.init(log_to_driver=False)
job_id = ray.get_runtime_context().get_job_id()
ASK = (f"/api/data/datasets/{job_id}", "datasets")


def slowly(batch):
    time.sleep(0.8)
    return batch


def states(datasets):
    return [dataset["state"] for dataset in datasets]


def under_way(datasets):
    """Say whether the dataset has put out something, and not all."""
    return any(dataset["state"] == "RUNNING" and 0 < dataset["progress"] < 12 for dataset in datasets)


def fails(batch):
    raise ValueError("a bad batch")


slow = ray.data.range(1200, override_num_blocks=12).map_batches(slowly, batch_size=100, concurrency=1)
running = threading.Thread(target=slow.materialize)
running.start()
tell("under way", *ASK, under_way)
running.join()
tell("finished", *ASK, lambda datasets: states(datasets) == ["FINISHED"])
with contextlib.suppress(ray.exceptions.RayError):
    ray.data.range(100).map_batches(fails).materialize()
tell("failed", *ASK, lambda datasets: sorted(states(datasets)) == ["FAILED", "FINISHED"])
