"""
A timeline: which process worked on what from when to when, in a window of time.

Of few attempts each is a slice. Of many, each row is cut into steps of time, as many as there are pixels to show them,
and says how busy it was in each, with what, and whether anything failed. Either way an answer has at most 100 kB, since
its columns are arrays, and a step of a row is two characters.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import msgspec

from raytrail.answers.scope import Scope
from raytrail.entities import MOST_SECONDS, Work, entity
from raytrail.errors import ConfigError, NotFoundError
from raytrail.fold import slices as drawn
from raytrail.fold.literals import literal, quote
from raytrail.fold.rollup import duration_of, read_of
from raytrail.store import Run, Snapshot

MOST_SLICES = 1_200
"""Up to so many attempts are shown one by one."""
MOST_ROWS = 200
"""Most rows of an answer."""
MOST_CELLS = 34_000
"""Most steps of all rows of an answer: each is two characters."""
MOST_FUNCTIONS = 40
"""Most functions of the statistics of a selection."""
MOST_PIXELS = 4_000
"""The widest that a row can be asked for."""
WIDTH = 1_000
"""How wide a row is where nobody says."""
LEAST_BINS = 256
"""Sums that were made beforehand are shown where the window has so many of their steps."""
LEAST_MS = 1
"""The shortest window."""
NS = 1_000_000
"""Nanoseconds in a millisecond."""
CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
"""The 64 values that a character stands for, in order."""
LEVELS = 31
"""How many degrees of busy there are, besides not at all."""
HALF = 16
"""Digits of a task's id that are its own. The rest says its actor and its job."""

TASK = entity("task")


def _work() -> Work:
    assert TASK.work is not None
    return TASK.work


WORK = _work()
WAITS = tuple(name for name, _ in WORK.waits)
"""What an attempt can wait for."""


class TimelineNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node that rows are of."""

    node_id: str
    """Its id. Empty where no event tells it, as of what failed before it ran."""
    address: str
    """Its address, where that is known."""


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of a timeline, from above to below. Each field has a value for each of them."""

    node: tuple[int, ...]
    """The node, by its number in `Timeline.nodes`."""
    worker_id: tuple[str, ...]
    """The worker. Empty where the row is a whole node."""
    pid: tuple[int | None, ...]
    """The worker's process."""
    actor_id: tuple[str, ...]
    """The actor that lives in the worker, if any."""
    label: tuple[str, ...]
    """What the row is, in few words."""
    attempts: tuple[int, ...]
    """How many attempts were there, in the whole session."""


class Bins(msgspec.Struct, frozen=True, kw_only=True):
    """
    How busy each row was, by steps of time.

    A text has a character for each step, which stands for a number from 0 to 63: 0-9, A-Z, a-z, - and _.
    """

    start_us: float
    """When the first step begins, in microseconds after the window begins. It may be before it."""
    bin_us: float
    """How long a step is, in microseconds."""
    count: int
    """How many steps there are."""
    busy: tuple[str, ...]
    """
    A text for each row: how busy it was, from 0, not at all, to 31; 32 more where something failed in that step. The
    square of it is in proportion to how many ran, so that little can be told from nothing.
    """
    full: tuple[float, ...]
    """For each row, how many attempts ran on average in a step that is as busy as 31. It is one for all nodes."""
    function: tuple[str, ...]
    """A text for each row: the number in `Timeline.functions` of the function that took most of the step."""


