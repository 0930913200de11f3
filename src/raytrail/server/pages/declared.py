"""All pages, in the order of the bar's tabs."""

from __future__ import annotations

from raytrail.server.pages import about, failures, run
from raytrail.server.pages.page import Page

PAGES: tuple[Page, ...] = (about.PAGE, run.PAGE, failures.PAGE, failures.GROUP, failures.ALL)
