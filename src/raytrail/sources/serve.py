"""
Serve, its proxies, applications, deployments and replicas, as its controller sees them: hooks in the controller's own
process.

An event is written when something of its content has changed, with the whole of it, in the words of Serve's own REST
API. One more, DELETED, STOPPED or SHUT_DOWN, is written when the controller lets go of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from raytrail.sources import hooks
from raytrail.sources.hooks import Source, cut, fields, need

MOST_CONFIG = 100_000
"""The most characters of an application's or a deployment's config. A longer one is left out."""

ACTOR_FIELDS = ("actor_id", "actor_name", "node_id", "node_ip", "node_instance_id", "worker_id", "log_file_path")
"""Fields of Serve's `ServeActorDetails` (ray/serve/schema.py)."""
REPLICA_FIELDS = (*ACTOR_FIELDS, "pid", "start_time_s")
"""Those of its `ReplicaDetails`, besides its id and state."""

REST_MODELS = ("ServeInstanceDetails", "ApplicationDetails", "DeploymentDetails", "TargetGroup", "Target")
"""The models of its REST API that have grown since Ray 2.48. Its clients refuse fields that they do not know."""

_CONFIG, _SHUT_DOWN = "_raytrail_config", "_raytrail_shut_down"
"""The attributes that Serve's own objects get from us."""


def lay() -> None:
    """Lay the hooks of what is switched on, in the process that is Serve's controller."""
    hooks.lay("SERVE_INSTANCE", _instance)
    hooks.lay("SERVE_PROXY", _proxies)
    hooks.lay("SERVE_APPLICATION", _applications)
    hooks.lay("SERVE_DEPLOYMENT", _deployments)
    hooks.lay("SERVE_REPLICA", _replicas)


def _instance(source: Source) -> None:
    controller = import_module("ray.serve._private.controller").ServeController
    need(controller, "_actor_details", "_target_capacity", "get_http_config", "get_grpc_config")
    need(controller, "_update_proxy_nodes")
    # it does this in each round, and also when all else has been shut down. Ray 2.48 does not have it yet, and just
    # dies
    source.after(controller, "_update_proxy_nodes", partial(_instance_looked_at, source))
    if hasattr(controller, "_kill_registered_cleanup_actors"):
        source.after(controller, "_kill_registered_cleanup_actors", partial(_instance_shut_down, source))


def _instance_looked_at(source: Source, controller: Any, _: None) -> None:
    if _SHUT_DOWN in controller.__dict__:  # for a moment it goes on
        return
    # the options are what they were when it began
    state = (controller._actor_details, controller._target_capacity)
    source.tell(controller, state, lambda: _instance_data(controller, "RUNNING"))


def _instance_shut_down(source: Source, controller: Any, _: None) -> None:
    controller.__dict__[_SHUT_DOWN] = True
    source.tell(controller, ("SHUT_DOWN",), lambda: _instance_data(controller, "SHUT_DOWN"))


def _instance_data(controller: Any, state: str) -> dict[str, Any]:
    schema, http, grpc = import_module("ray.serve.schema"), controller.get_http_config(), controller.get_grpc_config()
    # Ray 2.48 has it among the options
    location = getattr(controller.proxy_state_manager, "get_proxy_location", lambda: http.location)()
    return {
        **_known(controller._actor_details, ACTOR_FIELDS),
        "state": state,
        "proxy_location": str(getattr(location, "value", location)),
        "http_options": _dump_set(_read(schema.HTTPOptionsSchema, _dump_set(http))),
        "grpc_options": _dump_set(_read(schema.gRPCOptionsSchema, _dump_set(grpc))),
        "target_capacity": controller._target_capacity,
        "rest_fields": {name: sorted(fields(getattr(schema, name))) for name in REST_MODELS if hasattr(schema, name)},
    }


