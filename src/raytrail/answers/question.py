"""What somebody asks all clusters in SQL, with what there is to ask, and the answer as a table or a chart."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import msgspec

from raytrail.entities import installed
from raytrail.errors import ConfigError
from raytrail.fold.layout import shown
from raytrail.store import Limits, Rows, Store
from raytrail.words import instead

SHOWN_ROWS = 1_000
"""Most rows of an answer on a page."""
MOST_ROWS = 100_000
"""Most rows of an answer that is downloaded."""
SECONDS = 30.0
"""How long a question on a page may take, if the settings do not say less."""
MOST_BYTES = 8_000
"""Most bytes of a question, as its address holds it."""
MOST_BARS = 100
"""Most bars of a chart."""


class ViewColumn(msgspec.Struct, frozen=True, kw_only=True):
    """A column of a view."""

    name: str
    type: str
    """``id`` (hex text), ``text``, ``int``, ``float``, ``bool`` or ``json``."""
    doc: str


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A view that a question may ask."""

    name: str
    doc: str
    columns: tuple[ViewColumn, ...]
    """The columns after ``cluster`` and ``session``, with which each begins."""


class Canned(msgspec.Struct, frozen=True, kw_only=True):
    """A question that is ready to be asked."""

    title: str
    q: str


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One value of a chart."""

    label: str
    value: float
    start: float
    """Where it begins in the chart's width, from 0 to 100."""
    width: float


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """A chart of two columns."""

    kind: Literal["bar", "line"]
    x: str
    """The column of its labels, or of the places of its points."""
    y: str
    """The column of its values."""
    bars: tuple[Bar, ...]
    """The bars, in the order of the rows."""
    points: tuple[tuple[float, float], ...]
    """The points of the line, each from 0 to 100 to the right and downwards."""
    first: str
    """What the left end of the line is."""
    last: str
    """What its right end is."""
    low: float
    """The least value."""
    high: float
    """The greatest value."""
    rows: int
    """How many rows are drawn. Those without a value are not."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A question in SQL with its answer."""

    q: str
    """The question. Empty where none is asked."""
    columns: tuple[str, ...]
    types: tuple[str, ...]
    """The engine's names of the columns' types."""
    rows: tuple[tuple[Any, ...], ...]
    more: bool
    """Whether the answer has more rows than these."""
    took_ms: float
    """How long it took."""
    plan: str
    """How the engine would answer, where that was asked for in place of the answer."""
    chart: Chart | None


