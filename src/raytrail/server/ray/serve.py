"""
What Ray Serve's REST API says of its applications, for ``serve status`` and the dashboard's Serve pages.

The answer is the `ServeInstanceDetails` of Ray 2.60 (ray/serve/schema.py), or of the older Ray that the cluster ran, as
clients refuse a field that they do not know. What no event tells is left out: ``controller_health_metrics``,
``autoscaling_detail``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from raytrail.errors import ConfigError
from raytrail.store import Filter, Snapshot

API_TYPES = ("imperative", "declarative")
DEAD_REPLICAS = 10
"""How many replicas of a deployment are remembered once they have stopped (``RAY_SERVE_RETAINED_DEAD_REPLICAS``)."""

_GRPC_PORT = 9000  # DEFAULT_GRPC_PORT in ray/serve/_private/constants.py; what is not said has its default
_HTTP_PORT = 8000

_NO_SERVE: Mapping[str, Any] = {"controller_info": {}, "proxies": {}, "applications": {}, "target_capacity": None}
"""What Ray answers where Serve does not run (`ServeInstanceDetails.get_empty_schema_dict`)."""

_Key = tuple[str, str]
_Row = dict[str, Any]


def instance_details(snapshot: Snapshot, api_type: str = "") -> dict[str, Any]:
    """
    Return what Serve would have answered.

    Args:
        snapshot: When.
        api_type: Only applications that come from there; empty is all.

    Raises:
        ConfigError: There is no such API type.
    """
    if api_type and api_type.lower() not in API_TYPES:
        raise ConfigError(f"Invalid 'api_type' value: '{api_type}'. Must be one of: {', '.join(API_TYPES)}")
    instance = _instance(snapshot)
    apps = snapshot.rows("serve_application", where=[Filter("status", "!=", "DELETED")])
    if instance is None and not apps:
        return dict(_NO_SERVE)
    instance = instance or {}
    proxies = {
        row["node_id"]: {**_actor(row), "status": row["status"]}
        for row in snapshot.rows("serve_proxy", where=[Filter("status", "!=", "STOPPED")], order=["updated_ns"])
        if "-fallback-" not in (row["actor_name"] or "")  # Serve's own, in the place of one that is not Python
    }
    shown = [app for app in apps if not api_type or app["api_type"] == api_type.lower()]
    answer = {
        "controller_info": _actor(instance) if instance else {},
        "proxy_location": instance.get("proxy_location"),
        "http_options": instance.get("http_options"),
        "grpc_options": instance.get("grpc_options"),
        "proxies": proxies,
        "applications": _applications(snapshot, shown),
        "target_capacity": instance.get("target_capacity"),
        "target_groups": list(_target_groups(proxies, instance)),
        "restores_unset_config_options": True,
    }
    return _of_that_ray(answer, instance.get("rest_fields") or {})


def _of_that_ray(answer: dict[str, Any], fields: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """Return an answer without fields that the cluster's Ray did not have; all of a model that nothing is known of."""

    def kept(model: str, values: dict[str, Any]) -> dict[str, Any]:
        known = fields.get(model, values)
        return {name: value for name, value in values.items() if name in known}

    for app in answer["applications"].values():
        app["deployments"] = {
            name: kept("DeploymentDetails", deployment) for name, deployment in app["deployments"].items()
        }
    for group in answer["target_groups"]:
        group["targets"] = [kept("Target", target) for target in group["targets"]]
    answer["applications"] = {name: kept("ApplicationDetails", app) for name, app in answer["applications"].items()}
    answer["target_groups"] = [kept("TargetGroup", group) for group in answer["target_groups"]]
    return kept("ServeInstanceDetails", answer)


def _instance(snapshot: Snapshot) -> _Row | None:
    """Return Serve as it runs; None where it does not, or nothing is known of it."""
    running = snapshot.rows("serve_instance", where=[Filter("state", "=", "RUNNING")], order=["-updated_ns"], limit=1)
    for instance in running:
        its_actor = [Filter("actor_id", "=", instance["controller_actor_id"]), Filter("state", "=", "DEAD")]
        if not snapshot.count("actor", its_actor):  # one that is killed does not say so
            return {**instance, "actor_id": instance["controller_actor_id"]}
    return None


def _applications(snapshot: Snapshot, apps: Iterable[_Row]) -> dict[str, Any]:
    deployments: dict[str, dict[str, _Row]] = defaultdict(dict)
    columns: tuple[str, ...] = (
        "app_name",
        "name",
        "status",
        "status_trigger",
        "message",
        "deployment_config",
        "target_num_replicas",
    )
    columns += ("required_resources", "docs_path", "_deleted_ms")
    for row in snapshot.rows("serve_deployment", columns=columns, where=[Filter("status", "!=", "DELETED")]):
        deployments[row["app_name"]][row["name"]] = row
    live: dict[_Key, list[_Row]] = defaultdict(list)
    for row in snapshot.rows("serve_replica", where=[Filter("state", "!=", "STOPPED")]):
        live[_of(row)].append(row)
    dead = _dead(snapshot)
    return {app["name"]: _application(app, deployments[app["name"]], live, dead) for app in apps}


