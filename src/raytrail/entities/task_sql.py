"""
The SQL of a task's declaration: each fragment under a name, with why it is so.

Expressions are over an event's columns or over the folded ones; those of ends and fills are over ``s``, the state.
"""

from __future__ import annotations

from raytrail.entities import INFERRED_MS, Beside
from raytrail.entities.enumerations import TASK_STATES

_NAMES = dict(TASK_STATES)


def time(number: int) -> str:
    """Return the column of the time at which a state was entered, by the state's number."""
    return f"{_NAMES[number].lower()}_ns"


def ms(ns: str) -> str:
    """
    Return milliseconds as Ray rounds them.

    Ray computes ``int(ns) // 1e6``: the nanoseconds pass through a double, whose steps are 256 ns today, so a time
    that lies on a millisecond may come out one lower.
    """
    return f"({ns})::DOUBLE::BIGINT // 1000000"


# -- states and times

RANK = (12, 11, 10, 9, 8, 13, 7, 6, 5, 4, 3, 2, 1)
"""
Which of the states present is the state: the first of these.

Ray takes the one with the highest number (`protobuf_to_task_state_dict`, ray/util/state/common.py). That is
this order, but for GETTING_AND_PINNING_ARGS, which is numbered last though it comes before RUNNING: by Ray's
rule a finished attempt that went through it would never read FINISHED.
"""
IN_ORDER = tuple((number, _NAMES[number]) for number in reversed(RANK))
"""The states, each after those that it takes the place of."""
STATE = "CASE " + " ".join(f"WHEN {time(n)} IS NOT NULL THEN '{_NAMES[n]}'" for n in RANK) + " ELSE 'NIL' END"
"""The state that it is in."""

_TIMES = ", ".join(time(number) for number, _ in TASK_STATES)
FIRST = f"least({_TIMES})"
"""The first time that it entered a state."""
LAST_OF_S = "greatest(" + ", ".join(f"s.{time(number)}" for number, _ in TASK_STATES) + ")"
"""The last time that it entered a state, of the state ``s``."""
_PROFILED = "list_max(list_transform(_profile_events, lambda s: s.end_time))"
"""When the last of its profile events ended."""
LAST_KNOWN = f"greatest({_TIMES}, {_PROFILED}, {INFERRED_MS} * 1000000)"
"""The last time at which something of it became known."""
EVENTS = (
    "list_filter(["
    + ", ".join(f"{{'state': '{name}', 'created_ms': {ms(time(n))}}}" for n, name in TASK_STATES)
    + "], lambda e: e.created_ms IS NOT NULL)"
)
"""Its states, each with the time that it was entered."""

COMPLETE = (
    "func_or_class_name IS NOT NULL AND coalesce(finished_ns, failed_ns) IS NOT NULL"
    " AND coalesce(_name, _span_name) IS NOT NULL AND running_ns IS NOT NULL"
    " AND (type != 'NORMAL_TASK' OR _stdout_end IS NOT NULL)"
)
"""Whether both its owner and its executor have told all that they tell."""
SETTLED = "type IS NOT NULL AND coalesce(finished_ns, failed_ns) IS NOT NULL"
"""Whether its owner has told what it is, and that it ended."""
FAILED_AT = f"CASE WHEN {{why}} = 'session ended' THEN greatest({{end_ns}}, {_TIMES}) ELSE {{end_ns}} END"
"""
When one that an end closes has failed.

Only of an end that Ray told itself is it known that it was the end, whatever came after by other clocks.
"""


def _part(start: str, end: str) -> str:
    return f"greatest({end} - {start}, 0)"  # which is 0 where one is not known


ARGUMENTS_NS = " + ".join(
    (
        _part("pending_args_avail_ns", "pending_node_assignment_ns"),
        _part("pending_args_fetch_ns", "submitted_to_worker_ns"),
        _part("getting_and_pinning_args_ns", "running_ns"),
    )
)
"""How long it waited for arguments: until they existed, and until they were at its worker."""
ASSIGNMENT_NS = _part(
    "pending_node_assignment_ns",
    "coalesce(pending_obj_store_mem_avail_ns, pending_args_fetch_ns, submitted_to_worker_ns)",
)
"""How long it waited until a node had room for it and a worker took it, or until its actor was there."""

# -- processes and names

CREATES = "task_id BETWEEN '{0}'::BLOB AND '{0}{1}'::BLOB".format(r"\xFF" * 8, r"\xFF" * 11 + r"\xFE")
"""Whether a task creates an actor: its id begins with eight bytes of ones, and a driver's with twenty (id.h)."""
CREATOR = f"CASE WHEN {CREATES} THEN lpad({_PROFILED}::VARCHAR, 20, '0') || lower(hex(_profile_component_id)) END"
"""When a process had created the actor, in 20 digits, and which, as hex: the greatest is the last one."""
PROCESS = "coalesce(unhex(_creator[21:]), _profile_component_id)"
"""The process that was profiled."""

SPAN_NAME = (
    "list_extract(list_filter(_profile_events, lambda s: starts_with(s.event_name, 'task::')), 1).event_name[7:]"
)
"""The name in the profile event of the whole run."""
_GIVEN_NAME = (
    "coalesce(_name, _span_name, _sibling_name, "
    "CASE WHEN type = 'ACTOR_CREATION_TASK' THEN coalesce(_actor_name || ':', '') ELSE '' END || func_or_class_name)"
)
NAME = (
    "CASE WHEN type = 'ACTOR_TASK' AND worker_pid IS NOT NULL"
    " AND coalesce(_own_repr_name, _actor_repr_name) IS NOT NULL"
    f" AND {_GIVEN_NAME} = func_or_class_name"
    " THEN coalesce(_own_repr_name, _actor_repr_name) || '.' || split_part(func_or_class_name, '.', -1)"
    f" ELSE {_GIVEN_NAME} END"
)
"""Its name as GCS and Ray's State API have it: the one given in options(), and an actor's __repr__ for its methods."""

