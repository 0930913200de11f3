"""A run: a job of a cluster, or a whole session. How it ended and why, how it went on, and what failed in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from raytrail import times
from raytrail.answers.failures import Failures, failures_of
from raytrail.answers.jobs import driver_jobs
from raytrail.answers.progress import Progress, progress
from raytrail.answers.runs import jobs_of
from raytrail.answers.scope import Scope
from raytrail.answers.why import Job, Why, explain, is_alive
from raytrail.errors import NotFoundError
from raytrail.store import Filter, LogPart

GROUPS = 6
"""How many groups of failures a run shows. Its page of failures has all."""
MOST_JOBS = 200
"""How many jobs of a session are named."""
LOG_LINES = 40
"""How many of the last lines of a driver's log are shown."""
LOG_BYTES = 16 * 1024
"""The most bytes of them."""


_COLOUR = re.compile("\x1b\\[[0-9;]*[A-Za-z]")
"""What colours a terminal."""


class LogTail(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a driver's log."""

    name: str
    """Its name in ``logs/``."""
    node_id: str
    """The node that wrote it."""
    lines: tuple[str, ...]
    """Its last lines."""
    more: bool
    """Whether there are lines before them."""


class JobRow(msgspec.Struct, frozen=True, kw_only=True):
    """A job of the session."""

    id: str
    """Its submission's id, or the driver's job id where it was not submitted."""
    name: str
    """The name that its user gave it, or the command."""
    status: str
    """Ray's word for it."""
    start_time_ms: int | None
    """When it began, in milliseconds since the epoch."""
    end_time_ms: int | None
    """When it ended."""


class DatasetRow(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset of Ray Data that ran."""

    dataset_id: str
    state: str | None
    """Ray's word for it."""
    start_time_ms: int | None
    """When it began to run, in milliseconds since the epoch."""
    end_time_ms: int | None
    """When it ended."""


class ApplicationRow(msgspec.Struct, frozen=True, kw_only=True):
    """An application of Ray Serve."""

    name: str
    status: str | None
    """Ray's word for it."""
    message: str | None
    """Why it is so, in Ray's words."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A job of a cluster, or a whole session."""

    session: str
    cluster: str
    """The name of its cluster. It may be empty."""
    job: JobRow | None
    """The job. Null where it is the whole session."""
    job_ids: tuple[str, ...]
    """The driver jobs of that, in hex. Empty where it is the whole session."""
    entrypoint: str
    """The command that was run. Empty where there are several."""
    metadata: dict[str, Any]
    """What its user said of it when submitting it."""
    at_ms: int | None
    """The moment that is shown, in milliseconds since the epoch. Null at last, or now."""
    began_ms: int | None
    """When it began."""
    ended_ms: int | None
    """When it ended. Null while it runs."""
    why: Why
    """How it ended, and why."""
    progress: Progress | None
    """Its tasks by state over time. Null where no event tells of a task."""
    failures: Failures
    """What failed in it: the groups with the most failures."""
    log: LogTail | None
    """The end of its driver's log. Null where it is not stored: only those of submissions are files."""
    jobs: tuple[JobRow, ...]
    """All jobs of the session, where it is the whole session: the newest first."""
    datasets: tuple[DatasetRow, ...]
    applications: tuple[ApplicationRow, ...]


def run_of(scope: Scope, job: str = "") -> Run:
    """
    Return a run.

    Args:
        scope: The session, at a moment.
        job: A job's id, or its submission's. Empty means the whole session.

    Raises:
        NotFoundError: The session has no such job.
    """
    jobs = jobs_of(scope)
    own = _find(jobs, job, scope) if job else None
    job_ids = tuple(driver_jobs(scope, job)) if job else ()
    failures = failures_of(scope, job=job, limit=GROUPS)
    log = _log_tail(scope, own.submission_id) if own and own.submission_id else None
    ended_ms = own.end_time_ms if own else (None if is_alive(scope) else scope.cluster.ended_ms)
    return Run(
        session=scope.cluster.session,
        cluster=scope.cluster.cluster,
        job=_row(own) if own else None,
        job_ids=job_ids,
        entrypoint=(own.entrypoint or "") if own else "",
        metadata=(own.metadata or {}) if own else {},
        at_ms=scope.snapshot.at_ms,
        began_ms=own.start_time_ms if own else scope.cluster.began_ms,
        ended_ms=ended_ms,
        why=explain(scope, own, jobs, failures, log.lines if log else ()),
        progress=progress(scope, job_ids),
        failures=failures,
        log=log,
        jobs=() if own else tuple(_row(other) for other in jobs[:MOST_JOBS]),
        datasets=tuple(_datasets(scope, job_ids)),
        applications=() if own else tuple(_applications(scope)),
    )


def _find(jobs: Sequence[Job], id: str, scope: Scope) -> Job:
    for job in jobs:
        if id in (job.submission_id, job.job_id):
            return job
    known = ", ".join(job.id for job in jobs[:5]) or "none"
    raise NotFoundError(f"job {id!r}: {scope.cluster.session} has no such job; there are {known}")


def _row(job: Job) -> JobRow:
    return JobRow(
        id=job.id,
        name=job.name,
        status=job.status or "",
        start_time_ms=job.start_time_ms,
        end_time_ms=job.end_time_ms,
    )


def _log_tail(scope: Scope, submission_id: str) -> LogTail | None:
    finder = scope.store.log_finder(scope.snapshot)
    _, part = finder.of_job(submission_id)
    if part is None or not part.log.size:
        return None
    start = finder.last_lines(part.log, part.log.size, LOG_LINES)
    lines = _read_lines(scope, part, max(start, part.log.size - LOG_BYTES))
    return LogTail(name=part.log.name, node_id=part.log.node_id, lines=lines, more=start > 0)


def _read_lines(scope: Scope, part: LogPart, start: int) -> tuple[str, ...]:
    text = b"".join(scope.store.read_log(scope.cluster.session, part.log, start)).decode(errors="replace")
    return tuple(_COLOUR.sub("", text).splitlines())


def _datasets(scope: Scope, job_ids: Sequence[str]) -> list[DatasetRow]:
    columns = {
        "dataset_id": "dataset_id",
        "state": "state",
        "start_time_ms": "execution_start_time_ms",
        "end_time_ms": "execution_end_time_ms",
    }
    rows: list[Mapping[str, Any]] = []
    for where in [[Filter("job_id", "=", id)] for id in job_ids] or [[]]:
        rows += scope.snapshot.rows("dataset", columns=[*columns.values()], where=where, limit=MOST_JOBS)
    return [DatasetRow(**{name: row[column] for name, column in columns.items()}) for row in rows]


def _applications(scope: Scope) -> list[ApplicationRow]:
    columns = ApplicationRow.__struct_fields__
    return [ApplicationRow(**row) for row in scope.snapshot.rows("serve_application", columns=columns, limit=MOST_JOBS)]


def lasted(run: Run) -> str:
    """Return how long a run took as text: ``3h 12m``. Empty where that is not known."""
    until_ms = run.ended_ms or run.at_ms
    return "" if run.began_ms is None or until_ms is None else times.show_span(max(0, until_ms - run.began_ms))
