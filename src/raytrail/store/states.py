"""
The sources of a session's states, which are the tables of a sealed one, its files, or its log, and how they were
earlier.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from raytrail.entities import Entity
from raytrail.errors import StoreDamaged, StoreError, StoreUnavailable
from raytrail.fold import merge
from raytrail.fold.conclude import FromEvents, Other, concluded
from raytrail.fold.layout import stored
from raytrail.fold.literals import literal, quote
from raytrail.fold.moment import Moment, at_times, read_by_times
from raytrail.fold.older import filled, filled_log
from raytrail.fold.sessions import SESSION, of_many
from raytrail.store.catalogue import Catalogue, LogFile, StateFile
from raytrail.store.closed import SUPERSEDED, current, partial_states
from raytrail.store.engine import Engine, parquet
from raytrail.store.files import Files
from raytrail.store.older import Partials

ATTACHED = 64
"""Most sealed sessions that are held open at once."""

log = logging.getLogger(__name__)


class TablesLost(StoreUnavailable):
    """A sealed session's tables are damaged, and thrown away: asked again, its files answer."""


class _Attached(NamedTuple):
    """A sealed session's tables, open."""

    name: str
    columns: Mapping[str, frozenset[str]]
    """The names of each table's columns."""


class _Schema(NamedTuple):
    """The columns of a file of states, in any order."""

    names: frozenset[str]
    kinds: frozenset[str]
    """The name of each with its type."""


