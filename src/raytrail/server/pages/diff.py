"""The page of two runs side by side."""

from __future__ import annotations

from starlette.responses import Response

from raytrail.answers.diff import Diff, diff
from raytrail.errors import ConfigError, NotFoundError
from raytrail.server import pages
from raytrail.server.context import StoreView, View
from raytrail.server.pages.page import Page, frame

OFFERED = 50
"""How many sessions the fields offer, the newest of them."""


def _answer(view: StoreView) -> Diff:
    """Two runs side by side: their functions, failures and settings, those first that changed most."""
    return diff(view.store, view.param("a"), view.param("b", "latest") or "latest")


class _DiffPage(Page, frozen=True, kw_only=True):
    """A page that says beside its fields which run there is not."""

    def _html(self, view: View | StoreView) -> Response:
        assert isinstance(view, StoreView), "the page is over all clusters"
        answer, error, status = None, "", 200
        try:
            answer = _answer(view)
        except (ConfigError, NotFoundError) as wrong:
            asked = view.param("a") or view.param("b")
            error, status = str(wrong), 200 if not asked else 404 if isinstance(wrong, NotFoundError) else 400
        page = pages.render(
            self.template,
            frame=frame(self, view, answer),
            answer=answer,
            error=error,
            chosen=(answer.a.run, answer.b.run) if answer else (view.param("a"), view.param("b")),
            sessions=[cluster.session for cluster in view.store.clusters()[:OFFERED]],
        )
        return pages.answer(page, status, scripts=True)


PAGE = _DiffPage(
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
