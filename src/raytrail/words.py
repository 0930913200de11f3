"""Numbers and names as words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

GOOD_STATES = ("FINISHED", "SUCCEEDED", "ALIVE", "HEALTHY")
BAD_STATES = ("FAILED", "DEAD", "DEPLOY_FAILED", "UNHEALTHY", "ERRORED", "ABORTED")

MOST_LISTED = 15
"""Most names that an error lists beside those that are likely meant."""


def tone(state: str) -> Literal["good", "bad", ""]:
    """Return how a state of Ray's is shown to people; empty for what is neither."""
    return "good" if state in GOOD_STATES else "bad" if state in BAD_STATES else ""


def size(count: int) -> str:
    """Return a number of bytes as text, in decimal units: ``12.3 MB``."""
    if count < 1_000:
        return f"{count} B"
    scaled, unit = float(count), ""
    for unit in ("kB", "MB", "GB", "TB"):  # noqa: B007 (read after the loop)
        scaled /= 1_000
        if scaled < 999.95:
            break
    return f"{scaled:.1f} {unit}"


def instead(text: str, names: Sequence[str], there_are: str) -> str:
    """
    Return what an error goes on with where a name is not known: the likely ones, whatever their case, or all there are.

    Args:
        text: What was given.
        names: What might have been meant.
        there_are: What introduces the names: ``there are``, ``it is one of``.
    """
    from difflib import get_close_matches  # for errors only

    by_lower = {name.lower(): name for name in names}
    near = [by_lower[name] for name in get_close_matches(text.lower(), by_lower, n=3, cutoff=0.6)]
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    if near and len(names) > MOST_LISTED:
        return meant
    every = f"{there_are} {', '.join(names)}"
    return f"{meant} {every[0].upper()}{every[1:]}" if near else f"; {every}"
