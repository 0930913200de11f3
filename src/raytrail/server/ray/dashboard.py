"""
What Ray's dashboard asks, beside the State and Jobs APIs, answered from the history.

The shapes are those of Ray 2.60, ray/dashboard/modules: node/node_head.py (nodes and actors), event/event_head.py
(events), reporter/reporter_head.py (cluster status) and the small ones. What a machine measured of itself (CPU, memory,
disks, network) is in no event: it is left out where the pages bear that, else it is nothing.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from starlette.responses import Response

from raytrail.server.context import Answer, View, encode, ray_answer
from raytrail.server.ray import jobs
from raytrail.server.ray.actors import ACTORS_SHOWN, on_page_of, read_actors
from raytrail.server.ray.nodes import living_workers, read_nodes, shown_hostname, shown_node, shown_worker
from raytrail.server.ray.status import format_status, logical_resources, object_bytes, read_status, status_report
from raytrail.server.ray.timezones import local_zone
from raytrail.server.routing import Route
from raytrail.store import Filter

ASKED_ALONE = 20
"""How many actors are looked up one by one. Of more that are asked for at once, all of the cluster are read."""
_FROM_CPP = ("COMMON", "CORE_WORKER", "GCS", "RAYLET")
"""Who writes events from C++ (`Event_SourceType`, event.proto, but for what Python writes)."""


def _nodes(view: View) -> Response:
    """Every node for the dashboard."""
    kind = view.param("view")
    nodes = read_nodes(view)
    if kind == "summary":
        workers = Counter(worker["node_id"] for worker in living_workers(view))
        stored = object_bytes(view.snapshot)
        return ray_answer(
            _google(
                {
                    "summary": [shown_node(node, workers[node["node_id"]], stored) for node in nodes],
                    "node_logical_resources": logical_resources(read_status(view.snapshot)),
                }
            ),
            "Node summary fetched.",
        )
    if kind.lower() == "hostnamelist":
        names = {shown_hostname(node) for node in nodes if node["state"] == "ALIVE"}
        return ray_answer({"hostNameList": sorted(names)}, "Node hostname list fetched.")
    return ray_answer({}, f"Unknown view {kind or None}", 500)


def _one_node(view: View) -> Response:
    """One node for the dashboard, with its actors and workers."""
    id = str(view.path["node"])
    nodes = read_nodes(view, id)
    if not nodes:  # as Ray says it of a node that it does not know
        raylet = {"objectStoreUsedMemory": 0, "objectStoreAvailableMemory": 0, "stateMessage": None}
        empty = {"raylet": raylet, "tpus": [], "actors": {}, "workers": []}
        return ray_answer({"detail": empty}, "Node details fetched.")
    workers = [shown_worker(worker) for worker in living_workers(view, id)]
    detail = {
        **shown_node(nodes[0], len(workers), object_bytes(view.snapshot)),
        "actors": {
            actor["actorId"]: actor for condition in on_page_of(view, id) for actor in read_actors(view, condition)
        },
        "workers": workers,
    }
    return ray_answer(_google({"detail": detail}), "Node details fetched.")


def _all_actors(view: View) -> Response:
    """Every actor for the dashboard."""
    if "ids" in view.params:
        ids = dict.fromkeys(view.param("ids").split(","))
        many = len(ids) > ASKED_ALONE
        listed = {actor["actorId"]: actor for actor in read_actors(view)} if many else {}
        if not many or len(listed) >= ACTORS_SHOWN:  # a cluster may have more actors than are read at once
            for id in ids.keys() - listed.keys():
                listed |= {actor["actorId"]: actor for actor in read_actors(view, Filter("actor_id", "=", id))}
        actors: dict[str, Any] = {id: listed.get(id) for id in ids}
    else:
        actors = {actor["actorId"]: actor for actor in read_actors(view)}
    return ray_answer({"actors": actors}, "All actors fetched.")


def _one_actor(view: View) -> Response:
    """One actor for the dashboard."""
    actors = read_actors(view, Filter("actor_id", "=", str(view.path["actor"])))
    return ray_answer(_google({"detail": actors[0] if actors else None}), "Actor details fetched.")


def _events(view: View) -> Response:
    """Ray's cluster events by job, for the dashboard."""
    columns = [
        "event_id",
        "source_type",
        "severity",
        "label",
        "message",
        "custom_fields",
        "host_name",
        "pid",
        "time_ms",
        "time",
    ]
    job_id = view.param("job_id")
    where = [Filter("job_id", "=", job_id)] if job_id else []
    by_job: dict[str, list[dict[str, Any]]] = {}
    for event in view.snapshot.rows("cluster_event", columns=[*columns, "job_id"], where=where):
        seconds = event["time_ms"] // 1000
        shown = {
            "eventId": event["event_id"],
            "sourceType": event["source_type"],
            "severity": event["severity"],
            "label": event["label"] or "",
            "message": event["message"],
            # Ray's, too, has it once its State API was asked for events
            "time": event["time"],
            "customFields": _google(event["custom_fields"] or {}),
        }
        # Ray's C++ and Python write the same under different names
        if event["source_type"] in _FROM_CPP:
            shown |= {"hostName": event["host_name"], "pid": str(event["pid"]), "timestamp": seconds}
        else:
            shown |= {"sourceHostname": event["host_name"], "sourcePid": event["pid"], "timestamp": str(seconds)}
        by_job.setdefault(event["job_id"] or "global", []).append(shown)
    if job_id:
        return ray_answer({"jobId": job_id, "events": by_job.get(job_id, [])}, "Job events fetched.")
    return ray_answer({"events": by_job}, "All events fetched.")


