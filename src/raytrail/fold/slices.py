"""
What a timeline is drawn of: which process worked on what from when to when.

Ten million attempts take too long to read as they are kept, so a sealed session has them once more in few narrow
columns, in the order in which they began, with numbers in place of ids. `CELLS` are these summed up by steps of time,
for windows in which millions of them are.
"""

from __future__ import annotations

from collections.abc import Sequence

from raytrail.entities import Work
from raytrail.fold.literals import quote
from raytrail.fold.rollup import bucket, least, running_ns

CALLS, LANES, SLICES, LEVELS, CELLS = "calls", "lanes", "slices", "levels", "cells"
"""
The tables of a sealed session, each after the name of the entity.

calls   ``call``, a number, and the ``function`` that it stands for
lanes   ``lane``, a number, and the ``node_id``, ``worker_id``, ``job_id`` and ``actor_id`` that it stands for, with the
        worker's ``pid``, how many ``attempts`` were there, ``first_ns`` and ``last_ns``, null where one is open,
        and the ``band`` of lanes that are summed up together
slices  one row an attempt that began or ended
levels  the levels of the cells: when the first ``bin`` begins, and how long each is
cells   the slices by ``level``, ``band`` and ``bin``, with the ``call`` that took most of it, and for how long
"""

COLUMNS = {
    CALLS: ("call", "function"),
    LANES: ("lane", "band", "node_id", "worker_id", "job_id", "actor_id", "pid", "attempts", "first_ns", "last_ns"),
    SLICES: ("began_ns", "ended_ns", "lane", "call", "failed", "bucket", "source_row"),
    LEVELS: ("level", "begin_ns", "bin_ns"),
    CELLS: ("level", "band", "bin", "call", "call_ns", "busy_ns", "attempts", "failed"),
}

LEVEL_BINS = 1024
"""In how many steps of the session's time the first level of cells is."""
LEVEL_FACTOR = 4
"""How many times finer each next level is."""
MOST_LEVELS = 4
"""The most of them."""
MOST_BANDS = 1000
"""Lanes are summed up by worker up to so many of these, else by node."""
CELLS_SAVE = 4
"""A level is kept where there are so many slices to each of its cells, on average."""
PARTS = 8
"""And where its steps cut a slice into no more parts than these, on average."""
PARTS_AT_ONCE = 1_000_000
"""How many parts are summed up at once, as the engine holds a sum for each function, row and step in memory."""


def wait_column(name: str) -> str:
    """Return the column of slices that says how long an attempt waited for something, in microseconds."""
    return f"{name.replace(' ', '_')}_us"


def calls(work: Work, source: str) -> str:
    """Return the SELECT that numbers the functions of `source`."""
    function = quote(work.function)
    return (
        f"SELECT (row_number() OVER (ORDER BY function) - 1)::INTEGER AS call, function "
        f"FROM (SELECT DISTINCT {function} AS function FROM {source} WHERE {work.counted})"
    )


def lanes(work: Work, source: str) -> str:
    """Return the SELECT that numbers the processes of `source`, apart by job and actor."""
    ended = work.ended_ns
    every = (
        f"SELECT {quote(work.node)} AS node_id, {work.worker} AS worker_id, {quote(work.job)} AS job_id, "
        f"{quote(work.actor)} AS actor_id, max({quote(work.pid)}) AS pid, count(*) AS attempts, "
        f"min({_began(work)}) AS first_ns, CASE WHEN count(*) = count({ended}) THEN max({ended}) END AS last_ns "
        f"FROM {source} WHERE {work.counted} AND {_began(work)} IS NOT NULL GROUP BY ALL"
    )
    numbered = (
        "SELECT row_number() OVER (ORDER BY node_id, first_ns, worker_id, job_id, actor_id) - 1 AS lane, "
        "dense_rank() OVER (ORDER BY node_id, worker_id) - 1 AS of_worker, "
        f"dense_rank() OVER (ORDER BY node_id) - 1 AS of_node, * FROM ({every})"
    )
    return (
        f"SELECT lane::INTEGER AS lane, CASE WHEN max(of_worker) OVER () < {MOST_BANDS} THEN of_worker ELSE of_node "
        f"END::INTEGER AS band, * EXCLUDE (lane, of_worker, of_node) FROM ({numbered}) ORDER BY lane"
    )


