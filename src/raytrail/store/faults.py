"""
Failures that come from what somebody has sent, and not from the disk.

They are logged, and everything else goes on.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from raytrail.errors import StoreDamaged, StoreError
from raytrail.store.engine import UnreadableError

MOST_FAULTS = 1000
"""How many places in our code are remembered as having been logged with their traceback."""

PUT_OFF_SECONDS = 60.0
"""How long a session that cannot be folded or sealed is let be, before it is tried again."""

T = TypeVar("T")

log = logging.getLogger(__name__)


def is_of_content(error: Exception) -> bool:
    """Return whether an error says nothing of the disk and the store, but of what was to be read or written."""
    return isinstance(error, UnreadableError) or not isinstance(error, (StoreError, OSError, MemoryError))


def halved(tasks: Sequence[T], work: Callable[[Sequence[T]], object]) -> list[Exception]:
    """
    Work on all of these at once. If what one holds makes that fail, work on each half, down to that one.

    Returns:
        The errors of those that fail by themselves.

    Raises:
        StoreError: The disk is full, or fails, or the store cannot be used.
    """
    try:
        work(tasks)
        return []
    except Exception as fault:
        of_a_session = isinstance(fault, StoreDamaged) and fault.session
        if not (is_of_content(fault) or of_a_session):
            raise
        if len(tasks) == 1:
            return [fault]
    middle = len(tasks) // 2
    return halved(tasks[:middle], work) + halved(tasks[middle:], work)


class Faults:
    """The faults of a store's life."""

    def __init__(self) -> None:
        self._logged: set[tuple[object, ...]] = set()
        self._put_off: dict[tuple[str, str], float] = {}

    def tell(self, what: str, session: str, fault: Exception) -> None:
        """Log a fault with its traceback, the first time that it happens there in our code."""
        frames = traceback.extract_tb(fault.__traceback__)
        where = (what, type(fault), *((frame.filename, frame.lineno) for frame in frames[-1:]))
        if where not in self._logged and len(self._logged) < MOST_FAULTS:
            self._logged.add(where)
            log.error("%s of session %s; please report this", what, session, exc_info=fault)

    def each(self, what: str, sessions: Iterable[str], work: Callable[[str], object]) -> None:
        """
        Work on each session for itself: what its content or a damaged file of it makes fail ends the work on that one,
        for a while.

        Args:
            what: The beginning of the message about one that fails, e.g. ``what was appended cannot be folded``.
            sessions: Their names.
            work: The work to do.

        Raises:
            StoreError: The disk is full, or fails, or the store cannot be used.
        """
        for session in sessions:
            if time.monotonic() < self._put_off.get((what, session), 0.0):
                continue
            try:
                work(session)
            except StoreDamaged as damage:
                if damage.session != session:
                    raise  # it is the catalogue
                self._put_off[what, session] = time.monotonic() + PUT_OFF_SECONDS
                log.error("%s of session %s: %s", what, session, damage)
            except Exception as fault:
                if not is_of_content(fault):
                    raise
                self._put_off[what, session] = time.monotonic() + PUT_OFF_SECONDS
                self.tell(what, session, fault)
            else:
                self._put_off.pop((what, session), None)

    def put_off(self, what: str) -> set[str]:
        """Return the sessions of which this has failed, and was not done since. Any thread may ask."""
        return {session for failed, session in list(self._put_off) if failed == what}
