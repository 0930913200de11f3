"""
Ray's summary of tasks by lineage: each task below the one that submitted it, or below its actor.

It is `TaskSummaries.to_summary_by_lineage` (ray/util/state/common.py, Ray 2.60), which makes objects of all tasks
and walks them; here the engine does, level by level, so that of millions only what is shown becomes an object:

    task ─┬─ leaf    the tasks that submitted nothing
          └─ node    those that did, and actors; with all below them summed up
    node, leaf ───▶ family    all that one of them, or the drivers, submitted under one name
    family ───▶ the answer: one member is shown as it is, several as a group

As in Ray: tasks of actors are below their actor, and actors where they were created; what was submitted by a
task that the filters do not let through, or that nothing is known of, is not shown, but counted in the totals;
of a task's attempts the oldest gives its name and time.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from raytrail.entities.enumerations import TASK_STATES as STATES
from raytrail.server.ray.state import Query
from raytrail.store import Run, Snapshot

COMPLETE_TASKS = 20_000
"""Up to so many attempts, all are shown; Ray refuses to look at more than 10 000."""
FIRST_TASKS = 100
"""Of more than that, so many of each name below one parent,"""
MOST_SHOWN = 5_000
"""and about so many in all, those nearest to the root: browsers draw no more, and ask again every four seconds."""
MOST_LEVELS = 200
"""Calls nested deeper are not looked at: neither Ray's own code nor a browser gets as far."""
KEPT_TASKS = 1_000_000
"""Up to so many attempts, what is needed of them is kept in memory, rather than read anew for each step."""

_COUNTED = (*(name for _, name in STATES), "NIL")
_RUNNING = ("RUNNING", "RUNNING_IN_RAY_GET", "RUNNING_IN_RAY_WAIT")
_PENDING = ("PENDING_ARGS_AVAIL", "PENDING_NODE_ASSIGNMENT", "PENDING_OBJ_STORE_MEM_AVAIL", "PENDING_ARGS_FETCH")

_ONE_EACH = ", ".join(f"count(*) FILTER (state = '{state}') AS {state}" for state in _COUNTED)
_SUMS = ", ".join(f"sum({state})::BIGINT AS {state}" for state in _COUNTED)
_COUNTS = ", ".join(_COUNTED)
_BY_RAYS_ORDER = f"{' + '.join(_RUNNING)} DESC, {' + '.join(_PENDING)} DESC, FAILED DESC, ms NULLS LAST, first"
_ATTEMPT_BY_RAYS_ORDER = (
    f"state IN {_RUNNING} DESC, state IN {_PENDING} DESC, state = 'FAILED' DESC, ms NULLS LAST, task_id"
)

# the root is the empty id; ids of actors are shorter than those of tasks, so they do not meet
_TASK_ID_BYTES = 24
_PARENT = (
    "CASE WHEN type IN ('ACTOR_TASK', 'ACTOR_CREATION_TASK') THEN actor_id ELSE submitter END AS parent, "
    "CASE WHEN type = 'ACTOR_CREATION_TASK' THEN submitter END AS creator"
)
# DRIVER_TASK_ID_PREFIX: the task that a driver itself is
_SUBMITTER = (
    f"CASE WHEN parent_task_id IS NULL OR parent_task_id >= from_hex('{'f' * 40}') THEN ''::BLOB "
    "ELSE parent_task_id END AS submitter"
)
_COLUMNS = (
    "task_id", "attempt_number", "name", "func_or_class_name", "type", "state", "actor_id", "parent_task_id",
    "creation_time_ms",
)  # fmt: skip


class _Member(NamedTuple):
    """A task, an actor or a group of them, as it is sorted."""

    shown: dict[str, Any]
    first: bytes
    """The smallest id of a task in it: Ray meets it with that one."""

    def order(self) -> tuple[Any, ...]:
        counts = self.shown["state_counts"]
        return (
            -sum(counts.get(state, 0) for state in _RUNNING),
            -sum(counts.get(state, 0) for state in _PENDING),
            -counts.get("FAILED", 0),
            self.shown["timestamp"] or sys.maxsize,
            self.shown["type"] != "ACTOR_CREATION_TASK",
            self.first,
        )


