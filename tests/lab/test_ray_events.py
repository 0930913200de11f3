"""A made bucket against what it says of itself: line by line, and as a history that was imported from it."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from click.testing import CliRunner
from lab.ray_events import bodies, lay_bucket, posted

from raytrail.cli import main
from raytrail.store import Store

SEED = 10  # one in which a task never ends and an actor is restarted


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bucket")
    return directory, lay_bucket(directory, tasks=500, seed=SEED)


def lines(directory):
    return [line for path in sorted(directory.rglob("*.jsonl")) for line in path.read_bytes().splitlines()]


def test_the_same_arguments_give_the_same_bytes(bucket, tmp_path):
    directory, made = bucket
    assert lay_bucket(tmp_path / "again", tasks=500, seed=SEED) == made
    assert lines(tmp_path / "again") == lines(directory)
    lay_bucket(tmp_path / "other", tasks=500, seed=SEED + 1)
    assert not set(lines(tmp_path / "other")) & set(lines(directory))


def test_an_attempt_has_five_events_of_the_size_that_rays_have(bucket):
    directory, made = bucket
    events = [json.loads(line) for line in lines(directory)]
    assert (len(events), sum(len(line) + 1 for line in lines(directory))) == (made.events, made.bytes)
    assert made.task_states["RUNNING"]
    assert made.actor_restarts
    types = Counter(event["eventType"] for event in events)
    closed = made.attempts - made.task_states["RUNNING"]
    assert types["TASK_DEFINITION_EVENT"] + types["ACTOR_TASK_DEFINITION_EVENT"] == made.attempts
    assert types["TASK_LIFECYCLE_EVENT"] == 2 * made.attempts + closed
    assert types["TASK_PROFILE_EVENT"] == closed
    assert 790 < made.bytes / made.events < 830


def test_what_is_posted_is_what_is_in_the_bucket(bucket):
    directory, made = bucket
    batches = [json.loads(body) for body in bodies(posted(directory), size=100)]
    assert {len(batch) for batch in batches[:-1]} == {100}
    events = [event for batch in batches for event in batch]
    assert [event["timestamp"] for event in events] == sorted(event["timestamp"] for event in events)
    assert {tuple(event)[:3] for event in events} == {("eventId", "sourceType", "eventType")}
    assert len(events) == made.events
    by_id = {event["eventId"]: event for event in events}
    assert by_id == {event["eventId"]: event for event in map(json.loads, lines(directory))}


@pytest.mark.slow
def test_its_history_has_what_it_says(bucket, tmp_path):
    directory, made = bucket
    result = CliRunner().invoke(main, ["import", str(directory), "--store", str(tmp_path / "store")])
    assert result.exit_code == 0, result.output
    with Store.open(tmp_path / "store") as store:
        [cluster] = store.clusters()
        snapshot = store.snapshot(made.session)
        rows = {entity: snapshot.rows(entity) for entity in ("task", "actor", "driver_job", "node")}
    states = {entity: Counter(row["state"] for row in rows[entity]) for entity in ("task", "actor")}
    errors = Counter(row["error_type"] for row in rows["task"])
    assert (cluster.session, cluster.cluster, cluster.events) == (made.session, "default_made", made.events)
    assert states == {"task": made.task_final_states, "actor": made.actor_states}
    assert errors["TASK_EXECUTION_EXCEPTION"] == made.errors["TASK_EXECUTION_EXCEPTION"]
    assert sum(row["num_restarts"] for row in rows["actor"]) == made.actor_restarts
    assert [row["is_dead"] for row in rows["driver_job"]] == [True] * made.job_states["FINISHED"]
    assert len(rows["node"]) == made.nodes
