"""
The files that the catalogue names, each with its size and checksum.

A process checks each before it reads it for the first time. The checksum is a CRC-32, which finds what disks and memory
do. It guards against nobody who may write into the store.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from raytrail.errors import StoreDamaged
from raytrail.store.catalogue import LogFile, StateFile

MOST_CHECKED = 100_000
"""How many files are remembered as checked, those that were read last: some 30 MB."""

BLOCK_BYTES = 128 * 1024
"""How much is read at once: it stays in a cache of the core."""

_AGAIN = "bring it back from a copy of the store, or import the session again into another one"
_CURES = {"log": _AGAIN, "logs": _AGAIN, "state": "fold it anew from the log: raytrail rebuild --cluster {session}"}
"""What is to be done about a damaged file, by the directory that it lies in."""


class Sum(NamedTuple):
    """What a file was when it was written."""

    bytes: int
    crc32: int


def measure(path: Path) -> Sum:
    """
    Return a file's size and checksum.

    Raises:
        OSError: It cannot be read.
    """
    crc, size, block = 0, 0, memoryview(bytearray(BLOCK_BYTES))
    with open(path, "rb", buffering=0) as file:
        while length := file.readinto(block):
            crc, size = zlib.crc32(block[:length], crc), size + length
    return Sum(size, crc)


class Files:
    """
    The files of a store.

    Args:
        root: Its directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._checked: OrderedDict[tuple[str, int, int], None] = OrderedDict()
        """Their paths, sizes, and times of their last change."""

    def paths(self, files: Iterable[LogFile | StateFile]) -> list[Path]:
        """Return where these files lie, all of them checked; as `path`."""
        return [self.path(file) for file in files]

    def path(self, file: LogFile | StateFile, *, whole: bool = True) -> Path:
        """
        Return where a file lies, once it is checked.

        Args:
            file: Its row. Without a checksum, as older versions named files, it is not checked.
            whole: Whether all of it is read, once in a process; else its size alone is looked at.

        Raises:
            StoreDamaged: It is not what was written.
        """
        path = self._root / file.path
        if file.crc32 is None:
            return path
        try:
            status = path.stat()
        except FileNotFoundError:
            raise damaged(path, "it is gone") from None
        if status.st_size != file.bytes:
            raise damaged(path, f"it has {status.st_size:,} bytes and not {file.bytes:,}")
        seen = (file.path, status.st_size, status.st_mtime_ns)
        if whole and seen not in self._checked:
            if measure(path) != (file.bytes, file.crc32):
                raise damaged(path, "its bytes are not those that were written")
            self._checked[seen] = None
            while len(self._checked) > MOST_CHECKED:
                self._checked.popitem(last=False)
        return path

    def verify(self, file: LogFile | StateFile) -> None:
        """
        Check a file, whether this process has read it before or not.

        Raises:
            StoreDamaged: It is not what was written, or gone.
        """
        if not self.exists(file):
            raise damaged(self._root / file.path, "it is gone")
        Files(self._root).path(file)

    def exists(self, file: LogFile | StateFile) -> bool:
        """Return whether a file is there."""
        return (self._root / file.path).exists()


def damaged(path: Path, how: str) -> StoreDamaged:
    """Return the error of a file, which lies in a session's directory in one of the store's."""
    session, kind = path.parent.name, path.parent.parent.name
    return StoreDamaged(f"{path}: {how}; {_CURES[kind].format(session=session)}", session)
