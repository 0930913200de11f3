"""
One attempt of a task, from ``EXPORT_TASK`` (`ExportTaskEventData`, export_task_event.proto).

Or from Ray's HTTP export, whose events `raytrail.sources.ray_event` puts into the same words.
"""

from __future__ import annotations

from raytrail.entities import INFERRED_MS, Beside, Column, Derived, Emitted, Entity, Life, Moments
from raytrail.entities.ends import CREATES_SQL, task_beside, task_ends

STATES = (
    # rpc.TaskStatus (common.proto, Ray 2.60): its number, its name
    (1, "PENDING_ARGS_AVAIL"),
    (2, "PENDING_NODE_ASSIGNMENT"),
    (3, "PENDING_OBJ_STORE_MEM_AVAIL"),
    (4, "PENDING_ARGS_FETCH"),
    (5, "SUBMITTED_TO_WORKER"),
    (6, "PENDING_ACTOR_TASK_ARGS_FETCH"),
    (7, "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY"),
    (8, "RUNNING"),
    (9, "RUNNING_IN_RAY_GET"),
    (10, "RUNNING_IN_RAY_WAIT"),
    (11, "FINISHED"),
    (12, "FAILED"),
    (13, "GETTING_AND_PINNING_ARGS"),
)

RANK = (12, 11, 10, 9, 8, 13, 7, 6, 5, 4, 3, 2, 1)
"""
Which of the states present is the state: the first of these.

Ray takes the one with the highest number (`protobuf_to_task_state_dict`, ray/util/state/common.py). That is
this order, but for GETTING_AND_PINNING_ARGS, which is numbered last though it comes before RUNNING: by Ray's
rule a finished attempt that went through it would never read FINISHED.
"""

_NAMES = dict(STATES)

TYPES = ("NORMAL_TASK", "ACTOR_CREATION_TASK", "ACTOR_TASK", "DRIVER_TASK")
"""rpc.TaskType (common.proto, Ray 2.60)."""
LANGUAGES = ("PYTHON", "JAVA", "CPP")
"""rpc.Language (common.proto, Ray 2.60)."""
ERROR_TYPES = (
    "WORKER_DIED",
    "ACTOR_DIED",
    "TASK_EXECUTION_EXCEPTION",
    "OBJECT_IN_PLASMA",
    "TASK_CANCELLED",
    "ACTOR_CREATION_FAILED",
    "RUNTIME_ENV_SETUP_FAILED",
    "OBJECT_LOST",
    "OWNER_DIED",
    "OBJECT_DELETED",
    "DEPENDENCY_RESOLUTION_FAILED",
    "OBJECT_UNRECONSTRUCTABLE_MAX_ATTEMPTS_EXCEEDED",
    "OBJECT_UNRECONSTRUCTABLE_LINEAGE_EVICTED",
    "OBJECT_FETCH_TIMED_OUT",
    "LOCAL_RAYLET_DIED",
    "TASK_PLACEMENT_GROUP_REMOVED",
    "ACTOR_PLACEMENT_GROUP_REMOVED",
    "TASK_UNSCHEDULABLE_ERROR",
    "ACTOR_UNSCHEDULABLE_ERROR",
    "OUT_OF_DISK_ERROR",
    "OBJECT_FREED",
    "OUT_OF_MEMORY",
    "NODE_DIED",
    "END_OF_STREAMING_GENERATOR",
    "ACTOR_UNAVAILABLE",
    "GENERATOR_TASK_FAILED_FOR_OBJECT_RECONSTRUCTION",
    "OBJECT_UNRECONSTRUCTABLE_PUT",
    "OBJECT_UNRECONSTRUCTABLE_RETRIES_DISABLED",
    "OBJECT_UNRECONSTRUCTABLE_BORROWED",
    "OBJECT_UNRECONSTRUCTABLE_REF_NOT_FOUND",
    "OBJECT_UNRECONSTRUCTABLE_TASK_CANCELLED",
    "OBJECT_UNRECONSTRUCTABLE_LINEAGE_DISABLED",
    "WORKER_STARTUP_FAILED",
    "STREAMING_GENERATOR_REPLAY_INCONSISTENT",
)
"""rpc.ErrorType (common.proto, Ray 2.60)."""

