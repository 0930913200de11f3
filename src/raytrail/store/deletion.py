"""
Deletion of sessions: marked first, in one transaction, and done later, a piece at a time.

From the mark on, nobody lists or opens the session. Its files stay until no question can still be reading them. Then a
piece of work deletes some files, and after that the rows that name them. A crash at any point leaves rows that name
files that may be gone, which the next piece deletes again. The row in ``deleted`` stays, so that events that come late
do not make half a session of it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from raytrail import disk
from raytrail.errors import ConfigError, NotFoundError, StoreUnavailable
from raytrail.event import SET_ASIDE, UNKNOWN_SESSION, Chunk, Unreadable
from raytrail.store.catalogue import Catalogue
from raytrail.store.directory import KINDS, delete_file
from raytrail.store.layout import KNOWS_DELETIONS, require
from raytrail.store.marks import Deleted, Marks
from raytrail.store.overviews import delete_overview

PIECE_FILES = 100
"""How many files are deleted at once."""

PIECE_ROWS = 20_000
"""How many rows of the catalogue are deleted at once: some 50 ms."""

PUT_OFF_SECONDS = 600.0
"""How long a session is let be whose files a link leads away from, or are somebody else's."""

OF_REPORTS = ("FILE",)
"""The types of chunks that agents report of themselves. They go on after a session's end, and no data is lost."""

_LARGE = {
    "ranges": "session, file, generation, start",
    "frames": "session, file, generation, start",
    "file_types": "session, file",
    "rejected": "session, file, generation, line_offset",
    "set_aside": "number",
}
"""The tables that may have a million rows of a session, each with its key."""

_SMALL = ("signatures", "signed", "quiet", "counts", "extents", "sessions")

FILES = ("log", "state", "bodies")
"""The tables that name files."""

