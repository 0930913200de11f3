"""
The store's contents in SQLite, which are sessions, files of the log and of the state, and the byte ranges seen.

A batch's rows lie in Parquet files that nobody knows of until one transaction here names them, together with the
ranges that they came from. A file that no row names is a leftover of a crash, and is deleted on opening.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from raytrail import disk
from raytrail.errors import StoreDamaged, StoreError, StoreTooNew, StoreUnavailable
from raytrail.store.layout import ADD_UP, COMMITS, ID, KNOWN, PLAIN_GROUP, VERSION, migrate, missing_sums
from raytrail.store.pages import Pages
from raytrail.store.ranges import Extent, FileKey, Ranges

CHECKPOINT_COMMITS = 64
"""After how many transactions the write-ahead log is copied into the database, and the pages' checksums are noted."""

CHECKPOINT_BYTES = 4 * 1024 * 1024
"""The same, by how much that log has grown."""

AT_ONCE = 500
"""How many files are looked up one by one, rather than all of their session."""
_GROWN_BATCHES = 256
"""The number of batches whose grown files are noted."""
_GROWN_FILES = 2_000
"""How many files of a batch are noted. A batch with more, which is dear already, has none noted."""


class LogFile(NamedTuple):
    """A file of the log."""

    id: int
    session: str
    entity: str
    path: str
    events: int
    bytes: int
    crc32: int | None
    """None of one that an older version wrote."""


class StateFile(NamedTuple):
    """A file of folded states."""

    entity: str
    kind: str
    """
    ``closed`` and ``open`` hold partial states of a live session, ``sealed`` the states of a sealed one.

    ``superseded`` names rows of ``closed`` files whose keys have later ones. ``cache`` is the tables of a sealed
    session.
    """
    path: str
    rows: int
    bytes: int | None
    """None of one that an older version wrote, as its checksum."""
    crc32: int | None


class _Stamp(NamedTuple):
    """A value that differs once the database was changed."""

    inode: int
    size_bytes: int
    changed_ns: int
    wal_bytes: int


def _opened(path: Path, how: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path), errors='surrogateescape')}?{how}"
    return sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None, timeout=30)


def _close_keeping_log(db: sqlite3.Connection, path: Path) -> None:
    """
    Close a database whose write-ahead log has pages that are not noted yet, and leave them to the next writer.

    SQLite copies the log when the last one closes who may write.
    """
    try:
        with closing(_opened(path, "mode=ro")) as other:
            other.execute("SELECT 1 FROM sqlite_master").fetchone()
            db.close()
    except sqlite3.Error:  # it cannot be read: nor is there anything to copy
        db.close()


