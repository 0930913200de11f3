"""All pages, in the order of the bar's tabs."""

from __future__ import annotations

from raytrail.server.pages import about, diff, functions, nodes, run, sql
from raytrail.server.pages.page import Page

PAGES: tuple[Page, ...] = (about.PAGE, run.PAGE, functions.PAGE, nodes.PAGE, nodes.ONE, diff.PAGE, sql.PAGE)
