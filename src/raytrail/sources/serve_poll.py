"""
Serve as its REST API shows it, asked again and again on the head node: where no hook in its controller writes.

The same events as `raytrail.sources.serve` writes, each marked as ``polled``: what was between two answers is missing.
It ends where hooks write, as soon as there is a file of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from raytrail import disk
from raytrail.sources.event_file import EventFiles, session_root
from raytrail.sources.hooks import cut
from raytrail.sources.recall import recall
from raytrail.sources.serve import ACTOR_FIELDS, REPLICA_FIELDS, short

KEYS: Mapping[str, tuple[str, ...]] = {
    "SERVE_INSTANCE": ("actor_id",),
    "SERVE_PROXY": ("node_id", "actor_id"),
    "SERVE_APPLICATION": ("name",),
    "SERVE_DEPLOYMENT": ("app_name", "name"),
    "SERVE_REPLICA": ("app_name", "deployment_name", "replica_id"),
}
"""Event types, each with the fields that tell one from another."""
EVENT_TYPES = tuple(KEYS)

ENDS = {
    "SERVE_INSTANCE": {"state": "SHUT_DOWN"},
    "SERVE_PROXY": {"status": "STOPPED"},
    "SERVE_APPLICATION": {"status": "DELETED"},
    "SERVE_DEPLOYMENT": {"status": "DELETED"},
    "SERVE_REPLICA": {"state": "STOPPED"},
}
"""What is written of one that no answer shows any more, by event type."""
_RECALLED_BYTES = 64 * 1024**2
_MARK = b'"polled":true'

_Event = dict[str, Any]


class ServePoll:
    """
    Turns the REST API's answers into events: one for each change, with all that is known then.

    Args:
        events: The files to write to.
        directory: The directory that a process before this one, or a hook, may have written to.
        types: Which of them.
    """

    def __init__(self, events: EventFiles, directory: Path, types: tuple[str, ...]) -> None:
        self._events, self._directory, self._types = events, directory, types
        self._last: dict[str, dict[tuple[Any, ...], _Event]] = {event_type: {} for event_type in types}
        self._ours: set[Path] = set()
        if self.hooked():
            return
        for event_type, last in self._last.items():
            for data in recall(directory, event_type, most_bytes=_RECALLED_BYTES):
                with suppress(KeyError):  # the line is no event of ours
                    last[_key(event_type, data)] = data
            for key in [key for key, data in last.items() if _ended(event_type, data)]:
                del last[key]

    def hooked(self) -> bool:
        """Return whether a hook has written an event."""
        for path in self._directory.glob("event_EXPORT_SERVE_*_[0-9]*.log*"):
            if path in self._ours:
                continue
            try:
                with open(disk.open_file(path, session_root(self._directory)), "rb") as file:
                    line = file.readline()
            except OSError:  # rotated away just now, or no file
                continue
            if not line.endswith(b"\n"):  # which it is cannot be seen yet
                continue
            if _MARK not in line:
                return True
            self._ours.add(path)
        return False

    def take(self, answer: Mapping[str, Any]) -> None:
        """Write what has changed. `answer` is the whole of it, and nothing where Serve does not run."""
        now: dict[str, dict[tuple[Any, ...], _Event]] = {event_type: {} for event_type in EVENT_TYPES}
        for event_type, data in events_of(answer):
            now[event_type][_key(event_type, data)] = {**data, "polled": True}
        # those of an application on its way out are not shown any more, though they are there
        leaving = {name for name, app in answer.get("applications", {}).items() if app["status"] == "DELETING"}
        for event_type in self._types:
            last, current = self._last[event_type], now[event_type]
            for key, data in current.items():
                if last.get(key) != data:
                    self._events.append(event_type, data)
            for key in last.keys() - current.keys():
                if last[key].get("app_name") in leaving:
                    current[key] = last[key]
                else:
                    self._events.append(event_type, {**last[key], **ENDS[event_type]})
            self._last[event_type] = current


def _key(event_type: str, data: _Event) -> tuple[Any, ...]:
    return tuple(data[name] for name in KEYS[event_type])


def _ended(event_type: str, data: _Event) -> bool:
    return ENDS[event_type].items() <= data.items()


def events_of(answer: Mapping[str, Any]) -> Iterator[tuple[str, _Event]]:
    """Yield what the answer tells, in the form of the hooks' events."""
    if controller := answer.get("controller_info"):
        options = {name: answer.get(name) for name in ("proxy_location", "http_options", "grpc_options")}
        capacity = answer.get("target_capacity")
        instance = {**_known(controller, ACTOR_FIELDS), "state": "RUNNING", **options, "target_capacity": capacity}
        yield "SERVE_INSTANCE", {**instance, "rest_fields": _rest_fields(answer)}
    for proxy in (answer.get("proxies") or {}).values():
        yield "SERVE_PROXY", {**_known(proxy, ACTOR_FIELDS), "status": proxy["status"]}
    for app in answer.get("applications", {}).values():
        topology = app.get("deployment_topology") or {}  # not yet in Ray 2.48
        ingress, nodes = topology.get("ingress_deployment"), topology.get("nodes", app["deployments"])
        yield "SERVE_APPLICATION", _application(app, list(nodes), ingress)
        for name, deployment in app["deployments"].items():
            docs_path = app.get("docs_path") if name == ingress else None
            yield "SERVE_DEPLOYMENT", _deployment(app["name"], deployment, docs_path)
            calls = nodes.get(name, {}).get("outbound_deployments", ())
            for replica in deployment["replicas"]:
                yield "SERVE_REPLICA", _replica(app["name"], name, replica, list(calls))


def _rest_fields(answer: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the fields that this Ray's answers have, of the models that there are any of."""
    apps, groups = answer.get("applications", {}).values(), answer.get("target_groups", ())
    by_model: dict[str, Iterable[Mapping[str, Any]]] = {
        "ServeInstanceDetails": [answer],
        "ApplicationDetails": apps,
        "DeploymentDetails": [deployment for app in apps for deployment in app["deployments"].values()],
        "TargetGroup": groups,
        "Target": [target for group in groups for target in group["targets"]],
    }
    return {model: sorted(set().union(*those)) for model, those in by_model.items() if those}


def _application(app: Mapping[str, Any], deployments: list[str], ingress: str | None) -> _Event:
    config = app.get("deployed_app_config")
    return {
        **{name: app.get(name) for name in ("name", "status", "route_prefix", "last_deployed_time_s", "source")},
        "message": cut(app["message"]),
        "external_scaler_enabled": app.get("external_scaler_enabled", False),
        "deployed_app_config": config and short(config),
        "deployments": deployments,
        "ingress_deployment": ingress,
    }


def _deployment(app_name: str, deployment: Mapping[str, Any], docs_path: str | None) -> _Event:
    names = ("name", "status", "status_trigger", "target_num_replicas", "required_resources")
    return {
        "app_name": app_name,
        **{name: deployment.get(name) for name in names},
        "message": cut(deployment["message"]),
        "deployment_config": short(deployment["deployment_config"]),
        "docs_path": docs_path,
    }


def _replica(app_name: str, name: str, replica: Mapping[str, Any], calls: list[Any]) -> _Event:
    return {
        "app_name": app_name,
        "deployment_name": name,
        "replica_id": replica["replica_id"],
        "state": replica["state"],
        **_known(replica, REPLICA_FIELDS),
        **({"outbound_deployments": calls} if replica["state"] == "RUNNING" else {}),
    }


def _known(details: Mapping[str, Any], names: tuple[str, ...]) -> _Event:
    return {name: details[name] for name in names if details.get(name) is not None}
