"""
What Ray's events are about, declared once.

An entity is one `Entity` in a file of its own, here or in your own package. The entry-point group ``raytrail.entities``
names it. Its decoding, its table, its fold, its URL, its noun on the command line, its JSON Schema and its page in the
docs all follow from its declaration. `raytrail.testing.check_entity` is its contract.

`raytrail.fold` makes the SQL of these declarations. The words that SQL uses for the folded rows are its own:

an event   a row of the log: one line of a file, in columns
a state    what all events of one key add up to: a row of the entity's table
stored     kept in a sealed session's files
``s``      the state itself, where an expression reads other states beside it
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


PostedKind = Literal[
    "id",
    "id or none",
    "text",
    "int",
    "bool",
    "spans",
    "json",
    "messages",
    "amounts",
    "texts in base64",
    "time_ns",
    "time_ms",
    "function",
    "creates actor",
    "runtime env",
    "constant",
    "equals",
    "has",
]
"""
What a field of Ray's HTTP export holds. It follows the rules of protobuf's JSON, where 64 bits are a string.

id               an id in base64; empty where it is not known
id or none       the same, where bytes of ones stand for none
text, int, bool  as they are
spans            a list of profile events
json             an object with names of the user's own
messages         a message that is kept whole: its fields get the names that event files have, at any depth
amounts          amounts by resource, as event files have them: sorted, and 1 for 1.0
texts in base64  texts by name, each in base64
time_ns          a time (RFC 3339), in nanoseconds; ``time_ms``: in milliseconds
function         a function's descriptor: what is called, as Ray shows it
creates actor    the id of a task that creates an actor, whose id is in it
runtime env      a runtime environment, serialized, as `runtime_env_info` has it
constant         the argument, whatever it is
equals           whether it is the argument
has              whether the amounts have the argument's; null where there are none
"""


class Posted(msgspec.Struct, frozen=True):
    """A column's value in an event of Ray's HTTP export."""

    column: str
    path: str
    """
    Its path in the event's body, or, in `PostedEvent.of_each`, in a member of that list. Empty: the time of the event,
    or of the member.
    """
    kind: PostedKind
    argument: str = ""
    unset: str = ""
    """The value, as text, by which an event means "not known", beside an empty one."""
    default: str = ""
    """Its JSON where the field is missing or empty. Empty: null."""
    when: tuple[str, str] = ("", "")
    """A field beside it, and the value that it must have: else this one does not count."""
    default_unless: tuple[str, str] = ("", "")
    """A field beside it, and the value with which there is no default."""


class PostedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """
    A type of events of Ray's HTTP export (`RayEvent`, events_base_event.proto), and what its fields say of an entity.

    Ray says one thing in two ways: as rows in its event files, and as definitions and lifecycles that its aggregator
    posts. Both add up to the same state.
    """

    event_type: str
    """As Ray has it, e.g. ``TASK_LIFECYCLE_EVENT``. The chunks of such events have the same type."""
    body: str
    """The event's field that holds what it is about."""
    columns: tuple[Posted, ...]
    each: str = ""
    """The body's list, each member of which is a row of the log with a time of its own. Empty: the event is one row."""
    of_each: tuple[Posted, ...] = ()
    """The columns that the members tell."""
    times: str = ""
    """The body's list of states and of when each was entered."""
    times_at: str = ""
    """The place in a line of Ray's files where these times are, by the numbers of their states."""
    states: tuple[str, ...] = ()
    """The states that its list can name, by their numbers. Others cannot be read. Empty: any."""
    required: tuple[str, ...] = ()
    """Messages of the body without which an event says nothing."""
    ignored: tuple[str, ...] = ()
    """Paths in the body, or in a member of `each`, that are not kept: other events repeat them. ``x.*``: all in x."""
    blank: tuple[str, ...] = ()
    """Likewise, but of fields that are kept where they say anything. Ray mostly writes that they do not."""
    rest: str = "event_data"
    """The place in a line of Ray's files where the body's other fields would be, for `EXTRA`."""


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
    for declared in installed().values():
        if noun in (declared.name, declared.plural):
            return declared
    raise NotFoundError(f"no entity {noun!r}; there are {', '.join(sorted(e.plural for e in installed().values()))}")


@cache
def of_file_type(file_type: str) -> tuple[Entity, ...]:
    """Return the entities that read chunks of this event type; none where it is not known."""
    return tuple(
        declared
        for declared in installed().values()
        if file_type in declared.file_types or any(event.event_type == file_type for event in declared.posted)
    )


@cache
def posted_event(file_type: str) -> tuple[Entity, PostedEvent] | None:
    """Return what is told by chunks of this type, if they hold events of Ray's HTTP export, and who is told of."""
    for declared in of_file_type(file_type):
        for event in declared.posted:
            if event.event_type == file_type:
                return declared, event
    return None
