"""All pages, in the order of the bar's tabs."""

from __future__ import annotations

from raytrail.server.pages import about, diff, failures, functions, landing, nodes, run, sql, timeline
from raytrail.server.pages.page import Page

PAGES: tuple[Page, ...] = (
    landing.PAGE,
    about.PAGE,
    failures.PAGE,
    timeline.PAGE,
    timeline.SELECTION,
    functions.PAGE,
    nodes.PAGE,
    nodes.ONE,
    run.PAGE,
    failures.GROUP,
    failures.ALL,
    diff.PAGE,
    sql.PAGE,
)
