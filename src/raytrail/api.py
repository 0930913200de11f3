"""
A history, and a stream of events, from Python.

    import raytrail

    with raytrail.open("/var/lib/raytrail/store") as history:
        cluster = history.cluster("latest")
        for task in cluster.tasks(state="FAILED", limit=10):
            print(task["name"], task["error_message"])
        frame = cluster.actors().polars()
        before = cluster.at(1_795_387_214_000).nodes(state="ALIVE")

    async for event in raytrail.subscribe("file:///var/lib/raytrail/events", types=["ACTOR"]):
        print(event["actor"]["state"])

All that is here stays as it is. A change is announced in CHANGELOG.md one release before. Errors are those of
`raytrail.errors`, all of them a `RaytrailError`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from raytrail.answers.diff import Diff, diff
from raytrail.answers.failures import SHOWN, FailureGroup, failures_of
from raytrail.answers.functions import FunctionRow, functions
from raytrail.answers.landing import EVERY, Listed, landing
from raytrail.answers.nodes import NodeRow, nodes
from raytrail.answers.run import Run, run_of
from raytrail.answers.scope import COUNTED, Scope
from raytrail.config import StoreConfig
from raytrail.entities import Column, Derived, Entity, installed
from raytrail.entities import entity as entity_of
from raytrail.errors import ConfigError
from raytrail.event import Unreadable
from raytrail.fold.layout import shown
from raytrail.fold.public import event_types, public_events
from raytrail.pubsub import connect
from raytrail.pubsub.groups import passing_group
from raytrail.store import Cluster as Figures
from raytrail.store import Filter, LedgerRow, Log, Snapshot, Store
from raytrail.store.filters import Op
from raytrail.table import Row, Table, of_answer, of_structs
from raytrail.words import instead

Condition: TypeAlias = tuple[str, Op, Any]
"""A column, an operator and a value, e.g. ``("start_time_ms", ">", 1_795_387_214_000)``."""

ALL_ROWS = 1_000_000
"""The most rows of a table that a question makes."""


def open(store: str | os.PathLike[str]) -> History:
    """
    Open a history, to read it. Others may write to it meanwhile.

    Args:
        store: Its directory: ``store.dir`` of the settings, which ``raytrail settings`` shows.

    Raises:
        NotFoundError: There is no history.
        StoreTooNew: A newer Raytrail wrote it.
        StoreError: It cannot be read.
    """
    return History(Store.open(Path(store), StoreConfig()))


async def subscribe(
    url: str, *, group: str = "", types: Collection[str] = (), from_start: bool = False
) -> AsyncGenerator[Row, None]:
    """
    Yield events as they are published, in the public form that ``raytrail schema`` describes.

    An event is acknowledged once the next chunk is asked for. After a crash, the events of one chunk may therefore come
    again.

    Args:
        url: The broker that the agents publish to.
        group: Goes on where this name left off. A new name begins with all that the broker holds. Without a name
            it is a new group each time.
        types: Only these event types, e.g. ``["TASK", "ACTOR"]``. None stands for all.
        from_start: Forget where the group left off.

    Raises:
        ConfigError: No backend takes the URL, or there is no such event type.
        PublishError: The broker does not let us in.
    """
    wanted = event_types(types)
    pubsub = connect(url)
    try:
        name = group or passing_group()
        async with aclosing(pubsub.subscribe(name, from_start=from_start)) as deliveries:
            async for delivery in deliveries:
                if not isinstance(delivery.chunk, Unreadable):
                    for event in public_events(delivery.chunk):
                        if not wanted or event["event_type"] in wanted:
                            yield event
                await delivery.ack()
    finally:
        await pubsub.aclose()


class History:
    """All clusters of a store. Close it, or use it in a ``with`` statement."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def close(self) -> None:
        """Let go of its files."""
        self._store.close()

    def __enter__(self) -> History:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def clusters(self) -> Table:
        """Return every session of every cluster, the newest first: its times, and how much there is of it."""
        return of_structs("clusters", Figures, self._store.clusters)

    def search(self, text: str = "", *, name: str | None = None, sort: str = "-began") -> Table:
        """
        Return the sessions in which all words of a text are found, with their jobs and how many tasks failed.

        Args:
            text: Parts of names of sessions, jobs, functions or classes, of commands, metadata or the last lines of
                errors, in any case. Quotes keep words together. Nothing finds every session.
            name: Only those of that cluster's name.
            sort: The figure to sort by, with ``-`` before it to begin with the largest: ``name``, ``began``,
                ``lasted``, ``tasks``, ``failed_tasks``, ...

        Raises:
            ConfigError: There is no such figure.
        """
        return of_structs(
            "clusters", Listed, lambda: landing(self._store, search=text, name=name, sort=sort, rows=EVERY).rows
        )

    def cluster(self, id: str = "latest") -> Cluster:
        """
        Return one session.

        Args:
            id: Its name, a part of it that no other has, its cluster's name, or ``latest``.

        Raises:
            NotFoundError: None is meant, or several are.
        """
        figures = self._store.find(id)
        return Cluster(self._store, figures, self._store.snapshot(figures.session))

    def diff(self, a: str = "", b: str = "latest") -> Diff:
        """
        Return what is different between two runs, as ``raytrail diff`` does. `raytrail.answers.diff` has the fields.

        Args:
            a: The run to compare with: ``<session>`` or ``<session>/<job>``. Empty means the run before `b` of the same
                name.
            b: The run that is asked about.

        Raises:
            ConfigError: One is a job, the other a whole session.
            NotFoundError: There is no such run.
        """
        return diff(self._store, a, b)

    def sql(self, statement: str) -> Table:
        """
        Answer one SELECT over all clusters, as ``raytrail sql`` does.

        Raises:
            ConfigError: It is not one SELECT, or asks for what is not there.
            StoreError: It cannot be worked out.
        """
        return of_answer(self._store.sql(statement))


