"""The hooks on Serve's own classes, with objects of them that no controller drives."""

import json
from types import SimpleNamespace

import pytest

from raytrail.sources import hooks, serve

pytest.importorskip("ray.serve")

from ray.serve._private import application_state, controller, deployment_state, proxy_state
from ray.serve._private.common import (
    DeploymentID,
    DeploymentStatus,
    DeploymentStatusInfo,
    DeploymentStatusTrigger,
    ReplicaID,
    ReplicaState,
)
from ray.serve._private.config import DeploymentConfig, ReplicaConfig
from ray.serve._private.deployment_info import DeploymentInfo
from ray.serve._private.version import DeploymentVersion
from ray.serve.config import HTTPOptions, ProxyLocation, gRPCOptions
from ray.serve.schema import (
    ApplicationStatus,
    ProxyStatus,
    ServeActorDetails,
    ServeApplicationSchema,
)

TYPES = ("SERVE_INSTANCE", "SERVE_PROXY", "SERVE_APPLICATION", "SERVE_DEPLOYMENT", "SERVE_REPLICA")
DEPLOYMENT = DeploymentID("Model", "shop")


@pytest.fixture
def classes(monkeypatch):
    """Serve's classes as its modules have them, which a test may hook: nobody else meets them."""
    hooked = SimpleNamespace()
    for module, name in (
        (application_state, "ApplicationState"),
        (deployment_state, "DeploymentState"),
        (deployment_state, "DeploymentReplica"),
        (proxy_state, "ProxyState"),
        (controller, "ServeController"),
    ):
        own = type(name, (getattr(module, name),), {"__module__": module.__name__})
        monkeypatch.setattr(module, name, own)
        setattr(hooked, name, own)
    # the end of a life is the controller's to see: the methods that tell of it say so at once
    hooked.ApplicationState.is_deleted = lambda self: self.gone
    hooked.DeploymentState.check_curr_status = lambda self: (self.gone, False)
    hooked.DeploymentReplica.check_stopped = lambda self: self.gone
    hooked.ServeController._update_proxy_nodes = hooked.ServeController._kill_registered_cleanup_actors = lambda self: (
        None
    )
    hooked.ProxyState.shutdown = lambda self: None
    return hooked


