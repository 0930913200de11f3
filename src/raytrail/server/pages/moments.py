"""Moments in addresses, and the form in the bar that leads from one to another."""

from __future__ import annotations

import re
import time
from contextlib import suppress

from starlette.responses import RedirectResponse, Response

from raytrail import times
from raytrail.answers.scope import Scope
from raytrail.answers.steps import marks_of, step
from raytrail.errors import ConfigError
from raytrail.server.context import View, encode
from raytrail.server.pages.page import iso
from raytrail.store import Cluster
from raytrail.times import Life

PARAMETERS = {
    "when": f"a time: {times.HELP}",
    "zone": "the time zone of a time that names none, such as `Europe/Berlin`. UTC unless given",
    "step": "`after` or `before`: the next or the last failure or death after or before the moment `from`",
    "from": "the moment to step from, in milliseconds since 1970. None is the end, or now",
    "page": "the page to show then",
    "query": "its query",
}


MOMENT_DIGITS = 15
"""Most digits of a moment in milliseconds: enough for some 30 000 years."""
_ISO = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?(Z|[+-]\d\d(:?\d\d)?)?")


def read(text: str, cluster: Cluster) -> int:
    """
    Return the moment that a part of an address names, in milliseconds since the epoch.

    Args:
        text: The milliseconds, or a time such as ``2026-11-29T03:12:00Z``. It is UTC unless a zone follows.
        cluster: The cluster in whose life it lies.

    Raises:
        ConfigError: It is neither.
    """
    if text.isascii() and text.isdigit() and len(text) <= MOMENT_DIGITS:
        return int(text)
    if not _ISO.fullmatch(text):
        raise ConfigError(
            f"moment {text!r} is neither milliseconds since 1970, in {MOMENT_DIGITS} digits at most, nor a time such "
            "as 2026-11-29T03:12:00Z"
        )
    return times.parse(text, _life(cluster))


def _life(cluster: Cluster) -> Life:
    until_ms = cluster.last_event_ms if cluster.ended_ms is None else cluster.ended_ms
    now_ms = time.time_ns() // 1_000_000
    return Life(cluster.began_ms, cluster.ended_ms, now_ms if cluster.alive else until_ms, now_ms)


def _parse(text: str, cluster: Cluster, zone: str) -> int:
    """Return the moment that somebody typed. `zone` is of a time that names none."""
    if zone not in ("", "UTC") and ":" in text:
        with suppress(ConfigError):  # of a time with a zone, the zone that it names
            return times.parse(f"{text} {zone}", _life(cluster))
    return times.parse(text, _life(cluster))


def go(view: View) -> Response:
    """To a page of the cluster at another moment: the form in the bar of every page."""
    page, query = view.param("page"), view.param("query")
    if not query.startswith("?"):
        query = ""
    moment = _step(view) if view.param("step") else _named(view)
    # the name of a page never begins with a slash, and so never names another host
    return RedirectResponse(f"{view.here_at_last}{moment}{page.lstrip('/')}{query}", 303)


def marks(view: View) -> Response:
    """When something failed or died, added up by a few hundred parts of the cluster's life."""
    return encode(marks_of(Scope(view.store, view.cluster, view.snapshot.at_last())))


def _named(view: View) -> str:
    text, cluster = view.param("when").strip(), view.cluster
    if not text or (text.lower() == times.NOW and cluster.alive):
        return ""
    if text.lower() == times.END:
        return "" if cluster.alive else "final/"
    return f"at/{iso(_parse(text, cluster, view.param('zone')))}/"


def _step(view: View) -> str:
    """Return the moment of the next failure or death; the same moment where there is none."""
    start = view.param("from")
    from_ms = read(start, view.cluster) if start else None
    scope = Scope(view.store, view.cluster, view.snapshot.at_last())
    to_ms = step(scope, from_ms, before=view.param("step") == "before")
    moment = start if to_ms is None else iso(to_ms)
    return f"at/{moment}/" if moment else ""
