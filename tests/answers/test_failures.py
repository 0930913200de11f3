"""What failed, grouped: roots before consequences, over one session and over all."""

import pytest
from tests.server.conftest import MADE, SESSION, b64

from raytrail.answers import Scope
from raytrail.answers.failures import all_failures, failure_rows, failures_of
from raytrail.answers.run import run_of
from raytrail.errors import ConfigError, NotFoundError

JOB = "01000000"
NODE, DEAD_NODE = "aa" * 28, "dd" * 28
ACTOR = "cc" * 12 + JOB
BEGAN_MS = 1_795_400_000_000


def raised(text, function="train"):
    return (
        f'User exception:\nray::{function}() (pid=7, ip=192.0.2.2)\n  File "/app/t.py", line 3, in {function}\n{text}'
    )


@pytest.fixture
def failed(task):
    """Make an event of a task that failed a number of seconds after the beginning."""

    def failed(number, message, seconds=1, *, kind="TASK_EXECUTION_EXCEPTION", attempt=0, node=NODE, **info):
        source_type, data = task(number, attempt, **info)
        ns = (BEGAN_MS + seconds * 1000) * 1_000_000
        data["state_updates"] = {
            "node_id": b64(node),
            "error_info": {"error_type": kind, "error_message": message},
            "state_ts_ns": {"1": str(ns - 1), "12": str(ns)},
        }
        return source_type, data

    return failed


@pytest.fixture
def finished(task):
    def finished(number, seconds=2, *, attempt=1):
        source_type, data = task(number, attempt)
        ns = (BEGAN_MS + seconds * 1000) * 1_000_000
        data["state_updates"] = {"node_id": b64(NODE), "state_ts_ns": {"1": str(ns - 1), "11": str(ns)}}
        return source_type, data

    return finished


def node(node_id, *, ended_seconds=None, **death):
    state: dict[str, object] = {"state": "ALIVE"}
    if ended_seconds is not None:
        state = {"state": "DEAD", "end_time_ms": str(BEGAN_MS + ended_seconds * 1000), "death_info": death}
    return "EXPORT_NODE", {"node_id": b64(node_id), "is_head_node": False, "start_time_ms": str(BEGAN_MS), **state}


def died(reason, message, **more):
    context = {"reason": reason, "error_message": message, **more}
    data = {"actor_id": b64(ACTOR), "job_id": b64(JOB), "class_name": "Net", "state": "DEAD", "node_id": b64(DEAD_NODE)}
    return "EXPORT_ACTOR", data | {"death_cause": {"actor_died_error_context": context}}


def ask(store, session=MADE, at_ms=None, **asked):
    cluster = store.find(session)
    return failures_of(Scope(store, cluster, store.snapshot(cluster.session, at_ms)), **asked)


def test_failures_of_one_signature_are_one_group_with_its_functions_nodes_and_first_traceback(made, add, failed):
    add(
        node(NODE),
        *(failed(n, raised(f"ValueError: row {n} is negative"), n) for n in range(1, 5)),
        failed(9, raised("KeyError: 'x'", "load"), 9, func_or_class_name="load"),
    )
    answer = ask(made)
    assert (answer.count, answer.tasks, answer.groups_count) == (5, 5, 2)
    group, other = answer.groups
    assert (group.error, group.text, group.frame) == ("ValueError", "row <n> is negative", "t.py:train")
    assert (group.count, group.share, group.own) == (4, 0.8, 4)
    assert (group.first_ms, group.last_ms) == (BEGAN_MS + 1_000, BEGAN_MS + 4_000)
    assert sum(group.bins) == 4
    assert [(part.name, part.count) for part in group.functions] == [("f", 4)]
    assert [(part.name, part.count) for part in group.nodes] == [(NODE, 4)]
    assert (group.example_id, group.example_attempt, group.example_job_id) == (f"{1:040x}{JOB}", 0, JOB)
    assert group.traceback == raised("ValueError: row 1 is negative")
    assert (other.frame, other.functions[0].name) == ("t.py:load", "load")


