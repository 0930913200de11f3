"""The declaration of an entity."""

from __future__ import annotations

import msgspec

from raytrail.entities.columns import Column, Derived
from raytrail.entities.life import Beside, Life, Moments
from raytrail.entities.posted import PostedEvent
from raytrail.entities.work import Work
from raytrail.errors import NotFoundError


class Emitted(msgspec.Struct, frozen=True):
    """How an entity's events come to be, in words for the docs."""

    source: str
    """The process that writes them."""
    when: str
    """The changes at which it writes one."""
    latency: str
    """How long after a change the event is in the file."""
    missed: str
    """The changes that no event tells, even where nothing fails."""


class Entity(msgspec.Struct, frozen=True, kw_only=True):
    """What events are about. It names the table, the URL and the noun on the command line."""

    name: str
    """The singular, which is the table's name."""
    plural: str
    """The noun on the command line and in URLs."""
    doc: str
    """What it is, for the docs and the JSON Schema."""
    event_types: tuple[str, ...]
    """The `source_type` of the lines that it reads, as Ray has it, e.g. ``EXPORT_TASK``."""
    file_types: tuple[str, ...]
    """The event type of the chunks that these lines come in, e.g. ``TASK``. The file's name says it."""
    key: tuple[str, ...]
    """The columns that tell one from another."""
    emitted: Emitted | None = None
    """How its events come to be. None: it has none of its own."""
    columns: tuple[Column, ...]
    posted: tuple[PostedEvent, ...] = ()
    """The events of Ray's HTTP export that tell of it. The last type of them tells its end."""
    derived: tuple[Derived, ...] = ()
    ignored: tuple[str, ...] = ()
    """Paths in the line that repeat other ones, and are not kept."""
    sort: tuple[str, ...] = ()
    """The order in which rows are kept and shown. What queries narrow down by comes first."""
    when: str = "timestamp * 1000"
    """The SQL expression over an event's columns of when it happened, in milliseconds. The timestamp is in whole
    seconds, and many events tell more."""
    life: Life = Life()
    """How one begins and ends."""
    beside: tuple[Beside, ...] = ()
    """The rows that `Life.ends` and `Column.filled` read."""
    moments: Moments | None = None
    """How a state at an earlier moment follows from the last one. None: the events up to that moment are folded."""
    work: Work | None = None
    """How it waits and works. None: nothing of it is summed up."""
    view: str = ""
    """
    The SELECT that makes the states of an entity without events, over those of others, whose names stand in braces.

    ``{session}`` is as in `Beside.sql`. With an alias it is ``{session:d}``.
    """

    def column(self, name: str) -> Column | Derived:
        """
        Return the column of that name.

        Raises:
            NotFoundError: It has none of that name.
        """
        for column in self._every():
            if column.name == name:
                return column
        raise NotFoundError(f"{self.name} has no column {name!r}; it has {', '.join(sorted(self.names()))}")

    def names(self) -> tuple[str, ...]:
        """Return the names of what a row shows, derived columns last."""
        return tuple(c.name for c in self._every() if not c.name.startswith("_"))

    def _every(self) -> tuple[Column | Derived, ...]:
        columns: tuple[Column | Derived, ...] = self.columns
        return columns + self.derived

    def ordered(self) -> bool:
        """Return whether the fold must know where in its file a line stood."""
        return any(column.placed for column in self.columns)