_ENDS = ("finished_ns", "failed_ns")


def _time(number: int) -> str:
    return f"{_NAMES[number].lower()}_ns"


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


_RAN_IN = "coalesce({0}worker_id, {0}_profile_component_id)"
"""Its worker: the owner tells, or else the worker itself does, where the owner was killed before it could."""
_LOG_NAME_SQL = (
    # for whose file nobody knows: this is how a worker that was started for a job names its own
    f"'worker-' || lower(hex({_RAN_IN.format('')})) || '-' || lower(hex(job_id)) || '-' || worker_pid"
)

PROCESS_SQL = "coalesce(unhex(_creator[21:]), _profile_component_id)"
"""The process that was profiled."""

STATE_SQL = "CASE " + " ".join(f"WHEN {_time(n)} IS NOT NULL THEN '{_NAMES[n]}'" for n in RANK) + " ELSE 'NIL' END"


TIMES_SQL = ", ".join(_time(number) for number, _ in STATES)
"""The times of an attempt."""
_FIRST_SQL = f"least({TIMES_SQL})"
_LAST_SQL = "greatest(" + ", ".join(f"s.{_time(number)}" for number, _ in STATES) + ")"

# Where an attempt's output begins and ends is mostly exported at once, and then without its file (TaskLogInfoToExport).
# One that ran while its worker reported has the path: that of its worker's files, and so that of its node's directory.
_TELLS = "_stdout_file LIKE '%/worker-%.out'"
_WORKER_LOG = "worker-((?:[0-9a-f]{2})+)-[0-9a-f]+-[0-9]+"

_BESIDE = (
    Beside(
        "g",
        "task",
        "g.task_id = s.task_id",
        ("task_id", "attempt_number", "_name", "_span_name"),
        "SELECT {session}task_id, max(coalesce(_name, _span_name)) AS name FROM {task} WHERE ({session}task_id) IN "
        "(SELECT {session}task_id FROM {task} WHERE attempt_number > 0) GROUP BY {session}task_id",
    ),
    # the workers whose files an event tells: their path, without its suffix
    Beside(
        "told",
        "task",
        f"told.worker_id = {_RAN_IN.format('s.')}",
        ("worker_id", "_profile_component_id", "_stdout_file"),
        f"SELECT {{session}}{_RAN_IN.format('')} AS worker_id, max(left(_stdout_file, -4)) AS path FROM {{task}} "
        f"WHERE {_TELLS} AND {_RAN_IN.format('')} IS NOT NULL GROUP BY ALL",
    ),
    # the nodes of which an event tells where Ray keeps its logs; a slash ends it
    Beside(
        "logs",
        "task",
        "logs.node_id = s.node_id",
        ("node_id", "_stdout_file"),
        "SELECT {session}node_id, max(regexp_extract(_stdout_file, '^.*/')) AS directory FROM {task} "
        f"WHERE {_TELLS} AND node_id IS NOT NULL GROUP BY {{session}}node_id",
    ),
    # the same of all nodes, where they agree: mostly a cluster has one --temp-dir
    Beside(
        "anywhere",
        "task",
        "true",
        ("_stdout_file",),
        "SELECT {session}CASE WHEN count(DISTINCT directory) = 1 THEN max(directory) END AS directory FROM ("
        "SELECT {session}regexp_extract(_stdout_file, '^.*/') AS directory FROM {task} "
        f"WHERE {_TELLS}) GROUP BY ALL",
    ),
    # the workers whose output was shipped: the name of its log, without its suffix
    Beside(
        "shipped",
        "file",
        f"shipped.worker_id = {_RAN_IN.format('s.')}",
        ("event_type", "name"),
        f"SELECT {{session}}unhex(regexp_extract(name, '{_WORKER_LOG}[.]out$', 1)) AS worker_id, "
        f"max(regexp_extract(name, '({_WORKER_LOG})[.]out$', 1)) AS name FROM {{file}} "
        f"WHERE event_type = 'LOG' AND regexp_matches(name, '(^|/){_WORKER_LOG}[.]out$') GROUP BY ALL",
    ),
)


