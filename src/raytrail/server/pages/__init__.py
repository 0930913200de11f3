"""The pages for people, each from a template beside this file. They fetch nothing and have no script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from raytrail import words
from raytrail.server.pages.filters import lasted, moment, number
from raytrail.server.ray.resources import ACTORS, JOBS, NO_DRIVERS, NODES, TASKS
from raytrail.store import Cluster, LedgerRow
from raytrail.store.ledger import Missing, Rejected, Unread

SHOWN = 500
"""Most clusters on the first page, and most ranges or lines in a list."""

COUNTED = (
    (TASKS, "state", (*TASKS.listed, NO_DRIVERS)),
    (ACTORS, "state", ()),
    (JOBS, "status", ()),
    (NODES, "state", ()),
)
"""What a cluster's page counts, by which column: the rows that Ray's clients list."""


def home(clusters: Sequence[Cluster], root: str) -> str:
    """Return the page of all clusters."""
    return _render("home.html", root=root, clusters=clusters[:SHOWN], count=len(clusters))


def cluster(
    cluster: Cluster,
    at_ms: int | None,
    counts: Mapping[str, Iterable[Mapping[str, Any]]],
    ledger: Sequence[LedgerRow],
    *,
    url: str,
    home: str,
    root: str,
    dashboard: bool,
) -> str:
    """
    Return the page of one cluster, as it ended or as it was at a moment.

    Args:
        cluster: The cluster.
        at_ms: The moment; None shows the end.
        counts: For each resource, the rows in each state, as `Snapshot.group` returns them.
        ledger: How complete its history is, by event type.
        url: Where the view of that moment begins; Ray's clients are given it as address.
        home: Where the cluster's own page is.
        root: Where the page of all clusters is.
        dashboard: Whether Ray's dashboard is served there.
    """
    return _render(
        "cluster.html",
        root=root,
        cluster=cluster,
        at_ms=at_ms,
        url=url,
        home=home,
        dashboard=dashboard,
        cards=[_card(resource.noun, state, counts[resource.noun]) for resource, state, _ in COUNTED],
        ledger=ledger,
        missing=[_missing(gap) for row in ledger for gap in row.missing],
        unreadable=[
            *(_rejected(line) for row in ledger for line in row.rejected),
            *(_unread(end) for row in ledger for end in row.unread),
        ],
    )


def login(root: str, *, wrong: bool) -> str:
    """Return the page that asks for the token."""
    return _render("login.html", root=root, wrong=wrong)


def error(status: int, message: str, root: str) -> str:
    """Return the page that says what went wrong."""
    return _render("error.html", root=root, status=status, message=message)


def bar(facts: Mapping[str, Any]) -> str:
    """Return what puts our bar into a page of Ray's dashboard: the script that draws it, and the facts it shows."""
    return _render("bar.html", facts=facts)


def answer(
    page: str, status: int = 200, headers: Mapping[str, str] | None = None, *, form: bool = False
) -> HTMLResponse:
    """
    Return a page as an answer: the browser may show it, with its one style, and fetch nothing.

    Args:
        page: What one of the functions above has returned.
        status: The status.
        headers: Headers besides those of every page.
        form: Whether it has a form, which may be sent to us.
    """
    policy = (
        f"default-src 'none'; style-src '{_style_hash()}'; base-uri 'none'; "
        f"form-action '{'self' if form else 'none'}'; frame-ancestors 'none'"
    )
    # without a referrer, browsers hide the origin of a form that is posted
    referrer = "same-origin" if form else "no-referrer"
    return HTMLResponse(
        page, status, {**(headers or {}), "Content-Security-Policy": policy, "Referrer-Policy": referrer}
    )


def _card(noun: str, column: str, groups: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how many rows of a resource there are, and in which states, most of them first."""
    counts = sorted(((group["count"], group[column] or "not known") for group in groups), reverse=True)
    return {
        "noun": noun,
        "total": sum(count for count, _ in counts),
        "states": [
            {"name": state, "count": count, "kind": words.tone(state), "query": _query(column, state)}
            for count, state in counts
        ],
    }


def _query(column: str, state: str) -> str:
    """Return what asks Ray's State API for the rows in a state."""
    filtered = {"filter_keys": column, "filter_predicates": "=", "filter_values": state}
    return urlencode({"detail": 1, "limit": 1000, **filtered})


def _missing(gap: Missing) -> str:
    return f"{gap.name} ({gap.file}): bytes {number(gap.start)} to {number(gap.end)}"


def _rejected(line: Rejected) -> str:
    return f"{line.file} at {number(line.offset)}: {line.reason}"


def _unread(end: Unread) -> str:
    return f"{end.name} ({end.file}) from {number(end.start)} to {number(end.end)}: {end.reason}"


def _render(template: str, **values: object) -> str:
    return _templates().get_template(template).render(values, most=SHOWN)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader(__name__),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,  # they are part of this version
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, bytes=words.size, lasted=lasted, moment=moment)
    environment.globals["style"] = _style()
    return environment


@cache
def _style() -> str:
    return (files(__name__) / "style.css").read_text(encoding="utf-8")


@cache
def _style_hash() -> str:
    # it stands in the page: no second address, which the page that asks for the token could not be let fetch
    return f"sha256-{base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()}"
