"""How the checks wait for what others do."""

from __future__ import annotations

import time
from collections.abc import Callable

WAIT_SECONDS = 120


def waited(condition: Callable[[], bool]) -> bool:
    """Wait until something holds. Return whether it does."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
