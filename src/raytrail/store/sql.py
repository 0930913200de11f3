"""SQL over all sessions, asked by others: each entity is a view of its last states in all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from raytrail.config import StoreConfig
from raytrail.entities import Entity, installed
from raytrail.fold import merge, show
from raytrail.fold.layout import shown
from raytrail.fold.literals import literal, quote
from raytrail.fold.sessions import SESSION
from raytrail.store import ask
from raytrail.store.catalogue import Catalogue, StateFile
from raytrail.store.engine import Engine, Limits, Rows
from raytrail.store.last_states import read_by, view_of
from raytrail.store.states import States


class Sql:
    """
    What answers SELECTs over all sessions of a store.

    Args:
        root: The store's directory. The engine that answers can read its log and its states, and nothing else.
        config: The settings of that engine, which is made at the first question.
        catalogue: The store's catalogue.
        engine: The store's own engine, by which the states are looked up.
        states: The store's states.
        of: The one of the same store whose engine this asks, too. None makes its own.
    """

    def __init__(
        self,
        root: Path,
        config: StoreConfig,
        catalogue: Catalogue,
        engine: Engine,
        states: States,
        *,
        of: Sql | None = None,
    ) -> None:
        self._root = root
        self._config = config
        self._catalogue = catalogue
        self._engine = engine
        self._states = states
        self._opening = threading.Lock()
        self._asked: Engine | None = None
        self._of = of

    def close(self) -> None:
        """Close its engine, if it has one."""
        if self._asked is not None:
            self._asked.close()

    def answer(self, statement: str, limits: Limits | None = None) -> Rows:
        """
        Answer one SELECT, as `Store.sql` says.

        Raises:
            ConfigError: It is not one SELECT, or asks for what is not there.
            UnreadableError: It cannot be worked out for what it meets.
            StoreUnavailable: There is no room, or the disk fails.
        """
        engine = self._open()
        return engine.ask(self._views(engine, statement), statement, limits)

    def explain(self, statement: str, limits: Limits) -> str:
        """Return how one SELECT would be answered, as `Store.explain` says. The errors are those of `answer`."""
        engine = self._open()
        return engine.explain(self._views(engine, statement), statement, limits)

    def _open(self) -> Engine:
        if self._of is not None:
            return self._of._open()
        with self._opening:
            if self._asked is None:
                self._asked = Engine(self._config, only=(self._root / "log", self._root / "state"))
            return self._asked

    def _views(self, engine: Engine, statement: str) -> dict[str, str]:
        """Return the relations of the views that a statement asks, once it is known to be one SELECT over these."""
        known = {entity.name: entity for entity in installed().values()}
        asked = ask.tables(engine.tree(statement), known)
        sessions = self._catalogue.query("SELECT session, cluster FROM sessions")
        return {name: self._unite(known[name], sessions) for name in asked}

    def _unite(self, entity: Entity, sessions: Sequence[tuple[str, str]]) -> str:
        """Return the relation of an entity's last states in all of these sessions."""
        files = self._find_sealed(entity)
        sealed = [(session, cluster) for session, cluster in sessions if session in files]
        living = [(session, cluster) for session, cluster in sessions if session not in files]
        own = [file for session, _ in sealed for file in files[session]]

        def last(read: Entity, _: Sequence[str] | None) -> str:
            return self._states.last_of_many(read, [file for file in own if file.entity == read.name])

        def now(read: Entity, _: Sequence[str] | None) -> str:
            return self._states.living_of_many(read, [session for session, _ in living])

        parts = [
            self._select(entity, several, source) for several, source in ((sealed, last), (living, now)) if several
        ]
        if not parts:
            empty = show.view(entity, f"({merge.empty(entity, partial=False)}) s")
            parts.append(f"SELECT '' AS cluster, '' AS session, * FROM ({empty})")
        return f"({' UNION ALL BY NAME '.join(parts)})"

    def _find_sealed(self, entity: Entity) -> dict[str, list[StateFile]]:
        """Return the files of what an entity's states are made of, by session, of all sessions that are sealed."""
        sealed = "SELECT DISTINCT session FROM state WHERE kind = 'sealed'"
        files: dict[str, list[StateFile]] = {session: [] for (session,) in self._catalogue.query(sealed)}
        for session, file in self._catalogue.sealed_files(read_by(entity)):
            files.setdefault(session, []).append(file)
        return files

    def _select(
        self,
        entity: Entity,
        sessions: Sequence[tuple[str, str]],
        source: Callable[[Entity, Sequence[str] | None], str],
    ) -> str:
        """
        Return the SELECT of an entity's last states in sessions, each with its cluster.

        It reads all of them at once: a SELECT for each of a thousand sessions takes minutes to plan.

        Args:
            entity: The entity.
            sessions: The sessions, and their clusters.
            source: The relation of an entity's states in these sessions, with `SESSION`.
        """
        relation = f"({view_of(entity, source)})" if entity.view else source(entity, None)
        items = ", ".join(f"{show.public(column)} AS {quote(column.name)}" for column in shown(entity))
        clusters = ", ".join(f"({literal(session)}, {literal(cluster)})" for session, cluster in sessions)
        return (
            f"SELECT cluster, session, * EXCLUDE (cluster, session, _of) FROM "
            f"(SELECT {SESSION.name} AS session, {items} FROM {relation} s) "
            f"JOIN (VALUES {clusters}) c(_of, cluster) ON _of = session"
        )