class Slices(msgspec.Struct, frozen=True, kw_only=True):
    """The attempts, one by one, in the order of rows and times. Each field has a value for each of them."""

    row: tuple[int, ...]
    """The row, by its number in `Timeline.rows`."""
    function: tuple[int, ...]
    """The function, by its number in `Timeline.functions`."""
    start_us: tuple[int, ...]
    """When it began to run, in microseconds after the window begins. Below 0 it had begun before."""
    run_us: tuple[int, ...]
    """How long it ran, in microseconds. -1 where it did not end: it is open."""
    waited_ms: tuple[tuple[int, ...], ...]
    """How long it waited before, in milliseconds, for each of `Timeline.waits`. Empty where none waited for it."""
    failed: tuple[int, ...]
    """The numbers of those that failed, among the slices."""
    error: tuple[str, ...]
    """The error type of each of these."""
    attempt: tuple[int, ...]
    """Which attempt of the task it was, from 0."""
    task: tuple[str, ...]
    """The first half of the task's id in hex, or all of it."""
    task_end: tuple[int, ...]
    """The rest of the id, by its number in `task_ends`."""
    task_ends: tuple[str, ...]
    """The ends of ids: the actor and the job, which many tasks have in common."""


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """Which process worked on what, in a window of time."""

    job: str
    """The driver job that alone is shown. Empty: all."""
    node: str
    """The node, likewise."""
    actor: str
    """The actor, likewise."""
    worker: str
    """The worker, likewise."""
    from_ms: int
    """When the window begins, in milliseconds since 1970."""
    to_ms: int
    """When it ends."""
    first_ms: int
    """When the first attempt began, of all that are asked for."""
    last_ms: int
    """When the last ended."""
    at_ms: int | None
    """The moment that is shown, in milliseconds since 1970: nothing later is. Null at last, or now."""
    by: Literal["worker", "node"]
    """Whether a row is a worker, or a node where there are too many workers."""
    nodes: tuple[TimelineNode, ...]
    rows: Rows
    rows_in_all: int
    """How many rows there would be. Those of the window with most attempts are shown."""
    functions: tuple[str, ...]
    """The names of functions that the steps or slices refer to. The last one may stand for all others."""
    waits: tuple[str, ...]
    """What an attempt can wait for: its arguments, a node, room and its arguments in the object store, a worker."""
    attempts: int
    """How many attempts ran in the window: of steps, how many began in it."""
    failed: int
    """How many of them failed in it."""
    bins: Bins | None
    """The steps, where there are too many attempts to show each."""
    slices: Slices | None
    """The attempts, where they are few."""
    sql: str
    """A query with the same attempts."""