def _proxies(source: Source) -> None:
    module = import_module("ray.serve._private.proxy_state")
    need(module.ProxyState, "_actor_details", "shutdown")
    need(module.ProxyDetails, "status", *ACTOR_FIELDS)
    source.on_assignment(module.ProxyState, "_actor_details", partial(_proxy, source))
    source.after(module.ProxyState, "shutdown", partial(_proxy_stopped, source))


def _proxy(source: Source, proxy: Any) -> None:
    details = proxy._actor_details
    source.tell(proxy, vars(details), lambda: _proxy_data(details, details.status.value))


def _proxy_stopped(source: Source, proxy: Any, _: None) -> None:
    source.tell(proxy, ("STOPPED",), lambda: _proxy_data(proxy._actor_details, "STOPPED"))


def _proxy_data(details: Any, status: str) -> dict[str, Any]:
    return {**_known(details, ACTOR_FIELDS), "status": status}


def _applications(source: Source) -> None:
    module = import_module("ray.serve._private.application_state")
    state = module.ApplicationState
    need(state, "_name", "_status", "_status_msg", "_route_prefix", "_deployment_timestamp")
    need(state, "_ingress_deployment_name", "_target_state", "_update_status", "is_deleted")
    need(module.ApplicationTargetState, "config", "deployment_infos", "api_type")
    source.after(state, "_update_status", partial(_application, source))
    source.after(state, "is_deleted", partial(_application_deleted, source))


def _application(source: Source, app: Any, _: None, *_args: Any, **_kwargs: Any) -> None:
    target = app._target_state
    state = (
        *(app._status, app._status_msg, app._route_prefix, app._deployment_timestamp, app._ingress_deployment_name),
        *(target.config, *(target.deployment_infos or ())),
    )
    source.tell(app, state, lambda: _application_data(app, app._status.value))


def _application_deleted(source: Source, app: Any, deleted: bool) -> None:
    if deleted:
        source.tell(app, ("DELETED",), lambda: _application_data(app, "DELETED"))


def _application_data(app: Any, status: str) -> dict[str, Any]:
    target = app._target_state
    config = None if target.config is None else short(_dump_set(target.config))
    return {
        "name": app._name,
        "status": status,
        "message": cut(app._status_msg),
        "route_prefix": app._route_prefix,
        "last_deployed_time_s": app._deployment_timestamp,
        "source": target.api_type.value,
        "external_scaler_enabled": getattr(target, "external_scaler_enabled", False),  # not yet in Ray 2.48
        "deployed_app_config": config,
        "deployments": list(target.deployment_infos or ()),
        "ingress_deployment": app._ingress_deployment_name,
    }


def _deployments(source: Source) -> None:
    module = import_module("ray.serve._private.deployment_state")
    state = module.DeploymentState
    need(state, "_id", "_curr_status_info", "_target_state", "_docs_path", "check_curr_status")
    need(module.DeploymentID, "name", "app_name")
    need(module.DeploymentStatusInfo, "status", "status_trigger", "message")
    need(module.DeploymentTargetState, "info", "target_num_replicas")
    source.on_assignment(state, "_curr_status_info", partial(_deployment, source))
    source.after(state, "check_curr_status", partial(_deployment_checked, source))


def _deployment(source: Source, deployment: Any) -> None:
    target = deployment._target_state
    if target.target_num_replicas < 0:  # not even its target is known yet
        return
    now, docs_path = deployment._curr_status_info, getattr(deployment, "_docs_path", None)  # as yet, in its __init__
    state = (now.status, now.status_trigger, now.message, target.target_num_replicas, target.info, docs_path)
    source.tell(deployment, state, lambda: _deployment_data(deployment, now.status.value))


def _deployment_checked(source: Source, deployment: Any, result: tuple[bool, bool]) -> None:
    deleted, _ = result
    if deleted:
        source.tell(deployment, ("DELETED",), lambda: _deployment_data(deployment, "DELETED"))
    else:  # a new target alone, as Serve's scaling API sets it, is no new status
        _deployment(source, deployment)


