"""A submitted job that fails, with a task that does."""

import ray


@ray.remote(num_cpus=1, max_retries=0)
def refuse():
    raise PermissionError("not this one")


ray.init(log_to_driver=False)
ray.get(refuse.remote())
