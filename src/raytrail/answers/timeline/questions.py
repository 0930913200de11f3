"""The questions about a window of time: its timeline, and its statistics."""

from __future__ import annotations

from typing import Any

from raytrail.answers.scope import Scope
from raytrail.answers.timeline.bins import draw_bins, sum_up
from raytrail.answers.timeline.relations import WAITS, name_calls, open_tables
from raytrail.answers.timeline.rows import choose_rows
from raytrail.answers.timeline.slices import read_slices
from raytrail.answers.timeline.sql import attempts_sql, functions_sql
from raytrail.answers.timeline.statistics import add_up
from raytrail.answers.timeline.structs import Selection, Timeline
from raytrail.answers.timeline.window import EVERYTHING, Chosen, find_window
from raytrail.errors import ConfigError
from raytrail.fold import slices as drawn
from raytrail.fold.literals import quote

MOST_FUNCTIONS = 40
"""Most functions of the statistics of a selection."""
MOST_PIXELS = 4_000
"""The widest that a row can be asked for."""
WIDTH = 1_000
"""How wide a row is where nobody says."""


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
    with open_tables(scope) as tables:
        window = find_window(tables, chosen, from_ms, to_ms)
        nodes, rows, rows_in_all, by = choose_rows(scope, tables, window)
        sums = sum_up(tables, window, rows, width)
        bins = draw_bins(sums, window, len(rows.label), by) if sums else None
        slices = None if bins else read_slices(tables, window)
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
            functions=name_calls(tables, numbers),
            waits=WAITS,
            attempts=sums.attempts if sums else len(slices[0].row) if slices else 0,
            failed=sum(cell[5] for cell in sums.cells) if sums else len(slices[0].failed) if slices else 0,
            bins=bins[0] if bins else None,
            slices=slices[0] if slices else None,
            sql=attempts_sql(scope, window),
        )


def selection(
    scope: Scope, *, chosen: Chosen = EVERYTHING, from_ms: int | None = None, to_ms: int | None = None
) -> Selection:
    """
    Return statistics of what ran in a window of time.

    The arguments and errors are those of `timeline`.
    """
    with open_tables(scope) as tables:
        window = find_window(tables, chosen, from_ms, to_ms)
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
        names = name_calls(tables, shown)
        capacity_ns = (window.end_ns - window.begin_ns) * max(int(workers), 1)
        return Selection(
            from_ms=window.from_ms,
            to_ms=window.to_ms,
            workers=workers,
            total=add_up("", groups, capacity_ns),
            functions=tuple(add_up(name, by_call[call], capacity_ns) for call, name in zip(shown, names, strict=True)),
            functions_in_all=len(calls),
            sql=functions_sql(scope, window),
        )
