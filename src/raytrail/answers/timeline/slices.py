"""The slices of a timeline: its attempts, one by one."""

from __future__ import annotations

from collections import Counter

from raytrail.answers.timeline.relations import WAITS, Tables
from raytrail.answers.timeline.structs import Slices
from raytrail.answers.timeline.window import Window
from raytrail.fold import slices as drawn
from raytrail.fold.literals import quote

HALF = 16
"""Digits of a task's id that are its own. The rest says its actor and its job."""


def read_slices(tables: Tables, window: Window) -> tuple[Slices, list[int]]:
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