log = logging.getLogger(__name__)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A session that somebody wants to be deleted."""

    session: str
    cluster: str
    """The name its operator gave it. It may be empty."""
    events: int
    bytes: int
    """The bytes of its files."""
    refusal: str
    """Why it cannot be deleted. Empty where it can be."""


class _Sizes(NamedTuple):
    chunks_set_aside: int
    rejected_lines: int
    unknown_lines: int


class Deletions:
    """
    Holds, marks and deletes the sessions of a store.

    Args:
        root: The store's directory.
        catalogue: Its catalogue.
        marks: Reads what is held, and what was deleted.
        grace_seconds: How long after a mark somebody may still read the session.
    """

    def __init__(self, root: Path, catalogue: Catalogue, marks: Marks, grace_seconds: float) -> None:
        self._root = root
        self._catalogue = catalogue
        self._marks = marks
        self.grace_seconds = grace_seconds
        self._warned: set[str] = set()
        self._put_off: dict[str, float] = {}
        self._first_seen: dict[str, float] = {}

    def plan(self, session: str) -> Plan:
        """
        Return what would be deleted of a session.

        Raises:
            NotFoundError: There is no such session.
        """
        with self._catalogue.reading():  # a history may mark it meanwhile
            self._marks.check_there(session)
            [(cluster, sealed_ms)] = self._catalogue.query(
                "SELECT cluster, sealed_ms FROM sessions WHERE session = ?", session
            )
            [(events,)] = self._catalogue.query(
                "SELECT coalesce(sum(events), 0) FROM counts WHERE session = ? AND event_type != 'FILE'", session
            )
            hold = self._marks.hold_of(session)
        refusal = ""
        if session == UNKNOWN_SESSION:
            refusal = "it counts what named no session; store.set_aside_bytes bounds what is kept of that"
        elif hold is not None:
            refusal = f"it is held{f' ({hold})' if hold else ''}; `raytrail hold --release {session}` lets go of it"
        elif sealed_ms is None:
            refusal = "it lives, or is not sealed yet; a history seals it once it has ended"
        return Plan(session=session, cluster=cluster, events=events, bytes=self.size(session), refusal=refusal)

    def size(self, session: str) -> int:
        """Return the bytes of a session's files, as far as a version wrote them down."""
        each = " + ".join(f"(SELECT coalesce(sum(bytes), 0) FROM {table} WHERE session = :s)" for table in self._files)
        [(size,)] = self._catalogue.query(f"SELECT {each.replace(':s', '?')}", *[session] * len(self._files))
        return int(size)

    @property
    def _files(self) -> list[str]:
        return [
            "log",
            *(["state"] if self._catalogue.keeps_sums else []),
            *(["bodies"] if self._catalogue.keeps_logs else []),
        ]

    # -- holding

    def hold(self, session: str, reason: str, now_ms: int) -> None:
        """
        Have nobody delete a session.

        Raises:
            NotFoundError: There is no such session.
            StoreUnavailable: The disk is full, or fails.
        """
        self._marks.check_there(session)
        with self._catalogue.transaction() as db:
            db.execute("INSERT OR REPLACE INTO holds VALUES(?, ?, ?)", (session, now_ms, reason))

    def release(self, session: str) -> None:
        """
        Hold a session no more. One that is not held stays as it is.

        Raises:
            StoreUnavailable: The disk is full, or fails.
        """
        with self._catalogue.transaction() as db:
            db.execute("DELETE FROM holds WHERE session = ?", (session,))

    # -- deleting

    def mark(self, session: str, why: str, now_ms: int) -> None:
        """
        Mark a session as deleted. Nobody lists or opens it from now on.

        Raises:
            NotFoundError: There is no such session.
            ConfigError: It lives, or is held.
            StoreUnavailable: The disk is full, or fails. It is as it was.
        """
        plan = self.plan(session)
        if plan.refusal:
            raise ConfigError(f"{session}: not deleted, as {plan.refusal}")
        [sizes] = self._catalogue.query(
            "SELECT coalesce(sum(rejected) FILTER (WHERE event_type = ?), 0), "
            "coalesce(sum(rejected) FILTER (WHERE event_type != ?), 0), coalesce(sum(unknown), 0) "
            "FROM counts WHERE session = ?",
            SET_ASIDE,
            SET_ASIDE,
            session,
        )
        with self._catalogue.transaction() as db:
            require(db, KNOWS_DELETIONS)
            db.execute(
                "INSERT OR REPLACE INTO deleted(session, deleted_ms, why, bytes, chunks_set_aside, rejected_lines, "
                "unknown_lines) VALUES(?, ?, ?, ?, ?, ?, ?)",
                (session, now_ms, why, plan.bytes, *_Sizes(*sizes)),
            )
            delete_overview(db, session)
            for table in _SMALL:
                db.execute(f"DELETE FROM {table} WHERE session = ?", (session,))

    def work(self, seconds: float, *, unread: bool = False) -> list[Deleted]:
        """
        Go on with what is marked, for about so long.

        Args:
            seconds: How long.
            unread: Whether it is known that nobody reads the store, so that nobody is waited for.

        Returns:
            The sessions of which nothing is left now.

        Raises:
            StoreUnavailable: The disk fails. Do it again.
        """
        done: list[Deleted] = []
        until = time.monotonic() + seconds
        for deleted in self._marks.waiting():
            if self._is_put_off(deleted.session) or not (unread or self._is_over(deleted)):
                continue
            try:
                while self._delete_piece(deleted.session):
                    if time.monotonic() > until:
                        return done
            except disk.Refused as refused:
                self._put_off[deleted.session] = time.monotonic() + PUT_OFF_SECONDS
                log.error(
                    "session %s is not deleted: %s; put it right, and it is deleted then", deleted.session, refused
                )
            else:
                self._first_seen.pop(deleted.session, None)
                done.append(deleted)
        return done

    def _is_over(self, deleted: Deleted) -> bool:
        """Return whether nobody can be reading a session any more. A mark may be of a clock that was ahead."""
        first_seen = self._first_seen.setdefault(deleted.session, time.monotonic())
        marked_seconds = time.time() - deleted.deleted_ms / 1000
        return max(marked_seconds, time.monotonic() - first_seen) >= self.grace_seconds

    def _is_put_off(self, session: str) -> bool:
        return time.monotonic() < self._put_off.get(session, 0.0)

    def is_all_done(self) -> bool:
        """Return whether nothing is left to wait for: what is marked is gone, or a person must put it right."""
        return all(self._is_put_off(deleted.session) for deleted in self._marks.waiting())

    def _delete_piece(self, session: str) -> bool:
        """Delete some of a marked session. Return whether there was anything left."""
        for table in FILES:
            rows = self._catalogue.query(
                f"SELECT path FROM {table} WHERE session = ? ORDER BY path LIMIT ?", session, PIECE_FILES
            )
            if rows:
                # the files first: without a row, nobody would know of a file that is left by a crash in between
                self._delete_files([path for (path,) in rows])
                with self._catalogue.transaction() as db:
                    db.executemany(
                        f"DELETE FROM {table} WHERE session = ? AND path = ?", [(session, path) for (path,) in rows]
                    )
                return True
        for table, key in _LARGE.items():
            with self._catalogue.transaction() as db:
                chosen = f"SELECT {key} FROM {table} WHERE session = ? LIMIT ?"
                if db.execute(f"DELETE FROM {table} WHERE ({key}) IN ({chosen})", (session, PIECE_ROWS)).rowcount:
                    return True
        self._finish(session)
        return False

    def _delete_files(self, paths: Sequence[str]) -> None:
        """
        Delete files of the store, through no link.

        Raises:
            disk.Refused: A link is in the way, or it is somebody else's. Other sessions are not concerned.
            StoreUnavailable: The disk fails.
        """
        for path in paths:
            try:
                delete_file(self._root, path)
            except disk.Refused:
                raise
            except PermissionError as error:
                raise disk.Refused(error.errno, error.strerror, disk.escape_name(str(self._root / path))) from error
            except OSError as error:
                raise StoreUnavailable(f"{self._root / path}: {error}; mend it, and it is deleted then") from error

    def _finish(self, session: str) -> None:
        for kind in KINDS:
            with suppress(OSError):  # it is not there, or holds what somebody else has put there
                os.rmdir(self._root / kind / session)
        with self._catalogue.transaction() as db:
            now_ms = time.time_ns() // 1_000_000
            db.execute("UPDATE deleted SET done_ms = ? WHERE session = ?", (now_ms, session))

    # -- what comes late

    def pass_over(self, arrived: Sequence[Chunk | Unreadable]) -> list[Chunk | Unreadable]:
        """
        Return what is not of a deleted session. Chunks that are, are counted as set aside, and nothing of them is kept.

        Raises:
            StoreUnavailable: The disk is full, or fails. Take all of it again.
        """
        sessions = {arrival.session for arrival in arrived}
        deleted = {session for session in sessions if self._marks.find(session)}
        if not deleted:
            return list(arrived)
        late = [arrival for arrival in arrived if arrival.session in deleted and not _is_report(arrival)]
        if late:
            with self._catalogue.transaction() as db:
                db.executemany(
                    "UPDATE deleted SET late_chunks = late_chunks + 1, late_bytes = late_bytes + ? WHERE session = ?",
                    [(len(arrival.data), arrival.session) for arrival in late],
                )
        for session in {arrival.session for arrival in late} - self._warned:
            self._warned.add(session)
            log.warning("events of session %s, which was deleted, still come; they are set aside", session)
        return [arrival for arrival in arrived if arrival.session not in deleted]

    def forget(self, session: str) -> None:
        """
        Forget that a session was deleted, so that its events are taken again.

        Raises:
            NotFoundError: None of that name was deleted.
            ConfigError: Something of it is still there.
            StoreUnavailable: The disk is full, or fails.
        """
        self.check_forgettable(session)
        with self._catalogue.transaction() as db:
            db.execute("DELETE FROM deleted WHERE session = ?", (session,))

    def check_forgettable(self, session: str) -> None:
        """
        Check that a session was deleted, and that nothing is left of it.

        Raises:
            NotFoundError: None of that name was deleted.
            ConfigError: Something of it is still there.
        """
        gone = self._marks.find(session)
        if gone is None:
            raise NotFoundError(f"no session {session!r} was deleted; `raytrail delete --list` shows those that were")
        if not gone.done:
            raise ConfigError(f"{session}: it is still being deleted; try again when that is done")


def _is_report(arrival: Chunk | Unreadable) -> bool:
    return isinstance(arrival, Chunk) and arrival.event_type in OF_REPORTS
