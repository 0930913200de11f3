"""Questions in SQL on a page: their bounds, their charts, and those that are ready."""

import re
from pathlib import Path

import pytest

from raytrail.answers.question import CANNED, MOST_BYTES, ask, draw, editor
from raytrail.entities import installed
from raytrail.errors import ConfigError
from raytrail.store import Rows

DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "query-with-sql.md"


def test_an_answer_has_no_more_rows_than_are_asked_for_and_says_that_there_are_more(add, attempt, made):
    add(*(attempt(number, s1=0, s8=1, s11=2) for number in range(5)))
    answer = ask(made, "SELECT task_id FROM task ORDER BY task_id", rows=3)
    assert (len(answer.rows), answer.more, answer.columns, answer.types) == (3, True, ("task_id",), ("VARCHAR",))
    answer = ask(made, "SELECT count(*) AS n FROM task", rows=3)
    assert (answer.rows, answer.more, answer.plan) == (((5,),), False, "")
    assert ask(made, "  ").columns == ()


def test_only_a_checked_question_is_explained(add, attempt, made):
    add(attempt(1, s1=0))
    answer = ask(made, "SELECT count(*) FROM task", explain=True)
    assert "READ_PARQUET" in answer.plan or "count_star" in answer.plan
    assert (answer.rows, answer.columns) == ((), ())
    for wrong, words in (
        ("EXPLAIN SELECT 1", "EXPLAIN is not taken; ask one SELECT"),
        ("ANALYZE SELECT 1", "SQL: "),
        ("SELECT 1; DROP TABLE task", "DROP is not taken"),
        ("SELECT * FROM read_csv('/etc/passwd')", "cannot stand for a table"),
    ):
        with pytest.raises(ConfigError, match=words):
            ask(made, wrong, explain=True)


def test_a_question_that_is_too_long_is_refused_with_what_to_do(made):
    with pytest.raises(ConfigError, match=f"has 8,0[0-9]+ bytes, and one on this page {MOST_BYTES:,} at most"):
        ask(made, f"SELECT '{'x' * MOST_BYTES}'")


def test_bars_are_as_long_as_their_values_and_begin_at_zero():
    rows = Rows(("what", "n"), ("VARCHAR", "BIGINT"), [("a", 10), ("b", -10), (None, 5), ("c", None)])
    chart = draw(rows, "bar")
    assert (chart.x, chart.y, chart.low, chart.high, chart.rows) == ("what", "n", -10, 10, 3)
    assert [(bar.label, bar.start, bar.width) for bar in chart.bars] == [("a", 50, 50), ("b", 0, 50), ("", 50, 25)]


def test_a_line_goes_by_its_numbers_and_by_the_rows_where_there_are_none():
    rows = Rows(("at", "what", "n"), ("BIGINT", "VARCHAR", "DOUBLE"), [(0, "x", 1.0), (1, "y", 3.0), (4, "z", 2.0)])
    assert [*draw(rows, "line", x="at", y="n").points] == [(0, 100), (25, 0), (100, 50)]
    assert [*draw(rows, "line", x="what", y="n").points] == [(0, 100), (50, 0), (100, 50)]
    assert [*draw(Rows(("n",), ("BIGINT",), [(7,)]), "line").points] == [(50, 50)]


@pytest.mark.parametrize(
    ("kind", "x", "y", "words"),
    [
        ("pie", "", "", "chart 'pie'; it is one of bar, line"),
        ("bar", "wat", "", "no column 'wat' for x; did you mean what"),
        ("bar", "", "what", "column 'what' has no numbers; choose another as y"),
    ],
)
def test_what_cannot_be_drawn_is_said(kind, x, y, words):
    with pytest.raises(ConfigError, match=words):
        draw(Rows(("what", "n"), ("VARCHAR", "BIGINT"), [("a", 1)]), kind, x, y)


def test_the_views_are_those_of_the_entities_and_the_docs_show_what_is_ready(made):
    assert {view.name for view in editor().views} == set(installed())
    docs = " ".join(re.sub(r"\\\n> *", " ", DOCS.read_text()).split())
    for canned in CANNED:
        assert " ".join(canned.q.split()) in docs, canned.title
        ask(made, canned.q)
