"""The page of a cluster's functions, or of one of its jobs'."""

from __future__ import annotations

from raytrail.answers.functions import Functions, functions
from raytrail.server.context import View
from raytrail.server.pages.page import Page, scope

ORDER = "-running_total_ms"


def _answer(view: View) -> Functions:
    """Each function with how often it was called and failed, and how long it waited and ran."""
    return functions(scope(view), job=view.param("job"), order=view.param("order", ORDER))


PAGE = Page(
    path="/functions",
    title="Functions",
    answer=_answer,
    template="functions.html",
    rows="functions",
    parameters={
        "job": "Only this job: a driver job's id, or a submission's.",
        "order": f"The column to sort by, with `-` before one that descends. `{ORDER}` by default.",
    },
)
