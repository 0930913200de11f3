"""The page of two runs side by side."""

from __future__ import annotations

from raytrail.answers.diff import Diff, diff
from raytrail.server.context import StoreView
from raytrail.server.pages.page import Page


def _answer(view: StoreView) -> Diff:
    """Two runs side by side: their functions, failures and settings, those first that changed most."""
    return diff(view.store, view.param("a"), view.param("b", "latest") or "latest")


PAGE = Page(
    path="/diff",
    title="Compare",
    answer=_answer,
    template="diff.html",
    rows="functions",
    parameters={
        "a": "The run to compare with: `<session>` or `<session>/<job>`. By default the run before `b` of the same "
        "name.",
        "b": "The run that is asked about, likewise. The latest session by default.",
    },
    over_store=True,
)
