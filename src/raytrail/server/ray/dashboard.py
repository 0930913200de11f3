"""
What Ray's dashboard asks, beside the State and Jobs APIs, answered from the history.

The shapes are those of Ray 2.60, ray/dashboard/modules: node/node_head.py and node/datacenter.py (nodes and actors),
event/event_head.py (events), reporter/reporter_head.py (cluster status) and the small ones. What a machine measured of
itself (CPU, memory, disks, network) is in no event: it is left out where the pages bear that, else it is nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from starlette.responses import Response

from raytrail.server.context import Answer, View, encode, ray_answer
from raytrail.server.ray import jobs
from raytrail.server.ray.status import (
    BUNDLE,
    Named,
    format_status,
    logical_resources,
    object_bytes,
    read_status,
    status_report,
)
from raytrail.server.ray.timezones import local_zone
from raytrail.server.routing import Route
from raytrail.store import Filter

NO_ACTOR = "ffffffffffffffffffffffffffffffff"
"""What Ray's core workers say that run no actor (`ActorID::Nil`)."""
ACTORS_SHOWN = 100_000
"""Most actors in one answer: the page draws them all. Ray's own dashboard keeps as many dead ones."""
ASKED_ALONE = 20
"""How many actors are looked up one by one. Of more that are asked for at once, all of the cluster are read."""
MOVED_SHOWN = 200
"""Most actors on a node's page that have moved to another one."""

_DIED_OF = (
    # the messages of ActorDeathCause (common.proto) in the order in which node_head.py looks for them
    ("actor_died_error_context", "error_message"),
    ("runtime_env_failed_context", "error_message"),
    ("actor_unschedulable_context", "error_message"),
    ("creation_task_failure_context", "formatted_exception_string"),
)
_FROM_CPP = ("COMMON", "CORE_WORKER", "GCS", "RAYLET")
"""Who writes events from C++ (`Event_SourceType`, event.proto, but for what Python writes)."""


def _nodes(view: View) -> Response:
    """Every node for the dashboard."""
    kind = view.param("view")
    nodes = _found_nodes(view)
    if kind == "summary":
        workers = Counter(worker["node_id"] for worker in _living_workers(view))
        stored = object_bytes(view.snapshot)
        return ray_answer(
            _google(
                {
                    "summary": [_node(node, workers[node["node_id"]], stored) for node in nodes],
                    "node_logical_resources": logical_resources(read_status(view.snapshot)),
                }
            ),
            "Node summary fetched.",
        )
    if kind.lower() == "hostnamelist":
        names = {_hostname(node) for node in nodes if node["state"] == "ALIVE"}
        return ray_answer({"hostNameList": sorted(names)}, "Node hostname list fetched.")
    return ray_answer({}, f"Unknown view {kind or None}", 500)


def _one_node(view: View) -> Response:
    """One node for the dashboard, with its actors and workers."""
    id = str(view.path["node"])
    nodes = _found_nodes(view, id)
    if not nodes:  # as Ray says it of a node that it does not know
        raylet = {"objectStoreUsedMemory": 0, "objectStoreAvailableMemory": 0, "stateMessage": None}
        empty = {"raylet": raylet, "tpus": [], "actors": {}, "workers": []}
        return ray_answer({"detail": empty}, "Node details fetched.")
    workers = [_worker(worker) for worker in _living_workers(view, id)]
    detail = {
        **_node(nodes[0], len(workers), object_bytes(view.snapshot)),
        "actors": {
            actor["actorId"]: actor
            for condition in (Filter("node_id", "=", id), *_once_on(view, id), *_asked_of(view, id))
            for actor in _actors(view, condition)
        },
        "workers": workers,
    }
    return ray_answer(_google({"detail": detail}), "Node details fetched.")


