"""Which node died, what ran on it and what was lost with it, and which node was slower than the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from raytrail.answers.jobs import driver_jobs
from raytrail.answers.scope import Scope
from raytrail.answers.spans import COUNTED, FUNCTION, RUNNING_NS, of_jobs
from raytrail.errors import ConfigError, NotFoundError
from raytrail.fold.literals import literal
from raytrail.words import instead

MOST_NODES = 500
"""Most nodes of an answer, unless more are asked for."""
MOST_SLOW = 50
"""Most functions of nodes that are named as slow."""
MOST_LOST = 200
"""Most tasks, and most actors, that are named of what a node took with it."""
LEAST_TASKS = 20
"""Fewer finished attempts of a function on a node say nothing about how slow it is."""
SLOW = 1.5
"""A node is slow at a function if its median is so many times that of the others."""
SLOWER_MS = 1.0
"""And if it is longer by so much."""

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
    """The median of those that finished on this node."""
    others_p50_ms: float | None
    """The median of the other nodes' medians, of nodes on which enough finished."""
    slower: float | None
    """
    How many times longer it took here: the one median by the other.

    Null where too few finished here or on all others.
    """


class Nodes(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes of a session, those first that died though nobody asked them to."""

    session: str
    job: str
    """The job whose attempts are counted. Empty means all."""
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


class Node(msgspec.Struct, frozen=True, kw_only=True):
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
    ran, sql = _functions_of_nodes(scope, jobs)
    slow = sorted((row for row in ran if is_slow(row)), key=lambda row: -(row.slower or 0))
    statement = _statement(scope, jobs)
    rows = [_row(row, slow) for row in scope.ask(_Row, statement)]
    rows.sort(key=_by_interest)
    if order:
        rows = _sorted(rows, order)
    return Nodes(
        session=scope.cluster.session,
        job=job,
        nodes=tuple(rows[:limit]),
        all_nodes=len(rows),
        dead=sum(row.state == "DEAD" for row in rows),
        slow=tuple(slow[:MOST_SLOW]),
        sql=statement,
        slow_sql=sql,
    )


def node(scope: Scope, node_id: str, *, job: str = "", limit: int = MOST_NODES) -> Node:
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
    rows = [row for row in scope.ask(_Row, _statement(scope, jobs)) if row.node_id.startswith(node_id.lower())]
    if len(rows) != 1:
        many = f"{len(rows)} nodes begin so; give more of the id" if rows else "the session has no such node"
        raise NotFoundError(f"node {node_id!r}: {many}")
    [row] = rows
    ran, sql = _functions_of_nodes(scope, jobs)
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
    return Node(
        session=scope.cluster.session,
        job=job,
        node=_row(row, [of for of in own if is_slow(of)]),
        functions=tuple(own[:limit]),
        all_functions=len(own),
        lost_tasks=tuple(scope.ask(LostTask, lost)) if row.lost_tasks else (),
        lost_actors=tuple(scope.ask(LostActor, actors)) if row.lost_actors else (),
        sql=sql,
        lost_sql=lost,
    )


def is_slow(row: NodeFunction) -> bool:
    """Return whether a node was slow at a function."""
    longer_ms = (row.running_p50_ms or 0) - (row.others_p50_ms or 0)
    return row.slower is not None and row.slower >= SLOW and longer_ms >= SLOWER_MS


def _row(row: _Row, slow: Iterable[NodeFunction]) -> NodeRow:
    amounts = msgspec.json.decode(row.resources or "{}")
    resources = {name: amount for name, amount in amounts.items() if not name.startswith("node:")}
    fields = {name: getattr(row, name) for name in _Row.__struct_fields__}
    slow_functions = sum(of.node_id == row.node_id for of in slow)
    return NodeRow(**{**fields, "resources": resources}, slow_functions=slow_functions)


def _by_interest(row: NodeRow) -> tuple[object, ...]:
    orderly = row.death_reason in ("EXPECTED_TERMINATION", "AUTOSCALER_DRAIN_IDLE")
    dead = row.state == "DEAD" and not orderly
    return (not dead, not row.lost_tasks, not row.slow_functions, -row.running_total_ms, row.node_id)


def _sorted(rows: Sequence[NodeRow], order: str) -> list[NodeRow]:
    name = order.removeprefix("-")
    columns = [column for column in NodeRow.__struct_fields__ if column != "resources"]
    if name not in columns:
        raise ConfigError(f"order {order!r}{instead(name, columns, 'the columns are')}")
    known = [row for row in rows if getattr(row, name) is not None]
    known.sort(key=lambda row: getattr(row, name), reverse=order.startswith("-"))
    return [*known, *(row for row in rows if getattr(row, name) is None)]


def _with_lost_actors(scope: Scope) -> str:
    return (
        f"WITH lost_actors AS (\n  SELECT actor_id, node_id FROM actor WHERE {scope.of_session} AND {_LOST_ACTORS})\n"
    )


def _statement(scope: Scope, jobs: Sequence[str]) -> str:
    """Return the SELECT of all nodes, with those that no event but a task's tells of."""
    return f"""\
{_with_lost_actors(scope)}SELECT coalesce(n.node_id, t.node_id) AS node_id, node_ip, node_name, instance_type,
  is_head_node, state, state_message, json_extract_string(death_info, '$.reason') AS death_reason,
  start_time_ms, end_time_ms, inferred, resources_total AS resources,
  coalesce(tasks, 0) AS tasks, coalesce(failed, 0) AS failed, coalesce(functions, 0) AS functions,
  coalesce(ran, 0) / 1e6 AS running_total_ms,
  coalesce(ran / nullif(sum(ran) OVER (), 0), 0)::DOUBLE AS running_share,
  coalesce(lost, 0) AS lost_tasks, coalesce(actors, 0) AS lost_actors, coalesce(objects, 0) AS lost_objects
FROM (SELECT * FROM node WHERE {scope.of_session}) n
FULL JOIN (
  SELECT node_id, count(*) AS tasks, count(*) FILTER (state = 'FAILED') AS failed, count(*) FILTER (lost) AS lost,
    count(DISTINCT function) AS functions, sum(ran) AS ran
  FROM (SELECT node_id, state, {FUNCTION} AS function, {_LOST} AS lost,
      {RUNNING_NS} AS ran
    FROM task WHERE {scope.of_session} AND {COUNTED}{of_jobs(jobs)} AND node_id IS NOT NULL)
  GROUP BY node_id) t ON t.node_id = n.node_id
LEFT JOIN (SELECT node_id, count(*) AS actors FROM lost_actors GROUP BY node_id) a ON a.node_id = n.node_id
LEFT JOIN (
  SELECT node_id, count(*) AS objects FROM object WHERE {scope.of_session} AND inferred = 'node died'
  GROUP BY node_id) o ON o.node_id = n.node_id"""


class _Ran(msgspec.Struct):
    node_id: str
    node_name: str | None
    function: str
    tasks: int
    failed: int
    finished: int
    running_total_ms: float
    running_p50_ms: float | None


def _functions_of_nodes(scope: Scope, jobs: Sequence[str]) -> tuple[list[NodeFunction], str]:
    """Return each function on each node, beside the same on the others, and the question in SQL."""
    statement = f"""\
SELECT t.node_id, node_name, function, count(*) AS tasks, count(*) FILTER (t.state = 'FAILED') AS failed,
  count(ran) FILTER (t.state = 'FINISHED') AS finished, coalesce(sum(ran), 0) / 1e6 AS running_total_ms,
  quantile_disc(ran, 0.5) FILTER (t.state = 'FINISHED') / 1e6 AS running_p50_ms
FROM (SELECT node_id, state, {FUNCTION} AS function, {RUNNING_NS} AS ran
  FROM task WHERE {scope.of_session} AND {COUNTED}{of_jobs(jobs)} AND node_id IS NOT NULL) t
LEFT JOIN (SELECT node_id, node_name FROM node WHERE {scope.of_session}) n ON n.node_id = t.node_id
GROUP BY ALL"""
    by_function = defaultdict[str, list[_Ran]](list)
    for row in scope.ask(_Ran, statement):
        by_function[row.function].append(row)
    return [beside for rows in by_function.values() for beside in _beside_others(rows)], statement


def _beside_others(rows: Sequence[_Ran]) -> Iterable[NodeFunction]:
    """Yield one function on each of its nodes, beside the same on the others."""
    enough = sorted(
        row.running_p50_ms for row in rows if row.finished >= LEAST_TASKS and row.running_p50_ms is not None
    )
    for row in rows:
        own = row.running_p50_ms if row.finished >= LEAST_TASKS else None
        others = None if own is None else _median_without(enough, own)
        yield NodeFunction(
            node_id=row.node_id,
            node_name=row.node_name,
            function=row.function,
            tasks=row.tasks,
            failed=row.failed,
            running_total_ms=row.running_total_ms,
            running_p50_ms=row.running_p50_ms,
            others_p50_ms=others,
            slower=own / others if own is not None and others else None,
        )


def _median_without(ordered: Sequence[float], value: float) -> float | None:
    """Return the median of these but for one of them that has this value, or None where there is no other."""
    count = len(ordered) - 1
    if not count:
        return None
    place = ordered.index(value)
    low, high = ((number + (number >= place)) for number in ((count - 1) // 2, count // 2))
    return (ordered[low] + ordered[high]) / 2
