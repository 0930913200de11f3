"""One history on disk, by what it is made of: the log, the states, the catalogue, the engine."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from raytrail import disk
from raytrail.config import StoreConfig
from raytrail.errors import NotFoundError, StoreDamaged, StoreError
from raytrail.event import LOG, Chunk, Unreadable
from raytrail.fold.moment import Moment
from raytrail.store.apart import GIVE_UP_SECONDS, Apart
from raytrail.store.append import Appender
from raytrail.store.border import Border, SetAside, set_aside, set_aside_bytes
from raytrail.store.catalogue import Catalogue, reopen
from raytrail.store.deletion import Deletions
from raytrail.store.directory import empty_scratch, lock, refuse_nameless
from raytrail.store.engine import Engine, Limits, Rows
from raytrail.store.faults import Faults, halved
from raytrail.store.figures import SHUTDOWN_SECONDS, Cluster, Figures
from raytrail.store.files import Files
from raytrail.store.filters import Filter
from raytrail.store.finder import LogFinder, output_start
from raytrail.store.layout import missing
from raytrail.store.ledger import LedgerRow, Ledgers
from raytrail.store.live import LiveFold
from raytrail.store.logs import Log, Logs, matches, newest
from raytrail.store.marks import Marks
from raytrail.store.older import unfold
from raytrail.store.overviews import Overviews
from raytrail.store.read import Snapshot
from raytrail.store.readers import Readers
from raytrail.store.requests import Requests
from raytrail.store.retention import Retention, Tidied
from raytrail.store.seal import Sealer
from raytrail.store.signatures import Signature, Signatures
from raytrail.store.sql import Sql
from raytrail.store.states import States
from raytrail.store.totals import Totals, check_readable, totals
from raytrail.store.verify import Finding, verify

log = logging.getLogger(__name__)


CACHED_ROWS = 2_000
"""A sealed session of fewer states has no tables beside its files: they take megabytes, and save it milliseconds."""


NO_SIGNATURES = "what failed cannot be summed up"
UNSEALABLE = "what there is cannot be sealed"
NO_OVERVIEW = "its overview cannot be made"
OVERVIEWS_AT_ONCE = 20
"""How many overviews that are missing are made by the way: each takes about as long as to fold a small batch."""


class Store:
    """A history on disk."""

    def __init__(self, root: Path, config: StoreConfig, *, write: bool) -> None:
        self._root = root
        self._config = config
        self._lock = threading.RLock()
        self._counts: dict[object, int] = {}
        self._faults = Faults()
        self._due: set[str] = set()
        self._lock_file: IO[str] | None = None
        if write:
            for name in ("log", "state", "tmp"):
                disk.make_private_directory(root / name)
            self._lock_file = lock(root)
        elif not (root / "catalogue.sqlite").exists():
            raise NotFoundError(f"{root}: no store there; fill one with `raytrail import` or `raytrail history`")
        try:
            if write:
                refuse_nameless(root)
            self._catalogue = Catalogue(root / "catalogue.sqlite", write=write)
        except StoreError:
            if self._lock_file is not None:
                self._lock_file.close()
            raise
        self.marks = Marks(root, self._catalogue)
        """What is held, and what was deleted."""
        self.requests = Requests(root)
        """What the store's writer is asked to do."""
        self._readers = Readers(root, write=write)
        self._engine = Engine(config, root / "tmp" if write else None)
        self._files = Files(root, self._engine)
        self._logs = Logs(root, self._catalogue)
        self._states = States(root, self._catalogue, self._engine, self._files, self._counts)
        self._apart = Apart(root, config)
        self._sql = Sql(root, config, self._catalogue, self._engine, self._states)
        self._ledgers = Ledgers(self._catalogue, self._engine)
        self._signatures = Signatures(self._catalogue, self._engine, self.snapshot, self.mark)
        self._figures = Figures(self._catalogue, self._engine, self._ledgers, self.marks, self.snapshot)
        self.overviews = Overviews(
            self._catalogue, self._engine, self._ledgers, self._figures, self.marks, self.snapshot
        )
        """What lists of clusters show."""
        # a question in SQL may have looked files up just before they were marked
        grace_seconds = config.sql_seconds + GIVE_UP_SECONDS
        self.deletions = Deletions(root, self._catalogue, self.marks, grace_seconds)
        """Says what would be deleted."""
        if write:
            empty_scratch(root)
            self._appender = Appender(root, self._catalogue, self._engine, self._files, self._logs)
            self._border = Border(
                self._catalogue, self._appender.append, self.deletions.pass_over, config.set_aside_bytes, self._faults
            )
            self._live = LiveFold(root, self._catalogue, self._engine, self._files)
            self._sealer = Sealer(root, self._catalogue, self._engine, self._files)
            self._live.retire(unfold(root, self._catalogue, self._engine, self._files))
            self.retention = Retention(
                root,
                self._catalogue,
                config,
                self.marks,
                self.deletions,
                self.requests,
                self._live.retire,
                self._appender.forget,
                self._lock,
            )
            """Deletes what is to be deleted."""
            self._sweep()

    def _sweep(self) -> None:
        self.retention.sweep()
        if self.is_unread():
            self._live.delete_retired()

    @classmethod
    def open(cls, root: Path, config: StoreConfig | None = None, *, write: bool = False) -> Store:
        """
        Open a store.

        Args:
            root: Its directory. It is made where `write` is set and it is not there.
            config: The engine's settings.
            write: Whether to append and fold. Only one process at a time may.

        Raises:
            NotFoundError: There is no store, and none is to be made.
            StoreLocked: Another process writes to it.
            StoreTooNew: A newer Raytrail wrote it.
            StoreError: The directory cannot be used.
        """
        try:
            return cls(root.expanduser().absolute(), config or StoreConfig(), write=write)
        except OSError as error:
            raise StoreError(f"{root}: {error}; choose a directory that can be written") from error

    def close(self) -> None:
        """Close it. Appended chunks are durable without that. Files that nobody names are deleted, if nobody reads."""
        self._apart.close()  # its process is a reader
        if self._lock_file is not None and self._readers.are_none():
            self._live.delete_retired()
        self._readers.close()
        self._engine.close()
        self._sql.close()
        self._catalogue.close()
        if self._lock_file is not None:
            self._lock_file.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def root(self) -> Path:
        """Its directory."""
        return self._root

    def check_readable(self) -> None:
        """
        Ask the catalogue one cheap question.

        Raises:
            StoreError: It cannot be read, or is not where it was.
        """
        check_readable(self._catalogue)

    def totals(self) -> Totals:
        """
        Return the store in figures, of its catalogue alone.

        Raises:
            StoreError: It cannot be read, or is not where it was.
        """
        return totals(self._catalogue)

    @property
    def seal_queue(self) -> int:
        """How many sessions were due when `seal_due` last looked and are not sealed, as it is at it, or they fail."""
        return len(self._due | self._faults.put_off(UNSEALABLE))

    @property
    def id(self) -> str:
        """
        The 16 hex digits that tell this store from all others.

        Empty where no writer has opened it since there are such digits.
        """
        return self._catalogue.id

    @property
    def read_in_plain_group(self) -> bool:
        """Whether a broker may still hold the state of a group of this store that had no id in its name."""
        return self._catalogue.read_in_plain_group

    def left_plain_group(self) -> None:
        """
        Note that no broker holds anything for such a group any more.

        Raises:
            StoreUnavailable: The disk is full, or fails. The next start looks at it again.
        """
        self._catalogue.left_plain_group()

    @property
    def missing_layouts(self) -> list[str]:
        """What a writer adds to the store when it opens it, since an older version has written it."""
        return missing(self._catalogue.layout)

    def append(self, chunks: Sequence[Chunk | Unreadable]) -> None:
        """
        Append chunks. Data that was appended before is passed over. An unreadable line or chunk is set aside.

        Raises:
            StoreUnavailable: The disk is full, or fails. Nothing of these chunks is stored. Append them again.
        """
        with self._lock:
            self._border.take(chunks)

    def set_aside(self) -> list[SetAside]:
        """Return what is kept of the chunks that were set aside, the newest first."""
        return set_aside(self._catalogue)

    def set_aside_bytes(self, id: str) -> bytes:
        """
        Return the bytes of a chunk that was set aside, as they came. A long one gives its first megabyte.

        Args:
            id: Its id, or as much of the beginning as no other has.

        Raises:
            NotFoundError: Nothing, or more than one thing, is kept under it.
        """
        return set_aside_bytes(self._catalogue, id)

    def fold(self) -> None:
        """
        Fold what was appended since the last time.

        Raises:
            StoreUnavailable: The disk is full, or fails. The served states are as they were. Fold again.
        """
        with self._lock:
            # reports of agents about files of a sealed session wait in its log until it is opened again
            unfolded = self._catalogue.query(
                "SELECT DISTINCT session FROM log JOIN sessions USING (session) WHERE folded = 0 AND sealed_ms IS NULL"
            )
            self._faults.each(
                "what was appended cannot be folded", (session for (session,) in unfolded), self._live.fold
            )
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
        """
        Make the overviews of some sealed sessions that have none, since an older version has sealed them.

        Raises:
            StoreUnavailable: The disk is full, or fails. They are listed with what is known of them.
        """

        def complete(session: str) -> None:
            with self._lock:
                if not self._is_open(session):  # it may have been reopened meanwhile
                    self.overviews.complete(session)

        self._faults.each(NO_OVERVIEW, self.overviews.missing(OVERVIEWS_AT_ONCE), complete)

    def cache_all(self) -> None:
        """
        Make the sealed sessions quick to ask that are not yet, small ones apart: their files are quick enough.

        Raises:
            StoreUnavailable: The disk is full, or fails. They are asked as before.
        """
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
        """
        Fold a session's log for good, and close what was left open as inferred.

        Args:
            session: Its whole name.
            quiet: Whether the only reason is that nothing was heard of it. If so, the next sign of life opens it again.
                New events open any session again.

        Raises:
            NotFoundError: There is no such session.
            StoreUnavailable: The disk is full, or fails. The served states are as they were.
        """
        with self._lock:
            if self._is_open(session):
                self._seal([session], quiet=quiet)

    def seal_all(self, sessions: Iterable[str]) -> dict[str, list[LedgerRow]]:
        """
        Seal sessions as `seal` does, many small ones at once. An error of one is raised when all others are sealed.

        Args:
            sessions: Their whole names.

        Returns:
            The ledgers of those that were not sealed before.

        Raises:
            NotFoundError: There is no such session.
            UnreadableError: One of them cannot be sealed. The others are.
            StoreUnavailable: The disk is full, or fails. The served states of those that are not sealed are as they
                were.
        """
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
        self.marks.check_there(session)
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
        for fault in halved(sessions, lambda part: self.overviews.keep(part, sealed.files)):
            self._faults.tell(NO_OVERVIEW, ", ".join(sessions), fault)
        return ledgers

    def _choose_small(self, sessions: Sequence[str]) -> list[str]:
        """Return the sessions that are too small for tables beside their files."""
        rows = self._catalogue.query("SELECT session FROM state GROUP BY session HAVING sum(rows) >= ?", CACHED_ROWS)
        return [session for session in sessions if (session,) not in rows]

    def reopen(self, session: str) -> None:
        """Have a sealed session folded and sealed anew, as something was reported of it that its states do not have."""
        with self._lock, self._catalogue.transaction() as db:
            reopen(db, session)

    def cache(self, session: str) -> None:
        """
        Make a sealed session quick to ask, where it is not yet: until then it is read from its Parquet files.

        Raises:
            StoreUnavailable: The disk is full, or fails. It is asked as before.
        """
        with self._lock:
            kinds = {file.kind for file in self._catalogue.state_files(session)}
            if "sealed" in kinds and "cache" not in kinds:
                of_files = Snapshot(self._engine, session, None, self._states, attach=False)
                self._sealer.cache(session, of_files.source, of_files.failures())
                self._signatures.keep_one(session)

    def rebuild(self, session: str) -> None:
        """
        Fold a session anew from its log alone, and seal it. Lines that were unknown when they came are read.

        Raises:
            NotFoundError: There is no such session.
            StoreDamaged: A file of the log is not what was written. All is as it was.
        """
        with self._lock:
            self.marks.check_there(session)
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

    def tidy(self, now_ms: int) -> Tidied:
        """
        Do what commands asked for, mark what the settings no longer keep, and go on deleting what is marked.

        Raises:
            StoreUnavailable: The disk is full, or fails. Do it again.
        """
        tidied = self.retention.tidy(now_ms)
        if tidied.deleted:
            self.let_go()
        return tidied

    def let_go(self) -> None:
        """Close what is open of sessions that are deleted, so that their files take no room any more."""
        with suppress(StoreError, sqlite3.Error, OSError):  # one that cannot be read now is asked again
            self._states.let_go()

    def is_unread(self) -> bool:
        """Return whether no other process reads the store at this moment, as far as it can be known."""
        try:
            return self._readers.are_none()
        finally:
            self._readers.let_in()

    def verify(self, session: str | None = None) -> Iterator[Finding]:
        """
        Read every file of the store, or of one session, and yield what is found of each, the catalogue first.

        Args:
            session: Its whole name. None means all.
        """
        return verify(self._catalogue, self._files, self._logs, self._name_sessions(session))

    def stored_bytes(self, session: str | None = None) -> int:
        """Return about how many bytes `verify` reads. States that an older version wrote are not counted."""
        return self._catalogue.size_bytes + sum(
            sum(file.bytes for file in self._catalogue.log_files(name))
            + sum(file.bytes or 0 for file in self._catalogue.state_files(name))
            + sum(body.bytes for body in self._logs.bodies(name))
            for name in self._name_sessions(session)
        )

    def _name_sessions(self, session: str | None) -> list[str]:
        if session is not None:
            return [session]
        return [name for (name,) in self._catalogue.query("SELECT session FROM sessions ORDER BY session")]

    def clusters(self) -> list[Cluster]:
        """Return every session, newest first."""
        return self._figures.every()

    def events(self) -> dict[str, int]:
        """Return how many events of each session are stored, without a look at its states as `clusters` takes."""
        return dict(
            self._catalogue.query(
                "SELECT session, coalesce(sum(events), 0) FROM counts WHERE event_type != 'FILE' GROUP BY session"
            )
        )

    def find(self, id: str) -> Cluster:
        """
        Return the session that is meant: by its name, a part of it that no other has, its cluster's name (the newest
        session of it), or ``latest``.

        Raises:
            NotFoundError: None is meant, or several are.
        """
        return self._figures.find(id)

    def sealed_before(self, cluster: Cluster, most: int) -> list[str]:
        """
        Return the last sealed sessions of a cluster's name that began before one of it, the newest first.

        Args:
            cluster: The session. One whose cluster has no name has none before it.
            most: How many.
        """
        return self._figures.sealed_before(cluster, most)

    def signatures(self, sessions: Sequence[str], most: int) -> tuple[dict[str, list[Signature]], int]:
        """
        Return the signatures of what failed in sessions, and of how many sessions they are left out.

        Args:
            sessions: Their whole names, those first that matter most.
            most: Of how many they may be worked out, as they live, or an older version sealed them.
        """
        return self._signatures.of_all(sessions, most)

    def ledger(self, session: str) -> list[LedgerRow]:
        """Return what of each event type was written, published, stored, missing, rejected and inferred."""
        return self._ledgers.of(self.snapshot(session))

    def mark(self, session: str) -> str:
        """Return what is another text once something of a session was folded since."""
        return self._figures.mark(session)

    def snapshot(self, session: str, at_ms: int | None = None) -> Snapshot:
        """
        Return a session as it was.

        Args:
            session: Its whole name.
            at_ms: The moment, in milliseconds since the epoch. None is its end, or now while it lives.

        Raises:
            NotFoundError: There is no such session.
        """
        self.marks.check_there(session)
        moment = None if at_ms is None else self._find_moment(session, at_ms)
        return Snapshot(self._engine, session, moment, self._states, self._counts)

    def _find_moment(self, session: str, at_ms: int) -> Moment | None:
        """Return a moment of a session, or None where it was over by then."""
        if not self._catalogue.query("SELECT 1 FROM sessions WHERE session = ? AND sealed_ms IS NOT NULL", session):
            return Moment(at_ms)
        cluster = self._figures.of(session)
        if cluster.ended_ms is not None and at_ms >= cluster.ended_ms:
            return None
        if cluster.ended_ms is None or at_ms != cluster.before_shutdown_ms:
            return Moment(at_ms)
        # the shutdown's effects are within seconds of its end. Later ones were told by a clock that is ahead
        return Moment(at_ms, cluster.ended_ms + SHUTDOWN_SECONDS * 1000)

    def logs(self, session: str, node_id: str | None = None, glob: str = "**", *, every: bool = False) -> list[Log]:
        """
        Return the logs of a session, by node and name.

        Args:
            session: Its whole name.
            node_id: The node, or None for all.
            glob: The pattern of their names in ``logs/``. ``*`` stays within a directory, ``**`` is any.
            every: Also those that others have the names of by now: rotated away, cut, or copied.

        Raises:
            NotFoundError: There is no such session.
        """
        reports = self.snapshot(session).rows("file", where=[Filter("event_type", "=", LOG)])
        logs = self._logs.of(session, reports)
        chosen = [
            log
            for log in (logs if every else newest(logs))
            if node_id in (None, log.node_id) and matches(log.name, glob)
        ]
        return sorted(chosen, key=lambda log: (log.node_id, log.name, log.file, log.generation))

    def log(self, session: str, name: str) -> Log | None:
        """
        Return a session's log that was first seen by that name, or None where there is not exactly one. Others of its
        name were rotated away, or cut.

        Raises:
            NotFoundError: There is no such session.
        """
        where = [Filter("event_type", "=", LOG), Filter("name", "=", name)]
        logs = self._logs.of(session, self.snapshot(session).rows("file", where=where))
        return logs[0] if len(logs) == 1 else None

    def log_finder(self, snapshot: Snapshot) -> LogFinder:
        """Return what finds the logs of tasks, actors and jobs of a snapshot."""
        session = snapshot.session
        return LogFinder(snapshot, self.logs(session), lambda *part: self.log_pieces(session, *part))

    def output_start(self, session: str, log: Log, end: int, most_blocks: int) -> int | None:
        """Return where a task's output starts that ends there, as its log says, or None where that is far off."""
        return output_start(lambda *part: self.log_pieces(session, *part), log, end, most_blocks)

    def log_pieces(self, session: str, log: Log, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
        """
        Yield what is stored of a range of a log, in pieces of 256 KB at most, each with its offset, in order.

        Args:
            session: Its whole name.
            log: As `logs` gave it.
            start: First byte.
            end: The end, after the last byte. None means all that is stored.

        Raises:
            StoreUnavailable: The disk fails.
        """
        return self._logs.pieces(session, log, start, log.size if end is None else end)

    def read_log(self, session: str, log: Log, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield a range of a log as `log_pieces` does, with a line in place of what is missing that says so."""
        return self._logs.read(session, log, start, end)

    def sql(self, statement: str, limits: Limits | None = None) -> Rows:
        """
        Answer one SELECT over all sessions: views named after the entities, each beginning with ``cluster`` and
        ``session``.

        It can read these views, and nothing else. Times with a time zone are given as text, in UTC.

        Args:
            statement: The SELECT.
            limits: How long it may take, and how many rows are given. None means as the settings say, where an answer
                of more rows is refused.

        Raises:
            ConfigError: It is not one SELECT, or asks for what is not there.
            UnreadableError: It cannot be worked out for what it meets.
            StoreUnavailable: There is no room, or the disk fails.
        """
        return self._sql.answer(statement, limits)

    def sql_apart(self, statement: str, limits: Limits, *, explain: bool = False) -> Rows:
        """
        Answer one SELECT as `sql`, in a process of its own, which is ended where the engine does not give up in time.

        Numbers of more than 64 bits, times and bytes are texts in the answer, and decimals are floats.

        Args:
            statement: The SELECT.
            limits: How long it may take, and how many rows are given.
            explain: Whether to give how the engine would answer, as the only value.

        Raises:
            ConfigError: It is not one SELECT, asks for what is not there, or takes more than it may.
            StoreError: It cannot be worked out for what it meets.
        """
        return self._apart.ask(statement, limits, explain=explain)

    def explain(self, statement: str, limits: Limits) -> str:
        """Return how the engine would answer one SELECT, as text. The arguments and errors are those of `sql`."""
        return self._sql.explain(statement, limits)
