"""
One attempt of a task, from ``EXPORT_TASK`` (`ExportTaskEventData`, export_task_event.proto).

Or from Ray's HTTP export (`TaskDefinitionEvent`, `ActorTaskDefinitionEvent`, `TaskLifecycleEvent`,
`TaskProfileEvents`, in events_*_event.proto).
"""

from __future__ import annotations

from typing import Any

from raytrail.entities import Column, Derived, Emitted, Entity, Life, Moments, Posted, PostedEvent, Work, task_sql
from raytrail.entities.ends import TASK_BESIDE, TASK_ENDS
from raytrail.entities.enumerations import LANGUAGES, TASK_ERROR_TYPES, TASK_STATES, TASK_TYPES

_ENDS = ("finished_ns", "failed_ns")


def _info(name: str) -> str:
    return f"event_data.task_info.{name}"


def _update(name: str) -> str:
    return f"event_data.state_updates.{name}"


def _log_file(name: str, doc: str, filled: str) -> Column:
    return Column(
        f"_{name}", "text", _update(f"task_log_info.{name}"), "max", doc, since=("running_ns",), filled=filled
    )


def _log_offset(name: str, doc: str) -> Column:
    # a file begins with markers of its job, so no task's output ends at 0: that is "not known"
    unset, since = ("0", _ENDS) if name.endswith("end") else ("", ("running_ns",))
    return Column(f"_{name}", "int", _update(f"task_log_info.{name}"), "max", doc, unset, since=since)


def _posted(*columns: Posted, event_type: str, body: str, **more: Any) -> PostedEvent:
    """Return the declaration of an event type that names its attempt as all but profile events do."""
    return PostedEvent(
        event_type=event_type,
        body=body,
        columns=(
            Posted("task_id", "taskId", "id"),
            Posted("attempt_number", "taskAttempt", "int", default="0"),
            Posted("job_id", "jobId", "id"),
            *columns,
        ),
        **more,
    )


def _definition(event_type: str, body: str, *columns: Posted) -> PostedEvent:
    return _posted(
        *columns,
        Posted("language", "language", "text"),
        Posted("parent_task_id", "parentTaskId", "id"),
        Posted("placement_group_id", "placementGroupId", "id or none"),
        Posted("required_resources", "requiredResources", "amounts", default="{}"),
        Posted("_runtime_env_info", "serializedRuntimeEnv", "runtime env"),
        Posted("labels", "refIds", "texts in base64", default="{}"),
        Posted("label_selector", "labelSelector", "json", default="{}"),
        Posted(
            "fallback_strategy",
            "fallbackStrategy",
            "messages",
            # left out where it has no options. A driver has none at all
            default='{"options":[]}',
            default_unless=("taskType", "DRIVER_TASK"),
        ),
        Posted("call_site", "callSite", "text"),
        event_type=event_type,
        body=body,
        ignored=("isDetachedActor",),  # the actor's own events say so
        rest="event_data.task_info",
    )


