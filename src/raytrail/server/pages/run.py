"""A job's own page."""

from __future__ import annotations

from raytrail.answers.run import Run, run_of
from raytrail.server.context import View
from raytrail.server.pages.page import Page, scope


def _answer(view: View) -> Run:
    """A job: how it ended and why, its tasks over time, its failures, and the end of its driver's log."""
    return run_of(scope(view), str(view.path["job"]))


PAGE = Page(path="/jobs/{job}", title="Job", answer=_answer, template="run.html", tab=False)
