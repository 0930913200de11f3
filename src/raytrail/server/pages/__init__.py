"""
The pages for people, each from a template beside this file.

They fetch nothing from another host, and their scripts are files of ours: whoever has none sees the same page.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping
from functools import cache, partial
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from raytrail import times, words
from raytrail.answers.functions import failed_sql
from raytrail.answers.why import command
from raytrail.server.pages.charts import progress_chart, spark
from raytrail.server.pages.drawing import draw
from raytrail.server.pages.filters import (
    ago,
    cell,
    code,
    is_numeric_type,
    lasted,
    missing_lines,
    moment,
    moment_text,
    number,
    percent,
    resources,
    unreadable_lines,
)

SHOWN = 500
"""Most ranges or lines in a list."""


def login(root: str, *, wrong: bool) -> str:
    """Return the page that asks for the token."""
    return render("login.html", root=root, wrong=wrong)


def error(status: int, message: str, root: str) -> str:
    """Return the page that says what went wrong."""
    return render("error.html", root=root, status=status, message=message)


def bar(facts: Mapping[str, Any]) -> str:
    """Return what puts our bar into a page of Ray's dashboard: the script that draws it, and the facts it shows."""
    return render("bar.html", facts=facts)


def answer(
    page: str,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    *,
    form: bool = False,
    scripts: bool = False,
) -> HTMLResponse:
    """
    Return a page as an answer: the browser may show it, with its one style, and fetch nothing.

    Args:
        page: What one of the functions above has returned.
        status: The status.
        headers: Headers besides those of every page.
        form: Whether it has a form, which may be posted to us.
        scripts: Whether it has scripts of ours, which may ask us for more, and forms that lead to other pages of ours.
    """
    ours = "script-src 'self'; connect-src 'self'; img-src 'self'; " if scripts else ""
    policy = (
        f"default-src 'none'; style-src '{_style_hash()}'; {ours}base-uri 'none'; "
        f"form-action '{'self' if form or scripts else 'none'}'; frame-ancestors 'none'"
    )
    # without a referrer, browsers hide the origin of a form that is posted
    referrer = "same-origin" if form else "no-referrer"
    return HTMLResponse(
        page, status, {**(headers or {}), "Content-Security-Policy": policy, "Referrer-Policy": referrer}
    )


def state_query(column: str, state: str) -> str:
    """Return what asks Ray's State API for the rows in a state."""
    filtered = {"filter_keys": column, "filter_predicates": "=", "filter_values": state}
    return urlencode({"detail": 1, "limit": 1000, **filtered})


def render(template: str, **values: object) -> str:
    """Return a page, of the template of that name beside this file."""
    return _templates().get_template(template).render(values, most=SHOWN, now_ms=time.time_ns() // 1_000_000)


@cache
def scripts() -> Mapping[str, bytes]:
    """Return the scripts of pages, and their icon, by name."""
    return {file.name: file.read_bytes() for file in (files(__name__) / "scripts").iterdir()}


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
    environment.filters.update(
        ago=ago,
        code=code,
        command=command,
        number=number,
        progress_chart=progress_chart,
        spark=spark,
        bytes=words.size,
        lasted=lasted,
        moment=moment,
        moment_text=moment_text,
        tone=words.tone,
        drawing=draw,
        span=times.show_span,
        duration=times.show_duration,
        percent=percent,
        cell=cell,
        resources=resources,
        missing_lines=missing_lines,
        unreadable_lines=unreadable_lines,
        # Jinja's own leaves slashes, which separate nothing in a name
        urlencode=partial(quote, safe=""),
    )
    environment.tests.update(numeric_type=is_numeric_type)
    environment.globals.update(state_query=state_query, failed_sql=failed_sql)
    environment.globals["style"] = _style()
    return environment


@cache
def _style() -> str:
    return (files(__name__) / "style.css").read_text(encoding="utf-8")


@cache
def _style_hash() -> str:
    # it stands in the page: no second address, which the page that asks for the token could not be let fetch
    return f"sha256-{base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()}"
