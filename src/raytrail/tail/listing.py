"""Directories are listed now and then. A listing shows which files came, went, were renamed, or grew."""

from __future__ import annotations

import logging
import math
import os
import stat
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from raytrail import disk
from raytrail.tail import discovery
from raytrail.tail.complaints import Complaints, Refusals, shown
from raytrail.tail.directory import Directory
from raytrail.tail.discovery import FileName, Session
from raytrail.tail.file import Changed, EventFile
from raytrail.tail.follow import Followed
from raytrail.tail.selection import wants_file
from raytrail.tail.watch import Watch

log = logging.getLogger(__name__)

_QUIET_SECONDS = 60.0
_QUIET_FACTOR = 10
"""A directory in which nothing happened for `_QUIET_SECONDS`, or one of logs, is listed this many times more rarely."""
_MOST_DEEP = 16
"""How deep in ``logs/`` a directory may be. Ray's own are right in it, and each level costs a step more to reach."""
_MOST_DIRECTORIES = 1000
"""How many directories of logs are followed in a session. Each costs a listing now and then, and a watch of inotify."""


class Lister:
    """
    Lists the directories that are followed.

    Args:
        followed: The directories. It gets the files that are new, and the directories of logs.
        refusals: Counts the names that are taken by what is no file.
        complaints: Says which directories cannot be read.
        watch: Says what changes between two listings. None where nothing does.
    """

    def __init__(self, followed: Followed, refusals: Refusals, complaints: Complaints, watch: Watch | None) -> None:
        self.watch = watch
        self._followed = followed
        self._refusals = refusals
        self._complaints = complaints

    def list_due(self, now: float) -> None:
        """List all directories that it is time for, and the directories of logs that are found in them."""
        directories = self._followed.directories
        due = [directory for directory in directories.values() if now >= directory.due]
        while due:
            for directory in due:
                self.list_one(directory)
                directory.due = now + self._pause_seconds(directory, now)
            due = [directory for directory in directories.values() if directory.due == -math.inf]

    def list_one(self, directory: Directory) -> None:
        """List a directory."""
        if directory.life and not directory.logs:
            directory.life.find_nodes()
        self._watch_over(directory.session.events)  # before it is listed, so that nothing falls between
        names, is_empty = dict[str, EventFile](), True
        try:
            with disk.listed(directory.session.events, directory.root) as entries:
                directory.listed, directory.refused_at, is_empty = True, "", not entries
                self._followed.listed.add(str(directory.session.events))
                names = self._find_files(directory, entries)
        except disk.Refused as error:
            self._refusals.refuse_directory(directory, error, self._followed.directories.values())
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            self._complain(directory, error)
            return
        directory.names = names
        self._drop_nameless(directory)
        if is_empty and not directory.files and self._is_over(directory):
            log.info("%s is gone", shown(directory.session.events))
            self._followed.unfollow(directory)

    def _pause_seconds(self, directory: Directory, now: float) -> float:
        """Return how long after a listing the next one is due."""
        config = self._followed.config
        seconds = config.sweep_seconds if self.watch else config.poll_seconds
        # inotify tells as much of logs, and they may wait where it should fail
        is_quiet = now - directory.news_at > _QUIET_SECONDS or (self.watch and directory.holds_logs)
        return seconds * (_QUIET_FACTOR if is_quiet else 1)

    def _watch_over(self, path: Path) -> None:
        if self.watch:
            try:
                self.watch.add(path)
            except (FileNotFoundError, NotADirectoryError):
                pass  # not there yet
            except OSError as error:
                self._complaints.warn(
                    f"inotify on {path}: {error.strerror}; raise fs.inotify.max_user_watches; "
                    f"until then it is listed every {self._followed.config.sweep_seconds:g} seconds"
                )

    def _complain(self, directory: Directory, error: OSError) -> None:
        kind = "logs" if directory.holds_logs else "events"
        self._complaints.warn(
            f"{shown(directory.session.events)}: {error.strerror}; its {kind} are not read until it can be"
        )

    def _is_over(self, directory: Directory) -> bool:
        """Say whether a directory is gone, and nothing is to be expected of it any more."""
        session = directory.session
        if directory.logs and not session.events.exists():
            return True
        return not (self._followed.fixed or (session.directory and session.directory.exists()))

    def _follow_within(self, directory: Directory, entries: Iterable[os.DirEntry[str]]) -> None:
        """Begin to follow the directories of logs that are in one."""
        for entry in entries:
            path = directory.path(entry.name)
            is_new = entry.is_dir(follow_symlinks=False) and path not in self._followed.directories
            if is_new and (directory.logs or not discovery.is_events(entry.name)):
                place = f"{directory.place(entry.name)}/"
                if place.count("/") > _MOST_DEEP:
                    self._refusals.refuse_name(directory, entry.name, f"over {_MOST_DEEP} directories deep")
                elif self._count_directories_of_logs(directory.session) >= _MOST_DIRECTORIES:
                    kind = f"one of more than {_MOST_DIRECTORIES} directories of logs"
                    self._refusals.refuse_name(directory, entry.name, kind)
                else:
                    self._followed.follow(directory.session._replace(events=path), place)

    def _count_directories_of_logs(self, session: Session) -> int:
        return sum(
            bool(directory.logs) and directory.session.directory == session.directory
            for directory in list(self._followed.directories.values())
        )

    def _find_files(self, directory: Directory, entries: Mapping[str, os.DirEntry[str]]) -> dict[str, EventFile]:
        """Return the files of a directory that is held open, by name."""
        directory.refused &= entries.keys()
        if directory.holds_logs:
            self._follow_within(directory, entries.values())
        files = ((name, self._find_file(directory, name, entry)) for name, entry in entries.items())
        return {name: file for name, file in files if file is not None}

    def _find_file(self, directory: Directory, name: str, entry: os.DirEntry[str]) -> EventFile | None:
        """Return the file that has a name now. None where that is none, or none that is shipped."""
        parsed = self._parse(directory, name)
        if parsed is None:
            return None
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            return None  # renamed or deleted since it was listed, as the next listing will tell
        if not stat.S_ISREG(status.st_mode):
            if not (directory.holds_logs and stat.S_ISDIR(status.st_mode)):
                self._refusals.refuse_name(directory, name, f"{disk.kind(status.st_mode)}, and no file")
            return None
        file = self._match(directory, name, parsed, status)
        return self._look_at(directory, file, status) if file.changed(status) else file

    def _parse(self, directory: Directory, name: str) -> FileName | None:
        """Read a name. None where no file of that name is shipped."""
        if not directory.holds_logs:
            parsed = discovery.parse(name)
        elif directory.logs == "" and discovery.is_events(name):
            return None
        else:
            parsed = discovery.parse_log(directory.place(name))
        return parsed if parsed is not None and wants_file(self._followed.config, parsed) else None

    def _match(self, directory: Directory, name: str, parsed: FileName, status: os.stat_result) -> EventFile:
        """Return the file of an inode, under the name that it has now."""
        file = directory.files.get((status.st_dev, status.st_ino))
        if file is not None and _is_another(file, parsed):
            self._followed.drop(directory, file)
            file = None
        if file is None:
            return self._add(directory, name, parsed, status)
        if directory.names.get(name) is not file:
            file.path, file.name, file.gone = directory.path(name), parsed, False
            if file.mark is not None and directory.holds_logs:
                file.mark.name = directory.place(name)
        return file

    def _add(self, directory: Directory, name: str, parsed: FileName, status: os.stat_result) -> EventFile:
        """Begin to follow a file."""
        inode = (status.st_dev, status.st_ino)
        most_bytes = self._followed.config.log_file_bytes if directory.holds_logs else None
        file = EventFile(directory.path(name), parsed, inode, most_bytes, root=directory.root)
        directory.files[inode] = file
        if self._followed.open_files.has_room:
            with suppress(OSError):
                self._followed.open_files.open(file)
        return file

    def _look_at(self, directory: Directory, file: EventFile, status: os.stat_result) -> EventFile:
        """Have a file read that has changed. Return what goes on in its place where it is another one now."""
        directory.note_news(time.monotonic())
        file.over, file.unread = False, ""  # somebody writes it, after all
        self._followed.turns.add(directory, file)
        if file.mark is None:
            file.size = status.st_size
        elif file.fd is not None:  # a closed file is looked at when it is read
            try:
                file.measure()
            except Changed:
                return self._followed.begin_again(directory, file)
        return file

    def _drop_nameless(self, directory: Directory) -> None:
        """
        Let go of files that have no name any more, once they are read to their end and acknowledged.

        Their descriptors pin their inodes and their disk space, and so do those of rotated files.
        """
        named = set(directory.names.values())
        for file in list(directory.files.values()):
            if file not in named:
                self._end(directory, file)
            elif file.name.rotation and file.done:
                self._followed.open_files.close(file)

    def _end(self, directory: Directory, file: EventFile) -> None:
        """Read a file that has no name any more to its end, or let go of it."""
        if file.fd is not None and file.changed(os.fstat(file.fd)):
            self._followed.turns.add(directory, file)
        if file.name.is_log and file.fd is not None and file.position < file.size:
            file.flush = True
            self._followed.turns.add(directory, file)
        # half a line may still be completed, and is given the time from one listing to the next
        ends = file.position == file.size or file.gone
        file.gone = True
        if file.fd is None or (file.settled and ends and not file.queued):
            self._followed.drop(directory, file)


def _is_another(file: EventFile, name: FileName) -> bool:
    """
    Say whether a file's inode came to be another file's, by the name that it has now.

    Ray renames within a stem, and upwards. Nobody else can have the inode while the file is held open.
    """
    return name.stem != file.name.stem or (file.fd is None and name.rotation < file.name.rotation)
