"""The landing page: all clusters, and what is looked for in them."""

from __future__ import annotations

from raytrail.answers.landing import Landing, landing
from raytrail.errors import ConfigError
from raytrail.server.context import StoreView
from raytrail.server.pages.page import Page


def _answer(view: StoreView) -> Landing:
    """The clusters of this history, with their jobs and failures, by what is looked for in them."""
    return landing(
        view.store,
        search=view.param("q"),
        state=view.param("state") or None,
        incomplete=_read_yes("incomplete", view.param("incomplete")),
        name=view.param("name") if "name" in view.params else None,
        day=view.param("day") or None,
        sort=view.param("sort") or "-began",
        page=_read_number("page", view.param("page")),
        fold=_read_yes("fold", view.param("fold")) is not False,
    )


def _read_yes(name: str, text: str) -> bool | None:
    if text not in ("", "yes", "no"):
        raise ConfigError(f"{name} {text!r}: write yes or no")
    return {"yes": True, "no": False}.get(text)


def _read_number(name: str, text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ConfigError(f"{name} {text!r} is no number from 1 on")
    return int(text or 1)


PAGE = Page(
    path="/",
    table="/clusters",
    title="Clusters",
    answer=_answer,
    template="home.html",
    rows="rows",
    parameters={
        "q": "Words that are all to be found in a session's name, jobs, functions, classes or errors, in any case. "
        "Quotes keep words together.",
        "state": "Only those of a state: `running`, `failed`, where a job failed, or `ended`.",
        "incomplete": "`yes`: only those of which something is missing, or cannot be read. `no`: only the others.",
        "name": "Only those of a cluster's name. Empty is for those without one.",
        "day": "Only those that began on that day, in UTC: `2026-11-29`.",
        "sort": "The figure to sort by, with `-` before it to begin with the largest: `name`, `began`, `lasted`, "
        "`nodes`, `lost_nodes`, `jobs`, `failed_jobs`, `actors`, `tasks`, `failed_tasks`, `events`, `stored`, "
        "`missing`.",
        "page": "The number of the page, of 200 rows each.",
        "fold": "`no`: sessions of one name have a row each. Otherwise the newest stands for them.",
    },
    over_store=True,
)