def _output(suffix: str) -> str:
    path = "coalesce(told.path, coalesce(logs.directory, anywhere.directory, '') || shipped.name)"
    return (
        f"CASE WHEN s._std{suffix}_file IS NULL AND s._stdout_start IS NOT NULL THEN {path} || '.{suffix}' "
        f"ELSE s._std{suffix}_file END"
    )


def _ms(ns: str) -> str:
    """
    Return milliseconds as Ray rounds them.

    Ray computes ``int(ns) // 1e6``: the nanoseconds pass through a double, whose steps are 256 ns today, so a time
    that lies on a millisecond may come out one lower.
    """
    return f"({ns})::DOUBLE::BIGINT // 1000000"


_BASE_NAME_SQL = (
    "coalesce(_name, _span_name, _sibling_name, "
    "CASE WHEN type = 'ACTOR_CREATION_TASK' THEN coalesce(_actor_name || ':', '') ELSE '' END || func_or_class_name)"
)
_NAME_SQL = (
    # as GCS and Ray's State API name it: the name given in options(), and an actor's __repr__ for its methods
    "CASE WHEN type = 'ACTOR_TASK' AND worker_pid IS NOT NULL"
    " AND coalesce(_own_repr_name, _actor_repr_name) IS NOT NULL"
    f" AND {_BASE_NAME_SQL} = func_or_class_name"
    " THEN coalesce(_own_repr_name, _actor_repr_name) || '.' || split_part(func_or_class_name, '.', -1)"
    f" ELSE {_BASE_NAME_SQL} END"
)

_EVENTS_SQL = (
    "list_filter(["
    + ", ".join(f"{{'state': '{name}', 'created_ms': {_ms(_time(n))}}}" for n, name in STATES)
    + "], lambda e: e.created_ms IS NOT NULL)"
)

