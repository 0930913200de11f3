"""Applications of Serve that are deployed, scaled, redeployed, broken and deleted; one is left running."""

import contextlib
import socket
from functools import partial

from asking import post, tell

import ray
from ray import serve

SMALL = {"num_cpus": 0.1}

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]

ray.init(namespace="serve", log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": port})


@serve.deployment(ray_actor_options=SMALL)
class Model:
    def __init__(self, version):
        self.version = version

    def __call__(self):
        return self.version


@serve.deployment(ray_actor_options=SMALL)
class Ingress:
    def __init__(self, model):
        self.model = model

    async def __call__(self):
        return await self.model.remote()


@serve.deployment(ray_actor_options=SMALL)
class Broken:
    def __init__(self):
        raise RuntimeError("broken from the start")


def running(count, apps):
    """Say whether the shop is RUNNING with that many models, and nothing that is on its way out."""
    shop = apps.get("shop", {})
    models = shop.get("deployments", {}).get("Model", {}).get("replicas", [])
    return shop.get("status") == "RUNNING" and [one["state"] for one in models] == ["RUNNING"] * count


def status(name, apps):
    return apps.get(name, {}).get("status")


def deploy(version):
    app = Ingress.bind(Model.bind(version))
    handle = serve.run(app, name="shop", route_prefix="/shop", external_scaler_enabled=True)
    assert handle.remote().result() == version


def scale(replicas):
    post("/api/v1/applications/shop/deployments/Model/scale", {"target_num_replicas": replicas})


ASK = ("/api/serve/applications/", "applications")
deploy("v1")
tell("deployed", *ASK, partial(running, 1))
scale(3)
tell("scaled up", *ASK, partial(running, 3))
scale(1)
tell("scaled down", *ASK, partial(running, 1))
deploy("v2")
tell("redeployed", *ASK, partial(running, 1))
with contextlib.suppress(RuntimeError):
    serve.run(Broken.bind(), name="broken", route_prefix="/broken")
tell("broken", *ASK, lambda apps: status("broken", apps) == "DEPLOY_FAILED")
serve.delete("broken")
serve.delete("shop")
tell("deleted", *ASK, lambda apps: not apps)
serve.run(Model.bind("left"), name="left", route_prefix="/left")
tell("left", *ASK, lambda apps: status("left", apps) == "RUNNING")
