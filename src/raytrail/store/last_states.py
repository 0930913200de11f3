"""Where the last states of a session are read from, or those of many sessions at once that were just sealed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from raytrail.entities import Entity, installed
from raytrail.fold import merge, show
from raytrail.fold.layout import find
from raytrail.fold.literals import literal, quote
from raytrail.fold.sessions import SESSION, of_many
from raytrail.store.catalogue import Catalogue
from raytrail.store.engine import Engine, parquet
from raytrail.store.ledger import REPORTED, REPORTS, LedgerRow, Ledgers, LedgerSource, ledger, read_reports
from raytrail.store.read import Snapshot


class StateSource(Protocol):
    """The source of sessions' last states."""

    entities: Collection[str]
    """The entities that they may have states of, without views."""

    def __call__(self, entity: Entity, names: Sequence[str] | None) -> str:
        """Return the relation of an entity's states, with these stored columns at least, or all, and `SESSION`."""

    def ledgers(
        self, sessions: Sequence[str], inferred: Mapping[str, Mapping[str, int]]
    ) -> Mapping[str, list[LedgerRow]]:
        """Return the sessions' ledgers. `inferred` gives how many states of an entity, of a session, we closed."""


class FilesOfMany:
    """The files of sessions that were just sealed."""

    def __init__(self, files: Mapping[str, Sequence[Path]], catalogue: Catalogue, engine: Engine) -> None:
        self._catalogue = catalogue
        self._engine = engine
        self._files = {name: paths for name, paths in files.items() if paths}
        self.entities: Collection[str] = self._files.keys()

    def __call__(self, entity: Entity, names: Sequence[str] | None) -> str:
        """Return the relation of an entity's states, as `StateSource` says."""
        if entity.name not in self._files:
            return f"({merge.empty(of_many(entity), partial=False)})"
        return parquet(self._files[entity.name], by_session=True)

    def ledgers(
        self, sessions: Sequence[str], inferred: Mapping[str, Mapping[str, int]]
    ) -> Mapping[str, list[LedgerRow]]:
        """Return the sessions' ledgers, as `StateSource` says."""
        entity = installed()["file"]
        columns = [find(entity, name) for name in REPORTED]
        items = ", ".join(f"{show.raw(column)} AS {quote(column.name)}" for column in columns)
        relation = f"(SELECT {SESSION.name} AS session, {items} FROM {self(entity, show.read_from(entity, columns))} s)"
        with self._engine.steps() as run:
            run(f"CREATE TEMP TABLE reports AS FROM {relation} WHERE {REPORTS}")
            reported = read_reports(self._catalogue, run, sessions, sealed=True)
        sources = {
            session: LedgerSource(reported[session], partial(_inferred, inferred, session)) for session in sessions
        }
        return {session: ledger(self._catalogue, session, sources[session]) for session in sessions}


class SnapshotOfOne:
    """A session that lives, or that somebody else has sealed."""

    def __init__(self, snapshot: Snapshot, ledgers: Ledgers, entities: Collection[str]) -> None:
        self._snapshot = snapshot
        self._ledgers = ledgers
        self.entities = entities

    def __call__(self, entity: Entity, names: Sequence[str] | None) -> str:
        """Return the relation of an entity's states, as `StateSource` says."""
        session = literal(self._snapshot.session)
        return f"(SELECT {session} AS {SESSION.name}, * FROM {self._snapshot.source(entity, names)})"

    def ledgers(
        self, sessions: Sequence[str], inferred: Mapping[str, Mapping[str, int]]
    ) -> Mapping[str, list[LedgerRow]]:
        """Return the sessions' ledgers, as `StateSource` says."""
        return {self._snapshot.session: self._ledgers.of(self._snapshot)}


def over_views(
    statement: str, names: Collection[str], files: Mapping[str, Sequence[Path]], catalogue: Catalogue, engine: Engine
) -> str:
    """
    Return a SELECT of ours as one over views of entities, each with ``session`` before its columns.

    Args:
        statement: The SELECT. It names each column that it reads.
        names: The entities whose views it reads.
        files: The files of the sealed states of sessions, by entity.
        catalogue: The store's catalogue.
        engine: Reads the files.
    """
    source = FilesOfMany(files, catalogue, engine)
    views = []
    for name, entity in installed().items():
        if name in names:
            relation = f"({view_of(entity, source)})" if entity.view else source(entity, None)
            items = [f"{show.public(c)} AS {quote(c.name)}" for c in show.columns_in(entity, statement)]
            views.append(
                f"{quote(name)} AS (SELECT {', '.join([f'{SESSION.name} AS session', *items])} FROM {relation} s)"
            )
    return f"WITH {', '.join(views)} SELECT * FROM ({statement})"


def has(entity: Entity, begun: Collection[str]) -> bool:
    """Return whether an entity may have a state where these have some. A view may if it reads one of them."""
    return any(name in begun for name in read_by(entity))


def read_by(entity: Entity) -> list[str]:
    """Return the names of the entities that an entity's states are read from: itself, or those that it is a view of."""
    return [name for name in installed() if f"{{{name}}}" in entity.view] if entity.view else [entity.name]


def view_of(entity: Entity, source: Callable[[Entity, Sequence[str] | None], str]) -> str:
    """Return the SELECT of an entity that is a view over others, with `SESSION`."""
    view = of_many(entity).view
    for name, other in installed().items():
        if f"{{{name}}}" in view:
            view = view.replace(f"{{{name}}}", source(other, None))
    return view


def _inferred(inferred: Mapping[str, Mapping[str, int]], session: str, name: str) -> int:
    return inferred.get(name, {}).get(session, 0)