class Editor(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to ask."""

    views: tuple[View, ...]
    canned: tuple[Canned, ...]


NOTHING = Answer(q="", columns=(), types=(), rows=(), more=False, took_ms=0.0, plan="", chart=None)


def ask(
    store: Store, q: str, *, rows: int = SHOWN_ROWS, explain: bool = False, chart: str = "", x: str = "", y: str = ""
) -> Answer:
    """
    Answer one SELECT over all clusters, as `raytrail sql` does.

    Args:
        store: The history.
        q: The question. Empty asks nothing.
        rows: The most rows to give.
        explain: Whether to say how the engine would answer, and not to answer.
        chart: ``bar`` or ``line`` draws the answer, too.
        x: The column of the chart's labels. Empty means the first.
        y: The column of its values. Empty means the first with numbers, after `x`.

    Raises:
        ConfigError: It is not one SELECT, asks for what is not there, or takes more than it may.
        StoreError: It cannot be worked out for what it meets.
    """
    if not q.strip():
        return NOTHING
    if (length := len(q.encode(errors="replace"))) > MOST_BYTES:
        raise ConfigError(
            f"SQL: the question has {length:,} bytes, and one on this page {MOST_BYTES:,} at most; shorten it, or ask "
            "it with `raytrail sql`"
        )
    began = time.perf_counter()
    limits = Limits(rows + 1, SECONDS)
    if explain:
        [(plan,)] = store.sql_apart(q, limits, explain=True).rows
        return msgspec.structs.replace(NOTHING, q=q, plan=plan, took_ms=_took_ms(began))
    answer = store.sql_apart(q, limits)
    return Answer(
        q=q,
        columns=answer.columns,
        types=answer.types,
        rows=tuple(answer.rows[:rows]),
        more=len(answer.rows) > rows,
        took_ms=_took_ms(began),
        plan="",
        chart=draw(answer, chart, x, y) if chart and answer.rows else None,
    )


def _took_ms(began: float) -> float:
    return (time.perf_counter() - began) * 1000


@cache
def editor() -> Editor:
    """Return the views with their columns, and questions that are ready to be asked."""
    views = [
        View(
            name=entity.name,
            doc=entity.doc,
            columns=tuple(ViewColumn(name=of.name, type=of.type, doc=of.doc) for of in shown(entity)),
        )
        for entity in sorted(installed().values(), key=lambda entity: entity.name)
    ]
    return Editor(views=tuple(views), canned=CANNED)


# -- charts


def draw(answer: Rows, kind: str, x: str = "", y: str = "") -> Chart:
    """
    Return the chart of two columns of an answer.

    Args:
        answer: The answer.
        kind: ``bar`` or ``line``.
        x: The column of its labels. Empty means the first.
        y: The column of its values. Empty means the first with numbers that is not `x`.

    Raises:
        ConfigError: There is no such column, it has no numbers, or there is no such chart.
    """
    if kind not in ("bar", "line"):
        raise ConfigError(f"chart {kind!r}{instead(kind, ('bar', 'line'), 'it is one of')}")
    labels = _place(answer, x, "x") if x else 0
    values = _place(answer, y, "y") if y else _first_numbers(answer, labels)
    known = [(row[labels], float(row[values])) for row in answer.rows[:SHOWN_ROWS] if _is_number(row[values])]
    if not known:
        raise ConfigError(f"chart: column {answer.columns[values]!r} has no numbers; choose another as y")
    if kind == "bar":
        known = known[:MOST_BARS]
    numbers = [value for _, value in known]
    return Chart(
        kind="bar" if kind == "bar" else "line",
        x=answer.columns[labels],
        y=answer.columns[values],
        bars=_bars(known) if kind == "bar" else (),
        points=_points(known) if kind == "line" else (),
        first=str(known[0][0]),
        last=str(known[-1][0]),
        low=min(numbers),
        high=max(numbers),
        rows=len(known),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _place(answer: Rows, name: str, of: str) -> int:
    if name not in answer.columns:
        raise ConfigError(f"chart: no column {name!r} for {of}{instead(name, answer.columns, 'there are')}")
    return answer.columns.index(name)


def _first_numbers(answer: Rows, labels: int) -> int:
    for place in range(len(answer.columns)):
        if place != labels and any(_is_number(row[place]) for row in answer.rows[:SHOWN_ROWS]):
            return place
    return labels


def _bars(known: Sequence[tuple[Any, float]]) -> tuple[Bar, ...]:
    low, high = min(0.0, *(value for _, value in known)), max(0.0, *(value for _, value in known))
    scale = 100 / (high - low) if high > low else 0.0
    return tuple(
        Bar(
            label="" if label is None else str(label),
            value=value,
            start=(min(value, 0.0) - low) * scale,
            width=abs(value) * scale,
        )
        for label, value in known
    )


def _points(known: Sequence[tuple[Any, float]]) -> tuple[tuple[float, float], ...]:
    """Return the points of a line. Labels that are numbers say where each is, others are as far from each other."""
    numeric = all(_is_number(label) for label, _ in known)
    places = [float(label) for label, _ in known] if numeric else [float(number) for number in range(len(known))]
    return tuple(zip(_spread(places), (100 - y for y in _spread([value for _, value in known])), strict=True))


def _spread(numbers: Sequence[float]) -> list[float]:
    low, high = min(numbers), max(numbers)
    return [(number - low) / (high - low) * 100 if high > low else 50.0 for number in numbers]


CANNED = (
    Canned(
        title="Tasks by state",
        q="SELECT state, count(*) AS tasks FROM task GROUP BY ALL ORDER BY ALL",
    ),
    Canned(
        title="Which functions fail, and how",
        q="SELECT func_or_class_name AS what, error_type, count(*) AS times FROM task WHERE state = 'FAILED' "
        "GROUP BY ALL ORDER BY times DESC, what",
    ),
    Canned(
        title="How long attempts wait, and run",
        q="SELECT func_or_class_name AS what, round(median(start_time_ms - creation_time_ms)) AS waits_ms, "
        "round(median(end_time_ms - start_time_ms)) AS runs_ms FROM task WHERE type = 'NORMAL_TASK' GROUP BY ALL "
        "ORDER BY what",
    ),
    Canned(
        title="Tasks with the actor that they ran on",
        q="SELECT t.name, a.name AS actor, a.state FROM task t JOIN actor a USING (session, actor_id) ORDER BY ALL",
    ),
    Canned(
        title="Tasks that no event ended",
        q="SELECT session, name, inferred FROM task WHERE inferred IS NOT NULL",
    ),
    Canned(
        title="Attempts that began in each second",
        q="SELECT to_timestamp(start_time_ms // 1000)::VARCHAR AS second, count(*) AS began FROM task "
        "WHERE start_time_ms IS NOT NULL GROUP BY ALL ORDER BY second LIMIT 1000",
    ),
)
"""Questions that are ready to be asked. docs/how-to/query-with-sql.md shows them."""