def _once_on(view: View, node_id: str) -> list[Filter]:
    """Return what finds the actors that were on a node and are no more: Ray's dashboard takes none off its list."""
    columns = ["actor_id", "_node_ids", "_leased_node_id", "node_id", "state"]
    actors, params = view.snapshot.relation("actor", columns)
    rows = view.snapshot.run(
        f"SELECT lower(hex(actor_id)) FROM {actors} WHERE lower(hex(node_id)) IS DISTINCT FROM ? AND ("
        "list_contains(_node_ids, ?) "
        "OR (node_id IS NULL AND state = 'DEAD' AND lower(hex(_leased_node_id)) = ?)) "
        f"ORDER BY actor_id LIMIT {MOVED_SHOWN}",
        [*params, node_id, node_id, node_id],
    )
    return [Filter("actor_id", "=", actor_id) for (actor_id,) in rows]


def _asked_of(view: View, node_id: str) -> list[Filter]:
    """
    Return what finds the actors that a node was asked for when they were to start again, wherever they did.

    That is the node of their owner (`GcsActorScheduler::SelectForwardingNode`, gcs_actor_scheduler.cc), and Ray's
    dashboard lists them there, too.
    """
    again = [Filter("num_restarts", ">", 0), Filter("node_id", "!=", node_id)]
    actors = view.snapshot.rows("actor", columns=["actor_id", "required_resources"], where=again, limit=MOVED_SHOWN)
    filters = [Filter("actor_id", "=", actor["actor_id"]) for actor in actors if actor["required_resources"]]
    return [of_actor for of_actor in filters if _owners_node(view, of_actor) == node_id]


def _owners_node(view: View, of_actor: Filter) -> str:
    """Return the node of what created an actor (a driver, another actor or a task), empty where no event tells."""
    creations = view.snapshot.rows(
        "task", columns=["parent_task_id", "job_id"], where=[of_actor, Filter("type", "=", "ACTOR_CREATION_TASK")]
    )
    for creation in creations:
        parent, job_id = creation["parent_task_id"] or "", creation["job_id"] or ""
        by_driver = parent == f"{_NIL_TASK}{job_id}"
        owners = (
            view.snapshot.rows("worker", columns=["node_id"], where=[Filter("worker_id", "=", _driver_id(job_id))])
            if by_driver
            else view.snapshot.rows("task", columns=["node_id"], where=[Filter("task_id", "=", parent)])
        )
        for owner in owners:
            return str(owner["node_id"] or "")
    return ""


_NIL_TASK = "ff" * 20


def _driver_id(job_id: str) -> str:
    """Return the worker's id of a job's driver (`ComputeDriverIdFromJob`, src/ray/common/id.cc)."""
    return job_id.ljust(len(_NIL_ID), "f")


def _all_actors(view: View) -> Response:
    """Every actor for the dashboard."""
    if "ids" in view.params:
        ids = dict.fromkeys(view.param("ids").split(","))
        each = [[Filter("actor_id", "=", id)] for id in ids] if len(ids) <= ASKED_ALONE else [[]]
        listed = {actor["actorId"]: actor for where in each for actor in _actors(view, *where)}
        actors: dict[str, Any] = {id: listed.get(id) for id in ids}
    else:
        actors = {actor["actorId"]: actor for actor in _actors(view)}
    return ray_answer({"actors": actors}, "All actors fetched.")


def _one_actor(view: View) -> Response:
    """One actor for the dashboard."""
    actors = _actors(view, Filter("actor_id", "=", str(view.path["actor"])))
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


def _found_nodes(view: View, id: str = "") -> list[dict[str, Any]]:
    columns = [
        "node_id",
        "node_ip",
        "node_name",
        "is_head_node",
        "state",
        "state_message",
        "death_info",
        "hostname",
        "resources_total",
        "labels",
        "start_time_ms",
        "end_time_ms",
    ]
    nodes = view.snapshot.rows("node", columns=columns, where=[Filter("node_id", "=", id)] if id else [])
    over = view.cluster.sealed and view.snapshot.at_ms is None
    dead = [node for node in nodes if node["state"] == "DEAD" and not over]
    purged_ms = _purged_ms(view) if dead else 0
    for node in dead:
        node.update(dead=True, purged=(node["end_time_ms"] or 0) < purged_ms)
    return nodes


