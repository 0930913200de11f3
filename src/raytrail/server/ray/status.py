"""
What ``ray status`` says of a cluster, worked out of its history: who holds which resources, and what waits for some.

A raylet knows what is free of its node. Here it is concluded from what holds something: actors that live, tasks that
run, and the bundles of placement groups. From there on it is Ray 2.60: `LoadMetrics.summary`
(ray/autoscaler/_private/load_metrics.py), `parse_usage` and `format_info_string` (ray/autoscaler/_private/util.py).

No event tells what the autoscaler launches and loses. Ray's own says that no node has failed wherever it does not
launch them itself, and so does this.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

import msgspec

from raytrail.store import Filter, Snapshot

INLINED_BYTES = 100 * 1024
"""Up to so many bytes the result of a task stays in its owner's memory (`max_direct_call_object_size`)."""
BUNDLE = "bundle"
"""The resource that each bundle of a placement group adds, 1000 of it, so that tasks without any are placed, too."""
OBJECT_STORE = "object_store_memory"
_BUNDLE_UNITS = 1000.0
_FREED = "CPU"
"""What a task gives back while it waits in ``ray.get`` or ``ray.wait``."""
_HOLDING = ("SUBMITTED_TO_WORKER", "GETTING_AND_PINNING_ARGS", "RUNNING")
_BLOCKED = ("RUNNING_IN_RAY_GET", "RUNNING_IN_RAY_WAIT")
_INDEXED = re.compile(r"(.+)_group_(\d+)_([0-9a-zA-Z]+)")
_WILDCARD = re.compile(r"(.+)_group_([0-9a-zA-Z]+)")
"""How Ray names a resource of a placement group: of one bundle, and of all of them (ray/_private/utils.py)."""
_UNITS = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))

Resources = dict[str, float]
Usage = dict[str, tuple[float, float]]
"""How much of each resource is used, or free, of how much."""


class Named(NamedTuple):
    """A resource, as its name says."""

    name: str
    group: str = ""
    """The placement group that it was reserved for."""
    bundle: int | None = None
    """Which of its bundles; None: any."""

    @classmethod
    def parse(cls, text: str) -> Named:
        """Take a name apart."""
        if match := _INDEXED.match(text):
            return cls(match[1], match[3], int(match[2]))
        if match := _WILDCARD.match(text):
            return cls(match[1], match[2])
        return cls(text)


class Status(NamedTuple):
    """Nodes, what is used of them, and what waits."""

    at_ms: int | None
    free: dict[str, Usage]
    """How much of each resource is free, of how much, on each node that is alive."""
    demands: list[tuple[Resources, int]]
    """What tasks and actors wait for, and how many of them."""
    knows_objects: bool
    """Whether objects are told of, and so what is used of object stores."""
    knows_holders: bool
    """Whether tasks or actors are told of, and so what is used of what is reserved. A driver is a task itself."""
    groups: list[dict[str, Any]]
    """The placement groups that wait: their ``bundles``, each with how many are alike, and their ``strategy``."""

    @property
    def by_node(self) -> dict[str, Usage]:
        """What is used of each node."""
        return {id: _used(free) for id, free in self.free.items()}

    @property
    def usage(self) -> Usage:
        """What is used of all nodes together."""
        both: Usage = {}
        for node in self.free.values():
            for name, (free, total) in node.items():
                # what is free is added up, and not what is used: Ray's sums are rounded so
                sums = both.get(name, (0.0, 0.0))
                both[name] = (sums[0] + free, sums[1] + total)
        return _used(both)


def _used(free: Usage) -> Usage:
    return {name: (total - unused, total) for name, (unused, total) in free.items()}


