"""The names of enumerations, beside those of the Ray that is installed."""

import warnings
from enum import Enum
from itertools import chain

import pytest

from raytrail.entities import Column, Derived, installed

pytest.importorskip("ray")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of pydantic, at what Ray makes of it
    from ray.core.generated import (
        common_pb2,
        event_pb2,
        export_dataset_metadata_pb2,
        export_node_data_pb2,
        export_train_state_pb2,
        gcs_pb2,
    )
    from ray.dashboard.memory_utils import ReferenceType
    from ray.dashboard.modules.job.common import JobErrorType, JobStatus
    from ray.serve._private.common import DeploymentStatus, DeploymentStatusTrigger, ReplicaState
    from ray.serve.config import ProxyLocation
    from ray.serve.schema import APIType, ApplicationStatus, ProxyStatus

OURS = {
    ("object", "state"): {"REFERENCED", "DELETED"},
    ("object", "_change"): {"CREATED", "UPDATED", "DELETED"},
    ("object", "type"): {"WORKER", "DRIVER"},
    ("worker", "state"): {"ALIVE", "DEAD"},
    ("job", "type"): {"DRIVER", "SUBMISSION"},
    ("driver_job", "status"): {"RUNNING", "SUCCEEDED"},
    ("task", "_profile_component_type"): {"worker", "driver"},
    ("serve_instance", "state"): {"RUNNING", "SHUT_DOWN"},
    ("operator_event", "event_type"): {"ISSUE_DETECTION_HANGING", "ISSUE_DETECTION_HIGH_MEMORY"},
}
"""Words of ours, or of no enumeration in Ray's code that every release has."""

_DATA = export_dataset_metadata_pb2.ExportDatasetMetadata.DatasetState
_OPERATOR = export_dataset_metadata_pb2.Operator.OperatorState
_TRAIN = export_train_state_pb2
RAYS = {
    ("task", "type"): common_pb2.TaskType,
    ("task", "language"): common_pb2.Language,
    ("task", "state"): common_pb2.TaskStatus,
    ("task", "error_type"): common_pb2.ErrorType,
    ("task", "_error_type"): common_pb2.ErrorType,
    ("actor", "state"): gcs_pb2.ActorTableData.ActorState,
    ("node", "state"): gcs_pb2.GcsNodeInfo.GcsNodeState,
    ("node", "_death_reason"): export_node_data_pb2.ExportNodeData.NodeDeathInfo.Reason,
    ("worker", "worker_type"): common_pb2.WorkerType,
    ("worker", "exit_type"): common_pb2.WorkerExitType,
    ("object", "task_status"): common_pb2.TaskStatus,
    ("object", "reference_type"): ReferenceType,
    ("placement_group", "state"): gcs_pb2.PlacementGroupTableData.PlacementGroupState,
    ("placement_group", "strategy"): common_pb2.PlacementStrategy,
    ("cluster_event", "source_type"): event_pb2.Event.SourceType,
    ("cluster_event", "severity"): event_pb2.Event.Severity,
    ("job", "status"): JobStatus,
    ("job", "error_type"): JobErrorType,
    ("submission_job", "status"): JobStatus,
    ("submission_job", "error_type"): JobErrorType,
    ("dataset", "state"): _DATA,
    ("dataset_progress", "state"): _DATA,
    ("operator_progress", "state"): _OPERATOR,
    ("serve_application", "status"): ApplicationStatus,
    ("serve_application", "api_type"): APIType,
    ("serve_deployment", "status"): DeploymentStatus,
    ("serve_deployment", "status_trigger"): DeploymentStatusTrigger,
    ("serve_instance", "proxy_location"): ProxyLocation,
    ("serve_proxy", "status"): ProxyStatus,
    ("serve_replica", "state"): ReplicaState,
    ("train_run", "status"): _TRAIN.ExportTrainRunEventData.RunStatus,
    ("train_run_attempt", "status"): _TRAIN.ExportTrainRunAttemptEventData.RunAttemptStatus,
}
LAST = {"serve_application": {"DELETED"}, "serve_deployment": {"DELETED"}, "serve_proxy": {"STOPPED"}}
"""What we say of one that is gone, where Ray has no word for it."""


def declared():
    return {
        (entity.name, column.name): set(column.values)
        for entity in installed().values()
        for column in chain[Column | Derived](entity.columns, entity.derived)
        if column.values
    }


def names(enumeration):
    if isinstance(enumeration, type) and issubclass(enumeration, Enum):
        return {member.value for member in enumeration}
    return {name for name in enumeration.keys() if not name.endswith("UNSPECIFIED") or name == "UNSPECIFIED"}  # noqa: SIM118 (protobuf's, not a dict)


def test_every_enumeration_is_compared():
    assert declared().keys() == OURS.keys() | RAYS.keys()


@pytest.mark.parametrize(("entity", "column"), sorted(RAYS))
def test_the_names_of_an_enumeration_are_rays(entity, column):
    theirs, ours = names(RAYS[entity, column]), declared()[entity, column]
    last = LAST.get(entity, set()) if column == installed()[entity].life.state else set()
    # an older Ray has fewer
    assert theirs - ours == set()
    assert last <= ours


@pytest.mark.parametrize(("entity", "column"), sorted(OURS))
def test_the_words_of_ours_are_declared(entity, column):
    assert declared()[entity, column] == OURS[entity, column]


@pytest.mark.parametrize(
    "entity", [entity for entity in installed().values() if entity.life.state], ids=lambda entity: entity.name
)
def test_every_state_that_ends_a_life_is_declared(entity):
    assert set(entity.life.terminal) <= set(entity.column(entity.life.state).values)