_POSTED = (
    _definition(
        "TASK_DEFINITION_EVENT",
        "taskDefinitionEvent",
        Posted("type", "taskType", "text"),
        Posted("func_or_class_name", "taskFunc", "function"),
        Posted("_name", "taskName", "text"),
        Posted("actor_id", "taskId", "creates actor", when=("taskType", "ACTOR_CREATION_TASK")),
    ),
    _definition(
        "ACTOR_TASK_DEFINITION_EVENT",
        "actorTaskDefinitionEvent",
        Posted("type", "taskId", "constant", "ACTOR_TASK"),
        Posted("func_or_class_name", "actorFunc", "function"),
        Posted("_name", "actorTaskName", "text"),
        Posted("actor_id", "actorId", "id"),
    ),
    PostedEvent(
        event_type="TASK_PROFILE_EVENT",
        body="taskProfileEvents",
        columns=(
            Posted("task_id", "taskId", "id"),
            Posted("attempt_number", "attemptNumber", "int", default="0"),
            Posted("job_id", "jobId", "id"),
            Posted("_profile_component_id", "profileEvents.componentId", "id"),
            Posted("_profile_component_type", "profileEvents.componentType", "text"),
            Posted("_profile_node_ip_address", "profileEvents.nodeIpAddress", "text"),
            Posted("_profile_events", "profileEvents.events", "spans"),
        ),
        required=("profileEvents",),
    ),
    _posted(
        Posted("node_id", "nodeId", "id or none"),
        Posted("worker_id", "workerId", "id or none"),
        Posted("worker_pid", "workerPid", "int", unset="0"),
        Posted("_error_type", "rayErrorInfo.errorType", "text"),
        Posted("_error_message", "rayErrorInfo.errorMessage", "text"),
        Posted("is_debugger_paused", "isDebuggerPaused", "bool"),
        Posted("_own_repr_name", "actorReprName", "text"),
        *(
            Posted(f"_{name}_{what}", f"taskLogInfo.{name}{what.title()}", "text" if what == "file" else "int")
            for name in ("stdout", "stderr")
            for what in ("file", "start", "end")
        ),
        event_type="TASK_LIFECYCLE_EVENT",
        body="taskLifecycleEvent",
        times="stateTransitions",
        times_at=_update("state_ts_ns"),
        states=("NIL", *(name for _, name in TASK_STATES)),
        ignored=("rayErrorInfo.*",),  # the actor's own events tell the rest about its death
        rest="event_data.state_updates",
    ),
)

