"""Nodes and their workers as Ray's dashboard shows them (ray/dashboard/modules/node/datacenter.py, Ray 2.60)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from raytrail.server.context import View
from raytrail.store import Filter

NO_ACTOR = "ffffffffffffffffffffffffffffffff"
"""What Ray's core workers say that run no actor (`ActorID::Nil`)."""
PURGE_MS = 600_000
"""
How often Ray's dashboard forgets what it had measured of nodes that died (`RAY_DASHBOARD_STATS_PURGING_INTERVAL`,
ray/dashboard/consts.py).
"""
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


def read_nodes(view: View, id: str = "") -> list[dict[str, Any]]:
    """
    Return the rows of all nodes, or of the one with that id.

    Those that died while the cluster lives are marked as ``dead``, and say whether they are ``purged``.
    """
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


def shown_node(node: Mapping[str, Any], workers: int, stored: Mapping[str, int]) -> dict[str, Any]:
    """
    Return a node as the dashboard shows it.

    Args:
        node: A row of `read_nodes`.
        workers: How many of its workers live.
        stored: The bytes that objects take of each node's object store.
    """
    total = node["resources_total"] or {}
    used = stored.get(node["node_id"], 0)
    return {
        "hostname": shown_hostname(node),
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
            "nodeManagerHostname": shown_hostname(node),
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


def shown_hostname(node: Mapping[str, Any]) -> str:
    """Return the host's name, or the node's where no event tells it."""
    return str(node["hostname"] or node["node_name"] or "")


def living_workers(view: View, node_id: str = "") -> list[dict[str, Any]]:
    """Return the rows of the workers that live, on all nodes or on one, each with the row of its ``actor`` if any."""
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


def shown_worker(worker: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of `living_workers` as the dashboard shows it."""
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
