"""A driver with an application of Serve on the port that it is given, which goes on when it is told to."""

import sys

import ray
from ray import serve


@serve.deployment(ray_actor_options={"num_cpus": 0.1}, num_replicas=2)
class Model:
    def __call__(self):
        return "polled"


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Ingress:
    def __init__(self, model):
        self.model = model


def say(what):
    print(what, flush=True)  # noqa: T201 (the test waits for it)
    sys.stdin.readline()


port = int(sys.argv[1])
ray.init(log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": port})
serve.run(Ingress.bind(Model.bind()), name="polled", route_prefix="/polled")
say("served")

serve.shutdown()
say("shut down")
