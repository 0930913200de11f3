"""The search for sessions in Ray's temp dir, as they begin, and for their logs."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path

from raytrail.event import LOG
from raytrail.tail import discovery
from raytrail.tail.checkpoint import Mark
from raytrail.tail.complaints import Complaints, Refusals, shown
from raytrail.tail.discovery import Session
from raytrail.tail.follow import Followed
from raytrail.tail.life import NOTE
from raytrail.tail.selection import wants_type

log = logging.getLogger(__name__)


class SessionFinder:
    """
    Looks for sessions to follow, and for the logs of those that are followed.

    Args:
        followed: Gets the directories that are new.
        refusals: Counts what is named as a session and is none.
        complaints: Says why nothing could be looked for.
    """

    def __init__(self, followed: Followed, refusals: Refusals, complaints: Complaints) -> None:
        self._followed = followed
        self._refusals = refusals
        self._complaints = complaints

    def find(self) -> None:
        """Begin to follow what is new."""
        if not self._followed.fixed:
            self._find_in_temp_dir()
        if wants_type(self._followed.config, LOG):
            self._find_logs()

    def forget_vanished(self) -> None:
        """Forget the files, and the raylets, whose whole directory went away while no agent ran."""
        checkpoint = self._followed.checkpoint
        for name in checkpoint.notes(NOTE):
            if not Path(name.removeprefix(NOTE)).exists():
                checkpoint.forget_note(name)
        by_directory = attrgetter("directory")
        others = [mark for mark in checkpoint.marks() if Path(mark.directory) not in self._followed.directories]
        others.sort(key=by_directory)
        for directory, marks in itertools.groupby(others, by_directory):
            if not Path(directory).exists():
                self._forget_marks(directory, list(marks))

    def _forget_marks(self, directory: str, marks: list[Mark]) -> None:
        if missing := sum(mark.missing for mark in marks):
            log.warning("%s is gone; %d bytes of it had not been published", directory, missing)
        for mark in marks:
            self._followed.checkpoint.forget(mark)

    def _find_in_temp_dir(self) -> None:
        temp_dir = Path(self._followed.config.temp_dir).expanduser()
        refused: dict[Path, str] = {}
        try:
            sessions = discovery.sessions(temp_dir, refused.__setitem__)
        except OSError as error:
            self._complaints.warn(f"{shown(temp_dir)}: {error.strerror}; nothing is read there until it can be")
            return
        self._refusals.refuse_sessions(refused)
        if self._followed.config.sessions == "new":
            first = self._find_first_session(temp_dir, sessions)
            sessions = [session for session in sessions if session.name >= first]
        self._follow(sessions)

    def _follow(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            if session.events not in self._followed.directories:
                log.info("following %s", session.events)
                self._followed.follow(session)

    def _find_first_session(self, temp_dir: Path, sessions: list[Session]) -> str:
        """Return the name of the first session to follow. Names sort by the time at which sessions began."""
        checkpoint, note = self._followed.checkpoint, f"since {temp_dir}"
        first = checkpoint.note(note)
        if first is None:
            # if none is the latest, only sessions that begin from now on are followed
            newest = sessions[-1].name + "~" if sessions else ""
            first = discovery.latest(temp_dir) or newest
            checkpoint.remember(note, first)
        return first

    def _find_logs(self) -> None:
        directories = self._followed.directories
        for session in [directory.session for directory in directories.values() if not directory.holds_logs]:
            path = discovery.logs(session)
            if path is not None and path not in directories:
                self._followed.follow(session._replace(events=path), "")
