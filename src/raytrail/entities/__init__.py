"""
What Ray's events are about, declared once.

An entity is one file here (or in your own package) with one `Entity`, named in the entry-point group
``raytrail.entities``. Its decoding, its table, its fold, its URL, its noun on the command line, its JSON
Schema and its page in the docs all follow from its columns; `raytrail.testing.check_entity` is its contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Literal, cast

import msgspec

from raytrail.errors import NotFoundError

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
"""No time lies beyond it (the year 2242): one that does in nanoseconds would not fit, and what is worked out of it."""

Merge = Literal["key", "max", "min", "last", "latest", "union"]
"""
How two values of a column become one. None minds order or repetition, and a null erases a value in `latest` alone.

key     what they are grouped by
max     the larger; right for what is written once, and for times that only move forward
min     the smaller
last    the one written later: by the event's timestamp, then by its place in its writer's files
latest  what the newest event says, null included; right where each event is the whole row
union   the distinct members of both lists
"""


class Emitted(msgspec.Struct, frozen=True):
    """How an entity's events come to be."""

    source: str
    """Who writes them."""
    when: str
    """What makes it write one."""
    latency: str
    """How long after that it is in the file."""
    missed: str
    """What it does not tell, even where nothing fails."""


class Column(msgspec.Struct, frozen=True):
    """What a column is, where it comes from, how two values of it merge."""

    name: str
    """Ray's own name in its State API, where that has one."""
    type: Type
    origin: str
    """
    Path in the line that Ray writes, e.g. ``event_data.task_info.type``.

    Starting with ``=``: an SQL expression over the event's other columns, for what an event says only by
    being there (that an actor restarted, say). Such a column is folded but not kept in the log.
    """
    merge: Merge
    doc: str
    unset: str = ""
    """The value that Ray prints for "not known", as text; it is read as null. For `text` always the empty string."""
    since: tuple[str, ...] = ()
    """
    The columns of times, from the earliest of which this one is known, for the state at an earlier moment.

    Members of a `spans` column are known from their ends.
    """
    ids_inside: tuple[str, ...] = ()
    """Members of a `json` column, at any depth, that are ids: base64 in Ray's files, shown as hex."""
    scale: int = 1
    """What the number in the file is multiplied by (1000 for float seconds that become milliseconds)."""
    formerly: tuple[str, str] = ("", "")
    """
    The names that older versions of Raytrail gave it, in the log and in sealed states; empty where it always had this
    one. A sealed state held an empty text, the JSON ``null`` or the number -1 for null.
    """
    values: tuple[str, ...] = ()
    """The names that an enumeration has, empty where it is none. A newer Ray may write others, which are read, too."""
    filled: str = ""
    """An SQL expression over the state (``s``) and what is beside it: what others tell of it. Empty: nothing."""

    @property
    def limits(self) -> tuple[int, int]:
        """
        Between which values an integer lies: with those outside, what is worked out of it would not fit into 64 bits.

        Times are after 1970; Ray writes -1 for some that are not known.
        """
        for suffix, units in (("_ns", 10**9), ("_ms", 1000), ("_s", 1)):
            if self.name.endswith(suffix):
                return -1, MOST_SECONDS * units
        return -(2**62), 2**62

    @property
    def placed(self) -> bool:
        """Whether its merge goes by the place of a line in its file."""
        return self.merge in ("last", "latest")

    @property
    def computed(self) -> str:
        """The SQL expression that gives the column, or an empty string where it is read from the line."""
        return self.origin[1:].strip() if self.origin.startswith("=") else ""


class Derived(msgspec.Struct, frozen=True):
    """A column that follows from the folded ones, by an SQL expression over them."""

    name: str
    type: Type
    sql: str
    doc: str
    ids_inside: tuple[str, ...] = ()
    """As `Column.ids_inside`."""
    stored: bool = False
    """Whether it is worked out once when a session is sealed, as it is filtered by or dear."""
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
    "inferred", "text", "inferred", "Why Raytrail closed it, where no event said that it ended; else null.", stored=True
)
INFERRED_MS = "_inferred_ms"
"""The stored column of states that says from when on one counts as closed: Ray concludes an end some time after it."""


class Beside(msgspec.Struct, frozen=True):
    """A state of another entity that a state is read beside, as its end or its name follows from that."""

    alias: str
    """What SQL calls it; the state itself is ``s``."""
    entity: str
    """The other entity's name, or the entity's own."""
    on: str
    """The SQL condition that holds of one at most."""
    names: tuple[str, ...]
    """The stored columns that are read of it: its own end, if none of these follows from that, need not be known."""
    sql: str = ""
    """
    The SELECT that it is a row of, over the other's states, named in braces; empty: it is one of these.

    Its columns, and what it groups by, begin with ``{session}``: that is the session's name and a comma where the
    states of many sessions are read at once, and else nothing.
    """


