"""Each session of a history in figures, for a list of clusters: worked out of its states, and kept while these stay."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from raytrail.entities import installed
from raytrail.errors import StoreDamaged
from raytrail.store.catalogue import Catalogue
from raytrail.store.engine import Engine
from raytrail.store.ledger import Ledgers
from raytrail.store.read import Snapshot
from raytrail.store.seal import OF_AGENTS

SHUTDOWN_SECONDS = 15
"""How far apart the nodes of a cluster may go that is stopped; more would hide what it still did."""


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """One session of a cluster, in figures."""

    session: str
    cluster: str
    """The name its operator gave it; may be empty."""
    began_ms: int | None
    """When its first node joined; None before that is known."""
    ended_ms: int | None
    """When its last node died; None while one is alive, or where no event says."""
    last_event_ms: int | None
    before_shutdown_ms: int | None
    """The last moment before its shutdown began, which is what people want to see of it: a clean stop ends all within
    seconds. None while a node is alive."""
    alive: bool
    """Whether a node is alive, as far as the events say, and it is not sealed."""
    sealed: bool
    nodes: int
    jobs: int
    actors: int
    tasks: int
    """Task attempts that the State API counts: those of which more is known than a fragment, drivers apart."""
    events: int
    stored_bytes: int
    """Of events."""
    log_bytes: int
    """Of logs."""
    missing_bytes: int
    """Bytes that were written and are not here: they never came, were too long, or gone before they were read."""
    rejected: int
    """Lines that cannot be read, and files that cannot be read to their end."""
    inferred: int
    damaged: str = ""
    """Which file is not what was written, so that the figures of its states are not known; empty where none is."""


UNKNOWN: Mapping[str, Any] = {
    **dict.fromkeys(("began_ms", "ended_ms", "last_event_ms", "before_shutdown_ms")),
    **dict.fromkeys(("nodes", "jobs", "actors", "tasks", "missing_bytes", "inferred"), 0),
}
"""What is worked out of the states of a session that cannot be read."""


class Figures:
    """
    The figures of a store's sessions.

    Args:
        catalogue: Counts what came, and keeps what was worked out of a sealed session.
        engine: Reads the states.
        ledgers: Says what is missing of a session.
        snapshot: Returns a session as it was at last.
    """

    def __init__(
        self, catalogue: Catalogue, engine: Engine, ledgers: Ledgers, snapshot: Callable[[str], Snapshot]
    ) -> None:
        self._catalogue = catalogue
        self._engine = engine
        self._ledgers = ledgers
        self._snapshot = snapshot
        self._known: dict[str, dict[str, Any]] = {}  # of sessions whose figures nobody keeps

    def of(self, session: str) -> Cluster:
        """Return a session's figures."""
        [(cluster, sealed_ms, summary)] = self._catalogue.query(
            "SELECT cluster, sealed_ms, summary FROM sessions WHERE session = ?", session
        )
        known = msgspec.json.decode(summary) if summary else {}
        mark = self._mark(session)
        if known.get("mark") != mark:
            known = self._known.get(session, {})
        if known.get("mark") != mark:
            try:
                known = self._known[session] = {**self._work_out(session), "mark": mark}
            except StoreDamaged as damage:
                known = {**UNKNOWN, "damaged": str(damage)}
        [(events, stored, logs, rejected)] = self._catalogue.query(
            "SELECT coalesce(sum(events), 0), coalesce(sum(bytes) FILTER (WHERE event_type != 'LOG'), 0), "
            "coalesce(sum(bytes) FILTER (WHERE event_type = 'LOG'), 0), coalesce(sum(rejected), 0) FROM counts "
            "WHERE session = ? AND event_type != 'FILE'",
            session,
        )
        return Cluster(
            session=session,
            cluster=cluster,
            began_ms=known["began_ms"],
            ended_ms=known["ended_ms"],
            last_event_ms=known["last_event_ms"],
            before_shutdown_ms=known["before_shutdown_ms"],
            alive=sealed_ms is None and known["ended_ms"] is None,
            sealed=sealed_ms is not None,
            nodes=known["nodes"],
            jobs=known["jobs"],
            actors=known["actors"],
            tasks=known["tasks"],
            events=events,
            stored_bytes=stored,
            log_bytes=logs,
            missing_bytes=known["missing_bytes"],
            rejected=rejected + known.get("unread", 0),  # which an older version did not keep, nor know
            inferred=known["inferred"],
            damaged=known.get("damaged", ""),
        )

    def ended_ms(self, session: str) -> int | None:
        """Return when a session's last node died; None while one is alive, or where no event says."""
        found = self._snapshot(session).rows("node", columns=["state", "end_time_ms"])
        if not found or any(node["state"] != "DEAD" for node in found):
            return None
        return max((node["end_time_ms"] or 0 for node in found), default=0) or None

    def keep(self, session: str) -> None:
        """Keep a sealed session's figures beside it, so that a list of thousands asks the engine for none."""
        summary = {**self._work_out(session), "mark": self._mark(session)}
        self._ledgers.keep(self._snapshot(session))
        with self._catalogue.transaction() as db:
            db.execute(
                "UPDATE sessions SET summary = ? WHERE session = ?", (msgspec.json.encode(summary).decode(), session)
            )

    def _mark(self, session: str) -> str:
        """Return what tells one fold of a session from the next."""
        paths = self._catalogue.query(
            "SELECT path FROM state WHERE session = ? AND kind != 'cache' ORDER BY path", session
        )
        # with the names of the figures, so that those that an older version kept are worked out anew
        figures = (name for name in Cluster.__struct_fields__ if name != "damaged")
        named = "\n".join((*figures, *(path for (path,) in paths)))
        return hashlib.blake2b(named.encode(), digest_size=16).hexdigest()

    def _work_out(self, session: str) -> dict[str, Any]:
        """Return what of a session's figures its states say."""
        snapshot = self._snapshot(session)
        columns = ["node_id", "is_head_node", "state", "start_time_ms", "end_time_ms", "inferred"]
        nodes = snapshot.rows("node", columns=columns)
        ended = bool(nodes) and all(node["state"] == "DEAD" for node in nodes)
        last = 0
        inferred = 0
        for one in installed().values():
            if one.view or one.name in OF_AGENTS:
                continue
            [(latest, count)] = self._engine.run(
                "SELECT max(last_event_s), count(*) FILTER (inferred IS NOT NULL) "
                f"FROM {snapshot.source(one, ['last_event_s', 'inferred'])}"
            )
            last, inferred = max(last, latest or 0), inferred + count
        [(tasks,)] = self._engine.run(
            f"SELECT count(*) FROM {snapshot.source(installed()['task'], ['type'])} "
            "WHERE type IS NOT NULL AND type != 'DRIVER_TASK'"
        )
        rows = self._ledgers.of(snapshot)
        return {
            "began_ms": min((node["start_time_ms"] for node in nodes if node["start_time_ms"]), default=None),
            "ended_ms": max((node["end_time_ms"] or 0 for node in nodes), default=0) or None if ended else None,
            "last_event_ms": last * 1000 or None,
            "before_shutdown_ms": _before_shutdown_ms(nodes) if ended else None,
            "nodes": len(nodes),
            "jobs": snapshot.count("job"),
            "actors": snapshot.count("actor"),
            "tasks": tasks,
            "missing_bytes": sum(row.missing_bytes + row.skipped_bytes + row.lost_bytes for row in rows),
            "unread": sum(len(row.unread) for row in rows),
            "inferred": inferred,
        }


def _before_shutdown_ms(nodes: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the last moment before the first of the nodes went that went together with the last one."""
    heads = sorted((node for node in nodes if node["is_head_node"]), key=lambda node: node["start_time_ms"] or 0)
    # a head that another one followed in its session did not end with the cluster, however shortly before
    before_last = {node["node_id"] for node in heads[:-1]}
    ends = [node["end_time_ms"] for node in nodes if node["end_time_ms"] and node["node_id"] not in before_last]
    if not ends:
        return None
    first = min(end for end in ends if end >= max(ends) - SHUTDOWN_SECONDS * 1000)
    # what dies with a node is told in whole seconds, so it seems to have died before
    told = all(node["inferred"] is None for node in nodes)
    before = int(first) // 1000 * 1000 - 1 if told else int(first) - 1
    return max(before, min(node["start_time_ms"] or 0 for node in nodes))
