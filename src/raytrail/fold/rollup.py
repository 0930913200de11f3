"""
What states add up to, summed once when a session is sealed, as a page that reads ten million of them would be slow.

Each rollup is the SELECT of an entity's `Work`. A sealed session keeps it as a table. Of a session without that table
the same SELECT over the states gives the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import NamedTuple

from raytrail.entities import Entity, Moments, Work
from raytrail.fold.literals import literal, quote
from raytrail.fold.names import reads

GROWTH = 1.04
"""By how much a bucket of durations reaches further than the one before: its middle is within 2 % of all in it."""

STATE_BINS = 200
"""In how many steps of a job's life its states are counted."""


class Rollup(NamedTuple):
    """What is summed up, of the states that Ray's own list counts."""

    doc: str
    """What a row says, in words for the docs."""
    columns: tuple[str, ...]
    """Its columns. Ids are bytes there."""
    select: Callable[[Work, Moments, str], str]
    """Makes the SELECT over the relation of the states."""
    merged: Mapping[str, str] = {}
    """Its columns that are not keys, each with the aggregate that makes one of two rows' values."""


def rollup_name(entity: Entity, name: str) -> str:
    """Return the table of an entity's rollup."""
    return f"{entity.name}_{name}"


def rollup(entity: Entity, name: str, source: str) -> str:
    """Return the SELECT of a rollup over the states of `source`."""
    if entity.work is None or entity.moments is None:
        raise ValueError(f"{entity.name}: nothing of it is summed up")
    return ROLLUPS[name].select(entity.work, entity.moments, source)


def at_moment(
    entity: Entity, name: str, table: str, changed: str, then: str, last_ns: int, *, merge: bool = True
) -> str:
    """
    Return the SELECT of a rollup as it was at a moment, from the one of all.

    Args:
        entity: The entity.
        name: The rollup.
        table: The relation of the rollup of the last states.
        changed: The relation of the last states to which something happened later.
        then: The relation of these as they were at the moment.
        last_ns: The last nanosecond of the moment.
        merge: Whether each row is one of a kind. Whoever adds them up does not need it, and it takes longer than all
            else.
    """
    merged, columns = ROLLUPS[name].merged, ROLLUPS[name].columns
    if not merged:  # it is by time: what came later are other rows
        return f"SELECT * FROM {table} WHERE low_ns + (bin + 1) * step_ns <= {last_ns + 1}"
    signs = {"sum": "-", "min": "NULL::BIGINT + ", "max": "NULL::BIGINT + "}
    less = ", ".join(f"{signs.get(merged.get(column, ''), '')}{quote(column)} AS {quote(column)}" for column in columns)
    whole = ", ".join(
        f"{merged[column]}({quote(column)}) AS {quote(column)}" if column in merged else quote(column)
        for column in columns
    )
    every = (
        f"SELECT * FROM {table} UNION ALL SELECT {less} FROM ({rollup(entity, name, changed)}) "
        f"UNION ALL SELECT * FROM ({rollup(entity, name, then)})"
    )
    return f"SELECT {whole} FROM ({every}) GROUP BY ALL HAVING sum(attempts) > 0" if merge else every


@cache
def read_of(entity: Entity) -> tuple[str, ...]:
    """Return the stored columns of an entity that its rollups are made of."""
    if entity.work is None or entity.moments is None:
        raise ValueError(f"{entity.name}: nothing of it is summed up")
    work, by = entity.work, entity.moments
    expressions = (getattr(work, name) for name in work.__struct_fields__)
    read = (reads(entity, expression) for expression in expressions if isinstance(expression, str))
    return tuple(dict.fromkeys([*chain(*read), *(column for _, column in work.states), by.earliest, by.latest]))


def bucket(duration_ns: str) -> str:
    """Return the expression of the bucket that a duration in nanoseconds is in. 0 is that of at most one nanosecond."""
    return f"ceil(ln(greatest({duration_ns}, 1)) / ln({GROWTH}))::SMALLINT"


