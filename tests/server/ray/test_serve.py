"""Serve's REST API over HTTP, on events made by hand; tests/sources/test_hooked_ray.py has Serve's own answers."""

from typing import Any

import pytest

pytest.importorskip("ray.serve")

from ray.serve.schema import ServeInstanceDetails

pytestmark = pytest.mark.anyio

PATH = "/clusters/latest/api/serve/applications/"
NO_SERVE: dict[str, Any] = {"controller_info": {}, "proxies": {}, "applications": {}, "target_capacity": None}


def application(**fields):
    known = {"name": "shop", "status": "RUNNING", "message": "", "route_prefix": "/shop", "last_deployed_time_s": 1.5}
    return "EXPORT_SERVE_APPLICATION", known | fields


def deployment(name="Model", **fields):
    known = {"app_name": "shop", "name": name, "status": "HEALTHY", "status_trigger": "CONFIG_UPDATE_COMPLETED"}
    return "EXPORT_SERVE_DEPLOYMENT", known | {"message": "", "target_num_replicas": 1} | fields


def replica(number, state="RUNNING", **fields):
    known = {"app_name": "shop", "deployment_name": "Model", "replica_id": f"r{number:02}", "state": state}
    return "EXPORT_SERVE_REPLICA", known | {"start_time_s": 2.5, "log_file_path": f"/serve/{number}.log"} | fields


def instance(state="RUNNING", **fields):
    data = {"actor_id": "01" * 16, "node_id": "0f" * 28, "state": state, "proxy_location": "EveryNode"}
    return "EXPORT_SERVE_INSTANCE", {**data, "http_options": {"port": 8001}, "grpc_options": {}, **fields}


def proxy(number, status="HEALTHY", **fields):
    data = {"node_id": f"{number:02}" * 28, "actor_id": f"{number:02}" * 16, "status": status, "node_ip": "10.0.0.1"}
    return "EXPORT_SERVE_PROXY", data | {"actor_name": f"SERVE_PROXY_ACTOR-{number}"} | fields


async def asked(client, path=PATH):
    """Ask, and let Ray's own schema, which forbids any field that it does not know, read the answer."""
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    ServeInstanceDetails(**answer.json())
    return answer.json()


async def test_a_cluster_without_serve_answers_as_rays_does(made_client, add, task):
    add(task(1))
    assert await asked(made_client) == ServeInstanceDetails.get_empty_schema_dict() == NO_SERVE


async def test_what_no_hook_told_has_what_rays_schema_asks_for_at_least(made_client, add):
    add(application(), deployment(), replica(1))
    [(name, shop)] = (await asked(made_client))["applications"].items()
    assert (name, shop["source"], shop["external_scaler_enabled"]) == ("shop", "unknown", False)
    assert shop["deployments"]["Model"]["deployment_config"] == {"name": "Model"}
    assert [shown_replica["replica_id"] for shown_replica in shop["deployments"]["Model"]["replicas"]] == ["r01"]


async def test_an_application_that_is_being_deleted_shows_no_deployments_as_serve_does(made_client, add):
    add(application(), application(status="DELETING"), deployment())
    shop = (await asked(made_client))["applications"]["shop"]
    assert (shop["deployments"], shop["deployment_topology"]) == ({}, None)


async def test_a_deployment_that_is_none_of_its_applications_any_more_is_left_out(made_client, add):
    add(application(deployments=["Model"]), deployment(), deployment("Old"))
    assert list((await asked(made_client))["applications"]["shop"]["deployments"]) == ["Model"]


async def test_a_route_and_a_config_that_a_redeployment_takes_away_are_gone(made_client, add):
    config = {"name": "shop", "import_path": "shop:app"}
    add(application(name="kept", deployed_app_config=config))
    add(application(deployed_app_config=config), application(route_prefix=None, deployed_app_config=None))
    apps = (await asked(made_client))["applications"]
    assert (apps["shop"]["route_prefix"], apps["shop"]["deployed_app_config"]) == (None, None)
    assert (apps["kept"]["route_prefix"], apps["kept"]["deployed_app_config"]) == ("/shop", config)


async def test_the_last_ten_replicas_that_stopped_are_remembered_with_their_logs(made_client, add):
    stopped = [replica(number, "STOPPED") for number in range(12)]
    add(application(), deployment(), *stopped, replica(12, "STOPPED", log_file_path=None))
    model = (await asked(made_client))["applications"]["shop"]["deployments"]["Model"]
    assert not model["replicas"]
    assert len(model["recent_dead_replicas"]) == 10
    assert {shown_replica["state"] for shown_replica in model["recent_dead_replicas"]} == {"STOPPED"}
    assert "r12" not in {shown_replica["replica_id"] for shown_replica in model["recent_dead_replicas"]}


async def test_requests_come_to_proxies_that_are_well(made_client, add):
    fallback = proxy(4, actor_name="SERVE_PROXY_ACTOR-fallback-4")
    add(instance(), proxy(1), proxy(2, "DRAINING"), proxy(3, "STOPPED"), fallback)
    answer = await asked(made_client)
    assert answer["controller_info"]["actor_id"] == "01" * 16
    assert [shown_proxy["status"] for shown_proxy in answer["proxies"].values()] == ["HEALTHY", "DRAINING"]
    [group] = answer["target_groups"]
    assert [(target["name"], target["port"]) for target in group["targets"]] == [("SERVE_PROXY_ACTOR-1", 8001)]


async def test_an_older_rays_answer_has_no_field_that_its_clients_would_refuse(made_client, add):
    older = {
        "ServeInstanceDetails": ["controller_info", "proxies", "applications", "target_groups"],
        "ApplicationDetails": ["name", "status", "deployments"],
        "TargetGroup": ["targets", "protocol"],
        "Target": ["ip", "port"],
    }
    add(instance(rest_fields=older), proxy(1), application(), deployment())
    answer = (await made_client.get(PATH)).json()
    assert set(answer) == set(older["ServeInstanceDetails"])
    [shop] = answer["applications"].values()
    assert set(shop) == set(older["ApplicationDetails"])
    assert "recent_dead_replicas" in shop["deployments"]["Model"], "nothing is known of this model"
    assert answer["target_groups"] == [{"targets": [{"ip": "10.0.0.1", "port": 8001}], "protocol": "HTTP"}]


async def test_serve_that_is_shut_down_is_not_there(made_client, add):
    add(instance(), instance("SHUT_DOWN"))
    assert await asked(made_client) == NO_SERVE


async def test_serve_whose_controller_was_killed_is_not_there(made_client, add):
    add(instance(), ("EXPORT_ACTOR", {"actor_id": "AQEBAQEBAQEBAQEBAQEBAQ==", "state": "DEAD"}))
    assert await asked(made_client) == NO_SERVE


async def test_applications_are_asked_for_by_where_they_come_from(made_client, add):
    add(application(source="imperative"), application(name="other", source="declarative"))
    assert list((await asked(made_client, f"{PATH}?api_type=Declarative"))["applications"]) == ["other"]
    refused = await made_client.get(f"{PATH}?api_type=unknown")
    assert (refused.status_code, refused.text) == (
        400,
        "Invalid 'api_type' value: 'unknown'. Must be one of: imperative, declarative",
    )