def _purged_ms(view: View) -> int:
    """Return when Ray's dashboard last forgot what it had measured of nodes that died; it starts with its head node."""
    living_head = [Filter("is_head_node", "=", True), Filter("state", "=", "ALIVE")]
    heads = view.snapshot.rows("node", columns=["start_time_ms"], where=living_head)
    started_ms = max((head["start_time_ms"] or 0 for head in heads), default=0)
    now_ms = view.snapshot.at_ms or time.time_ns() // 1_000_000
    return int(now_ms - (now_ms - started_ms) % PURGE_MS)


PURGE_MS = 600_000
"""How often Ray's dashboard forgets it (`RAY_DASHBOARD_STATS_PURGING_INTERVAL`, ray/dashboard/consts.py)."""
_TOLD_OF_DEAD = {
    "nodeManagerAddress": "",
    "nodeName": "",
    "isHeadNode": False,
    "startTimeMs": "0",
    "resourcesTotal": {},
    "labels": {},
}
"""What Ray's dashboard has left of a node that died while the cluster lives: the GCS tells it of no more."""
_MEASURED_OF_PURGED = {"objectStoreUsedMemory": 0, "objectStoreAvailableMemory": 0}


def _node(node: Mapping[str, Any], workers: int, stored: Mapping[str, int]) -> dict[str, Any]:
    total = node["resources_total"] or {}
    used = stored.get(node["node_id"], 0)
    return {
        "hostname": _hostname(node),
        "ip": node["node_ip"],
        # else the pages say 0%; of an empty text they draw an empty bar
        "cpu": "",
        # the pages break without these three
        "loadAvg": [[], []],
        "networkSpeed": [0, 0],
        "cmdline": [],
        "gpus": [],
        "tpus": [],
        "raylet": {
            "nodeId": node["node_id"],
            "nodeManagerAddress": node["node_ip"],
            "nodeManagerHostname": _hostname(node),
            "nodeName": node["node_name"],
            "isHeadNode": bool(node["is_head_node"]),
            "state": node["state"],
            "stateMessage": node["state_message"],
            **({"deathInfo": node["death_info"]} if node["death_info"] else {}),
            "startTimeMs": str(node["start_time_ms"] or 0),
            "endTimeMs": str(node["end_time_ms"] or 0),
            "resourcesTotal": {name: float(amount) for name, amount in total.items()},
            "labels": node["labels"] or {},
            "numWorkers": workers,
            "objectStoreUsedMemory": used,
            "objectStoreAvailableMemory": int(total.get("object_store_memory") or 0) - used,
            **(_TOLD_OF_DEAD if node.get("dead") else {}),
            **(_MEASURED_OF_PURGED if node.get("purged") else {}),
        },
    }


def _hostname(node: Mapping[str, Any]) -> str:
    return str(node["hostname"] or node["node_name"] or "")


def _living_workers(view: View, node_id: str = "") -> list[dict[str, Any]]:
    where = [Filter("is_alive", "=", True), *([Filter("node_id", "=", node_id)] if node_id else [])]
    columns = ["worker_id", "worker_type", "node_id", "ip", "pid", "start_time_ms"]
    workers = view.snapshot.rows("worker", columns=columns, where=where)
    if not workers:
        return []
    # whose actor or job a worker is, is told by them
    actors = {
        (actor["node_id"], actor["pid"]): actor
        for actor in view.snapshot.rows(
            "actor",
            columns=["actor_id", "node_id", "pid", "job_id", "class_name"],
            where=[Filter("state", "=", "ALIVE"), *([Filter("node_id", "=", node_id)] if node_id else [])],
        )
    }
    for worker in workers:
        worker["actor"] = actors.get((worker["node_id"], worker["pid"]))
    return workers