@pytest.fixture
def laid(classes, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYTRAIL_SOURCES_TYPES", "ALL")
    monkeypatch.setattr(hooks, "export_directory", lambda: tmp_path)
    serve.lay()
    return classes


@pytest.fixture
def events(tmp_path):
    def read(event_type):
        lines = [
            line for path in tmp_path.glob(f"event_EXPORT_{event_type}_*") for line in path.read_text().splitlines()
        ]
        return [json.loads(line)["event_data"] for line in lines]

    return read


def application(classes):
    """Go through the life of an application."""
    app = classes.ApplicationState("shop", None, None, None, None, False)
    app._update_status(ApplicationStatus.DEPLOYING)
    app._route_prefix = "/shop"
    for _ in range(3):
        app._update_status(ApplicationStatus.UNHEALTHY, "x" * 20_000)
    for app.gone in (False, True, True):
        app.is_deleted()
    return app


def deployment(classes):
    """Go through the life of a deployment."""
    serve_deployment = classes.DeploymentState.__new__(classes.DeploymentState)
    serve_deployment._id, serve_deployment._target_state = DEPLOYMENT, deployment_state.DeploymentTargetState.default()
    trigger = DeploymentStatusTrigger.CONFIG_UPDATE_STARTED
    serve_deployment._curr_status_info = DeploymentStatusInfo("Model", DeploymentStatus.UPDATING, trigger)
    serve_deployment._target_state.target_num_replicas = 2
    options = {"num_cpus": 0.5, "runtime_env": {"env_vars": {"KEY": "secret"}}}
    replica_config = ReplicaConfig.create(object, ray_actor_options=options)
    serve_deployment._target_state.info = DeploymentInfo(DeploymentConfig(user_config={"a": 1}), replica_config, 0, "")
    for message in ("", "", "y" * 20_000):
        serve_deployment._curr_status_info = DeploymentStatusInfo("Model", DeploymentStatus.UPDATING, trigger, message)
    serve_deployment.gone = False
    for serve_deployment._target_state.target_num_replicas in (2, 3, 3):
        serve_deployment.check_curr_status()
    for serve_deployment.gone in (True, True):
        assert serve_deployment.check_curr_status() == (True, False)
    return serve_deployment


def replica(classes):
    """Go through the life of a replica."""
    version = DeploymentVersion("1", DeploymentConfig(), {})
    serve_replica = classes.DeploymentReplica(ReplicaID("abc", DEPLOYMENT), version)
    serve_replica.update_actor_details(start_time_s=1.5)
    serve_replica.update_actor_details(pid=7, actor_id="0f", node_id="1f", log_file_path="/serve/x.log")
    for state in (ReplicaState.STARTING, ReplicaState.RUNNING, ReplicaState.RUNNING):
        serve_replica.update_state(state)
    for serve_replica.gone in (False, True, True):
        assert serve_replica.check_stopped() is serve_replica.gone
    return serve_replica


def proxy(classes):
    """Go through the life of a proxy."""
    wrapper = SimpleNamespace(actor_id="0f", worker_id="3f", log_file_path="/serve/proxy.log")
    serve_proxy = classes.ProxyState(wrapper, "SERVE_PROXY_ACTOR-1f", "1f", "10.0.0.1", "i-1")
    for status in (ProxyStatus.HEALTHY, ProxyStatus.HEALTHY):
        serve_proxy.try_update_status(status)
    serve_proxy.update_actor_details(worker_id="3f", log_file_path="/serve/proxy.log")
    for _ in range(2):
        serve_proxy.shutdown()
    return serve_proxy


def instance(classes):
    """Go through the life of a controller."""
    serve_controller = classes.ServeController.__new__(classes.ServeController)
    serve_controller._actor_details = ServeActorDetails(actor_id="0f", node_id="1f", worker_id="3f")
    serve_controller.proxy_state_manager = SimpleNamespace(
        get_config=lambda: HTTPOptions(port=8001),
        get_grpc_config=gRPCOptions,
        get_proxy_location=lambda: ProxyLocation.HeadOnly,
    )
    for serve_controller._target_capacity in (None, None, 50.0):
        serve_controller._update_proxy_nodes()
    serve_controller._kill_registered_cleanup_actors()
    serve_controller._update_proxy_nodes()
    return serve_controller


LIVES = {
    "SERVE_INSTANCE": instance,
    "SERVE_PROXY": proxy,
    "SERVE_APPLICATION": application,
    "SERVE_DEPLOYMENT": deployment,
    "SERVE_REPLICA": replica,
}


def test_each_change_of_the_instance_is_told_once(laid, events):
    instance(laid)
    reports = events("SERVE_INSTANCE")
    assert [(event["state"], event["target_capacity"]) for event in reports] == [
        ("RUNNING", None),
        ("RUNNING", 50.0),
        ("SHUT_DOWN", 50.0),
    ]
    fields = reports[0].pop("rest_fields")
    assert set(fields) == set(serve.REST_MODELS)
    assert {"ip", "port"} <= set(fields["Target"])
    assert "controller_info" in fields["ServeInstanceDetails"]
    assert reports[0] == {
        "actor_id": "0f",
        "node_id": "1f",
        "worker_id": "3f",
        "state": "RUNNING",
        "proxy_location": "HeadOnly",
        "http_options": {"port": 8001},
        "grpc_options": {},
        "target_capacity": None,
    }


def test_each_change_of_a_proxy_is_told_once(laid, events):
    proxy(laid)
    reports = events("SERVE_PROXY")
    assert [(event["status"], event.get("worker_id")) for event in reports] == [
        ("STARTING", None),
        ("HEALTHY", None),
        ("HEALTHY", "3f"),
        ("STOPPED", "3f"),
    ]
    assert reports[-1] == {
        "actor_id": "0f",
        "actor_name": "SERVE_PROXY_ACTOR-1f",
        "node_id": "1f",
        "node_ip": "10.0.0.1",
        "node_instance_id": "i-1",
        "worker_id": "3f",
        "log_file_path": "/serve/proxy.log",
        "status": "STOPPED",
    }


def test_an_application_has_the_config_that_it_was_deployed_with_unless_that_is_too_long(laid, events, monkeypatch):
    app = laid.ApplicationState("shop", None, None, None, None, False)
    app._target_state.config = ServeApplicationSchema(name="shop", import_path="shop:app")
    app._update_status(ApplicationStatus.DEPLOYING)
    monkeypatch.setattr(serve, "MOST_CONFIG", 40)
    app._update_status(ApplicationStatus.RUNNING)
    assert [event["deployed_app_config"] for event in events("SERVE_APPLICATION")] == [
        {"name": "shop", "import_path": "shop:app"},
        None,
    ]


def test_a_deployment_has_the_options_that_serve_shows_of_it(laid, events):
    serve_deployment = deployment(laid)
    shown = deployment_state._deployment_info_to_schema("Model", serve_deployment._target_state.info).model_dump(
        exclude_unset=True
    )
    assert shown["user_config"] == {"a": 1}
    for event in events("SERVE_DEPLOYMENT"):
        assert event["deployment_config"] == json.loads(json.dumps(shown))
        assert event["required_resources"] == {"CPU": 0.5}


@pytest.mark.parametrize("event_type", TYPES)
def test_no_exception_in_a_hook_reaches_serve(event_type, laid, events, monkeypatch, caplog):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(hooks.Source, "tell", fail)
    LIVES[event_type](laid)
    assert not events(event_type)
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("raytrail")]
    assert logged == [f"some {event_type} events are lost: ZeroDivisionError()"]


