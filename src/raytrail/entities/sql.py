"""
The SQL that follows from an entity's columns, in DuckDB's dialect.

    line --decode--> log row --lift--> partial state --fold--> partial state --final--> state --public--> what is shown

A *partial state* is what is known of one key from some of its events. `fold` makes one of many, minding neither
order nor repetition, and may fold its own results again: so the same GROUP BY serves live batches, sealing and
rebuilding. A value that merges by `last` or `latest` travels in it as ``{t, f, o, v}``: the event's timestamp, its
file and its offset there, and the value, so that the larger of two is the later one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import NamedTuple

import msgspec

from raytrail.entities import MOST_SECONDS, Column, Derived, Entity, Type

STORED: dict[Type, str] = {
    "id": "BLOB",
    "text": "VARCHAR",
    "texts": "VARCHAR[]",
    "int": "BIGINT",
    "float": "DOUBLE",
    "bool": "BOOLEAN",
    "json": "VARCHAR",
    "spans": "STRUCT(start_time BIGINT, end_time BIGINT, event_name VARCHAR, extra_data VARCHAR)[]",
}
"""The engine's type for each of ours, on disk and in the fold."""

_IN_LINE: dict[Type, str] = {**STORED, "id": "VARCHAR", "json": "JSON"}

MOST_MEMBERS = 1000
"""
Most members of a union: the smallest are kept, which minds neither order nor repetition either.

Of a task's profile events, which sort by their start, GCS keeps as many; the log has them all. Without a bound, the
state of a driver that submits millions of tasks would hold an event of each.
"""

EXTRA = Column("extra", "json", "_extra", "max", "Fields that this version does not know, by their path in the line.")
FIRST = Column(
    "first_event_s", "int", "= timestamp", "min", "Timestamp of its first event, in seconds since the epoch."
)
LAST = Column("last_event_s", "int", "= timestamp", "max", "Timestamp of its last event, in seconds since the epoch.")
INFERRED = Derived(
    "inferred", "text", "inferred", "Why Raytrail closed it, where no event said that it ended; else null.", stored=True
)
INFERRED_MS = "_inferred_ms"
"""The stored column of states that says from when on one counts as closed: Ray concludes an end some time after it."""
SETTLED = "_settled"
"""The column of states at a moment that says whether one is as it was at last."""
TALLY = "_n"
"""The column of a tally that says how many states it stands for."""
UNTIL = "_until_ns"
"""The column of a tally by which the last of their times lies, all of them after the one before."""
TALLY_STEPS = 64
"""By how many moments of a session's life a tally tells its states apart."""
COMMON = (EXTRA, FIRST, LAST)
"""Columns that every entity has."""


class Moment(NamedTuple):
    """A moment of a session."""

    at_ms: int
    """In milliseconds since the epoch; what happened within this millisecond has happened."""
    ahead_ms: int | None = None
    """
    From here on times are those of clocks that are ahead: what they tell had happened, too. None: later is later.

    A node's clock may be minutes ahead of the head's, by which the moment of a shutdown is known.
    """

    @property
    def last_ns(self) -> int:
        """The last nanosecond of the moment."""
        return (self.at_ms + 1) * 1_000_000 - 1

    def past_ns(self, time_ns: str) -> str:
        """Return the condition that a time in nanoseconds had come."""
        ahead = "" if self.ahead_ms is None else f" OR {time_ns} >= {self.ahead_ms * 1_000_000}"
        return f"({time_ns} <= {self.last_ns}{ahead})"

    def past_ms(self, time_ms: str) -> str:
        """Return the condition that a time in milliseconds had come."""
        ahead = "" if self.ahead_ms is None else f" OR ({time_ms}) >= {self.ahead_ms}"
        return f"(({time_ms}) <= {self.at_ms}{ahead})"


SESSION = Column("_session", "text", "_session", "key", "Which session it is of, where many are worked on at once.")
"""The column that tells the states of many sessions apart. It is in no file: a file is of one session."""


