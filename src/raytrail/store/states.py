"""Where a session's states come from: the tables of a sealed one, its files, or its log; and how they were earlier."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from raytrail.entities import Entity, sql
from raytrail.entities.conclude import Other, concluded
from raytrail.entities.sql import Moment
from raytrail.store.catalogue import Catalogue, LogFile
from raytrail.store.engine import Engine, parquet
from raytrail.store.older import Partials

ATTACHED = 64
"""Most sealed sessions that are held open at once."""


class _Attached(NamedTuple):
    """A sealed session's tables, open."""

    name: str
    columns: Mapping[str, frozenset[str]]
    """Of each table."""


class States:
    """
    The relations of all sessions' states.

    Args:
        root: The store's directory.
        catalogue: Says which files there are.
        engine: Reads them.
        counts: What was counted of attached tables; cleared when one is let go.
    """

    def __init__(self, root: Path, catalogue: Catalogue, engine: Engine, counts: dict[object, int]) -> None:
        self._root = root
        self._catalogue = catalogue
        self._engine = engine
        self._counts = counts
        self._partials = Partials(engine)
        self._columns: dict[Path, frozenset[str]] = {}
        self._attached: dict[str, _Attached] = {}
        self._attach_lock = threading.Lock()

    def at(self, session: str, entity: Entity, moment: Moment | None, names: Collection[str] | None = None) -> str:
        """
        Return the relation of an entity's states at a moment.

        Args:
            session: Its whole name.
            entity: Whose states.
            moment: The moment; None: at last, or now while the session lives.
            names: The stored columns that are asked for; None: all. Others may be there, and say anything.
        """
        if moment is None:
            return self.last(session, entity, names)
        if entity.at_from_times:
            wanted = [*(sql.stored(entity) if names is None else names)]
            last = self.last(session, entity, sql.read_by_times(entity, wanted))
            return f"({sql.at_times(entity, last, moment, wanted)})"
        logs = self._catalogue.log_files(session, entity.name)

        def told(names: Collection[str] | None) -> str:
            return self._folded(entity, logs, names, moment.past_ms(entity.when))

        return f"({concluded(entity, told, self._others(session, moment), now_ms=moment.at_ms, names=names)})"

    def last(self, session: str, entity: Entity, names: Collection[str] | None = None, *, attach: bool = True) -> str:
        """Return the relation of an entity's last states; `attach`: of a sealed session's tables, if it has any."""
        if attach and (table := self.table(session, entity.name, sql.stored(entity))):
            return table
        files = self._catalogue.state_files(session)
        sealed = [self._root / file.path for file in files if (file.entity, file.kind) == (entity.name, "sealed")]
        if sealed:
            return self._sealed(entity, sealed)
        if any(file.kind == "sealed" for file in files):
            return f"({sql.empty(entity, partial=False)})"
        now_ms = time.time_ns() // 1_000_000
        told = partial(self._told, session, entity)
        return f"({concluded(entity, told, self._others(session, None), now_ms=now_ms, names=names)})"

    def table(self, session: str, name: str, columns: Iterable[str]) -> str | None:
        """Return a table of a sealed session's cache; None where it has none, it lives, or the file is gone."""
        for file in self._catalogue.state_files(session):
            if (
                file.kind == "cache"
                and (attached := self._attach(file.path))
                # what was sealed before an entity or a column of it was known, has it not
                and name in attached.columns
                and attached.columns[name].issuperset(columns)
            ):
                return f"{attached.name}.{sql.quote(name)}"
        return None

    def _others(self, session: str, moment: Moment | None) -> Other:
        return lambda entity, names: self.at(session, entity, moment, names)

    def _told(self, session: str, entity: Entity, names: Collection[str] | None) -> str:
        """Return the relation of a living session's states as events left them, with these columns at least."""
        files = [file for file in self._catalogue.state_files(session, entity.name) if file.kind != "cache"]
        paths = [self._root / file.path for file in files]
        if paths and self._partials.usable(entity, paths):
            return f"({sql.bare(entity, parquet(paths), names)})"
        # not folded yet, or by another version: the log says the same, if more slowly
        logs = self._catalogue.log_files(session, entity.name)
        waiting = self._catalogue.log_files(session, entity.name, unfolded=True) if paths else []
        return self._folded(entity, [log for log in logs if log not in waiting], names)

    def _folded(
        self, entity: Entity, logs: Iterable[LogFile], names: Collection[str] | None, condition: str = "true"
    ) -> str:
        """Return the relation of an entity's states as the events of a log that meet a condition left them."""
        paths = [self._root / file.path for file in logs]
        if not paths:
            return f"({sql.bare(entity, f'({sql.empty(entity, partial=True)})', names)})"
        log = f"(SELECT * FROM {sql.filled_log(entity, parquet(paths))} WHERE {condition})"
        return f"({sql.bare(entity, f'({sql.folded(entity, log, names)})', names)})"

    def _sealed(self, entity: Entity, paths: Sequence[Path]) -> str:
        """Return the relation of sealed states; what an older version did not store of them is worked out."""
        for path in paths:
            if path not in self._columns:
                schema = self._engine.run(f"SELECT name FROM parquet_schema({sql.literal(str(path))})")
                self._columns[path] = frozenset(name for (name,) in schema)
        missing = sql.stored(entity).keys() - frozenset.intersection(*(self._columns[path] for path in paths))
        if not missing:
            return parquet(paths)
        states = sql.filled(entity, parquet(paths), partial=False)
        derived = [sql.quote(column.name) for column in entity.derived if column.stored]
        exclude = f" EXCLUDE ({', '.join(derived)})" if derived else ""
        return f"({sql.with_derived(entity, f'(SELECT *{exclude} FROM {states})')})"

    def _attach(self, path: str) -> _Attached | None:
        """Return how a sealed session's tables are open; None where the file is gone."""
        with self._attach_lock:
            if path not in self._attached:
                if not (self._root / path).exists():
                    return None
                while len(self._attached) >= ATTACHED:
                    oldest = next(iter(self._attached))
                    self._engine.run(f"DETACH {self._attached.pop(oldest).name}")
                    self._counts.clear()
                name = f"sealed_{time.monotonic_ns()}"
                self._engine.run(f"ATTACH {sql.literal(str(self._root / path))} AS {name} (READ_ONLY)")
                columns = self._engine.run(
                    "SELECT table_name, list(column_name) FROM duckdb_columns() WHERE database_name = ? GROUP BY ALL",
                    [name],
                )
                self._attached[path] = _Attached(name, {table: frozenset(names) for table, names in columns})
            return self._attached[path]
