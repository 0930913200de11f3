"""All pages, in the order of the bar's tabs."""

from __future__ import annotations

from raytrail.server.pages import about, diff, functions, landing, nodes, run, timeline
from raytrail.server.pages.page import Page

PAGES: tuple[Page, ...] = (
    landing.PAGE,
    about.PAGE,
    timeline.PAGE,
    timeline.SELECTION,
    functions.PAGE,
    nodes.PAGE,
    nodes.ONE,
    run.PAGE,
    diff.PAGE,
)
