"""Serve's REST API polled: what is written of its answers. With a real Ray: test_live.py."""

import copy
import json

import pytest

from raytrail.sources.event_file import EventFiles
from raytrail.sources.serve_poll import EVENT_TYPES, ServePoll

CONTROLLER = {"node_id": "1f", "actor_id": "01", "actor_name": "SERVE_CONTROLLER_ACTOR"}
REPLICA = {"replica_id": "abc", "state": "RUNNING", "pid": 7, "start_time_s": 2.5, "node_id": "1f", "worker_id": None}
MODEL = {
    "name": "Model",
    "status": "HEALTHY",
    "status_trigger": "CONFIG_UPDATE_COMPLETED",
    "message": "",
    "deployment_config": {"name": "Model"},
    "target_num_replicas": 1,
    "required_resources": {"CPU": 1},
    "replicas": [REPLICA],
}
SHOP = {
    "name": "shop",
    "route_prefix": "/shop",
    "docs_path": "/docs",
    "status": "RUNNING",
    "message": "",
    "last_deployed_time_s": 1.5,
    "deployed_app_config": None,
    "source": "imperative",
    "deployments": {"Model": MODEL},
    "external_scaler_enabled": False,
    "deployment_topology": {
        "ingress_deployment": "Model",
        "nodes": {"Model": {"name": "Model", "outbound_deployments": [{"name": "Other", "app_name": "shop"}]}},
    },
}
ANSWER = {
    "controller_info": CONTROLLER,
    "proxy_location": "EveryNode",
    "http_options": {"port": 8001},
    "grpc_options": {},
    "proxies": {"1f": {"node_id": "1f", "actor_id": "02", "status": "HEALTHY"}},
    "applications": {"shop": SHOP},
    "target_capacity": None,
}


@pytest.fixture
def answer():
    return copy.deepcopy(ANSWER)


@pytest.fixture
def poll(tmp_path):
    return ServePoll(EventFiles(tmp_path), tmp_path, EVENT_TYPES)


@pytest.fixture
def events(tmp_path):
    def read(event_type):
        paths = sorted(tmp_path.glob(f"event_EXPORT_{event_type}_*"))
        return [json.loads(line)["event_data"] for path in paths for line in path.read_text().splitlines()]

    return read


def states(events, event_type):
    return [event.get("state") or event["status"] for event in events(event_type)]


def test_each_change_is_told_once_with_all_that_is_known_and_marked(poll, answer, events):
    for _ in range(2):
        poll.take(answer)
    assert events("SERVE_DEPLOYMENT") == [
        {
            "app_name": "shop",
            "name": "Model",
            "status": "HEALTHY",
            "status_trigger": "CONFIG_UPDATE_COMPLETED",
            "target_num_replicas": 1,
            "required_resources": {"CPU": 1},
            "message": "",
            "deployment_config": {"name": "Model"},
            "docs_path": "/docs",
            "polled": True,
        }
    ]
    [replica] = events("SERVE_REPLICA")
    assert replica == {
        "app_name": "shop",
        "deployment_name": "Model",
        "replica_id": "abc",
        "state": "RUNNING",
        "node_id": "1f",
        "pid": 7,
        "start_time_s": 2.5,
        "outbound_deployments": [{"name": "Other", "app_name": "shop"}],
        "polled": True,
    }
    answer["applications"]["shop"]["deployments"]["Model"]["target_num_replicas"] = 3
    poll.take(answer)
    assert [event["target_num_replicas"] for event in events("SERVE_DEPLOYMENT")] == [1, 3]
    assert [len(events(event_type)) for event_type in EVENT_TYPES] == [1, 1, 1, 2, 1]