def _deployment_data(deployment: Any, status: str) -> dict[str, Any]:
    info = deployment._target_state.info
    return {
        "app_name": deployment._id.app_name,
        "name": deployment._id.name,
        "status": status,
        "status_trigger": deployment._curr_status_info.status_trigger.value,
        "message": cut(deployment._curr_status_info.message),
        "target_num_replicas": deployment._target_state.target_num_replicas,
        "deployment_config": _deployment_config(deployment, info),
        "required_resources": info.replica_config.resource_dict,
        "docs_path": getattr(deployment, "_docs_path", None),
    }


def _deployment_config(deployment: Any, info: Any) -> dict[str, Any] | None:
    """Return the options of a deployment, worked out once for each target that it gets."""
    last, config = deployment.__dict__.get(_CONFIG, (None, None))
    if last is not info:
        schema = import_module("ray.serve.schema")
        config = short(_public(_dump_set(schema._deployment_info_to_schema(deployment._id.name, info))))
        deployment.__dict__[_CONFIG] = (info, config)
    known: dict[str, Any] | None = config
    return known


def _public(config: dict[str, Any]) -> dict[str, Any]:
    """Return a deployment's config without what Serve's REST API keeps to itself."""
    for name, inner in (
        ("request_router_config", "_serialized_request_router_cls"),
        ("autoscaling_config", "_serialized_policy_def"),
    ):
        (config.get(name) or {}).pop(inner, None)
    return config


def _replicas(source: Source) -> None:
    module = import_module("ray.serve._private.deployment_state")
    replica = module.DeploymentReplica
    need(replica, "replica_id", "actor_details", "update_actor_details", "check_stopped")
    need(module.ReplicaID, "unique_id", "deployment_id")
    need(module.DeploymentID, "name", "app_name")
    need(module.ReplicaDetails, "state", *REPLICA_FIELDS)
    source.after(replica, "update_actor_details", partial(_replica, source))
    source.after(replica, "check_stopped", partial(_replica_stopped, source))


def _replica(source: Source, replica: Any, _: None, **_changed: Any) -> None:
    details = replica.actor_details  # frozen: when something of it changes, it is made anew
    source.tell(replica, vars(details), lambda: _replica_data(replica, details.state.value))


def _replica_stopped(source: Source, replica: Any, stopped: bool) -> None:
    if stopped:
        source.tell(replica, ("STOPPED",), lambda: _replica_data(replica, "STOPPED"))


def _replica_data(replica: Any, state: str) -> dict[str, Any]:
    deployment = replica.replica_id.deployment_id
    # Ray 2.48 does not have it yet. None until it has started
    called = getattr(replica, "get_outbound_deployments", lambda: None)()
    known = _known(replica.actor_details, REPLICA_FIELDS)
    if called is not None:
        known["outbound_deployments"] = [{"name": callee.name, "app_name": callee.app_name} for callee in called]
    return {
        "app_name": deployment.app_name,
        "deployment_name": deployment.name,
        "replica_id": replica.replica_id.unique_id,
        "state": state,
        **known,
    }


def _known(details: Any, fields: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name in fields if (value := getattr(details, name)) is not None}


def _dump_set(model: Any) -> dict[str, Any]:
    """Return what was set of a model of Pydantic 2, or of Pydantic 1, as Serve's schema is in Ray 2.48."""
    dump: Callable[..., dict[str, Any]] = getattr(model, "model_dump", None) or model.dict
    return dump(exclude_unset=True)


def _read(model: Any, values: dict[str, Any]) -> Any:
    """Return such a model of these values. It leaves out values that are none of its own."""
    return (getattr(model, "model_validate", None) or model.parse_obj)(values)


def short(config: dict[str, Any]) -> dict[str, Any] | None:
    """Return a config, or nothing where it is too long for an event."""
    return config if len(str(config)) <= MOST_CONFIG else None