def slices(work: Work, source: str, *, of_calls: str, of_lanes: str) -> str:
    """
    Return the SELECT of the attempts of `source`, a table, in the order in which they began.

    Args:
        work: How they wait and work.
        source: The table. Its numbers of rows are the column ``source_row``.
        of_calls: The relation that `calls` makes of it.
        of_lanes: The relation that `lanes` makes of it.
    """
    lane = f"hash({quote(work.node)}, {work.worker}, {quote(work.job)}, {quote(work.actor)})"
    waits = ", ".join(f"{_waited(work, states)} AS {quote(wait_column(name))}" for name, states in work.waits)
    return (
        f"SELECT {_began(work)} AS began_ns, {work.ended_ns} AS ended_ns, lane, call, {work.failed} AS failed, "
        f"{bucket(running_ns(work))} AS bucket, {waits}, s.rowid AS source_row FROM {source} s "
        f"JOIN (SELECT lane, hash(node_id, worker_id, job_id, actor_id) AS h FROM {of_lanes}) l ON l.h = {lane} "
        f"JOIN {of_calls} c ON c.function IS NOT DISTINCT FROM s.{quote(work.function)} "
        f"WHERE {work.counted} AND {_began(work)} IS NOT NULL ORDER BY began_ns"
    )


def cells(relation: str, by: Sequence[str], begin_ns: int, bin_ns: int, bins: int) -> str:
    """
    Return the SELECT that sums slices up by steps of time: ``bin``, ``busy_ns``, ``attempts`` that began in it, and
    how many ``failed`` in it.

    Args:
        relation: The slices that have a time within these steps.
        by: Their columns that tell apart what is summed up.
        begin_ns: When the first step begins.
        bin_ns: How long each is.
        bins: How many there are.
    """
    end_ns = begin_ns + bins * bin_ns
    keys = ", ".join(map(quote, by))
    began, ended = f"greatest(began_ns, {begin_ns})", f"least(coalesce(ended_ns, {end_ns}), {end_ns - 1})"
    placed = (
        f"SELECT {keys}, {began} AS b, greatest({ended}, {began}) AS e, (b - {begin_ns}) // {bin_ns} AS first, "
        f"(e - {begin_ns}) // {bin_ns} AS last, failed AND ended_ns < {end_ns} AS fails, "
        f"began_ns >= {begin_ns} AS begins FROM {relation}"
    )
    within = f"SELECT {keys}, first AS bin, e - b AS ns, begins::INTEGER AS began, fails::INTEGER AS failed"
    across = (
        f"SELECT {keys}, bin, least(e, {begin_ns} + (bin + 1) * {bin_ns}) - greatest(b, {begin_ns} + bin * {bin_ns}), "
        "(begins AND bin = first)::INTEGER, (fails AND bin = last)::INTEGER"
    )
    return (
        f"WITH placed AS (SELECT * FROM ({placed})) SELECT {keys}, bin::INTEGER AS bin, sum(ns)::BIGINT AS busy_ns, "
        "sum(began)::BIGINT AS attempts, sum(failed)::BIGINT AS failed FROM ("
        f"{within} FROM placed WHERE first = last UNION ALL "
        f"{across} FROM (SELECT *, unnest(range(first, last + 1)) AS bin FROM placed WHERE first < last)) GROUP BY ALL"
    )


def changes(relation: str, begin_ns: int, bin_ns: int, bins: int) -> str:
    """
    Return the SELECT of what changes in each step of a row: much less than all its cells where slices are long.

    Its columns are ``row`` and ``bin``, the ``call`` that took most of what changed and for how long, as ``call_ns``,
    how long slices ran that began or ended in the step, as ``busy_ns``, the ``attempts`` that began, how many
    ``failed``, and by how many those ``grew`` that run through all of it.

    Args:
        relation: The slices that have a time within these steps, with their ``row``.
        begin_ns: When the first step begins.
        bin_ns: How long each is.
        bins: How many there are.
    """
    end_ns = begin_ns + bins * bin_ns
    began, ended = f"greatest(began_ns, {begin_ns})", f"least(coalesce(ended_ns, {end_ns}), {end_ns - 1})"
    placed = (
        f"SELECT row, call, {began} - {begin_ns} AS b, greatest({ended}, {began}) - {begin_ns} AS e, b // {bin_ns} AS "
        f"first, e // {bin_ns} AS last, (failed AND ended_ns < {end_ns})::INTEGER AS fails, "
        f"(began_ns >= {begin_ns})::INTEGER AS begins FROM {relation}"
    )
    parts = (
        f"SELECT row, call, first AS bin, least(e, (first + 1) * {bin_ns}) - b AS ns, begins AS began, "
        "CASE WHEN first = last THEN fails ELSE 0 END AS failed, 0 AS grew FROM placed UNION ALL "
        f"SELECT row, call, last, e - last * {bin_ns}, 0, fails, CASE WHEN last > first + 1 THEN -1 ELSE 0 END "
        "FROM placed WHERE last > first UNION ALL "
        "SELECT row, call, first + 1, 0, 0, 0, 1 FROM placed WHERE last > first + 1"
    )
    summed = (
        "SELECT row, call, bin, sum(ns)::BIGINT AS ns, sum(began) AS began, sum(failed) AS failed, sum(grew) AS grew "
        f"FROM ({parts}) GROUP BY ALL"
    )
    through = (
        f"SELECT *, ns + sum(grew) OVER (PARTITION BY row, call ORDER BY bin) * {bin_ns} AS all_ns FROM ({summed})"
    )
    return (
        f"WITH placed AS MATERIALIZED (SELECT * FROM ({placed})) SELECT row, bin::INTEGER AS bin, "
        "arg_max(call, all_ns) AS call, max(all_ns)::BIGINT AS call_ns, sum(ns)::BIGINT AS busy_ns, "
        "sum(began)::BIGINT AS attempts, "
        f"sum(failed)::BIGINT AS failed, sum(grew)::BIGINT AS grew FROM ({through}) GROUP BY ALL ORDER BY row, bin"
    )


