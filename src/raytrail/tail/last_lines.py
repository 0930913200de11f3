"""The last lines of a session that has ended. Each is as whole as it will ever be, and is read or accounted for."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterator

from raytrail import disk
from raytrail.event import FileId
from raytrail.tail import discovery
from raytrail.tail.checkpoint import Mark
from raytrail.tail.directory import Directory
from raytrail.tail.file import EventFile
from raytrail.tail.follow import Followed

_STILL_SECONDS = 10.0
"""How long nothing has been written into an event file whose last line is taken for whole. Ray's processes end seconds
after their raylet."""

Unread = tuple[int, int, str]
"""Offset and length of what is not read of a file, and why."""


class LastLines:
    """
    Looks after event files that end in a line without a newline.

    Args:
        followed: The files.
    """

    def __init__(self, followed: Followed) -> None:
        self._followed = followed
        self._nameless: dict[FileId, Unread | None] = {}
        """The last report of `report_nameless` on each file."""

    def queue(self, *, waited: bool = False) -> None:
        """
        Have the last line of each event file read though it has no newline, where its session has ended.

        It is read if it is a whole event. Else the file's report says why not. A live session's is only half written.

        Args:
            waited: Whether not to wait for what was written last.
        """
        written_before = time.time_ns() - int(_STILL_SECONDS * 1e9)
        halves = [file for file in self._followed.files() if file.half and not file.over]
        if not waited:
            halves = [file for file in halves if not file.queued]
        files = [(self._followed.directory_of(file), file) for file in halves]
        # looked at once: a node has thousands of processes, and may have a thousand sessions
        running = discovery.running() if files else None
        names = {directory.session.name for directory, _ in files}
        ended = {name for name in names if self._has_ended(name, running)}
        for directory, file in files:
            if directory.session.name in ended and (waited or file.seen[1] < written_before):
                file.over = True
                self._followed.turns.add(directory, file)

    def report_nameless(self, known: Collection[FileId]) -> Iterator[Mark]:
        """
        Yield marks for the files of sessions that have ended in which there is not one line to know them by.

        Also for those that have one by now, and that were said to have none. They go by where they lie, and what they
        hold is counted as unread alone.

        Args:
            known: The files that somebody else has said to have none.
        """
        for file in self._followed.files():
            unread = (0, file.size, file.unread) if file.mark is None and file.unread else None
            if file.name.is_log or not (unread or known or self._nameless):
                continue
            mark = _make_mark(self._followed.directory_of(file), file, unread)
            if unread != self._nameless.get(mark.file) or (unread is None and mark.file in known):
                self._nameless[mark.file] = unread
                yield mark

    def _has_ended(self, session: str, running: discovery.Running | None) -> bool:
        """Say whether no raylet of a session runs. An import reads files of anywhere, also where nothing tells."""
        alive = None if running is None else running.alive(session)
        return not alive and (alive is not None or self._followed.fixed)


def _make_mark(directory: Directory, file: EventFile, unread: Unread | None) -> Mark:
    """Return a mark, which no checkpoint keeps, for the report of a file that has no line to know it by."""
    session, path = directory.session.name, str(directory.session.events)
    place = f"{session}\nUNREAD {directory.node_id} {path}/{file.path.name}"
    return Mark(
        file=f"{0:010d}-{hashlib.blake2b(place.encode(errors='surrogateescape'), digest_size=16).hexdigest()}",
        generation=0,
        inode="",
        directory=path,
        name=disk.escape_name(file.path.name),
        event_type=file.name.event_type,
        session=session,
        node_id=directory.node_id,
        unread=unread,
    )
