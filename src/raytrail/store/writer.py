"""What the one process does that writes to a store: it appends, folds and seals, and makes what is asked often."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from raytrail.config import StoreConfig
from raytrail.errors import StoreDamaged
from raytrail.event import Chunk, Unreadable
from raytrail.store.append import Appender
from raytrail.store.border import Border
from raytrail.store.catalogue import Catalogue, reopen
from raytrail.store.deletion import Deletions
from raytrail.store.directory import empty_scratch
from raytrail.store.engine import Engine
from raytrail.store.faults import Faults, halved
from raytrail.store.figures import Figures
from raytrail.store.files import Files
from raytrail.store.ledger import LedgerRow
from raytrail.store.live import LiveFold
from raytrail.store.logs import Logs
from raytrail.store.marks import Marks
from raytrail.store.older import unfold
from raytrail.store.overviews import Overviews
from raytrail.store.read import Snapshot
from raytrail.store.requests import Requests
from raytrail.store.retention import Retention
from raytrail.store.seal import Sealer
from raytrail.store.signatures import Signatures
from raytrail.store.states import States

log = logging.getLogger(__name__)

CACHED_ROWS = 2_000
"""A sealed session of fewer states has no tables beside its files: they take megabytes, and save it milliseconds."""

NO_SIGNATURES = "what failed cannot be summed up"
UNFOLDABLE = "what was appended cannot be folded"
UNSEALABLE = "what there is cannot be sealed"
NO_OVERVIEW = "its overview cannot be made"
OVERVIEWS_AT_ONCE = 20
"""How many overviews that are missing are made by the way: each takes about as long as to fold a small batch."""


class Writer:
    """
    Appends to a store, folds and seals. One process at a time may.

    What it was killed over, and what an older version wrote in another way, is put in order first.

    Args:
        root: The store's directory.
        config: Its settings.
        catalogue: Its catalogue.
        engine: The engine that folds.
        files: Its files of events and states.
        logs: What Ray and its workers wrote for people.
        states: The states that are read.
        figures: Keeps the figures of what is sealed.
        signatures: Keeps the signatures of what failed in it.
        overviews: Keeps what lists of clusters show of it.
        marks: Reads what is held, and what was deleted.
        deletions: Deletes sessions.
        requests: Has what commands ask for.
    """

    def __init__(
        self,
        root: Path,
        config: StoreConfig,
        catalogue: Catalogue,
        engine: Engine,
        files: Files,
        logs: Logs,
        states: States,
        *,
        figures: Figures,
        signatures: Signatures,
        overviews: Overviews,
        marks: Marks,
        deletions: Deletions,
        requests: Requests,
    ) -> None:
        self._root = root
        self._config = config
        self._catalogue = catalogue
        self._engine = engine
        self._files = files
        self._logs = logs
        self._states = states
        self._figures = figures
        self._signatures = signatures
        self._overviews = overviews
        self._marks = marks
        self._lock = threading.RLock()
        self._faults = Faults()
        self._due: set[str] = set()
        empty_scratch(root)
        self._appender = Appender(root, catalogue, engine, files, logs)
        self._border = Border(
            catalogue, self._appender.append, deletions.pass_over, config.set_aside_bytes, self._faults
        )
        self._live = LiveFold(root, catalogue, engine, files)
        self._sealer = Sealer(root, catalogue, engine, files)
        self._live.retire(unfold(root, catalogue, engine, files))
        self.retention = Retention(
            root,
            catalogue,
            config,
            marks,
            deletions,
            requests,
            self._live.retire,
            self._appender.forget,
            self._lock,
        )
        """Deletes what is to be deleted."""
        self.retention.sweep()

    def delete_retired(self) -> None:
        """Delete the files that nobody names any more. Nobody may be reading the store."""
        self._live.delete_retired()

    @property
    def seal_queue(self) -> int:
        """How many sessions were due when `seal_due` last looked and are not sealed, as it is at it, or they fail."""
        return len(self._due | self._faults.put_off(UNSEALABLE))

    @property
    def failing(self) -> dict[str, int]:
        """How many sessions could not be folded or sealed when that was last tried, by what was tried."""
        return {"fold": len(self._faults.put_off(UNFOLDABLE)), "seal": len(self._faults.put_off(UNSEALABLE))}

    def append(self, chunks: Sequence[Chunk | Unreadable]) -> None:
        """Append chunks, as `Store.append` says."""
        with self._lock:
            self._border.take(chunks)

    def fold(self) -> None:
        """Fold what was appended since the last time, as `Store.fold` says."""
        with self._lock:
            # reports of agents about files of a sealed session wait in its log until it is opened again
            unfolded = self._catalogue.query(
                "SELECT DISTINCT session FROM log JOIN sessions USING (session) WHERE folded = 0 AND sealed_ms IS NULL"
            )
            self._faults.each(UNFOLDABLE, (session for (session,) in unfolded), self._live.fold)
            logs = self._catalogue.query("SELECT DISTINCT session FROM bodies JOIN sessions USING (session)")
            self._faults.each("its logs cannot be gathered", (session for (session,) in logs), self._gather)

    def _gather(self, session: str) -> None:
        self._live.retire(self._logs.gather(session))

    def _gather_all(self, session: str) -> None:
        try:
            self._live.retire(self._logs.gather(session, every=True))
        except StoreDamaged as damage:
            log.error("%s; what else is stored of the session's logs stays where it is", damage)

    def seal_due(self, now_ms: int) -> list[str]:
        """Seal the sessions that ended or went quiet, and return their names."""
        rows = self._catalogue.query(
            "SELECT session, last_heard_ms, last_grew_ms FROM sessions WHERE sealed_ms IS NULL"
        )
        ages = {session: ((now_ms - heard) / 1000, (now_ms - grew) / 1000) for session, heard, grew in rows}
        due: dict[str, bool] = {}
        sealed: list[str] = []

        def judge(session: str) -> None:
            quiet_seconds, still_seconds = ages[session]
            if still_seconds >= self._config.seal_after_end_seconds and self._figures.ended_ms(session) is not None:
                due[session] = False
            elif quiet_seconds >= self._config.seal_after_quiet_seconds:
                due[session] = True

        def seal(session: str) -> None:
            self.seal(session, quiet=due[session])
            sealed.append(session)
            self._due.discard(session)

        self._faults.each(UNSEALABLE, ages, judge)
        self._due = set(due)
        self._faults.each(UNSEALABLE, due, seal)
        self._throw_away()
        self.cache_all()
        self.complete_overviews()
        return sealed

    def complete_overviews(self) -> None:
        """Make some of the overviews that are missing, as `Store.complete_overviews` says."""

        def complete(session: str) -> None:
            with self._lock:
                if not self._is_open(session):  # it may have been reopened meanwhile
                    self._overviews.complete(session)

        self._faults.each(NO_OVERVIEW, self._overviews.missing(OVERVIEWS_AT_ONCE), complete)

    def cache_all(self) -> None:
        """Make the larger sealed sessions quick to ask that are not yet, as `Store.cache_all` says."""
        # those too that were sealed by a process that was killed before this
        uncached = self._catalogue.query(
            "SELECT session FROM sessions JOIN state USING (session) WHERE sealed_ms IS NOT NULL "
            "GROUP BY session HAVING count(*) FILTER (WHERE kind = 'cache') = 0 AND sum(rows) >= ?",
            CACHED_ROWS,
        )
        self._faults.each(
            "what is sealed cannot be made quick to ask", (session for (session,) in uncached), self.cache
        )

    def _throw_away(self) -> None:
        """Throw away the caches that turned out to be damaged, so that they are made anew."""
        if lost := self._states.take_lost():
            with self._lock, self._catalogue.transaction() as db:
                db.executemany("DELETE FROM state WHERE path = ? AND session = ?", lost.items())
            for path in lost:
                (self._root / path).unlink(missing_ok=True)

    def seal(self, session: str, *, quiet: bool = False) -> None:
        """Fold a session's log for good, as `Store.seal` says."""
        with self._lock:
            if self._is_open(session):
                self._seal([session], quiet=quiet)

    def seal_all(self, sessions: Iterable[str]) -> dict[str, list[LedgerRow]]:
        """Seal sessions, many small ones at once, as `Store.seal_all` says."""
        ledgers: dict[str, list[LedgerRow]] = {}
        faults: list[Exception] = []
        with self._lock:
            for together in self._sealer.at_once(filter(self._is_open, sessions)):
                faults += halved(together, lambda part: ledgers.update(self._seal(part)))
        if faults:
            raise faults[0]
        return ledgers

    def _is_open(self, session: str) -> bool:
        """Return whether a session is still to be sealed."""
        self._marks.check_there(session)
        return not self._catalogue.query("SELECT 1 FROM sessions WHERE session = ? AND sealed_ms IS NOT NULL", session)

    def _seal(self, sessions: Sequence[str], *, quiet: bool = False) -> dict[str, list[LedgerRow]]:
        for session in sessions:
            self._live.fold(session, at_once=True)
            self._live.forget(session)
            self._gather_all(session)
        sealed = self._sealer.seal(sessions, quiet=quiet)
        self._live.retire(sealed.old)
        self._appender.forget(sessions)
        ledgers = self._figures.keep(sessions, sealed.files)
        if small := self._choose_small(sessions):
            for fault in halved(small, lambda part: self._signatures.keep(part, sealed.files)):
                self._faults.tell(NO_SIGNATURES, ", ".join(small), fault)
        for fault in halved(sessions, lambda part: self._overviews.keep(part, sealed.files)):
            self._faults.tell(NO_OVERVIEW, ", ".join(sessions), fault)
        return ledgers

    def _choose_small(self, sessions: Sequence[str]) -> list[str]:
        """Return the sessions that are too small for tables beside their files."""
        rows = self._catalogue.query("SELECT session FROM state GROUP BY session HAVING sum(rows) >= ?", CACHED_ROWS)
        return [session for session in sessions if (session,) not in rows]

    def reopen(self, session: str) -> None:
        """Have a sealed session folded and sealed anew."""
        with self._lock, self._catalogue.transaction() as db:
            reopen(db, session)

    def cache(self, session: str) -> None:
        """Make a sealed session quick to ask, as `Store.cache` says."""
        with self._lock:
            kinds = {file.kind for file in self._catalogue.state_files(session)}
            if "sealed" in kinds and "cache" not in kinds:
                of_files = Snapshot(self._engine, session, None, self._states, attach=False)
                self._sealer.cache(session, of_files.source, of_files.failures())
                self._signatures.keep_one(session)

    def rebuild(self, session: str) -> None:
        """Fold a session anew from its log alone, and seal it, as `Store.rebuild` says."""
        with self._lock:
            self._marks.check_there(session)
            self._files.paths(self._catalogue.log_files(session))
            self._appender.read_unknown(session)
            self._live.forget(session)
            with self._catalogue.transaction() as db:
                old = db.execute("SELECT path FROM state WHERE session = ?", (session,)).fetchall()
                db.execute("DELETE FROM state WHERE session = ?", (session,))
                db.execute("UPDATE log SET folded = 0 WHERE session = ?", (session,))
                db.execute("UPDATE sessions SET sealed_ms = NULL WHERE session = ?", (session,))
            self._live.retire([self._root / path for (path,) in old])
            self.seal(session)
