"""The marks of a store's sessions: which are held, and which were deleted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from raytrail.errors import NotFoundError
from raytrail.store.catalogue import Catalogue


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    """What the catalogue keeps of a deleted session."""

    session: str
    deleted_ms: int
    why: str
    bytes: int
    """The bytes that its files had."""
    done: bool
    """Whether all of it is gone."""
    late_chunks: int
    """Chunks that came after it was deleted. They were set aside, and nothing of them is kept."""


class Marks:
    """
    Reads what the catalogue says of held and of deleted sessions.

    Args:
        root: The store's directory.
        catalogue: Its catalogue.
    """

    def __init__(self, root: Path, catalogue: Catalogue) -> None:
        self._root = root
        self._catalogue = catalogue

    def hold_of(self, session: str) -> str | None:
        """Return the reason why a session is held, which may be empty. None where it is not held."""
        if not self._catalogue.keeps_deletions:
            return None
        rows = self._catalogue.query("SELECT reason FROM holds WHERE session = ?", session)
        return rows[0][0] if rows else None

    def holds(self) -> dict[str, str]:
        """Return the sessions that are held, each with the reason."""
        if not self._catalogue.keeps_deletions:
            return {}
        return dict(self._catalogue.query("SELECT session, reason FROM holds"))

    def find(self, session: str) -> Deleted | None:
        """Return what is kept of a deleted session, or None where none of that name was deleted."""
        return next(self._read("WHERE session = ?", session), None)

    def every(self) -> list[Deleted]:
        """Return all deleted sessions, the last one first."""
        return list(self._read("ORDER BY deleted_ms DESC, session"))

    def waiting(self) -> list[Deleted]:
        """Return those of which something is still there."""
        return list(self._read("WHERE done_ms IS NULL ORDER BY deleted_ms, session"))

    def _read(self, condition: str, *params: object) -> Iterator[Deleted]:
        if self._catalogue.keeps_deletions:
            for session, deleted_ms, why, size, done_ms, late in self._catalogue.query(
                f"SELECT session, deleted_ms, why, bytes, done_ms, late_chunks FROM deleted {condition}", *params
            ):
                yield Deleted(
                    session=session,
                    deleted_ms=deleted_ms,
                    why=why,
                    bytes=size,
                    done=done_ms is not None,
                    late_chunks=late,
                )

    def check_there(self, session: str) -> None:
        """
        Check that a session can be asked.

        Raises:
            NotFoundError: It was deleted, or never was there.
        """
        if self._catalogue.query("SELECT 1 FROM sessions WHERE session = ?", session):
            return
        self.check_not_deleted(session)
        raise NotFoundError(f"no session {session!r} in {self._root}; see `raytrail clusters`")

    def check_not_deleted(self, session: str) -> None:
        """
        Check that nobody has deleted a session.

        Raises:
            NotFoundError: Somebody has.
        """
        if gone := self.find(session):
            raise NotFoundError(f"session {session!r} was deleted at {_utc(gone.deleted_ms)}: {gone.why}")


def _utc(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_ms / 1000))
