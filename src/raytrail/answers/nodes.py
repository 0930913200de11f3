"""Which node died, what ran on it and what was lost with it, and which node was slower than the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from raytrail.answers.jobs import driver_jobs
from raytrail.answers.order import ordered
from raytrail.answers.scope import Scope, object_or_none
from raytrail.answers.spans import COUNTED, FUNCTION, RUNNING_NS, Sums, of_jobs
from raytrail.entities.node import NODE
from raytrail.errors import NotFoundError
from raytrail.event import UNDECODABLE
from raytrail.fold.literals import literal

MOST_NODES = 500
"""Most nodes of an answer, unless more are asked for."""
MOST_SLOW = 50
"""Most functions of nodes that are named as slow."""
MOST_LOST = 200
"""Most tasks, and most actors, that are named of what a node took with it."""
LEAST_TASKS = 20
"""Fewer attempts of a function that ended on a node say nothing about how slow it is."""
SLOW = 1.5
"""A node is slow at a function if its median is so many times that of the others."""
SLOWER_MS = 1.0
"""And if it is longer by so much."""
SURE = ((1600, 0.45), (400, 0.4), (100, 0.3), (45, 0.2), (LEAST_TASKS, 0.05))
"""
And if that is no chance: of so many attempts, all but the quickest share took longer than half of the others' did.

By chance alone, as by tossing coins, it is so once in 30,000 nodes and functions (0.5 - 2 / sqrt(attempts)).
"""

_LOST = (
    "(error_type IN ('NODE_DIED', 'LOCAL_RAYLET_DIED') OR inferred = 'node died'"
    " OR (error_type IN ('ACTOR_DIED', 'ACTOR_UNAVAILABLE') AND actor_id IN (SELECT actor_id FROM lost_actors)))"
)
_LOST_ACTORS = (
    "state = 'DEAD' AND (inferred = 'node died'"
    " OR json_extract_string(death_cause, '$.actor_died_error_context.reason') = 'NODE_DIED')"
)


class NodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One node: who it is, how it ended, what ran on it and what was lost with it."""

    node_id: str
    node_ip: str | None
    """Its address."""
    node_name: str | None
    """Its name, by default its address."""
    instance_type: str | None
    """The cloud's name for its kind. Only Ray's HTTP export tells."""
    is_head_node: bool | None
    """Whether the GCS runs on it."""
    state: str | None
    """ALIVE or DEAD. Null where no event tells of the node, only its tasks do."""
    state_message: str | None
    """Why it died, in Ray's words."""
    death_reason: str | None
    """The same as Ray's enumeration has it, e.g. UNEXPECTED_TERMINATION."""
    start_time_ms: int | None
    """When it joined."""
    end_time_ms: int | None
    """When it was found dead."""
    inferred: str | None
    """Why the history says that it died, where no event says it."""
    resources: dict[str, float]
    """Its resources, those that only name it left out. Memory is in bytes."""
    tasks: int
    """Attempts that ran on it, or were sent to it."""
    failed: int
    """Those of them that failed."""
    functions: int
    """How many functions these were of."""
    running_total_ms: float
    """Their running time added up."""
    running_share: float
    """Its share of the running time of all nodes."""
    lost_tasks: int
    """Attempts that failed as it died, or as their actor died with it."""
    lost_actors: int
    """Actors that died with it."""
    lost_objects: int
    """References to objects that were gone with it. Objects are only known where the agents ask for them."""
    slow_functions: int
    """The functions at which it was slow: see `NodeFunction.slower`."""


class NodeFunction(msgspec.Struct, frozen=True, kw_only=True):
    """One function on one node, beside the same function on the other nodes."""

    node_id: str
    node_name: str | None
    """Its name, by default its address."""
    function: str
    tasks: int
    """Attempts of it on the node."""
    failed: int
    """Those that failed."""
    running_total_ms: float
    """Their running time added up."""
    running_p50_ms: float | None
    """The median of those that ended on this node."""
    others_p50_ms: float | None
    """The median of the other nodes' medians, of nodes on which enough ended."""
    slower: float | None
    """
    How many times longer it took here: the one median by the other.

    Null where too few ended here or on all others.
    """
    slow: bool
    """Whether the node counts as slow at it: by so much, of so many attempts, that it is hardly chance."""


