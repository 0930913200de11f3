"""
The schema of an operator's output, from ``EXPORT_DATASET_OPERATOR_SCHEMA``.

Source: export_dataset_operator_schema.proto.
"""

from __future__ import annotations

from raytrail.entities import Column, Emitted, Entity

OPERATOR_SCHEMA = Entity(
    name="operator_schema",
    plural="operator_schemas",
    doc="The schema of what a Ray Data operator puts out, written once it is known.",
    event_types=("EXPORT_DATASET_OPERATOR_SCHEMA",),
    file_types=("DATASET_OPERATOR_SCHEMA",),
    key=("operator_uuid",),
    emitted=Emitted(
        source="Ray Data's executor, in the driver",
        when="the schema of what an operator puts out is known",
        latency="at once",
        missed="nothing known",
    ),
    columns=(
        Column(
            "operator_uuid",
            "text",
            "event_data.operator_uuid",
            "key",
            "The operator, by `uuid` in its dataset's topology.",
        ),
        Column("schema_fields", "json", "event_data.schema_fields", "last", "Types by field name."),
    ),
    sort=("operator_uuid",),
)