@cache
def of_many(entity: Entity) -> Entity:
    """Return an entity as it is where states of many sessions are worked on at once: none meets another session's."""
    beside = tuple(
        msgspec.structs.replace(
            one,
            on=f"{one.alias}.{SESSION.name} = s.{SESSION.name} AND {one.on}",
            names=(SESSION.name, *one.names),
            sql=of_session(one.sql, many=True),
        )
        for one in entity.beside
    )
    columns = (SESSION, *entity.columns)
    view = of_session(entity.view, many=True)
    return msgspec.structs.replace(entity, key=(SESSION.name, *entity.key), columns=columns, beside=beside, view=view)


def of_session(select: str, *, many: bool) -> str:
    """Return a SELECT of an entity (`Beside.sql`, `Entity.view`) for the states of one session, or of many."""

    def name(found: re.Match[str]) -> str:
        return f"{found[1] + '.' if found[1] else ''}{SESSION.name}, " if many else ""

    return re.sub(r"\{session(?::(\w+))?\}", name, select)


def quote(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def shown(entity: Entity) -> tuple[Column | Derived, ...]:
    """Return the columns of a row as the world sees it."""
    every: list[Column | Derived] = [*entity.columns]
    every += [*entity.derived, INFERRED, *COMMON]
    return tuple(column for column in every if not column.name.startswith("_"))


def in_log(entity: Entity) -> tuple[Column, ...]:
    """Return the columns that the log keeps of an event, besides its timestamp and place."""
    return (*(c for c in entity.columns if not c.computed), EXTRA)


def _in_state(entity: Entity, names: Collection[str] | None = None) -> tuple[Column, ...]:
    """Return the columns of a state, without the derived ones: its key and those of these names, or all."""
    every = (*entity.columns, *COMMON)
    return every if names is None else tuple(one for one in every if one.name in names or one.merge == "key")


@cache
def stored(entity: Entity) -> dict[str, None]:
    """Return the names of the columns that a sealed state has, in order."""
    derived = (d.name for d in entity.derived if d.stored)
    return dict.fromkeys([*(c.name for c in _in_state(entity)), "inferred", INFERRED_MS, *derived])


@cache
def line_type(entity: Entity) -> str:
    """Return the ``columns`` argument of `read_json`: the type of a line of the spool."""
    tree: dict[str, object] = {"timestamp": "BIGINT", "source_type": "VARCHAR"}
    if entity.ordered():
        tree |= {"_file": "VARCHAR", "_offset": "BIGINT"}
    for column in in_log(entity):
        *parents, leaf = column.origin.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})  # type: ignore[assignment]  # a tree of str and dict
        node[leaf] = "DOUBLE" if column.scale != 1 else _IN_LINE[column.type]

    def render(node: object) -> str:
        if isinstance(node, dict):
            return "STRUCT(" + ", ".join(f"{quote(k)} {render(v)}" for k, v in node.items()) + ")"
        return str(node)

    return "{" + ", ".join(f"{quote(k)}: {literal(render(v))}" for k, v in tree.items()) + "}"


def _decoded(column: Column) -> str:
    head, *rest = column.origin.split(".")
    value = ".".join([quote(head), *map(quote, rest)])
    if column.type == "id":
        return f"from_base64(nullif({value}, ''))"
    if column.type == "text":
        return f"nullif({value}, '')"
    if column.scale != 1:
        value = f"round({value} * {column.scale})::BIGINT"
    if column.type == "json":
        value = f"{value}::VARCHAR"
    if column.unset:
        unset = column.unset if column.type in ("int", "float") else literal(column.unset)
        return f"nullif({value}, {unset})"
    return value


def decode(entity: Entity, source: str) -> str:
    """Return the SELECT that reads the log's rows from `source`, the relation of a spool of lines."""
    columns = ["timestamp"]
    if entity.ordered():
        columns += ['"_file" AS file', '"_offset" AS line_offset']
    columns += [f"{_decoded(column)} AS {quote(column.name)}" for column in in_log(entity)]
    types = ", ".join(literal(event_type) for event_type in entity.event_types)
    return f"SELECT {', '.join(columns)} FROM {source} WHERE source_type IN ({types})"


