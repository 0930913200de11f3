"""Functions with their figures: how often, how long, and what they waited for."""

import pytest

from raytrail.answers import spans
from raytrail.answers.functions import functions
from raytrail.errors import ConfigError, NotFoundError
from raytrail.store import Store

BEGAN_MS = 1_795_419_630_000


def test_running_and_waiting_times_are_those_between_the_states(add, attempt, scope):
    times = {"s1": 0, "s2": 30, "s5": 40, "s13": 42, "s8": 50}
    add(*(attempt(number, "load", **times, s11=50 + 10 * number) for number in range(1, 101)))
    [row] = functions(scope()).functions
    assert (row.function, row.tasks, row.failed, row.retried, row.open) == ("load", 100, 0, 0, 0)
    assert (row.running_p50_ms, row.running_p95_ms, row.running_p99_ms) == (500, 950, 990)
    assert (row.waiting_mean_ms, row.waiting_p95_ms) == (50, 50)
    # until its arguments existed (30), and until its worker had them (8)
    assert (row.waiting_arguments_ms, row.waiting_assignment_ms, row.waiting_other_ms) == (38, 10, 2)
    assert (row.running_total_ms, row.running_share) == (50_500, 1)
    assert (row.first_ms, row.last_ms) == (BEGAN_MS, BEGAN_MS + 1_050)


def test_what_has_not_ended_has_no_running_time_and_what_has_not_begun_no_waiting_time(add, attempt, scope):
    add(attempt(1, s1=0, s8=10, s11=30), attempt(2, s1=0, s8=10), attempt(3, s1=0))
    [row] = functions(scope()).functions
    assert (row.tasks, row.open, row.running_p50_ms, row.running_total_ms) == (3, 2, 20, 20)
    assert (row.waiting_mean_ms, row.last_ms) == (10, BEGAN_MS + 30)
    add(attempt(4, "g", s1=0))
    waits = functions(scope(), order="function").functions[1]
    assert (waits.running_p50_ms, waits.running_total_ms, waits.waiting_mean_ms) == (None, 0, None)
    assert (waits.waiting_arguments_ms, waits.running_share) == (None, 0)


def test_failures_and_retries_count_and_the_longest_in_all_comes_first(add, attempt, scope):
    add(
        attempt(1, "short", s1=0, s8=10, s12=20, error="WORKER_DIED"),
        attempt(1, "short", retry=1, s1=20, s8=30, s11=50),
        attempt(2, "long", s1=0, s8=10, s11=100),
    )
    answered = functions(scope())
    assert [(row.function, row.tasks, row.failed, row.retried) for row in answered.functions] == [
        ("long", 1, 0, 0),
        ("short", 2, 1, 1),
    ]
    assert [row.running_share for row in answered.functions] == [0.75, 0.25]
    assert (answered.all_functions, answered.tasks, answered.failed, answered.running_total_ms) == (2, 3, 1, 120)
    first = functions(scope(), order="-failed", limit=1)
    assert ([row.function for row in first.functions], first.all_functions, first.tasks) == (["short"], 2, 3)
    assert first.functions[0].running_share == 0.25


def test_one_job_is_asked_for_by_its_id_or_its_submission(add, attempt, scope, made):
    add(
        attempt(1, "mine", s1=0, s8=1, s11=2),
        attempt(2, "theirs", job="02000000", s1=0, s8=1, s11=2),
        ("EXPORT_DRIVER_JOB", {"job_id": "AgAAAA==", "config": {"metadata": {"job_submission_id": "nightly"}}}),
    )
    for job, names in (("01000000", ["mine"]), ("02000000", ["theirs"]), ("nightly", ["theirs"])):
        assert [row.function for row in functions(scope(), job=job).functions] == names
    with pytest.raises(NotFoundError, match=r"job 'daily': session_\S+ has no such job; there are nightly"):
        functions(scope(), job="daily")


def test_a_wrong_column_is_refused_and_none_of_a_session_without_tasks(add, node, scope):
    add(node("aa" * 28))
    with pytest.raises(ConfigError, match="order '-runing_total_ms'; did you mean running_total_ms"):
        functions(scope(), order="-runing_total_ms")
    answered = functions(scope())
    assert (answered.functions, answered.all_functions, answered.running_total_ms) == ((), 0, 0)


def test_the_sql_gives_the_same_rows_and_a_moment_what_was_known_then(add, attempt, scope, made):
    assert isinstance(made, Store)
    add(*(attempt(number, s1=0, s8=number, s11=10 * number) for number in range(1, 9)))
    answered = functions(scope())
    asked = made.sql(answered.sql)
    [row] = [dict(zip(asked.columns, row, strict=True)) for row in asked.rows]
    assert {name: getattr(answered.functions[0], name) for name in row} == row
    [then] = functions(scope(BEGAN_MS + 45)).functions
    assert (then.tasks, then.open) == (8, 4)


def test_a_sealed_session_answers_the_same_from_its_sums_at_last_and_before_its_end(
    add, attempt, node, scope, made, monkeypatch
):
    monkeypatch.setattr(spans, "FEW_TASKS", 0)
    add(
        node("aa" * 28, reason="EXPECTED_TERMINATION"),
        *(attempt(number, "load", s1=0, s2=7, s8=10 + number, s11=1000 + 10 * number) for number in range(100)),
        *(attempt(number, "late", s1=10_000, s8=10_010, s12=60_000, error="NODE_DIED") for number in range(100, 105)),
    )
    before = BEGAN_MS + 59_000
    live = [functions(scope(at_ms)) for at_ms in (None, before)]
    made.seal(scope().cluster.session)
    made.cache(scope().cluster.session)
    assert scope().snapshot.rollup("functions")
    assert scope(before).snapshot.rollup("functions")
    for expected, answered in zip(live, (functions(scope()), functions(scope(before))), strict=True):
        assert (answered.tasks, answered.failed, answered.sql) == (expected.tasks, expected.failed, expected.sql)
        assert len(answered.functions) == len(expected.functions)
        for row, other in zip(answered.functions, expected.functions, strict=True):
            assert row.last_ms is not None
            assert other.last_ms is not None
            assert other.last_ms <= row.last_ms <= (BEGAN_MS + 60_000 if expected is live[0] else before)
            for name in set(row.__struct_fields__) - {"last_ms"}:
                expected_value = getattr(other, name)
                near = name.startswith(("running_p", "waiting_p")) and expected_value is not None
                assert getattr(row, name) == (pytest.approx(expected_value, rel=0.021) if near else expected_value), (
                    name
                )
    late = functions(scope(before)).functions[1]
    assert (late.function, late.failed, late.open, late.running_p50_ms) == ("late", 0, 5, None)
