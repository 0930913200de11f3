"""The rows of a timeline: the workers or nodes of a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from raytrail.answers.scope import Scope
from raytrail.answers.timeline.relations import Tables
from raytrail.answers.timeline.structs import Rows, TimelineNode
from raytrail.answers.timeline.window import Window
from raytrail.fold.literals import literal

MOST_ROWS = 200
"""Most rows of an answer."""


def choose_rows(
    scope: Scope, tables: Tables, window: Window
) -> tuple[tuple[TimelineNode, ...], Rows, int, Literal["worker", "node"]]:
    """Return the rows of a window, and how many there would be. The table ``shown`` says the row of each lane."""
    chosen = f"FROM {tables.lanes} WHERE {window.chosen.condition()}"
    [(workers, nodes)] = tables.run(
        f"SELECT count(DISTINCT (node_id, worker_id)), count(DISTINCT row(node_id)) {chosen}"
    )
    by_node = workers > MOST_ROWS and nodes > 1
    rows = nodes if by_node else workers
    if rows > MOST_ROWS:  # others come into view with their time
        chosen += f" AND first_ns < {window.end_ns} AND coalesce(last_ns, {window.end_ns}) >= {window.begin_ns}"
    process = "NULL::BLOB AS worker_id, NULL::BIGINT AS pid, NULL::BLOB AS actor_id"
    if not by_node:
        process = "worker_id, max(pid) AS pid, max(actor_id) AS actor_id"
    keys = "node_id" if by_node else "node_id, worker_id"
    tables.run(
        "CREATE TEMP TABLE shown_rows AS SELECT (row_number() OVER (ORDER BY node_first_ns, node_id, first_ns, "
        "worker_id) - 1)::INTEGER AS row, * FROM (SELECT *, min(first_ns) OVER (PARTITION BY node_id) AS node_first_ns "
        f"FROM (SELECT node_id, {process}, sum(attempts)::BIGINT AS attempts, min(first_ns) AS first_ns {chosen} "
        f"GROUP BY {keys} ORDER BY sum(attempts) DESC, min(first_ns) LIMIT {MOST_ROWS}))"
    )
    worker = "" if by_node else " AND l.worker_id IS NOT DISTINCT FROM r.worker_id"
    tables.run(
        f"CREATE TEMP TABLE shown AS SELECT lane, band, row FROM (SELECT * {chosen}) l JOIN shown_rows r "
        f"ON l.node_id IS NOT DISTINCT FROM r.node_id{worker}"
    )
    columns = "lower(hex(node_id)), lower(hex(worker_id)), pid, lower(hex(actor_id)), attempts"
    listed = tables.run(f"SELECT {columns} FROM shown_rows ORDER BY row")
    return *_label(scope, listed), rows, "node" if by_node else "worker"


def _label(scope: Scope, rows: Sequence[tuple[Any, ...]]) -> tuple[tuple[TimelineNode, ...], Rows]:
    """Return the rows with the nodes' addresses and the actors' classes."""
    # they have the same at any moment, and at last nothing has to be worked out
    last = scope.snapshot.at_last()
    node_rows = last.query(f"SELECT node_id, node_ip FROM node WHERE {scope.of_session}").rows
    addresses = {node: address or "" for node, address in node_rows}
    actors = ", ".join(literal(actor) for _, _, _, actor, _ in rows if actor)
    query = f"SELECT actor_id, class_name FROM actor WHERE {scope.of_session} AND actor_id IN ({actors})"
    classes = dict(last.query(query).rows) if actors else {}

    def label(node: str | None, worker: str | None, pid: int | None, actor: str | None) -> str:
        if not worker:
            return (addresses.get(node) or node[:8]) if node else "never ran"
        return f"{classes.get(actor) or 'actor' if actor else 'worker'} {pid or worker[:8]}"

    nodes = {node: number for number, node in enumerate(dict.fromkeys(node or "" for node, *_ in rows))}
    return tuple(TimelineNode(node_id=node, address=addresses.get(node, "")) for node in nodes), Rows(
        node=tuple(nodes[node or ""] for node, *_ in rows),
        worker_id=tuple(worker or "" for _, worker, *_ in rows),
        pid=tuple(pid for _, _, pid, *_ in rows),
        actor_id=tuple(actor or "" for _, _, _, actor, _ in rows),
        label=tuple(label(*row[:4]) for row in rows),
        attempts=tuple(row[4] for row in rows),
    )