class Cluster:
    """
    One session of a cluster, at one moment or at last.

    It has a method for each entity, named by its plural: ``tasks``, ``actors``, ``nodes``, ``jobs``, ``objects``,
    ``placement_groups``, ... Each takes what `rows` takes after the noun. ``dir(cluster)`` lists them.
    """

    def __init__(self, store: Store, figures: Figures, snapshot: Snapshot) -> None:
        self._store = store
        self._snapshot = snapshot
        self.figures = figures
        """Its times and numbers, at last."""

    @property
    def session(self) -> str:
        """Ray's name of its session."""
        return self.figures.session

    @property
    def at_ms(self) -> int | None:
        """The moment that is shown, in milliseconds since the epoch. None is its end, or now."""
        return self._snapshot.at_ms

    def at(self, moment: datetime | int | None) -> Cluster:
        """
        Return the cluster as it was at a moment.

        Args:
            moment: A time with a time zone, or in milliseconds since the epoch. None is its end, or now.

        Raises:
            ConfigError: The moment has no time zone.
        """
        return Cluster(self._store, self.figures, self._store.snapshot(self.session, _milliseconds(moment)))

    def rows(
        self,
        noun: str,
        *,
        columns: Sequence[str] | None = None,
        where: Sequence[Condition] = (),
        order: Sequence[str] = (),
        limit: int | None = None,
        every: bool = False,
        **equal: Any,
    ) -> Table:
        """
        Return the rows of an entity.

        Args:
            noun: The entity's name, singular or plural.
            columns: The columns, in this order. None means all.
            where: Conditions that all must hold.
            order: Columns to sort by, with ``-`` before one that descends.
            limit: The most rows. None means all.
            every: Whether to take in the rows that Ray's own list leaves out, which are drivers among tasks, and
                attempts of which only a part is known.
            equal: Columns with the value that each must have. Ids are hex, and names of states may be in any case.

        Raises:
            NotFoundError: There is no such entity.
            ConfigError: There is no such column, or no row can have that value.
        """
        entity = entity_of(noun)
        wanted = [column(entity, name) for name in columns] if columns is not None else list(shown(entity))
        names = [column.name for column in wanted]
        conditions = self._make_conditions(entity, where, equal, every=every)
        sort = ["-" * name.startswith("-") + column(entity, name.removeprefix("-")).name for name in order]

        def read(most: int | None) -> list[Row]:
            asked = [bound for bound in (most, limit) if bound is not None]
            least = min(asked, default=None)
            return self._snapshot.rows(entity.name, columns=names, where=conditions, order=sort, limit=least)

        def count() -> int:
            rows = self._snapshot.count(entity.name, conditions)
            return rows if limit is None else min(rows, limit)

        def stream() -> object:
            return self._snapshot.arrow_stream(entity.name, names, where=conditions, order=sort, limit=limit)

        return Table(entity.plural, names, read, count=count, stream=stream)

    def count(self, noun: str, *, where: Sequence[Condition] = (), every: bool = False, **equal: Any) -> int:
        """Return how many rows there are. The arguments and errors are those of `rows`."""
        entity = entity_of(noun)
        return self._snapshot.count(entity.name, self._make_conditions(entity, where, equal, every=every))

    def functions(self, *, job: str = "", order: str = "-running_total_ms") -> Table:
        """
        Return each function with how often it was called and failed, and how long it waited and ran.

        Args:
            job: A driver job's id, or a submission's. Empty means all.
            order: The column to sort by, with ``-`` before one that descends.

        Raises:
            ConfigError: There is no such column.
            NotFoundError: There is no such job.
        """

        def read() -> Sequence[FunctionRow]:
            return functions(self._scope, job=job, order=order, limit=ALL_ROWS).functions

        return of_structs("functions", FunctionRow, read)

    def node_report(self, *, job: str = "") -> Table:
        """
        Return each node with what ran on it, why it died, and what was lost with it. `nodes` gives their rows.

        Args:
            job: Count only the attempts of this job. Empty means all.

        Raises:
            NotFoundError: There is no such job.
        """
        return of_structs("nodes", NodeRow, lambda: nodes(self._scope, job=job, limit=ALL_ROWS).nodes)

    def failures(self, *, job: str = "", limit: int = SHOWN) -> Table:
        """
        Return what failed, grouped by what it has in common, the groups with the most failures first.

        Args:
            job: A job: its id, or that of its submission. Empty means all.
            limit: The most groups.

        Raises:
            NotFoundError: There is no such job.
            ConfigError: The limit is not from 1 to 500.
        """
        return of_structs(
            "groups of failures", FailureGroup, lambda: failures_of(self._scope, job=job, limit=limit).groups
        )

    def run(self, job: str = "") -> Run:
        """
        Return a job, or all of it, as a run: ``run.why.sentence`` says how it ended, and why.

        Args:
            job: A job: its id, or that of its submission. Empty means the whole session.

        Raises:
            NotFoundError: There is no such job.
        """
        return run_of(self._scope, job)

    def ledger(self) -> Table:
        """Return what of each event type was written, published, stored, missing, rejected and inferred."""
        return of_structs("event types", LedgerRow, lambda: self._store.ledger(self.session))

    def logs(self, glob: str = "**", *, node_id: str | None = None) -> list[LogFile]:
        """
        Return its logs.

        Args:
            glob: The pattern of their names. ``*`` stays within a directory, ``**`` is any.
            node_id: The node. None means all.
        """
        return [LogFile(self._store, self.session, log) for log in self._store.logs(self.session, node_id, glob)]

    def __getattr__(self, name: str) -> Callable[..., Table]:
        plurals = {entity.plural: entity for entity in installed().values()}
        if name.startswith("_") or name not in plurals:
            raise AttributeError(f"a cluster has no {name!r}{instead(name, sorted(plurals), 'there are')}")

        def rows(**asked: Any) -> Table:
            return self.rows(name, **asked)

        rows.__doc__ = f"{plurals[name].doc}\n\nThe arguments are those of `rows`."
        return rows

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(entity.plural for entity in installed().values())]

    def __repr__(self) -> str:
        moment = "" if self.at_ms is None else f" at {self.at_ms} ms"
        return f"<cluster {self.session}{moment}>"

    @property
    def _scope(self) -> Scope:
        return Scope(self._store, self.figures, self._snapshot)

    def _make_conditions(
        self, entity: Entity, where: Sequence[Condition], equal: Mapping[str, Any], *, every: bool
    ) -> list[Filter]:
        asked = [Filter(column(entity, name).name, op, value) for name, op, value in where]
        asked += [self._make_equal(column(entity, name), entity, value) for name, value in equal.items()]
        return [*(() if every else COUNTED.get(entity.name, ())), *asked]

    def _make_equal(self, column: Column | Derived, entity: Entity, value: Any) -> Filter:
        """Return the condition that a column has a value. A value of an enumeration may be in any case."""
        condition = Filter(column.name, "=", value)
        if not isinstance(value, str) or not column.values:
            return condition
        last = self._snapshot.at_last()
        return enumerated(column, condition, lambda condition: bool(last.count(entity.name, [condition])))


