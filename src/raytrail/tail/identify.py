"""The identity of files. An inode that is read for the first time is matched with what the checkpoint knows."""

from __future__ import annotations

import logging

from raytrail.event import FileId
from raytrail.tail.checkpoint import Mark
from raytrail.tail.directory import Directory
from raytrail.tail.file import EventFile
from raytrail.tail.follow import Followed

log = logging.getLogger(__name__)


class Identifier:
    """
    Finds the marks of files.

    Args:
        followed: The files that are known already. It gets those that are identified.
    """

    def __init__(self, followed: Followed) -> None:
        self.mismatches = 0
        """Files that were known, but lay elsewhere, and were read again from their start."""
        self._followed = followed

    def identify(self, directory: Directory, file: EventFile) -> bool:
        """Find out which file this is, and how far it was read before. False until it has a whole line."""
        id = file.identify(directory.session.name, self._followed.config.max_line_bytes)
        if id is None:
            return False
        checkpoint = self._followed.checkpoint
        mark = checkpoint.newest(id)
        if mark is None or _holds_something_else(file, mark):
            mark = self._add_mark(directory, file, id, mark.generation + 1 if mark else 0)
        elif mark.inode == _inode(file):
            self._go_on(directory, file, mark)
        else:
            self._read_copy(directory, file, mark)
        mark.written = max(mark.written, file.size)
        checkpoint.touch(mark)
        if mark.generation:
            checkpoint.commit()  # before it grows back to where the old one's offset would look right
        self._followed.note_mark(file, mark)
        return True

    def _add_mark(self, directory: Directory, file: EventFile, id: FileId, generation: int) -> Mark:
        mark = Mark(
            file=id,
            generation=generation,
            inode=_inode(file),
            directory=str(directory.session.events),
            name=directory.place(file.path.name),
            event_type=file.name.event_type,
            session=directory.session.name,
            node_id=directory.node_id,
        )
        self._followed.checkpoint.add(mark)
        return mark

    def _go_on(self, directory: Directory, file: EventFile, mark: Mark) -> None:
        """Go on where the file was acknowledged."""
        file.position = mark.acknowledged
        if file.name.is_log:
            self._take_over(file, mark)
            mark.directory, mark.name = str(directory.session.events), directory.place(file.path.name)

    def _read_copy(self, directory: Directory, file: EventFile, mark: Mark) -> None:
        """
        Read a file from its start whose first line is known from another place.

        It is a copy, or came back from a backup. To read it again costs only time, and what follows the first line
        may differ.
        """
        self.mismatches += 1
        log.info("%s is known, but from another place; it is read again from its start", file.path)
        mark.inode, mark.directory = _inode(file), str(directory.session.events)

    def _take_over(self, file: EventFile, mark: Mark) -> None:
        """Go on in a log that was moved to another directory where it was being read until now."""
        for other in self._followed.files_of(mark.key):
            before = self._followed.directory_of(other)
            file.position = max(file.position, other.position)
            file.again.extend(other.again)
            self._followed.drop(before, other)
            before.forget_dropped_names()


def _holds_something_else(file: EventFile, mark: Mark) -> bool:
    """Say whether the inode of a mark's file was written anew, with the same first line."""
    return file.shrunk or (mark.inode == _inode(file) and file.size < mark.written)


def _inode(file: EventFile) -> str:
    device, number = file.inode
    return f"{device:x}:{number:x}"
