"""Questions in SQL that a process of its own answers: it ends whatever it is at, and the next one is answered."""

import os

import pytest
from tests.server.conftest import made

from raytrail.errors import ConfigError
from raytrail.store import Limits, apart

__all__ = ["made"]

FOR_HOURS = "SELECT levenshtein(repeat('a', 1000000), repeat('b', 1000000))"
"""One step of the engine, which it cannot give up."""


def test_a_question_that_cannot_be_given_up_is_ended_and_the_next_one_answered(made, monkeypatch):
    assert made.sql_apart("SELECT 1 AS one", Limits(5, 30)).rows == [(1,)]
    monkeypatch.setattr(apart, "GIVE_UP_SECONDS", 0.5)
    with pytest.raises(
        ConfigError, match=r"ended by force, as it did not give up within 0\.6 seconds .*; ask for less"
    ):
        made.sql_apart(FOR_HOURS, Limits(5, 0.1))
    monkeypatch.undo()
    assert made.sql_apart("SELECT count(*) AS n FROM task", Limits(5, 30)).rows == [(0,)]


def test_one_process_answers_one_after_the_other_and_ends_with_the_store(made):
    made.sql_apart("SELECT 1", Limits(5, 30))
    process = made._apart._waiting
    with pytest.raises(ConfigError, match="SQL: no table 'tasks'; did you mean task"):
        made.sql_apart("SELECT * FROM tasks", Limits(5, 30))
    made.sql_apart("SELECT 2", Limits(5, 30))
    assert made._apart._waiting is process
    made.close()
    assert not process.is_alive()
    assert not os.path.exists(process._scratch)  # with what it may have spilled


def test_a_process_that_is_given_back_after_the_end_is_ended(made):
    made.sql_apart("SELECT 1", Limits(5, 30))
    process = made._apart._take()
    made.close()
    made._apart._give_back(process)
    assert not process.is_alive()


def test_an_answer_of_too_many_bytes_is_refused(made):
    with pytest.raises(ConfigError, match="more than 67,108,864 bytes; ask for less"):
        made.sql_apart("SELECT repeat('x', 70_000_000)", Limits(5, 60))
    assert made.sql_apart("SELECT 1 AS n", Limits(5, 30)).rows == [(1,)]


def test_no_module_of_the_working_directory_is_run(made, tmp_path, monkeypatch):
    (tmp_path / "typing.py").write_text("raise SystemExit('taken from the working directory')")
    monkeypatch.chdir(tmp_path)
    assert made.sql_apart("SELECT 1 AS n", Limits(5, 30)).rows == [(1,)]


def test_values_are_plain_and_no_more_than_asked_for(made):
    values = "(2::HUGEINT << 100) AS large, 1.5::DECIMAL(4, 2) AS exact, DATE '2026-11-30' AS day, '\\xAB'::BLOB AS raw"
    answer = made.sql_apart(f"SELECT {values}, [DATE '2026-11-30'] AS days, MAP {{1: 2}} AS pairs", Limits(5, 30))
    assert answer.rows == [(str(2 << 100), 1.5, "2026-11-30", "ab", ["2026-11-30"], {"1": 2})]
    assert answer.columns == ("large", "exact", "day", "raw", "days", "pairs")
    assert len(made.sql_apart("SELECT * FROM range(10)", Limits(5, 30)).rows) == 5
    [(plan,)] = made.sql_apart("SELECT count(*) FROM task", Limits(5, 30), explain=True).rows
    assert "│" in plan
