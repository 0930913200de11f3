"""
Seal: a session's folded states for good, and what was left open closed as inferred.

What Ray's GCS concludes without writing an event is concluded here in the same way: the open tasks of a job that
ended, of an actor that died, of a node that died are FAILED. What is open when the session itself ends is closed with
it. Each such row says so in ``inferred``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from raytrail.entities import Derived, Entity, installed, sql
from raytrail.entities.task import TIMES_SQL
from raytrail.errors import StoreError
from raytrail.store.append import sync, sync_directories
from raytrail.store.catalogue import Catalogue, LogFile, StateFile
from raytrail.store.engine import Engine, copy_parquet, group_rows, parquet

_WORKER_DIED = "The actor is dead because its worker process has died. Worker exit type: "

TALLY_SAVES = 100
"""A tally is kept of so many states of each kind, on average; of fewer, reading it saves nothing."""

_EXIT_TYPES = (
    "SYSTEM_ERROR",
    "INTENDED_SYSTEM_EXIT",
    "USER_ERROR",
    "INTENDED_USER_EXIT",
    "NODE_OUT_OF_MEMORY",
)
"""rpc.WorkerExitType (common.proto, Ray 2.60), by number; GCS prints the number."""

_TURNS = ("node", "driver_job", "actor", "worker", "file", "task")
"""The entities that say what became of others, and these others, in the order in which they are sealed."""


def sealed(name: str) -> str:
    """Return the view of an entity that is sealed already, for those that follow from it."""
    return sql.quote(f"sealed_{name}")


class _Known(NamedTuple):
    """What is known of an entity in a session."""

    before: str
    """What a statement begins with that reads it."""
    states: str
    """The relation of its partial states."""
    latest: str
    """The SELECT of the timestamp of its last event, as ``t``, in seconds since the epoch."""
    most_rows: int
    """How many there are at most."""
    once: bool
    """Whether no key is there twice."""


class Sealer:
    """Writes the sealed states of a session."""

    def __init__(self, root: Path, catalogue: Catalogue, engine: Engine) -> None:
        self._root = root
        self._catalogue = catalogue
        self._engine = engine

    def seal(self, session: str) -> list[Path]:
        """
        Make the states of a session those it ends with: what was folded of it, and of the others what its log says.

        Returns:
            The files that are named no more; delete them once nobody reads them.
        """
        known = self._known(session)
        directory = self._root / "state" / session
        directory.mkdir(parents=True, exist_ok=True)
        stamp = f"{time.time_ns():020d}"
        found: list[tuple[str, str, Path, int]] = []
        end_ms = self._end_ms(known)

        def seal(entities: Iterable[Entity]) -> None:
            for entity in entities:
                one = known.get(entity.name)
                select = self._states(entity, one, end_ms)
                if one:
                    path = directory / f"{entity.name}-sealed-{stamp}.parquet"
                    [(rows,)] = self._engine.run(copy_parquet(select, path, one.most_rows))
                    sync(path)
                    found.append((entity.name, "sealed", path, rows))
                    select = f"SELECT * FROM {parquet([path])}"
                if entity.name in _TURNS:
                    self._engine.run(f"CREATE OR REPLACE VIEW {sealed(entity.name)} AS {select}")

        entities = {name: entity for name, entity in installed().items() if not entity.view}
        in_turn = [entities.pop(name) for name in _TURNS if name in entities]
        self._engine.each(seal, [in_turn, *([entity] for entity in entities.values() if entity.name in known)])
        sync_directories([directory])
        with self._catalogue.transaction() as db:
            old = [self._root / path for (path,) in db.execute("SELECT path FROM state WHERE session = ?", (session,))]
            db.execute("DELETE FROM state WHERE session = ?", (session,))
            db.executemany(
                "INSERT INTO state VALUES(?, ?, ?, ?, ?)",
                [(session, name, kind, str(path.relative_to(self._root)), rows) for name, kind, path, rows in found],
            )
            db.execute("UPDATE log SET folded = 1 WHERE session = ?", (session,))
            db.execute("UPDATE sessions SET sealed_ms = ? WHERE session = ?", (time.time_ns() // 1_000_000, session))
        return old

    def cache(self, session: str, source: Callable[[Entity], str]) -> None:
        """
        Copy a sealed session's states into tables, from which a few rows are read many times faster.

        Args:
            session: Its whole name.
            source: The relation of an entity's states, with every column.
        """
        path = self._root / "state" / session / f"{time.time_ns():020d}.duckdb"
        rows = {file.entity: file.rows for file in self._catalogue.state_files(session)}
        groups = f"ROW_GROUP_SIZE {group_rows(max(rows.values()))}"
        self._engine.run(f"ATTACH {sql.literal(str(path))} AS caching ({groups})")
        try:
            entities = (entity for entity in installed().values() if entity.name in rows)
            self._engine.each(lambda entity: self._cache(entity, source(entity)), entities)
            self._engine.run("CHECKPOINT caching")
        except StoreError:
            self._engine.run("DETACH caching")
            path.unlink()
            raise
        self._engine.run("DETACH caching")
        sync(path)
        sync_directories([path.parent])
        with self._catalogue.transaction() as db:
            db.execute("INSERT INTO state VALUES(?, '', 'cache', ?, 0)", (session, str(path.relative_to(self._root))))

    def _cache(self, entity: Entity, source: str) -> None:
        table = f"caching.{sql.quote(entity.name)}"
        self._engine.run(f"CREATE TABLE {table} AS SELECT * FROM {source}")
        # for one by its id: looking for it would read the ids of all
        self._engine.run(f"CREATE INDEX {sql.quote(f'{entity.name}_by_id')} ON {table}({sql.quote(entity.key[0])})")
        if entity.tallied:
            self._tally(entity, table)

    def _tally(self, entity: Entity, table: str) -> None:
        """Count the states of a table, unless nearly each is one of its kind."""
        named = ", ".join(map(sql.quote, entity.tallied))
        [(kinds, rows)] = self._engine.run(f"SELECT approx_count_distinct(hash({named})), count(*) FROM {table}")
        if kinds * TALLY_SAVES <= rows:
            self._engine.run(f"CREATE TABLE caching.{sql.quote(sql.tally_name(entity))} AS {sql.tally(entity, table)}")

    def _known(self, session: str) -> dict[str, _Known]:
        """Return what is known of each entity: what was folded of it, else its log."""
        folded: dict[str, list[StateFile]] = {}
        for state in self._catalogue.state_files(session):
            if state.entity in installed():
                folded.setdefault(state.entity, []).append(state)
        logs: dict[str, list[LogFile]] = {}
        for log in self._catalogue.log_files(session, unfolded=True):
            if log.entity in installed() and log.entity not in folded:
                logs.setdefault(log.entity, []).append(log)
        known: dict[str, _Known] = {}
        for name, states in folded.items():
            files = parquet(self._root / file.path for file in states)
            known[name] = _Known(
                "",
                sql.filled(installed()[name], files, partial=True),
                f"SELECT max(last_event_s) AS t FROM {files}",
                sum(file.rows for file in states),
                once=all(file.kind == "open" for file in states),
            )
        for name, part in logs.items():
            entity, files = installed()[name], parquet(self._root / file.path for file in part)
            events = sql.folded(entity, sql.filled_log(entity, files))
            known[name] = _Known(
                # made once, though a statement reads it more than once; it is too little to be worth sorting
                f"WITH known AS MATERIALIZED ({events}) ",
                "known",
                f"SELECT max(timestamp) AS t FROM {files}",
                sum(file.events for file in part),
                once=True,
            )
        return known

    def _end_ms(self, known: dict[str, _Known]) -> int:
        """Return when the session ended: when its last node died, or else when its last event was written."""
        if node := known.get("node"):
            states = f"{node.before}{self._final('node', node)}"
            [(alive, end_ms)] = self._engine.run(f"SELECT bool_or(state != 'DEAD'), max(end_time_ms) FROM ({states})")
            if not alive and end_ms:
                return int(end_ms)
        latest = [one.latest for name, one in known.items() if name != "file"]
        if not latest:
            return time.time_ns() // 1_000_000
        [(end_s,)] = self._engine.run(f"SELECT max(t) FROM ({' UNION ALL '.join(latest)})")
        # the last millisecond of that second: what an event says of it was before the end
        return int(end_s or 0) * 1000 + 999

    def _final(self, name: str, known: _Known | None) -> str:
        """Return the states of an entity: one a key, though a straggler may have begun a second one."""
        entity = installed()[name]
        if not known:
            return sql.final(entity, f"({sql.empty(entity, partial=True)})")
        if known.once:
            return sql.final(entity, known.states)
        key = f"hash({', '.join(sql.quote(name) for name in entity.key)})"
        twice = f"twice_{name}"
        self._engine.run(
            f"CREATE OR REPLACE TABLE {twice} AS SELECT {key} AS h FROM {known.states} GROUP BY h HAVING count(*) > 1"
        )
        once = f"SELECT * FROM {known.states} WHERE {key} NOT IN (FROM {twice})"
        joined = sql.fold(entity, f"(SELECT * FROM {known.states} WHERE {key} IN (FROM {twice}))")
        return sql.final(entity, f"({once} UNION ALL BY NAME {joined})")

    def _states(self, entity: Entity, known: _Known | None, end_ms: int) -> str:
        """Return the statement that makes an entity's states, those it ends with."""
        stored = ", ".join(sql.quote(d.name) for d in entity.derived if d.stored)
        bare = f"(SELECT *{f' EXCLUDE ({stored})' if stored else ''} FROM ({self._final(entity.name, known)}))"
        if entity.name == "task":
            bare = _close_tasks(bare, known.states if known else f"({sql.empty(entity, partial=True)})")
        elif entity.name == "actor":
            bare = _close_actors(bare)
        if not entity.closing:
            closed = bare
        else:
            # the state of one that is open, worked out on states whose closing columns are as the events left them
            column = entity.column(entity.state)
            state = column.sql if isinstance(column, Derived) else sql.quote(column.name)
            terminal = ", ".join(sql.literal(one) for one in entity.terminal)
            is_open = f"inferred IS NULL AND ({state}) NOT IN ({terminal})"
            replaced = ", ".join(
                f"CASE WHEN {is_open} THEN {value.format(end_ms=end_ms)} ELSE {sql.quote(name)} END "
                f"AS {sql.quote(name)}"
                for name, value in (*entity.closing, ("inferred", "'session ended'"))
            )
            closed = f"(SELECT * REPLACE ({replaced}) FROM {bare})"
        return (known.before if known else "") + sql.with_derived(entity, closed)


