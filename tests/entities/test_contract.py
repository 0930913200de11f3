"""Every entity against `raytrail.testing.check_entity`, with made-up events and with those of a real session."""

import base64
import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.sources import posted
from tests.sources.posted import declared_event

from raytrail.entities import installed
from raytrail.entities.enumerations import TASK_STATES
from raytrail.fold.layout import stored
from raytrail.fold.lines import sort_out
from raytrail.testing import check_entity
from raytrail.testing.entities import line

ids = st.integers(0, 2).map(lambda n: base64.b64encode(bytes([n + 1]) * 24).decode())
texts = st.sampled_from(["", "a", "b"])
ints = st.sampled_from(["0", "1795419645785137628", "1795419645785137629"])
maps = st.sampled_from([{}, {"CPU": 1}, {"CPU": 0.5, "é": 2}])
spans = st.lists(
    st.fixed_dictionaries(
        {
            "event_name": st.sampled_from(["task::f", "task:execute"]),
            "start_time": ints,
            "end_time": ints,
            "extra_data": st.just("{}"),
        }
    ),
    max_size=2,
    unique_by=lambda span: tuple(sorted(span.items())),  # in whatever order its fields are
)


def some(**fields):
    """An object with some of these fields, as Ray leaves out what is not known."""
    return st.fixed_dictionaries({}, optional=fields)


