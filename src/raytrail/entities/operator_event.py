"""
What Ray Data's issue detectors found, from ``EXPORT_DATASET_OPERATOR_EVENT``.

Source: export_dataset_operator_event.proto.
"""

from __future__ import annotations

from raytrail.entities import Column, Emitted, Entity

OPERATOR_EVENT = Entity(
    name="operator_event",
    plural="operator_events",
    doc="An operator of Ray Data was found hanging, or using much memory.",
    event_types=("EXPORT_DATASET_OPERATOR_EVENT",),
    file_types=("DATASET_OPERATOR_EVENT",),
    key=("dataset_id", "operator_id", "event_type", "event_time_ms"),
    emitted=Emitted(
        source="Ray Data's issue detectors, in the driver",
        when="an operator is found hanging, or using much memory",
        latency="at once, but they look every 30 s or so",
        missed="nothing known",
    ),
    columns=(
        Column("dataset_id", "text", "event_data.dataset_id", "key", "The dataset."),
        Column(
            "operator_id", "text", "event_data.operator_id", "key", "The operator, by `id` in its dataset's topology."
        ),
        Column(
            "event_type",
            "text",
            "event_data.event_type",
            "key",
            "ISSUE_DETECTION_HANGING or ISSUE_DETECTION_HIGH_MEMORY.",
            values=("ISSUE_DETECTION_HANGING", "ISSUE_DETECTION_HIGH_MEMORY"),
        ),
        Column("event_time_ms", "int", "event_data.event_time", "key", "When it was found.", scale=1000),
        Column("operator_name", "text", "event_data.operator_name", "max", "The operator's name."),
        Column("message", "text", "event_data.message", "max", "The finding, in words."),
    ),
    sort=("dataset_id", "event_time_ms"),
)
