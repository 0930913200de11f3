"""The files that are held open. If there are too many, the least recently read is closed."""

from __future__ import annotations

import resource

from raytrail.tail.file import EventFile

_MOST_OPEN_FILES = 4096


class OpenFiles:
    """The files that are held open."""

    def __init__(self) -> None:
        self._files: dict[EventFile, None] = {}
        """The least recently read is the first."""
        self._most = min(_MOST_OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)

    def __len__(self) -> int:
        return len(self._files)

    @property
    def has_room(self) -> bool:
        """True if one more may be opened without closing another one."""
        return len(self._files) < self._most

    def open(self, file: EventFile) -> None:
        """
        Open a file, if need be, and close the least recently read where there are too many.

        Raises:
            OSError: The file cannot be opened.
        """
        if file.fd is None:
            self._make_room()
            file.open()
        self._files.pop(file, None)
        self._files[file] = None

    def close(self, file: EventFile) -> None:
        """Close a file, if it is open."""
        file.close()
        self._files.pop(file, None)

    def hand_over(self, file: EventFile, new: EventFile) -> None:
        """Let `new` have the descriptor of `file`."""
        new.fd, file.fd = file.fd, None
        self._files.pop(file, None)
        self._files[new] = None

    def close_all(self) -> None:
        """Close all files."""
        for file in list(self._files):
            file.close()
        self._files.clear()

    def _make_room(self) -> None:
        while not self.has_room:
            named = [file for file in self._files if not file.gone]
            if not named:
                return
            # a file that is not done can be opened again too, unless it is deleted meanwhile
            self.close(next((file for file in named if file.done), named[0]))