STRATEGIES = {
    "task": st.builds(
        lambda key, rest: {**key, **rest},
        st.fixed_dictionaries({"task_id": ids, "attempt_number": st.integers(0, 1), "job_id": st.just("AQAAAA==")}),
        some(
            task_info=some(type=st.just("NORMAL_TASK"), func_or_class_name=st.just("f"), required_resources=maps),
            state_updates=some(
                node_id=ids,
                worker_pid=st.integers(0, 3),
                error_info=some(error_type=st.just("WORKER_DIED"), error_message=texts),
                state_ts_ns=st.dictionaries(st.sampled_from([str(n) for n, _ in TASK_STATES]), ints, max_size=3),
            ),
            profile_events=some(component_id=ids, component_type=st.just("worker"), events=spans),
        ),
    ),
    "actor": st.fixed_dictionaries(
        {
            "actor_id": ids,
            "state": st.sampled_from(["PENDING_CREATION", "ALIVE", "RESTARTING", "DEAD"]),
            "pid": st.integers(0, 2),
            "name": texts,
            "node_id": st.one_of(st.just(""), ids),
            "death_cause": st.sampled_from([{}, {"actor_died_error_context": {"reason": "RAY_KILL"}}]),
        }
    ),
    "node": st.fixed_dictionaries(
        {
            "node_id": ids,
            "state": st.sampled_from(["ALIVE", "DEAD"]),
            "end_time_ms": ints,
            "resources_total": maps,
        }
    ),
    "driver_job": st.fixed_dictionaries(
        {"job_id": ids, "is_dead": st.booleans(), "end_time": ints, "config": some(metadata=maps)}
    ),
    "submission_job": st.fixed_dictionaries(
        {
            "submission_job_id": st.sampled_from(["s1", "s2"]),
            "status": st.sampled_from(["PENDING", "RUNNING", "FAILED"]),
            "message": texts,
            "driver_exit_code": st.sampled_from([None, 3]),
            "end_time": ints,
        }
    ),
    "dataset": st.fixed_dictionaries(
        {
            "dataset_id": st.sampled_from(["d1", "d2"]),
            "state": st.sampled_from(["PENDING", "RUNNING", "FINISHED"]),
            "start_time": st.sampled_from([0.0, 1795419748.1057112]),
            "topology": st.just({"operators": [{"name": "Input", "args": {"a": "1"}}]}),
        }
    ),
    "cluster_event": st.builds(
        lambda id, rest: {"event_id": id, "label": f"label of {id}", **rest},
        st.sampled_from(["e1", "e2"]),
        st.sampled_from([{"pid": "7", "host_name": "h"}, {"source_pid": 7, "source_hostname": "h"}]),
    ),
    "operator_schema": st.fixed_dictionaries({"operator_uuid": st.sampled_from(["u1", "u2"]), "schema_fields": maps}),
    "operator_event": st.fixed_dictionaries(
        {
            "dataset_id": st.sampled_from(["d1"]),
            "operator_id": st.sampled_from(["o1", "o2"]),
            "event_type": st.just("ISSUE_DETECTION_HANGING"),
            "event_time": st.sampled_from([1.5, 2.5]),
            "message": st.just("m"),
        }
    ),
    "train_run": st.fixed_dictionaries(
        {
            "id": st.sampled_from(["r1", "r2"]),
            "status": st.sampled_from(["RUNNING", "FINISHED"]),
            "job_id": ids,
        }
    ),
    "train_run_attempt": st.fixed_dictionaries(
        {
            "run_id": st.just("r1"),
            "attempt_id": st.sampled_from(["a1", "a2"]),
            "status": st.sampled_from(["PENDING", "RUNNING", "FINISHED"]),
            "workers": st.sampled_from([[], [{"world_rank": 0}]]),
        }
    ),
    "serve_instance": st.fixed_dictionaries(
        {
            "actor_id": st.sampled_from(["01ff", "02ff"]),
            "state": st.sampled_from(["RUNNING", "SHUT_DOWN"]),
            "http_options": st.sampled_from([{}, {"port": 8000}]),
            "target_capacity": st.sampled_from([None, 50.0]),
            "rest_fields": st.sampled_from([{}, {"Target": ["ip", "port"]}]),
        }
    ),
    "serve_proxy": st.fixed_dictionaries(
        {
            "node_id": st.just("1f"),
            "actor_id": st.sampled_from(["01ff", "02ff"]),
            "status": st.sampled_from(["STARTING", "HEALTHY", "STOPPED"]),
            "actor_name": texts,
        }
    ),
    "serve_application": st.fixed_dictionaries(
        {
            "name": st.sampled_from(["app1", "app2"]),
            "status": st.sampled_from(["DEPLOYING", "RUNNING", "DEPLOY_FAILED", "DELETED"]),
            "message": texts,
            "route_prefix": st.sampled_from([None, "/a"]),
            "last_deployed_time_s": st.sampled_from([1795419748.1057112, 1795419749.5]),
            "deployed_app_config": st.sampled_from([None, {"name": "app1"}]),
            "deployments": st.sampled_from([[], ["d1"]]),
        }
    ),
    "serve_deployment": st.fixed_dictionaries(
        {
            "app_name": st.just("app1"),
            "name": st.sampled_from(["d1", "d2"]),
            "status": st.sampled_from(["UPDATING", "HEALTHY", "DELETED"]),
            "status_trigger": st.just("CONFIG_UPDATE_STARTED"),
            "message": texts,
            "target_num_replicas": st.integers(0, 3),
            "docs_path": st.sampled_from([None, "/docs"]),
        }
    ),
    "serve_replica": st.builds(
        lambda key, rest: {**key, **rest},
        st.fixed_dictionaries(
            {
                "app_name": st.just("app1"),
                "deployment_name": st.sampled_from(["d1", "d2"]),
                "replica_id": st.sampled_from(["r1", "r2"]),
                "state": st.sampled_from(["STARTING", "RUNNING", "STOPPED"]),
            }
        ),
        some(actor_id=st.just("01ff"), pid=st.integers(1, 3), start_time_s=st.sampled_from([0, 1795419748.5])),
    ),
    "dataset_progress": st.fixed_dictionaries(
        {
            "dataset_id": st.sampled_from(["d1", "d2"]),
            "state": st.sampled_from(["PENDING", "RUNNING", "FINISHED"]),
            "progress": st.integers(0, 3),
            "operators": st.sampled_from([[], [{"operator_id": "Input0", "state": "RUNNING", "progress": 1}]]),
        }
    ),
    "placement_group": st.fixed_dictionaries(
        {
            "placement_group_id": ids,
            "state": st.sampled_from(["PENDING", "CREATED", "RESCHEDULING", "REMOVED"]),
            "name": texts,
            "bundles": st.sampled_from([[], [{"unit_resources": {"CPU": 1.0}, "node_id": ""}]]),
            "placement_group_creation_timestamp_ms": st.sampled_from(["0", "1795419645785"]),
            "since_ns": ints,
        }
    ),
    "object": st.fixed_dictionaries(
        {
            "object_id": ids,
            "worker_id": ids,
            "change": st.sampled_from(["CREATED", "UPDATED", "DELETED"]),
            "object_size": st.integers(-1, 1),
            "task_status": st.sampled_from(["NIL", "FINISHED"]),
        }
    ),
    "worker": st.builds(
        lambda id, rest: {"worker_id": id, "worker_type": "WORKER", "pid": 7, **rest},
        ids,
        st.one_of(
            st.fixed_dictionaries({"is_alive": st.just(True), "num_paused_threads": st.integers(0, 1)}),
            st.fixed_dictionaries(
                {"is_alive": st.just(False), "exit_type": st.just("SYSTEM_ERROR"), "end_time_ms": ints}
            ),
        ),
    ),
    "object_gap": st.fixed_dictionaries(
        {"node_id": ids, "until_ns": ints, "unseen_objects": st.integers(0, 2), "truncated": st.booleans()}
    ),
    "snapshot": st.fixed_dictionaries(
        {
            "resource": st.sampled_from(["tasks", "nodes"]),
            "at_ms": ints,
            "listed_rows": st.integers(0, 2),
            "truncated": st.booleans(),
            "total_rows": st.one_of(st.none(), st.integers(0, 3)),
        }
    ),
    "raylet": st.fixed_dictionaries(
        {
            "node_id": st.sampled_from(["aa", "bb"]),
            "seen_ms": st.integers(0, 9),
            "gone_ms": st.one_of(st.none(), st.integers(0, 9)),
        }
    ),
    "file": st.fixed_dictionaries(
        {
            "file": st.sampled_from(["f1", "f2"]),
            "generation": st.integers(0, 1),
            "written_bytes": st.integers(0, 9),
        }
    ),
}


