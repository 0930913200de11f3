"""States as they were at an earlier moment, from the times in the last ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from raytrail.entities import INFERRED, INFERRED_MS, Column, Entity, Moments
from raytrail.fold.literals import quote
from raytrail.fold.names import reads

SETTLED = "_settled"
"""The column of states at a moment that says whether one is as it was at last."""


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


def is_settled(by: Moments, moment: Moment) -> str:
    """Return the condition that a state is at a moment what it was at last, as nothing more happened to it."""
    return f"{quote(by.latest)} <= {moment.last_ns}"


def at_times(entity: Entity, by: Moments, source: str, moment: Moment, names: Sequence[str], *, once: bool) -> str:
    """
    Return the SELECT that shows states as they were at a moment, from the times in them.

    What had not happened yet is null, and what was not concluded yet; what had not begun is left out. `SETTLED` says
    whether a state is as it was at last.

    Args:
        entity: Whose states.
        by: The entity's columns that bound its times.
        source: Their relation.
        moment: The moment.
        names: The columns to show, of those of `source`. No other is written: the engine takes longer to plan a
            statement with all of them than to answer most questions.
        once: Whether the statement names the relation once, for one that is worked out: the engine plans it each time
            that it is named. A stored relation is named twice, so that the engine skips most of it by its statistics.
    """
    settled, began = is_settled(by, moment), moment.past_ns(quote(by.earliest))
    later = f"({quote(by.latest)} > {moment.last_ns} AND {began})"
    if once:
        then = _Then(entity, moment, or_if=SETTLED)
        marked = f"(SELECT *, {settled} AS {SETTLED} FROM {source}) WHERE {SETTLED} OR {later}"
        return _worked_out(entity, names, then, marked, SETTLED)
    # by the statistics of a column the engine skips what is all on one side of the moment
    return (
        f"SELECT {', '.join([*map(quote, names), f'true AS {SETTLED}'])} FROM {source} WHERE {settled} UNION ALL "
        + _worked_out(entity, names, _Then(entity, moment), f"{source} WHERE {later}", f"false AS {SETTLED}")
    )


def _worked_out(entity: Entity, names: Sequence[str], then: _Then, source: str, settled: str) -> str:
    """Return the SELECT of these columns as they were then, and of whether a state is settled."""
    derived = {d.name: d for d in entity.derived if d.stored}
    items = [f"{derived[n].sql} AS {quote(n)}" if n in derived else quote(n) for n in names]
    plain = [*map(then.item, _plain(entity, names)), settled]
    return f"SELECT {', '.join([*items, SETTLED])} FROM (SELECT {', '.join(plain)} FROM {source})"


class _Then:
    """The columns of an entity's last states, as they were at a moment."""

    def __init__(self, entity: Entity, moment: Moment, *, or_if: str = "") -> None:
        """
        Look at an entity's states.

        Args:
            entity: The entity.
            moment: The moment.
            or_if: The condition that a state was then what it is at last. Empty: none of them was.
        """
        self._moment = moment
        self._or_if = f"{or_if} OR " if or_if else ""
        self._columns = {column.name: column for column in entity.columns}
        self._times = [name for name in self._columns if name.endswith("_ns")]
        self._closed = entity.life.changed
        self._spans = [f"list_max(list_transform({quote(name)}, lambda s: s.end_time))" for name in _spans(entity)]

    def item(self, name: str) -> str:
        """Return a column for a select list: null where it was not known yet."""
        column, value = self._columns.get(name), quote(name)
        if column and column.type == "spans" and not column.since:
            past = self._moment.past_ns("s.end_time")
            return f"list_filter({value}, lambda s: {self._or_if}{past}) AS {value}"
        conditions = [*self._concluded(name), *self._observed(name, column)]
        if not conditions:
            return value
        return f"CASE WHEN {self._or_if}{' AND '.join(conditions)} THEN {value} END AS {value}"

    def _concluded(self, name: str) -> list[str]:
        # what an older version sealed does not say when it was concluded: at once, it was taken to be
        past = f"(inferred IS NULL OR coalesce({self._moment.past_ms(INFERRED_MS)}, true))"
        return [past] if name in self._closed else []

    def _observed(self, name: str, column: Column | None) -> list[str]:
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
        times = [f"CASE WHEN inferred IS NULL THEN {quote(n)} END" if n in self._closed else quote(n) for n in names]
        least = f"least({', '.join(times)})"
        return self._moment.past_ns(f"coalesce({', '.join([least, *self._spans, first])})")


def _least(names: Iterable[str]) -> str:
    return f"least({', '.join(map(quote, names))})"


def _plain(entity: Entity, names: Iterable[str]) -> dict[str, None]:
    """Return the columns, none of them derived, that these stored columns follow from."""
    derived = {d.name: d for d in entity.derived if d.stored}
    return dict.fromkeys(chain(*(reads(entity, derived[n].sql) if n in derived else [n] for n in names)))


def read_by_times(entity: Entity, by: Moments, names: Iterable[str]) -> dict[str, None]:
    """Return the stored columns that `at_times` reads to show these."""
    names = list(names)
    plain = _plain(entity, names)
    since = {*chain(*(column.since for column in entity.columns if column.name in plain))}
    spans = _spans(entity) if since & entity.life.changed else []
    ends = (by.earliest, by.latest, INFERRED.name, INFERRED_MS)
    return dict.fromkeys([*entity.key, *names, *plain, *sorted(since), *spans, *ends])


def _spans(entity: Entity) -> list[str]:
    return [column.name for column in entity.columns if column.type == "spans"]
