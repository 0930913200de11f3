"""Actors as Ray's dashboard shows them (ray/dashboard/modules/node/datacenter.py and node_head.py, Ray 2.60)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from raytrail.server.context import View
from raytrail.server.ray.nodes import read_nodes
from raytrail.server.ray.status import BUNDLE, Named
from raytrail.store import Filter

ACTORS_SHOWN = 100_000
"""Most actors in one answer: the page draws them all. Ray's own dashboard keeps as many dead ones."""
MOVED_SHOWN = 200
"""Most actors on a node's page that have moved to another one."""

_DIED_OF = (
    # the messages of ActorDeathCause (common.proto) in the order in which node_head.py looks for them
    ("actor_died_error_context", "error_message"),
    ("runtime_env_failed_context", "error_message"),
    ("actor_unschedulable_context", "error_message"),
    ("creation_task_failure_context", "formatted_exception_string"),
)
_UNLEASED = ("DEPENDENCIES_UNREADY", "PENDING_CREATION")
_NIL_ID = "ff" * 28
"""What Ray shows as the node and the worker of an actor that has none yet (`NodeID::Nil`, id.h)."""
_NIL_TASK = "ff" * 20


def read_actors(view: View, *where: Filter) -> list[dict[str, Any]]:
    """Return the actors that pass all of these filters, as the dashboard shows them."""
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
    nodes = read_nodes(view)
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


def on_page_of(view: View, node_id: str) -> list[Filter]:
    """Return what finds the actors that Ray's dashboard lists on a node's page."""
    return [Filter("node_id", "=", node_id), *_once_on(view, node_id), *_asked_of(view, node_id)]


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


def _driver_id(job_id: str) -> str:
    """Return the worker's id of a job's driver (`ComputeDriverIdFromJob`, src/ray/common/id.cc)."""
    return job_id.ljust(len(_NIL_ID), "f")


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
