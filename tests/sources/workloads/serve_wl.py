"""
Applications of Serve that are deployed, scaled, redeployed, broken, deleted; one that is resized by its config.

    serve_wl.py <port of Serve>
"""

import contextlib
import sys
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from asking import post, say, tell
from ray.serve._private.version import DeploymentVersion

import ray
from ray import serve

SMALL = {"num_cpus": 0.1}
# neither is yet so in Ray 2.48
SCALED: dict[str, Any] = (
    {"external_scaler_enabled": True} if "external_scaler_enabled" in signature(serve.run).parameters else {}
)
ROUTED = "route_prefix" in signature(DeploymentVersion).parameters

port = int(sys.argv[1])

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
    return shop.get("status") == "RUNNING" and [replica["state"] for replica in models] == ["RUNNING"] * count


def status(name, apps):
    return apps.get(name, {}).get("status")


def deploy(version):
    app = Ingress.bind(Model.bind(version))
    handle = serve.run(app, name="shop", route_prefix="/shop", **SCALED)
    assert handle.remote().result() == version


def scale(replicas):
    post("/api/v1/applications/shop/deployments/Model/scale", {"target_num_replicas": replicas})


ASK = ("/api/serve/applications/", "applications")
say("this Ray", is_scaled_from_outside=bool(SCALED), tells_replicas_their_route=ROUTED)
deploy("v1")
tell("deployed", *ASK, partial(running, 1))
if SCALED:
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


def config(replicas, route_prefix):
    """Return the config of an application; another config resizes it, where another `serve.run` would replace it."""
    return {
        "name": "left",
        "import_path": "left_app:app",
        "route_prefix": route_prefix,
        "runtime_env": {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}},
        "deployments": [{"name": "Model", "num_replicas": replicas}],
    }


def settled(replicas, route_prefix, apps):
    """Say whether what is left is as its config says."""
    if status("left", apps) != "RUNNING" or apps["left"]["route_prefix"] != route_prefix:
        return False
    models = apps["left"]["deployments"].get("Model", {}).get("replicas", [])
    return [replica["state"] for replica in models] == ["RUNNING"] * replicas


for step, replicas, route_prefix in (
    ("left", 1, "/left"),
    ("upscaled", 2, "/left"),
    ("downscaled", 1, "/left"),
    ("hidden", 1, None),
):
    post("/api/serve/applications/", {"applications": [config(replicas, route_prefix)]}, method="PUT")
    tell(step, *ASK, partial(settled, replicas, route_prefix))
