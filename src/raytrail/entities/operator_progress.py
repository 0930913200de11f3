"""How far an operator of a Ray Data dataset is: one row of each that `dataset_progress` lists."""

from __future__ import annotations

from raytrail.entities import Column, Entity, Life

OPERATOR_PROGRESS = Entity(
    name="operator_progress",
    plural="operators_progress",
    doc="How far an operator of a Ray Data dataset is, as `datasets_progress` has it.",
    event_types=(),
    file_types=(),
    key=("dataset_id", "operator_id"),
    columns=(
        Column("dataset_id", "text", "", "key", "Its dataset."),
        Column("operator_id", "text", "", "key", "The operator, by `id` in its dataset's topology."),
        Column("position", "int", "", "last", "Its place in the dataset, the input being 0."),
        Column("name", "text", "", "last", "Its name. Null until the dataset runs."),
        Column(
            "state",
            "text",
            "",
            "last",
            "PENDING, RUNNING, FINISHED or FAILED.",
            values=("UNKNOWN", "PENDING", "RUNNING", "FINISHED", "FAILED"),
        ),
        Column("progress", "int", "", "last", "Blocks that it has put out."),
        Column("total", "int", "", "last", "Blocks expected of it, as estimated then."),
        Column("total_rows", "int", "", "last", "Rows expected of it, as estimated then."),
        Column("queued_blocks", "int", "", "last", "Blocks that wait for it."),
        Column("updated_ns", "int", "", "max", "When its dataset's last event was written."),
    ),
    sort=("dataset_id", "position"),
    life=Life(state="state", terminal=("FINISHED", "FAILED")),
    view=(
        "WITH o AS (SELECT *, unnest(json_extract(operators, '$[*]')) AS o, "
        "generate_subscripts(json_extract(operators, '$[*]'), 1) - 1 AS position FROM {dataset_progress}) "
        "SELECT {session}dataset_id, o->>'operator_id' AS operator_id, position, o->>'name' AS name, "
        "CASE WHEN inferred IS NOT NULL AND (o->>'state') NOT IN ('FINISHED', 'FAILED') THEN state "
        "ELSE o->>'state' END AS state, "
        "try_cast(o->>'progress' AS BIGINT) AS progress, try_cast(o->>'total' AS BIGINT) AS total, "
        "try_cast(o->>'total_rows' AS BIGINT) AS total_rows, try_cast(o->>'queued_blocks' AS BIGINT) AS queued_blocks, "
        "updated_ns, inferred, extra, first_event_s, last_event_s FROM o"
    ),
)