def _cluster_status(view: View) -> Response:
    """What `ray status` says, as far as events tell."""
    status = read_status(view.snapshot)
    if view.param("format", "0") == "1":
        return ray_answer({"clusterStatus": format_status(status)}, "Got formatted cluster status.")
    # what an autoscaler says of its heartbeats and errors is in no event
    report = {"autoscaling_status": None, "autoscaling_error": None, "cluster_status": status_report(status)}
    return ray_answer(_google(report), "Got cluster status.")


def _metadata(view: View) -> Response:
    """What the dashboard says of the cluster itself."""
    # no event says which Ray and which Python it was
    metadata = {"rayVersion": None, "pythonVersion": None, "rayInitCluster": False, "sessionId": view.cluster.session}
    return ray_answer(metadata)


def _usage_stats(_: View) -> Response:
    """Whether usage is reported: no."""
    return ray_answer({"usageStatsEnabled": False, "usageStatsPromptEnabled": False}, "Fetched usage stats enabled")


def _grafana(_: View) -> Response:
    """Whether there are metrics: no, which hides their page and every chart."""
    # this word hides the page of metrics and every chart: there is nothing to draw them from
    return ray_answer({"grafanaHost": "DISABLED"}, "Grafana disabled")


def _prometheus(_: View) -> Response:
    """The same, of Prometheus: 500."""
    return ray_answer({"reason": "a history has no metrics"}, "prometheus healthcheck failed.", 500)


def _profiling(_: View) -> Response:
    """Whether processes may be profiled: no."""
    return ray_answer({"profilingEnabled": False, "profilingDefaults": {}})


def _redaction(_: View) -> Response:
    """Whether environment variables are masked."""
    return ray_answer({"redactionEnabled": True})


def _authentication(_: View) -> Response:
    """Which authentication the dashboard asks of its users."""
    return encode({"authentication_mode": "disabled"})


def _timezone(_: View) -> Response:
    """The time zone of the machine that serves, as Ray names it."""
    return encode(local_zone(datetime.now().astimezone()))


def _version(view: View) -> Response:
    """The version that Ray's clients ask for before anything else."""
    return encode(jobs.version(view.cluster.session))


ROUTES: tuple[Route[Answer], ...] = (
    Route("/nodes", _nodes, parameters={"view": "`summary`, or `hostNameList` for their names alone"}),
    Route("/nodes/{node}", _one_node),
    Route("/logical/actors", _all_actors, parameters={"ids": "actors with commas between, else all"}),
    Route("/logical/actors/{actor}", _one_actor),
    Route("/events", _events, parameters={"job_id": "a driver job, else all"}),
    Route("/api/cluster_status", _cluster_status, parameters={"format": "`1` is text"}),
    Route("/api/v0/cluster_metadata", _metadata),
    Route("/api/v0/runtime_env_redaction", _redaction),
    Route("/usage_stats_enabled", _usage_stats),
    Route("/api/grafana_health", _grafana),
    Route("/api/prometheus_health", _prometheus),
    Route("/api/profiling_enabled", _profiling),
    Route("/api/authentication_mode", _authentication),
    Route("/timezone", _timezone),
    Route("/api/version", _version),
    Route("/api/ray/version", _version),
)


def _google(value: Any) -> Any:
    """Return an answer with its keys as Ray's dashboard writes them (`to_google_style`), those of resources, too."""
    if not isinstance(value, dict):
        return value
    return {
        _camel(name): [_google(element) for element in inner] if isinstance(inner, list) else _google(inner)
        for name, inner in value.items()
    }


def _camel(name: str) -> str:
    """Return a name as Ray's dashboard writes it (`to_camel_case`, ray/dashboard/utils.py)."""
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)
