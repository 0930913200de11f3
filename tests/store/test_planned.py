"""What the engine is given to plan: no more than is asked for, as it plans longer than it answers."""

import base64

import pytest

from raytrail.entities import installed
from raytrail.store.engine import Engine
from raytrail.testing.entities import SESSION, chunk

T0 = 1795419640
ACTOR = base64.b64encode(b"\x02" * 16).decode()


@pytest.fixture
def planned(monkeypatch):
    """The statements that the engine was given."""
    statements = []
    query = Engine.query
    monkeypatch.setattr(
        Engine, "query", lambda self, sql, params=(): statements.append(sql) or query(self, sql, params)
    )
    return statements


@pytest.fixture
def alive(store, event):
    """A store with an actor, and nothing else."""
    store.append([chunk(installed()["actor"], [event("actor", T0, actor_id=ACTOR, state="ALIVE", name="a")])])
    store.fold()
    return store


def test_a_count_at_an_earlier_moment_does_not_ask_what_a_state_ends_with(alive, planned):
    assert alive.snapshot(SESSION, T0 * 1000 + 999).count("actor") == 1
    [statement] = planned
    assert "node died" not in statement


@pytest.mark.parametrize("at_ms", [None, T0 * 1000 + 999])
def test_what_has_no_event_is_not_worked_out(alive, planned, at_ms):
    [actor] = alive.snapshot(SESSION, at_ms).rows("actor")
    assert (actor["state"], actor["name"]) == ("ALIVE", "a")
    assert any("node died" in statement for statement in planned)
    assert not any("raylet gone" in statement for statement in planned)


def test_figures_of_what_has_no_event_are_not_asked_for(alive, planned):
    [cluster] = alive.clusters()
    assert (cluster.actors, cluster.tasks, cluster.nodes, cluster.last_event_ms) == (1, 0, 0, T0 * 1000)
    assert len(planned) < len(installed()) / 2


def test_only_states_that_were_known_before_are_joined(store, event, planned):
    def joins(state):
        planned.clear()
        line = event("actor", T0 + len(state), actor_id=ACTOR, state=state, name="a")
        store.append([chunk(installed()["actor"], [line], file=f"{T0}-{state}")])
        store.fold()
        return sum("touched_joined AS" in statement for statement in planned)

    assert [joins("ALIVE"), joins("RESTARTING")] == [0, 1]
    [actor] = store.snapshot(SESSION).rows("actor")
    assert (actor["state"], actor["num_restarts"]) == ("RESTARTING", 1)


@pytest.mark.parametrize("at_ms", [None, T0 * 1000 + 999])
def test_what_failed_in_a_living_session_is_asked_of_the_columns_that_it_is_told_by(alive, planned, at_ms):
    snapshot = alive.snapshot(SESSION, at_ms)
    assert snapshot.run(f"SELECT count(*) FROM {snapshot.failures()} WHERE counted") == [(0,)]
    statement = planned[-1]
    assert 'AS "death_cause"' in statement
    assert 'try_cast(("label_selector") AS JSON)' not in statement