def test_every_entity_with_events_has_a_strategy():
    assert STRATEGIES.keys() == {entity.name for entity in installed().values() if not entity.view}


@pytest.fixture(scope="module")
def captured():
    """Lines that a real Ray posted, with their types, by the entity that they tell of and what they are about."""
    lines: dict[str, dict[str, list[tuple[str, bytes]]]] = {}
    for posted_event in (event for batch in posted.captured() for event in batch):
        entity, event = declared_event(posted_event["eventType"])
        keys = {column.name for column in entity.columns if column.merge == "key"}
        [key] = {field.path for field in event.columns if field.kind == "id" and field.column in keys}
        line = json.dumps(posted_event, separators=(",", ":")).encode()
        lines.setdefault(entity.name, {}).setdefault(posted_event[event.body][key], []).append(
            (posted_event["eventType"], line)
        )
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("name", [entity.name for entity in installed().values() if entity.posted])
def test_the_fold_of_what_is_posted_minds_neither_order_nor_form(name, captured):
    entity = installed()[name]
    chance = random.Random(name)
    # those of which the most is told, and others
    keys = sorted(captured[name], key=lambda key: len(captured[name][key]), reverse=True)
    for key in [*keys[:2], *chance.sample(keys, min(2, len(keys)))]:
        lines = captured[name][key][:12]
        as_files = [line for event_type, event in lines[::2] for line in sort_out(event_type, event).lines]
        check_entity(entity, as_files, posted=lines, seed=chance.randrange(2**32))


def test_every_entity_with_events_says_who_writes_them():
    assert [entity.name for entity in installed().values() if (entity.emitted is None) != bool(entity.view)] == []


def test_the_columns_that_an_entity_is_counted_and_told_apart_by_are_stored():
    for entity in installed().values():
        if entity.moments:
            named = {entity.moments.earliest, entity.moments.latest, *entity.moments.tallied}
            assert stored(entity).keys() >= named, entity.name


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_the_fold_minds_neither_order_nor_repetition(name):
    entity = installed()[name]

    @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(st.tuples(st.integers(1795419640, 1795419642), STRATEGIES[name]), min_size=1, max_size=6),
        st.integers(0, 2**32),
    )
    def check(events, seed):
        # a writer's file is in the order of its timestamps
        events.sort(key=lambda event: event[0])
        ours = any(column.origin == "time_ns" for column in entity.columns)
        lines = [line(entity, s, data, time_ns=s * 10**9 + 5 if ours else None) for s, data in events]
        check_entity(entity, lines, seed=seed)

    check()
