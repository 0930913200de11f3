"""
A history as somebody sees it who may read the clusters of some names only.

All that is read of a store is found by its catalogue. A view in the place of each of the catalogue's tables leaves the
sessions of other clusters out. Lists, searches, counts and SQL then know nothing of them, and none of these has to ask
who may read what.
"""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

from raytrail.store.catalogue import Catalogue
from raytrail.store.engine import Limits, Rows
from raytrail.store.figures import Figures
from raytrail.store.ledger import Ledgers
from raytrail.store.logs import Logs
from raytrail.store.marks import Marks
from raytrail.store.overviews import Made, Overviews
from raytrail.store.signatures import Signatures
from raytrail.store.sql import Sql
from raytrail.store.store import Store

SHARED = frozenset({"meta", "texts", "grown"})
"""Tables that say nothing of a session by themselves. What they hold is asked for by what another table names."""
_READABLE = (
    "EXISTS (SELECT 1 FROM main.sessions s WHERE s.session = {session} "
    "AND EXISTS (SELECT 1 FROM temp.readable r WHERE s.cluster GLOB r.pattern))"
)
_CONDITIONS: Mapping[str, str] = {
    "session": _READABLE.format(session="t.session"),
    "overview": (
        f"EXISTS (SELECT 1 FROM main.overview o WHERE o.id = t.overview AND {_READABLE.format(session='o.session')})"
    ),
}
"""When a row is seen, by the column that says whose it is."""


class RestrictedCatalogue(Catalogue):
    """
    A catalogue without the sessions of other clusters, to read.

    Args:
        path: Its file.
        clusters: Patterns of the names of clusters. ``*`` is any text, ``?`` one character.
    """

    def __init__(self, path: Path, clusters: Sequence[str]) -> None:
        self._clusters = clusters
        super().__init__(path, write=False)

    def _connect(self) -> sqlite3.Connection:
        db = super()._connect()
        # whoever forgets the store may still be answering by what it had
        weakref.finalize(self, db.close)
        db.execute("CREATE TEMP TABLE readable(pattern TEXT)")
        # a bracket begins a set in GLOB, and is nothing special in a pattern of ours
        patterns = [(pattern.replace("[", "[[]"),) for pattern in self._clusters]
        db.executemany("INSERT INTO temp.readable VALUES(?)", patterns)
        tables = db.execute("SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*'")
        for (table,) in tables.fetchall():
            if table not in SHARED:
                columns = {name for (name,) in db.execute("SELECT name FROM pragma_table_info(?, 'main')", (table,))}
                # a table that does not say whose its rows are is seen by nobody
                seen = next((shown for column, shown in _CONDITIONS.items() if column in columns), "false")
                db.execute(f"CREATE TEMP VIEW {table} AS SELECT * FROM main.{table} t WHERE {seen}")
        return db

    def _check_pages(self) -> None:
        """
        Look at no page: that was done when the store was opened.

        A process that closes a file gives up all of its locks on it, those of the store's own connection among them.
        """


class _Overviews(Overviews):
    """Those of a store's overviews that a restricted catalogue has the sessions of."""

    def __init__(self, of: Overviews, catalogue: Catalogue, marks: Marks) -> None:
        super().__init__(catalogue, of._engine, of._ledgers, of._figures, marks, of._snapshot)
        self._of = of

    def _find_others(self) -> dict[str, Made]:
        # worked out once for everybody
        every = self._of._find_others()
        readable = {session for (session,) in self._catalogue.query("SELECT session FROM sessions")}
        return {session: made for session, made in every.items() if session in readable}


class RestrictedStore(Store):
    """
    A store without the sessions of other clusters, to read. It shares all but the catalogue with the store.

    Args:
        store: The store. It must be open as long as this is.
        clusters: Patterns of the names of clusters. ``*`` is any text, ``?`` one character.
    """

    def __init__(self, store: Store, clusters: Sequence[str]) -> None:
        self._root, self._config = store._root, store._config
        self._counts = store._counts
        self._engine, self._files = store._engine, store._files
        self._states, self._apart = store._states, store._apart
        self._clusters = tuple(clusters)
        self._catalogue = RestrictedCatalogue(store._root / store._catalogue.name, clusters)
        self.marks = Marks(store._root, self._catalogue)
        self._logs = Logs(store._root, self._catalogue)
        self._sql = Sql(store._root, store._config, self._catalogue, store._engine, store._states, of=store._sql)
        self._ledgers = Ledgers(self._catalogue, store._engine)
        # in no cycle: what is forgotten is then closed at once, with its files
        proxy = weakref.proxy(self)
        snapshot, mark = lambda session: proxy.snapshot(session), lambda session: proxy.mark(session)
        known = store._signatures.known
        self._signatures = Signatures(self._catalogue, store._engine, snapshot, mark, known=known)
        self._figures = Figures(
            self._catalogue, store._engine, self._ledgers, self.marks, snapshot, known=store._figures.known
        )
        self.overviews = _Overviews(store.overviews, self._catalogue, self.marks)

    def close(self) -> None:
        """Close its catalogue. The store stays open."""
        self._catalogue.close()

    def sql_apart(self, statement: str, limits: Limits, *, explain: bool = False) -> Rows:
        """Answer one SELECT as `Store.sql_apart`, over the sessions that it has."""
        return self._apart.ask(statement, limits, explain=explain, clusters=self._clusters)
