"""Whole new lines of all event files and logs on this node, as chunks; bytes are cut and never parsed."""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
import math
import os
import resource
import stat
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from raytrail import disk
from raytrail.config import HEARTBEAT_SECONDS, TailConfig
from raytrail.event import LOG, SET_ASIDE, Chunk, FileId, Segment
from raytrail.redact import Redactor
from raytrail.tail import discovery
from raytrail.tail.checkpoint import Checkpoint, Mark
from raytrail.tail.discovery import FileName, Running, Session
from raytrail.tail.file import Changed, EventFile, Inode, Piece
from raytrail.tail.life import NOTE, Life, note
from raytrail.tail.limits import Limits
from raytrail.tail.watch import Watch

log = logging.getLogger(__name__)

_QUIET_SECONDS = 60.0
_QUIET_FACTOR = 10
"""A directory in which nothing happened for `_QUIET_SECONDS`, or one of logs, is listed this many times more rarely."""
_MOST_OPEN_FILES = 4096
_AGAIN_SECONDS = 0.2
"""How soon an agent that ends looks once more for a raylet that it has just missed."""
_HALF_SECONDS = 2.0
"""How long half a line of a log is waited for; a progress bar ends none for hours."""
_MOST_DEEP = 16
"""How deep in ``logs/`` a directory may be: Ray's own are right in it, and each costs a step more to reach."""
_MOST_DIRECTORIES = 1000
"""How many directories of logs are followed in a session: each costs a listing now and then, and a watch of inotify."""
_MOST_NAMED = 100
"""How many names that are taken by what is no file are said one by one; whoever makes them can make any number."""
_MOST_COMPLAINTS = 1000
_STILL_SECONDS = 10.0
"""How long nothing has been written into an event file whose last line is taken for whole: Ray's processes end seconds
after their raylet."""


class _Followed:
    """A directory of a session that is being followed, and its files."""

    def __init__(self, session: Session, life: Life | None, logs: str | None = None) -> None:
        self.session = session
        self.life = life
        """Of the session's directory, all of whose parts share it; None for files that were taken out of theirs."""
        self.logs = logs
        """
        For a directory of logs: its place in ``logs/``, escaped, with a slash at its end where it is not that itself.
        """
        self.root = session.root
        """Below it no link is followed."""
        self.refused: set[str] = set()
        """The names in it that are taken by what is no file."""
        self.refused_at = ""
        """What on the way to it is no directory."""
        self.files: dict[Inode, EventFile] = {}
        self.names: dict[str, EventFile] = {}
        self.listed = False
        """Whether its directory could be listed."""
        self.due = -math.inf
        """When to list it next."""
        self.news_at = time.monotonic()
        """When anything in it was last seen to change."""
        self.reported_at = -math.inf

    @property
    def node_id(self) -> str:
        """The node that what is in it goes by for now; empty where none is known yet."""
        return self.life.nodes.main if self.life else ""

    def place(self, name: str) -> str:
        """Return what a file in it is called in reports: its place in ``logs/``, or its name, escaped."""
        return f"{self.logs or ''}{disk.escape_name(name)}"

    def note_news(self, now: float) -> None:
        """Note that something in it has changed."""
        self.news_at = now
        if self.life:
            self.life.has_news = True