class LogFile:
    """One log of a cluster."""

    def __init__(self, store: Store, session: str, log: Log) -> None:
        self._store, self._session, self._log = store, session, log

    @property
    def name(self) -> str:
        """Its name in ``logs/``."""
        return self._log.name

    @property
    def node_id(self) -> str:
        """The node that wrote it."""
        return self._log.node_id

    @property
    def size(self) -> int:
        """Its length in bytes, as far as it is stored."""
        return self._log.size

    def pieces(self) -> Iterator[bytes]:
        """Yield it from its beginning, in pieces of 256 KB at most. A line says where bytes are missing."""
        return self._store.read_log(self._session, self._log)

    def text(self) -> str:
        """Return all of it. Bytes that are no UTF-8 are replaced."""
        return b"".join(self.pieces()).decode(errors="replace")

    def __repr__(self) -> str:
        return f"<log {self.name} of node {self.node_id}: {self.size:,} bytes>"


def column(entity: Entity, name: str) -> Column | Derived:
    """
    Return the column that is meant, in any case.

    Raises:
        ConfigError: There is none of that name.
    """
    every = {column.name: column for column in (*entity.columns, *entity.derived, *shown(entity))}
    if name.lower() in every:
        return every[name.lower()]
    names = sorted(column.name for column in shown(entity))
    raise ConfigError(f"{entity.name} has no column {name!r}{instead(name, names, 'it has')}")


def enumerated(column: Column | Derived, condition: Filter, is_there: Callable[[Filter], bool]) -> Filter:
    """
    Return a condition on an enumeration, by the name that is meant: in any case.

    Args:
        column: The column.
        condition: The condition.
        is_there: Tells whether any row is as a condition says. A newer Ray may have written a name that is not
            declared.

    Raises:
        ConfigError: There is no such name, and no row has it.
    """
    text = condition.value
    by_lower = {value.lower(): value for value in column.values}
    if text.lower() in by_lower:
        return condition._replace(value=by_lower[text.lower()], ignore_case=False)
    if is_there(condition._replace(op="=")):
        return condition
    raise ConfigError(f"filter on {column.name}: no row has {text!r}{instead(text, column.values, 'it is one of')}")


def _milliseconds(moment: datetime | int | None) -> int | None:
    if not isinstance(moment, datetime):
        return moment
    if moment.tzinfo is None:
        raise ConfigError(f"{moment!r} has no time zone; give e.g. datetime(2026, 11, 29, 8, tzinfo=timezone.utc)")
    return round(moment.timestamp() * 1000)
