"""
Serve's applications, deployments and replicas, as its controller sees them: hooks in the controller's own process.

An event is written when something of what it tells has changed, with the whole of it, in the words of Serve's own
REST API; and one more, DELETED or STOPPED, when the controller lets go of it.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from raytrail.sources import hooks
from raytrail.sources.hooks import Source, cut, need

_REPLICA_FIELDS = (
    "actor_id",
    "actor_name",
    "node_id",
    "node_ip",
    "pid",
    "worker_id",
    "log_file_path",
    "start_time_s",
)
"""Fields of Serve's `ReplicaDetails` (ray/serve/schema.py), besides its id and state."""


def lay() -> None:
    """Lay the hooks of what is switched on, in the process that is Serve's controller."""
    hooks.lay("SERVE_APPLICATION", _applications)
    hooks.lay("SERVE_DEPLOYMENT", _deployments)
    hooks.lay("SERVE_REPLICA", _replicas)


def _applications(source: Source) -> None:
    state = import_module("ray.serve._private.application_state").ApplicationState
    need(state, "_name", "_status", "_status_msg", "_route_prefix", "_deployment_timestamp")
    need(state, "_update_status", "is_deleted")
    source.after(state, "_update_status", partial(_application, source))
    source.after(state, "is_deleted", partial(_application_deleted, source))


def _application(source: Source, app: Any, _: None, *_args: Any, **_kwargs: Any) -> None:
    told = (app._status, app._status_msg, app._route_prefix, app._deployment_timestamp)
    source.tell(app, told, lambda: _application_data(app, app._status.value))


def _application_deleted(source: Source, app: Any, deleted: bool) -> None:
    if deleted:
        source.tell(app, ("DELETED",), lambda: _application_data(app, "DELETED"))


def _application_data(app: Any, status: str) -> dict[str, Any]:
    return {
        "name": app._name,
        "status": status,
        "message": cut(app._status_msg),
        "route_prefix": app._route_prefix,
        "last_deployed_time_s": app._deployment_timestamp,
    }


def _deployments(source: Source) -> None:
    module = import_module("ray.serve._private.deployment_state")
    state = module.DeploymentState
    need(state, "_id", "_curr_status_info", "_target_state", "check_curr_status")
    need(module.DeploymentID, "name", "app_name")
    need(module.DeploymentStatusInfo, "status", "status_trigger", "message")
    need(module.DeploymentTargetState, "target_num_replicas")
    source.on_assignment(state, "_curr_status_info", partial(_deployment, source))
    source.after(state, "check_curr_status", partial(_deployment_checked, source))


def _deployment(source: Source, deployment: Any) -> None:
    target_num_replicas = deployment._target_state.target_num_replicas
    if target_num_replicas < 0:  # not even its target is known yet
        return
    now = deployment._curr_status_info
    told = (now.status, now.status_trigger, now.message, target_num_replicas)
    source.tell(deployment, told, lambda: _deployment_data(deployment, now.status.value))


def _deployment_checked(source: Source, deployment: Any, result: tuple[bool, bool]) -> None:
    deleted, _ = result
    if deleted:
        source.tell(deployment, ("DELETED",), lambda: _deployment_data(deployment, "DELETED"))
    else:  # a new target alone, as Serve's scaling API sets it, is no new status
        _deployment(source, deployment)


def _deployment_data(deployment: Any, status: str) -> dict[str, Any]:
    return {
        "app_name": deployment._id.app_name,
        "name": deployment._id.name,
        "status": status,
        "status_trigger": deployment._curr_status_info.status_trigger.value,
        "message": cut(deployment._curr_status_info.message),
        "target_num_replicas": deployment._target_state.target_num_replicas,
    }


def _replicas(source: Source) -> None:
    module = import_module("ray.serve._private.deployment_state")
    replica = module.DeploymentReplica
    need(replica, "replica_id", "actor_details", "update_actor_details", "check_stopped")
    need(module.ReplicaID, "unique_id", "deployment_id")
    need(module.DeploymentID, "name", "app_name")
    need(module.ReplicaDetails, "state", *_REPLICA_FIELDS)
    source.after(replica, "update_actor_details", partial(_replica, source))
    source.after(replica, "check_stopped", partial(_replica_stopped, source))


def _replica(source: Source, replica: Any, _: None, **_changed: Any) -> None:
    details = replica.actor_details  # frozen: when something of it changes, it is made anew
    source.tell(replica, vars(details), lambda: _replica_data(replica, details.state.value))


def _replica_stopped(source: Source, replica: Any, stopped: bool) -> None:
    if stopped:
        source.tell(replica, ("STOPPED",), lambda: _replica_data(replica, "STOPPED"))


def _replica_data(replica: Any, state: str) -> dict[str, Any]:
    details, deployment = replica.actor_details, replica.replica_id.deployment_id
    known = {name: value for name in _REPLICA_FIELDS if (value := getattr(details, name)) is not None}
    return {
        "app_name": deployment.app_name,
        "deployment_name": deployment.name,
        "replica_id": replica.replica_id.unique_id,
        "state": state,
        **known,
    }