SPAN_LIMITS = (-1, MOST_SECONDS * 10**9)
"""Between which values the times of profile events lie, in nanoseconds."""


@cache
def limits(entity: Entity) -> dict[str, tuple[int, int]]:
    """Return between which values the integers of a log's file lie, by the engine's names of its columns."""
    found = {quote(column.name): column.limits for column in in_log(entity) if column.type == "int"}
    for column in in_log(entity):
        if column.type == "spans":
            for time in ("start_time", "end_time"):
                found[f'{quote(column.name)}."element".{quote(time)}'] = SPAN_LIMITS
    return found


@cache
def extremes(entity: Entity) -> dict[str, tuple[str, str]]:
    """Return the expressions over rows of the log of the least and the greatest of each of `limits`' integers."""
    found = {}
    for column in in_log(entity):
        name = quote(column.name)
        if column.type == "int":
            found[name] = (f"min({name})", f"max({name})")
        elif column.type == "spans":
            for time in map(quote, ("start_time", "end_time")):
                times = f"list_transform({name}, lambda s: s.{time})"
                found[f'{name}."element".{time}'] = (f"min(list_min({times}))", f"max(list_max({times}))")
    return found


def beyond_limits(entity: Entity, statistics: Mapping[str, Mapping[str, str]]) -> str:
    """
    Return which integer of a log's file is none that can be; an empty string where all can be.

    Args:
        entity: Whose file.
        statistics: What the engine says of its columns: the least and the greatest of each.
    """
    for name, (least, most) in limits(entity).items():
        of_column = statistics.get(name, {})
        for which in ("min", "max"):
            if which in of_column and not least <= int(of_column[which]) <= most:
                return f"{of_column[which]} is not from {least} to {most} - at {name}"
    return ""


def lift(entity: Entity, names: Collection[str] | None = None) -> str:
    """Return the select list that makes a partial state of each row of the log, with these columns or all."""
    items = []
    for column in _in_state(entity, names):
        value = column.computed or quote(column.name)
        if column.placed:
            placed = f"{{'t': timestamp, 'f': file, 'o': line_offset, 'v': {value}}}"
            value = placed if column.merge == "latest" else f"CASE WHEN {value} IS NOT NULL THEN {placed} END"
        items.append(f"{value} AS {quote(column.name)}")
    return ", ".join(items)


def fold(entity: Entity, source: str, names: Collection[str] | None = None) -> str:
    """Return the GROUP BY that makes one partial state of all those of a key in `source`, with these columns or all."""
    items, unions = [], []
    for column in _in_state(entity, names):
        name = quote(column.name)
        if column.merge == "key":
            value = name
        elif column.merge == "min":
            value = f"min({name})"
        elif column.merge == "union":
            value = f"list({name}) FILTER ({name} IS NOT NULL)"
            # mostly one list, whose members are distinct already: telling them apart anew would double the fold's cost
            union = f"list_sort(list_distinct(flatten({name})))[:{MOST_MEMBERS}]"
            unions.append(f"CASE WHEN len({name}) > 1 THEN {union} ELSE {name}[1] END AS {name}")
        else:
            value = f"max({name})"
        items.append(f"{value} AS {name}")
    key = ", ".join(quote(name) for name in entity.key)
    select = f"SELECT {', '.join(items)} FROM {source} GROUP BY {key}"
    return f"SELECT * REPLACE ({', '.join(unions)}) FROM ({select})" if unions else select


def bare(entity: Entity, source: str, names: Collection[str] | None = None) -> str:
    """
    Return the SELECT that makes states of `source`, which has one partial state a key, as their own events left them.

    They have these columns or all, but for the derived columns that are stored.
    """
    columns = _in_state(entity, names)
    items = [f"{quote(c.name)}.v AS {quote(c.name)}" if c.placed else quote(c.name) for c in columns]
    return f"SELECT {', '.join(items)}, NULL::VARCHAR AS inferred, NULL::BIGINT AS {INFERRED_MS} FROM {source}"