def test_what_ended_with_a_node_is_under_the_nodes_death_also_its_actors_tasks(made, add, failed):
    gone = "Task failed because the node it was running on is dead or unavailable."
    add(
        node(NODE),
        node(DEAD_NODE, ended_seconds=60, reason="UNEXPECTED_TERMINATION", reason_message="missed 5 heartbeats"),
        died("NODE_DIED", f"The actor died because its node has died. Node Id: {DEAD_NODE}"),
        failed(1, gone, 61, kind="NODE_DIED", node=DEAD_NODE),
        failed(2, "Socket closed", 61, kind="ACTOR_UNAVAILABLE", type="ACTOR_TASK", actor_id=b64(ACTOR)),
        failed(3, raised("ValueError: its own"), 61, node=DEAD_NODE),
        failed(4, "lost long before", 3, kind="WORKER_DIED", node=DEAD_NODE),
    )
    first, *others = ask(made).groups
    assert (first.kind, first.error, first.own) == ("node", "NODE_DIED", 1)
    assert first.text == "Unexpected termination: missed <n> heartbeats"
    assert first.example_id == DEAD_NODE
    assert [(c.kind, c.via, c.error) for c in first.consequences] == [
        ("actor", "node", "ACTOR_DIED"),
        ("task", "node", "ACTOR_UNAVAILABLE"),
        ("task", "node", "NODE_DIED"),
    ]
    assert sorted(other.text for other in others) == ["its own", "lost long before"]


def test_tasks_of_an_actor_that_somebody_killed_are_under_that_though_it_is_no_failure(made, add, failed):
    words = "The actor is dead because it was killed by `ray.kill`."
    add(
        died("RAY_KILL", words),
        *(failed(n, words, kind="ACTOR_DIED", type="ACTOR_TASK", actor_id=b64(ACTOR)) for n in (1, 2)),
    )
    answer = ask(made)
    [group] = answer.groups
    assert (answer.count, answer.consequences) == (2, 2)
    assert (group.kind, group.text, group.count, group.own) == ("actor", words, 2, 0)


def test_tasks_that_follow_from_an_actors_end_that_was_wanted_are_not_said_to_be_actors(made, add, failed):
    of_actor = {"kind": "ACTOR_DIED", "type": "ACTOR_TASK", "actor_id": b64(ACTOR)}
    add(
        node(NODE),
        died("RAY_KILL", "The actor is dead because it was killed by `ray.kill`."),
        *(failed(n, f"The actor is dead: {n}", 61, **of_actor) for n in (1, 2)),
    )
    cluster = made.find(MADE)
    evidence = run_of(Scope(made, cluster, made.snapshot(cluster.session))).why.evidence
    [sentence] = [item.text for item in evidence if item.kind == "actor"]
    assert sentence.startswith("2 failures followed from the end of an actor")


def test_a_task_whose_argument_failed_is_under_the_arguments_failure(made, add, failed):
    cause = raised("ValueError: bad 7").removeprefix("User exception:\n")
    add(
        failed(1, raised("ValueError: bad 7")),
        failed(
            2,
            "User exception:\nray::g() (pid=7, ip=192.0.2.2)\n  At least one of the input arguments for this task "
            f"could not be computed:\nray.exceptions.RayTaskError: {cause}",
        ),
    )
    [group] = ask(made).groups
    assert (group.count, group.own) == (2, 1)
    assert [(c.via, c.count) for c in group.consequences] == [("argument", 1)]


def test_attempts_that_a_later_one_made_good_are_told_apart(made, add, failed, finished):
    add(failed(1, raised("OSError: 1")), finished(1), failed(2, raised("OSError: 2")))
    answer = ask(made)
    assert (answer.count, answer.recovered, answer.groups[0].recovered) == (2, 1, 1)
    # nobody knew it yet
    made.seal(MADE)
    before = ask(made, at_ms=BEGAN_MS + 1_500)
    assert (before.count, before.recovered) == (2, 0)


