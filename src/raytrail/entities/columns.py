"""The columns of an entity: what they hold, where they come from, and how two values of one merge."""

from __future__ import annotations

from typing import Literal

import msgspec

Type = Literal["id", "text", "texts", "int", "float", "bool", "json", "spans"]
"""
What a column holds, and how it looks to the world:

id      bytes, base64 in Ray's files, stored as bytes, shown as the hex that Ray shows
text    a string, a name of an enumeration's value among them
texts   a list of strings
int     64 bits; its name ends in the unit. Ray writes most of them as strings
float   a double
bool    true or false
json    an object or list that is kept as Ray wrote it, and shown as such
spans   profile events: a list of ``{event_name, start_time, end_time, extra_data}``, times in nanoseconds
"""

MOST_SECONDS = 2**33
"""The latest time that is read (the year 2242). Later ones, or what is worked out of them, need more than 64 bits."""

Merge = Literal["key", "max", "min", "last", "latest", "union"]
"""
How two values of a column become one. No merge minds order or repetition. A null erases a value in `latest` alone.

key     the same in both: rows are grouped by it
max     the larger; right for what is written once, and for times that only move forward
min     the smaller
last    the one written later: by the event's timestamp, then by its place in its writer's files
latest  what the newest event says, null included; right where each event is the whole row
union   the distinct members of both lists
"""


class Column(msgspec.Struct, frozen=True):
    """A column that is read from events: what it holds, where it comes from, and how two values of it merge."""

    name: str
    """Ray's own name in its State API, where that has one. Rows do not show a column whose name begins with ``_``."""
    type: Type
    origin: str
    """
    Its path in the line that Ray writes, e.g. ``event_data.task_info.type``.

    Beginning with ``=``, it is an SQL expression over the event's other columns. That is for what an event tells by
    being there, such as that an actor restarted. Such a column is folded, and is not kept in the log.
    """
    merge: Merge
    doc: str
    """What it means, for the docs and the JSON Schema."""
    unset: str = ""
    """The value, as text, by which Ray means "not known". It is read as null. The empty `text` always is."""
    since: tuple[str, ...] = ()
    """
    Columns of times. At moments before the earliest of them, this column was not known.

    Each member of a `spans` column is known from its own end.
    """
    ids_inside: tuple[str, ...] = ()
    """The members of a `json` column, at any depth, that are ids: base64 in Ray's files, shown as hex."""
    scale: int = 1
    """The factor by which the number in the file is multiplied: 1000 where seconds with a point become milliseconds."""
    formerly: tuple[str, str] = ("", "")
    """
    Its names in older versions of Raytrail: in the log, and in sealed states. Empty: it always had this one.

    Those sealed states hold an empty text, the JSON ``null`` or the number -1 for null.
    """
    values: tuple[str, ...] = ()
    """The names of an enumeration. Others are read as well, since a newer Ray may have more. Empty: it is none."""
    filled: str = ""
    """An SQL expression over ``s`` and the states beside it, which gives the column. Empty: its events alone do."""

    @property
    def limits(self) -> tuple[int, int]:
        """
        The least and the greatest integer that is read. What is worked out of others might need more than 64 bits.

        Times begin with 1970. Ray writes -1 for some that are not known.
        """
        for suffix, units in (("_ns", 10**9), ("_ms", 1000), ("_s", 1)):
            if self.name.endswith(suffix):
                return -1, MOST_SECONDS * units
        return -(2**62), 2**62

    @property
    def placed(self) -> bool:
        """Whether its merge goes by a line's place in its file."""
        return self.merge in ("last", "latest")

    @property
    def computed(self) -> str:
        """The SQL expression that gives the column. Empty: it is read from the line."""
        return self.origin[1:].strip() if self.origin.startswith("=") else ""


class Derived(msgspec.Struct, frozen=True):
    """A column that follows from the folded ones."""

    name: str
    type: Type
    sql: str
    """An SQL expression over the stored columns."""
    doc: str
    ids_inside: tuple[str, ...] = ()
    """As `Column.ids_inside`."""
    stored: bool = False
    """Whether it is worked out when a session is sealed, and not at each question. For what is filtered by, or dear."""
    values: tuple[str, ...] = ()
    """As `Column.values`."""


EXTRA = Column("extra", "json", "_extra", "max", "Fields that this version does not know, by their path in the line.")
FIRST = Column(
    "first_event_s", "int", "= timestamp", "min", "Timestamp of its first event, in seconds since the epoch."
)
LAST = Column("last_event_s", "int", "= timestamp", "max", "Timestamp of its last event, in seconds since the epoch.")
COMMON = (EXTRA, FIRST, LAST)
"""Columns that every entity has."""
INFERRED = Derived(
    "inferred", "text", "inferred", "Why Raytrail closed it, where no event said that it ended. Else null.", stored=True
)
INFERRED_MS = "_inferred_ms"
"""The stored column that says from when on a state counts as closed: Ray concludes an end some time after it."""
