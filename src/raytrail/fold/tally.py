"""How many states there are of each kind, counted once when a session is sealed."""

from __future__ import annotations

from raytrail.entities import Entity, Moments
from raytrail.fold.literals import quote

TALLY = "_n"
"""The column of a tally that says how many states it stands for."""

UNTIL = "_until_ns"
"""The column of a tally by which the last of their times lies, all of them after the one before."""

TALLY_STEPS = 64
"""By how many moments of a session's life a tally tells its states apart."""


def tally_name(entity: Entity) -> str:
    """Return the table of an entity's tally."""
    return f"{entity.name}_tally"


def tally_columns(by: Moments) -> tuple[str, ...]:
    """Return the columns of an entity's tally."""
    return (*by.tallied, UNTIL, TALLY)


def tally(by: Moments, source: str) -> str:
    """
    Return the SELECT that counts the states of `source` by the columns that they are mostly counted by.

    And by the last of their times, in `TALLY_STEPS` steps that are the same for all: so the states that had come to
    their end at a moment are those up to the step before it, and few others.
    """
    latest = quote(by.latest)
    span = f"(SELECT min({latest}) AS low, (max({latest}) - min({latest})) // {TALLY_STEPS} + 1 AS step FROM {source})"
    return (
        f"SELECT {', '.join(map(quote, by.tallied))}, low + (({latest} - low) // step + 1) * step - 1 AS {UNTIL}, "
        f"count(*) AS {TALLY} FROM {source}, {span} GROUP BY ALL"
    )