def with_derived(entity: Entity, source: str, names: Collection[str] | None = None) -> str:
    """Return the SELECT that adds the derived columns that are stored, of these names or all, to states without."""
    wanted = [one for one in entity.derived if one.stored and (names is None or one.name in names)]
    derived = "".join(f", {one.sql} AS {quote(one.name)}" for one in wanted)
    return f"SELECT *{derived} FROM {source}"


def empty(entity: Entity, *, partial: bool) -> str:
    """Return a SELECT with the columns of (partial) states and no row."""
    kinds = partial_types(entity) if partial else {c.name: STORED[c.type] for c in _in_state(entity)}
    items = [f"NULL::{kind} AS {quote(name)}" for name, kind in kinds.items()]
    if not partial:
        items += ["NULL::VARCHAR AS inferred", f"NULL::BIGINT AS {INFERRED_MS}"]
        items += [f"NULL::{STORED[d.type]} AS {quote(d.name)}" for d in entity.derived if d.stored]
    return f"SELECT {', '.join(items)} LIMIT 0"


@cache
def partial_types(entity: Entity) -> dict[str, str]:
    """Return the engine's type of each column of a partial state, in order."""
    kinds = {}
    for column in _in_state(entity):
        kind = STORED[column.type]
        kinds[column.name] = f"STRUCT(t BIGINT, f VARCHAR, o BIGINT, v {kind})" if column.placed else kind
    return kinds


def filled(entity: Entity, source: str, *, partial: bool) -> str:
    """
    Return the relation of (partial) states in files, with every column.

    Sealed states that an older version wrote lack the columns that were not known then; they are null.
    """
    states = f"({empty(entity, partial=partial)})"
    if partial:
        return f"(SELECT * FROM {states} UNION ALL BY NAME SELECT * FROM {source})"
    former = {c.name: (c.formerly[1], _FORMER_NULLS[c.type]) for c in entity.columns if c.formerly[1]}
    return _renamed(
        entity, states, source, {name: f"nullif({quote(old)}, {null})" for name, (old, null) in former.items()}
    )


_FORMER_NULLS: dict[Type, str] = {"text": "''", "json": "'null'", "float": "-1"}
"""What stood for null in a sealed state, before a column could merge by `latest`."""


def filled_log(entity: Entity, source: str) -> str:
    """Return the relation of rows of the log in files, with every column, as `filled`."""
    columns = "".join(f", NULL::{STORED[column.type]} AS {quote(column.name)}" for column in in_log(entity))
    former = {c.name: quote(c.formerly[0]) for c in entity.columns if c.formerly[0]}
    return _renamed(entity, f"(SELECT NULL::BIGINT AS timestamp{columns} LIMIT 0)", source, former)


def _renamed(entity: Entity, typed: str, source: str, former: dict[str, str]) -> str:
    """
    Return the relation of files with the columns of `typed`, which has no row.

    Args:
        entity: Whose files.
        typed: The relation of the columns, by today's names.
        source: The relation of the files, some of which may have columns by the names of old.
        former: Of each column that had another name, the expression over that.
    """
    if not former:
        return f"(SELECT * FROM {typed} UNION ALL BY NAME SELECT * FROM {source})"
    olds = {name: old for c in entity.columns for name in c.formerly if name for old in [STORED[c.type]]}
    columns = ", ".join(f"NULL::{kind} AS {quote(name)}" for name, kind in olds.items())
    joined = ", ".join(f"coalesce({quote(name)}, {old}) AS {quote(name)}" for name, old in former.items())
    return (
        f"(SELECT * EXCLUDE ({', '.join(map(quote, olds))}) REPLACE ({joined}) FROM (SELECT * FROM {typed} "
        f"UNION ALL BY NAME (SELECT {columns} LIMIT 0) UNION ALL BY NAME SELECT * FROM {source}))"
    )


def folded(entity: Entity, log: str, names: Collection[str] | None = None) -> str:
    """Return the SELECT that folds rows of the log, all at once, into partial states with these columns or all."""
    return fold(entity, f"(SELECT {lift(entity, names)} FROM {log})", names)


