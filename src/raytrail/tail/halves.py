"""Half lines at the ends of logs. Each is given a moment to be completed, and is then shipped as it is."""

from __future__ import annotations

import math
import time

from raytrail.tail.file import EventFile, Piece

_HALF_SECONDS = 2.0
"""How long half a line is waited for. A progress bar ends none for hours."""


class Halves:
    """The logs that end in half a line."""

    def __init__(self) -> None:
        self._since: dict[EventFile, float] = {}

    def note(self, file: EventFile, piece: Piece | None) -> None:
        """
        Note whether a log ends in half a line.

        Args:
            file: The log.
            piece: The bytes that were just read of it. They end the half line that was noted before.
        """
        if piece is not None:
            self.forget(file)
        if file.position < file.size and not file.more:
            self._since.setdefault(file, time.monotonic())

    def forget(self, file: EventFile) -> None:
        """Wait no more for a log's half line."""
        self._since.pop(file, None)

    def take_due(self, now: float) -> list[EventFile]:
        """Return the logs whose half lines were waited for long enough, and forget them."""
        due = [file for file, since in self._since.items() if now - since >= _HALF_SECONDS]
        for file in due:
            del self._since[file]
        return due

    def end(self) -> None:
        """Have all half lines that are noted now be due at once."""
        self._since = dict.fromkeys(self._since, -math.inf)

    def clear(self) -> None:
        """Forget all logs."""
        self._since.clear()
