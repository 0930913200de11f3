"""The rows of a session's entities, at one moment or at last. The engine filters and sorts them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from raytrail.entities import Column, Derived, Entity, installed
from raytrail.entities import entity as entity_of
from raytrail.fold import failures, show
from raytrail.fold.layout import find, shown, stored
from raytrail.fold.literals import literal, quote
from raytrail.fold.moment import SETTLED, Moment, at_times, is_settled, read_by_times
from raytrail.fold.rollup import ROLLUPS, at_moment, read_of, rollup, rollup_name
from raytrail.fold.sessions import of_session
from raytrail.fold.tally import TALLY, UNTIL, tally_columns, tally_name
from raytrail.store.decoding import decoder_of
from raytrail.store.engine import Engine, Rows, Run
from raytrail.store.filters import Filter, condition_of, ids_of, literal_of, sort_of
from raytrail.store.states import States, TablesLost

_ROW = "_row"
"""The number of a row in a table."""
FEW_ROWS = 20_000
"""Up to how many rows of a table are found by their numbers before anything else of them is read."""
FEW_KEYS = 1_000
"""The same where they have no numbers, and are found by their keys."""

_WORD = re.compile(r"\w+")

P = ParamSpec("P")
T = TypeVar("T")


def _or_of_files(method: Callable[Concatenate[Snapshot, P], T]) -> Callable[Concatenate[Snapshot, P], T]:
    """Ask once more, of the files, where a session's tables turn out to be damaged."""

    @wraps(method)
    def ask(snapshot: Snapshot, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(snapshot, *args, **kwargs)
        except TablesLost:
            return method(snapshot, *args, **kwargs)

    return ask


class Snapshot:
    """
    A session at one moment.

    Values are given in their usual form, which is ids as hex text, JSON decoded, times as integers.
    """

    def __init__(
        self,
        engine: Engine,
        session: str,
        moment: Moment | None,
        states: States,
        counts: dict[object, int] | None = None,
        *,
        attach: bool = True,
    ) -> None:
        """
        Look at a session.

        Args:
            engine: The engine that answers.
            session: Its name.
            moment: The moment. None is its end, or now.
            states: Gives the relations of its states.
            counts: The counts made before of a sealed session, by the question. None where they may still change.
            attach: Whether to read a sealed session's tables, where it has any. Otherwise only its files are read.
        """
        self.session = session
        self.at_ms = moment.at_ms if moment else None
        self._engine = engine
        self._moment = moment
        self._states = states
        self._attach = attach
        self._counts = counts

    def at_last(self) -> Snapshot:
        """Return the session at its end, or as it is now."""
        return Snapshot(self._engine, self.session, None, self._states, self._counts, attach=self._attach)

    def source(self, entity: Entity, names: Sequence[str] | None = None) -> str:
        """Return the relation of an entity's states, with these stored columns at least, or all."""
        if not entity.view:
            return self._select_base(entity, names)
        view = of_session(entity.view, many=False)
        for name, other in installed().items():
            if f"{{{name}}}" in view:
                view = view.replace(f"{{{name}}}", self._select_base(other))
        return f"({view})"

    def _select_base(self, entity: Entity, names: Sequence[str] | None = None) -> str:
        """Return the relation of an entity's states at the moment, with these stored columns at least."""
        if self._moment is None:
            return self._select_last(entity, names)
        return self._states.at(self.session, entity, self._moment, names)

    def _select_last(self, entity: Entity, names: Sequence[str] | None = None) -> str:
        """Return the relation of last states, with these stored columns at least, and what they were earlier by."""
        if names is not None and self._moment is not None and entity.moments:
            names = [*read_by_times(entity, entity.moments, names)]
        return self._states.last(self.session, entity, names, attach=self._attach)

    def _find_table(self, entity: Entity) -> str | None:
        """Return the table of an entity's last states, where the session is sealed and has one."""
        return self._states.table(self.session, entity.name, stored(entity)) if self._attach else None

    def _find_tally(self, entity: Entity) -> str | None:
        """Return the table of how many states there are of each kind, likewise."""
        if not self._attach or not entity.moments:
            return None
        return self._states.table(self.session, tally_name(entity), tally_columns(entity.moments))

    @_or_of_files
    def rows(
        self,
        noun: str,
        *,
        columns: Sequence[str] | None = None,
        where: Sequence[Filter] = (),
        order: Sequence[str] = (),
        limit: int | None = None,
        offset: int = 0,
    ) -> list[dict[str, Any]]:
        """
        Return states of an entity.

        Args:
            noun: The entity's name, singular or plural.
            columns: The columns, in this order. None gives all.
            where: Conditions that all must hold.
            order: Columns to sort by, with ``-`` before one that descends. None sorts as the session was sealed.
            limit: The most rows. None gives all.
            offset: Rows to skip first.

        Raises:
            NotFoundError: There is no such entity or column.
        """
        entity = entity_of(noun)
        wanted = shown(entity) if columns is None else tuple(find(entity, name) for name in columns)
        few = FEW_ROWS if self._find_numbered(entity) else FEW_KEYS
        if not entity.view and not ids_of(entity, where) and limit is not None and limit <= few:
            records = self._read_few(entity, wanted, where, order, limit, offset)
        else:
            records = self.run(*self.select(entity, wanted, where, order, limit, offset))
        names = [column.name for column in wanted]
        rows = [dict(zip(names, row, strict=True)) for row in records]
        decoders = [(column.name, decode) for column in wanted if (decode := decoder_of(column))]
        for row in rows:
            for name, decode in decoders:
                if (value := row[name]) is not None:
                    row[name] = decode(value)
        return rows

    @_or_of_files
    def arrow_stream(
        self,
        noun: str,
        columns: Sequence[str],
        *,
        where: Sequence[Filter] = (),
        order: Sequence[str] = (),
        limit: int | None = None,
    ) -> object:
        """Return what `rows` returns as Arrow's C stream: a PyCapsule. JSON stays text there."""
        entity = entity_of(noun)
        wanted = [find(entity, name) for name in columns]
        with self._states.asking(self.session):
            return self._engine.arrow_stream(*self.select(entity, wanted, where, order, limit))

    def select(
        self,
        entity: Entity,
        wanted: Sequence[Column | Derived],
        where: Sequence[Filter] = (),
        order: Sequence[str] = (),
        limit: int | None = None,
        offset: int = 0,
    ) -> tuple[str, list[Any]]:
        """Return the statement, with its parameters, that shows these columns."""
        condition, params = condition_of(entity, where)
        items = ", ".join(f"{show.public(c)} AS {quote(c.name)}" for c in wanted)
        sort, sorted_by = sort_of(entity, order)
        source = self._narrow(entity, where, [*show.read_from(entity, wanted), *sorted_by])
        statement = f"SELECT {items} FROM {source} s{condition}"
        if sort:
            statement += f" ORDER BY {', '.join(sort)}"
        if limit is not None:
            statement += f" LIMIT {int(limit)}"
        if offset:
            statement += f" OFFSET {int(offset)}"
        return statement, params

    def _read_few(
        self,
        entity: Entity,
        wanted: Sequence[Column | Derived],
        where: Sequence[Filter],
        order: Sequence[str],
        limit: int,
        offset: int,
    ) -> list[tuple[Any, ...]]:
        """
        Return a few rows out of millions.

        Sorting wide rows to keep a hundred of them reads every column of all. The first query therefore reads only the
        keys, by the columns that are asked and sorted for. Then only the named rows are read whole. They are put in
        order here: the engine takes longer to plan to sort them.
        """
        table = self._find_numbered(entity)
        key = (_ROW,) if table else entity.key
        # a column that is the same in all needs no sorting, and the engine skips most rows when it sorts by one column
        same = {condition.column for condition in where if condition.op == "="}
        # numbers also settle the order of rows of one time, for which the ids of all would be read
        sort, sorted_by = sort_of(entity, order, besides={*entity.key, *same} if entity.moments else same)
        order_by = ", ".join(dict.fromkeys([*sort, *key]))
        condition, params = condition_of(entity, where)
        settled = SETTLED if self.at_ms is not None and entity.moments else "true"
        rows = self.run(
            f"SELECT {settled}, {', '.join(key)} FROM {self._narrow(entity, where, [*key, *sorted_by])} s{condition} "
            f"ORDER BY {order_by} LIMIT {int(limit)} OFFSET {int(offset)}",
            params,
        )
        if not rows:
            return []
        names = [*dict.fromkeys([*show.read_from(entity, wanted), *key])]
        if table:
            chosen = self._rewind(
                entity, _by_number(table, [row for _, row in rows]), names, all(row[0] for row in rows)
            )
        else:
            kinds = [entity.column(name).type for name in key]
            first = ", ".join({literal_of(kinds[0], row[1]) for row in rows})
            tuples = ", ".join(f"({', '.join(map(literal_of, kinds, row[1:]))})" for row in rows)
            # the first term is one that the engine looks at before it reads the other columns
            named = f"{quote(key[0])} IN ({first}) AND ({', '.join(key)}) IN ({tuples})"
            source = self._select_last(entity, names) if entity.moments else self._select_base(entity, names)
            chosen = self._rewind(entity, f"(SELECT * FROM {source} WHERE {named})", names)
        items = ", ".join([*(f"{show.public(c)} AS {quote(c.name)}" for c in wanted), *(f"s.{name}" for name in key)])
        records = self.run(f"SELECT {items} FROM {chosen} s")
        place = {row[1:]: number for number, row in enumerate(rows)}
        width = len(wanted)
        return [row[:width] for row in sorted(records, key=lambda row: place[row[width:]])]

    def _narrow(self, entity: Entity, where: Sequence[Filter], names: Iterable[str]) -> str:
        """
        Return the relation of an entity's states, with at least these stored columns and those of the conditions. If a
        condition asks for an id and an index has it, only the states of that id are in it.
        """
        read = show.read_from(entity, [find(entity, condition.column) for condition in where])
        names = [*dict.fromkeys([*names, *read])]
        if entity.view or (self.at_ms is not None and not entity.moments):
            return self.source(entity, names)
        table = self._find_numbered(entity)
        if not table:
            return self._rewind(entity, self._select_last(entity, names), names)
        for condition in ids_of(entity, where):
            # alone: with any other condition beside it, the engine does not look into its index
            term, params = condition_of(entity, [condition])
            settled = "true"
            if entity.moments and self._moment is not None:
                settled = f"coalesce({is_settled(entity.moments, self._moment)}, false)"
            records = self.run(f"SELECT rowid, {settled} FROM {table}{term}", params)
            return self._rewind(
                entity, _by_number(table, [row for row, _ in records]), names, all(over for _, over in records)
            )
        return self._rewind(entity, f"(SELECT rowid AS {_ROW}, * FROM {table})", names)

    def _find_numbered(self, entity: Entity) -> str | None:
        """Return the table of last states from which those of the moment follow, and whose rows have numbers."""
        return self._find_table(entity) if self.at_ms is None or entity.moments else None

    def _rewind(self, entity: Entity, source: str, names: Sequence[str], settled: bool = False) -> str:
        """
        Return last states as they were at the snapshot's moment, with these stored columns at least.

        Args:
            entity: The entity of the states.
            source: Their relation.
            names: The columns.
            settled: Whether each state is known to be as it was at last. Then nothing is worked out.
        """
        if self._moment is None or settled or not entity.moments:
            return source
        once = not self._states.is_sealed(self.session)
        return f"({at_times(entity, entity.moments, source, self._moment, names, once=once)})"

    @_or_of_files
    def count(self, noun: str, where: Sequence[Filter] = ()) -> int:
        """Return how many states there are."""
        entity = entity_of(noun)
        asked = (self._find_table(entity), self._moment, *where)
        if self._counts is not None and asked in self._counts:
            return self._counts[asked]
        condition, params = condition_of(entity, where)
        source, counted = self._select_counted(entity, where, ())
        [(count,)] = self.run(f"SELECT {counted} FROM {source} s{condition}", params)
        if self._counts is not None and asked[0]:
            self._counts[asked] = int(count)
        return int(count)

    @_or_of_files
    def group(
        self, noun: str, by: Sequence[str], where: Sequence[Filter] = (), *, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """
        Return how many states there are of each combination of these columns, as ``count``, and at most `limit` of
        them.
        """
        entity = entity_of(noun)
        condition, params = condition_of(entity, where)
        wanted = [find(entity, name) for name in by]
        raw = ", ".join(f"{show.raw(c)} AS {quote(c.name)}" for c in wanted)
        source, counted = self._select_counted(entity, where, show.read_from(entity, wanted))
        inner = f"SELECT {raw}, {counted} AS n FROM {source} s{condition} GROUP BY ALL"
        # what was raw is shown only now, once a group
        items = ", ".join(f"{show.public(Column(c.name, c.type, '', 'max', c.doc))} AS {quote(c.name)}" for c in wanted)
        bound = "" if limit is None else f" LIMIT {int(limit)}"
        with self._states.asking(self.session):
            records = self._engine.query(f"SELECT {items}, n FROM ({inner}) ORDER BY ALL{bound}", params)
        return [dict(zip((*by, "count"), row, strict=True)) for row in records.rows]

    def _select_counted(self, entity: Entity, where: Sequence[Filter], names: Iterable[str]) -> tuple[str, str]:
        """
        Return the relation by whose rows states are counted, with these stored columns and those of the conditions, and
        the aggregate that counts them.
        """
        read = show.read_from(entity, [find(entity, condition.column) for condition in where])
        names = [*dict.fromkeys([*names, *read])]
        table, tally, by = self._find_table(entity), self._find_tally(entity), entity.moments
        if not table or not tally or not by or not set(by.tallied).issuperset(names):
            return self._narrow(entity, where, names), "count(*)"
        counted = f"coalesce(sum({TALLY}), 0)::BIGINT"
        if self._moment is None:
            return tally, counted
        past = f"FROM {tally} WHERE {UNTIL} <= {self._moment.last_ns}"
        [(until,)] = self.run(f"SELECT max({UNTIL}) {past}")
        later = f" WHERE {quote(by.latest)} > {until}" if until is not None else ""
        rest = self._rewind(entity, f"(SELECT * FROM {table}{later})", names)
        items = "".join(f"{quote(name)}, " for name in names)
        return f"(SELECT {items}{TALLY} {past} UNION ALL SELECT {items}1 FROM {rest})", counted

    def relation(self, noun: str, columns: Sequence[str], where: Sequence[Filter] = ()) -> tuple[str, list[Any]]:
        """Return the relation, with its parameters, of these columns as they are kept: ids as bytes, JSON as text."""
        entity = entity_of(noun)
        condition, params = condition_of(entity, where)
        wanted = [find(entity, name) for name in columns]
        items = ", ".join(f"{show.raw(c)} AS {quote(c.name)}" for c in wanted)
        source = self._narrow(entity, where, show.read_from(entity, wanted))
        return f"(SELECT {items} FROM {source} s{condition})", params

    def table_of(self, noun: str) -> str | None:
        """Return the table of an entity's last states, as they are stored, or None where the session has none."""
        return self._find_table(entity_of(noun))

    def rollup(self, name: str, noun: str = "task", *, merge: bool = True) -> str | None:
        """
        Return the relation of what states add up to, for `run` and the like: it answers in milliseconds for millions.

        `raytrail.fold.rollup.ROLLUPS` has the columns of each.

        Args:
            name: The rollup, such as ``functions``.
            noun: The entity.
            merge: Whether each row is one of a kind. Whoever adds them up anyway is answered sooner without.

        Returns:
            None where there is no table of it: of a session that lives, or that an older version sealed. Then
            `rolled_up` makes the same rows of the states.
        """
        entity = entity_of(noun)
        table = self.table(name, ROLLUPS[name].columns, noun)
        if table is None or self._moment is None or entity.moments is None:
            return table
        names = read_of(entity)
        settled = f"coalesce({is_settled(entity.moments, self._moment)}, false)"
        later = f"(SELECT * FROM {self._find_table(entity)} WHERE NOT {settled})"
        then = self._rewind(entity, later, names)
        return f"({at_moment(entity, name, table, later, then, self._moment.last_ns, merge=merge)})"

    def table(self, name: str, columns: Iterable[str], noun: str = "task") -> str | None:
        """
        Return a table that was made of an entity's last states when the session was sealed.

        Args:
            name: Its name, after the entity's: a rollup, or one of `raytrail.fold.slices.COLUMNS`.
            columns: The columns that it must have.
            noun: The entity.

        Returns:
            None where there is none.
        """
        return self._states.table(self.session, rollup_name(entity_of(noun), name), columns) if self._attach else None

    def rolled_up(self, name: str, noun: str = "task") -> str:
        """Return the relation of what states add up to: that which `rollup` returns, else the states are summed."""
        if relation := self.rollup(name, noun):
            return relation
        entity = entity_of(noun)
        names = read_of(entity)
        columns = ", ".join(map(quote, names))
        return (
            f"(WITH summed AS MATERIALIZED (SELECT {columns} FROM {self._select_base(entity, names)}) "
            f"SELECT * FROM ({rollup(entity, name, 'summed')}))"
        )

    @contextmanager
    def steps(self) -> Iterator[Run]:
        """Give what runs statements over such relations, each seeing the temporary tables of those before it."""
        with self._states.asking(self.session), self._engine.steps() as run:
            yield run

    def run(self, statement: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement over such a relation."""
        with self._states.asking(self.session):
            return self._engine.run(statement, params)

    def stream(self, statement: str, params: Sequence[Any], rows: int) -> Iterator[list[tuple[Any, ...]]]:
        """Run a statement over such a relation, and yield its rows, so many at a time, as they are found."""
        with self._states.asking(self.session):
            yield from self._engine.stream(statement, params, rows)

    def read_once(self, noun: str) -> bool:
        """Return whether states are worked out anew each time they are read, rather than kept in a table."""
        return self._find_table(entity_of(noun)) is None

    @_or_of_files
    def query(self, statement: str, params: Sequence[Any] = ()) -> Rows:
        """
        Run a SELECT over views named after the entities, each with ``session`` before its columns, ids as hex text.

        Raises:
            UnreadableError: The statement is wrong.
        """
        # a view that is not asked need not be planned
        named = set(_WORD.findall(statement.lower()))
        with self._states.asking(self.session):
            return self._engine.query(self._over_views(statement, named), params)

    def failures(self) -> str:
        """Return the relation of what failed until the moment, with the columns of `raytrail.fold.failures`."""
        table = self._find_failures()
        if table is None:
            return f"({self._over_views(failures.failures(), failures.READ, ours=True)})"
        if self.at_ms is None:
            return table
        until = f"<= {self.at_ms}"
        return (
            f"(SELECT * REPLACE (counted AND coalesce(at_ms {until}, false) AS counted, "
            f"CASE WHEN recovered_ms {until} THEN recovered_ms END AS recovered_ms) FROM {table})"
        )

    @property
    def failures_kept(self) -> bool:
        """Whether what failed is kept in a table, rather than worked out each time that `failures` is read."""
        return self._find_failures() is not None

    def _find_failures(self) -> str | None:
        names = [column.name for column in failures.COLUMNS]
        return self._states.table(self.session, failures.TABLE, names) if self._attach else None

    def _over_views(self, statement: str, named: Collection[str], *, ours: bool = False) -> str:
        """Return a SELECT over views of these entities; `ours`: one that names each column that it reads."""

        def view(entity: Entity) -> str:
            wanted = show.columns_in(entity, statement) if ours else shown(entity)
            source = self.source(entity, show.read_from(entity, wanted))
            select = show.view(entity, f"{source} s", [column.name for column in wanted])
            return f"{quote(entity.name)} AS (SELECT {literal(self.session)} AS session, * FROM ({select}))"

        views = ", ".join(view(entity) for entity in installed().values() if entity.name in named)
        return f"{'WITH ' if views else ''}{views} SELECT * FROM ({statement.rstrip().rstrip(';')}\n)"


def _by_number(table: str, rows: Sequence[int]) -> str:
    """Return the relation of these rows of a table, by their numbers."""
    if not rows:
        return f"(SELECT rowid AS {_ROW}, * FROM {table} LIMIT 0)"
    # a join opens the vectors that hold them. IN opens the row groups, and takes ten times longer
    numbers = ", ".join(f"({row})" for row in rows)
    return f"(SELECT t.rowid AS {_ROW}, t.* FROM (VALUES {numbers}) n({_ROW}) JOIN {table} t ON t.rowid = n.{_ROW})"
