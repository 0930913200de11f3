"""What a run is: a job of a session, or a whole session, and which run of the same name was before it."""

from __future__ import annotations

from typing import NamedTuple

from raytrail.answers.scope import Scope, object_or_none
from raytrail.answers.why import Job
from raytrail.errors import NotFoundError
from raytrail.store import Cluster, Store

SESSIONS_BACK = 1_000
"""In how many earlier sessions of a cluster's name the run before is looked for."""


class Run(NamedTuple):
    """One run."""

    scope: Scope
    """Its session, at last."""
    job: Job | None
    """The job, or None of a whole session."""

    @property
    def id(self) -> str:
        """The name by which it is asked for."""
        return f"{self.scope.cluster.session}/{self.job.id}" if self.job else self.scope.cluster.session


def find_run(store: Store, name: str) -> Run:
    """
    Return the run that is meant.

    Args:
        store: The history.
        name: ``<session>`` or ``<session>/<job>``. The session is named as `Store.find` takes it, and the job by its
            submission's id or its driver's.

    Raises:
        NotFoundError: None is meant.
    """
    session, _, job = name.partition("/")
    scope = _at_last(store, store.find(session or "latest"))
    if not job:
        return Run(scope, None)
    jobs = jobs_of(scope)
    for of in jobs:
        if job in (of.submission_id, of.job_id):
            return Run(scope, of)
    known = ", ".join(of.id for of in jobs[:5]) or "none"
    raise NotFoundError(f"run {name!r}: {scope.cluster.session} has no job {job!r}; there are {known}")


def run_before(run: Run) -> Run:
    """
    Return the last run of the same name that began before this one, on a cluster of the same name.

    Raises:
        NotFoundError: There is none.
    """
    cluster, store = run.scope.cluster, run.scope.store
    same = [other for other in store.clusters() if other.cluster == cluster.cluster]
    earlier = same[[other.session for other in same].index(cluster.session) + 1 :][:SESSIONS_BACK]
    if run.job is None:
        if earlier:
            return Run(_at_last(store, earlier[0]), None)
        raise NotFoundError(f"run {run.id!r}: no earlier session of cluster {cluster.cluster!r}; name both runs")
    listed = store.overviews.look().of([cluster.session, *(other.session for other in earlier)])
    names = [of.name for overview in listed[:1] for of in overview.runs if of.id == run.job.id] or [run.job.name]
    before = [
        (of.began_ms or 0, overview.figures.session, of.id)
        for overview in listed
        for of in overview.runs
        if of.name == names[0] and (of.began_ms or 0) < (run.job.start_time_ms or 0)
    ]
    if before:
        _, session, id = max(before)
        return find_run(store, f"{session}/{id}")
    raise NotFoundError(
        f"run {run.id!r}: no earlier run of {run.job.name!r} in the last {SESSIONS_BACK:,} sessions of cluster "
        f"{cluster.cluster!r}; name both runs"
    )


def jobs_of(scope: Scope) -> list[Job]:
    """Return the jobs of a session, the newest first."""
    rows = scope.snapshot.rows("job", columns=Job.__struct_fields__, order=["-start_time_ms"])
    # the metadata are anybody's JSON
    return [Job(**{**row, "metadata": object_or_none(row["metadata"])}) for row in rows]


def _at_last(store: Store, cluster: Cluster) -> Scope:
    return Scope(store, cluster, store.snapshot(cluster.session))