def read_status(snapshot: Snapshot) -> Status:
    """Work out what is used and what waits at the snapshot's moment."""
    where = [Filter("state", "=", "ALIVE")]
    nodes = snapshot.rows("node", columns=["node_id", "resources_total"], where=where)
    used = {node["node_id"]: _Node(node["resources_total"] or {}) for node in nodes}
    groups = snapshot.rows(
        "placement_group",
        columns=["placement_group_id", "state", "strategy", "bundles", "stats"],
        where=[Filter("state", "!=", "REMOVED")],
    )
    _reserve(groups, used)
    tasks = _open_tasks(snapshot)
    building = _building(snapshot, tasks)
    if used:
        anywhere = next(iter(used.values()))
        for holder in (*_actors(snapshot), *_holding_tasks(snapshot, tasks), *building.values()):
            # what a dead node's workers held is gone with it, though Ray may leave their tasks open for long
            if not holder.node_id or holder.node_id in used:
                used.get(holder.node_id, anywhere).take(holder)
    _store_objects(snapshot, used)
    return Status(
        at_ms=snapshot.at_ms,
        free={id: node.free() for id, node in used.items()},
        knows_objects=bool(snapshot.count("object")),
        knows_holders=bool(snapshot.count("task") or snapshot.count("actor")),
        demands=[*_waiting_tasks(tasks), *_waiting_actors(snapshot, building)],
        groups=_waiting_groups(groups),
    )