def duration_ns(bucket: str) -> str:
    """Return the expression of the duration, in nanoseconds, that is within 2 % of any in the bucket."""
    return f"CASE WHEN {bucket} = 0 THEN 0 ELSE round(pow({GROWTH}, {bucket}) * 2 / ({GROWTH} + 1))::BIGINT END"


def duration_of(bucket: int) -> float:
    """Return the same of a number, in nanoseconds."""
    return GROWTH**bucket * 2 / (GROWTH + 1) if bucket else 0.0


def percentiles(durations: str, by: tuple[str, ...], shares: tuple[float, ...]) -> str:
    """
    Return the SELECT of percentiles of durations, in nanoseconds: columns `by`, ``measure``, and ``p50`` and so on.

    Args:
        durations: The relation of the rows of the rollup ``durations`` that are summed.
        by: Those of its columns that tell apart what has percentiles of its own. ``measure`` always does.
        shares: The share of durations up to each percentile, such as 0.5.
    """
    apart = ", ".join(map(quote, (*by, "measure")))
    shown = ", ".join(
        f"min({duration_ns('bucket')}) FILTER (up_to >= ceil({share} * of_all)) AS p{round(share * 100)}"
        for share in shares
    )
    return (
        f"SELECT {apart}, {shown} FROM (SELECT {apart}, bucket, "
        f"sum(n) OVER (PARTITION BY {apart} ORDER BY bucket) AS up_to, sum(n) OVER (PARTITION BY {apart}) AS of_all "
        f"FROM (SELECT {apart}, bucket, sum(attempts) AS n FROM {durations} GROUP BY ALL)) GROUP BY ALL"
    )


def waiting_ns(work: Work) -> str:
    """Return the expression of how long one waited. Its owner's clock may be ahead of its worker's."""
    return _between(work.queued_ns, work.began_ns)


def running_ns(work: Work) -> str:
    """Return the expression of how long one worked."""
    return _between(work.began_ns, work.ended_ns)


def _between(since: str, until: str) -> str:
    # the greatest of null and 0 is 0
    return f"CASE WHEN {until} < {since} THEN 0 ELSE {until} - {since} END"


def _named(work: Work) -> str:
    return f"{quote(work.job)} AS job_id, {quote(work.function)} AS function, {quote(work.node)} AS node_id"


def _functions(work: Work, by: Moments, source: str) -> str:
    waiting, running = waiting_ns(work), running_ns(work)
    return (
        f"SELECT {_named(work)}, count(*) AS attempts, count(*) FILTER ({work.failed}) AS failed, "
        f"count(*) FILTER ({work.retried}) AS retried, count(*) FILTER ({work.ended_ns} IS NULL) AS open, "
        f"count({waiting}) AS waited, count({running}) AS ran, coalesce(sum({waiting}), 0) AS waiting_ns, "
        f"coalesce(sum({work.arguments_ns}) FILTER ({waiting} IS NOT NULL), 0) AS arguments_ns, "
        f"coalesce(sum({work.assignment_ns}) FILTER ({waiting} IS NOT NULL), 0) AS assignment_ns, "
        f"coalesce(sum({running}), 0) AS running_ns, "
        f"min({quote(by.earliest)}) AS first_ns, max({quote(by.latest)}) AS last_ns "
        f"FROM {source} WHERE {work.counted} GROUP BY ALL ORDER BY ALL"
    )


def _durations(work: Work, by: Moments, source: str) -> str:
    measures = {"waiting": waiting_ns(work), "running": running_ns(work)}
    each = " UNION ALL ".join(
        f"SELECT {_named(work)}, {literal(measure)} AS measure, {bucket(duration)} AS bucket, count(*) AS attempts "
        f"FROM {source} WHERE {work.counted} AND {duration} IS NOT NULL GROUP BY ALL"
        for measure, duration in measures.items()
    )
    return f"SELECT * FROM ({each}) ORDER BY ALL"