def _close_actors(source: str) -> str:
    """Return the actors, those dead whose job has ended or whose node has died."""
    ends = (
        "list_min(list_filter(["
        "CASE WHEN d.is_dead AND NOT coalesce(a.is_detached, false) THEN "
        "{'ms': d.end_time_ms, 'why': 'job ended'} END, "
        "CASE WHEN n.state = 'DEAD' AND a.state = 'ALIVE' THEN {'ms': n.end_time_ms, 'why': 'node died'} END"
        "], lambda e: e IS NOT NULL))"
    )
    return (
        "(SELECT * EXCLUDE (ended) REPLACE (CASE WHEN ended IS NULL THEN state ELSE 'DEAD' END AS state, "
        "CASE WHEN ended IS NULL THEN _dead_ms ELSE ended.ms END AS _dead_ms, ended.why AS inferred) FROM ("
        f"SELECT a.*, CASE WHEN a.state != 'DEAD' THEN {ends} END AS ended FROM {source} a "
        f"LEFT JOIN {sealed('driver_job')} d ON d.job_id = a.job_id "
        f"LEFT JOIN {sealed('node')} n ON n.node_id = a.node_id))"
    )


def _close_tasks(source: str, partial: str) -> str:
    """
    Return the tasks, named after their actors, with the files of their output, those FAILED that GCS would have marked.

    Args:
        source: Their states.
        partial: Their partial states, which are read faster.
    """
    numbers = " ".join(f"WHEN '{name}' THEN {number}" for number, name in enumerate(_EXIT_TYPES))
    died = "json_extract_string(a._death_cause, '$.actor_died_error_context.error_message')"
    exit_type = f"regexp_extract({died}, 'Worker exit type: (\\w+) Worker exit detail: ', 1)"
    detail = f"regexp_extract({died}, 'Worker exit detail: (.*)', 1, 's')"
    # mark_tasks_failed_on_job_ends and _on_worker_dead in Ray 2.60,
    # ray/dashboard/modules/task_events/task_event_storage.py
    by_job = (
        "'Job finishes (' || lower(hex(t.job_id)) || ') as driver exits. Marking all non-terminal tasks as failed.'"
    )
    by_exit = (
        # the raylet ends the workers of a finished job, which GCS sees first
        "'Worker running the task (' || lower(hex(t.worker_id)) || ') died with exit_type: 3 with error_message: "
        "Worker force exited because its job has finished'"
    )
    by_worker = (
        "'Worker running the task (' || lower(hex(t.worker_id)) || ') died with exit_type: ' || "
        f"CASE {exit_type} {numbers} END || ' with error_message: ' || {detail}"
    )
    # where events tell of workers, GCS's own reason and time
    by_own_end = (
        "'Worker running the task (' || lower(hex(t.worker_id)) || ') died with exit_type: ' || "
        f"CASE w.exit_type {numbers} END || ' with error_message: ' || coalesce(w.exit_detail, '')"
    )
    ends = (
        "CASE WHEN w.inferred IS NULL AND NOT w.is_alive AND w.exit_type IS NOT NULL AND w.end_time_ms IS NOT NULL "
        f"THEN {{'ns': w.end_time_ms * 1000000, 'why': 'worker died', 'says': {by_own_end}}} ELSE "
        "list_min(list_filter(["
        "CASE WHEN d.is_dead THEN {'ns': d.end_time_ms * 1000000, 'why': 'job ended', "
        f"'says': CASE WHEN t.worker_id IS NULL THEN {by_job} ELSE {by_exit} END}} END, "
        "CASE WHEN t.worker_id IS NOT NULL AND a.state = 'DEAD' AND t.type = 'ACTOR_TASK' THEN "
        "{'ns': a._dead_ms * 1000000, 'why': 'actor died', "
        f"'says': coalesce({by_worker}, {died}, '')}} END, "
        "CASE WHEN t.worker_id IS NOT NULL AND n.state = 'DEAD' THEN "
        "{'ns': n.end_time_ms * 1000000, 'why': 'node died', "
        "'says': 'Node ' || lower(hex(t.node_id)) || ' died: ' || coalesce(n._death_message, '')} END"
        "], lambda e: e IS NOT NULL AND e.ns IS NOT NULL)) END"
    )
    return (
        "(SELECT * EXCLUDE (ended) REPLACE ("
        # GCS takes the job's own end, though a retry may be submitted a moment later
        "CASE WHEN ended IS NULL THEN failed_ns WHEN ended.why = 'job ended' THEN ended.ns "
        f"ELSE greatest(ended.ns, {TIMES_SQL}) END AS failed_ns, "
        "CASE WHEN ended IS NULL THEN _error_type ELSE 'WORKER_DIED' END AS _error_type, "
        "CASE WHEN ended IS NULL THEN _error_message ELSE ended.says END AS _error_message, "
        "ended.why AS inferred) FROM ("
        "SELECT t.* REPLACE (a.name AS _actor_name, a.repr_name AS _actor_repr_name, "
        f"{_output('out')} AS _stdout_file, {_output('err')} AS _stderr_file), "
        f"CASE WHEN t.finished_ns IS NULL AND t.failed_ns IS NULL THEN {ends} END AS ended FROM {source} t "
        f"LEFT JOIN {sealed('actor')} a ON a.actor_id = t.actor_id "
        f"LEFT JOIN {sealed('worker')} w ON w.worker_id = t.worker_id "
        f"LEFT JOIN {sealed('driver_job')} d ON d.job_id = t.job_id "
        f"LEFT JOIN {sealed('node')} n ON n.node_id = t.node_id "
        f"LEFT JOIN {_told_logs(partial)} told ON told.worker_id = t.worker_id "
        f"LEFT JOIN {_SHIPPED_LOGS} shipped ON shipped.worker_id = t.worker_id "
        f"LEFT JOIN {_log_directories(partial)} logs ON logs.node_id = t.node_id))"
    )


