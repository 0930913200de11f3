"""The distance to the deletion of what is not read yet. Ray keeps a number of rotated files of each writer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from raytrail.tail.file import EventFile
from raytrail.tail.follow import Followed

log = logging.getLogger(__name__)


class Rotation:
    """
    Watches how much each writer may write until a file is deleted.

    Args:
        followed: The files.
    """

    def __init__(self, followed: Followed) -> None:
        self._followed = followed
        self._warned: set[str] = set()
        """The stems of the files that were near their end when it was last looked."""

    def bytes_until_deleted(self) -> Iterator[tuple[EventFile, int]]:
        """Yield each file that is not acknowledged to its end, and what its writer may write until it is deleted."""
        config, sizes = self._followed.config, dict[tuple[Path, str], int]()
        waiting: list[EventFile] = []
        for file in self._followed.files():
            if file.name.is_log:
                continue  # logs rotate by settings of their own, if at all
            if not file.name.rotation:
                sizes[file.path.parent, file.name.stem] = file.size
            if not file.gone and (file.mark is None or file.mark.acknowledged < file.size):
                waiting.append(file)
        for file in waiting:
            whole = (config.rotation_files - file.name.rotation) * config.rotation_bytes
            size = sizes.get((file.path.parent, file.name.stem), 0)
            yield file, max(0, whole + config.rotation_bytes - size)

    def warn(self) -> None:
        """Log each writer of which a file is about to be deleted unread, unless that was logged already."""
        near = self._followed.config.rotation_files * self._followed.config.rotation_bytes // 4
        files = {file.name.stem: (file, size) for file, size in self.bytes_until_deleted() if size < near}
        for stem, (file, size) in files.items():
            if stem not in self._warned:
                log.warning(
                    "%s: unread, and Ray deletes it when its writer has written %d more MB; "
                    "see what holds the broker up, raise the speed limits, or rotate less (raytrail doctor)",
                    file.path,
                    size // 1_000_000,
                )
        self._warned = set(files)