class Tailer:
    """
    Follows the event files and the logs of this node.

    A file is known by what it is, not by its name: by its inode as long as it is followed, and by its first
    line (`FileId`) for ever; a log by its inode and birth. Each is read from where the checkpoint says.

    Used by one thread at a time, but for `rewind`, `configure` and the figures, which any may ask for.

    Args:
        config: What to follow, and how.
        checkpoint: Where to begin, and what has been acknowledged since.
        session_dirs: Follow these only, each of any kind that `locate` knows. None: what is, and comes to be,
            in ``config.temp_dir``. ``sessions = "new"`` means the session that was the latest when this
            checkpoint was first used, and all that began later, also while no agent ran.

    Raises:
        ConfigError: One of `session_dirs` holds no session.
    """

    def __init__(
        self, config: TailConfig, checkpoint: Checkpoint, *, session_dirs: Sequence[Path] | None = None
    ) -> None:
        self.config = config
        self.mismatches = 0
        """Files that were known, but lay elsewhere, and were read again from their start."""
        self.refused = 0
        """Names that were taken by what is no file, or no directory of a session, and were not followed."""
        self._checkpoint = checkpoint
        self._limits = Limits(config.events_per_second, config.bytes_per_second)
        self._redact = Redactor(config.redact)
        self._changed: TailConfig | None = None
        self._fixed = session_dirs is not None
        found = [session for directory in session_dirs or () for session in discovery.locate(directory)]
        self._lives: dict[Path, Life] = {}
        self._sessions = {session.events: self._begin(session) for session in found}
        self._listed: set[str] = set()
        self._unread: dict[tuple[_Followed, str], dict[str, dict[EventFile, None]]] = {}
        self._followers: dict[tuple[FileId, int], list[EventFile]] = {}
        self._rewound: deque[Segment] = deque()
        self._waits = not self._fixed  # for half a line of a log to be ended
        self._halves: dict[EventFile, float] = {}  # logs that end in half a line, and since when that is there
        self._open: dict[EventFile, None] = {}  # least recently read first
        self._most_open = min(_MOST_OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self._reported: dict[Mark, tuple[object, ...]] = {}
        self._ended: list[Mark] = []
        self._nameless: dict[FileId, tuple[int, int, str] | None] = {}  # what was last said of `_nameless_files`
        self._complained: set[str] = set()
        self._refused: set[Path] = set()  # what is named as a session and is none
        self._warned: set[str] = set()
        self._capped: set[Path] = set()
        self._polled = -math.inf
        self._sessions_due = -math.inf
        self._watch = _watch() if config.inotify else None
        self._sweep_seconds = config.sweep_seconds if self._watch else config.poll_seconds
        self.look()
        self._forget_the_vanished()

    @property
    def behind(self) -> bool:
        """Whether there is more to read than the last poll did."""
        return bool(self._unread or self._rewound)

    @property
    def searching(self) -> bool:
        """Whether the end of a long line is still searched for, so that a poll that yields nothing is not the last."""
        return any(file.searching for stems in self._unread.values() for files in stems.values() for file in files)

    def poll(self) -> Iterator[Chunk]:
        """
        Yield the next chunk of every session and event type that has one: the small types, ``TASK``, logs.

        A chunk takes the new lines of several files when they are few, and files take turns when they are
        many. Nothing is read before it is asked for: to stop iterating is to stop reading.
        """
        self._polled = self._notice()
        for followed, event_type in sorted(self._unread, key=_turn):
            if self._limits.wait_seconds(event_type) == 0 and not self._yields((followed, event_type)):
                chunk = self._chunk(followed, event_type)
                if chunk is not None:
                    yield chunk

    def _yields(self, group: tuple[_Followed, str]) -> bool:
        """Say whether a type must wait: all share a limit, and of one before it there is something to read."""
        return self._limits.shared and any(
            _turn(other) < _turn(group) and self._limits.wait_seconds(other[1]) == 0 for other in self._unread
        )

    def take(self, room: int, wait_seconds: float) -> list[Chunk] | None:
        """
        Wait for something to read, and return chunks of `room` bytes in all: what several polls yield.

        If there is only room for one chunk, or less, it is one chunk. None where it is not yet time for a poll:
        events gather for `poll_seconds`.
        """
        self.wait(wait_seconds)
        if not self.behind and time.monotonic() < self._polled + self.config.poll_seconds:
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

    def configure(self, config: TailConfig) -> None:
        """
        Go on by other settings from the next poll on.

        Those that say which sessions to follow, where, and with inotify or not, stay as they were.
        """
        self._changed = config

    def rewind(self, segments: Iterable[Segment]) -> None:
        """Read `segments` again, since they could not be published."""
        self._rewound.extend(segments)

    def look(self, *, last: bool = False) -> None:
        """
        List all directories now, whatever inotify said.

        Args:
            last: Whether what is there now is to be read and no more: no line of a log is waited for from now on, and
                the last line of an event file is whole as it is where its session has ended.
        """
        self._sessions_due = -math.inf
        if last:
            self._waits = False
            self._halves = dict.fromkeys(self._halves, -math.inf)
        for followed in self._sessions.values():
            followed.due = -math.inf
        self._notice()
        if last:
            self._end_files(waited=True)

    def wait(self, seconds: float) -> None:
        """
        Return when another poll is worth while: at once if the last one left something that may be read.

        Else not before `poll_seconds` after the last one, so that events gather; then as soon as a file grew.

        Args:
            seconds: To wait at most.
        """
        until = time.monotonic() + seconds
        held_back = min((self._limits.wait_seconds(event_type) for _, event_type in self._unread), default=math.inf)
        if self._rewound or held_back == 0:
            return
        poll_at = self._polled + min(self.config.poll_seconds, held_back)
        time.sleep(max(0.0, min(poll_at, until) - time.monotonic()))
        if self._watch and not self._unread:
            due = min([self._sessions_due, *(followed.due for followed in self._sessions.values())])
            self._watch.wait(min(until, due) - time.monotonic())

    def unread_bytes(self) -> int:
        """Return how much is known to be on disk and not acknowledged, half-written last lines included."""
        files = self._files()
        for file in files:
            _update(file)
        return sum(file.size if file.mark is None else file.mark.missing for file in files)

    def bytes_until_deleted(self) -> int | None:
        """
        Return how much its writer may write until Ray deletes what is not acknowledged: of the nearest file.

        None where all is acknowledged. What was deleted already, and is held open, is still read.
        """
        return min((left for _, left in self._until_deleted()), default=None)

    @property
    def open_files(self) -> int:
        """How many files are held open."""
        return len(self._open)

    @property
    def sessions(self) -> list[str]:
        """The names of the sessions that are followed."""
        return list(dict.fromkeys(followed.session.name for followed in list(self._sessions.values())))

    def reports(self, nameless: Collection[FileId] = ()) -> list[Chunk]:
        """
        Return what is to be said of the files that have changed since the last call, as ``FILE`` chunks.

        The raylets of a session that is alive are reported every minute: a sign of life. One that has gone is
        reported at once, and no more. Where it is not known which raylet runs, the session's last file is reported
        again in its place. Call it again only once the last chunks are published: by then, what ended is forgotten.

        Args:
            nameless: Files that somebody else has said to have no line to know them by, if they may have one by now.
        """
        for mark in self._ended:
            self._reported.pop(mark, None)
            if mark.key not in self._followers:  # else it has come back
                self._checkpoint.forget(mark)
        self._ended = []
        self._warn_of_rotation()
        self._end_files()
        changed: dict[tuple[str, str], list[Mark]] = {}
        for mark in (*filter(self._has_news, self._checkpoint.marks()), *self._nameless_files(nameless)):
            changed.setdefault((mark.session, mark.node_id), []).append(mark)
        chunks = [] if self._fixed or not self.config.export else self._report_lives(changed)
        return chunks + [
            self._report(*key, lines) for key, marks in changed.items() for lines in self._report_lines(marks)
        ]

    def ray_runs(self) -> bool:
        """Say whether a raylet runs here that works in one of the directories that are followed."""
        seen = discovery.running()
        return seen is not None and any(life.runs(seen) for life in list(self._lives.values()))

    def close(self) -> None:
        """Let go of all files."""
        for file in list(self._open):
            file.close()
        self._open.clear()
        self._halves.clear()
        self._sessions.clear()
        if self._watch:
            self._watch.close()
            self._watch = None

    # -- the last lines of a session that has ended

    def _end_files(self, *, waited: bool = False) -> None:
        """
        Have the last line of each event file read though it has no newline, where its session has ended.

        It is read if it is a whole event; else the file's report says why not. A live session's is only half written.

        Args:
            waited: Whether what was written last is not to be waited for.
        """
        files = [file for file in self._files() if file.half and not file.over and (waited or not file.queued)]
        halves = [(self._followed(file), file) for file in files]
        still = time.time_ns() - int(_STILL_SECONDS * 1e9)
        # looked at once: a node has thousands of processes, and may have a thousand sessions
        seen = discovery.running() if halves else None
        for session in {followed.session.name for followed, _ in halves}:
            alive = None if seen is None else seen.alive(session)
            # an import reads what was copied here from anywhere, also where nothing tells who runs
            if alive or (alive is None and not self._fixed):
                continue
            for followed, file in halves:
                if followed.session.name == session and (waited or file.seen[1] < still):
                    file.over = True
                    self._queue(followed, file)

    def _nameless_files(self, known: Collection[FileId]) -> Iterator[Mark]:
        """
        Yield marks for the files of sessions that have ended in which there is not one line to know them by.

        And for those that have one by now, and that were said to have none. They go by where they lie, and what they
        hold is counted as unread alone.
        """
        for file in self._files():
            unread = (0, file.size, file.unread) if file.mark is None and file.unread else None
            if file.name.is_log or not (unread or known or self._nameless):
                continue
            mark = _nameless(self._followed(file), file, unread)
            if unread != self._nameless.get(mark.file) or (unread is None and mark.file in known):
                self._nameless[mark.file] = unread
                yield mark

    # -- settings

    def _wanted(self, event_type: str) -> bool:
        config = self.config
        # what could not be read may have been of any type
        wanted = not config.event_types or event_type in (*config.event_types, SET_ASIDE)
        return (
            config.export
            and wanted
            and event_type not in config.without_event_types
            and (config.logs or event_type != LOG)
        )

    def _wants(self, name: FileName) -> bool:
        """Say whether a file is to be shipped."""
        if not name.is_log or not self._wanted(LOG):
            return self._wanted(name.event_type)
        include, exclude = self.config.log_include, self.config.log_exclude
        return (not include or _matches(name.stem, include)) and not _matches(name.stem, exclude)

    def _reconfigure(self, config: TailConfig) -> None:
        kept = {name: getattr(self.config, name) for name in ("temp_dir", "sessions", "inotify", "state_dir")}
        self.config, self._changed = msgspec.structs.replace(config, **kept), None
        self._sweep_seconds = config.sweep_seconds if self._watch else config.poll_seconds
        self._limits = Limits(config.events_per_second, config.bytes_per_second)
        self._redact = Redactor(config.redact)
        self._sessions_due = -math.inf
        for followed in self._sessions.values():
            for file in list(followed.files.values()):
                if not self._wants(file.name):
                    self._drop(followed, file)
                elif file.name.is_log:
                    file.most_bytes, file.seen = config.log_file_bytes, (0, 0)  # which the next listing looks at
            followed.names = {name: file for name, file in followed.names.items() if file.inode in followed.files}
            followed.due = -math.inf

    # -- what there is to read

    def _notice(self) -> float:
        """Find out what has grown; return the time."""
        if self._changed is not None:
            self._reconfigure(self._changed)
        now = time.monotonic()
        if now >= self._sessions_due:
            self._sessions_due = now + self.config.sweep_seconds
            self._find_sessions()
        if self._watch:
            news = self._watch.read()
            for directory, name in news.grown:
                if followed := self._sessions.get(directory):
                    followed.note_news(now)
                    if file := followed.names.get(name):
                        self._queue(followed, file)
            for directory in self._sessions if news.overflow else news.changed:
                if followed := self._sessions.get(directory):
                    followed.due = -math.inf
        due = [followed for followed in self._sessions.values() if now >= followed.due]
        while due:
            for followed in due:
                self._sweep(followed)
                # of logs, inotify tells as much; where it should fail, they may wait
                quiet = now - followed.news_at > _QUIET_SECONDS or (self._watch and followed.logs is not None)
                followed.due = now + self._sweep_seconds * (_QUIET_FACTOR if quiet else 1)
            # directories of logs that were found in these
            due = [followed for followed in self._sessions.values() if followed.due == -math.inf]
        for file in [file for file, since in self._halves.items() if now - since >= _HALF_SECONDS]:
            del self._halves[file]
            file.flush = True
            self._queue(self._followed(file), file)
        while self._rewound:
            self._read_again(self._rewound.popleft())
        return now

    def _find_sessions(self) -> None:
        if not self._fixed:
            self._find_new_sessions()
        for session in [followed.session for followed in self._sessions.values() if followed.logs is None]:
            directory = discovery.logs(session) if self._wanted(LOG) else None
            if directory is not None and directory not in self._sessions:
                self._sessions[directory] = self._begin(session._replace(events=directory), "")

    def _find_new_sessions(self) -> None:
        temp_dir = Path(self.config.temp_dir).expanduser()
        refused: dict[Path, str] = {}
        try:
            found = discovery.sessions(temp_dir, refused.__setitem__)
        except OSError as error:
            self._complain(f"{_shown(temp_dir)}: {error.strerror}; nothing is read there until it can be")
            return
        self._refuse_sessions(refused)
        if self.config.sessions == "new":
            since = self._since(temp_dir, found)
            found = [session for session in found if session.name >= since]
        for session in found:
            if session.events not in self._sessions:
                log.info("following %s", session.events)
                self._sessions[session.events] = self._begin(session)

    def _begin(self, session: Session, logs: str | None = None) -> _Followed:
        """Begin to follow a directory."""
        life = None
        if session.directory is not None:
            life = self._lives.get(session.directory)
            if life is None:
                life = self._lives[session.directory] = Life(session.name, session.directory, self._checkpoint)
        return _Followed(session, life, logs)

    def _end_life(self, directory: Path | None) -> None:
        """Forget the raylets of a session whose directory is gone, once nothing of it is followed any more."""
        if directory is not None and all(one.session.directory != directory for one in self._sessions.values()):
            del self._lives[directory]
            self._checkpoint.forget_note(note(directory))

    def _since(self, temp_dir: Path, found: list[Session]) -> str:
        """Return the name of the first session to follow; names sort by the time at which sessions began."""
        note = f"since {temp_dir}"
        since = self._checkpoint.note(note)
        if since is None:
            newest = found[-1].name + "~" if found else ""  # none is the latest: only what begins from now on
            since = discovery.latest(temp_dir) or newest
            self._checkpoint.remember(note, since)
        return since

    def _sweep(self, followed: _Followed) -> None:
        """List the directory: find files that came, went, were renamed, or grew unnoticed."""
        session = followed.session
        if followed.life and not followed.logs:
            followed.life.find_nodes()
        self._watch_over(session.events)  # before it is listed, so that nothing falls between
        present, is_empty = dict[str, EventFile](), True
        try:
            with disk.listed(session.events, followed.root) as names:
                followed.listed, followed.refused_at, is_empty = True, "", not names
                self._listed.add(str(session.events))
                present = self._find_all(followed, names)
        except disk.Refused as error:
            self._refuse_directory(followed, error)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            kind = "events" if followed.logs is None else "logs"
            self._complain(f"{_shown(session.events)}: {error.strerror}; its {kind} are not read until it can be")
            return
        followed.names = present
        self._tidy(followed, set(present.values()))
        if is_empty and not followed.files and self._is_over(followed):
            log.info("%s is gone", _shown(session.events))
            del self._sessions[session.events]
            self._end_life(session.directory)

    def _is_over(self, followed: _Followed) -> bool:
        """Say whether a directory is gone, and nothing is to be expected of it any more."""
        session = followed.session
        if followed.logs and not session.events.exists():
            return True
        return not (self._fixed or (session.directory and session.directory.exists()))

    def _find_all(self, followed: _Followed, names: Mapping[str, os.DirEntry[str]]) -> dict[str, EventFile]:
        """Return the files of a directory that is held open, by name."""
        followed.refused &= names.keys()
        if followed.logs is not None:
            self._follow_within(followed, names.values())
        files = ((name, self._find(followed, name, entry)) for name, entry in names.items())
        return {name: file for name, file in files if file is not None}

    def _follow_within(self, followed: _Followed, entries: Iterable[os.DirEntry[str]]) -> None:
        """Begin to follow what directories of logs there are in one."""
        for entry in entries:
            path = followed.session.events / entry.name
            is_new = entry.is_dir(follow_symlinks=False) and path not in self._sessions
            if is_new and (followed.logs or not discovery.is_events(entry.name)):
                place = f"{followed.logs}{disk.escape_name(entry.name)}/"
                if place.count("/") > _MOST_DEEP:
                    self._refuse(followed, entry.name, f"over {_MOST_DEEP} directories deep")
                elif self._directories_of_logs(followed.session) >= _MOST_DIRECTORIES:
                    self._refuse(followed, entry.name, f"one of more than {_MOST_DIRECTORIES} directories of logs")
                else:
                    self._sessions[path] = self._begin(followed.session._replace(events=path), place)

    def _directories_of_logs(self, session: Session) -> int:
        return sum(
            bool(one.logs) and one.session.directory == session.directory for one in list(self._sessions.values())
        )

    def _refuse(self, followed: _Followed, name: str, what: str) -> None:
        """Note that a name in a directory is taken by what is not to be read; say it where that is new."""
        if name not in followed.refused:
            followed.refused.add(name)
            self._count_refused(f"{_shown(followed.session.events / name)}: it is {what}; it is not read")

    def _refuse_directory(self, followed: _Followed, error: disk.Refused) -> None:
        where = str(error.filename)
        if all(one.refused_at != where for one in self._sessions.values()):
            self._count_refused(f"{where}: it is {error.strerror}; nothing is read there")
        followed.refused_at = where

    def _refuse_sessions(self, refused: Mapping[Path, str]) -> None:
        for path in refused.keys() - self._refused:
            self._count_refused(f"{_shown(path)}: {refused[path]}; nothing is read there")
        self._refused = set(refused)

    def _count_refused(self, message: str) -> None:
        self.refused += 1
        if self.refused <= _MOST_NAMED:
            log.warning("%s", message)
        elif self.refused == _MOST_NAMED + 1:
            log.warning(
                "more than %d names are taken by what is no file; the others are not named, and counted in "
                "raytrail_tail_refused_names_total",
                _MOST_NAMED,
            )

    def _watch_over(self, directory: Path) -> None:
        if self._watch:
            try:
                self._watch.add(directory)
            except (FileNotFoundError, NotADirectoryError):
                pass  # not there yet
            except OSError as error:
                self._complain(
                    f"inotify on {directory}: {error.strerror}; raise fs.inotify.max_user_watches; "
                    f"until then it is listed every {self.config.sweep_seconds:g} seconds"
                )

    def _find(self, followed: _Followed, name: str, entry: os.DirEntry[str]) -> EventFile | None:
        is_log = followed.logs is not None
        parsed = discovery.parse_log(followed.place(name)) if is_log else discovery.parse(name)
        if parsed is None or not self._wants(parsed) or (followed.logs == "" and discovery.is_events(name)):
            return None
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            return None  # renamed or deleted since it was listed: the next listing will tell
        if not stat.S_ISREG(status.st_mode):
            if not (is_log and stat.S_ISDIR(status.st_mode)):
                self._refuse(followed, name, f"{disk.kind(status.st_mode)}, and no file")
            return None
        inode = (status.st_dev, status.st_ino)
        file = followed.files.get(inode)
        if file is not None and (
            parsed.stem != file.name.stem or (file.fd is None and parsed.rotation < file.name.rotation)
        ):
            # Ray renames within a stem, and upwards: while nobody held it open, the inode came to be another file's
            self._drop(followed, file)
            file = None
        if file is None:
            most_bytes = self.config.log_file_bytes if is_log else None
            file = followed.files[inode] = EventFile(
                followed.session.events / name, parsed, inode, most_bytes, root=followed.root
            )
            if len(self._open) < self._most_open:
                with suppress(OSError):
                    self._hold(file)
        elif followed.names.get(name) is not file:
            file.path, file.name, file.gone = followed.session.events / name, parsed, False
            if file.mark is not None and is_log:
                file.mark.name = followed.place(name)
        if file.changed(status):
            followed.note_news(time.monotonic())
            file.over, file.unread = False, ""  # somebody writes it, after all
            self._queue(followed, file)
            if file.mark is None:
                file.size = status.st_size
            elif file.fd is not None:  # what is closed is looked at when it is read
                try:
                    file.measure()
                except Changed:
                    return self._begin_again(followed, file)
        return file

    def _tidy(self, followed: _Followed, present: set[EventFile]) -> None:
        """
        Let go of files that have no name any more, once they are read to their end and acknowledged.

        Their descriptors pin their inodes and their disk space; so do those of files that were rotated.
        """
        for file in list(followed.files.values()):
            if file in present:
                if file.name.rotation and file.done:
                    self._release(file)
                continue
            if file.fd is not None and file.changed(os.fstat(file.fd)):
                self._queue(followed, file)
            if file.name.is_log and file.fd is not None and file.position < file.size:
                file.flush = True
                self._queue(followed, file)
            # Half a line may still be completed: it is given the time from one listing to the next.
            ends = file.position == file.size or file.gone
            file.gone = True
            if file.fd is None or (file.settled and ends and not file.queued):
                self._drop(followed, file)

    def _queue(self, followed: _Followed, file: EventFile) -> None:
        group = self._unread.setdefault((followed, file.name.event_type), {})
        group.setdefault(file.name.stem, {})[file] = None
        file.queued = True

    def _unqueue(self, followed: _Followed, file: EventFile) -> None:
        file.queued = False
        group = (followed, file.name.event_type)
        stems = self._unread.get(group, {})
        files = stems.get(file.name.stem, {})
        files.pop(file, None)
        if not files:
            stems.pop(file.name.stem, None)
        if not stems:
            self._unread.pop(group, None)

    # -- reading

    def _chunk(self, followed: _Followed, event_type: str) -> Chunk | None:
        group = (followed, event_type)
        segments: list[Segment] = []
        parts: list[bytes] = []
        room = self.config.chunk_bytes
        lines = 0
        is_log = event_type == LOG
        while room > 0 and (stems := self._unread.get(group)):
            stem, files = next(iter(stems.items()))
            # The oldest of a writer's files comes first; one that is already deleted is older than all.
            file = max(files, key=lambda file: math.inf if file.gone else file.name.rotation)
            piece = self._read(followed, file, room, long=not parts)
            if piece is None and file.more:
                if file.searching:
                    stems[stem] = stems.pop(stem)  # the others' turn
                break  # its next line does not fit; it begins the next chunk
            if piece is not None and piece.data is not None:
                assert file.mark is not None
                segments.append(Segment(*file.mark.key, piece.start, piece.length))
                parts.append(piece.data)
                lines += file.mark.reading[piece.start]
                # nothing can follow a line that has no newline
                room = room - piece.length if is_log or piece.data.endswith(b"\n") else 0
            if file.more:
                stems[stem] = stems.pop(stem)  # the others' turn
            else:
                self._unqueue(followed, file)
        if group in self._unread:
            self._unread[group] = self._unread.pop(group)  # the next poll begins with another one
        if not parts:
            return None
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._limits.spend(event_type, lines, len(data))
        return Chunk(
            cluster=self.config.cluster,
            session=followed.session.name,
            node_id=followed.node_id,
            event_type=event_type,
            segments=tuple(segments),
            data=self._redact(data, event_type) if self.config.redact_logs or not is_log else data,
        )

    def _read(self, followed: _Followed, file: EventFile, room: int, *, long: bool) -> Piece | None:
        try:
            self._hold(file)
            if file.mark is None and not self._identify(followed, file):
                file.more = file.searching
                return None
            file.flush = file.flush or (file.name.is_log and not self._waits)
            piece = file.read(room, long=long, max_line_bytes=self.config.max_line_bytes)
            self._wait_for_half(file, piece)
        except Changed:
            file.more = False
            self._begin_again(followed, file)
            return None
        except OSError as error:
            file.more = False
            if isinstance(error, FileNotFoundError):
                followed.due = -math.inf  # it has another name by now, or none: list again
            else:
                file.seen = (0, 0)  # the next listing finds it changed, and it is tried again
                file.unread = f"cannot be read: {error.strerror}" if file.over else ""
                self._complain(f"{file.path}: {error.strerror}; it is not read until it can be")
            return None
        if piece is not None:
            self._take(file, piece)
        if self._fixed and not file.more:
            self._release(file)  # its time is over: it is in nobody's way, and to choose among thousands takes long
        return piece

    def _wait_for_half(self, file: EventFile, piece: Piece | None) -> None:
        """Note that a log ends in half a line, or no more in the one that was noted."""
        if not file.name.is_log:
            return
        if piece is not None:
            self._halves.pop(file, None)
        if file.position < file.size and not file.more:
            self._halves.setdefault(file, time.monotonic())
        if file.beyond and file.path not in self._capped:
            self._capped.add(file.path)
            log.warning(
                "%s: what is over log_file_bytes %d is not shipped; it shows as skipped in the ledger",
                file.path,
                file.most_bytes,
            )

    def _take(self, file: EventFile, piece: Piece) -> None:
        assert file.mark is not None
        if piece.data is None:
            log.warning(
                "%s: the line at offset %d is %d bytes long, over max_line_bytes %d; it is skipped",
                file.path,
                piece.start,
                piece.length,
                self.config.max_line_bytes,
            )
            self._checkpoint.skip(file.mark, piece.start, piece.start + piece.length)
        elif file.name.is_log:
            file.mark.reading[piece.start] = 0  # lines, and no events
        else:
            # `bytes.count` looks at each byte; this one leaps from line to line, at a third of the cost
            file.mark.reading[piece.start] = len(io.BytesIO(piece.data).readlines()) - piece.data.startswith(b"\n")

    def _identify(self, followed: _Followed, file: EventFile) -> bool:
        """Find out which file this is, and how far it was read before; False until it has a whole line."""
        id = file.identify(followed.session.name, self.config.max_line_bytes)
        if id is None:
            return False
        known = self._checkpoint.newest(id)
        inode = f"{file.inode[0]:x}:{file.inode[1]:x}"
        mark = known
        if mark is None or file.shrunk or (mark.inode == inode and file.size < mark.written):
            mark = Mark(
                file=id,
                generation=known.generation + 1 if known else 0,
                inode=inode,
                directory=str(followed.session.events),
                name=followed.place(file.path.name),
                event_type=file.name.event_type,
                session=followed.session.name,
                node_id=followed.node_id,
            )
            self._checkpoint.add(mark)
        elif mark.inode == inode:
            file.position = mark.acknowledged
            if file.name.is_log:
                self._take_over(file, mark)
                mark.directory, mark.name = str(followed.session.events), followed.place(file.path.name)
        else:
            # The same first line in another place: a copy, or what came back from a backup. To read it again
            # costs only time, and what follows the first line may differ.
            self.mismatches += 1
            log.info("%s is known, but from another place; it is read again from its start", file.path)
            mark.inode, mark.directory = inode, str(followed.session.events)
        mark.written = max(mark.written, file.size)
        self._checkpoint.touch(mark)
        if mark.generation:
            self._checkpoint.commit()  # before it grows back to where the old one's offset would look right
        file.mark = mark
        self._followers.setdefault(mark.key, []).append(file)
        return True

    def _take_over(self, file: EventFile, mark: Mark) -> None:
        """Go on in a log that was moved to another directory where it was being read until now."""
        for other in self._followers.get(mark.key, [])[:]:
            before = self._followed(other)
            file.position = max(file.position, other.position)
            file.again.extend(other.again)
            self._drop(before, other)
            before.names = {name: one for name, one in before.names.items() if one is not other}

    def _read_again(self, segment: Segment) -> None:
        key = segment.file, segment.generation
        self._checkpoint.mark(key).reading.pop(segment.start, None)
        for file in self._followers.get(key, ())[:1]:
            file.again.append((segment.start, segment.end))
            self._queue(self._followed(file), file)

    def _begin_again(self, followed: _Followed, file: EventFile) -> EventFile:
        """Go on with an inode that holds something else now; what had not been read of it before is lost."""
        log.warning("%s was cut or written anew; what had not been read of it is lost", file.path)
        new = EventFile(file.path, file.name, file.inode, file.most_bytes, root=file.root)
        self._halves.pop(file, None)
        new.fd, file.fd = file.fd, None
        new.shrunk = True
        new.seen, new.gone = file.seen, file.gone
        self._open.pop(file, None)
        self._open[new] = None
        self._unqueue(followed, file)
        self._unfollow(file)
        followed.files[file.inode] = new
        followed.names = {name: new if one is file else one for name, one in followed.names.items()}
        self._queue(followed, new)
        return new

    def _hold(self, file: EventFile) -> None:
        """Open the file, if need be; of too many, let go of the one that was not read for longest."""
        if file.fd is None:
            while len(self._open) >= self._most_open:
                named = [one for one in self._open if not one.gone]
                if not named:
                    break
                # One that is not done can be opened again too, unless it is deleted meanwhile.
                self._release(next((one for one in named if one.done), named[0]))
            file.open()
        self._open.pop(file, None)
        self._open[file] = None

    def _release(self, file: EventFile) -> None:
        file.close()
        self._open.pop(file, None)

    def _drop(self, followed: _Followed, file: EventFile) -> None:
        self._release(file)
        self._unqueue(followed, file)
        self._unfollow(file)
        self._halves.pop(file, None)
        del followed.files[file.inode]

    def _unfollow(self, file: EventFile) -> None:
        if file.mark is not None:
            _update(file)
            files = self._followers[file.mark.key]
            files.remove(file)
            if not files:
                del self._followers[file.mark.key]

    def _followed(self, file: EventFile) -> _Followed:
        return self._sessions[file.path.parent]

    # -- figures and reports

    def _files(self) -> list[EventFile]:
        # copies, as another thread may be reading meanwhile
        return [file for followed in list(self._sessions.values()) for file in list(followed.files.values())]

    def _until_deleted(self) -> Iterator[tuple[EventFile, int]]:
        """Yield each file that is not acknowledged to its end, with what its writer may write until it is deleted."""
        writing: dict[tuple[Path, str], int] = {}
        waiting: list[EventFile] = []
        for file in self._files():
            if file.name.is_log:
                continue  # which rotate by settings of their own, if at all
            if not file.name.rotation:
                writing[file.path.parent, file.name.stem] = file.size
            if not file.gone and (file.mark is None or file.mark.acknowledged < file.size):
                waiting.append(file)
        for file in waiting:
            whole = (self.config.rotation_files - file.name.rotation) * self.config.rotation_bytes
            size = writing.get((file.path.parent, file.name.stem), 0)
            yield file, max(0, whole + self.config.rotation_bytes - size)

    def _warn_of_rotation(self) -> None:
        near = self.config.rotation_files * self.config.rotation_bytes // 4
        found = {file.name.stem: (file, left) for file, left in self._until_deleted() if left < near}
        for stem, (file, left) in found.items():
            if stem not in self._warned:
                log.warning(
                    "%s: unread, and Ray deletes it when its writer has written %d more MB; "
                    "see what holds the broker up, raise the speed limits, or rotate less (raytrail doctor)",
                    file.path,
                    left // 1_000_000,
                )
        self._warned = set(found)

    def _report_lives(self, changed: dict[tuple[str, str], list[Mark]]) -> list[Chunk]:
        """Return the reports of raylets; add a file to what has `changed`, where a sign of life has no other form."""
        now, seen = time.monotonic(), self._look_for_raylets()
        now_ms = time.time_ns() // 1_000_000
        lives = [(life, list(life.reports(now, now_ms))) for life in self._lives.values()]
        for followed in self._sessions.values():
            key = (followed.session.name, followed.node_id)
            if key not in changed and not followed.node_id and now - followed.reported_at >= HEARTBEAT_SECONDS:
                marks = [file.mark for file in followed.files.values() if file.mark is not None]
                if marks and (seen is None or seen.alive(followed.session.name)):
                    changed[key] = [marks[-1]]
            if key in changed:
                followed.reported_at = now
        return [self._report(life.session, life.nodes.main, lines) for life, lines in lives if lines]

    def _look_for_raylets(self) -> Running | None:
        """Look which raylets run, where any may; twice where the last look of all has missed one that did run."""
        while any(life.may_change for life in self._lives.values()):
            seen, now_ms = discovery.running(), time.time_ns() // 1_000_000
            for life in self._lives.values():
                life.look(seen, time.monotonic(), now_ms)
            if self._waits or not any(life.is_in_doubt for life in self._lives.values()):
                return seen
            time.sleep(_AGAIN_SECONDS)
        return None

    def _has_news(self, mark: Mark) -> bool:
        """Bring `mark` up to date, and say whether it differs from what was last reported."""
        files = self._followers.get(mark.key, ())
        for file in files:
            _update(file)
            mark.node_id = mark.node_id or self._followed(file).node_id
        ended = not files and self._is_gone(mark)
        if ended:
            self._ended.append(mark)
        missing = mark.missing if ended else 0
        state = (
            *(mark.name, mark.node_id, mark.written, mark.acknowledged, mark.events, mark.skipped, missing),
            mark.unread,
        )
        if (not files and not ended) or self._reported.get(mark) == state:
            return False
        self._reported[mark] = state
        self._checkpoint.touch(mark)  # how much was written, for whoever comes after us
        return True

    def _is_gone(self, mark: Mark) -> bool:
        """Say whether there is no file for `mark` any more, and nothing of it is on its way."""
        followed = self._sessions.get(Path(mark.directory))
        if mark.reading or not self._wanted(mark.event_type):
            return False
        if followed is None:
            return mark.directory in self._listed
        return followed.listed and all(file.tried for file in followed.files.values())

    def _report_lines(self, marks: list[Mark]) -> Iterator[list[bytes]]:
        now_ms = time.time_ns() // 1_000_000
        ended = set(self._ended)
        lines = [
            msgspec.json.encode(
                {
                    "event_data": {
                        "file": mark.file,
                        "generation": mark.generation,
                        **_names(mark, now_ms),
                        "event_type": mark.event_type,
                        "node_id": mark.node_id,
                        "written_bytes": mark.written + (mark.skipped if mark.event_type == LOG else 0),
                        "published_bytes": mark.acknowledged,
                        "published_events": mark.events,
                        "skipped_bytes": mark.skipped,
                        "lost_bytes": mark.missing if mark in ended else 0,
                        "unread": _unread(mark, now_ms),
                        "reported_ms": now_ms,
                    },
                    "source_type": "RAYTRAIL_FILE",
                    "timestamp": now_ms // 1000,
                }
            )
            + b"\n"
            for mark in marks
        ]
        size = max(1, self.config.chunk_bytes // max(map(len, lines)))
        for first in range(0, len(lines), size):
            yield lines[first : first + size]

    def _report(self, session: str, node_id: str, lines: list[bytes]) -> Chunk:
        return Chunk(
            cluster=self.config.cluster,
            session=session,
            node_id=node_id,
            event_type="FILE",
            segments=(),
            data=b"".join(lines),
        )

    def _forget_the_vanished(self) -> None:
        """Forget files, and raylets, whose whole directory went away while no agent ran."""
        for name in self._checkpoint.notes(NOTE):
            if not Path(name.removeprefix(NOTE)).exists():
                self._checkpoint.forget_note(name)
        marks = [mark for mark in self._checkpoint.marks() if Path(mark.directory) not in self._sessions]
        for directory, group in itertools.groupby(
            sorted(marks, key=lambda mark: mark.directory), lambda mark: mark.directory
        ):
            if not Path(directory).exists():
                gone = list(group)
                if missing := sum(mark.missing for mark in gone):
                    log.warning("%s is gone; %d bytes of it had not been published", directory, missing)
                for mark in gone:
                    self._checkpoint.forget(mark)

    def _complain(self, message: str) -> None:
        if message not in self._complained and len(self._complained) < _MOST_COMPLAINTS:
            self._complained.add(message)
            log.warning("%s", message)


def _shown(path: Path) -> str:
    return disk.escape_name(str(path))


def _turn(group: tuple[_Followed, str]) -> int:
    """Return when a type is read: the small ones first."""
    return {"TASK": 1, LOG: 2}.get(group[1], 0)


def _matches(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _update(file: EventFile) -> None:
    """Bring a file's mark up to date with what is known to be on disk."""
    if file.mark is not None:
        file.mark.written = max(file.mark.written, file.size)
        if file.name.is_log:
            file.mark.skipped = file.beyond
        file.mark.unread = (file.position, file.size - file.position, file.unread) if file.unread else None


def _names(mark: Mark, now_ms: int) -> dict[str, str]:
    """Return what a file is called, in its report; a log also where it is by now."""
    if mark.event_type != LOG:
        return {"name": mark.name}
    return {"name": discovery.parse_log(mark.name).stem, "seen": f"{now_ms:013d} {mark.name}"}


def _nameless(followed: _Followed, file: EventFile, unread: tuple[int, int, str] | None) -> Mark:
    """Return a mark, which no checkpoint keeps, for the report of a file that has no line to know it by."""
    session, directory = followed.session.name, str(followed.session.events)
    place = f"{session}\nUNREAD {followed.node_id} {directory}/{file.path.name}"
    return Mark(
        file=f"{0:010d}-{hashlib.blake2b(place.encode(errors='surrogateescape'), digest_size=16).hexdigest()}",
        generation=0,
        inode="",
        directory=directory,
        name=disk.escape_name(file.path.name),
        event_type=file.name.event_type,
        session=session,
        node_id=followed.node_id,
        unread=unread,
    )


def _unread(mark: Mark, now_ms: int) -> str:
    """Return what is not read of a file whose writer is gone, in its report; of any other file the moment alone."""
    if mark.unread is None:
        return f"{now_ms:013d}"
    offset, length, reason = mark.unread
    return f"{now_ms:013d} {offset:020d} {length:020d} {reason}"


def _watch() -> Watch | None:
    try:
        return Watch()
    except OSError as error:
        log.warning("no inotify: %s; all files are looked at each time instead", error.strerror)
        return None