class FunctionSpan(msgspec.Struct, frozen=True, kw_only=True):
    """What the attempts of a function in a window add up to."""

    function: str
    """The function, or method of a class. Empty: all of them."""
    attempts: int
    """How many of them ran in the window."""
    failed: int
    """How many of these failed, whenever."""
    p50_ms: float | None
    """Half of them ran no longer, in milliseconds, within 2 %. Null where none ended."""
    p95_ms: float | None
    """95 % ran no longer."""
    p99_ms: float | None
    """99 % ran no longer."""
    running_ms: float
    """How long they ran in the window, all together."""
    busy_share: float
    """The share of the window, on all workers that worked in it, that they took."""
    arguments_ms: float
    """How long one waited on average for its arguments to be made."""
    node_ms: float
    """How long for a node to be assigned."""
    object_store_ms: float
    """How long for room in the object store, and for its arguments to come there."""
    worker_ms: float
    """How long for the worker it was sent to."""


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of what ran in a window of a timeline."""

    from_ms: int
    """When the window begins, in milliseconds since 1970."""
    to_ms: int
    """When it ends."""
    workers: int
    """How many workers worked in it."""
    total: FunctionSpan
    """All functions together."""
    functions: tuple[FunctionSpan, ...]
    """Each function, by how long it ran in the window."""
    functions_in_all: int
    """How many functions there are. The first of them are shown."""
    sql: str
    """A query with the same attempts, by function."""


class Chosen(NamedTuple):
    """What of a session is asked for. Ids are hex; empty means all."""

    job: str = ""
    node: str = ""
    actor: str = ""
    worker: str = ""

    def condition(self) -> str:
        """
        Return the condition of the lanes that are asked for.

        Raises:
            ConfigError: One is no id.
        """
        return " AND ".join(f"{name}_id = {_blob(name, text)}" for name, text in self._given()) or "true"

    def of_tasks(self) -> str:
        """Return the same of the tasks, in a query of `raytrail sql`, with an AND before each condition."""
        return "".join(f" AND {name}_id = {literal(text.lower())}" for name, text in self._given())

    def __str__(self) -> str:
        return " and ".join(f"{name} {text!r}" for name, text in self._given())

    def _given(self) -> list[tuple[str, str]]:
        return [(name, text) for name, text in self._asdict().items() if text]


EVERYTHING = Chosen()


def _blob(name: str, text: str) -> str:
    try:
        return f"unhex('{bytes.fromhex(text).hex()}')"
    except ValueError:
        raise ConfigError(f"{name} {text!r} is no id; give it in hex, as `raytrail list {name}s` shows it") from None


class _Tables(NamedTuple):
    """The relations that a timeline is drawn of, at the moment that is shown."""

    run: Run
    states: str
    """The states that slices have the row numbers of."""
    calls: str
    lanes: str
    slices: str
    levels: Sequence[tuple[int, int, int]]
    """Of each level of sums that were made beforehand: its number, when it begins, and how long its steps are."""
    cells: str
    now_ns: int
    """Up to when what is open has run."""


class _Window(NamedTuple):
    """A window of a session, of what is asked for."""

    chosen: Chosen
    from_ms: int
    to_ms: int
    first_ms: int
    last_ms: int

    @property
    def begin_ns(self) -> int:
        """When it begins."""
        return self.from_ms * NS

    @property
    def end_ns(self) -> int:
        """When it ends."""
        return self.to_ms * NS

    def overlaps(self, tables: _Tables) -> str:
        """Return the condition of the slices that have a time in it. What is open has run until now."""
        return f"began_ns < {self.end_ns} AND coalesce(ended_ns, {tables.now_ns}) >= {self.begin_ns}"


class _Sums(NamedTuple):
    """How busy rows are by steps, as read."""

    cells: Sequence[tuple[int, int, int, int, int, int]]
    """Of a row and a step: its function, busy time, how many began and how many failed."""
    begin_ns: int
    bin_ns: int
    bins: int

    @property
    def attempts(self) -> int:
        """How many attempts began."""
        return sum(cell[4] for cell in self.cells)


def timeline(
    scope: Scope,
    *,
    chosen: Chosen = EVERYTHING,
    from_ms: int | None = None,
    to_ms: int | None = None,
    width: int = WIDTH,
) -> Timeline:
    """
    Return which process worked on what in a window of time.

    Args:
        scope: The session.
        chosen: What of it is asked for.
        from_ms: When the window begins, in milliseconds since 1970. None is when the first attempt began.
        to_ms: When it ends. None is when the last one ended.
        width: How many pixels wide it is shown.

    Raises:
        ConfigError: An id is none, or the window or its width is empty.
        NotFoundError: There is no attempt of what is asked for.
    """
    if not 1 <= width <= MOST_PIXELS:
        raise ConfigError(f"width {width}: it is from 1 to {MOST_PIXELS} pixels")
    with _tables(scope) as tables:
        window = _find_window(tables, chosen, from_ms, to_ms)
        nodes, rows, rows_in_all, by = _choose_rows(scope, tables, window)
        sums = _sum_up(tables, window, rows, width)
        bins = _draw_bins(sums, window, len(rows.label), by) if sums else None
        slices = None if bins else _read_slices(tables, window)
        numbers = bins[1] if bins else slices[1] if slices else []
        return Timeline(
            **chosen._asdict(),
            from_ms=window.from_ms,
            to_ms=window.to_ms,
            first_ms=window.first_ms,
            last_ms=window.last_ms,
            at_ms=scope.snapshot.at_ms,
            by=by,
            nodes=nodes,
            rows=rows,
            rows_in_all=rows_in_all,
            functions=_name_calls(tables, numbers),
            waits=WAITS,
            attempts=sums.attempts if sums else len(slices[0].row) if slices else 0,
            failed=sum(cell[5] for cell in sums.cells) if sums else len(slices[0].failed) if slices else 0,
            bins=bins[0] if bins else None,
            slices=slices[0] if slices else None,
            sql=_sql(scope, window),
        )


def selection(
    scope: Scope, *, chosen: Chosen = EVERYTHING, from_ms: int | None = None, to_ms: int | None = None
) -> Selection:
    """
    Return statistics of what ran in a window of time.

    The arguments and errors are those of `timeline`.
    """
    with _tables(scope) as tables:
        window = _find_window(tables, chosen, from_ms, to_ms)
        of_lanes = f"SELECT lane FROM {tables.lanes} WHERE {chosen.condition()}"
        only = f" AND lane IN ({of_lanes})" if any(chosen) else ""
        ran = f"least(coalesce(ended_ns, {tables.now_ns}), {window.end_ns}) - greatest(began_ns, {window.begin_ns})"
        waits = ", ".join(f"sum({quote(drawn.wait_column(name))})" for name in WAITS)
        groups = tables.run(
            f"SELECT call, CASE WHEN ended_ns IS NOT NULL THEN bucket END AS b, count(*), count(*) FILTER (failed), "
            f"sum(greatest({ran}, 0)), {waits} FROM {tables.slices} WHERE {window.overlaps(tables)}{only} GROUP BY ALL"
        )
        [(workers,)] = tables.run(
            f"SELECT count(DISTINCT (node_id, worker_id)) FROM {tables.lanes} WHERE worker_id IS NOT NULL AND "
            f"first_ns < {window.end_ns} AND coalesce(last_ns, {window.end_ns}) >= {window.begin_ns} "
            f"AND {chosen.condition()}"
        )
        by_call: dict[int, list[tuple[Any, ...]]] = {}
        for group in groups:
            by_call.setdefault(group[0], []).append(group)
        calls = sorted(by_call, key=lambda call: -sum(group[4] for group in by_call[call]))
        shown = calls[:MOST_FUNCTIONS]
        names = _name_calls(tables, shown)
        capacity_ns = (window.end_ns - window.begin_ns) * max(int(workers), 1)
        return Selection(
            from_ms=window.from_ms,
            to_ms=window.to_ms,
            workers=workers,
            total=_add_up("", groups, capacity_ns),
            functions=tuple(_add_up(name, by_call[call], capacity_ns) for call, name in zip(shown, names, strict=True)),
            functions_in_all=len(calls),
            sql=_sql_by_function(scope, window),
        )


# -- the relations


@contextmanager
def _tables(scope: Scope) -> Iterator[_Tables]:
    """Give the relations of a session: the tables that sealing has made, or else made now of its states."""
    snapshot = scope.snapshot
    names = {part: snapshot.table(part, columns) for part, columns in drawn.COLUMNS.items()}
    slices, lanes, calls, cells = (names[part] for part in (drawn.SLICES, drawn.LANES, drawn.CALLS, drawn.CELLS))
    states = snapshot.table_of(TASK.name)
    with snapshot.steps() as run:
        if slices and lanes and calls and states:
            levels = run(f"SELECT level, begin_ns, bin_ns FROM {names[drawn.LEVELS]} ORDER BY level") if cells else []
            tables = _Tables(run, states, calls, lanes, slices, [(a, b, c) for a, b, c in levels], cells or "", 0)
        else:
            tables = _make_tables(snapshot, run)
        if snapshot.at_ms is None:
            [(last_ns,)] = run(f"SELECT max(coalesce(last_ns, first_ns)) FROM {tables.lanes}")
            yield tables._replace(now_ns=max(last_ns or 0, (scope.cluster.last_event_ms or 0) * NS))
        else:
            now_ns = (snapshot.at_ms + 1) * NS - 1
            yield tables._replace(now_ns=now_ns, slices=drawn.then(tables.slices, now_ns))


def _make_tables(snapshot: Snapshot, run: Run) -> _Tables:
    columns = [*dict.fromkeys([*read_of(TASK), "task_id", "attempt_number", "_error_type"])]
    source = snapshot.source(TASK, columns)
    run(f"CREATE TEMP TABLE drawn_states AS SELECT {', '.join(map(quote, columns))} FROM {source} WHERE {WORK.counted}")
    run(f"CREATE TEMP TABLE drawn_calls AS {drawn.calls(WORK, 'drawn_states')}")
    run(f"CREATE TEMP TABLE drawn_lanes AS {drawn.lanes(WORK, 'drawn_states')}")
    select = drawn.slices(WORK, "drawn_states", of_calls="drawn_calls", of_lanes="drawn_lanes")
    run(f"CREATE TEMP TABLE drawn_slices AS {select}")
    return _Tables(run, "drawn_states", "drawn_calls", "drawn_lanes", "drawn_slices", [], "", 0)


def _find_window(tables: _Tables, chosen: Chosen, from_ms: int | None, to_ms: int | None) -> _Window:
    """
    Return the window, which is all of the time of what is chosen unless it is given.

    Raises:
        ConfigError: It is empty, or an id is none.
        NotFoundError: There is no attempt of what is chosen.
    """
    [(first, last, still_open)] = tables.run(
        f"SELECT min(first_ns), max(last_ns), bool_or(last_ns IS NULL) FROM {tables.lanes} WHERE {chosen.condition()}"
    )
    if first is None and any(chosen):
        raise NotFoundError(f"no attempt of {chosen} in this session; `raytrail list tasks` shows those that it has")
    first_ms = (tables.now_ns if first is None else first) // NS
    last_ns = tables.now_ns if still_open or last is None else min(last, tables.now_ns)
    last_ms = max(last_ns // NS, first_ms) + LEAST_MS
    begin_ms, end_ms = first_ms if from_ms is None else from_ms, last_ms if to_ms is None else to_ms
    if not 0 <= begin_ms <= end_ms - LEAST_MS or end_ms > MOST_SECONDS * 1000:
        raise ConfigError(f"window from {begin_ms} to {end_ms}: it is empty; its end comes after its beginning")
    return _Window(chosen, begin_ms, end_ms, first_ms, last_ms)


# -- rows


def _choose_rows(
    scope: Scope, tables: _Tables, window: _Window
) -> tuple[tuple[TimelineNode, ...], Rows, int, Literal["worker", "node"]]:
    """Return the rows of a window, and how many there would be. The table ``shown`` says the row of each lane."""
    chosen = f"FROM {tables.lanes} WHERE {window.chosen.condition()}"
    [(workers, nodes)] = tables.run(f"SELECT count(DISTINCT (node_id, worker_id)), count(DISTINCT (node_id,)) {chosen}")
    by_node = workers > MOST_ROWS and nodes > 1
    rows = nodes if by_node else workers
    if rows > MOST_ROWS:  # others come into view with their time
        chosen += f" AND first_ns < {window.end_ns} AND coalesce(last_ns, {window.end_ns}) >= {window.begin_ns}"
    process = "NULL::BLOB AS worker_id, NULL::BIGINT AS pid, NULL::BLOB AS actor_id"
    if not by_node:
        process = "worker_id, max(pid) AS pid, max(actor_id) AS actor_id"
    keys = "node_id" if by_node else "node_id, worker_id"
    tables.run(
        "CREATE TEMP TABLE shown_rows AS SELECT (row_number() OVER (ORDER BY node_first_ns, node_id, first_ns, "
        "worker_id) - 1)::INTEGER AS row, * FROM (SELECT *, min(first_ns) OVER (PARTITION BY node_id) AS node_first_ns "
        f"FROM (SELECT node_id, {process}, sum(attempts)::BIGINT AS attempts, min(first_ns) AS first_ns {chosen} "
        f"GROUP BY {keys} ORDER BY sum(attempts) DESC, min(first_ns) LIMIT {MOST_ROWS}))"
    )
    worker = "" if by_node else " AND l.worker_id IS NOT DISTINCT FROM r.worker_id"
    tables.run(
        f"CREATE TEMP TABLE shown AS SELECT lane, band, row FROM (SELECT * {chosen}) l JOIN shown_rows r "
        f"ON l.node_id IS NOT DISTINCT FROM r.node_id{worker}"
    )
    columns = "lower(hex(node_id)), lower(hex(worker_id)), pid, lower(hex(actor_id)), attempts"
    listed = tables.run(f"SELECT {columns} FROM shown_rows ORDER BY row")
    return *_label(scope, listed), rows, "node" if by_node else "worker"


def _label(scope: Scope, rows: Sequence[tuple[Any, ...]]) -> tuple[tuple[TimelineNode, ...], Rows]:
    """Return the rows with the nodes' addresses and the actors' classes."""
    # they have the same at any moment, and at last nothing has to be worked out
    last = scope.snapshot.at_last()
    found = last.query(f"SELECT node_id, node_ip FROM node WHERE {scope.of_session}").rows
    addresses = {node: address or "" for node, address in found}
    actors = ", ".join(literal(actor) for _, _, _, actor, _ in rows if actor)
    query = f"SELECT actor_id, class_name FROM actor WHERE {scope.of_session} AND actor_id IN ({actors})"
    classes = dict(last.query(query).rows) if actors else {}

    def label(node: str | None, worker: str | None, pid: int | None, actor: str | None) -> str:
        if not worker:
            return (addresses.get(node) or node[:8]) if node else "never ran"
        return f"{classes.get(actor) or 'actor' if actor else 'worker'} {pid or worker[:8]}"

    nodes = {node: number for number, node in enumerate(dict.fromkeys(node or "" for node, *_ in rows))}
    return tuple(TimelineNode(node_id=node, address=addresses.get(node, "")) for node in nodes), Rows(
        node=tuple(nodes[node or ""] for node, *_ in rows),
        worker_id=tuple(worker or "" for _, worker, *_ in rows),
        pid=tuple(pid for _, _, pid, *_ in rows),
        actor_id=tuple(actor or "" for _, _, _, actor, _ in rows),
        label=tuple(label(*row[:4]) for row in rows),
        attempts=tuple(row[4] for row in rows),
    )


# -- steps


def _sum_up(tables: _Tables, window: _Window, rows: Rows, width: int) -> _Sums | None:
    """Return how busy the rows were by steps, or None where their attempts are so few that each is shown."""
    if sum(rows.attempts) <= MOST_SLICES:
        return None
    bins = max(1, min(width, MOST_CELLS // max(len(rows.label), 1)))
    before = _sum_before(tables, window, bins)
    if before and before.attempts > MOST_SLICES:
        return before
    [(attempts,)] = tables.run(
        f"SELECT count(*) FROM {tables.slices} JOIN shown USING (lane) WHERE {window.overlaps(tables)}"
    )
    if attempts <= MOST_SLICES:
        return None
    bin_ns = -(-(window.end_ns - window.begin_ns) // bins)
    until = f"least(coalesce(ended_ns, {tables.now_ns}), {window.end_ns - 1})"
    of_rows = (
        f"(SELECT row, call, began_ns, {until} AS ended_ns, failed AND ended_ns < {window.end_ns} AS failed "
        f"FROM {tables.slices} JOIN shown USING (lane) WHERE {window.overlaps(tables)})"
    )
    changed = tables.run(drawn.changes(of_rows, window.begin_ns, bin_ns, bins))
    return _Sums([*_follow(changed, bin_ns, bins)], window.begin_ns, bin_ns, bins)


def _follow(
    changed: Sequence[tuple[int, ...]], bin_ns: int, bins: int
) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Yield each step of each row that is not idle, from what changes in them."""
    for number, (row, bin, call, call_ns, busy_ns, attempts, failed, grew) in enumerate(changed):
        if number == 0 or row != changed[number - 1][0]:
            through, last_call, last_ns = 0, call, 0
        through += grew
        # of one that goes on there is no change: it takes most of the step, unless others take more
        if call_ns >= last_ns or not through:
            last_call, last_ns = call, min(call_ns, through * bin_ns)
        yield row, bin, last_call if last_ns > call_ns else call, busy_ns + through * bin_ns, attempts, failed
        following = changed[number + 1] if number + 1 < len(changed) else None
        until = following[1] if following and following[0] == row else bins
        if through:
            for between in range(bin + 1, until):
                yield row, between, last_call, through * bin_ns, 0, 0