# Where an attempt's output begins and ends is mostly exported at once, and then without its file (TaskLogInfoToExport).
# One that ran while its worker reported has the path: that of its worker's files, and so that of its node's directory.

_TELLS = "_stdout_file LIKE '%/worker-%.out'"


def _told_logs(partial: str) -> str:
    """Return the relation of the workers whose files an event tells: their path, without its suffix."""
    return (
        f"(SELECT worker_id, max(left(_stdout_file, -4)) AS path FROM {partial} "
        f"WHERE {_TELLS} AND worker_id IS NOT NULL GROUP BY worker_id)"
    )


def _log_directories(partial: str) -> str:
    """Return the relation of the nodes of which an event tells where Ray keeps its logs; a slash ends it."""
    return (
        f"(SELECT node_id, max(regexp_extract(_stdout_file, '^.*/')) AS directory FROM {partial} "
        f"WHERE {_TELLS} AND node_id IS NOT NULL GROUP BY node_id)"
    )


_WORKER_LOG = "worker-((?:[0-9a-f]{2})+)-[0-9a-f]+-[0-9]+"
_SHIPPED_LOGS = (
    f"(SELECT unhex(regexp_extract(name, '{_WORKER_LOG}[.]out$', 1)) AS worker_id, "
    f"max(regexp_extract(name, '({_WORKER_LOG})[.]out$', 1)) AS name FROM {sealed('file')} "
    f"WHERE event_type = 'LOG' AND regexp_matches(name, '(^|/){_WORKER_LOG}[.]out$') GROUP BY ALL)"
)
"""The relation of the workers whose output was shipped: the name of its log, without its suffix."""


def _output(suffix: str) -> str:
    path = "coalesce(told.path, coalesce(logs.directory, '') || shipped.name)"
    return (
        f"CASE WHEN t._std{suffix}_file IS NULL AND t._stdout_start IS NOT NULL THEN {path} || '.{suffix}' "
        f"ELSE t._std{suffix}_file END"
    )
