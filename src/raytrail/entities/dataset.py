"""A Ray Data dataset and its operators, from ``EXPORT_DATASET_METADATA`` (export_dataset_metadata.proto)."""

from __future__ import annotations

from raytrail.entities import Column, Emitted, Entity, Life

DATASET = Entity(
    name="dataset",
    plural="datasets",
    doc="A Ray Data dataset, its operators and how they hang together. Written when it or an operator changes state.",
    event_types=("EXPORT_DATASET_METADATA",),
    file_types=("DATASET_METADATA",),
    key=("dataset_id",),
    emitted=Emitted(
        source="Ray Data's `_StatsActor`",
        when="a dataset is registered, or it or one of its operators changes state",
        latency="at once",
        missed="how far it is, which `dataset_progress` tells",
    ),
    columns=(
        Column("dataset_id", "text", "event_data.dataset_id", "key", "The dataset."),
        Column("job_id", "text", "event_data.job_id", "last", "The driver job that runs it."),
        Column(
            "state",
            "text",
            "event_data.state",
            "last",
            "PENDING, RUNNING, FINISHED or FAILED.",
            values=("UNKNOWN", "PENDING", "RUNNING", "FINISHED", "FAILED"),
        ),
        Column("start_time_ms", "int", "event_data.start_time", "min", "When it was made.", unset="0", scale=1000),
        Column(
            "execution_start_time_ms",
            "int",
            "event_data.execution_start_time",
            "max",
            "When it began to run.",
            unset="0",
            scale=1000,
        ),
        Column(
            "execution_end_time_ms",
            "int",
            "event_data.execution_end_time",
            "max",
            "When it ended.",
            unset="0",
            scale=1000,
        ),
        Column(
            "topology",
            "json",
            "event_data.topology",
            "last",
            "Its operators, each with name, id, uuid, inputs, sub-stages, state and times. Ray writes their "
            "arguments only once, and `operator_args` has them.",
        ),
        Column(
            "operator_args",
            "json",
            "= CASE WHEN state = 'PENDING' THEN to_json(json_extract(topology, '$.operators[*].args'))::VARCHAR END",
            "last",
            "The arguments of each operator, in the order of `topology`.",
        ),
        Column("data_context", "json", "event_data.data_context", "last", "Settings of Ray Data.", unset="{}"),
        Column("operator_panels", "json", "event_data.operator_panels", "last", "Panels of Ray's Grafana dashboard."),
    ),
    sort=("job_id", "start_time_ms"),
    life=Life(
        state="state",
        terminal=("FINISHED", "FAILED"),
        closing=(("state", "'FAILED'"), ("execution_end_time_ms", "{end_ms}")),
    ),
)
