"""The hooks on Serve's own classes, with objects of them that no controller drives."""

import json
from types import SimpleNamespace

import pytest

from raytrail.sources import hooks, serve

pytest.importorskip("ray.serve")

from ray.serve._private import application_state, deployment_state
from ray.serve._private.common import (
    DeploymentID,
    DeploymentStatus,
    DeploymentStatusInfo,
    DeploymentStatusTrigger,
    ReplicaID,
    ReplicaState,
)
from ray.serve._private.config import DeploymentConfig
from ray.serve._private.version import DeploymentVersion
from ray.serve.schema import ApplicationStatus

TYPES = ("SERVE_APPLICATION", "SERVE_DEPLOYMENT", "SERVE_REPLICA")
DEPLOYMENT = DeploymentID("Model", "shop")


@pytest.fixture
def classes(monkeypatch):
    """Serve's classes as its modules have them, which a test may hook: nobody else meets them."""
    found = SimpleNamespace()
    for module, name in (
        (application_state, "ApplicationState"),
        (deployment_state, "DeploymentState"),
        (deployment_state, "DeploymentReplica"),
    ):
        own = type(name, (getattr(module, name),), {"__module__": module.__name__})
        monkeypatch.setattr(module, name, own)
        setattr(found, name, own)
    # the end of a life is the controller's to see: the methods that tell of it say so at once
    found.ApplicationState.is_deleted = lambda self: self.gone
    found.DeploymentState.check_curr_status = lambda self: (self.gone, False)
    found.DeploymentReplica.check_stopped = lambda self: self.gone
    return found


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
    one = classes.DeploymentState.__new__(classes.DeploymentState)
    one._id, one._target_state = DEPLOYMENT, deployment_state.DeploymentTargetState.default()
    trigger = DeploymentStatusTrigger.CONFIG_UPDATE_STARTED
    one._curr_status_info = DeploymentStatusInfo("Model", DeploymentStatus.UPDATING, trigger)
    one._target_state.target_num_replicas = 2
    for message in ("", "", "y" * 20_000):
        one._curr_status_info = DeploymentStatusInfo("Model", DeploymentStatus.UPDATING, trigger, message)
    one.gone = False
    for one._target_state.target_num_replicas in (2, 3, 3):
        one.check_curr_status()
    for one.gone in (True, True):
        assert one.check_curr_status() == (True, False)
    return one


def replica(classes):
    """Go through the life of a replica."""
    version = DeploymentVersion("1", DeploymentConfig(), {})
    one = classes.DeploymentReplica(ReplicaID("abc", DEPLOYMENT), version)
    one.update_actor_details(start_time_s=1.5)
    one.update_actor_details(pid=7, actor_id="0f", node_id="1f", log_file_path="/serve/x.log")
    for state in (ReplicaState.STARTING, ReplicaState.RUNNING, ReplicaState.RUNNING):
        one.update_state(state)
    for one.gone in (False, True, True):
        assert one.check_stopped() is one.gone
    return one


LIVES = {"SERVE_APPLICATION": application, "SERVE_DEPLOYMENT": deployment, "SERVE_REPLICA": replica}


def test_each_change_of_an_application_is_told_once(laid, events):
    application(laid)
    told = events("SERVE_APPLICATION")
    assert [(event["status"], event["route_prefix"], len(event["message"])) for event in told] == [
        ("DEPLOYING", None, 0),
        ("UNHEALTHY", "/shop", hooks.MAX_TEXT),
        ("DELETED", "/shop", hooks.MAX_TEXT),
    ]


def test_each_change_of_a_deployment_is_told_once_there_is_a_target(laid, events):
    deployment(laid)
    told = events("SERVE_DEPLOYMENT")
    assert {(event["app_name"], event["name"]) for event in told} == {("shop", "Model")}
    assert [(event["status"], event["target_num_replicas"], len(event["message"])) for event in told] == [
        ("UPDATING", 2, 0),
        ("UPDATING", 2, hooks.MAX_TEXT),
        ("UPDATING", 3, hooks.MAX_TEXT),
        ("DELETED", 3, hooks.MAX_TEXT),
    ]


def test_each_change_of_a_replica_is_told_once(laid, events):
    replica(laid)
    told = events("SERVE_REPLICA")
    assert [(event["state"], event.get("pid")) for event in told] == [
        ("STARTING", None),
        ("STARTING", 7),
        ("RUNNING", 7),
        ("STOPPED", 7),
    ]
    assert told[-1] == {
        "app_name": "shop",
        "deployment_name": "Model",
        "replica_id": "abc",
        "state": "STOPPED",
        "actor_id": "0f",
        "actor_name": "SERVE_REPLICA::shop#Model#abc",
        "node_id": "1f",
        "pid": 7,
        "log_file_path": "/serve/x.log",
        "start_time_s": 1.5,
    }


@pytest.mark.parametrize("event_type", TYPES)
def test_no_exception_in_a_hook_reaches_serve(event_type, laid, events, monkeypatch, caplog):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(hooks.Source, "tell", fail)
    LIVES[event_type](laid)
    assert not events(event_type)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("raytrail")]
    assert said == [f"some {event_type} events are lost: ZeroDivisionError()"]


@pytest.mark.parametrize(
    ("event_type", "owner", "name"),
    [
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
