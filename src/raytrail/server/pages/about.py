"""The cluster's own page."""

from __future__ import annotations

from raytrail.answers.overview import Overview, overview
from raytrail.server.context import View
from raytrail.server.pages.page import Page, scope


def _answer(view: View) -> Overview:
    """One cluster: how it ended and why, its counts by state, its tasks over time, its jobs, failures and ledger."""
    return overview(scope(view))


PAGE = Page(path="/about", title="Overview", answer=_answer, template="about.html")