@pytest.mark.parametrize(
    ("event_type", "owner", "name"),
    [
        ("SERVE_INSTANCE", controller.ServeController, "get_grpc_config"),
        ("SERVE_PROXY", proxy_state.ProxyState, "shutdown"),
        ("SERVE_APPLICATION", application_state.ApplicationState, "_update_status"),
        ("SERVE_APPLICATION", application_state.ApplicationState, "is_deleted"),
        ("SERVE_DEPLOYMENT", deployment_state.DeploymentState, "check_curr_status"),
        ("SERVE_REPLICA", deployment_state.DeploymentReplica, "update_actor_details"),
        ("SERVE_REPLICA", deployment_state.DeploymentReplica, "check_stopped"),
        ("SERVE_REPLICA", deployment_state.DeploymentReplica, "actor_details"),
    ],
)
def test_a_name_that_is_gone_turns_one_type_off_with_one_line(event_type, owner, name, monkeypatch, tmp_path, caplog):
    # no hook may be left in Serve's real classes, so that they are laid on others of the same names
    for module, real in (
        (application_state, application_state.ApplicationState),
        (deployment_state, deployment_state.DeploymentState),
        (deployment_state, deployment_state.DeploymentReplica),
        (proxy_state, proxy_state.ProxyState),
        (controller, controller.ServeController),
    ):
        members = {key: value for key, value in vars(real).items() if key not in ("__dict__", "__weakref__")}
        if real is owner:
            del members[name]
        monkeypatch.setattr(module, real.__name__, type(real.__name__, (), members))
    monkeypatch.setenv("RAYTRAIL_SOURCES_TYPES", "ALL")
    monkeypatch.setattr(hooks, "export_directory", lambda: tmp_path)
    monkeypatch.setattr("raytrail.sources.hooks.os.getpid", lambda: 7)
    serve.lay()
    assert [record.getMessage() for record in caplog.records] == [
        f"{event_type} is not written by process 7: "
        f"{owner.__module__}.{owner.__name__} has no {name} in this version of Ray"
    ]
    classes = SimpleNamespace(
        ApplicationState=application_state.ApplicationState, DeploymentReplica=deployment_state.DeploymentReplica
    )
    if event_type != "SERVE_APPLICATION":
        begun = classes.ApplicationState("shop", None, None, None, None, False)
        begun._update_status(ApplicationStatus.DEPLOYING)
    if event_type != "SERVE_REPLICA":
        version = DeploymentVersion("1", DeploymentConfig(), {})
        classes.DeploymentReplica(ReplicaID("abc", DEPLOYMENT), version).update_actor_details(pid=7)
    went_on = {path.name.rpartition("_")[0].removeprefix("event_EXPORT_") for path in tmp_path.iterdir()}
    assert went_on == {"SERVE_APPLICATION", "SERVE_REPLICA"} - {event_type}
