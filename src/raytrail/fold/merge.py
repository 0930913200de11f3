"""
Merge: the GROUP BY that makes one state of many events.

    row of the log --lift--> partial state --fold--> partial state --bare--> state as its own events left it

A *partial state* is what is known of one key from some of its events. `fold` makes one of many, minding neither
order nor repetition, and may fold its own results again: so the same GROUP BY serves live batches, sealing and
rebuilding. A value that merges by `last` or `latest` travels in it as ``{t, f, o, v}``: the event's timestamp, its
file and its offset there, and the value, so that the larger of two is the later one.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

from raytrail.entities import INFERRED_MS, Entity
from raytrail.fold.layout import STORED, in_state
from raytrail.fold.literals import quote

MOST_MEMBERS = 1000
"""
Most members of a union: the smallest are kept, which minds neither order nor repetition either.

Of a task's profile events, which sort by their start, GCS keeps as many; the log has them all. Without a bound, the
state of a driver that submits millions of tasks would hold an event of each.
"""


def lift(entity: Entity, names: Collection[str] | None = None) -> str:
    """Return the select list that makes a partial state of each row of the log, with these columns or all."""
    items = []
    for column in in_state(entity, names):
        value = column.computed or quote(column.name)
        if column.placed:
            placed = f"{{'t': timestamp, 'f': file, 'o': line_offset, 'v': {value}}}"
            value = placed if column.merge == "latest" else f"CASE WHEN {value} IS NOT NULL THEN {placed} END"
        items.append(f"{value} AS {quote(column.name)}")
    return ", ".join(items)


def fold(entity: Entity, source: str, names: Collection[str] | None = None) -> str:
    """Return the GROUP BY that makes one partial state of all those of a key in `source`, with these columns or all."""
    items, unions = [], []
    for column in in_state(entity, names):
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


def folded(entity: Entity, log: str, names: Collection[str] | None = None) -> str:
    """Return the SELECT that folds rows of the log, all at once, into partial states with these columns or all."""
    return fold(entity, f"(SELECT {lift(entity, names)} FROM {log})", names)


def bare(entity: Entity, source: str, names: Collection[str] | None = None) -> str:
    """
    Return the SELECT that makes states of `source`, which has one partial state a key, as their own events left them.

    They have these columns or all, but for the derived columns that are stored.
    """
    columns = in_state(entity, names)
    items = [f"{quote(c.name)}.v AS {quote(c.name)}" if c.placed else quote(c.name) for c in columns]
    return f"SELECT {', '.join(items)}, NULL::VARCHAR AS inferred, NULL::BIGINT AS {INFERRED_MS} FROM {source}"


def with_derived(entity: Entity, source: str, names: Collection[str] | None = None) -> str:
    """Return the SELECT that adds the derived columns that are stored, of these names or all, to states without."""
    wanted = [column for column in entity.derived if column.stored and (names is None or column.name in names)]
    derived = "".join(f", {column.sql} AS {quote(column.name)}" for column in wanted)
    return f"SELECT *{derived} FROM {source}"


def empty(entity: Entity, *, partial: bool, names: Collection[str] | None = None) -> str:
    """Return a SELECT with the columns of (partial) states, these at least or all, and no row."""
    columns = in_state(entity, names)
    kinds = partial_types(entity) if partial else {c.name: STORED[c.type] for c in columns}
    items = [f"NULL::{kinds[c.name]} AS {quote(c.name)}" for c in columns]
    if not partial:
        items += ["NULL::VARCHAR AS inferred", f"NULL::BIGINT AS {INFERRED_MS}"]
        derived = [d for d in entity.derived if d.stored and (names is None or d.name in names)]
        items += [f"NULL::{STORED[d.type]} AS {quote(d.name)}" for d in derived]
    return f"SELECT {', '.join(items)} LIMIT 0"


@cache
def partial_types(entity: Entity) -> dict[str, str]:
    """Return the engine's type of each column of a partial state, in order."""
    kinds = {}
    for column in in_state(entity):
        kind = STORED[column.type]
        kinds[column.name] = f"STRUCT(t BIGINT, f VARCHAR, o BIGINT, v {kind})" if column.placed else kind
    return kinds