def summarize_by_lineage(snapshot: Snapshot, query: Query, warnings: Sequence[str]) -> dict[str, Any]:
    """Return Ray's summary of tasks by lineage; of very many, the first of each name."""
    total = snapshot.count("task", query.counted)
    warned = list(warnings)
    summary: list[dict[str, Any]] = []
    of_type: dict[str, int] = {}
    if total and not query.empty:
        with snapshot.steps() as run:
            relation, params = _prepare(snapshot, query, run, keep=total <= KEPT_TASKS or snapshot.read_once("task"))
            every = " + ".join(_COUNTED)
            of_type = dict(
                run(
                    f"SELECT type, sum({every})::BIGINT FROM (SELECT type, {_COUNTS} FROM leaf "
                    f"UNION ALL SELECT type, {_COUNTS} FROM node) GROUP BY type"
                )
            )
            if _sum_up(run) == MOST_LEVELS:
                warned.append(f"calls nested deeper than {MOST_LEVELS} levels are neither shown nor counted")
            summary = _grow(run, relation, params, sum(of_type.values()))
    filtered = sum(of_type.values())
    if filtered > COMPLETE_TASKS:
        warned.append(
            f"{filtered:,} attempts: of each name below one parent, {FIRST_TASKS} at most are shown, and about "
            f"{MOST_SHOWN:,} in all; the counts count all. Filter by job_id or name to see more"
        )
    return {
        "total": total,
        "num_after_truncation": total,
        "num_filtered": filtered,
        "result": {
            "node_id_to_summary": {
                "cluster": {
                    "summary": summary,
                    "total_tasks": of_type.get("NORMAL_TASK", 0),
                    "total_actor_tasks": of_type.get("ACTOR_TASK", 0),
                    "total_actor_scheduled": of_type.get("ACTOR_CREATION_TASK", 0),
                    "summary_by": "lineage",
                }
            }
        },
        "partial_failure_warning": "",
        "warnings": warned or None,
    }


def _prepare(snapshot: Snapshot, query: Query, run: Run, *, keep: bool) -> tuple[str, list[Any]]:
    """
    Make the tables ``node`` and ``leaf``, and return the relation of the attempts that are leaves.

    Args:
        snapshot: What is asked.
        query: Which attempts.
        run: Runs statements.
        keep: Whether to hold what is needed of them in memory.
    """
    columns, params = snapshot.relation("task", _COLUMNS, query.where)
    task = (
        f"(SELECT *, {_PARENT} FROM (SELECT task_id, attempt_number, type, state, actor_id, creation_time_ms AS ms, "
        f"coalesce(nullif(name, ''), func_or_class_name, '') AS name, {_SUBMITTER} FROM {columns}))"
    )
    if keep:
        run(f"CREATE TEMP TABLE task AS FROM {task}", params)
        task, params = "task", []
    run(f"CREATE TEMP TABLE retried AS SELECT DISTINCT task_id FROM {task} WHERE attempt_number > 0", params)
    if run("FROM retried LIMIT 1"):
        run(
            "CREATE TEMP TABLE oldest AS SELECT task_id, arg_min(name, attempt_number) AS oldest_name, "
            f"arg_min_null(ms, attempt_number) AS oldest_ms FROM {task} SEMI JOIN retried USING (task_id) "
            "GROUP BY task_id",
            params,
        )
        task = (
            "(SELECT * EXCLUDE (oldest_name, oldest_ms) REPLACE (coalesce(oldest_name, name) AS name, "
            f"CASE WHEN oldest_name IS NULL THEN ms ELSE oldest_ms END AS ms) FROM {task} LEFT JOIN oldest "
            "USING (task_id))"
        )
    run(
        "CREATE TEMP TABLE submitter AS SELECT DISTINCT coalesce(creator, parent) AS id "
        f"FROM {task} WHERE octet_length(coalesce(creator, parent)) = {_TASK_ID_BYTES}",
        params,
    )
    run(
        "CREATE TEMP TABLE node AS SELECT task_id AS id, min(parent) AS parent, min(name) AS name, min(type) AS type, "
        f"{_ONE_EACH}, min(ms) AS ms, task_id AS first FROM {task} SEMI JOIN submitter ON task_id = id "
        "GROUP BY task_id",
        params,
    )
    actors, actor_params = snapshot.relation("actor", ("actor_id", "repr_name", "class_name"))
    run(f"CREATE TEMP TABLE actor AS FROM {actors}", actor_params)
    nothing = ", ".join(f"0 AS {state}" for state in _COUNTED)
    run(
        "INSERT INTO node BY NAME SELECT actor_id AS id, min(creator) AS parent, "
        "min(coalesce(repr_name, class_name, split_part(name, '.', 1))) AS name, 'ACTOR' AS type, "
        f"{nothing} FROM (SELECT actor_id, creator, name FROM {task} WHERE type = 'ACTOR_CREATION_TASK') "
        "LEFT JOIN actor USING (actor_id) GROUP BY actor_id",
        params,
    )
    if run("FROM submitter LIMIT 1"):
        task = f"(FROM {task} ANTI JOIN node ON task_id = id)"
    run(
        f"CREATE TEMP TABLE leaf AS SELECT parent, name, type, {_ONE_EACH}, min(ms) AS ms, min(task_id) AS first, "
        f"max(task_id) AS last FROM {task} GROUP BY parent, name, type",
        params,
    )
    return task, params


