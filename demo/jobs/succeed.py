"""A submitted job that works."""

import os

import ray


@ray.remote(num_cpus=1)
def greet(number):
    return f"{os.environ.get('GREETING', 'hi')} {number}"


ray.init(log_to_driver=False)
print(ray.get([greet.remote(number) for number in range(5)]))
