"""The directories that are followed, and their files. All parts of a tailer share them."""

from __future__ import annotations

import logging
from pathlib import Path

from raytrail.config import TailConfig
from raytrail.event import FileId
from raytrail.tail.checkpoint import Checkpoint, Mark
from raytrail.tail.directory import Directory
from raytrail.tail.discovery import Session
from raytrail.tail.file import EventFile
from raytrail.tail.halves import Halves
from raytrail.tail.life import Life, note
from raytrail.tail.limits import Limits
from raytrail.tail.open_files import OpenFiles
from raytrail.tail.turns import Turns

log = logging.getLogger(__name__)


class Followed:
    """
    The directories and files that are followed.

    Args:
        config: The settings to begin with.
        checkpoint: How far each file was acknowledged.
        fixed: Whether the sessions were given, and no other one is looked for.
    """

    def __init__(self, config: TailConfig, checkpoint: Checkpoint, *, fixed: bool) -> None:
        self.config = config
        self.checkpoint = checkpoint
        self.fixed = fixed
        self.waits = not fixed
        """True if more may be written, so that half a line of a log is waited for, and a missed raylet too."""
        self.directories: dict[Path, Directory] = {}
        self.listed: set[str] = set()
        """Every directory that could ever be listed."""
        self.lives: dict[Path, Life] = {}
        """The lives of the sessions' directories, by where they are."""
        self.turns = Turns(Limits(config.events_per_second, config.bytes_per_second))
        self.open_files = OpenFiles()
        self.halves = Halves()
        self._known: dict[tuple[FileId, int], list[EventFile]] = {}
        """The files that are known, by the keys of their marks. Several may be copies of one."""

    def files(self) -> list[EventFile]:
        """Return all files. Any thread may ask."""
        # copies, as another thread may be reading meanwhile
        return [file for directory in list(self.directories.values()) for file in list(directory.files.values())]

    def directory_of(self, file: EventFile) -> Directory:
        """Return the directory that a file is in."""
        return self.directories[file.path.parent]

    def follow(self, session: Session, logs: str | None = None) -> None:
        """Begin to follow a directory. The arguments are those of `Directory`."""
        life = None
        if session.directory is not None:
            life = self.lives.get(session.directory)
            if life is None:
                life = self.lives[session.directory] = Life(session.name, session.directory, self.checkpoint)
        self.directories[session.events] = Directory(session, life, logs)

    def unfollow(self, directory: Directory) -> None:
        """Follow a directory no more. Its session's raylets are forgotten with the last one of the session."""
        del self.directories[directory.session.events]
        of_session = directory.session.directory
        others = self.directories.values()
        if of_session is not None and all(other.session.directory != of_session for other in others):
            del self.lives[of_session]
            self.checkpoint.forget_note(note(of_session))

    def files_of(self, key: tuple[FileId, int]) -> list[EventFile]:
        """Return the files that are known by the mark with this key."""
        return list(self._known.get(key, ()))

    def note_mark(self, file: EventFile, mark: Mark) -> None:
        """Note by which mark a file is known."""
        file.mark = mark
        self._known.setdefault(mark.key, []).append(file)

    def drop(self, directory: Directory, file: EventFile) -> None:
        """Follow a file no more."""
        self.open_files.close(file)
        self._forget(directory, file)
        del directory.files[file.inode]

    def begin_again(self, directory: Directory, file: EventFile) -> EventFile:
        """Go on with an inode that holds something else now. The bytes of it that had not been read before are lost."""
        log.warning("%s was cut or written anew; what had not been read of it is lost", file.path)
        new = EventFile(file.path, file.name, file.inode, file.most_bytes, root=file.root)
        new.shrunk = True
        new.seen, new.gone = file.seen, file.gone
        self.open_files.hand_over(file, new)
        self._forget(directory, file)
        directory.replace(file, new)
        self.turns.add(directory, new)
        return new

    def close(self) -> None:
        """Let go of all files."""
        self.open_files.close_all()
        self.halves.clear()
        self.directories.clear()

    def _forget(self, directory: Directory, file: EventFile) -> None:
        self.turns.remove(directory, file)
        self.halves.forget(file)
        if file.mark is not None:
            file.update_mark()
            files = self._known[file.mark.key]
            files.remove(file)
            if not files:
                del self._known[file.mark.key]
