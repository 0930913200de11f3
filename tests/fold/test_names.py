"""Which columns a declaration's texts read: enough for each question, and none for a word in quotes."""

import duckdb
import pytest

from raytrail.entities import installed
from raytrail.fold import merge, show
from raytrail.fold.conclude import MANY_ROWS, concluded
from raytrail.fold.layout import shown
from raytrail.fold.literals import quote
from raytrail.fold.moment import Moment, at_times, read_by_times
from raytrail.fold.names import aliases, reads
from raytrail.fold.sessions import of_many

TASK = installed()["task"]


def states(entity, names):
    """Return a relation of no state, with these stored columns alone."""
    return f"(SELECT {', '.join(map(quote, names))} FROM ({merge.empty(entity, partial=False)}))"


def reported(entity):
    """Return what gives an entity's states as told, with the columns that are asked for alone."""
    return lambda names: f"({merge.bare(entity, f'({merge.empty(entity, partial=True)})', names)})"


def test_a_word_in_quotes_is_no_column():
    assert reads(TASK, "CASE WHEN type = 'the state''s name' THEN {'job_id': worker_pid} END") == ("type", "worker_pid")


def test_a_name_in_double_quotes_is_a_column():
    assert reads(TASK, 'lower("type")') == ("type",)


def test_a_column_of_another_relation_is_not_its_own():
    text = "s.worker_id IS NULL AND a.name = _name AND 'x.job_id' != w.ip"
    assert reads(TASK, text) == ("worker_id", "_name")
    assert aliases(text) == {"s", "a", "w", ""}


def test_a_column_before_a_dot_is_one():
    assert reads(TASK, "type.lower() = s.name.upper()") == ("type", "name")


@pytest.mark.parametrize("many", [False, True], ids=["one session", "many sessions"])
@pytest.mark.parametrize("name", [name for name, entity in installed().items() if not entity.view])
def test_every_column_is_answered_by_the_columns_that_it_is_said_to_follow_from(name, many):
    entity = of_many(installed()[name]) if many else installed()[name]

    def other(other_entity, names):
        return states(of_many(other_entity) if many else other_entity, names)

    with duckdb.connect() as engine:
        for column in shown(entity):
            names = show.read_from(entity, [column])
            for end_ms, rows in ((None, 1), ("1", 1), ("1", MANY_ROWS)):
                select = concluded(
                    entity, reported(entity), other, now_ms=1, end_ms=end_ms, names=names, most_rows=rows
                )
                engine.execute(f"EXPLAIN SELECT {show.public(column)} FROM ({select}) s")
            if by := entity.moments:
                last = states(entity, read_by_times(entity, by, names))
                for once in (True, False):
                    select = at_times(entity, by, last, Moment(1, 2), names, once=once)
                    engine.execute(f"EXPLAIN SELECT {show.public(column)} FROM ({select}) s")
