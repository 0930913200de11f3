"""The steps of a timeline: how busy each row was in each of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from raytrail.answers.timeline.relations import Tables
from raytrail.answers.timeline.structs import Bins, Rows
from raytrail.answers.timeline.window import Window
from raytrail.fold import slices as drawn

MOST_SLICES = 1_200
"""Up to so many attempts are shown one by one."""
MOST_CELLS = 34_000
"""Most steps of all rows of an answer: each is two characters."""
LEAST_BINS = 256
"""Sums that were made beforehand are shown where the window has so many of their steps."""
CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
"""The 64 values that a character stands for, in order."""
LEVELS = 31
"""How many degrees of busy there are, besides not at all."""


class Sums(NamedTuple):
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


def sum_up(tables: Tables, window: Window, rows: Rows, width: int) -> Sums | None:
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
    return Sums([*_follow(changed, bin_ns, bins)], window.begin_ns, bin_ns, bins)


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


def _sum_before(tables: Tables, window: Window, bins: int) -> Sums | None:
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
    return Sums(_largest(tables, summed), begin_ns + first * step_ns, step_ns * times, count)


def _largest(tables: Tables, summed: str) -> Sequence[tuple[int, int, int, int, int, int]]:
    """Return each step of each row, with the function that took most of it."""
    return [
        (row, bin, call, busy, attempts, failed)
        for row, bin, call, busy, attempts, failed in tables.run(
            "SELECT row, bin, arg_max(call, call_ns), sum(busy_ns)::BIGINT, sum(attempts)::BIGINT, sum(failed)::BIGINT "
            f"FROM ({summed}) GROUP BY ALL"
        )
    ]


def draw_bins(sums: Sums, window: Window, rows: int, by: Literal["worker", "node"]) -> tuple[Bins, list[int]]:
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