class States:
    """
    The relations of all sessions' states.

    Args:
        root: The store's directory.
        catalogue: Says which files there are.
        engine: Reads them.
        files: Checks them.
        counts: The counts of attached tables. They are cleared when one is let go.
    """

    def __init__(
        self, root: Path, catalogue: Catalogue, engine: Engine, files: Files, counts: dict[object, int]
    ) -> None:
        self._root = root
        self._catalogue = catalogue
        self._engine = engine
        self._files = files
        self._counts = counts
        self._partials = Partials(engine)
        self._schemas: dict[Path, _Schema] = {}
        self._alike: dict[_Schema, _Schema] = {}
        """Each of these schemas, by itself."""
        self._attached: dict[str, _Attached] = {}
        self._lost: set[str] = set()
        """Damaged caches. A cache that is made anew has another name."""
        self._unnamed: dict[str, str] = {}
        """Those of them that the catalogue may name yet, each with its session."""
        self._attach_lock = threading.Lock()

    @property
    def open_tables(self) -> int:
        """How many tables of sealed sessions are open. Any thread may ask."""
        return sum(len(attached.columns) for attached in list(self._attached.values()))

    def at(self, session: str, entity: Entity, moment: Moment | None, names: Collection[str] | None = None) -> str:
        """
        Return the relation of an entity's states at a moment.

        Args:
            session: Its whole name.
            entity: The entity of the states.
            moment: The moment. None means at last, or now while the session lives.
            names: The stored columns that are asked for. None means all. Others may be there, and say anything.
        """
        if moment is None:
            return self.last(session, entity, names)
        if by := entity.moments:
            wanted = [*(stored(entity) if names is None else names)]
            last = self.last(session, entity, read_by_times(entity, by, wanted))
            return f"({at_times(entity, by, last, moment, wanted, once=not self.is_sealed(session))})"
        logs = self._catalogue.log_files(session, entity.name)
        if not logs:
            return _no_states(entity, names)

        def from_events(names: Collection[str] | None) -> str:
            return self._fold_logs(entity, logs, names, moment.past_ms(entity.when))

        others = self._relate_others(session, moment)
        rows = sum(log.events for log in logs)
        return f"({concluded(entity, from_events, others, now_ms=moment.at_ms, names=names, most_rows=rows)})"

    def last(self, session: str, entity: Entity, names: Collection[str] | None = None, *, attach: bool = True) -> str:
        """Return the relation of an entity's last states; `attach`: of a sealed session's tables, if it has any."""
        if attach and (table := self.table(session, entity.name, stored(entity))):
            return table
        files = self._catalogue.state_files(session)
        sealed = [file for file in files if (file.entity, file.kind) == (entity.name, "sealed")]
        if sealed:
            return self._read_sealed(entity, self._files.paths(sealed))
        rows = sum(file.rows for file in files if file.entity == entity.name)
        rows = rows or sum(log.events for log in self._catalogue.log_files(session, entity.name))
        if not rows or any(file.kind == "sealed" for file in files):
            return _no_states(entity, names)
        now_ms = time.time_ns() // 1_000_000
        from_events = self._read_living(session, entity)
        others = self._relate_others(session, None)
        return f"({concluded(entity, from_events, others, now_ms=now_ms, names=names, most_rows=rows)})"

    def last_of_many(self, entity: Entity, files: Sequence[StateFile]) -> str:
        """Return the relation of an entity's states in sealed sessions, whose files these are, with `SESSION`."""
        alike = defaultdict[_Schema, list[Path]](list)
        paths = self._files.paths(files)
        self._learn_schemas(paths)
        for path in paths:
            alike[self._schemas[path]].append(path)
        if not alike:
            return f"({merge.empty(of_many(entity), partial=False)})"
        relations = [
            self._fill(entity, parquet(same, by_session=True, alike=True), schema.names)
            for schema, same in alike.items()
        ]
        return f"({' UNION ALL BY NAME '.join(f'FROM {relation}' for relation in relations)})"

    def living_of_many(self, entity: Entity, sessions: Collection[str], names: Collection[str] | None = None) -> str:
        """Return the relation of an entity's states in living sessions, with these columns or all, and `SESSION`."""
        many = of_many(entity)
        folded, logs, rows = self._find_living(entity, sessions)
        if not rows:
            return f"({merge.empty(many, partial=False, names=names)})"

        def from_events(names: Collection[str] | None) -> str:
            parts = list(folded)
            if logs:
                log = filled_log(many, parquet(self._files.paths(logs), by_session=True))
                parts.append(merge.folded(many, log, names))
            return f"({merge.bare(many, '(' + ' UNION ALL BY NAME '.join(parts) + ')', names)})"

        def others(other: Entity, names: Collection[str]) -> str:
            return self.living_of_many(other, sessions, names)

        now_ms = time.time_ns() // 1_000_000
        return f"({concluded(many, from_events, others, now_ms=now_ms, names=names, most_rows=rows)})"

    def _find_living(self, entity: Entity, sessions: Iterable[str]) -> tuple[list[str], list[LogFile], int]:
        """Return SELECTs of living sessions' partial states, the log of the others, and how many rows all have."""
        folded: list[str] = []
        paths: list[Path] = []
        logs: list[LogFile] = []
        rows = 0
        for session in sessions:
            states = self._catalogue.state_files(session, entity.name)
            if not self._can_be_read(entity, states):
                logs += self._find_logs(session, entity, states)
                continue
            rows += sum(file.rows for file in states)
            if any(file.kind == SUPERSEDED for file in states):
                folded.append(f"SELECT {literal(session)} AS {SESSION.name}, * FROM {current(self._files, states)}")
            else:
                paths += self._files.paths(partial_states(states))
        if paths:
            folded.append(f"FROM {parquet(paths, by_session=True)}")
        return folded, logs, rows + sum(log.events for log in logs)

    def is_sealed(self, session: str) -> bool:
        """Return whether a session's last states are stored, rather than worked out when they are read."""
        return any(file.kind == "sealed" for file in self._catalogue.state_files(session))

    def table(self, session: str, name: str, columns: Iterable[str]) -> str | None:
        """Return a table of a sealed session's cache, or None where it has none that can be read, or lives."""
        for file in self._find_caches(session):
            if (
                (attached := self._attach(session, file))
                # a session that was sealed before an entity or a column of it was known does not have it
                and name in attached.columns
                and attached.columns[name].issuperset(columns)
            ):
                return f"{attached.name}.{quote(name)}"
        return None

    def _relate_others(self, session: str, moment: Moment | None) -> Other:
        return lambda entity, names: self.at(session, entity, moment, names)

    def _read_living(self, session: str, entity: Entity) -> FromEvents:
        """Give a living session's states as events left them."""
        states = self._catalogue.state_files(session, entity.name)
        if self._can_be_read(entity, states):
            relation = current(self._files, states)
            return lambda names: f"({merge.bare(entity, relation, names)})"
        return partial(self._fold_logs, entity, self._find_logs(session, entity, states))

    def _can_be_read(self, entity: Entity, states: Sequence[StateFile]) -> bool:
        """Return whether a living session's states of an entity are folded, and by a version that has its columns."""
        paths = self._files.paths(partial_states(states))
        return bool(paths) and self._partials.usable(entity, paths)

    def _find_logs(self, session: str, entity: Entity, states: Sequence[StateFile]) -> list[LogFile]:
        """Return the log of what such states would say, which is slower to read."""
        logs = self._catalogue.log_files(session, entity.name)
        waiting = self._catalogue.log_files(session, entity.name, unfolded=True) if partial_states(states) else []
        return [log for log in logs if log not in waiting]

    def _fold_logs(
        self, entity: Entity, logs: Sequence[LogFile], names: Collection[str] | None, condition: str = "true"
    ) -> str:
        """Return the relation of an entity's states as the events of a log that meet a condition left them."""
        paths = self._files.paths(logs)
        if not paths:
            return f"({merge.bare(entity, f'({merge.empty(entity, partial=True, names=names)})', names)})"
        log = f"(SELECT * FROM {filled_log(entity, parquet(paths))} WHERE {condition})"
        return f"({merge.bare(entity, f'({merge.folded(entity, log, names)})', names)})"

    def _learn_schemas(self, paths: Sequence[Path]) -> None:
        """Find out which columns files have."""
        if unknown := [path for path in paths if path not in self._schemas]:
            schema = f"parquet_schema([{', '.join(literal(str(path)) for path in unknown)}])"
            kind = "concat_ws(' ', name, type, converted_type, logical_type)"
            for path, names, kinds in self._engine.run(
                f"SELECT file_name, list(name), list({kind}) FROM {schema} GROUP BY file_name"
            ):
                known = _Schema(frozenset(names), frozenset(kinds))
                # one for all files of a version: there are files by the thousand
                self._schemas[Path(path)] = self._alike.setdefault(known, known)

    def _read_sealed(self, entity: Entity, paths: Sequence[Path]) -> str:
        """Return the relation of a session's sealed states. Columns that an older version did not store are filled."""
        self._learn_schemas(paths)
        names = frozenset.intersection(*(self._schemas[path].names for path in paths))
        return self._fill(entity, parquet(paths), names)

    def _fill(self, entity: Entity, relation: str, names: frozenset[str]) -> str:
        """Return the relation of sealed states with all columns. Those that their files lack are worked out."""
        if not stored(entity).keys() - names:
            return relation
        states = filled(entity, relation, partial=False)
        derived = [quote(column.name) for column in entity.derived if column.stored]
        exclude = f" EXCLUDE ({', '.join(derived)})" if derived else ""
        return f"({merge.with_derived(entity, f'(SELECT *{exclude} FROM {states})')})"

    @contextmanager
    def asking(self, session: str) -> Iterator[None]:
        """
        Ask a session's tables, in whose file the engine finds a damaged block when it comes to it.

        Raises:
            TablesLost: They are damaged.
        """
        try:
            yield
        except StoreUnavailable as error:
            for file in self._find_caches(session):
                if self._is_damaged(file):
                    with self._attach_lock:
                        self._lose(session, file)
                    path = self._root / file.path
                    raise TablesLost(
                        f"{path}: it is damaged; ask again, as the files beside it are read now"
                    ) from error
            raise

    def let_go(self) -> None:
        """Close the tables that the catalogue does not name any more, so that their files take no room."""
        with self._attach_lock:
            if not self._attached:
                return
            named = {
                path
                for (path,) in self._catalogue.query(
                    "SELECT path FROM state JOIN sessions USING (session) WHERE kind = 'cache'"
                )
            }
            for path in self._attached.keys() - named:
                self._engine.run(f"DETACH {self._attached.pop(path).name}")
                self._counts.clear()

    def take_lost(self) -> dict[str, str]:
        """Return the caches that turned out to be damaged since the last time, each with its session."""
        with self._attach_lock:
            lost, self._unnamed = self._unnamed, {}
        return lost

    def _find_caches(self, session: str) -> list[StateFile]:
        return [file for file in self._catalogue.state_files(session) if file.kind == "cache"]

    def _is_damaged(self, file: StateFile) -> bool:
        try:
            self._files.path(file, again=True)
        except StoreDamaged:
            return True
        return False

    def _lose(self, session: str, file: StateFile) -> None:
        """Read a cache no more. The attach lock is held."""
        if file.path in self._lost:
            return
        self._lost.add(file.path)
        self._unnamed[file.path] = session
        log.warning("%s: it is damaged and read no more; the files beside it say the same", self._root / file.path)
        if attached := self._attached.pop(file.path, None):
            self._engine.run(f"DETACH {attached.name}")
            self._counts.clear()

    def _attach(self, session: str, file: StateFile) -> _Attached | None:
        """Return how a sealed session's tables are open, or None where the file is gone or damaged."""
        with self._attach_lock:
            if file.path not in self._attached:
                if file.path in self._lost or not (self._root / file.path).exists():
                    return None
                while len(self._attached) >= ATTACHED:
                    oldest = next(iter(self._attached))
                    self._engine.run(f"DETACH {self._attached.pop(oldest).name}")
                    self._counts.clear()
                try:
                    self._attached[file.path] = self._open(self._files.path(file, whole=False))
                except StoreError:
                    if not self._is_damaged(file):
                        raise
                    self._lose(session, file)
                    return None
            return self._attached[file.path]

    def _open(self, path: Path) -> _Attached:
        name = f"sealed_{time.monotonic_ns()}"
        self._engine.run(f"ATTACH {literal(str(path))} AS {name} (READ_ONLY)")
        columns = self._engine.run(
            "SELECT table_name, list(column_name) FROM duckdb_columns() WHERE database_name = ? GROUP BY ALL", [name]
        )
        return _Attached(name, {table: frozenset(names) for table, names in columns})


def _no_states(entity: Entity, names: Collection[str] | None) -> str:
    """
    Return the relation of an entity of which a session has no event.

    It is short. What its states would follow from is not read, and a statement is planned in less time.
    """
    return f"({merge.empty(entity, partial=False, names=names)})"
