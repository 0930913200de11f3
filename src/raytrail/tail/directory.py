"""One directory that is followed, with the files in it."""

from __future__ import annotations

import math
import time
from pathlib import Path

from raytrail import disk
from raytrail.tail.discovery import Session
from raytrail.tail.file import EventFile, Inode
from raytrail.tail.life import Life


class Directory:
    """
    A directory of a session that is followed, and its files.

    Args:
        session: The session, with the directory as its `events`.
        life: The life of the session's directory, which all directories in it share. None for files that were taken
            out of theirs.
        logs: The place of a directory of logs in ``logs/``, escaped. It ends with a slash where it is not ``logs/``
            itself, which is empty. None for a directory of events.
    """

    def __init__(self, session: Session, life: Life | None, logs: str | None = None) -> None:
        self.session = session
        self.life = life
        self.logs = logs
        self.root = session.root
        """No link is followed below it."""
        self.refused: set[str] = set()
        """The names in it that are taken by what is no file."""
        self.refused_at = ""
        """The part of the way to it that is no directory."""
        self.files: dict[Inode, EventFile] = {}
        self.names: dict[str, EventFile] = {}
        self.listed = False
        """True if it could be listed."""
        self.due = -math.inf
        """When to list it next."""
        self.news_at = time.monotonic()
        """When anything in it was last seen to change."""
        self.reported_at = -math.inf
        """When a file in it was last reported."""

    @property
    def node_id(self) -> str:
        """The node that its files go by for now. Empty where none is known yet."""
        return self.life.nodes.main if self.life else ""

    @property
    def holds_logs(self) -> bool:
        """True if it is a directory of logs, and not of events."""
        return self.logs is not None

    def path(self, name: str) -> Path:
        """Return where a file in it lies."""
        return self.session.events / name

    def place(self, name: str) -> str:
        """Return what a file in it is called in reports. That is its place in ``logs/``, or its name, escaped."""
        return f"{self.logs or ''}{disk.escape_name(name)}"

    def note_news(self, now: float) -> None:
        """Note that something in it has changed."""
        self.news_at = now
        if self.life:
            self.life.has_news = True

    def replace(self, file: EventFile, new: EventFile) -> None:
        """Let `new` have the inode and the names of `file`."""
        self.files[file.inode] = new
        self.names = {name: new if other is file else other for name, other in self.names.items()}

    def forget_dropped_names(self) -> None:
        """Forget the names of files that are followed no more."""
        self.names = {name: file for name, file in self.names.items() if file.inode in self.files}