class End(msgspec.Struct, frozen=True):
    """An end that closes an open state, though no event says so. Its SQL is over ``s`` and what is beside it."""

    why: str
    """What `inferred` says of a state that it closed."""
    doc: str
    """Which end that is, and of what it closes, in words."""
    when: str
    """The condition that it has come."""
    at_ns: str
    """When it came, in nanoseconds since the epoch; null where that is not known: then it closes nothing."""
    delay_ms: int
    """How long after that Ray concludes it. What begins later is not closed by it."""
    says: str = "NULL"
    """The words for it."""
    open: str = ""
    """The condition that a state is open to it; empty: no event ended it."""
    backdated: bool = False
    """Whether Ray writes `at_ns` even where the state began after it, within the delay. Else it ends as it begins."""


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """
    How one begins and ends: which column says what state it is in, and what ends it where no event does.

    Its SQL is over the folded columns, but for that of its ends.
    """

    state: str = ""
    """The column, folded or derived, that says which state it is in. Empty: it has none."""
    terminal: tuple[str, ...] = ()
    """The values of `state` that end its life."""
    began_ns: str = "first_event_s * 1000000000"
    """An SQL expression: when it began, in nanoseconds. No inferred end is before, but for those that Ray itself dates
    back (`End.backdated`)."""
    complete: str = ""
    """An SQL condition: no more events of it are expected. Empty: never said."""
    settled: str = ""
    """A weaker condition: no more events are expected but stragglers, which are waited for a minute."""
    ends: tuple[End, ...] = ()
    """What closes one that no event ended, besides the end of its session."""
    closing: tuple[tuple[str, str], ...] = ()
    """
    What becomes of one that an end closes: columns, each with the SQL expression of its new value.

    It may say ``{end_ms}`` or ``{end_ns}`` for when that was, ``{says}`` for the words of the end, and ``{why}``.
    """

    @property
    def changed(self) -> frozenset[str]:
        """The columns that an end changes."""
        return frozenset(name for name, _ in self.closing) | {INFERRED.name, INFERRED_MS}


class Moments(msgspec.Struct, frozen=True):
    """
    The columns by which states at an earlier moment follow from the last ones.

    It is for what has the time of all that became of it, in columns named ``*_ns``.
    """

    earliest: str
    """The stored column of the first of the times, in nanoseconds. Before that nothing was."""
    latest: str
    """The stored column of the last of the times, in nanoseconds. A state is what it is at last from then on, and is
    not worked out anew."""
    tallied: tuple[str, ...] = ()
    """Stored columns that states are mostly counted by. A sealed session keeps how many there are of each combination
    of their values, where those are few."""


class Entity(msgspec.Struct, frozen=True, kw_only=True):
    """What events are about. It names the table, the URL and the noun on the command line."""

    name: str
    """Singular: the table's name."""
    plural: str
    """The noun on the command line and in URLs."""
    doc: str
    event_types: tuple[str, ...]
    """Ray's `source_type` of the lines that it reads, e.g. ``EXPORT_TASK``."""
    file_types: tuple[str, ...]
    """The event type of the chunks these lines come in, which is what the file's name says, e.g. ``TASK``."""
    key: tuple[str, ...]
    """The columns that tell one from another."""
    emitted: Emitted | None = None
    """None for what has no events of its own."""
    columns: tuple[Column, ...]
    derived: tuple[Derived, ...] = ()
    ignored: tuple[str, ...] = ()
    """Paths in the line that say nothing new, and are not kept."""
    sort: tuple[str, ...] = ()
    """The order in which rows are kept together and shown; what queries narrow down by comes first."""
    when: str = "timestamp * 1000"
    """An SQL expression over an event's columns: when it happened, in milliseconds. Finer than the timestamp, which
    is in whole seconds, where the event says more."""
    life: Life = Life()
    """How one begins and ends."""
    beside: tuple[Beside, ...] = ()
    """The states that its ends follow from, and the columns that are filled in."""
    moments: Moments | None = None
    """By which columns its states at an earlier moment follow from the last ones. None: the events up to that moment
    are folded anew."""
    view: str = ""
    """
    For what has no events of its own: the SELECT that makes its states of other entities', each named in braces.

    It may say ``{session}`` as `Beside.sql` does, with an alias as ``{session:d}``: so it serves many sessions at once.
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


@cache
def installed() -> Mapping[str, Entity]:
    """Return every entity of this installation, by its name."""
    points = entry_points(group="raytrail.entities")
    entities = (cast("Entity", point.load()) for point in points)
    return {entity.name: entity for entity in sorted(entities, key=lambda entity: entity.name)}


def entity(noun: str) -> Entity:
    """
    Return the entity of that name, singular or plural.

    Raises:
        NotFoundError: None is installed under it.
    """
    for one in installed().values():
        if noun in (one.name, one.plural):
            return one
    raise NotFoundError(f"no entity {noun!r}; there are {', '.join(sorted(e.plural for e in installed().values()))}")


@cache
def of_file_type(file_type: str) -> tuple[Entity, ...]:
    """Return the entities that read chunks of this event type; none where it is not known."""
    return tuple(one for one in installed().values() if file_type in one.file_types)
