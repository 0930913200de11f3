"""How what an entity is about waits and works."""

from __future__ import annotations

import msgspec


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """
    How what an entity is about waits and works, by which it is summed up when a session is sealed.

    The SQL here is over the stored columns. Times are in nanoseconds since the epoch.
    """

    counted: str
    """The condition of the states that Ray's own list counts."""
    job: str
    """The column of the job that it belongs to."""
    function: str
    """The column of what is called."""
    node: str
    """The column of the node that it works on."""
    worker: str
    """The expression of the process that works on it."""
    pid: str
    """The column of its number on its node."""
    actor: str
    """The column of the actor that it is of."""
    queued_ns: str
    """The expression of when it began to wait."""
    began_ns: str
    """The expression of when it began to work."""
    arguments_ns: str
    """The expression of how much of the waiting was for arguments."""
    assignment_ns: str
    """The expression of how much of the waiting was for a node with room for it, or for its actor."""
    ended_ns: str
    """The expression of when it ended."""
    failed: str
    """The condition that it failed."""
    retried: str
    """The condition that another attempt was before it."""
    states: tuple[tuple[str, str], ...]
    """
    Its states, each with the column of the time at which it was entered.

    At any moment it is in the last of them whose time had come.
    """
    waits: tuple[tuple[str, tuple[str, ...]], ...]
    """What it can wait for before it works, each with the states in which it does."""