# -- what Ray's answers say of it

RUNTIME_ENV = (
    "CASE WHEN _runtime_env_info IS NOT NULL THEN json_merge_patch(_runtime_env_info, CASE WHEN contains("
    '_runtime_env_info, \'"uris":{"py_modules_uris":[],"working_dir_uri":""}\') THEN \'{"uris":null}\' '
    "ELSE '{}' END::JSON, CASE WHEN contains(_runtime_env_info, "
    '\'"runtime_env_config":{"eager_install":false,"log_files":[],"setup_timeout_seconds":0}\') '
    "THEN '{\"runtime_env_config\":null}' ELSE '{}' END::JSON) END"
)
"""Its runtime environment. Ray's own answer leaves out what says nothing."""
ERROR_MESSAGE = (
    "CASE WHEN failed_ns IS NOT NULL AND _error_type IS NOT NULL THEN "
    "regexp_replace(coalesce(_error_message, ''), '\x1b[^m]*m', '', 'g') END"
)
"""What the error said. The codes that colour a terminal are cut, as Ray does."""
PROFILE = (
    "CASE WHEN coalesce(len(_profile_events), 0) = 0 THEN '{}' ELSE to_json({"
    "'component_type': _profile_component_type, "
    f"'component_id': lower(hex({PROCESS})), 'node_ip_address': _profile_node_ip_address, 'events': "
    "list_transform(list_sort(list_transform(_profile_events, "
    "lambda s: {'end_time': s.end_time, 'start_time': s.start_time, "
    "'event_name': s.event_name, 'extra_data': s.extra_data})), lambda s: {'start_time': s.start_time / 1e6, "
    "'end_time': s.end_time / 1e6, 'extra_data': coalesce(try_cast(s.extra_data AS JSON), '{}'::JSON), "
    "'event_name': s.event_name})}) END"
)
"""What the process did, by the ends of that, as Ray has it."""
TRACEBACK = (
    "CASE WHEN failed_ns IS NOT NULL THEN list_last(list_filter(list_transform(_profile_events, lambda s: "
    "CASE WHEN contains(s.extra_data, '\"traceback\"') THEN try_cast(s.extra_data AS JSON) ->> '$.traceback' END), "
    "lambda t: t IS NOT NULL)) END"
)
"""What Python printed of the exception that it raised. Of that, its error's text has the last 500 bytes alone."""

# -- its output


def _worker(of: str = "") -> str:
    """Return the worker that ran it: its owner tells, or that itself, where the owner was killed before it could."""
    return f"coalesce({of}worker_id, {of}_profile_component_id)"


WORKER = _worker()
"""The worker that ran it, likewise, of the columns of a state."""
_LOG_NAME = f"'worker-' || lower(hex({_worker()})) || '-' || lower(hex(job_id)) || '-' || worker_pid"
"""How a worker that was started for a job names its log, for where nobody knows whose file it is."""
LOG_INFO = (
    "CASE WHEN _stdout_start IS NOT NULL THEN json_merge_patch('{}', to_json({"
    f"'stdout_file': coalesce(_stdout_file, {_LOG_NAME} || '.out', ''), "
    f"'stderr_file': coalesce(_stderr_file, {_LOG_NAME} || '.err', ''), "
    "'stdout_start': _stdout_start, 'stdout_end': _stdout_end, "
    "'stderr_start': _stderr_start, 'stderr_end': _stderr_end})) END"
)
"""Where its output is. Of one whose end was never told, Ray's own answer has no ends."""

# Where an attempt's output begins and ends is mostly exported at once, and then without its file (TaskLogInfoToExport).
# One that ran while its worker reported has the path: that of its worker's files, and so that of its node's directory.
_TELLS = "_stdout_file LIKE '%/worker-%.out'"
_WORKER_LOG = "worker-((?:[0-9a-f]{2})+)-[0-9a-f]+-[0-9]+"

BESIDE = (
    # another attempt of the task, which tells the name given to it
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
        f"told.worker_id = {_worker('s.')}",
        ("worker_id", "_profile_component_id", "_stdout_file"),
        f"SELECT {{session}}{_worker()} AS worker_id, max(left(_stdout_file, -4)) AS path FROM {{task}} "
        f"WHERE {_TELLS} AND {_worker()} IS NOT NULL GROUP BY ALL",
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
        f"shipped.worker_id = {_worker('s.')}",
        ("event_type", "name"),
        f"SELECT {{session}}unhex(regexp_extract(name, '{_WORKER_LOG}[.]out$', 1)) AS worker_id, "
        f"max(regexp_extract(name, '({_WORKER_LOG})[.]out$', 1)) AS name FROM {{file}} "
        f"WHERE event_type = 'LOG' AND regexp_matches(name, '(^|/){_WORKER_LOG}[.]out$') GROUP BY ALL",
    ),
)
"""What its name and the files of its output follow from, where its own events do not tell."""


def output(suffix: str) -> str:
    """Return the file of its output, ``out`` or ``err``: what its events tell, else what others tell of its worker."""
    path = "coalesce(told.path, coalesce(logs.directory, anywhere.directory, '') || shipped.name)"
    return (
        f"CASE WHEN s._std{suffix}_file IS NULL AND s._stdout_start IS NOT NULL THEN {path} || '.{suffix}' "
        f"ELSE s._std{suffix}_file END"
    )