def _worker(worker: Mapping[str, Any]) -> dict[str, Any]:
    actor = worker["actor"] or {}
    # a driver's id begins with its job's
    job_id = worker["worker_id"][:8] if worker["worker_type"] == "DRIVER" else actor.get("job_id", "")
    name = "driver" if worker["worker_type"] == "DRIVER" else f"ray::{actor.get('class_name', 'worker')}"
    return {
        "pid": worker["pid"],
        "createTime": (worker["start_time_ms"] or 0) / 1000,
        "cmdline": [name],
        "cpuPercent": "",
        "memoryInfo": {"rss": 0, "vms": 0},
        "language": "PYTHON",
        "jobId": job_id,
        "coreWorkerStats": [
            {
                "workerId": worker["worker_id"],
                "workerType": worker["worker_type"],
                "pid": worker["pid"],
                "ipAddress": worker["ip"],
                "jobId": job_id,
                "actorId": actor.get("actor_id", NO_ACTOR),
                "language": "PYTHON",
                "usedResources": {},
            }
        ],
    }


def _actors(view: View, *where: Filter) -> list[dict[str, Any]]:
    columns = [
        "actor_id",
        "job_id",
        "class_name",
        "state",
        "name",
        "node_id",
        "pid",
        "required_resources",
        "death_cause",
        "placement_group_id",
        "repr_name",
        "label_selector",
        "num_restarts",
        "start_time_ms",
        "end_time_ms",
        "worker_id",
        "port",
        "changed_ms",
        "_leased_node_id",
        "_leased_worker_id",
        "_leased_ip",
    ]
    actors = view.snapshot.rows("actor", columns=columns, where=where, limit=ACTORS_SHOWN)
    if not actors:
        return []
    nodes = _found_nodes(view)
    ips = {node["node_id"]: node["node_ip"] for node in nodes}
    workers = _workers_of(view, actors)
    measured = _measured_of_dead(view, nodes)
    return [_actor(actor, ips, workers, measured) for actor in actors]


def _measured_of_dead(view: View, nodes: list[dict[str, Any]]) -> set[str]:
    """Return the workers that died with their nodes, and that Ray's dashboard has not forgotten yet."""
    dead = [node["node_id"] for node in nodes if node.get("dead") and not node["purged"]]
    return {
        worker["worker_id"]
        for id in dead
        for worker in view.snapshot.rows(
            "worker", columns=["worker_id"], where=[Filter("node_id", "=", id), Filter("is_alive", "=", True)]
        )
    }


_UNLEASED = ("DEPENDENCIES_UNREADY", "PENDING_CREATION")
_NIL_ID = "ff" * 28
"""What Ray shows as the node and the worker of an actor that has none yet (`NodeID::Nil`, id.h)."""


def _workers_of(view: View, actors: list[dict[str, Any]]) -> dict[tuple[str, int], str]:
    """Return the worker of each process that runs or ran an actor: told by workers, else by creations of actors."""
    where = [Filter("pid", "=", actors[0]["pid"])] if len(actors) == 1 else []
    workers = view.snapshot.rows("worker", columns=["node_id", "pid", "worker_id"], where=where)
    worker_ids = {(worker["node_id"], worker["pid"]): worker["worker_id"] for worker in workers}
    if any(actor["pid"] and (actor["node_id"], actor["pid"]) not in worker_ids for actor in actors):
        created = [Filter("type", "=", "ACTOR_CREATION_TASK")]
        if len(actors) == 1:
            created.append(Filter("actor_id", "=", actors[0]["actor_id"]))
        creators = {
            task["actor_id"]: task["profiling_data"]["component_id"]
            for task in view.snapshot.rows("task", columns=["actor_id", "profiling_data"], where=created)
            if task["profiling_data"]
        }
        for actor in actors:
            if actor["actor_id"] in creators:
                worker_ids.setdefault((actor["node_id"], actor["pid"]), creators[actor["actor_id"]])
    return worker_ids