def _states(work: Work, by: Moments, source: str) -> str:
    job, low, high = quote(work.job), f"min({quote(by.earliest)})", f"max({quote(by.latest)})"
    counted = f"FROM {source} WHERE {work.counted}"
    step = f"({high} - {low}) // {STATE_BINS} + 1"
    spans = (
        f"SELECT * FROM (SELECT {job} AS of_job, {low} AS low, {step} AS step {counted} GROUP BY ALL), "
        f"(SELECT {low} AS all_low, {step} AS all_step {counted})"
    )
    stays = " UNION ALL ".join(
        _stays(work, source, state, quote(entered), least([column for _, column in work.states[place + 1 :]]))
        for place, (state, entered) in enumerate(work.states)
    )
    bins = " UNION ALL ".join(
        f"SELECT {of}, state, {bin} AS bin, {entered} AS entered, {exited} AS exited FROM stays WHERE {bin} IS NOT NULL"
        for of, prefix in (("of_job AS job_id, low AS low_ns, step AS step_ns", ""),
                           ("NULL AS job_id, all_low AS low_ns, all_step AS step_ns", "all_"))
        for bin, entered, exited in ((f"{prefix}came", "n", "0"), (f"{prefix}went", "0", "n"))
    )  # fmt: skip
    return (
        f"WITH spans AS MATERIALIZED ({spans}), stays AS MATERIALIZED ({stays}) "
        "SELECT job_id, low_ns, step_ns, state, bin::SMALLINT AS bin, sum(entered)::BIGINT AS entered, "
        f"sum(exited)::BIGINT AS exited FROM ({bins}) GROUP BY ALL ORDER BY ALL"
    )


def _stays(work: Work, source: str, state: str, entered: str, exited: str) -> str:
    """
    Return the SELECT of how many came into a state and went out of it again, by the steps in which they did.

    One whose next state was entered before it, by another process's clock, was never in it.
    """
    entered_bin, exited_bin = (
        f"({time} - low) // step AS {name}, ({time} - all_low) // all_step AS all_{name}"
        for time, name in ((entered, "came"), (exited, "went"))
    )
    return (
        f"SELECT of_job, low, step, all_low, all_step, {literal(state)} AS state, {entered_bin}, {exited_bin}, "
        f"count(*) AS n FROM {source} JOIN spans ON {quote(work.job)} = of_job "
        f"WHERE {work.counted} AND {entered} IS NOT NULL AND coalesce({exited} > {entered}, true) GROUP BY ALL"
    )


def least(columns: Sequence[str]) -> str:
    """Return the expression of the first of the times in some columns, which is null where there is none."""
    return f"least({', '.join(map(quote, columns))})" if columns else "NULL::BIGINT"


ROLLUPS: Mapping[str, Rollup] = {
    "functions": Rollup(
        "How many attempts there are of each function of a job on a node, and how long they waited and ran.",
        (
            *("job_id", "function", "node_id", "attempts", "failed", "retried", "open", "waited", "ran"),
            *("waiting_ns", "arguments_ns", "assignment_ns", "running_ns", "first_ns", "last_ns"),
        ),
        _functions,
        {
            **dict.fromkeys(("attempts", "failed", "retried", "open", "waited", "ran"), "sum"),
            **dict.fromkeys(("waiting_ns", "arguments_ns", "assignment_ns", "running_ns"), "sum"),
            "first_ns": "min",
            "last_ns": "max",
        },
    ),
    "durations": Rollup(
        "How many of them waited, and ran, how long: by buckets of durations.",
        ("job_id", "function", "node_id", "measure", "bucket", "attempts"),
        _durations,
        {"attempts": "sum"},
    ),
    "states": Rollup(
        "How many attempts entered each state, and left it, in each step of their job's life, or of all of them.",
        ("job_id", "low_ns", "step_ns", "state", "bin", "entered", "exited"),
        _states,
    ),
}
"""All of them, by name."""
