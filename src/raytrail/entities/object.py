"""
A reference to an object, from ``EXPORT_OBJECT``, which `raytrail.sources.objects` writes.

Source: `ObjectRefInfo` and `CoreWorkerStats` (common.proto), as the raylet answers them.
"""

from __future__ import annotations

from raytrail.entities import Column, Derived, Emitted, Entity, Life
from raytrail.entities.ends import OBJECT_BESIDE, OBJECT_ENDS
from raytrail.entities.enumerations import TASK_STATES


def _field(name: str) -> str:
    return f"event_data.{name}"


OBJECT = Entity(
    name="object",
    plural="objects",
    doc=(
        "An object, as one worker refers to it. Ray's State API lists them the same way. An object that three "
        "workers refer to has three sizes, reasons and ends. It is there as long as one of these rows is not "
        "DELETED. Ray exports none. Raytrail asks the raylets for them, with `OBJECT` among `sources.types`."
    ),
    event_types=("EXPORT_OBJECT",),
    file_types=("OBJECT",),
    # a worker refers to an object once, however many of its variables do
    key=("object_id", "worker_id"),
    emitted=Emitted(
        source="the agent, which asks its node's raylet every `sources.object_seconds`, or less often",
        when="a worker's reference has come, changed or gone",
        latency="one such interval, or 10 s with 10,000 references",
        missed="objects that live shorter than the interval, which `object_gaps` counts, and everything unless "
        "`OBJECT` is among `sources.types`",
    ),
    columns=(
        Column("object_id", "id", _field("object_id"), "key", "The object."),
        Column("worker_id", "id", _field("worker_id"), "key", "The worker that refers to it."),
        Column("object_size", "int", _field("object_size"), "last", "Its size in bytes. -1 while that is not known."),
        Column(
            "task_status",
            "text",
            _field("task_status"),
            "last",
            "The state of the task that makes it.",
            values=("NIL", *dict(TASK_STATES).values()),
        ),
        Column("attempt_number", "int", _field("attempt_number"), "last", "How often that task was tried."),
        Column(
            "reference_type",
            "text",
            _field("reference_type"),
            "last",
            "The reason why it is kept, which is ACTOR_HANDLE, PINNED_IN_MEMORY, LOCAL_REFERENCE, "
            "USED_BY_PENDING_TASK or CAPTURED_IN_OBJECT.",
            values=(
                "ACTOR_HANDLE",
                "PINNED_IN_MEMORY",
                "LOCAL_REFERENCE",
                "USED_BY_PENDING_TASK",
                "CAPTURED_IN_OBJECT",
                "UNKNOWN_STATUS",
            ),
        ),
        Column(
            "call_site",
            "text",
            _field("call_site"),
            "last",
            "The place in the code that made it. Ray seldom records that.",
        ),
        Column("type", "text", _field("type"), "last", "WORKER or DRIVER.", values=("WORKER", "DRIVER")),
        Column("pid", "int", _field("pid"), "last", "The worker's process."),
        Column("ip", "text", _field("ip"), "last", "The worker's address."),
        Column("node_id", "id", _field("node_id"), "max", "The worker's node."),
        Column("job_id", "id", _field("job_id"), "max", "The driver job whose task made it."),
        Column("task_id", "id", _field("task_id"), "max", "The task that made it."),
        Column(
            "is_owner",
            "bool",
            "= task_status != 'NIL'",
            "max",
            "True if this worker owns it. Only an owner knows the state of its task. Not told of actor handles.",
        ),
        Column(
            "_change",
            "text",
            _field("change"),
            "last",
            "CREATED, UPDATED or DELETED.",
            values=("CREATED", "UPDATED", "DELETED"),
        ),
        Column("_time_ns", "int", "time_ns", "max", "When it was seen."),
        Column(
            "state",
            "text",
            "= CASE WHEN _change = 'DELETED' THEN 'DELETED' ELSE 'REFERENCED' END",
            "last",
            "REFERENCED or DELETED.",
            values=("REFERENCED", "DELETED"),
        ),
        Column(
            "_seen_ms",
            "int",
            "= CASE WHEN _change != 'DELETED' THEN _time_ns // 1000000 END",
            "min",
            "When it was first seen.",
        ),
        Column(
            "_deleted_ms",
            "int",
            "= CASE WHEN _change = 'DELETED' THEN _time_ns // 1000000 END",
            "max",
            "When it was seen no more.",
        ),
    ),
    derived=(
        Derived("creation_time_ms", "int", "_seen_ms", "When it was first seen, up to a poll after it began."),
        Derived(
            "deletion_time_ms",
            "int",
            "CASE WHEN state = 'DELETED' THEN _deleted_ms END",
            "When it was seen no more, up to a poll after its end.",
        ),
    ),
    when="coalesce(_time_ns // 1000000, timestamp * 1000)",
    sort=("object_id", "worker_id"),
    life=Life(
        state="state",
        terminal=("DELETED",),
        ends=OBJECT_ENDS,
        closing=(("state", "'DELETED'"), ("_deleted_ms", "{end_ms}")),
    ),
    beside=OBJECT_BESIDE,
)