def _actor(
    actor: Mapping[str, Any],
    ips: Mapping[str, str],
    workers: Mapping[tuple[str, int], str],
    measured: Collection[str],
) -> dict[str, Any]:
    shown = {
        "actorId": actor["actor_id"],
        "jobId": actor["job_id"],
        "address": _address(actor, ips, workers),
        "name": actor["name"] or "",
        "className": actor["class_name"] or "",
        "actorClass": actor["class_name"] or "",
        "state": actor["state"],
        "numRestarts": str(actor["num_restarts"] or 0),
        "timestamp": float(actor["changed_ms"] or 0),
        "pid": 0 if actor["state"] in _UNLEASED else actor["pid"] or 0,
        "startTime": actor["start_time_ms"] or 0,
        "endTime": actor["end_time_ms"] or 0,
        "reprName": actor["repr_name"] or "",
        "labelSelector": actor["label_selector"] or {},
        "exitDetail": _exit_detail(actor["death_cause"]),
        "requiredResources": _unbundled(actor["required_resources"] or {}),
        "gpus": [],
        "tpus": [],
        "processStats": None,
        "mem": [],
    }
    # as long as Ray has what a core worker told of it, it has its worker a second time
    if actor["state"] == "ALIVE" or shown["address"]["workerId"] in measured:
        shown["workerId"] = shown["address"]["workerId"]
    if actor["placement_group_id"]:
        shown["placementGroupId"] = actor["placement_group_id"]
    return shown


def _address(
    actor: Mapping[str, Any], ips: Mapping[str, str], workers: Mapping[tuple[str, int], str]
) -> dict[str, Any]:
    """Return where an actor is, or was: its own events do not tell of one that ended in its constructor."""
    node_id, port = actor["node_id"] or "", actor["port"] or 0
    worker_id = actor["worker_id"] or workers.get((actor["node_id"], actor["pid"]), "")
    ip = ips.get(node_id, "")
    if actor["state"] in _UNLEASED:
        node_id, worker_id, ip = _NIL_ID, _NIL_ID, ""
    elif actor["state"] == "DEAD" and not node_id:
        node_id, worker_id = _leased(actor, ips, workers)
        ip = actor["_leased_ip"] or ips.get(node_id, "")
    return {"nodeId": node_id, "ipAddress": ip, "port": port, "workerId": worker_id}


def _leased(
    actor: Mapping[str, Any], ips: Mapping[str, str], workers: Mapping[tuple[str, int], str]
) -> tuple[str, str]:
    """
    Return the node and the worker of an actor that died in its constructor; empty where neither is known.

    The task that created it tells. Where that was killed before it could report, the actor's process and the address
    in its cause of death do, if only one worker fits.
    """
    if actor["_leased_node_id"]:
        return actor["_leased_node_id"], actor["_leased_worker_id"]
    cause = actor["death_cause"] or {}
    ip = next((context["node_ip_address"] for context in cause.values() if context.get("node_ip_address")), "")
    fit = [
        (node_id, worker_id)
        for (node_id, pid), worker_id in workers.items()
        if node_id and pid and pid == actor["pid"] and (not ip or ips.get(node_id) == ip)
    ]
    return fit[0] if len(fit) == 1 else ("", "")


def _exit_detail(cause: Mapping[str, Any] | None) -> str:
    for context, message in _DIED_OF:
        if cause and context in cause:
            return str(cause[context].get(message) or "")
    return "-"


def _unbundled(resources: Mapping[str, float]) -> dict[str, float]:
    """Return resources without what a placement group adds to their names."""
    plain: dict[str, float] = {}
    for text, amount in resources.items():
        named = Named.parse(text)
        if not named.group or named.name != BUNDLE:
            plain[named.name] = float(amount)
    return plain


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
