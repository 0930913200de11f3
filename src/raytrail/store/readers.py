"""
The readers of a store.

Its writer knows by them at its end whether a file that nobody names may still be looked at.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from raytrail import disk

NAME = "readers"


class Readers:
    """
    A lock that all readers share.

    A reader of a store that no writer has opened since there is one, or on a file system without locks, is not seen: it
    finds files gone that it has just looked up, and looks them up again.
    """

    def __init__(self, root: Path, *, write: bool) -> None:
        """
        Count as a reader until it is closed, or not, where `write` is set.

        Raises:
            OSError: The writer can make no file there.
        """
        self._descriptor = -1
        if write:
            self._descriptor = disk.open_private(root / NAME, os.O_RDWR)
            return
        try:
            self._descriptor = os.open(root / NAME, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        except OSError:
            self.close()

    def are_none(self) -> bool:
        """Return, to the writer, whether nobody reads, and keep others from it until this is closed."""
        if self._descriptor < 0:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def let_in(self) -> None:
        """Keep nobody from reading any more, after `are_none`."""
        if self._descriptor >= 0:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Read no more. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
