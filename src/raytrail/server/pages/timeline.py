"""The timeline, and the statistics of a window of it."""

from __future__ import annotations

from raytrail.answers.timeline import MOST_PIXELS, WIDTH, Chosen, Selection, Timeline, selection, timeline
from raytrail.errors import ConfigError
from raytrail.server.context import View
from raytrail.server.pages.moments import read
from raytrail.server.pages.page import Page, scope

_WINDOW = {
    "job": "only what this driver job did",
    "node": "only what ran on this node",
    "actor": "only what ran in this actor",
    "worker": "only what ran in this worker",
    "from": "when the window begins: milliseconds since 1970, or a time such as `2026-11-29T03:12:00Z`",
    "to": "when it ends, likewise",
}


def _answer(view: View) -> Timeline:
    """Which process worked on what in a window of time: single attempts, or how busy each was by steps of time."""
    from_ms, to_ms = _window(view)
    return timeline(scope(view), chosen=_chosen(view), from_ms=from_ms, to_ms=to_ms, width=_width(view))


def _select(view: View) -> Selection:
    """Statistics of what ran in a window of time, by function."""
    from_ms, to_ms = _window(view)
    return selection(scope(view), chosen=_chosen(view), from_ms=from_ms, to_ms=to_ms)


def _chosen(view: View) -> Chosen:
    return Chosen(**{name: view.param(name) for name in Chosen._fields})


def _window(view: View) -> tuple[int | None, int | None]:
    begin, end = (read(text, view.cluster) if (text := view.param(name)) else None for name in ("from", "to"))
    return begin, end


def _width(view: View) -> int:
    text = view.param("width")
    if not text:
        return WIDTH
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ConfigError(f"width {text!r}: it is from 1 to {MOST_PIXELS} pixels")
    return int(text)


PAGE = Page(
    path="/timeline",
    title="Timeline",
    answer=_answer,
    template="timeline.html",
    parameters={**_WINDOW, "width": f"how many pixels wide a row is, up to {MOST_PIXELS}. {WIDTH} unless given"},
    scripts=("timeline.js",),
)
SELECTION = Page(
    path="/timeline/selection",
    title="Statistics of a window",
    answer=_select,
    template="selection.html",
    rows="functions",
    parameters=_WINDOW,
    tab=False,
)