def _sum_before(tables: _Tables, window: _Window, bins: int) -> _Sums | None:
    """Return the same of sums that sealing has made, or None where they are too coarse, or not by such rows."""
    end_ns = min(window.end_ns, tables.now_ns)
    level = next((at for at in tables.levels if (end_ns - window.begin_ns) // at[2] >= min(bins, LEAST_BINS)), None)
    if level is None:
        return None
    [(parted,)] = tables.run(
        f"SELECT count(*) FROM (SELECT l.band FROM {tables.lanes} l LEFT JOIN shown USING (lane) GROUP BY l.band "
        "HAVING count(DISTINCT row) > 1 OR count(row) NOT IN (0, count(*)))"
    )
    if parted:
        return None
    number, begin_ns, step_ns = level
    first, last = max(0, (window.begin_ns - begin_ns) // step_ns), (end_ns - 1 - begin_ns) // step_ns
    times = max(1, -(-(last + 1 - first) // bins))
    summed = (
        f"SELECT row, (bin - {first}) // {times} AS bin, call, sum(call_ns) AS call_ns, sum(busy_ns) AS busy_ns, "
        "sum(attempts) AS attempts, sum(failed) AS failed "
        f"FROM {tables.cells} JOIN (SELECT DISTINCT band, row FROM shown) USING (band) "
        f"WHERE level = {number} AND bin BETWEEN {first} AND {last} GROUP BY ALL"
    )
    count = (last - first) // times + 1
    return _Sums(_largest(tables, summed), begin_ns + first * step_ns, step_ns * times, count)


def _largest(tables: _Tables, summed: str) -> Sequence[tuple[int, int, int, int, int, int]]:
    """Return each step of each row, with the function that took most of it."""
    return [
        (row, bin, call, busy, attempts, failed)
        for row, bin, call, busy, attempts, failed in tables.run(
            "SELECT row, bin, arg_max(call, call_ns), sum(busy_ns)::BIGINT, sum(attempts)::BIGINT, sum(failed)::BIGINT "
            f"FROM ({summed}) GROUP BY ALL"
        )
    ]


def _draw_bins(sums: _Sums, window: _Window, rows: int, by: Literal["worker", "node"]) -> tuple[Bins, list[int]]:
    """Return the steps as texts, and the numbers of the functions that they refer to."""
    counts = Counter(cell[2] for cell in sums.cells)
    calls = sorted(counts, key=lambda call: (-counts[call], call))[: len(CHARACTERS) - 1]
    place = {call: number for number, call in enumerate(calls)}
    full = [1.0] * rows
    for row, _, _, busy_ns, *_ in sums.cells:
        full[row] = max(full[row], busy_ns / sums.bin_ns)
    if by == "node":  # which are compared
        full = [max(full, default=1.0)] * rows
    busy = [bytearray(b"0" * sums.bins) for _ in range(rows)]
    function = [bytearray(b"0" * sums.bins) for _ in range(rows)]
    characters = CHARACTERS.encode()
    for row, bin, call, busy_ns, _, failed in sums.cells:
        level = round(LEVELS * math.sqrt(busy_ns / (full[row] * sums.bin_ns)))
        level = min(LEVELS, max(1, level))  # the least of it can be seen
        busy[row][bin] = characters[level + (LEVELS + 1 if failed else 0)]
        function[row][bin] = characters[place.get(call, len(CHARACTERS) - 1)]
    return Bins(
        start_us=(sums.begin_ns - window.begin_ns) / 1000,
        bin_us=sums.bin_ns / 1000,
        count=sums.bins,
        busy=tuple(text.decode() for text in busy),
        full=tuple(round(most, 3) for most in full),
        function=tuple(text.decode() for text in function),
    ), calls


# -- slices


def _read_slices(tables: _Tables, window: _Window) -> tuple[Slices, list[int]]:
    """Return the attempts in a window one by one, and the numbers of the functions that they refer to."""
    waits = ", ".join(f"{quote(drawn.wait_column(name))} // 1000" for name in WAITS)
    read = tables.run(
        f"SELECT row, (began_ns - {window.begin_ns}) // 1000 AS start_us, (ended_ns - began_ns) // 1000, call, failed, "
        f"source_row, {waits} FROM {tables.slices} JOIN shown USING (lane) WHERE {window.overlaps(tables)} "
        "ORDER BY row, start_us, source_row"
    )
    # a join opens the vectors that hold them, where IN would open the row groups
    rows = ", ".join(f"({row[5]})" for row in read)
    ids = tables.run(
        f"SELECT n.r, lower(hex(t.task_id)), t.attempt_number, t._error_type FROM (VALUES {rows}) n(r) "
        f"JOIN {tables.states} t ON t.rowid = n.r"
    ) if read else []  # fmt: skip
    known = {row: (task, attempt, error) for row, task, attempt, error in ids}
    named = [known[row[5]] for row in read]
    calls = [call for call, _ in Counter(row[3] for row in read).most_common()]
    place = {call: number for number, call in enumerate(calls)}
    ends = {end: number for number, end in enumerate(dict.fromkeys(task[HALF:] for task, _, _ in named))}
    failed = [number for number, row in enumerate(read) if row[4]]
    waits_of_all = (tuple(row[6 + number] or 0 for row in read) for number in range(len(WAITS)))
    return Slices(
        row=tuple(row[0] for row in read),
        function=tuple(place[row[3]] for row in read),
        start_us=tuple(row[1] for row in read),
        run_us=tuple(-1 if row[2] is None else max(row[2], 0) for row in read),
        waited_ms=tuple(waited if any(waited) else () for waited in waits_of_all),
        failed=tuple(failed),
        error=tuple(named[number][2] or "" for number in failed),
        attempt=tuple(attempt for _, attempt, _ in named),
        task=tuple(task[:HALF] for task, _, _ in named),
        task_end=tuple(ends[task[HALF:]] for task, _, _ in named),
        task_ends=tuple(ends),
    ), calls


def _name_calls(tables: _Tables, calls: Sequence[int]) -> tuple[str, ...]:
    """Return the functions that these numbers stand for."""
    if not calls:
        return ()
    names = dict(tables.run(f"SELECT call, function FROM {tables.calls}"))
    return tuple(names[call] or "" for call in calls)


# -- statistics


def _add_up(function: str, groups: Sequence[tuple[Any, ...]], capacity_ns: int) -> FunctionSpan:
    """Return what groups of attempts add up to, each of a bucket of durations."""
    attempts = sum(group[2] for group in groups)
    buckets = Counter[int]()
    for group in groups:
        if group[1] is not None:
            buckets[group[1]] += group[2]
    running_ns = sum(int(group[4]) for group in groups)
    waited_ms = [sum(int(group[5 + place] or 0) for group in groups) / 1000 / max(attempts, 1) for place in range(4)]
    p50_ms, p95_ms, p99_ms = (_percentile_ms(buckets, share) for share in (50, 95, 99))
    return FunctionSpan(
        function=function,
        attempts=attempts,
        failed=sum(group[3] for group in groups),
        p50_ms=p50_ms,
        p95_ms=p95_ms,
        p99_ms=p99_ms,
        running_ms=round(running_ns / NS, 3),
        busy_share=round(running_ns / capacity_ns, 4),
        arguments_ms=round(waited_ms[0], 3),
        node_ms=round(waited_ms[1], 3),
        object_store_ms=round(waited_ms[2], 3),
        worker_ms=round(waited_ms[3], 3),
    )


def _percentile_ms(buckets: Counter[int], percent: int) -> float | None:
    """Return the duration that so many of them do not exceed, in milliseconds."""
    rank, up_to = -(-percent * buckets.total() // 100), 0
    for bucket in sorted(buckets):
        up_to += buckets[bucket]
        if up_to >= rank:
            return round(duration_of(bucket) / NS, 3)
    return None


# -- the same as SQL


def _where(scope: Scope, window: _Window) -> str:
    return (
        f"WHERE {scope.of_session} AND {WORK.counted}{window.chosen.of_tasks()}\n"
        f"  AND coalesce(start_time_ms, end_time_ms) < {window.to_ms} "
        f"AND coalesce(end_time_ms, {window.to_ms}) >= {window.from_ms}"
    )


def _sql(scope: Scope, window: _Window) -> str:
    return (
        "SELECT node_id, worker_id, func_or_class_name, task_id, attempt_number, state, error_type, start_time_ms, "
        f"end_time_ms\nFROM task\n{_where(scope, window)}\nORDER BY node_id, worker_id, start_time_ms\nLIMIT 2000"
    )


def _sql_by_function(scope: Scope, window: _Window) -> str:
    return (
        "SELECT func_or_class_name, count(*) AS attempts, count(*) FILTER (state = 'FAILED') AS failed,\n"
        "  quantile_disc(end_time_ms - start_time_ms, [0.5, 0.95, 0.99]) AS p50_p95_p99_ms\n"
        f"FROM task\n{_where(scope, window)}\nGROUP BY ALL ORDER BY attempts DESC"
    )