def _sum_up(run: Run) -> int:
    """Make the tables ``whole``, of nodes with all below them, and ``family``; return how many levels there are."""
    run("CREATE TEMP TABLE level AS SELECT ''::BLOB AS id, 0 AS depth")
    depth = 0
    while depth < MOST_LEVELS:
        [(inserted,)] = run(
            "INSERT INTO level SELECT node.id, depth + 1 FROM node JOIN level ON node.parent = level.id "
            f"WHERE depth = {depth}"
        )
        if not inserted:
            break
        depth += 1
    run(f"CREATE TEMP TABLE whole AS SELECT id, parent, name, type, {_COUNTS}, ms, first FROM node LIMIT 0")
    run(
        f"CREATE TEMP TABLE family AS SELECT parent, name, 0::BIGINT AS members, {_COUNTS}, ms, first FROM leaf LIMIT 0"
    )
    plus = ", ".join(f"node.{state} + coalesce(below.{state}, 0) AS {state}" for state in _COUNTED)
    for at in range(depth, -1, -1):
        run(f"CREATE OR REPLACE TEMP TABLE here AS SELECT id FROM level WHERE depth = {at}")
        run(
            f"INSERT INTO family SELECT parent, name, sum(members)::BIGINT, {_SUMS}, min(ms), min(first) FROM ("
            "SELECT parent, name, CASE WHEN min(first) = max(last) THEN 1 ELSE 2 END AS members, "
            f"{_SUMS}, min(ms) AS ms, min(first) AS first FROM leaf SEMI JOIN here ON parent = id "
            f"GROUP BY parent, name UNION ALL SELECT parent, name, 1, {_COUNTS}, ms, first FROM whole "
            "SEMI JOIN here ON parent = here.id"
            ") GROUP BY parent, name"
        )
        run(
            f"INSERT INTO whole SELECT node.id, node.parent, name, type, {plus}, least(node.ms, below.ms), "
            "least(node.first, below.first) FROM node SEMI JOIN here ON node.id = here.id LEFT JOIN ("
            f"SELECT parent, {_SUMS}, min(ms) AS ms, min(first) AS first FROM family SEMI JOIN here ON parent = id "
            "GROUP BY parent) below ON below.parent = node.id"
        )
    return depth