def format_status(status: Status) -> str:
    """Return what ``ray status`` prints."""
    at = status.at_ms
    moment = datetime.fromtimestamp(at / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC") if at else "at last"
    rule = "-" * 63
    demands = [*_demand_lines(status.demands), *_group_lines(status.groups)]
    return "\n".join(
        [
            f"======== From the history: {moment} ========",
            "Node status",
            rule,
            "Active:",
            *_lines((f"1 node_{id}" for id in status.by_node), "(no active nodes)"),
            "Pending:",
            " (no pending nodes)",
            "Recent failures:",
            " (no failures)",
            "",
            "Resources",
            rule,
            "Total Usage:",
            *_lines(usage_lines(status, status.usage), "(no resources)"),
            "",
            "From request_resources:",
            " (none)",
            "Pending Demands:",
            *_lines(demands, "(no resource demands)"),
        ]
    )


def logical_resources(status: Status) -> dict[str, str]:
    """Return what is used of each node, as text (`get_per_node_breakdown_as_dict`)."""
    return {id: "\n".join(usage_lines(status, usage, verbose=True)) for id, usage in status.by_node.items()}


def status_report(status: Status) -> dict[str, Any]:
    """Return the same as the autoscaler writes it into the GCS's table, as far as that follows from events."""
    types = Counter(
        tuple(sorted((name, amount) for name, (_, amount) in usage.items())) for usage in status.by_node.values()
    )
    return {
        "time": None if status.at_ms is None else status.at_ms / 1000,
        "autoscaler_report": {
            "active_nodes": {f"node_{id}": 1 for id in status.by_node},
            "idle_nodes": None,
            "pending_nodes": [],
            "pending_launches": {},
            "failed_nodes": [],
            "node_availability_summary": {"node_availabilities": {}},
            "node_activities": None,
            "pending_resources": {},
            "node_type_mapping": {id: f"node_{id}" for id in status.by_node},
            "legacy": True,
        },
        "load_metrics_report": {
            "usage": status.usage,
            "resource_demand": status.demands,
            "pg_demand": [(group["demand"], group["count"]) for group in _counted(status.groups)],
            "request_demand": [],
            "node_types": [(dict(kind), count) for kind, count in types.items()],
            "head_ip": None,
            "usage_by_node": status.by_node,
        },
    }


def usage_lines(status: Status, usage: Usage, *, verbose: bool = False) -> Iterator[str]:
    """
    Yield a line for each resource (`parse_usage`).

    Where no event tells of tasks and actors, all that is reserved counts as used: it is taken, and no more is known.

    Args:
        status: Says what is known.
        usage: How much of each is used: of all nodes, or of one.
        verbose: Whether types of accelerators have a line, too.
    """
    inside: Resources = {}
    reserved: Resources = {}
    for text, (used, total) in usage.items():
        named = Named.parse(text)
        if named.group and named.bundle is None:
            inside[named.name] = inside.get(named.name, 0.0) + used
            reserved[named.name] = reserved.get(named.name, 0.0) + total
    for name, (used, total) in sorted(usage.items()):
        hidden = "node:" in name or (name.startswith("accelerator_type:") and not verbose)
        if hidden or Named.parse(name).group:
            continue
        taken = _shown(used, reserved.get(name), inside.get(name)) if status.knows_holders else round(used, 4)
        shown = _amount(name, taken) if status.knows_objects or name != OBJECT_STORE else "?"
        line = f"{shown}/{_amount(name, total)} {name}"
        if name in reserved:
            of = f"{_amount(name, inside[name])} used of {_amount(name, reserved[name])}"
            line += f" ({of} reserved in placement groups)"
        yield line


def _shown(used: float, reserved: float | None, inside: float | None) -> float:
    """Return what Ray shows as used: of what is reserved for placement groups, only what is used inside of them."""
    return used if reserved is None or inside is None else used - reserved + inside


class _Holder(NamedTuple):
    """So many actors or tasks of one kind on one node, and what each of them holds."""

    node_id: str
    resources: Resources
    number: int = 1


class _Node:
    """What a node has, and what is taken of it; in ten thousandths, as Ray counts."""

    def __init__(self, total: Mapping[str, float]) -> None:
        self._total = {name: float(amount) for name, amount in total.items()}
        self._used: defaultdict[str, float] = defaultdict(float)

    def reserve(self, group: str, bundle: int, resources: Mapping[str, float], *, committed: bool) -> None:
        """Set a bundle's resources aside; once it is committed, they are there under the group's name."""
        for name, amount in resources.items():
            self._used[name] += amount
        for name, amount in {**resources, BUNDLE: _BUNDLE_UNITS}.items() if committed else ():
            for text in (f"{name}_group_{group}", f"{name}_group_{bundle}_{group}"):
                self._total[text] = self._total.get(text, 0.0) + amount

    def take(self, holder: _Holder) -> None:
        """Note what is held."""
        chosen: dict[str, int | None] = {}
        for text, amount in holder.resources.items():
            self._used[text] += amount * holder.number
            group, bundle = Named.parse(text)[1:]
            if group and bundle is not None:
                chosen[group] = bundle
        # what may be of any bundle is taken of the one that the rest is of, or of the first that has enough
        for text, amount in holder.resources.items():
            name, group, bundle = Named.parse(text)
            if group and bundle is None:
                of = chosen.setdefault(group, self._bundle_with(name, group, amount * holder.number))
                indexed = f"{name}_group_{of}_{group}"
                if of is not None and indexed not in holder.resources:
                    self._used[indexed] += amount * holder.number

    def _bundle_with(self, name: str, group: str, amount: float) -> int | None:
        for text, total in sorted(self._total.items()):
            other = Named.parse(text)
            if other[:2] == (name, group) and other.bundle is not None and total - self._used[text] >= amount:
                return other.bundle
        return None

    def use(self, name: str, amount: float) -> None:
        """Note what is used of a resource."""
        self._used[name] += amount

    def free(self) -> Usage:
        """Return how much of each resource is free, of how much."""
        return {name: (round(total - self._used[name], 4), total) for name, total in self._total.items()}


def _reserve(groups: Iterable[Mapping[str, Any]], nodes: Mapping[str, _Node]) -> None:
    for group in groups:
        for number, bundle in enumerate(group["bundles"] or ()):
            node = nodes.get(bundle.get("node_id") or "")
            if node is not None:
                id = group["placement_group_id"]
                committed = group["state"] != "PREPARED"
                node.reserve(id, number, _floats(bundle.get("unit_resources")), committed=committed)


def _actors(snapshot: Snapshot) -> Iterator[_Holder]:
    for group in snapshot.group("actor", ["node_id", "required_resources"], [Filter("state", "=", "ALIVE")]):
        yield _Holder(group["node_id"] or "", _decoded(group["required_resources"]), group["count"])


def _open_tasks(snapshot: Snapshot, *, by_node: bool = False) -> list[dict[str, Any]]:
    """Return how many tasks are open of each kind: one look at all of them, which without nodes are counted already."""
    by = ["type", "state", "required_resources", *(["node_id"] if by_node else [])]
    return snapshot.group("task", by, [Filter("state", "!=", "FINISHED"), Filter("state", "!=", "FAILED")])


def _holding_tasks(snapshot: Snapshot, tasks: Iterable[Mapping[str, Any]]) -> Iterator[_Holder]:
    """
    Yield what tasks hold, by node.

    One of which no event tells the node holds nothing. Its owner tells that within a second of submitting it, or was
    killed before, and the raylet ends the workers of such an owner. Ray calls the task RUNNING until its job ends.
    """
    yield from _going_on(snapshot)
    if not any(_holds(task) for task in tasks):
        return
    for task in filter(_holds, _open_tasks(snapshot, by_node=True)):
        resources = _decoded(task["required_resources"])
        given_back = _FREED if task["state"] in _BLOCKED else ""
        held = {text: amount for text, amount in resources.items() if Named.parse(text).name != given_back}
        if task["node_id"]:
            yield _Holder(task["node_id"], held, task["count"])


def _holds(task: Mapping[str, Any]) -> bool:
    return task["type"] == "NORMAL_TASK" and task["state"] in (*_HOLDING, *_BLOCKED)


def _going_on(snapshot: Snapshot) -> Iterator[_Holder]:
    """Yield what tasks of a detached actor hold that Ray calls FAILED since their job ended, and whose workers live."""
    swept = [Filter("inferred", "=", "job ended"), Filter("type", "=", "NORMAL_TASK"), Filter("finished_ns", "=", None)]
    if not snapshot.count("task", swept):
        return
    tasks, of_tasks = snapshot.relation("task", ["worker_id", "node_id", "required_resources"], swept)
    workers, of_workers = snapshot.relation("worker", ["worker_id"], [Filter("state", "=", "ALIVE")])
    grouped = f"SELECT lower(hex(node_id)), required_resources, count(*) FROM {tasks} JOIN {workers} USING (worker_id)"
    for node_id, resources, count in snapshot.run(f"{grouped} GROUP BY ALL", [*of_tasks, *of_workers]):
        yield _Holder(node_id or "", _decoded(resources), count)


def _building(snapshot: Snapshot, tasks: Iterable[Mapping[str, Any]]) -> dict[str, _Holder]:
    """
    Return what actors hold whose constructors run.

    A constructor that is open though its actor is there, or gone, holds nothing of its own: Ray never closes one that
    died with its node.
    """
    if not any((task["type"], task["state"]) == ("ACTOR_CREATION_TASK", "RUNNING") for task in tasks):
        return {}
    where = [Filter("state", "=", "RUNNING"), Filter("type", "=", "ACTOR_CREATION_TASK")]
    creations, of_creations = snapshot.relation("task", ["actor_id", "node_id", "required_resources"], where)
    actors, of_actors = snapshot.relation("actor", ["actor_id", "state"])
    wanted = (
        f"SELECT lower(hex(actor_id)), lower(hex(node_id)), required_resources FROM {creations} "
        f"LEFT JOIN {actors} USING (actor_id) WHERE coalesce(state NOT IN ('ALIVE', 'DEAD'), true)"
    )
    rows = snapshot.run(wanted, [*of_creations, *of_actors])
    return {actor_id: _Holder(node_id or "", _decoded(resources)) for actor_id, node_id, resources in rows}


def _store_objects(snapshot: Snapshot, nodes: Mapping[str, _Node]) -> None:
    for node_id, size in object_bytes(snapshot).items():
        if node_id in nodes:
            nodes[node_id].use(OBJECT_STORE, size)


def object_bytes(snapshot: Snapshot) -> dict[str, int]:
    """Return how much of each node's object store the objects take that its workers own, where these are known."""
    large = [Filter("is_owner", "=", True), Filter("object_size", ">", INLINED_BYTES)]
    sizes: Counter[str] = Counter()
    # of a node that died, Ray shows what it had measured last
    for there in (Filter("state", "!=", "DELETED"), Filter("inferred", "=", "node died")):
        for group in snapshot.group("object", ["node_id", "object_size"], [there, *large]):
            sizes[group["node_id"] or ""] += group["object_size"] * group["count"]
    return sizes


def _waiting_tasks(tasks: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Resources, int]]:
    for task in tasks:
        if (task["type"], task["state"]) == ("NORMAL_TASK", "PENDING_NODE_ASSIGNMENT"):
            yield _decoded(task["required_resources"]), task["count"]