def test_what_is_not_there_any_more_has_ended(poll, answer, events):
    poll.take(answer)
    poll.take({})
    poll.take({})
    assert {event_type: states(events, event_type) for event_type in EVENT_TYPES} == {
        "SERVE_INSTANCE": ["RUNNING", "SHUT_DOWN"],
        "SERVE_PROXY": ["HEALTHY", "STOPPED"],
        "SERVE_APPLICATION": ["RUNNING", "DELETED"],
        "SERVE_DEPLOYMENT": ["HEALTHY", "DELETED"],
        "SERVE_REPLICA": ["RUNNING", "STOPPED"],
    }


def test_what_serve_does_not_show_of_an_application_on_its_way_out_is_there_until_that_is_gone(poll, answer, events):
    poll.take(answer)
    leaving = {**SHOP, "status": "DELETING", "deployments": {}, "deployment_topology": None}
    poll.take({**answer, "applications": {"shop": leaving}})
    assert states(events, "SERVE_APPLICATION") == ["RUNNING", "DELETING"]
    assert states(events, "SERVE_REPLICA") == ["RUNNING"]
    poll.take({**answer, "applications": {}})
    assert states(events, "SERVE_DEPLOYMENT") == ["HEALTHY", "DELETED"]
    assert states(events, "SERVE_REPLICA") == ["RUNNING", "STOPPED"]


def test_a_poll_that_is_started_again_goes_on_where_the_last_one_was(poll, answer, events, tmp_path):
    poll.take(answer)
    again = ServePoll(EventFiles(tmp_path), tmp_path, EVENT_TYPES)
    again.take(answer)
    assert [len(events(event_type)) for event_type in EVENT_TYPES] == [1, 1, 1, 1, 1]
    again.take({})
    once_more = ServePoll(EventFiles(tmp_path), tmp_path, EVENT_TYPES)
    once_more.take({})
    assert states(events, "SERVE_APPLICATION") == ["RUNNING", "DELETED"]


def test_only_the_types_that_are_wanted_are_written(answer, tmp_path, events):
    ServePoll(EventFiles(tmp_path), tmp_path, ("SERVE_REPLICA",)).take(answer)
    assert [len(events(event_type)) for event_type in EVENT_TYPES] == [0, 0, 0, 0, 1]


def test_a_file_of_a_hook_is_told_from_those_of_polls(poll, answer, tmp_path):
    poll.take(answer)
    assert not poll.hooked()
    hooks = tmp_path / "event_EXPORT_SERVE_APPLICATION_1.log"
    hooks.write_bytes(b'{"event_data":{"name":"shop"')
    assert not poll.hooked(), "a line that is being written says nothing yet"
    hooks.write_bytes(b'{"event_data":{"name":"shop"}}\n')
    assert poll.hooked()


def test_an_answer_of_a_ray_without_a_topology_is_understood(poll, answer, events):
    for name in ("deployment_topology", "external_scaler_enabled"):
        del answer["applications"]["shop"][name]
    poll.take(answer)
    [app] = events("SERVE_APPLICATION")
    assert (app["deployments"], app["ingress_deployment"], app["external_scaler_enabled"]) == (["Model"], None, False)
    [instance] = events("SERVE_INSTANCE")
    assert instance["rest_fields"]["ApplicationDetails"] == sorted(
        SHOP.keys() - {"deployment_topology", "external_scaler_enabled"}
    )


def test_the_fields_of_an_answer_are_told_of_what_there_is_any_of(poll, answer, events):
    target = {"ip": "10.0.0.1", "port": 8000}
    poll.take({**answer, "target_groups": [{"targets": [target], "protocol": "HTTP"}]})
    [instance] = events("SERVE_INSTANCE")
    fields = instance["rest_fields"]
    assert fields["ServeInstanceDetails"] == sorted([*answer, "target_groups"])
    assert fields["DeploymentDetails"] == sorted(MODEL)
    assert (fields["TargetGroup"], fields["Target"]) == (["protocol", "targets"], ["ip", "port"])
    poll.take({**answer, "applications": {}})
    assert "ApplicationDetails" not in events("SERVE_INSTANCE")[-1]["rest_fields"]
