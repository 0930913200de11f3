"""
Retention: which sessions are old enough to be deleted, or take too much room. By default none are.

Only sealed sessions are candidates. One that nothing but silence has ended may live, where an agent or a broker was
away: it is a candidate once nothing was heard of it for a week, by a writer that has listened for a while. A session's
age counts from when its last event came here, so that no import is deleted at once, whatever its events say of the
time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from raytrail import disk
from raytrail.config import StoreConfig
from raytrail.event import UNKNOWN_SESSION
from raytrail.store.catalogue import Catalogue
from raytrail.store.deletion import FILES, Deletions
from raytrail.store.directory import unnamed
from raytrail.store.marks import Deleted, Marks
from raytrail.store.requests import Request, Requests

CHECK_SECONDS = 60.0
"""How often the sessions are looked through."""

SWEEP_SECONDS = 6 * 3600.0
"""How often the store is looked through for files that nobody names."""

WORK_SECONDS = 0.2
"""How long one piece of work takes, beside what else the writer does."""

MARK_SECONDS = 2.0
"""How long sessions are marked at once. Thousands are due where a setting is new, and nothing is stored meanwhile."""

SILENT_DAYS = 7
"""A session that only silence has ended counts as ended after so long."""

LISTENED_SECONDS = 3600.0
"""
How long the writer must have listened to tell silence. While it is away it hears of nobody. A broker that holds what
came meanwhile gives it within this.
"""

JUMP_SECONDS = 60.0
"""By how much more than the time that has passed a clock goes on where it was set, or the machine slept."""

_DAY_MS = 86_400_000

log = logging.getLogger(__name__)


class _Candidate(NamedTuple):
    """A session that may be deleted."""

    session: str
    cluster: str
    grew_ms: int
    """When its last event came here."""


class Tidied(NamedTuple):
    """What a step of the work has done."""

    marked: list[Deleted]
    """The sessions that nobody lists any more."""
    deleted: list[Deleted]
    """The sessions of which nothing is left."""


class Retention:
    """
    Deletes what is to be deleted, beside all else that a store's writer does.

    Args:
        root: The store's directory.
        catalogue: Its catalogue.
        config: Its settings.
        marks: Reads what is marked.
        deletions: Marks sessions, and deletes them.
        requests: Has what commands ask for.
        retire: Deletes files once nobody can have them open any more.
        forget: Lets go of what is held in memory of sessions.
        lock: Is held while something is changed.
    """

    def __init__(
        self,
        root: Path,
        catalogue: Catalogue,
        config: StoreConfig,
        marks: Marks,
        deletions: Deletions,
        requests: Requests,
        retire: Callable[[list[Path]], None],
        forget: Callable[[Collection[str]], None],
        lock: threading.RLock,
    ) -> None:
        self._root = root
        self._catalogue = catalogue
        self._config = config
        self._marks = marks
        self._deletions = deletions
        self._retire = retire
        self._forget = forget
        self._lock = lock
        self._requests = requests
        self._checked: float | None = None
        self._listening = time.monotonic()
        self._clock_ms: float | None = None
        self._swept = time.monotonic()
        self._told_full = False

    def tidy(self, now_ms: int) -> Tidied:
        """
        Do what was requested, mark what is due, and go on with what is marked for a moment.

        Args:
            now_ms: The time.

        Raises:
            StoreUnavailable: The disk is full, or fails. Do it again.
        """
        marked: list[Deleted] = []
        with self._lock:
            self._requests.take(lambda request: self.do(request, now_ms, marked))
            now = time.monotonic()
            self._note_jump(now_ms, now)
            if self._checked is None or now - self._checked >= CHECK_SECONDS:
                self._checked = now if self._mark_due(now_ms, marked) else None
            if now - self._swept >= SWEEP_SECONDS:
                self.sweep()
                self._swept = now
            return Tidied(marked, self._deletions.work(WORK_SECONDS))

    def _note_jump(self, now_ms: int, now: float) -> None:
        """Listen anew where the clock went on by more than the time that has passed."""
        clock_ms = now_ms - now * 1000
        if self._clock_ms is not None and clock_ms - self._clock_ms > JUMP_SECONDS * 1000:
            self._listening = now
        self._clock_ms = clock_ms

    def _mark_due(self, now_ms: int, marked: list[Deleted]) -> bool:
        """Mark what is due, for a moment. Return whether that was all."""
        until = time.monotonic() + MARK_SECONDS
        for session, why in self.due(now_ms):
            self._mark(session, why, now_ms, marked)
            if time.monotonic() > until:
                return False
        return True

    def do(self, request: Request, now_ms: int, marked: list[Deleted] | None = None) -> None:
        """
        Do what somebody asks for.

        Args:
            request: What is asked for.
            now_ms: The time.
            marked: Takes the session, where it is marked as deleted.

        Raises:
            NotFoundError: There is no such session.
            ConfigError: It lives, or is held, and cannot be deleted.
            StoreUnavailable: The disk is full, or fails. It is as it was.
        """
        with self._lock:
            if request.verb == "hold":
                self._deletions.hold(request.session, request.reason, now_ms)
            elif request.verb == "release":
                self._deletions.release(request.session)
            elif request.verb == "forget":
                self._deletions.forget(request.session)
            else:
                self._mark(request.session, request.reason, now_ms, [] if marked is None else marked)

    def _mark(self, session: str, why: str, now_ms: int, marked: list[Deleted]) -> None:
        self._deletions.mark(session, why, now_ms)
        self._forget([session])  # its events may be taken again one day, and are new then
        if deleted := self._marks.find(session):
            log.info("deleting session %s, %d bytes: %s", session, deleted.bytes, why)
            marked.append(deleted)

    def finish(self, *, unread: bool) -> bool:
        """
        Delete what is marked, as far as nobody can be reading it. Return whether there is no more to wait for.

        Args:
            unread: Whether it is known that nobody reads the store.

        Raises:
            StoreUnavailable: The disk fails. Do it again.
        """
        with self._lock:
            self._deletions.work(float("inf"), unread=unread)
            return self._deletions.is_all_done()

    def due(self, now_ms: int) -> Iterator[tuple[str, str]]:
        """Yield the sessions that are to be deleted by the settings, the oldest first, each with why."""
        config = self._config
        if not (config.retain_days or config.retain_bytes or config.retain_days_by_name):
            return
        kept: list[_Candidate] = []
        for candidate in self._list_candidates(now_ms):
            days, setting = retained_days(config, candidate.cluster)
            age_days = (now_ms - candidate.grew_ms) / _DAY_MS
            if days and age_days > days:
                yield (
                    candidate.session,
                    f"its last event came {age_days:.1f} days ago, and {setting} is {days:g}",
                )
            else:
                kept.append(candidate)
        yield from self._find_too_much(kept)

    def _list_candidates(self, now_ms: int) -> list[_Candidate]:
        listened = time.monotonic() - self._listening >= LISTENED_SECONDS
        silent_ms = now_ms - SILENT_DAYS * _DAY_MS if listened else 0
        rows = self._catalogue.query(
            "SELECT s.session, s.cluster, s.last_grew_ms FROM sessions s LEFT JOIN quiet q USING (session) "
            "WHERE s.sealed_ms IS NOT NULL AND (q.session IS NULL OR s.last_heard_ms < ?) AND s.session != ? "
            "AND NOT EXISTS (SELECT 1 FROM holds h WHERE h.session = s.session) ORDER BY s.last_grew_ms, s.session",
            silent_ms,
            UNKNOWN_SESSION,
        )
        return [_Candidate(*row) for row in rows]

    def _find_too_much(self, candidates: list[_Candidate]) -> Iterator[tuple[str, str]]:
        """Yield the oldest sessions, until what is left takes no more room than it may."""
        most = self._config.retain_bytes
        if not most:
            return
        size = self._measure()
        for candidate in candidates:
            if size <= most:
                break
            why = f"it is the oldest, and the store's sessions take {size} bytes, where store.retain_bytes is {most}"
            own = self._deletions.size(candidate.session)
            yield candidate.session, why
            size -= own
        if size > most and not self._told_full:
            log.warning(
                "the store's sessions take %d bytes, where store.retain_bytes is %d, and none of them may be deleted: "
                "they live, are held, or have only gone quiet",
                size,
                most,
            )
        self._told_full = size > most

    def _measure(self) -> int:
        """Return the bytes of the files of all sessions that are not deleted."""
        each = " + ".join(
            f"(SELECT coalesce(sum(bytes), 0) FROM {table} WHERE session IN (SELECT session FROM sessions))"
            for table in FILES
        )
        [(size,)] = self._catalogue.query(f"SELECT {each}")
        return int(size)

    def sweep(self) -> None:
        """Delete the files that a crash left behind, which no row of the catalogue names."""
        paths = unnamed(self._root, self._catalogue)
        if paths:
            log.info(
                "deleting %d files that nobody names, %s the first of them", len(paths), disk.escape_name(paths[0])
            )
        self._retire([self._root / path for path in paths])


def retained_days(config: StoreConfig, cluster: str) -> tuple[float, str]:
    """Return how long sessions of a cluster's name are kept, and by which setting. 0 is for good."""
    matching = [
        (days, f"store.retain_days_by_name of {pattern!r}")
        for pattern, days in config.retain_days_by_name.items()
        if fnmatchcase(cluster, pattern)
    ]
    if not matching:
        return config.retain_days, "store.retain_days"
    return max(matching, key=lambda match: match[0] or float("inf"))