TASK = Entity(
    name="task",
    plural="tasks",
    doc="One attempt of a task. Its owner and its executor each write part of it, each in its own file.",
    event_types=("EXPORT_TASK",),
    file_types=("TASK",),
    key=("task_id", "attempt_number"),
    emitted=Emitted(
        source="every core worker: the owner (a driver or worker) and the executor, each its part",
        when="each change of an attempt's state, and its profile events; several in one line",
        latency="one report interval: 0.5 s with `raytrail run`, 1 s by default; of what is posted, 1 s more",
        missed="what a killed process had not reported; with Ray's default batch, the backlog of a driver that makes "
        "more than 2,500 tasks/s, when it ends",
    ),
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
            values=TYPES,
        ),
        Column("func_or_class_name", "text", _info("func_or_class_name"), "max", "What is called."),
        Column("_name", "text", _info("name"), "max", "The name given to it; only Ray's HTTP export tells."),
        Column("language", "text", _info("language"), "max", "PYTHON, JAVA or CPP.", values=LANGUAGES),
        Column("actor_id", "id", _info("actor_id"), "max", "The actor that it creates or calls."),
        Column("parent_task_id", "id", _info("parent_task_id"), "max", "The task that submitted it."),
        Column("placement_group_id", "id", _info("placement_group_id"), "max", "Where it was placed."),
        Column("required_resources", "json", _info("required_resources"), "max", "Amounts by resource."),
        Column("_runtime_env_info", "json", _info("runtime_env_info"), "max", "Its runtime environment."),
        Column(
            "labels",
            "json",
            _info("labels"),
            "max",
            "Labels given by libraries, such as Ray Data's operator.",
        ),
        Column("label_selector", "json", _info("label_selector"), "max", "Labels that its node must have."),
        Column(
            "fallback_strategy",
            "json",
            _info("fallback_strategy"),
            "max",
            "Labels that will do as well; only Ray's HTTP export tells.",
        ),
        Column(
            "call_site",
            "text",
            _info("call_site"),
            "max",
            "Where it was called; only Ray's HTTP export tells, and only with `RAY_record_task_actor_creation_sites`.",
        ),
        Column("node_id", "id", _update("node_id"), "max", "Where it ran.", since=("submitted_to_worker_ns",)),
        Column("worker_id", "id", _update("worker_id"), "max", "Who ran it.", since=("submitted_to_worker_ns",)),
        Column("worker_pid", "int", _update("worker_pid"), "max", "Process of the worker.", since=("running_ns",)),
        Column(
            "_error_type",
            "text",
            _update("error_info.error_type"),
            "max",
            "Why it failed.",
            since=("failed_ns",),
            values=ERROR_TYPES,
        ),
        Column(
            "_error_message",
            "text",
            _update("error_info.error_message"),
            "max",
            "What the error said.",
            since=("failed_ns",),
        ),
        Column("is_debugger_paused", "bool", _update("is_debugger_paused"), "max", "Whether a debugger holds it."),
        Column(
            "_own_repr_name",
            "text",
            _update("actor_repr_name"),
            "max",
            "What its actor's ``__repr__`` says; only Ray's HTTP export tells.",
            since=("running_ns",),
        ),
        _log_file("stdout_file", "File of its output; where Ray leaves it out, filled in when sealed.", _output("out")),
        _log_offset("stdout_start", "Where in the file its output begins, in bytes."),
        _log_offset("stdout_end", "Where in the file its output ends, in bytes."),
        _log_file("stderr_file", "File of its errors, likewise.", _output("err")),
        _log_offset("stderr_start", "Where in the file its errors begin, in bytes."),
        _log_offset("stderr_end", "Where in the file its errors end, in bytes."),
        *(
            Column(
                _time(number),
                "int",
                _update(f"state_ts_ns.{number}"),
                "max",
                f"When it entered {name} ({number}), in nanoseconds since the epoch.",
            )
            for number, name in STATES
        ),
        Column(
            "_profile_component_id",
            "id",
            "event_data.profile_events.component_id",
            "max",
            "Process that was profiled.",
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
            "What the process did, and when.",
        ),
        Column(
            "_span_name",
            "text",
            "= list_extract(list_filter(_profile_events, lambda s: starts_with(s.event_name, 'task::')), 1)"
            ".event_name[7:]",
            "max",
            "The name given to the task, which Ray exports only as the name of a profile event.",
        ),
        Column(
            "_creator",
            "text",
            f"= CASE WHEN {CREATES_SQL} THEN "
            "lpad(list_max(list_transform(_profile_events, lambda s: s.end_time))::VARCHAR, 20, '0') "
            "|| lower(hex(_profile_component_id)) END",
            "max",
            "When a process had created the actor, and which. Ray 2.48 creates one that restarts in the same attempt: "
            "the last process is the one that Ray shows.",
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
            "What its actor's ``__repr__`` says, likewise.",
            filled="a.repr_name",
        ),
    ),
    derived=(
        Derived(
            "state",
            "text",
            STATE_SQL,
            "The state it is in, or NIL where no event said.",
            stored=True,
            values=("NIL", *_NAMES.values()),
        ),
        Derived("name", "text", _NAME_SQL, "The name given to it, else what is called.", stored=True),
        Derived("_earliest_ns", "int", _FIRST_SQL, "The first of its times.", stored=True),
        Derived(
            "_latest_ns",
            "int",
            f"greatest({TIMES_SQL}, list_max(list_transform(_profile_events, lambda s: s.end_time)), "
            f"{INFERRED_MS} * 1000000)",
            "The last of its times, and of the moments from which something of it is known.",
            stored=True,
        ),
        Derived(
            "runtime_env_info",
            "json",
            # Ray's own answer leaves out what says nothing
            "CASE WHEN _runtime_env_info IS NOT NULL THEN json_merge_patch(_runtime_env_info, CASE WHEN contains("
            '_runtime_env_info, \'"uris":{"py_modules_uris":[],"working_dir_uri":""}\') THEN \'{"uris":null}\' '
            "ELSE '{}' END::JSON, CASE WHEN contains(_runtime_env_info, "
            '\'"runtime_env_config":{"eager_install":false,"log_files":[],"setup_timeout_seconds":0}\') '
            "THEN '{\"runtime_env_config\":null}' ELSE '{}' END::JSON) END",
            "Its runtime environment.",
        ),
        Derived(
            "error_type",
            "text",
            "CASE WHEN failed_ns IS NOT NULL THEN _error_type END",
            "Why it failed.",
            values=ERROR_TYPES,
        ),
        Derived(
            "error_message",
            "text",
            # the codes that colour a terminal are cut, as Ray does
            "CASE WHEN failed_ns IS NOT NULL AND _error_type IS NOT NULL THEN "
            "regexp_replace(coalesce(_error_message, ''), '\x1b[^m]*m', '', 'g') END",
            "What the error said.",
        ),
        Derived("creation_time_ms", "int", _ms("pending_args_avail_ns"), "When it was submitted."),
        Derived("start_time_ms", "int", _ms("running_ns"), "When it began to run."),
        Derived("end_time_ms", "int", _ms("coalesce(failed_ns, finished_ns)"), "When it finished or failed."),
        Derived("events", "json", f"to_json({_EVENTS_SQL})", "Its states, each with the time that it was entered."),
        Derived(
            "profiling_data",
            "json",
            "CASE WHEN coalesce(len(_profile_events), 0) = 0 THEN '{}' ELSE to_json({"
            "'component_type': _profile_component_type, "
            f"'component_id': lower(hex({PROCESS_SQL})), 'node_ip_address': _profile_node_ip_address, 'events': "
            "list_transform(list_sort(list_transform(_profile_events, "
            "lambda s: {'end_time': s.end_time, 'start_time': s.start_time, "
            "'event_name': s.event_name, 'extra_data': s.extra_data})), lambda s: {'start_time': s.start_time / 1e6, "
            "'end_time': s.end_time / 1e6, 'extra_data': coalesce(try_cast(s.extra_data AS JSON), '{}'::JSON), "
            "'event_name': s.event_name})}) END",
            "What the process did, and when, in milliseconds.",
        ),
        Derived(
            "task_log_info",
            "json",
            # of one whose end was never told, Ray's own answer has no ends
            "CASE WHEN _stdout_start IS NOT NULL THEN json_merge_patch('{}', to_json({"
            f"'stdout_file': coalesce(_stdout_file, {_LOG_NAME_SQL} || '.out', ''), "
            f"'stderr_file': coalesce(_stderr_file, {_LOG_NAME_SQL} || '.err', ''), "
            "'stdout_start': _stdout_start, 'stdout_end': _stdout_end, "
            "'stderr_start': _stderr_start, 'stderr_end': _stderr_end})) END",
            "Where its output is.",
        ),
    ),
    ignored=("event_data.task_info.task_id",),
    sort=("job_id", "pending_args_avail_ns", "task_id"),
    life=Life(
        state="state",
        terminal=("FINISHED", "FAILED"),
        began_ns=_FIRST_SQL,
        complete=(
            "func_or_class_name IS NOT NULL AND coalesce(finished_ns, failed_ns) IS NOT NULL"
            " AND coalesce(_name, _span_name) IS NOT NULL AND running_ns IS NOT NULL"
            " AND (type != 'NORMAL_TASK' OR _stdout_end IS NOT NULL)"
        ),
        settled="type IS NOT NULL AND coalesce(finished_ns, failed_ns) IS NOT NULL",
        ends=task_ends(_LAST_SQL),
        closing=(
            # only of an end that Ray told itself is it known that it was the end, whatever came after by other clocks
            (
                "failed_ns",
                f"CASE WHEN {{why}} = 'session ended' THEN greatest({{end_ns}}, {TIMES_SQL}) ELSE {{end_ns}} END",
            ),
            ("_error_type", "'WORKER_DIED'"),
            ("_error_message", "coalesce({says}, 'The session ended while it was open.')"),
        ),
    ),
    beside=(*task_beside(), *_BESIDE),
    moments=Moments(
        earliest="_earliest_ns",
        latest="_latest_ns",
        tallied=("job_id", "type", "func_or_class_name", "name", "state", "required_resources", "inferred"),
    ),
)
