"""Each session of a history in figures, for a list of clusters: worked out of its states, and kept while these stay."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from raytrail.entities import installed
from raytrail.errors import NotFoundError, StoreDamaged
from raytrail.fold import show
from raytrail.fold.layout import find
from raytrail.fold.moment import Moment
from raytrail.fold.sessions import SESSION
from raytrail.store.catalogue import Catalogue
from raytrail.store.engine import Engine
from raytrail.store.last_states import FilesOfMany, SnapshotOfOne, StateSource, has, view_of
from raytrail.store.ledger import LedgerRow, Ledgers
from raytrail.store.marks import Marks
from raytrail.store.read import Snapshot
from raytrail.store.seal import OF_AGENTS

SHUTDOWN_SECONDS = 15
"""The longest time between the ends of the nodes of a cluster that is stopped. More would hide what it still did."""


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """One session of a cluster, in figures."""

    session: str
    cluster: str
    """The name its operator gave it. It may be empty."""
    began_ms: int | None
    """When its first node joined, or None before that is known."""
    ended_ms: int | None
    """When its last node died, or None while one is alive, or where no event says."""
    last_event_ms: int | None
    before_shutdown_ms: int | None
    """The last moment before its shutdown began, which is what people want to see of it: a clean stop ends all within
    seconds. None while a node is alive."""
    alive: bool
    """Whether a node is alive, as far as the events say, and the session is not sealed."""
    sealed: bool
    nodes: int
    jobs: int
    actors: int
    tasks: int
    """Task attempts that the State API counts: those of which more is known than a fragment, drivers apart."""
    events: int
    stored_bytes: int
    """Bytes of its events."""
    log_bytes: int
    """Bytes of its logs."""
    missing_bytes: int
    """Bytes that were written and are not here: they never came, were too long, or gone before they were read."""
    rejected: int
    """Lines that cannot be read, and files that cannot be read to their end."""
    inferred: int
    snapshot_ms: int | None = None
    """The moment of the last snapshot of the living cluster that it was taken from. None: it is of the cluster's own
    events."""
    held: bool = False
    """Whether somebody keeps it from being deleted."""
    damaged: str = ""
    """The file that is not what was written, so that the figures of its states are not known. Empty where none is."""


NOT_KEPT = ("held", "damaged")
"""The figures that are not kept beside a session, as they change without it."""

UNKNOWN: Mapping[str, Any] = {
    **dict.fromkeys(("began_ms", "ended_ms", "last_event_ms", "before_shutdown_ms", "snapshot_ms")),
    **dict.fromkeys(("nodes", "jobs", "actors", "tasks", "missing_bytes", "inferred"), 0),
}
"""The figures of a session whose states cannot be read."""


class Figures:
    """
    The figures of a store's sessions.

    Args:
        catalogue: Counts what came, and keeps what was worked out of a sealed session.
        engine: Reads the states.
        ledgers: Says what is missing of a session.
        marks: Says which sessions are held, and which were deleted.
        snapshot: Returns a session as it was at last.
        known: What others of the same store have worked out.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        engine: Engine,
        ledgers: Ledgers,
        marks: Marks,
        snapshot: Callable[[str], Snapshot],
        known: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._engine = engine
        self._ledgers = ledgers
        self._marks = marks
        self._snapshot = snapshot
        self.known: dict[str, dict[str, Any]] = {} if known is None else known
        """The figures that no session keeps itself."""

    def every(self) -> list[Cluster]:
        """Return every session, newest first."""
        with self._catalogue.reading():
            names = self._catalogue.query("SELECT session FROM sessions")
            clusters = [self.of(session) for (session,) in names]
        return sorted(
            clusters,
            key=lambda cluster: (cluster.began_ms or cluster.last_event_ms or 0, cluster.session),
            reverse=True,
        )

    def sealed_before(self, cluster: Cluster, most: int) -> list[str]:
        """Return the last sealed sessions of a cluster's name that began before one of it, the newest first."""
        if not cluster.cluster:
            return []
        began = "coalesce(json_extract(summary, '$.began_ms'), 0)"
        rows = self._catalogue.query(
            "SELECT session FROM sessions WHERE cluster = ? AND sealed_ms IS NOT NULL "
            f"AND ({began}, session) < (?, ?) ORDER BY {began} DESC, session DESC LIMIT ?",
            cluster.cluster,
            cluster.began_ms or 0,
            cluster.session,
            most,
        )
        return [session for (session,) in rows]

    def find(self, id: str) -> Cluster:
        """
        Return the session that is meant, as `Store.find` says.

        Raises:
            NotFoundError: None is meant, or several are.
        """
        if self._catalogue.query("SELECT 1 FROM sessions WHERE session = ?", id):
            return self.of(id)
        self._marks.check_not_deleted(id)
        every = self.every()
        if id == "latest" and every:
            return every[0]
        for cluster in every:
            if cluster.cluster == id and id:
                return cluster
        near = [cluster for cluster in every if id and id in cluster.session]  # a variable of a shell may be empty
        if len(near) == 1:
            return near[0]
        known = ", ".join(cluster.session for cluster in (near or every)[:5]) or "none yet"
        raise NotFoundError(
            f"cluster {id!r}: {'not one but several have it' if near else 'not in the store'}; there are {known}"
        )

    def of(self, session: str) -> Cluster:
        """
        Return a session's figures.

        Raises:
            NotFoundError: It is not there any more.
        """
        rows = self._catalogue.query("SELECT cluster, sealed_ms, summary FROM sessions WHERE session = ?", session)
        if not rows:
            self._marks.check_there(session)
        [(cluster, sealed_ms, summary)] = rows
        known = msgspec.json.decode(summary) if summary else {}
        mark = self.mark(session)
        if known.get("mark") != mark:
            known = self.known.get(session, {})
        if known.get("mark") != mark:
            try:
                source = SnapshotOfOne(self._snapshot(session), self._ledgers, self.find_begun(session))
                worked_out = self._work_out([session], source)[session]
                known = self.known[session] = {**worked_out.figures, "mark": mark}
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
            snapshot_ms=known["snapshot_ms"],
            held=self._marks.hold_of(session) is not None,
            damaged=known.get("damaged", ""),
        )

    def find_moment(self, session: str, at_ms: int) -> Moment | None:
        """Return a moment of a session, or None where it was over by then."""
        if not self._catalogue.query("SELECT 1 FROM sessions WHERE session = ? AND sealed_ms IS NOT NULL", session):
            return Moment(at_ms)
        cluster = self.of(session)
        if cluster.ended_ms is not None and at_ms >= cluster.ended_ms:
            return None
        if cluster.ended_ms is None or at_ms != cluster.before_shutdown_ms:
            return Moment(at_ms)
        # the shutdown's effects are within seconds of its end. Later ones were told by a clock that is ahead
        return Moment(at_ms, cluster.ended_ms + SHUTDOWN_SECONDS * 1000)

    def find_begun(self, session: str) -> list[str]:
        """Return the entities of which a session has an event."""
        sql = "SELECT entity FROM log WHERE session = ? UNION SELECT entity FROM state WHERE session = ?"
        begun = {name for (name,) in self._catalogue.query(sql, session, session)}
        return [name for name, entity in installed().items() if name in begun and not entity.view]

    def ended_ms(self, session: str) -> int | None:
        """Return when a session's last node died, or None while one is alive, or where no event says."""
        nodes = self._snapshot(session).rows("node", columns=["state", "end_time_ms"])
        if not nodes or any(node["state"] != "DEAD" for node in nodes):
            return None
        return max((node["end_time_ms"] or 0 for node in nodes), default=0) or None

    def keep(self, sessions: Sequence[str], files: Mapping[str, Sequence[Path]]) -> dict[str, list[LedgerRow]]:
        """
        Keep sealed sessions' figures beside them, so that a list of thousands asks the engine for none.

        Args:
            sessions: Their names.
            files: The files of their states, by entity.

        Returns:
            Their ledgers, which some of the figures follow from.
        """
        ledgers, summaries = dict[str, list[LedgerRow]](), list[tuple[str, str]]()
        for session, worked_out in self._work_out(sessions, FilesOfMany(files, self._catalogue, self._engine)).items():
            ledgers[session] = worked_out.ledger
            summary = {**worked_out.figures, "mark": self.mark(session)}
            summaries.append((msgspec.json.encode(summary).decode(), session))
        with self._catalogue.transaction() as db:
            db.executemany("UPDATE sessions SET summary = ? WHERE session = ?", summaries)
        self._ledgers.keep(ledgers)
        return ledgers

    def mark(self, session: str) -> str:
        """Return what tells one fold of a session from the next."""
        paths = self._catalogue.query(
            "SELECT path FROM state WHERE session = ? AND kind != 'cache' ORDER BY path", session
        )
        # with the names of the figures, so that those that an older version kept are worked out anew
        figures = (name for name in Cluster.__struct_fields__ if name not in NOT_KEPT)
        named = "\n".join((*figures, *(path for (path,) in paths)))
        return hashlib.blake2b(named.encode(), digest_size=16).hexdigest()

    def _work_out(self, sessions: Sequence[str], source: StateSource) -> dict[str, _WorkedOut]:
        """Return what of sessions' figures their states say."""
        columns = ["node_id", "is_head_node", "state", "start_time_ms", "end_time_ms", "inferred"]
        nodes = self._read_rows(source, "node", columns)
        snapshots = self._read_rows(source, "snapshot", ["at_ms"])
        totals = {name: self._add_up(source, name) for name in source.entities if not installed()[name].view}
        tasks = self._count(source, "task", ["type"], "type IS NOT NULL AND type != 'DRIVER_TASK'")
        jobs = self._count(source, "job")
        inferred = {name: {session: of.inferred for session, of in total.items()} for name, total in totals.items()}
        ledgers = source.ledgers(sessions, inferred)
        results: dict[str, _WorkedOut] = {}
        for session in sessions:
            own = {name: of_session[session] for name, of_session in totals.items() if session in of_session}
            rows = ledgers[session]
            figures = {
                **_of_nodes(nodes[session]),
                **_of_all([total for name, total in own.items() if name not in OF_AGENTS]),
                "jobs": jobs.get(session, 0),
                "actors": own["actor"].states if "actor" in own else 0,
                "tasks": tasks.get(session, 0),
                "missing_bytes": sum(row.missing_bytes + row.skipped_bytes + row.lost_bytes for row in rows),
                "unread": sum(len(row.unread) for row in rows),
                "snapshot_ms": max((row["at_ms"] for row in snapshots[session]), default=None),
            }
            results[session] = _WorkedOut(figures, rows)
        return results

    def _read_rows(self, source: StateSource, name: str, columns: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """Return an entity's states, by session."""
        by_session = defaultdict[str, list[dict[str, Any]]](list)
        if name in source.entities:
            entity = installed()[name]
            items = ", ".join(show.public(find(entity, column)) for column in columns)
            read = show.read_from(entity, [find(entity, column) for column in columns])
            for session, *row in self._engine.run(f"SELECT {SESSION.name}, {items} FROM {source(entity, read)} s"):
                by_session[session].append(dict(zip(columns, row, strict=True)))
        return by_session

    def _add_up(self, source: StateSource, name: str) -> dict[str, _Total]:
        relation = source(installed()[name], ["last_event_s", "inferred"])
        counted = "count(*), coalesce(max(last_event_s), 0), count(inferred)"
        rows = self._engine.run(f"SELECT {SESSION.name}, {counted} FROM {relation} GROUP BY 1")
        return {session: _Total(*row) for session, *row in rows}

    def _count(
        self, source: StateSource, name: str, names: Sequence[str] | None = None, condition: str = "true"
    ) -> dict[str, int]:
        """Return how many states of an entity meet a condition, by session."""
        entity = installed()[name]
        if not has(entity, source.entities):
            return {}
        relation = f"({view_of(entity, source)})" if entity.view else source(entity, names)
        return dict(self._engine.run(f"SELECT {SESSION.name}, count(*) FROM {relation} WHERE {condition} GROUP BY 1"))


class _Total(NamedTuple):
    """The counts of an entity in a session."""

    states: int
    last_event_s: int
    inferred: int


class _WorkedOut(NamedTuple):
    """The figures that a session's states give."""

    figures: dict[str, Any]
    ledger: list[LedgerRow]


def _of_all(totals: Sequence[_Total]) -> dict[str, Any]:
    last_s = max((total.last_event_s for total in totals), default=0)
    return {"last_event_ms": last_s * 1000 or None, "inferred": sum(total.inferred for total in totals)}


def _of_nodes(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    ended = bool(nodes) and all(node["state"] == "DEAD" for node in nodes)
    return {
        "began_ms": min((node["start_time_ms"] for node in nodes if node["start_time_ms"]), default=None),
        "ended_ms": max((node["end_time_ms"] or 0 for node in nodes), default=0) or None if ended else None,
        "before_shutdown_ms": _before_shutdown_ms(nodes) if ended else None,
        "nodes": len(nodes),
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
    # events tell a death with a node in whole seconds, so it seems to have come before
    by_events = all(node["inferred"] is None for node in nodes)
    before = int(first) // 1000 * 1000 - 1 if by_events else int(first) - 1
    return max(before, min(node["start_time_ms"] or 0 for node in nodes))