def _grow(run: Run, leaves: str, params: Sequence[Any], tasks: int) -> list[dict[str, Any]]:
    """Return the tree, from its root on, until all is shown or as much as is wanted."""
    # each task may be beside its actor; so this bounds nothing where all is to be shown
    room = 2 * COMPLETE_TASKS if tasks <= COMPLETE_TASKS else MOST_SHOWN
    summary: list[dict[str, Any]] = []
    children: Mapping[bytes, list[dict[str, Any]]] = {b"": summary}
    while children and room > 0:
        run("CREATE OR REPLACE TEMP TABLE here AS SELECT unnest(?::BLOB[]) AS id", [list(children)])
        run(
            f"CREATE OR REPLACE TEMP TABLE shown AS FROM family SEMI JOIN here ON parent = id "
            f"ORDER BY {_BY_RAYS_ORDER} LIMIT {room}"
        )
        families = run(f"SELECT parent, name, members, ms, first, {_COUNTS} FROM shown")
        if not families:
            break
        most = tasks if tasks <= COMPLETE_TASKS else max(1, min(FIRST_TASKS, room // len(families)))
        members, nodes = _members(run, leaves, params, most)
        room -= sum(map(len, members.values()))
        beside: dict[bytes, list[_Member]] = defaultdict(list)
        for parent, name, count, ms, first, *counts in families:
            chosen = sorted(members[parent, name], key=_Member.order)[:most]
            if count == 1:
                beside[parent] += chosen
            else:
                group = _summary(name, name, "GROUP", ms, counts, None)
                group["children"] = [member.shown for member in chosen]
                beside[parent].append(_Member(group, first))
        for parent, entries in beside.items():
            children[parent].extend(entry.shown for entry in sorted(entries, key=_Member.order))
        children = nodes
    return summary


_Members = Mapping[tuple[bytes, str], list[_Member]]


def _members(
    run: Run, leaves: str, params: Sequence[Any], most: int
) -> tuple[_Members, dict[bytes, list[dict[str, Any]]]]:
    """Return the members of each family in ``shown``, and where those go that are below a node."""
    members: dict[tuple[bytes, str], list[_Member]] = defaultdict(list)
    nodes: dict[bytes, list[dict[str, Any]]] = {}
    first = f"QUALIFY row_number() OVER (PARTITION BY parent, name ORDER BY {{}}) <= {most}"
    for parent, name, id, kind, ms, smallest, *counts in run(
        f"SELECT parent, name, id, type, ms, first, {_COUNTS} FROM whole SEMI JOIN shown USING (parent, name) "
        + first.format(_BY_RAYS_ORDER)
    ):
        key = f"actor:{id.hex()}" if kind == "ACTOR" else id.hex()
        link = {"type": "actor" if kind == "ACTOR" else "task", "id": id.hex()}
        shown = _summary(name, key, kind, ms, counts, link)
        members[parent, name].append(_Member(shown, smallest))
        nodes[id] = shown["children"]
    # of attempts, as telling their tasks apart would take long where there are millions
    run(
        "CREATE OR REPLACE TEMP TABLE chosen AS SELECT DISTINCT task_id FROM (SELECT parent, name, task_id FROM "
        f"{leaves} SEMI JOIN shown USING (parent, name) {first.format(_ATTEMPT_BY_RAYS_ORDER)})",
        params,
    )
    for parent, name, id, kind, ms, *counts in run(
        f"SELECT min(parent), min(name), task_id, min(type), min(ms), {_ONE_EACH} FROM {leaves} "
        "SEMI JOIN chosen USING (task_id) GROUP BY task_id",
        params,
    ):
        shown = _summary(name, id.hex(), kind, ms, counts, {"type": "task", "id": id.hex()})
        members[parent, name].append(_Member(shown, id))
    return members, nodes


def _summary(
    name: str, key: str, kind: str, ms: int | None, counts: Iterable[int], link: Mapping[str, str] | None
) -> dict[str, Any]:
    """Return Ray's `NestedTaskSummary`."""
    return {
        "name": name,
        "key": key,
        "type": kind,
        "timestamp": ms,
        "state_counts": {state: count for state, count in zip(_COUNTED, counts, strict=True) if count},
        "children": [],
        "link": link,
    }
