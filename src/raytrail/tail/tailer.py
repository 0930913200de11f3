"""The whole new lines of all event files and logs on this node, as chunks. Bytes are cut and never parsed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from raytrail.config import TailConfig
from raytrail.event import Chunk, FileId, Segment
from raytrail.redact import Redactor
from raytrail.tail import discovery
from raytrail.tail.checkpoint import Checkpoint
from raytrail.tail.complaints import Complaints, Refusals
from raytrail.tail.cutting import Cutter
from raytrail.tail.directory import Directory
from raytrail.tail.follow import Followed
from raytrail.tail.identify import Identifier
from raytrail.tail.last_lines import LastLines
from raytrail.tail.limits import Limits
from raytrail.tail.listing import Lister
from raytrail.tail.reports import Reports
from raytrail.tail.rotation import Rotation
from raytrail.tail.selection import wants_file
from raytrail.tail.session_finder import SessionFinder
from raytrail.tail.watch import Watch

log = logging.getLogger(__name__)

_PINNED = ("temp_dir", "sessions", "inotify", "state_dir")
"""The settings that stay as they were at the start."""


class Tailer:
    """
    Follows the event files and the logs of this node.

    A file is known by what it is, not by its name. Its inode tells it as long as it is followed, and its first line
    (`FileId`) for ever. A log is known by its inode and birth. Each is read from where the checkpoint says.

    One thread at a time may use it. Any thread may call `rewind` and `configure`, and ask for the figures.

    Args:
        config: The settings to begin with.
        checkpoint: The offsets to begin at, and what has been acknowledged since.
        session_dirs: Follow these only, each of any kind that `locate` knows. None: all sessions in
            ``config.temp_dir``, also those that begin later. ``sessions = "new"`` means the session that was the
            latest when this checkpoint was first used, and all that began later, also while no agent ran.

    Raises:
        ConfigError: One of `session_dirs` holds no session.
    """

    def __init__(
        self, config: TailConfig, checkpoint: Checkpoint, *, session_dirs: Sequence[Path] | None = None
    ) -> None:
        followed = self._followed = Followed(config, checkpoint, fixed=session_dirs is not None)
        for session in [session for path in session_dirs or () for session in discovery.locate(path)]:
            followed.follow(session)
        self._refusals, complaints = Refusals(), Complaints()
        self._session_finder = SessionFinder(followed, self._refusals, complaints)
        self._lister = Lister(followed, self._refusals, complaints, _make_watch() if config.inotify else None)
        self._identifier = Identifier(followed)
        self._cutter = Cutter(followed, self._identifier, complaints)
        self._last_lines = LastLines(followed)
        self._rotation = Rotation(followed)
        self._reports = Reports(followed)
        self._changed: TailConfig | None = None
        """The settings to go on by from the next poll on."""
        self._polled_at = -math.inf
        self._sessions_due = -math.inf
        """When to look for sessions next."""
        self.look()
        self._session_finder.forget_vanished()

    @property
    def config(self) -> TailConfig:
        """The settings that it goes by."""
        return self._followed.config

    @property
    def behind(self) -> bool:
        """True if there is more to read than the last poll did."""
        return bool(self._followed.turns) or self._cutter.has_rewound

    @property
    def searching(self) -> bool:
        """True if the end of a long line is still searched for, so that a poll that yields nothing is not the last."""
        return self._followed.turns.searching

    def poll(self) -> Iterator[Chunk]:
        """
        Yield the next chunk of every session and event type that has one: the small types, ``TASK``, logs.

        A chunk takes the new lines of several files when they are few, and files take turns when they are many. Nothing
        is read before it is asked for. A caller that stops iterating stops the reading.
        """
        self._polled_at = self._notice()
        for group in self._followed.turns.by_priority():
            if self._followed.turns.may_read(group):
                chunk = self._cutter.cut(group)
                if chunk is not None:
                    yield chunk

    def take(self, room: int, wait_seconds: float) -> list[Chunk] | None:
        """
        Wait for something to read, and return chunks of `room` bytes in all, as several polls yield them.

        If there is only room for one chunk, or less, it is one chunk. None where it is not yet time for a poll, as
        events gather for `poll_seconds`.
        """
        self.wait(wait_seconds)
        if not self.behind and time.monotonic() < self._polled_at + self.config.poll_seconds:
            return None
        chunks: list[Chunk] = []
        while True:
            before = len(chunks)
            for chunk in self.poll():
                chunks.append(chunk)
                room -= len(chunk.data)
                if room < self.config.chunk_bytes:
                    return chunks
            if len(chunks) == before or not self.behind:
                return chunks

    def configure(self, config: TailConfig) -> TailConfig:
        """
        Go on by other settings from the next poll on.

        Returns:
            These settings, but for those that say which sessions to follow, where, and with inotify or not. They stay
            as they were.
        """
        pinned = {name: getattr(self.config, name) for name in _PINNED}
        self._changed = msgspec.structs.replace(config, **pinned)
        return self._changed

    def rewind(self, segments: Iterable[Segment]) -> None:
        """Read `segments` again, since they could not be published."""
        self._cutter.rewind(segments)

    def look(self, *, last: bool = False) -> None:
        """
        List all directories now, whatever inotify said.

        Args:
            last: Whether to read what is there now and no more. No line of a log is waited for from now on. The last
                line of an event file is whole as it is where its session has ended.
        """
        if last:
            self._followed.waits = False
            self._followed.halves.end()
        self._make_all_due()
        self._notice()
        if last:
            self._last_lines.queue(waited=True)

    def wait(self, seconds: float) -> None:
        """
        Return when another poll is worth while.

        That is at once if the last poll left something that may be read. Else it is as soon as a file grew, but not
        before `poll_seconds` after the last poll, so that events gather.

        Args:
            seconds: To wait at most.
        """
        until = time.monotonic() + seconds
        held_back = self._followed.turns.wait_seconds()
        if self._cutter.has_rewound or held_back == 0:
            return
        poll_at = self._polled_at + min(self.config.poll_seconds, held_back)
        time.sleep(max(0.0, min(poll_at, until) - time.monotonic()))
        if self._lister.watch and not self._followed.turns:
            due = min([self._sessions_due, *(directory.due for directory in self._followed.directories.values())])
            self._lister.watch.wait(min(until, due) - time.monotonic())

    def unread_bytes(self) -> int:
        """Return how much is known to be on disk and not acknowledged, half-written last lines included."""
        files = self._followed.files()
        for file in files:
            file.update_mark()
        return sum(file.size if file.mark is None else file.mark.missing for file in files)

    def bytes_until_deleted(self) -> int | None:
        """
        Return how much its writer may write until Ray deletes the nearest file that is not acknowledged to its end.

        None where all is acknowledged. A file that was deleted already, and is held open, is still read.
        """
        return min((size for _, size in self._rotation.bytes_until_deleted()), default=None)

    @property
    def mismatches(self) -> int:
        """Files that were known, but lay elsewhere, and were read again from their start."""
        return self._identifier.mismatches

    @property
    def refused(self) -> int:
        """Names that were taken by what is no file, or no directory of a session, and were not followed."""
        return self._refusals.count

    @property
    def open_files(self) -> int:
        """How many files are held open."""
        return len(self._followed.open_files)

    @property
    def sessions(self) -> list[str]:
        """The names of the sessions that are followed."""
        directories = list(self._followed.directories.values())
        return list(dict.fromkeys(directory.session.name for directory in directories))

    def reports(self, nameless: Collection[FileId] = ()) -> list[Chunk]:
        """
        Return the reports of the files that have changed since the last call, as ``FILE`` chunks.

        The raylets of a session that is alive are reported every minute, as a sign of life. One that has gone is
        reported at once, and no more. If it is not known which raylet runs, the session's last file is reported
        again in its place. Call it again only once the last chunks are published, as it forgets what they said has
        ended.

        Args:
            nameless: Files that somebody else has said to have no line to know them by, if they may have one by now.
        """
        self._reports.forget_ended()
        self._rotation.warn()
        self._last_lines.queue()
        return self._reports.report(self._last_lines.report_nameless(nameless))

    def ray_runs(self) -> bool:
        """Say whether a raylet runs here that works in one of the directories that are followed."""
        running = discovery.running()
        return running is not None and any(life.runs(running) for life in list(self._followed.lives.values()))

    def close(self) -> None:
        """Let go of all files."""
        self._followed.close()
        if self._lister.watch:
            self._lister.watch.close()
            self._lister.watch = None

    def _notice(self) -> float:
        """Find out what has grown. Return the time at which it was looked."""
        if self._changed is not None:
            self._reconfigure(self._changed)
        now = time.monotonic()
        if now >= self._sessions_due:
            self._sessions_due = now + self.config.sweep_seconds
            self._session_finder.find()
        if self._lister.watch:
            self._hear(self._lister.watch, now)
        self._lister.list_due(now)
        for file in self._followed.halves.take_due(now):
            file.flush = True
            self._followed.turns.add(self._followed.directory_of(file), file)
        self._cutter.queue_rewound()
        return now

    def _hear(self, watch: Watch, now: float) -> None:
        """Have files read that the kernel says have grown, and directories listed in which it says more."""
        news = watch.read()
        for path, name in news.grown:
            if directory := self._followed.directories.get(path):
                self._note_growth(directory, name, now)
        for path in self._followed.directories if news.overflow else news.changed:
            if directory := self._followed.directories.get(path):
                directory.due = -math.inf

    def _note_growth(self, directory: Directory, name: str, now: float) -> None:
        directory.note_news(now)
        if file := directory.names.get(name):
            self._followed.turns.add(directory, file)

    def _make_all_due(self) -> None:
        """Have sessions looked for, and all directories listed, at once."""
        self._sessions_due = -math.inf
        for directory in self._followed.directories.values():
            directory.due = -math.inf

    def _reconfigure(self, config: TailConfig) -> None:
        self._followed.config, self._changed = config, None
        self._followed.turns.limits = Limits(config.events_per_second, config.bytes_per_second)
        self._cutter.redact = Redactor(config.redact)
        for directory in self._followed.directories.values():
            self._reselect(directory)
        self._make_all_due()

    def _reselect(self, directory: Directory) -> None:
        """Let go of the files in a directory that the settings do not ask for any more."""
        for file in list(directory.files.values()):
            if not wants_file(self.config, file.name):
                self._followed.drop(directory, file)
            elif file.name.is_log:
                file.most_bytes, file.seen = self.config.log_file_bytes, (0, 0)  # which the next listing looks at
        directory.forget_dropped_names()


def _make_watch() -> Watch | None:
    try:
        return Watch()
    except OSError as error:
        log.warning("no inotify: %s; all files are looked at each time instead", error.strerror)
        return None