def then(relation: str, last_ns: int) -> str:
    """Return the relation of slices as they were at a moment, whose last nanosecond is given."""
    return (
        f"(SELECT * REPLACE (CASE WHEN ended_ns <= {last_ns} THEN ended_ns END AS ended_ns, "
        f"failed AND ended_ns <= {last_ns} AS failed) FROM {relation} WHERE began_ns <= {last_ns})"
    )


def span(relation: str) -> str:
    """Return the SELECT of when the first of some slices began, when the last ended, and of how many they are."""
    return f"SELECT min(began_ns), max(coalesce(ended_ns, began_ns)), count(*) FROM {relation}"


def costs(relation: str, of_lanes: str, begin_ns: int, bin_ns: int) -> str:
    """Return the SELECT of how many cells a level would have, and of how many parts of slices they are the sums."""
    first = f"(began_ns - {begin_ns}) // {bin_ns}"
    return (
        f"SELECT approx_count_distinct(hash(band, {first})), "
        f"sum((coalesce(ended_ns, began_ns) - {begin_ns}) // {bin_ns} - {first} + 1) "
        f"FROM {relation} JOIN {of_lanes} USING (lane)"
    )


def level_of_cells(level: int, relation: str, of_lanes: str, begin_ns: int, bin_ns: int, first: int, bins: int) -> str:
    """
    Return the SELECT of some steps of a level of cells. Of each it has the one function that took most of it: all of
    them would be nearly as many as slices.

    Args:
        level: The level's number.
        relation: The slices of a whole session, all of which have ended.
        of_lanes: The lanes.
        begin_ns: When the first step of the level begins.
        bin_ns: How long each is.
        first: The first that is summed up.
        bins: How many are.
    """
    from_ns = begin_ns + first * bin_ns
    within = f"WHERE began_ns < {from_ns + bins * bin_ns} AND ended_ns >= {from_ns}"
    banded = f"(SELECT * FROM {relation} JOIN {of_lanes} USING (lane) {within})"
    return (
        f"SELECT {level} AS level, band, bin + {first} AS bin, arg_max(call, busy_ns) AS call, "
        "max(busy_ns) AS call_ns, sum(busy_ns)::BIGINT AS busy_ns, sum(attempts)::BIGINT AS attempts, "
        "sum(failed)::BIGINT AS failed "
        f"FROM ({cells(banded, ('band', 'call'), from_ns, bin_ns, bins)}) GROUP BY ALL ORDER BY bin, band"
    )


def _began(work: Work) -> str:
    # one that failed before it could begin is shown at its end
    return f"coalesce({work.began_ns}, {work.ended_ns})"


def _waited(work: Work, states: Sequence[str]) -> str:
    """Return the expression of how long an attempt was in some states before it began, in microseconds."""
    names = [state for state, _ in work.states]
    stays = []
    for state in states:
        place = names.index(state)
        entered = quote(work.states[place][1])
        exited = least([column for _, column in work.states[place + 1 :]])
        stays.append(f"CASE WHEN {exited} > {entered} THEN {exited} - {entered} ELSE 0 END")
    return f"(({' + '.join(stays)}) // 1000)::BIGINT"
