"""
Conclude: the SQL that closes states which no event ended, by the ends of what they belong to.

    partial state --bare--> state as told --concluded--> state

The same SELECT serves a living cluster, an earlier moment and sealing. What differs is where the states beside it come
from, which moment it is, and whether the session has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from raytrail.entities import INFERRED, INFERRED_MS, Beside, Derived, End, Entity, installed
from raytrail.fold import merge
from raytrail.fold.literals import literal, quote
from raytrail.fold.names import aliases, reads
from raytrail.fold.sessions import of_session

Other = Callable[[Entity, Collection[str]], str]
"""Gives the relation of another entity's states, with these stored columns at least."""

FromEvents = Callable[[Collection[str] | None], str]
"""Gives the relation of an entity's own states, with these stored columns or all, as their own events left them."""

MANY_ROWS = 10_000
"""From so many states on, each use in a statement reads them anew, and only its columns. To keep all takes longer."""

_OWN = "_own"
"""The name in a statement of an entity's states as their own events left them."""


def follows(entity: Entity, names: Collection[str] | None) -> bool:
    """Return whether one of these columns follows from other states than the entity's own; None: any column."""
    part = _part(entity, names)
    return bool(part.ends or part.fills)


def concluded(
    entity: Entity,
    from_events: FromEvents,
    other: Other,
    *,
    now_ms: int | None,
    end_ms: str | None = None,
    names: Collection[str] | None = None,
    most_rows: int,
) -> str:
    """
    Return the SELECT of states with their ends, and with what other entities say of them.

    Args:
        entity: Whose states.
        from_events: Gives the relation of its states as their own events left them (`merge.bare`), with these columns
            or all. The fewer a statement names, the less the engine takes to plan it.
        other: The states that follow from nothing but what was before the same moment.
        now_ms: The moment: what Ray concludes later than that is left open. None: all that is ever concluded.
        end_ms: The expression of when the session ended, which closes all that is open then; None while it goes on.
        names: The stored columns that matter; None: all.
        most_rows: How many there are at most. Few are made once, and read as often as the statement needs them.
    """
    part = _part(entity, names)
    end_ms = end_ms if part.closes else None
    source = from_events(None if names is None else _own(entity, part, names))
    if not part.ends and not part.fills and end_ms is None:
        return merge.with_derived(entity, source, names)
    life = entity.life
    ending = f", {_open(entity)} AS _open, {life.began_ns} AS _began_ns" if part.closes else ""
    filled = f" REPLACE ({', '.join(f'{value} AS {quote(name)}' for name, value in part.fills)})" if part.fills else ""
    arrivals = "".join(f", {_arrival(number, end)}" for number, end in enumerate(part.ends))
    shared, own = "", from_events
    if most_rows < MANY_ROWS and any(beside.entity == entity.name for beside in part.besides):
        # a relation that a statement reads six times is planned six times, which takes half of a small session's seal
        shared, source, own = f"WITH {_OWN} AS (FROM {source}) ", _OWN, lambda _: _OWN
    joins = " ".join(
        f"LEFT JOIN {_relation(entity, beside, other, own)} {beside.alias} ON {beside.on}" for beside in part.besides
    )
    states = f"{shared}SELECT s.*{filled}{arrivals} FROM (SELECT *{ending} FROM {source}) s {joins}"
    if part.ends or end_ms is not None:
        states = _closed(entity, f"SELECT *, {_ended(part.ends, now_ms, end_ms)} AS ended FROM ({states})", part.ends)
    return merge.with_derived(entity, f"({states})", names)


class _Part(NamedTuple):
    """What of an entity's declaration bears on the columns that are asked for."""

    closes: bool
    """Whether an end changes one of them."""
    ends: tuple[End, ...]
    fills: list[tuple[str, str]]
    """Columns that are filled in, each with its expression."""
    besides: list[Beside]
    """What these read, in the order of their joins."""


def _part(entity: Entity, names: Collection[str] | None) -> _Part:
    closes = bool(entity.life.closing) and _matters(entity, entity.life.changed, names)
    ends = entity.life.ends if closes else ()
    fills = [(c.name, c.filled) for c in entity.columns if c.filled and _matters(entity, {c.name}, names)]
    return _Part(closes, ends, fills, _besides(entity, _texts(ends, fills)))


def _texts(ends: Iterable[End], fills: Iterable[tuple[str, str]]) -> list[str]:
    """Return the expressions over states and what is beside them."""
    return [value for _, value in fills] + [text for end in ends for text in (end.when, end.at_ns, end.says, end.open)]


def _own(entity: Entity, part: _Part, names: Collection[str]) -> set[str]:
    """Return the entity's own stored columns that these follow from, themselves among them."""
    own = {*names, *(name for name, _ in part.fills)}
    own.update(name for beside in part.besides if beside.entity == entity.name for name in beside.names)
    texts = _texts(part.ends, part.fills) + [beside.on for beside in part.besides]
    texts += [derived.sql for derived in entity.derived if derived.stored and derived.name in names]
    if part.closes:
        own.update(name for name, _ in entity.life.closing)
        texts += [_open(entity), entity.life.began_ns, *(value for _, value in entity.life.closing)]
    return own.union(*(reads(entity, text) for text in texts))


