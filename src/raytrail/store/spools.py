"""Spools: files of good lines that the engine reads by column, once, on their way into the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

from raytrail.entities import Entity, posted_event
from raytrail.fold.decode import decode, line_type
from raytrail.fold.posted import decode_posted, posted_type
from raytrail.store.engine import lines


class _Spool:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.longest = 0
        """How long the longest line may be, in bytes."""
        self.file: IO[bytes] | None = None

    def add(self, data: bytes) -> None:
        assert self.file is not None
        self.file.write(data)
        self.longest = max(self.longest, len(data))


class Spools:
    """
    The lines of one event type that are decoded at once, in files that end with it.

    Lines of Ray's event files lie in one of them. Of the events of Ray's HTTP export, those that are as Ray writes them
    lie in one, and the others in another, in the words of event files.

    Args:
        event_type: The event type.
        new: Makes an empty file.
    """

    def __init__(self, event_type: str, new: Callable[[], Path]) -> None:
        self._posted = posted_event(event_type)
        self._checked = _Spool(new())
        self._mended = _Spool(new()) if self._posted else self._checked

    def __enter__(self) -> Spools:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for spool in (self._checked, self._mended):
            spool.path.unlink(missing_ok=True)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Take lines in, until the end of the block."""
        with ExitStack() as files:
            for spool in {self._checked, self._mended}:
                spool.file = files.enter_context(spool.path.open("wb"))
            yield

    def add_checked(self, data: bytes) -> None:
        """Add whole lines as they came, which are what the engine can read."""
        self._checked.add(data)

    def add_mended(self, line: bytes) -> None:
        """Add a line that was made of one, in the words of event files."""
        self._mended.add(line)

    def decoded(self, entity: Entity) -> str:
        """Return the SELECT that reads an entity's rows of the log out of the lines."""
        selects = []
        if self._posted is not None and (self._checked.longest or not self._mended.longest):
            event = self._posted[1]
            selects.append(decode_posted(entity, event, self._read(self._checked, posted_type(entity, event))))
        if self._posted is None or self._mended.longest:
            selects.append(decode(entity, self._read(self._mended, line_type(entity))))
        return " UNION ALL BY NAME ".join(f"({select})" for select in selects)

    def _read(self, spool: _Spool, columns: str) -> str:
        return lines(spool.path, columns, spool.longest)
