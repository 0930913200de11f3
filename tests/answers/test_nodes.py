"""Nodes: what ran on each, what was lost with it, and which was slower than the others."""

import pytest
from tests.server.conftest import b64

from raytrail.answers import spans
from raytrail.answers.nodes import node as one_node
from raytrail.answers.nodes import nodes
from raytrail.errors import ConfigError, NotFoundError

HEAD, LOST, SLOW = "aa" * 28, "bb" * 28, "cc" * 28
LAST_MS = 1_795_419_690_500
ACTOR = "0102030405060708090a0b0c01000000"


@pytest.fixture
def cluster(add, attempt, node):
    """A head, a node that died with a task and an actor, and one that is three times slower at ``map``."""

    def mapped(first, node_id, ms):
        return [attempt(first + n, "map", node=node_id, s1=0, s8=10, s11=10 + ms + n % 3) for n in range(20)]

    add(
        node(HEAD, head=True),
        node(LOST, reason="UNEXPECTED_TERMINATION"),
        node(SLOW),
        *mapped(100, HEAD, 100),
        *mapped(200, LOST, 110),
        *mapped(300, SLOW, 330),
        attempt(1, "load", node=LOST, s1=0, s8=10, s12=60_000, error="NODE_DIED"),
        attempt(1, "load", retry=1, node=HEAD, s1=60_000, s8=60_010, s11=60_020),
        attempt(2, "Keeper.add", node=LOST, actor=ACTOR, s1=0, s8=20, s12=60_000, error="ACTOR_DIED"),
        attempt(3, "load", node=SLOW, s1=0, s8=10, s12=20, error="TASK_EXECUTION_EXCEPTION"),
        (
            "EXPORT_ACTOR",
            {
                "actor_id": b64(ACTOR),
                "job_id": "AQAAAA==",
                "class_name": "Keeper",
                "state": "DEAD",
                "node_id": b64(LOST),
                "death_cause": {"actor_died_error_context": {"reason": "NODE_DIED"}},
            },
        ),
    )


def test_a_node_that_died_comes_first_with_what_it_took_with_it(cluster, scope, made):
    answered = nodes(scope())
    lost, slow, head = answered.nodes
    assert (lost.node_id, lost.state, lost.death_reason) == (LOST, "DEAD", "UNEXPECTED_TERMINATION")
    assert lost.state_message == "Unexpected termination: it said nothing"
    assert (lost.tasks, lost.failed, lost.functions) == (22, 2, 3)
    assert (lost.lost_tasks, lost.lost_actors, lost.lost_objects) == (2, 1, 0)
    assert (head.node_id, head.lost_tasks, head.failed, head.resources) == (HEAD, 0, 0, {"CPU": 4.0})
    assert (slow.failed, slow.lost_tasks, slow.slow_functions) == (1, 0, 1)
    assert (answered.all_nodes, answered.dead) == (3, 1)
    assert sum(row.running_share for row in answered.nodes) == pytest.approx(1)
    assert len(made.sql(answered.sql).rows) == 3


def test_a_node_is_slow_by_its_median_against_the_others(cluster, scope, made):
    [slow] = nodes(scope()).slow
    assert (slow.node_id, slow.node_name, slow.function) == (SLOW, "node-cc", "map")
    assert (slow.running_p50_ms, slow.others_p50_ms) == (331, 106)
    assert slow.slower == pytest.approx(331 / 106)
    assert len(made.sql(nodes(scope()).slow_sql).rows) == 7


def test_few_attempts_say_nothing_about_a_node(add, attempt, node, scope):
    add(node(HEAD), node(SLOW))
    add(*(attempt(n, node=HEAD, s1=0, s8=10, s11=20) for n in range(20)))
    add(*(attempt(100 + n, node=SLOW, s1=0, s8=10, s11=9000) for n in range(19)))
    assert nodes(scope()).slow == ()


def test_one_node_in_full_names_the_tasks_and_actors_that_were_lost(cluster, scope, made):
    answered = one_node(scope(), LOST[:6])
    assert answered.node.node_id == LOST
    assert [(row.function, row.tasks, row.others_p50_ms) for row in answered.functions] == [
        ("load", 1, None),
        ("Keeper.add", 1, None),
        ("map", 20, 216),
    ]
    load, add = answered.lost_tasks
    assert (load.function, load.error_type, load.again) == ("load", "NODE_DIED", "FINISHED")
    assert (add.function, add.actor_id, add.again) == ("Keeper.add", ACTOR, None)
    assert [(actor.actor_id, actor.class_name) for actor in answered.lost_actors] == [(ACTOR, "Keeper")]
    assert len(made.sql(answered.lost_sql).rows) == 2


def test_nodes_are_sorted_by_any_column_and_a_wrong_one_is_refused(cluster, scope):
    assert [row.node_id for row in nodes(scope(), order="node_id").nodes] == [HEAD, LOST, SLOW]
    assert nodes(scope(), order="-failed", limit=1).nodes[0].node_id == LOST
    with pytest.raises(ConfigError, match="order 'taks'; did you mean tasks"):
        nodes(scope(), order="taks")
    with pytest.raises(NotFoundError, match="node 'dd': the session has no such node"):
        one_node(scope(), "dd")


def test_a_node_that_only_its_tasks_tell_of_is_there(add, attempt, scope):
    add(attempt(1, node=SLOW, s1=0, s8=10, s11=20))
    [row] = nodes(scope()).nodes
    assert (row.node_id, row.state, row.tasks) == (SLOW, None, 1)


def test_a_sealed_session_answers_the_same_from_its_sums(cluster, scope, made, monkeypatch):
    monkeypatch.setattr(spans, "FEW_TASKS", 0)

    def answers(scope):
        return nodes(scope), one_node(scope, LOST)

    live, live_node = answers(scope())
    made.seal(scope().cluster.session)
    made.cache(scope().cluster.session)
    assert scope().snapshot.rollup("functions")
    sealed, sealed_node = answers(scope(LAST_MS))
    figures = ("tasks", "failed", "functions", "running_total_ms", "lost_tasks", "lost_actors", "slow_functions")
    for from_sums, from_rows in zip(sealed.nodes, live.nodes, strict=True):
        assert from_sums.running_share == pytest.approx(from_rows.running_share)
        assert [getattr(from_sums, name) for name in figures] == [getattr(from_rows, name) for name in figures]
    [slow] = sealed.slow
    assert slow.slower == pytest.approx(live.slow[0].slower, rel=0.05)
    assert sealed_node.lost_tasks == live_node.lost_tasks
    assert [row.running_total_ms for row in sealed_node.functions] == [
        row.running_total_ms for row in live_node.functions
    ]
