"""What failed in one session, in groups or one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from raytrail.answers.failures.groups import largest_groups
from raytrail.answers.failures.limit import MOST_SHOWN, SHOWN, check_limit
from raytrail.answers.failures.structs import Failure, FailureGroup, FailureRows, Failures
from raytrail.answers.jobs import driver_jobs
from raytrail.answers.scope import Scope
from raytrail.answers.steps import add_up, meanwhile
from raytrail.errors import NotFoundError
from raytrail.fold import failures
from raytrail.fold.literals import literal

RUNS = 20
"""How many earlier runs are looked at for the same signature."""


class _Times(msgspec.Struct):
    began_ms: int | None
    ended_ms: int | None


def failures_of(scope: Scope, *, job: str = "", limit: int = SHOWN) -> Failures:
    """
    Return what failed in a session.

    Args:
        scope: The session.
        job: A job: its id, or that of its submission. Empty means all.
        limit: How many groups to give, from 1 to `MOST_SHOWN`.

    Raises:
        NotFoundError: There is no such job.
        ConfigError: The limit is none.
    """
    check_limit(limit)
    ids = driver_jobs(scope, job)
    began_ms, ended_ms = _span(scope, ids)
    earlier = scope.store.sealed_before(scope.cluster, RUNS)
    signatures, _ = scope.store.signatures(earlier, RUNS)
    seen = Counter(hash for of in signatures.values() for hash in {signature.hash for signature in of})
    with scope.snapshot.steps() as run:
        asked = f"counted AND coalesce({_of_job(job, ids)}, false) AS asked"
        run(f"CREATE TEMP {_kind(scope)} every AS SELECT *, {asked} FROM {scope.snapshot.failures()}")
        run("CREATE TEMP VIEW failed AS FROM every WHERE asked")
        [totals] = run(
            "SELECT count(*), count(*) FILTER (kind = 'task'), count(recovered_ms), count(*) FILTER (ended), "
            "count(*) FILTER (via != ''), count(DISTINCT root) FROM failed"
        )
        groups = largest_groups(run, limit, began_ms, ended_ms, totals[0])
        marks = add_up(run, "failed WHERE", began_ms, ended_ms)
    count, tasks, recovered, ended, consequences, groups_count = totals
    return Failures(
        session=scope.cluster.session,
        job=job,
        at_ms=scope.snapshot.at_ms,
        began_ms=began_ms,
        ended_ms=ended_ms,
        count=count,
        tasks=tasks,
        recovered=recovered,
        ended=ended,
        consequences=consequences,
        groups_count=groups_count,
        marks=marks + meanwhile(scope, ids, began_ms, ended_ms),
        groups=tuple(
            FailureGroup(
                **group,
                runs_seen=seen[group["hash"]],
                new=bool(earlier) and not seen[group["hash"]] and not group["ended"],
            )
            for group in groups
        ),
        runs=len(earlier),
        sql=failures.failures(scope.of_session),
    )


def failure_rows(scope: Scope, hash: str, *, job: str = "", limit: int = MOST_SHOWN) -> FailureRows:
    """
    Return the failures of one group, one by one.

    Args:
        scope: The session.
        hash: The name of the group's signature.
        job: A job: its id, or that of its submission. Empty means all.
        limit: How many failures to give.

    Raises:
        NotFoundError: There is no such job, or nothing of it failed so.
    """
    asked = f"root = {literal(hash)} AND counted AND coalesce({_of_job(job, driver_jobs(scope, job))}, false)"
    names = ", ".join(Failure.__struct_fields__)
    with scope.snapshot.steps() as run:
        of_group = f"{asked} OR hash = {literal(hash)}"
        run(f"CREATE TEMP {_kind(scope)} failed AS FROM {scope.snapshot.failures()} WHERE {of_group}")
        [(count,)] = run(f"SELECT count(*) FROM failed WHERE {asked}")
        rows = run(f"SELECT {names} FROM failed WHERE {asked} ORDER BY at_ms, id, attempt_number LIMIT {limit}")
        named = run(f"SELECT error, text, frame FROM failed WHERE hash = {literal(hash)} LIMIT 1")
    if not named or not count:
        raise NotFoundError(f"failures {hash!r}: nothing in {scope.cluster.session} failed so; see `raytrail failures`")
    [(error, text, frame)] = named
    return FailureRows(
        session=scope.cluster.session,
        hash=hash,
        job=job,
        error=error,
        text=text,
        frame=frame,
        count=count,
        failures=tuple(Failure(**dict(zip(Failure.__struct_fields__, row, strict=True))) for row in rows),
    )


def _kind(scope: Scope) -> str:
    """Return how failures are named that several statements read: a copy would take longer than all of these."""
    return "VIEW" if scope.snapshot.failures_kept else "TABLE"


def _of_job(job: str, ids: Sequence[str]) -> str:
    """Return the condition that a failure is of a job, or of any where none is named."""
    if not job:
        return "true"
    return f"(job_id IN ({', '.join(map(literal, ids))}) OR kind = 'job' AND id = {literal(job)})"


def _span(scope: Scope, ids: Sequence[str]) -> tuple[int | None, int | None]:
    """Return the beginning and the end of what is looked at: of jobs, or of the session."""
    began_ms, ended_ms = scope.cluster.began_ms, scope.cluster.ended_ms or scope.cluster.last_event_ms
    if ids:
        [times] = scope.ask(
            _Times,
            "SELECT min(start_time_ms) AS began_ms, "
            "CASE WHEN bool_and(end_time_ms IS NOT NULL) THEN max(end_time_ms) END AS ended_ms "
            f"FROM driver_job WHERE {scope.of_session} AND job_id IN ({', '.join(map(literal, ids))})",
        )
        began_ms, ended_ms = times.began_ms or began_ms, times.ended_ms or ended_ms
    if scope.snapshot.at_ms is not None:
        ended_ms = min(scope.snapshot.at_ms, ended_ms or scope.snapshot.at_ms)
    return began_ms, ended_ms