def _dead(snapshot: Snapshot) -> dict[_Key, list[_Row]]:
    """Return the last replicas of each deployment that have stopped and left a log, the last one last."""
    result = snapshot.query(
        "SELECT * FROM serve_replica WHERE state = 'STOPPED' AND log_file_path IS NOT NULL QUALIFY row_number() OVER "
        f"(PARTITION BY app_name, deployment_name ORDER BY end_time_ms DESC, replica_id) <= {DEAD_REPLICAS} "
        "ORDER BY end_time_ms"
    )
    dead: dict[_Key, list[_Row]] = defaultdict(list)
    for values in result.rows:
        row = dict(zip(result.columns, values, strict=True))
        dead[_of(row)].append(row)
    return dead


def _application(
    app: _Row, deployments: Mapping[str, _Row], live: Mapping[_Key, list[_Row]], dead: Mapping[_Key, list[_Row]]
) -> dict[str, Any]:
    # one that is being deleted has no targets any more, and shows none of its deployments, though they are there
    names = app["deployments"]
    if names is None:
        names = [] if app["status"] == "DELETING" else list(deployments)
    ingress = app["ingress_deployment"]
    return {
        "name": app["name"],
        "route_prefix": app["route_prefix"],
        "docs_path": deployments.get(ingress, {}).get("docs_path"),
        "status": app["status"],
        "message": app["message"] or "",
        "last_deployed_time_s": (app["last_deployed_time_ms"] or 0) / 1000,
        "deployed_app_config": app["deployed_app_config"],
        "source": app["api_type"] or "unknown",
        "deployments": {
            name: _deployment(deployments[name], live.get((app["name"], name), []), dead.get((app["name"], name), []))
            for name in names
            if name in deployments
        },
        "external_scaler_enabled": bool(app["external_scaler_enabled"]),
        "deployment_topology": {
            "app_name": app["name"],
            "nodes": {
                name: {
                    "name": name,
                    "app_name": app["name"],
                    "outbound_deployments": _called(live.get((app["name"], name), [])),
                    "is_ingress": name == ingress,
                }
                for name in names
            },
            "ingress_deployment": ingress,
        }
        if names
        else None,
    }


def _deployment(row: _Row, live: Iterable[_Row], dead: Iterable[_Row]) -> dict[str, Any]:
    # one of the same name before it had others
    since_ms = row["_deleted_ms"] or 0
    return {
        "name": row["name"],
        "status": row["status"],
        "status_trigger": row["status_trigger"],
        "message": row["message"] or "",
        "deployment_config": row["deployment_config"] or {"name": row["name"]},
        "target_num_replicas": row["target_num_replicas"],
        "required_resources": row["required_resources"] or {},
        "replicas": [_replica(replica) for replica in live],
        "recent_dead_replicas": [
            _replica(replica) for replica in dead if not since_ms or (replica["end_time_ms"] or 0) > since_ms
        ],
    }


def _replica(row: _Row) -> dict[str, Any]:
    return {
        **_actor(row),
        "replica_id": row["replica_id"],
        "state": row["state"],
        "pid": row["pid"],
        "start_time_s": (row["start_time_ms"] or 0) / 1000,
    }


def _actor(row: _Row) -> dict[str, Any]:
    names = ("node_id", "node_ip", "node_instance_id", "actor_id", "actor_name", "worker_id", "log_file_path")
    actor = {name: row[name] for name in names}
    if actor["node_id"] and actor["node_instance_id"] is None:  # none of a cloud's
        actor["node_instance_id"] = ""
    return actor


def _of(row: _Row) -> _Key:
    return row["app_name"], row["deployment_name"]


def _called(replicas: Iterable[_Row]) -> list[dict[str, str]]:
    """Return the deployments that these replicas call."""
    called = {
        (deployment["name"], deployment["app_name"])
        for row in replicas
        if row["state"] == "RUNNING"
        for deployment in row["outbound_deployments"] or ()
    }
    return [{"name": name, "app_name": app_name} for name, app_name in sorted(called)]


def _target_groups(proxies: Mapping[str, Mapping[str, Any]], instance: _Row) -> Iterable[dict[str, Any]]:
    """Yield how Serve is reached from outside: through the proxies that are well."""
    grpc = instance.get("grpc_options") or {}
    ports = {"HTTP": (instance.get("http_options") or {}).get("port", _HTTP_PORT)}
    if grpc.get("grpc_servicer_functions"):
        ports["gRPC"] = grpc.get("port", _GRPC_PORT)
    for protocol, port in ports.items() if proxies else ():
        yield {
            "targets": [
                {
                    "ip": proxy["node_ip"],
                    "port": port,
                    "instance_id": proxy["node_instance_id"],
                    "name": proxy["actor_name"],
                }
                for proxy in proxies.values()
                if proxy["status"] == "HEALTHY"
            ],
            "route_prefix": "/",
            "protocol": protocol,
            "app_name": "",
            "ingress_request_router_targets": [],
            "ingress_deployment_name": "",
        }
