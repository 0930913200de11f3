"""Which of a session's jobs a question is about."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from raytrail.answers.scope import Scope
from raytrail.errors import NotFoundError

_JOB_ID = re.compile("[0-9a-f]{8}")
LISTED = 5
"""Most jobs that an error names."""


class _Job(msgspec.Struct):
    job_id: str | None
    submission_id: str | None


def driver_jobs(scope: Scope, job: str) -> Sequence[str]:
    """
    Return the ids of the driver jobs that are meant, in hex.

    Args:
        scope: The session.
        job: A driver job's id, or a submission's, which may have had several drivers. Empty means all jobs, for which
            no id is returned.

    Raises:
        NotFoundError: The session has no such job.
    """
    if not job:
        return ()
    query = "SELECT job_id, submission_id FROM {} WHERE {} AND (job_id = ? OR submission_id = ?)"
    rows = [
        row
        for view in ("driver_job", "job")
        for row in scope.ask(_Job, query.format(view, scope.of_session), [job, job])
    ]
    if ids := sorted({row.job_id for row in rows if row.job_id}):
        return ids
    # jobs of Ray's own have no event. Their tasks have
    tasks = f"SELECT job_id, NULL AS submission_id FROM task WHERE {scope.of_session} AND job_id = ? LIMIT 1"
    if _JOB_ID.fullmatch(job) and (rows or scope.ask(_Job, tasks, [job])):
        return (job,)
    if rows:  # a submission whose command was no driver, and so has no tasks
        return ("",)
    every = scope.ask(_Job, f"SELECT job_id, submission_id FROM job WHERE {scope.of_session} ORDER BY ALL")
    names = [row.submission_id or row.job_id or "" for row in every]
    known = ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "") if names else "none"
    raise NotFoundError(f"job {job!r}: {scope.cluster.session} has no such job; there are {known}")