def settled(entity: Entity, moment: Moment) -> str:
    """Return the condition that a state is at a moment what it was at last, as nothing more happened to it."""
    return f"{quote(entity.latest)} <= {moment.last_ns}" if entity.latest else "false"


def at_times(entity: Entity, source: str, moment: Moment, names: Sequence[str]) -> str:
    """
    Return the SELECT that shows states as they were at a moment, from the times in them.

    What had not happened yet is null, and what was not concluded yet; what had not begun is left out. `SETTLED` says
    whether a state is as it was at last.

    Args:
        entity: Whose states.
        source: Their relation.
        moment: The moment.
        names: The columns to show, of those of `source`. No other is written: the engine takes longer to plan a
            statement with all of them than to answer most questions.
    """
    then = _Then(entity, moment)
    derived = {d.name: d for d in entity.derived if d.stored}
    plain = _plain(entity, names)

    def still(source: str) -> str:
        worked_out = (f"{derived[n].sql} AS {quote(n)}" if n in derived else quote(n) for n in names)
        inner = f"SELECT {', '.join(map(then.item, plain)) or 1} FROM {source}"
        return f"SELECT {', '.join([*worked_out, f'false AS {SETTLED}'])} FROM ({inner})"

    if not entity.latest:
        return still(f"{source} WHERE {then.began}")
    # by the statistics of a column the engine skips what is all on one side of the moment
    return (
        f"SELECT {', '.join([*map(quote, names), f'true AS {SETTLED}'])} FROM {source} "
        f"WHERE {settled(entity, moment)} UNION ALL "
        + still(f"{source} WHERE {quote(entity.latest)} > {moment.last_ns} AND {then.began}")
    )


class _Then:
    """The columns of an entity's last states, as they were at a moment."""

    def __init__(self, entity: Entity, moment: Moment) -> None:
        self._moment = moment
        self._columns = {column.name: column for column in entity.columns}
        self._times = [name for name in self._columns if name.endswith("_ns")]
        self._closed = {"inferred", INFERRED_MS, *(name for name, _ in entity.closing)}
        self._spans = [f"list_max(list_transform({quote(name)}, lambda s: s.end_time))" for name in _spans(entity)]
        first = quote(entity.earliest) if entity.earliest else _least(self._times)
        self.began = moment.past_ns(first)
        """The condition that a state had begun."""

    def item(self, name: str) -> str:
        """Return a column for a select list: null where it was not known yet."""
        column, value = self._columns.get(name), quote(name)
        if column and column.type == "spans" and not column.since:
            return f"list_filter({value}, lambda s: {self._moment.past_ns('s.end_time')}) AS {value}"
        conditions = [*self._concluded(name), *self._told(name, column)]
        return f"CASE WHEN {' AND '.join(conditions)} THEN {value} END AS {value}" if conditions else value

    def _concluded(self, name: str) -> list[str]:
        # what an older version sealed does not say when it was concluded: at once, it was taken to be
        past = f"(inferred IS NULL OR coalesce({self._moment.past_ms(INFERRED_MS)}, true))"
        return [past] if name in self._closed else []

    def _told(self, name: str, column: Column | None) -> list[str]:
        if name in self._times:
            return [self._moment.past_ns(quote(name))]
        if column is None or not column.since:
            return []
        if name in self._closed:
            return [f"(inferred IS NOT NULL OR {self._moment.past_ns(_least(column.since))})"]
        return [self._since(column.since)]

    def _since(self, names: Sequence[str]) -> str:
        first = _least(names)
        if self._closed.isdisjoint(names):  # where no event told the time, what came with it is not hidden
            return f"coalesce({self._moment.past_ns(first)}, true)"
        # an end that is inferred says when something was told only where nothing else does
        told = [f"CASE WHEN inferred IS NULL THEN {quote(n)} END" if n in self._closed else quote(n) for n in names]
        least = f"least({', '.join(told)})"
        return self._moment.past_ns(f"coalesce({', '.join([least, *self._spans, first])})")


