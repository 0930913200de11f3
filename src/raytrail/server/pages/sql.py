"""The page on which all clusters are asked in SQL."""

from __future__ import annotations

import csv
import io

import msgspec
from starlette.responses import Response

from raytrail.answers.question import MOST_ROWS, NOTHING, SECONDS, SHOWN_ROWS, Answer, ask, editor
from raytrail.errors import ConfigError, StoreError
from raytrail.server import pages
from raytrail.server.context import StoreView, View, encode
from raytrail.server.pages.page import Page, frame


def _answer(view: StoreView, rows: int = MOST_ROWS) -> Answer:
    """The answer to a SELECT over all clusters, as `raytrail sql` gives it."""
    answer = ask(
        view.store,
        view.param("q"),
        rows=rows,
        explain=bool(view.param("explain")),
        chart=view.param("chart"),
        x=view.param("x"),
        y=view.param("y"),
    )
    if answer.more and rows == MOST_ROWS:
        raise ConfigError(
            f"SQL: the answer has more than {MOST_ROWS:,} rows; give a LIMIT, or ask it with `raytrail sql`"
        )
    return answer


class _SqlPage(Page, frozen=True, kw_only=True):
    """A page that shows what is wrong with a question beside it. Its columns are those of the answer."""

    def _html(self, view: View | StoreView) -> Response:
        assert isinstance(view, StoreView), "the page is over all clusters"
        answer, error = msgspec.structs.replace(NOTHING, q=view.param("q")), ""
        try:
            answer = _answer(view, SHOWN_ROWS)
        except (ConfigError, StoreError) as wrong:
            error = str(wrong)
        page = pages.render(
            self.template,
            frame=frame(self, view, answer)._replace(search=""),
            answer=answer,
            error=error,
            editor=editor(),
            chosen={name: view.param(name) for name in ("chart", "x", "y")},
            shown_rows=SHOWN_ROWS,
            seconds=SECONDS,
        )
        return pages.answer(page, 400 if error else 200, scripts=True)

    def _json(self, view: View | StoreView) -> Response:
        return encode(self.answer(view))

    def _csv(self, view: View | StoreView) -> Response:
        answer = self.answer(view)
        assert isinstance(answer, Answer), "it is declared so"
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(answer.columns)
        writer.writerows(answer.rows)
        return Response(text.getvalue(), media_type="text/csv; charset=utf-8")


PAGE = _SqlPage(
    path="/sql",
    title="SQL",
    answer=_answer,
    template="sql.html",
    rows="rows",
    parameters={
        "q": f"One SELECT, of 8,000 bytes at most. The page shows {SHOWN_ROWS:,} rows of the answer, JSON and CSV have "
        f"{MOST_ROWS:,} at most. It is given up after {SECONDS:g} s, or `store.sql_seconds`.",
        "explain": "`1` tells how the engine would answer.",
        "chart": "`bar` or `line` draws the answer, too.",
        "x": "The column of the chart's labels. The first by default.",
        "y": "The column of the chart's values. The first with numbers by default.",
    },
    over_store=True,
    large=True,
    scripts=("sql.js",),
)