TASK = Entity(
    name="task",
    plural="tasks",
    doc="One attempt of a task. Its owner and its executor each write part of it, each in its own file.",
    event_types=("EXPORT_TASK",),
    file_types=("TASK",),
    key=("task_id", "attempt_number"),
    emitted=Emitted(
        source="the core workers of the owner (a driver or worker) and of the executor, each its part",
        when="each change of an attempt's state, and its profile events, several in one line",
        latency="one report interval (0.5 s with `raytrail run`, 1 s by default), and 1 s more where it is posted",
        missed="what a killed process had not reported, and with Ray's default batch, the backlog of a driver that "
        "makes more than 2,500 tasks/s, when it ends",
    ),
    posted=_POSTED,
    columns=(
        Column("task_id", "id", "event_data.task_id", "key", "The task."),
        Column("attempt_number", "int", "event_data.attempt_number", "key", "0 for the first attempt."),
        Column("job_id", "id", "event_data.job_id", "max", "The driver job that it belongs to."),
        Column(
            "type",
            "text",
            _info("type"),
            "max",
            "NORMAL_TASK, ACTOR_CREATION_TASK, ACTOR_TASK or DRIVER_TASK.",
            values=TASK_TYPES,
        ),
        Column(
            "func_or_class_name", "text", _info("func_or_class_name"), "max", "The function or class that is called."
        ),
        Column("_name", "text", _info("name"), "max", "The name given to it. Only Ray's HTTP export tells."),
        Column("language", "text", _info("language"), "max", "PYTHON, JAVA or CPP.", values=LANGUAGES),
        Column("actor_id", "id", _info("actor_id"), "max", "The actor that it creates or calls."),
        Column("parent_task_id", "id", _info("parent_task_id"), "max", "The task that submitted it."),
        Column(
            "placement_group_id", "id", _info("placement_group_id"), "max", "The placement group that it was placed in."
        ),
        Column("required_resources", "json", _info("required_resources"), "max", "Amounts by resource."),
        Column("_runtime_env_info", "json", _info("runtime_env_info"), "max", "Its runtime environment."),
        Column("labels", "json", _info("labels"), "max", "Labels given by libraries, such as Ray Data's operator."),
        Column("label_selector", "json", _info("label_selector"), "max", "Labels that its node must have."),
        Column(
            "fallback_strategy",
            "json",
            _info("fallback_strategy"),
            "max",
            "Labels that will do as well. Only Ray's HTTP export tells.",
        ),
        Column(
            "call_site",
            "text",
            _info("call_site"),
            "max",
            "The place in the code that called it. Only Ray's HTTP export tells, and only with "
            "`RAY_record_task_actor_creation_sites`.",
        ),
        Column(
            "node_id", "id", _update("node_id"), "max", "The node that it ran on.", since=("submitted_to_worker_ns",)
        ),
        Column(
            "worker_id", "id", _update("worker_id"), "max", "The worker that ran it.", since=("submitted_to_worker_ns",)
        ),
        Column("worker_pid", "int", _update("worker_pid"), "max", "Process of the worker.", since=("running_ns",)),
        Column(
            "_error_type",
            "text",
            _update("error_info.error_type"),
            "max",
            "Why it failed.",
            since=("failed_ns",),
            values=TASK_ERROR_TYPES,
        ),
        Column(
            "_error_message",
            "text",
            _update("error_info.error_message"),
            "max",
            "The text of the error.",
            since=("failed_ns",),
        ),
        Column("is_debugger_paused", "bool", _update("is_debugger_paused"), "max", "True while a debugger holds it."),
        Column(
            "_own_repr_name",
            "text",
            _update("actor_repr_name"),
            "max",
            "The text that its actor's ``__repr__`` returns. Only Ray's HTTP export tells.",
            since=("running_ns",),
        ),
        _log_file(
            "stdout_file",
            "File of its output. It is filled in when sealed, where Ray leaves it out.",
            task_sql.output("out"),
        ),
        _log_offset("stdout_start", "The byte of the file at which its output begins."),
        _log_offset("stdout_end", "The byte of the file at which its output ends."),
        _log_file("stderr_file", "File of its errors, likewise.", task_sql.output("err")),
        _log_offset("stderr_start", "The byte of the file at which its errors begin."),
        _log_offset("stderr_end", "The byte of the file at which its errors end."),
        *(
            Column(
                task_sql.time(number),
                "int",
                _update(f"state_ts_ns.{number}"),
                "max",
                f"When it entered {name} ({number}), in nanoseconds since the epoch.",
            )
            for number, name in TASK_STATES
        ),
        Column(
            "_profile_component_id", "id", "event_data.profile_events.component_id", "max", "Process that was profiled."
        ),
        Column(
            "_profile_component_type",
            "text",
            "event_data.profile_events.component_type",
            "max",
            "``worker`` or ``driver``.",
            values=("worker", "driver"),
        ),
        Column(
            "_profile_node_ip_address",
            "text",
            "event_data.profile_events.node_ip_address",
            "max",
            "Address of its node.",
        ),
        Column(
            "_profile_events",
            "spans",
            "event_data.profile_events.events",
            "union",
            "The profile events of the process.",
        ),
        Column(
            "_span_name",
            "text",
            f"= {task_sql.SPAN_NAME}",
            "max",
            "The name given to the task, which Ray exports only as the name of a profile event.",
        ),
        Column(
            "_creator",
            "text",
            f"= {task_sql.CREATOR}",
            "max",
            "When a process had created the actor, and which. Ray 2.48 creates one that restarts in the same "
            "attempt. The last process is the one that Ray shows.",
        ),
        Column(
            "_actor_name",
            "text",
            "= NULL::VARCHAR",
            "max",
            "The name of its actor, filled in from that.",
            filled="a.name",
        ),
        Column(
            "_sibling_name",
            "text",
            "= NULL::VARCHAR",
            "max",
            "The name that another attempt of the task tells, filled in from that.",
            filled="CASE WHEN coalesce(s._name, s._span_name) IS NULL THEN g.name END",
        ),
        Column(
            "_actor_repr_name",
            "text",
            "= NULL::VARCHAR",
            "max",
            "The text that its actor's ``__repr__`` returns, likewise.",
            filled="a.repr_name",
        ),
    ),
    derived=(
        Derived(
            "state",
            "text",
            task_sql.STATE,
            "The state it is in, or NIL where no event said.",
            stored=True,
            values=("NIL", *dict(TASK_STATES).values()),
        ),
        Derived("name", "text", task_sql.NAME, "The name given to it, else what is called.", stored=True),
        Derived("_earliest_ns", "int", task_sql.FIRST, "The first of its times.", stored=True),
        Derived(
            "_latest_ns",
            "int",
            task_sql.LAST_KNOWN,
            "The last of its times, and of the moments from which something of it is known.",
            stored=True,
        ),
        Derived("runtime_env_info", "json", task_sql.RUNTIME_ENV, "Its runtime environment."),
        Derived(
            "error_type",
            "text",
            "CASE WHEN failed_ns IS NOT NULL THEN _error_type END",
            "Why it failed.",
            values=TASK_ERROR_TYPES,
        ),
        Derived("error_message", "text", task_sql.ERROR_MESSAGE, "The text of the error."),
        Derived(
            "traceback",
            "text",
            task_sql.TRACEBACK,
            "The whole traceback of what it raised, from its profile events. Ray keeps the end alone in the error's "
            "text.",
        ),
        Derived("creation_time_ms", "int", task_sql.ms("pending_args_avail_ns"), "When it was submitted."),
        Derived("start_time_ms", "int", task_sql.ms("running_ns"), "When it began to run."),
        Derived("end_time_ms", "int", task_sql.ms("coalesce(failed_ns, finished_ns)"), "When it finished or failed."),
        Derived("events", "json", f"to_json({task_sql.EVENTS})", "Its states, each with the time that it was entered."),
        Derived(
            "profiling_data", "json", task_sql.PROFILE, "The profile events of the process, with times in milliseconds."
        ),
        Derived("task_log_info", "json", task_sql.LOG_INFO, "The files of its output, and the places in them."),
    ),
    ignored=("event_data.task_info.task_id",),
    sort=("job_id", "pending_args_avail_ns", "task_id"),
    life=Life(
        state="state",
        terminal=("FINISHED", "FAILED"),
        began_ns=task_sql.FIRST,
        complete=task_sql.COMPLETE,
        settled=task_sql.SETTLED,
        ends=TASK_ENDS,
        closing=(
            ("failed_ns", task_sql.FAILED_AT),
            ("_error_type", "'WORKER_DIED'"),
            ("_error_message", "coalesce({says}, 'The session ended while it was open.')"),
        ),
    ),
    beside=(*TASK_BESIDE, *task_sql.BESIDE),
    moments=Moments(
        earliest="_earliest_ns",
        latest="_latest_ns",
        tallied=("job_id", "type", "func_or_class_name", "name", "state", "required_resources", "inferred"),
    ),
    work=Work(
        counted="type IS NOT NULL AND type != 'DRIVER_TASK'",
        job="job_id",
        function="func_or_class_name",
        node="node_id",
        worker=task_sql.WORKER,
        pid="worker_pid",
        actor="actor_id",
        queued_ns="pending_args_avail_ns",
        began_ns="running_ns",
        arguments_ns=task_sql.ARGUMENTS_NS,
        assignment_ns=task_sql.ASSIGNMENT_NS,
        ended_ns="coalesce(failed_ns, finished_ns)",
        failed="failed_ns IS NOT NULL",
        retried="attempt_number > 0",
        states=tuple((name, task_sql.time(number)) for number, name in task_sql.IN_ORDER),
        waits=(
            ("arguments", ("PENDING_ARGS_AVAIL",)),
            ("node", ("PENDING_NODE_ASSIGNMENT",)),
            (
                "object store",
                (
                    *("PENDING_OBJ_STORE_MEM_AVAIL", "PENDING_ARGS_FETCH"),
                    *("PENDING_ACTOR_TASK_ARGS_FETCH", "GETTING_AND_PINNING_ARGS"),
                ),
            ),
            ("worker", ("SUBMITTED_TO_WORKER", "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY")),
        ),
    ),
)