def _least(names: Iterable[str]) -> str:
    return f"least({', '.join(map(quote, names))})"


def _plain(entity: Entity, names: Iterable[str]) -> dict[str, None]:
    """Return the columns, none of them derived, that these stored columns follow from."""
    derived = {d.name: d for d in entity.derived if d.stored}
    return dict.fromkeys(chain(*(named(entity, derived[n].sql) if n in derived else [n] for n in names)))


def read_by_times(entity: Entity, names: Iterable[str]) -> dict[str, None]:
    """Return the stored columns that `at_times` reads to show these."""
    names = list(names)
    plain = _plain(entity, names)
    since = {*chain(*(column.since for column in entity.columns if column.name in plain))}
    closed = {name for name, _ in entity.closing}
    spans = _spans(entity) if since & closed else []
    times = [c.name for c in entity.columns if c.name.endswith("_ns")] if not entity.earliest else []
    ends = [name for name in (entity.earliest, entity.latest) if name]
    return dict.fromkeys([*entity.key, *names, *plain, *sorted(since), *spans, *times, *ends, "inferred", INFERRED_MS])


def _spans(entity: Entity) -> list[str]:
    return [column.name for column in entity.columns if column.type == "spans"]


def tally_name(entity: Entity) -> str:
    """Return the table of an entity's tally."""
    return f"{entity.name}_tally"


def tally_columns(entity: Entity) -> tuple[str, ...]:
    """Return the columns of an entity's tally."""
    return (*entity.tallied, UNTIL, TALLY)


def tally(entity: Entity, source: str) -> str:
    """
    Return the SELECT that counts the states of `source` by the columns that they are mostly counted by.

    And by the last of their times, in `TALLY_STEPS` steps that are the same for all: so the states that had come to
    their end at a moment are those up to the step before it, and few others.
    """
    latest = quote(entity.latest)
    span = f"(SELECT min({latest}) AS low, (max({latest}) - min({latest})) // {TALLY_STEPS} + 1 AS step FROM {source})"
    return (
        f"SELECT {', '.join(map(quote, entity.tallied))}, low + (({latest} - low) // step + 1) * step - 1 AS {UNTIL}, "
        f"count(*) AS {TALLY} FROM {source}, {span} GROUP BY ALL"
    )


def read_from(entity: Entity, wanted: Iterable[Column | Derived]) -> list[str]:
    """Return the names of the stored columns that these are made of."""
    names: dict[str, None] = {}
    for one in wanted:
        names |= dict.fromkeys([one.name] if one.name in stored(entity) else named(entity, raw(one)))
    return list(names)


@cache
def named(entity: Entity, expression: str) -> list[str]:
    """Return the stored columns that an expression reads, and maybe some whose names only its texts have."""
    return [word for word in re.findall(r"\w+", expression) if word in stored(entity)]


def public(column: Column | Derived) -> str:
    """Return the expression that shows a column of a state to the world."""
    value = raw(column)
    if column.type == "id":
        return f"lower(hex({value}))"
    if column.type == "json":
        return f"try_cast(({value}) AS JSON)"  # of texts, anybody's may be none
    return value


def raw(column: Column | Derived) -> str:
    """Return the expression to filter and sort a column by: what `public` shows, before it is made readable."""
    if isinstance(column, Derived) and not column.stored:
        return f"({column.sql})"
    return quote(column.name)


def public_view(entity: Entity, source: str, names: Iterable[str] | None = None) -> str:
    """Return the SELECT that shows states to the world, with these columns or all."""
    wanted = shown(entity) if names is None else [find(entity, name) for name in names]
    return f"SELECT {', '.join(f'{public(c)} AS {quote(c.name)}' for c in wanted)} FROM {source}"


def find(entity: Entity, name: str) -> Column | Derived:
    """
    Return the column of that name, those that every entity has among them.

    Raises:
        NotFoundError: It has none of that name.
    """
    for column in (INFERRED, *COMMON):
        if column.name == name:
            return column
    return entity.column(name)