def _waiting_actors(snapshot: Snapshot, building: Mapping[str, object]) -> Iterator[tuple[Resources, int]]:
    counts: Counter[tuple[tuple[str, float], ...]] = Counter()
    for state in ("PENDING_CREATION", "RESTARTING"):
        columns = ["actor_id", "required_resources"]
        for row in snapshot.rows("actor", columns=columns, where=[Filter("state", "=", state)]):
            if row["actor_id"] not in building:
                # one that says nothing of resources holds none, but is put where a CPU is free
                counts[tuple(sorted((_floats(row["required_resources"]) or {"CPU": 1.0}).items()))] += 1
    for shape, count in counts.items():
        yield dict(shape), count


def _waiting_groups(groups: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    waiting = [group for group in groups if group["state"] in ("PENDING", "RESCHEDULING")]
    # Ray has those that no node can ever hold behind the others, each in the order in which it last tried
    waiting.sort(key=_last_tried)
    return [
        {
            "bundles": _alike(_floats(bundle.get("unit_resources")) for bundle in group["bundles"] or ()),
            "strategy": group["strategy"] or "PACK",
        }
        for group in waiting
    ]


def _last_tried(group: Mapping[str, Any]) -> tuple[bool, int, str]:
    stats = group["stats"] or {}
    infeasible = stats.get("scheduling_state") == "INFEASIBLE"
    return infeasible, int(stats.get("scheduling_started_time_ns") or 0), group["placement_group_id"]


def _alike(shapes: Iterable[Resources]) -> list[tuple[Resources, int]]:
    counts = Counter(tuple(sorted(shape.items())) for shape in shapes)
    return [(dict(shape), count) for shape, count in counts.items()]


def _counted(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each kind of placement group once, with how many there are."""
    kinds: list[dict[str, Any]] = []
    for group in groups:
        same = next((kind for kind in kinds if kind["demand"] == group), None)
        if same is None:
            kinds.append({"demand": group, "count": 1})
        else:
            same["count"] += 1
    return kinds


def _demand_lines(demands: Iterable[tuple[Resources, int]]) -> Iterator[str]:
    """Yield a line for each shape (`format_resource_demand_summary`)."""
    every: Counter[tuple[tuple[str, float], ...]] = Counter()
    in_groups: Counter[tuple[tuple[str, float], ...]] = Counter()
    for resources, count in demands:
        named = {Named.parse(text): amount for text, amount in resources.items()}
        inside = any(resource.group for resource in named)
        shape = {
            resource.name: amount for resource, amount in named.items() if not (inside and resource.name == BUNDLE)
        }
        if not shape:  # what only waits for a group to be ready
            continue
        key = tuple(sorted(shape.items()))
        every[key] += count
        in_groups[key] += count if inside else 0
    for key, count in every.items():
        using = f" ({in_groups[key]}+ using placement groups)" if in_groups[key] else ""
        yield f"{dict(key)}: {count}+ pending tasks/actors{using}"


def _group_lines(groups: Iterable[dict[str, Any]]) -> Iterator[str]:
    for kind in _counted(groups):
        bundles = ", ".join(f"{shape} * {count}" for shape, count in kind["demand"]["bundles"])
        yield f"{bundles} ({kind['demand']['strategy']}): {kind['count']}+ pending placement groups"


def _decoded(resources: str | None) -> Resources:
    return _floats(msgspec.json.decode(resources) if resources else None)


def _floats(resources: Mapping[str, float] | None) -> Resources:
    return {name: float(amount) for name, amount in (resources or {}).items()}


def _lines(texts: Iterable[str], none: str) -> list[str]:
    return [f" {text}" for text in texts] or [f" {none}"]


def _amount(name: str, amount: float) -> str:
    if name not in ("memory", OBJECT_STORE):
        return str(amount)
    for unit, size in _UNITS:
        if amount >= size:
            return f"{amount / size:.2f}{unit}"
    return f"{int(amount)}B"
