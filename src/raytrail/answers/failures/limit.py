"""How many groups of failures are given."""

from __future__ import annotations

from raytrail.errors import ConfigError

SHOWN = 30
"""How many groups are shown, if nobody says how many."""

MOST_SHOWN = 500
"""How many are shown at most."""


def check_limit(limit: int) -> None:
    """
    Check how many groups are asked for.

    Raises:
        ConfigError: It is not from 1 to `MOST_SHOWN`.
    """
    if not 1 <= limit <= MOST_SHOWN:
        raise ConfigError(f"limit {limit!r} is not from 1 to {MOST_SHOWN}; give one that is")
