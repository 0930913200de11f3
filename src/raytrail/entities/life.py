"""How what an entity is about begins and ends, and how it was at a moment."""

from __future__ import annotations

import msgspec

from raytrail.entities.columns import INFERRED, INFERRED_MS


class Beside(msgspec.Struct, frozen=True):
    """A row that is read beside a state, since the state's end or one of its columns follows from it."""

    alias: str
    """Its name in expressions. The state itself is ``s``."""
    entity: str
    """The entity whose states the row is made of. It may be the state's own."""
    on: str
    """The SQL condition by which it is found. At most one row meets it."""
    names: tuple[str, ...]
    """The stored columns that are read of that entity. Its own ends are worked out first if one of these needs them."""
    sql: str = ""
    """
    The SELECT that makes the row, over the states of the entity, whose name stands in braces. Empty: the row is one
    of these states.

    Its columns, and what it groups by, begin with ``{session}``. Where states of many sessions are read at once, that
    stands for the session's name and a comma. Else it stands for nothing.
    """


class End(msgspec.Struct, frozen=True):
    """An end that closes a state, though no event says so. Its SQL is over ``s`` and the rows beside it."""

    why: str
    """The value of `inferred` in a state that it closed."""
    doc: str
    """What ended, and what that closes, in words for the docs."""
    when: str
    """The condition that it has come."""
    at_ns: str
    """When it came, in nanoseconds since the epoch. Null: that is not known, and nothing is closed."""
    delay_ms: int
    """How long after `at_ns` Ray concludes it. It does not close what begins later than that."""
    says: str = "NULL"
    """The words for it, which `Life.closing` may use."""
    open: str = ""
    """The condition that it closes a state. Empty: it closes those that no event ended."""
    backdated: bool = False
    """
    Whether the end of a state that began after `at_ns`, within the delay, is `at_ns` all the same, as Ray has it.

    Else such a state ends as it begins.
    """


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """
    How what an entity is about begins and ends.

    The SQL here is over the folded columns.
    """

    state: str = ""
    """The column, folded or derived, that says which state it is in. Empty: it has no states."""
    terminal: tuple[str, ...] = ()
    """The values of `state` that end its life."""
    began_ns: str = "first_event_s * 1000000000"
    """The expression of when it began, in nanoseconds. No inferred end is before, unless it is `End.backdated`."""
    complete: str = ""
    """The condition that no more events are expected. Empty: that is never known."""
    settled: str = ""
    """The condition that only stragglers are expected, which are waited for a minute. Empty: that is never known."""
    ends: tuple[End, ...] = ()
    """The ends that close it where no event ended it. The end of its session always does, if it has a `closing`."""
    closing: tuple[tuple[str, str], ...] = ()
    """
    The columns that change where an end closes it, each with the expression of its new value.

    ``{end_ns}`` and ``{end_ms}`` in it stand for when that end came, ``{says}`` for its words, and ``{why}`` for what
    `inferred` says.
    """

    @property
    def changed(self) -> frozenset[str]:
        """The columns that an end changes."""
        return frozenset(name for name, _ in self.closing) | {INFERRED.name, INFERRED_MS}


class Moments(msgspec.Struct, frozen=True):
    """
    The columns by which a state at an earlier moment follows from the last state alone.

    That needs a time for each change, in columns whose names end in ``_ns``.
    """

    earliest: str
    """The stored column of its first time, in nanoseconds. It was not there before."""
    latest: str
    """The stored column of its last time, in nanoseconds. From then on it is what it is at last."""
    tallied: tuple[str, ...] = ()
    """The stored columns that states are mostly counted by. A sealed session keeps the number of states of each
    combination of their values, where these are few."""