def test_what_was_only_open_when_its_job_ended_comes_last(made, add, failed):
    add(
        failed(1, raised("OSError: 1")),
        *(failed(n, f"Job finishes ({JOB}) as driver exits. Marking all.", kind="WORKER_DIED") for n in (2, 3)),
    )
    answer = ask(made)
    assert [(group.error, group.ended) for group in answer.groups] == [("OSError", False), ("WORKER_DIED", True)]
    assert answer.ended == 2


def test_a_job_has_its_own_failures_and_one_that_is_not_there_is_said(made, add, failed):
    other = failed(2, raised("KeyError: 2"))
    other[1]["job_id"] = b64("02000000")
    job = {"start_time": "5", "is_dead": False}
    add(
        failed(1, raised("OSError: 1")),
        other,
        ("EXPORT_DRIVER_JOB", {"job_id": b64(JOB), **job}),
        ("EXPORT_DRIVER_JOB", {"job_id": b64("02000000"), **job}),
    )
    [group] = ask(made, job="02000000").groups
    assert group.error == "KeyError"
    scope = Scope(made, made.find(MADE), made.snapshot(MADE))
    [row] = failure_rows(scope, group.hash, job="02000000").failures
    assert (row.kind, row.id, row.attempt_number) == ("task", group.example_id, 0)
    with pytest.raises(NotFoundError, match="failures 'abc': nothing in"):
        failure_rows(scope, "abc")
    with pytest.raises(NotFoundError, match=r"job '0300': .* has no such job"):
        ask(made, job="0300")
    with pytest.raises(ConfigError, match="limit 0 is not from 1 to 500"):
        ask(made, limit=0)


def test_the_tables_and_files_of_a_real_session_and_raytrail_sql_say_the_same(store):
    of_tables = ask(store, SESSION)
    assert (of_tables.count, of_tables.groups_count) == (43, 14)
    assert (of_tables.groups[0].text, of_tables.groups[0].count) == ("boom <n>", 20)
    of_files = store.snapshot(SESSION)
    of_files._attach = False
    cluster = store.find(SESSION)
    assert failures_of(Scope(store, cluster, of_files)) == of_tables
    rows = store.sql(f"SELECT count(*) FROM ({of_tables.sql}) WHERE counted").rows
    assert rows == [(of_tables.count,)]


def test_all_failures_are_of_the_catalogue_and_new_ones_are_told(made, add, failed):
    for number, texts in enumerate((["OSError: 1"], ["OSError: 2", "KeyError: 3"])):
        session = MADE[:-1] + str(number)
        start = node(NODE)
        start[1]["start_time_ms"] = str(BEGAN_MS + number)
        add(start, *(failed(n, raised(text)) for n, text in enumerate(texts, 1)), session=session, cluster="nightly")
        made.seal(session)
    answer = all_failures(made, name="nightly")
    assert (answer.sessions_count, answer.sessions_failed, answer.count) == (2, 2, 3)
    assert [(g.error, g.count, g.sessions_count, g.new) for g in answer.groups] == [
        ("OSError", 2, 2, False),
        ("KeyError", 1, 1, True),
    ]
    assert [(row.error, row.count) for row in made.signatures([MADE[:-1] + "0"], 1)[0][MADE[:-1] + "0"]] == [
        ("OSError", 1)
    ]
    last = ask(made, MADE[:-1] + "1")
    assert [(g.error, g.runs_seen, g.new) for g in last.groups] == [("KeyError", 0, True), ("OSError", 1, False)]
    assert last.runs == 1
    with pytest.raises(NotFoundError, match="cluster 'daily': not in the store"):
        all_failures(made, name="daily")


def test_failures_of_living_sessions_are_worked_out(made, add, failed):
    add(failed(1, raised("OSError: 1")))
    assert [group.error for group in all_failures(made).groups] == ["OSError"]
    add(failed(2, raised("KeyError: 1")))
    assert sorted(group.error for group in all_failures(made).groups) == ["KeyError", "OSError"]
