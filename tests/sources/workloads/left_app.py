"""An application that a config deploys."""

from ray import serve


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Model:
    def __call__(self):
        return "left"


app = Model.bind()