class Catalogue:
    """The store's only mutable file. One writer, and any number of readers that each see whole transactions."""

    def __init__(self, path: Path, *, write: bool) -> None:
        self._path = path
        self._write = write
        self._lock = threading.RLock()
        self._pages = Pages(path)
        self._commits = 0
        self._log_bytes = 0
        self._alone: _Stamp | None = None
        """The state of the files when this was opened as a database that nobody changes. None where it was not."""
        if write and not path.exists():
            self._pages.forget()  # somebody has deleted the other one
            disk.create_private(path)
        try:
            commits = self._pages.commits()
            self._db = self._connect()
            # run when nobody closes it, too
            self._keep_log = weakref.finalize(self, _close_keeping_log, self._db, path) if write else None
            self._check(commits)
            if write:
                self._prepare()
            tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master")}
            self.keeps_logs = "frames" in tables
            """False where it is only read, and was last written by a Raytrail that kept no logs."""
            self.keeps_set_aside = "set_aside" in tables
            """The same of what was set aside."""
            self.keeps_sums = not missing_sums(self._db)
            """The same of the files' checksums."""
            self.keeps_signatures = "signatures" in tables
            """The same of the signatures of failures."""
            self.keeps_overviews = "overview" in tables
            """The same of what a list of clusters shows."""
            self.keeps_deletions = "deleted" in tables
            """The same of holds and of what was deleted."""
            self._keeps_extents, self._keeps_grown = "extents" in tables, "grown" in tables
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{path}: {error}; is it a Raytrail store, on a local disk with room left?") from error

    def _check(self, commits: int) -> None:
        """Refuse what a newer version has written, and what has fewer transactions than were noted before."""
        made = self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
        meta = dict(self._db.execute("SELECT key, value FROM meta").fetchall()) if made else {}
        version, actual = int(meta.get(VERSION, KNOWN)), int(meta.get(COMMITS, commits))
        if version > KNOWN:
            raise StoreTooNew(
                f"{self._path}: written by a newer Raytrail (layout {version}, this one knows {KNOWN}); "
                "upgrade this one"
            )
        if actual < commits:
            raise self._damaged(
                f"its last {commits - actual} transactions are gone, which were in {self._path.name}-wal"
            )

    def _prepare(self) -> None:
        """Make what is missing of it, and have it written as this version does."""
        self._db.execute("PRAGMA journal_mode=WAL")
        # a batch is acknowledged to the broker once it is here: it must survive the machine too
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA secure_delete=1")  # who has a session deleted wants its texts gone from the file, too
        self._db.execute("PRAGMA wal_autocheckpoint=0")  # `_checkpoint` notes what it changes
        self._db.execute("BEGIN IMMEDIATE")
        migrate(self._db)
        self._db.execute("COMMIT")
        self._pages.complete()
        self._checkpoint()

    def _count(self) -> int:
        """Count this transaction, and return how many there were with it."""
        [(commits,)] = self._db.execute(
            "UPDATE meta SET value = value + 1 WHERE key = ? RETURNING value", (COMMITS,)
        ).fetchall()
        return int(commits)

    def _checkpoint(self) -> None:
        """
        Copy the write-ahead log into the database, as far as readers let it, and note its pages. The lock is held.

        SQLite writes that log over at a transaction after all of it is copied. A page that cannot be noted is in the
        log still.

        Raises:
            OSError: The disk is full, or fails.
        """
        [(_, frames, _)] = self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._pages.note(frames)
        self._commits, self._log_bytes = 0, self._measure_log()

    def _checkpoint_if_due(self) -> None:
        grown = self._measure_log() - self._log_bytes
        if self._commits >= CHECKPOINT_COMMITS or grown >= CHECKPOINT_BYTES:
            try:
                self._checkpoint()
            except OSError as error:
                raise self._unavailable(error) from error

    def _measure_log(self) -> int:
        try:
            return os.stat(f"{self._path}-wal").st_size
        except FileNotFoundError:
            return 0

    def _connect(self) -> sqlite3.Connection:
        """
        Open the database.

        It needs a file beside it, also to be read. If none can be made, it is read as a file that nobody changes, as
        long as that is so.
        """
        self._check_pages()
        if self._write:
            return _opened(self._path, "mode=rwc")
        db = _opened(self._path, "mode=ro")
        try:
            db.execute("SELECT 1 FROM sqlite_master").fetchone()
            return db
        except sqlite3.OperationalError:
            db.close()
            if os.access(self._path.parent, os.W_OK):
                raise
        stamp = self._stamp()
        if stamp.wal_bytes:
            raise StoreError(
                f"{self._path}: its writer was killed, and it lies where nothing can be written: {self._path}-wal "
                "holds what is not in it yet; copy the store to where it can be written, and open it there"
            )
        self._alone = stamp
        return _opened(self._path, "mode=ro&immutable=1")

    def _stamp(self) -> _Stamp:
        status = os.stat(self._path)
        return _Stamp(status.st_ino, status.st_size, status.st_mtime_ns, self._measure_log())

    def _check_pages(self) -> None:
        if pages := self._pages.damaged():
            raise self._damaged(f"page {pages[0]} is not what was written")

    def _damaged(self, how: str) -> StoreDamaged:
        return StoreDamaged(
            f"{self._path}: {how}; bring it and {self._path.name}-sums back from a copy of the store, "
            "or move the store away and import again"
        )

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(f"{self._path}: {error}; make room on the disk or mend it, and go on")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Say of what SQLite finds malformed, which alone has no kind of its own, that it is damaged."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:
                raise
            raise self._damaged(str(error)) from error

    def _follow_changes(self) -> None:
        """Open it anew where it was opened as one that nobody changes, and somebody has. The lock is held."""
        if self._alone is not None and self._alone != self._stamp():
            self._alone = None
            self._db.close()
            self._db = self._connect()

    @property
    def name(self) -> str:
        """The name of its file."""
        return self._path.name

    @property
    def size_bytes(self) -> int:
        """How large its file is."""
        return self._path.stat().st_size

    @property
    def layout(self) -> int:
        """The number of its layout. The first two versions left 0 there."""
        [(made,)] = self.query("PRAGMA user_version")
        return int(made)

    @property
    def has_sums(self) -> bool:
        """Whether the checksums of all of its pages are known. It holds as long as nobody writes."""
        return not self._pages.unknown()

    def verify(self) -> None:
        """
        Read all of it.

        Raises:
            StoreDamaged: It is not what was written.
        """
        self._check_pages()
        [(problem,)] = self.query("PRAGMA integrity_check(1)")
        if problem != "ok":
            raise self._damaged(problem)

    @property
    def id(self) -> str:
        """
        The 16 hex digits that tell this store from all others.

        Empty where no writer has opened it since there are such digits.
        """
        return next((value for (value,) in self.query("SELECT value FROM meta WHERE key = ?", ID)), "")

    @property
    def read_in_plain_group(self) -> bool:
        """Whether a broker may still hold the state of a group of this store that had no id in its name."""
        return bool(self.query("SELECT 1 FROM meta WHERE key = ?", PLAIN_GROUP))

    def left_plain_group(self) -> None:
        """
        Note that no broker holds anything for such a group any more.

        Raises:
            StoreUnavailable: The disk is full, or fails. The next start looks at it again.
        """
        with self.transaction() as db:
            db.execute("DELETE FROM meta WHERE key = ?", (PLAIN_GROUP,))

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            if self._keep_log is not None and self._keep_log.alive:
                try:
                    self._checkpoint()
                except (OSError, sqlite3.Error):
                    self._keep_log()
                else:
                    self._keep_log.detach()
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """
        Commit what is done inside together, or nothing of it.

        Raises:
            StoreUnavailable: The disk is full, or fails. Nothing was changed.
        """
        with self._lock:
            try:
                with self._errors():
                    self._checkpoint_if_due()
                    self._db.execute("BEGIN IMMEDIATE")
                    try:
                        yield self._db
                        commits = self._count()
                        self._db.execute("COMMIT")
                    except BaseException:
                        if self._db.in_transaction:
                            self._db.execute("ROLLBACK")
                        raise
                self._commits += 1
                with suppress(OSError):  # the next one counts it
                    self._pages.count(commits)
            except (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.ProgrammingError):
                raise  # the data to be written is at fault, and no disk
            except sqlite3.Error as error:
                raise self._unavailable(error) from error

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """See one moment of the catalogue throughout."""
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
            self._follow_changes()
            with self._errors():
                self._db.execute("BEGIN")
                try:
                    yield self._db
                finally:
                    self._db.execute("ROLLBACK")

    def query(self, sql: str, *params: Any) -> list[Any]:
        """Return the rows of one SELECT."""
        with self._lock:
            if not self._db.in_transaction:
                self._follow_changes()
            with self._errors():
                return self._db.execute(sql, params).fetchall()

    def ranges(self, key: FileKey) -> Ranges:
        """Return the ranges of a file that are stored."""
        return Ranges(
            self.query("SELECT start, end FROM ranges WHERE session = ? AND file = ? AND generation = ?", *key)
        )

    def grown(self, session: str, since: int | None) -> tuple[int, list[tuple[str, int]] | None]:
        """
        Return the number of the last batch, and the files and generations of a session that grew after one.

        Args:
            session: Its whole name.
            since: The number of a batch. None is before all.

        Returns:
            None in place of the files where it is not known any more which they are.
        """
        if not self._keeps_grown:
            return 0, None
        [(oldest, newest)] = self.query("SELECT coalesce(min(id), 1), coalesce(max(id), 0) FROM grown")
        if since is None or since < oldest - 1:
            return newest, None
        texts = [text for (text,) in self.query("SELECT files FROM grown WHERE id > ?", since)]
        if None in texts:
            return newest, None
        keys = [key for text in texts for key in msgspec.json.decode(text, type=list[FileKey])]
        return newest, [*dict.fromkeys((key.file, key.generation) for key in keys if key.session == session)]

    def extents(self, session: str) -> dict[str, Extent]:
        """Return what the ranges of a session's files add up to, by event type."""
        source = "extents" if self._keeps_extents else f"({ADD_UP})"
        rows = self.query(f"SELECT event_type, files, ends, stored FROM {source} WHERE session = ?", session)
        return {event_type: Extent(*map(int, rest)) for event_type, *rest in rows}

    def files_with_holes(self, session: str, event_type: str, most: int) -> list[tuple[str, int]]:
        """Return the first files, and generations, that bytes are missing of before what is stored last."""
        return self.query(
            "SELECT file, generation FROM ranges JOIN file_types USING (session, file) "
            "WHERE session = ? AND event_type = ? GROUP BY file, generation HAVING sum(end - start) < max(end) "
            "ORDER BY file, generation LIMIT ?",
            session,
            event_type,
            most,
        )

    def log_files(self, session: str, entity: str | None = None, *, unfolded: bool = False) -> list[LogFile]:
        """Return the files of a session's log, oldest first."""
        crc32 = "crc32" if self.keeps_sums else "NULL"
        sql = f"SELECT id, session, entity, path, events, bytes, {crc32} FROM log WHERE session = ?"
        params: list[Any] = [session]
        if entity is not None:
            sql += " AND entity = ?"
            params.append(entity)
        if unfolded:
            sql += " AND folded = 0"
        return [LogFile(*row) for row in self.query(sql + " ORDER BY id", *params)]

    def names(self, session: str, path: str) -> bool:
        """Return whether a file of a session is named."""
        tables = ("log", "state", *(["bodies"] if self.keeps_logs else []))
        each = " UNION ALL ".join(f"SELECT 1 FROM {table} WHERE session = ? AND path = ?" for table in tables)
        return bool(self.query(each, *(session, path) * len(tables)))

    def state_files(self, session: str, entity: str | None = None) -> list[StateFile]:
        """Return the files of a session's states."""
        sql = f"SELECT {self._state_columns} FROM state WHERE session = ?"
        params: list[Any] = [session]
        if entity is not None:
            sql += " AND entity = ?"
            params.append(entity)
        return [StateFile(*row) for row in self.query(sql, *params)]

    def sealed_files(self, entities: Sequence[str]) -> list[tuple[str, StateFile]]:
        """Return the files of entities' sealed states in all sessions, each with its session."""
        entity = f"entity IN ({', '.join('?' * len(entities))})"
        sql = f"SELECT session, {self._state_columns} FROM state WHERE kind = 'sealed' AND {entity}"
        return [(session, StateFile(*row)) for session, *row in self.query(sql, *entities)]

    @property
    def _state_columns(self) -> str:
        return f"entity, kind, path, rows, {'bytes, crc32' if self.keeps_sums else 'NULL, NULL'}"


def name_state(db: sqlite3.Connection, session: str, state: StateFile) -> None:
    """Name a file of a session's states."""
    db.execute("INSERT INTO state VALUES(?, ?, ?, ?, ?, ?, ?)", (session, *state))


def note_growth(db: sqlite3.Connection, files: Sequence[FileKey]) -> None:
    """Note which files a batch brings ranges of."""
    text = msgspec.json.encode(files).decode() if len(files) <= _GROWN_FILES else None
    db.execute("INSERT INTO grown(files) VALUES(?)", (text,))
    db.execute("DELETE FROM grown WHERE id <= (SELECT max(id) FROM grown) - ?", (_GROWN_BATCHES,))


def reopen(db: sqlite3.Connection, session: str) -> None:
    """
    Have a session folded anew, since it was sealed and grows after all.

    A session that is not sealed stays as it is.
    """
    if db.execute(
        "UPDATE sessions SET sealed_ms = NULL WHERE session = ? AND sealed_ms IS NOT NULL", (session,)
    ).rowcount:
        db.execute("UPDATE log SET folded = 0 WHERE session = ?", (session,))
        db.execute("DELETE FROM state WHERE session = ?", (session,))
        db.execute("DELETE FROM quiet WHERE session = ?", (session,))