class Nodes(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes of a session, those first that died though nobody asked them to."""

    session: str
    job: str
    """The job whose attempts are counted. Empty means all."""
    order: str
    """The column that they are sorted by. Empty has those first that died though nobody asked them to."""
    nodes: tuple[NodeRow, ...]
    all_nodes: int
    """How many nodes there are, those among them that are not shown."""
    dead: int
    """How many of these are dead."""
    slow: tuple[NodeFunction, ...]
    """Where a node was slow, the worst first."""
    sql: str
    """The nodes in SQL, as `raytrail sql` answers it."""
    slow_sql: str
    """The functions of each node in SQL."""


class LostTask(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that a node's death ended."""

    task_id: str
    attempt_number: int
    job_id: str | None
    function: str
    error_type: str | None
    actor_id: str | None
    start_time_ms: int | None
    end_time_ms: int | None
    again: str | None
    """The state of the task's last attempt, where this was not the last. Null where it was not tried again."""


class LostActor(msgspec.Struct, frozen=True, kw_only=True):
    """An actor that died with its node."""

    actor_id: str
    job_id: str | None
    class_name: str | None
    name: str | None
    end_time_ms: int | None


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """One node in full."""

    session: str
    job: str
    node: NodeRow
    functions: tuple[NodeFunction, ...]
    """What ran on it, that with the longest running time first."""
    all_functions: int
    lost_tasks: tuple[LostTask, ...]
    lost_actors: tuple[LostActor, ...]
    sql: str
    """The functions of each node in SQL."""
    lost_sql: str
    """The tasks that were lost with it, in SQL."""


class _Row(msgspec.Struct, kw_only=True):
    node_id: str
    node_ip: str | None
    node_name: str | None
    instance_type: str | None
    is_head_node: bool | None
    state: str | None
    state_message: str | None
    death_reason: str | None
    start_time_ms: int | None
    end_time_ms: int | None
    inferred: str | None
    resources: str | None
    tasks: int
    failed: int
    functions: int
    running_total_ms: float
    running_share: float
    lost_tasks: int
    lost_actors: int
    lost_objects: int


def nodes(scope: Scope, *, job: str = "", order: str = "", limit: int = MOST_NODES) -> Nodes:
    """
    Return the nodes of a session, and where one was slower than the others.

    Args:
        scope: The session, at a moment.
        job: Count only the attempts of this driver job, or submission. Empty means all.
        order: The column to sort by, with ``-`` before one that descends. Empty has those first that died though
            nobody asked them to, then those that took tasks with them, that were slow, and on which most ran.
        limit: The most nodes.

    Raises:
        ConfigError: There is no such column.
        NotFoundError: There is no such job.
    """
    jobs = driver_jobs(scope, job)
    sums = Sums.of(scope, jobs)
    ran, sql = _functions_of_nodes(scope, jobs, sums)
    slow = sorted((row for row in ran if row.slow), key=lambda row: -(row.slower or 0))
    rows = [_row(row, slow) for row in _read_nodes(scope, jobs, sums)]
    rows.sort(key=_by_interest)
    if order:
        rows = ordered(rows, NodeRow, order)
    return Nodes(
        session=scope.cluster.session,
        job=job,
        order=order,
        nodes=tuple(rows[:limit]),
        all_nodes=len(rows),
        dead=sum(row.state == "DEAD" for row in rows),
        slow=tuple(slow[:MOST_SLOW]),
        sql=_statement(scope, _all_of_nodes(scope, jobs)),
        slow_sql=sql,
    )


def node(scope: Scope, node_id: str, *, job: str = "", limit: int = MOST_NODES) -> NodeReport:
    """
    Return one node in full.

    Args:
        scope: The session, at a moment.
        node_id: Its id in hex, or a beginning that no other has.
        job: Count only the attempts of this job. Empty means all.
        limit: The most functions.

    Raises:
        NotFoundError: There is no such node, or no such job.
    """
    jobs = driver_jobs(scope, job)
    sums = Sums.of(scope, jobs)
    rows = [row for row in _read_nodes(scope, jobs, sums) if row.node_id.startswith(node_id.lower())]
    if len(rows) != 1:
        many = f"{len(rows)} nodes begin so; give more of the id" if rows else "the session has no such node"
        raise NotFoundError(f"node {node_id!r}: {many}")
    [row] = rows
    ran, sql = _functions_of_nodes(scope, jobs, sums)
    own = sorted((of for of in ran if of.node_id == row.node_id), key=lambda of: -of.running_total_ms)
    lost = (
        f"{_with_lost_actors(scope)}SELECT t.task_id, t.attempt_number, t.job_id, {FUNCTION} AS function, "
        "t.error_type, t.actor_id,\n  t.start_time_ms, t.end_time_ms,\n"
        "  (SELECT max_by(a.state, a.attempt_number) FROM task a "
        f"WHERE a.{scope.of_session} AND a.task_id = t.task_id AND a.attempt_number > t.attempt_number) AS again\n"
        f"FROM task t WHERE t.{scope.of_session} AND {COUNTED} AND node_id = {literal(row.node_id)} AND {_LOST}\n"
        f"ORDER BY end_time_ms, task_id, attempt_number LIMIT {MOST_LOST}"
    )
    actors = (
        f"SELECT actor_id, job_id, class_name, name, end_time_ms FROM actor WHERE {scope.of_session} "
        f"AND node_id = {literal(row.node_id)} AND {_LOST_ACTORS} ORDER BY end_time_ms, actor_id LIMIT {MOST_LOST}"
    )
    return NodeReport(
        session=scope.cluster.session,
        job=job,
        node=_row(row, [of for of in own if of.slow]),
        functions=tuple(own[:limit]),
        all_functions=len(own),
        lost_tasks=tuple(scope.ask(LostTask, lost)) if row.lost_tasks else (),
        lost_actors=tuple(scope.ask(LostActor, actors)) if row.lost_actors else (),
        sql=sql,
        lost_sql=lost,
    )


def _decode(text: str | None) -> dict[str, Any] | None:
    try:
        return object_or_none(msgspec.json.decode(text or "{}"))
    except UNDECODABLE:
        return None


def _row(row: _Row, slow: Iterable[NodeFunction]) -> NodeRow:
    amounts = _decode(row.resources) or {}
    resources = {name: amount for name, amount in amounts.items() if not name.startswith("node:")}
    fields = {name: getattr(row, name) for name in _Row.__struct_fields__}
    slow_functions = sum(of.node_id == row.node_id for of in slow)
    return NodeRow(**{**fields, "resources": resources}, slow_functions=slow_functions)


def _by_interest(row: NodeRow) -> tuple[object, ...]:
    orderly = row.death_reason in ("EXPECTED_TERMINATION", "AUTOSCALER_DRAIN_IDLE")
    dead = row.state == "DEAD" and not orderly
    return (not dead, not row.lost_tasks, not row.slow_functions, -row.running_total_ms, row.node_id)


def _with_lost_actors(scope: Scope) -> str:
    return (
        f"WITH lost_actors AS (\n  SELECT actor_id, node_id FROM actor WHERE {scope.of_session} AND {_LOST_ACTORS})\n"
    )


def _read_nodes(scope: Scope, jobs: Sequence[str], sums: Sums | None) -> list[_Row]:
    """Return all nodes, with those that no event but a task's tells of."""
    if sums is None:
        return scope.ask(_Row, _statement(scope, _all_of_nodes(scope, jobs)))
    with_lost, params = _lost_actors(scope)
    statement = _statement(scope, _lost_of_nodes(scope, jobs), with_lost)
    rows = {row.node_id: row for row in scope.ask(_Row, statement, params)}
    added = scope.snapshot.run(
        "SELECT lower(hex(node_id)), sum(attempts)::BIGINT, sum(failed)::BIGINT, count(*), sum(running_ns) / 1e6, "
        "coalesce(sum(running_ns) / nullif(sum(sum(running_ns)) OVER (), 0), 0)::DOUBLE "
        f"FROM ({sums.added_up(('node_id', 'function'))}) WHERE node_id IS NOT NULL GROUP BY node_id"
    )
    names = ("tasks", "failed", "functions", "running_total_ms", "running_share")
    nameless = {**dict.fromkeys(_Row.__struct_fields__), "lost_tasks": 0, "lost_actors": 0, "lost_objects": 0}
    for node_id, *figures in added:
        known = dict(zip(names, figures, strict=True))
        row = rows.get(node_id)
        rows[node_id] = (
            _Row(**{**nameless, "node_id": node_id, **known}) if row is None else msgspec.structs.replace(row, **known)
        )
    return list(rows.values())


def _all_of_nodes(scope: Scope, jobs: Sequence[str]) -> str:
    """Return the SELECT of what ran on each node."""
    return f"""\
  SELECT node_id, count(*) AS tasks, count(*) FILTER (state = 'FAILED') AS failed, count(*) FILTER (lost) AS lost,
    count(DISTINCT function) AS functions, sum(ran) AS ran
  FROM (SELECT node_id, state, {FUNCTION} AS function, {_LOST} AS lost,
      {RUNNING_NS} AS ran
    FROM task WHERE {scope.of_session} AND {COUNTED}{of_jobs(jobs)} AND node_id IS NOT NULL)
  GROUP BY node_id"""


def _lost_of_nodes(scope: Scope, jobs: Sequence[str]) -> str:
    """Return the SELECT of what was lost with each node, where the rest is summed up already."""
    return (
        "SELECT node_id, 0 AS tasks, 0 AS failed, count(*) AS lost, 0 AS functions, 0 AS ran "
        f"FROM task WHERE {scope.of_session} AND {COUNTED}{of_jobs(jobs)} AND state = 'FAILED' "
        f"AND node_id IS NOT NULL AND {_LOST} GROUP BY node_id"
    )


def _lost_actors(scope: Scope) -> tuple[str, list[list[str]]]:
    """
    Return what `_with_lost_actors` returns, of actors that are looked up now, with the values of its question marks.

    The states at last tell when each was lost. Those of all actors at a moment are dear to work out.
    """
    at_last = Scope(scope.store, scope.cluster, scope.snapshot.at_last())
    until = "" if scope.snapshot.at_ms is None else f" AND end_time_ms <= {scope.snapshot.at_ms}"
    lost = at_last.ask(
        _OfActor,
        f"SELECT actor_id, node_id FROM actor WHERE {scope.of_session} AND {_LOST_ACTORS}{until}",
    )
    columns = "unnest(?::VARCHAR[]) AS actor_id, unnest(?::VARCHAR[]) AS node_id"
    return f"WITH lost_actors AS (SELECT {columns})\n", [
        [of.actor_id for of in lost],
        [of.node_id or "" for of in lost],
    ]


def _statement(scope: Scope, of_nodes: str, with_lost: str = "") -> str:
    """Return the SELECT of all nodes, with what ran on each."""
    return f"""\
{with_lost or _with_lost_actors(scope)}SELECT coalesce(n.node_id, t.node_id) AS node_id, node_ip, node_name,
  instance_type, is_head_node, state, state_message, json_extract_string(death_info, '$.reason') AS death_reason,
  start_time_ms, end_time_ms, inferred, resources_total AS resources,
  coalesce(tasks, 0) AS tasks, coalesce(failed, 0) AS failed, coalesce(functions, 0) AS functions,
  coalesce(ran, 0) / 1e6 AS running_total_ms,
  coalesce(ran / nullif(sum(ran) OVER (), 0), 0)::DOUBLE AS running_share,
  coalesce(lost, 0) AS lost_tasks, coalesce(actors, 0) AS lost_actors, coalesce(objects, 0) AS lost_objects
FROM (SELECT * FROM node WHERE {scope.of_session}) n
FULL JOIN (
{of_nodes}) t ON t.node_id = n.node_id
LEFT JOIN (SELECT node_id, count(*) AS actors FROM lost_actors GROUP BY node_id) a ON a.node_id = n.node_id
LEFT JOIN (
  SELECT node_id, count(*) AS objects FROM object WHERE {scope.of_session} AND inferred = 'node died'
  GROUP BY node_id) o ON o.node_id = n.node_id"""


class _OfActor(msgspec.Struct):
    actor_id: str
    node_id: str | None


class _Ran(msgspec.Struct):
    node_id: str
    node_name: str | None
    function: str
    tasks: int
    failed: int
    ended: int
    running_total_ms: float
    quick_ns: tuple[int, ...] | None
    """The durations of `_SHARES`."""


_SHARES = (*sorted(share for _, share in SURE), 0.5)


def _functions_of_nodes(scope: Scope, jobs: Sequence[str], sums: Sums | None) -> tuple[list[NodeFunction], str]:
    """Return each function on each node, beside the same on the others, and the question in SQL."""
    statement = f"""\
SELECT t.node_id, node_name, function, count(*) AS tasks, count(*) FILTER (t.state = 'FAILED') AS failed,
  count(ran) AS ended, coalesce(sum(ran), 0) / 1e6 AS running_total_ms, quantile_disc(ran, {list(_SHARES)}) AS quick_ns
FROM (SELECT node_id, state, {FUNCTION} AS function, {RUNNING_NS} AS ran
  FROM task WHERE {scope.of_session} AND {COUNTED}{of_jobs(jobs)} AND node_id IS NOT NULL) t
LEFT JOIN (SELECT node_id, node_name FROM node WHERE {scope.of_session}) n ON n.node_id = t.node_id
GROUP BY ALL"""
    rows = scope.ask(_Ran, statement) if sums is None else _read_functions(scope, sums)
    by_function = defaultdict[str, list[_Ran]](list)
    for row in rows:
        by_function[row.function].append(row)
    return [beside for rows in by_function.values() for beside in _beside_others(rows)], statement


def _read_functions(scope: Scope, sums: Sums) -> list[_Ran]:
    """Return what sealing has summed up of each function on each node. Medians are within 2 %."""
    by = ("function", "node_id")
    names = scope.snapshot.run(
        f"SELECT node_id, node_name FROM {scope.snapshot.source(NODE, ('node_id', 'node_name'))}"
    )
    quick = f"CASE WHEN ran > 0 THEN [{', '.join(f'p{round(share * 100)}' for share in _SHARES)}] END"
    rows = scope.snapshot.run(
        f"WITH sums AS ({sums.added_up(by)}), shares AS ({sums.percentiles(by, _SHARES, 'running')}) "
        f"SELECT s.node_id, s.function, attempts, failed, ran, running_ns / 1e6, {quick} FROM sums s "
        "LEFT JOIN shares d ON d.function = s.function AND d.node_id = s.node_id "
        "WHERE s.node_id IS NOT NULL"
    )
    name_of = dict(names)
    return [_Ran(node_id.hex(), name_of.get(node_id), *figures) for node_id, *figures in rows]


def _beside_others(rows: Sequence[_Ran]) -> Iterable[NodeFunction]:
    """Yield one function on each of its nodes, beside the same on the others."""
    enough = sorted(row.quick_ns[-1] for row in rows if row.ended >= LEAST_TASKS and row.quick_ns)
    for row in rows:
        own = row.quick_ns[-1] if row.quick_ns else None
        others = None if own is None or row.ended < LEAST_TASKS else _median_without(enough, own)
        yield NodeFunction(
            node_id=row.node_id,
            node_name=row.node_name,
            function=row.function,
            tasks=row.tasks,
            failed=row.failed,
            running_total_ms=row.running_total_ms,
            running_p50_ms=None if own is None else own / 1e6,
            others_p50_ms=None if others is None else others / 1e6,
            slower=own / others if own is not None and others else None,
            slow=others is not None and _is_slow(row, others),
        )


def _is_slow(row: _Ran, others_ns: float) -> bool:
    """Return whether a node was slow at a function by so much that it is hardly chance."""
    if not row.quick_ns:
        return False
    share = next(share for least, share in SURE if row.ended >= least)
    own_ns, quick_ns = row.quick_ns[-1], row.quick_ns[_SHARES.index(share)]
    return own_ns >= SLOW * others_ns and own_ns - others_ns >= SLOWER_MS * 1e6 and quick_ns > others_ns


def _median_without(ordered: Sequence[float], value: float) -> float | None:
    """Return the median of these but for one of them that has this value, or None where there is no other."""
    count = len(ordered) - 1
    if not count:
        return None
    place = ordered.index(value)
    low, high = ((number + (number >= place)) for number in ((count - 1) // 2, count // 2))
    return (ordered[low] + ordered[high]) / 2