def _matters(entity: Entity, columns: AbstractSet[str], names: Collection[str] | None) -> bool:
    """Return whether one of these columns is asked for, or what is asked for follows from it."""
    if names is None:
        return True
    derived = {column.name: column.sql for column in entity.derived if column.stored}
    read = {column for name in names for column in (reads(entity, derived[name]) if name in derived else [name])}
    return not columns.isdisjoint(read)


def _open(entity: Entity) -> str:
    """Return the condition that no event ended a state."""
    if not entity.life.state:
        return "false"
    column = entity.column(entity.life.state)
    state = column.sql if isinstance(column, Derived) else quote(column.name)
    return f"(({state}) NOT IN ({', '.join(map(literal, entity.life.terminal))}))"


def _besides(entity: Entity, texts: list[str]) -> list[Beside]:
    """Return what these expressions read beside a state, and what that is found by, in the order of their joins."""
    read: list[Beside] = []
    for beside in reversed(entity.beside):
        if any(beside.alias in aliases(text) for text in (*texts, *(other.on for other in read))):
            read.append(beside)
    return read[::-1]


def _relation(entity: Entity, beside: Beside, other: Other, from_events: FromEvents) -> str:
    if beside.entity == entity.name:
        states = from_events(beside.names)
    elif beside.entity in installed():
        states = other(installed()[beside.entity], beside.names)
    else:
        states = f"(SELECT {', '.join(f'NULL AS {quote(name)}' for name in beside.names)} LIMIT 0)"
    own = of_session(beside.sql, many=False).replace(f"{{{beside.entity}}}", states)
    return f"({own})" if beside.sql else states


def _arrival(number: int, end: End) -> str:
    """Return the columns that say when an end came, null where it did not or the state was not open to it, and why."""
    at_ns = f"CASE WHEN ({end.open or 's._open'}) AND ({end.when}) THEN {end.at_ns} END"
    return f"{at_ns} AS _at_ns_{number}, CASE WHEN _at_ns_{number} IS NOT NULL THEN {end.says} END AS _says_{number}"


def _ended(ends: tuple[End, ...], now_ms: int | None, end_ms: str | None) -> str:
    """Return the expression of the end that closes a state, null where it has an end of its own or is open."""
    first = "NULL"
    if ends:
        due = ", ".join(_due(number, end, now_ms) for number, end in enumerate(ends))
        some = ", ".join(f"_at_ns_{number}" for number in range(len(ends)))
        # most have an end of their own, and no list is made of them
        first = (
            f"CASE WHEN coalesce({some}) IS NOT NULL THEN list_min(list_filter([{due}], lambda e: e IS NOT NULL)) END"
        )
    if end_ms is None:
        return first
    with_session = f"{{'known': {end_ms}, 'at': {end_ms} * 1000000, 'why': 'session ended', 'says': NULL::VARCHAR}}"
    return f"coalesce({first}, CASE WHEN _open THEN {with_session} END)"


def _due(number: int, end: End, now_ms: int | None) -> str:
    at_ns, known = f"_at_ns_{number}", f"_at_ns_{number} // 1000000 + {end.delay_ms}"
    # Ray looks once, when it concludes: what began afterwards it never saw
    conditions = [f"{at_ns} IS NOT NULL", f"coalesce(_began_ns // 1000000 <= {known}, true)"]
    if now_ms is not None:
        conditions.append(f"{known} <= {now_ms}")
    dated = at_ns if end.backdated else f"greatest({at_ns}, _began_ns)"
    return (
        f"CASE WHEN {' AND '.join(conditions)} THEN {{'known': {known}, 'at': {dated}, 'why': {literal(end.why)}, "
        f"'says': _says_{number}::VARCHAR}} END"
    )


_ENDED = {"end_ns": "ended.at", "end_ms": "(ended.at // 1000000)", "says": "ended.says", "why": "ended.why"}


def _closed(entity: Entity, states: str, ends: Collection[End]) -> str:
    """Return the SELECT of states, with what becomes of those that have ``ended``, and without the marks of that."""
    marks = ["_open", "_began_ns", "ended", *(f"{name}_{n}" for n in range(len(ends)) for name in ("_at_ns", "_says"))]
    sets = [
        *((name, value.format(**_ENDED)) for name, value in entity.life.closing),
        (INFERRED.name, "ended.why"),
        (INFERRED_MS, "ended.known"),
    ]
    columns = ", ".join(
        f"CASE WHEN ended IS NULL THEN {quote(name)} ELSE {value} END AS {quote(name)}" for name, value in sets
    )
    return f"SELECT * EXCLUDE ({', '.join(marks)}) REPLACE ({columns}) FROM ({states})"
