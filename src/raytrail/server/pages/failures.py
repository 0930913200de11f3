"""The pages of what failed: in a cluster or one of its jobs, one group of it, and in all clusters."""

from __future__ import annotations

from raytrail.answers.failures import (
    SHOWN,
    AllFailures,
    FailureRows,
    Failures,
    all_failures,
    failure_rows,
    failures_of,
)
from raytrail.errors import ConfigError
from raytrail.server.context import StoreView, View
from raytrail.server.pages.page import Page, scope

_JOB = "Only this job: a driver job's id, or a submission's."
_LIMIT = f"How many groups to give, from 1 to 500. {SHOWN} by default."


def _limit(view: View | StoreView) -> int:
    text = view.param("limit", str(SHOWN))
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"limit {text!r} is no number; give one from 1 to 500") from None


def _of_cluster(view: View) -> Failures:
    """What failed, grouped by what it has in common, each group under what it follows from."""
    return failures_of(scope(view), job=view.param("job"), limit=_limit(view))


def _of_group(view: View) -> FailureRows:
    """The failures of one group, one by one."""
    return failure_rows(scope(view), view.path["hash"], job=view.param("job"))


def _of_store(view: StoreView) -> AllFailures:
    """What failed in all clusters, or in those of one name, grouped by what it has in common."""
    return all_failures(view.store, name=view.param("name"), limit=_limit(view))


PAGE = Page(
    path="/failures",
    title="Failures",
    answer=_of_cluster,
    template="failures.html",
    rows="groups",
    parameters={"job": _JOB, "limit": _LIMIT},
)

GROUP = Page(
    path="/failures/{hash}",
    title="Failures",
    answer=_of_group,
    template="failure_rows.html",
    rows="failures",
    parameters={"job": _JOB},
    tab=False,
)

ALL = Page(
    path="/failures",
    title="Failures",
    answer=_of_store,
    template="all_failures.html",
    rows="groups",
    parameters={"name": "Only the clusters of this name.", "limit": _LIMIT},
    over_store=True,
)
