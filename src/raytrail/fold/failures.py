"""
What failed in a session, one row a failure, each with its signature and with what it follows from, in SQL.

A failure is an attempt of a task, an actor that died of an error, a job that failed, or a node that died unexpectedly.
Many follow from another one: the tasks of a node that died, those of an actor that died, and those whose argument could
not be computed. Their ``root`` is the signature of that one.
"""

from __future__ import annotations

from collections.abc import Collection

from raytrail.entities import Column
from raytrail.fold.signature import signatures

TABLE = "failure"
"""The name of a sealed session's table of them."""

READ = ("task", "actor", "node", "job")
"""The views that it reads."""

MESSAGE_CHARACTERS = 20_000
"""How much of an error's text is kept, of the first failure of a signature in each job."""

COLUMNS = (
    Column("session", "text", "", "key", "The session."),
    Column("counted", "bool", "", "max", "False of one that somebody wanted. It is there for what follows from it."),
    Column("kind", "text", "", "max", "What failed: ``task``, ``actor``, ``job`` or ``node``."),
    Column("id", "text", "", "key", "Its id."),
    Column("attempt_number", "int", "", "key", "Of a task, the attempt."),
    Column("job_id", "text", "", "max", "The driver job that it belongs to."),
    Column("node_id", "text", "", "max", "The node that it was on."),
    Column("actor_id", "text", "", "max", "The actor that it is, or is of."),
    Column("function", "text", "", "max", "What was called, or the class of the actor."),
    Column("at_ms", "int", "", "max", "When it failed."),
    Column("ended", "bool", "", "max", "Whether it was only open when its job or its session ended."),
    Column("via", "text", "", "max", "What it follows from: ``node``, ``actor``, ``argument``, ``task``, or nothing."),
    Column("recovered_ms", "int", "", "max", "When a later attempt of the task succeeded."),
    Column("hash", "text", "", "max", "The name of its signature."),
    Column("error", "text", "", "max", "The type of the exception, else Ray's type of the error."),
    Column("text", "text", "", "max", "What it said, masked."),
    Column("frame", "text", "", "max", "The file and function of the user's code that are deepest."),
    Column("root", "text", "", "max", "The signature that it follows from, or its own."),
    Column("message", "text", "", "max", "The text of the first of its signature in its job."),
)

NODE_DIED = "NODE_DIED"
_NODE_SLACK_MS = 30_000
"""How long before the GCS finds a node dead its tasks may fail: by then it has missed several checks of its health."""
_ACTOR_SLACK_MS = 5_000
"""The same of an actor: Ray's files tell its death in whole seconds."""

_EXPECTED = "'EXPECTED_TERMINATION', 'AUTOSCALER_DRAIN_IDLE'"
_ENDED = (
    "starts_with({0}, 'Job finishes (') OR {0} = 'The session ended while it was open.' "
    "OR ends_with({0}, 'Worker force exited because its job has finished')"
)
_OF_WORKERS = (
    "'WORKER_DIED', 'NODE_DIED', 'ACTOR_DIED', 'ACTOR_UNAVAILABLE', 'LOCAL_RAYLET_DIED', 'OWNER_DIED', 'OBJECT_LOST'"
)
"""The error types of what ends with a process, and so perhaps with its node."""
_OF_ACTORS = "'WORKER_DIED', 'ACTOR_DIED', 'ACTOR_UNAVAILABLE'"
_ARGUMENT = "' computed:' || chr(10) || 'ray.exceptions.'"
"""The end of what Ray says of a task whose argument failed."""
_DEPENDENCY = "ray._raylet.raise_if_dependency_failed"
"""The function of Ray's that raises the argument's error there."""

_ACTOR_MESSAGE = (
    "coalesce(death_cause ->> '$.actor_died_error_context.error_message', "
    "death_cause ->> '$.creation_task_failure_context.formatted_exception_string', "
    "death_cause ->> '$.runtime_env_failed_context.error_message', "
    "death_cause ->> '$.actor_unschedulable_context.error_message', "
    "death_cause ->> '$.oom_context.error_message')"
)
_ACTOR_REASON = "(death_cause ->> '$.actor_died_error_context.reason')"
_ORDERLY = (
    f"coalesce({_ACTOR_REASON} IN ('RAY_KILL', 'OUT_OF_SCOPE', 'REF_DELETED', 'OWNER_DIED') "
    f"OR (death_cause ->> '$.actor_died_error_context.node_death_info.reason') IN ({_EXPECTED}) "
    "OR contains(message, 'Worker exit type: INTENDED_'), false)"
)
"""Whether an actor's death is no failure: somebody wanted it."""


def failures(condition: str = "true") -> str:
    """
    Return the SELECT of the failures of sessions, with `COLUMNS`.

    It reads the views that `raytrail sql` has, too.

    Args:
        condition: What rows of all of them must meet, such as that they are of one session.
    """
    errors = "SELECT number AS id, error_type, message FROM failed"
    return (
        f"WITH attempts AS MATERIALIZED ({_attempts(condition)}), "
        "failed AS MATERIALIZED (SELECT row_number() OVER () AS number, * FROM ("
        f"FROM attempts UNION ALL BY NAME {_died(condition)} UNION ALL BY NAME {_lost(condition)} "
        f"UNION ALL BY NAME {_jobs(condition)})), "
        f"signed AS MATERIALIZED (SELECT failed.*, s.* EXCLUDE (id) FROM failed JOIN ({signatures(f'({errors})')}) s "
        "ON failed.number = s.id), "
        f"{_causes()}, again AS MATERIALIZED ({_again(condition)}), "
        f"rooted AS MATERIALIZED ({_rooted()}) "
        f"SELECT {', '.join(column.name for column in COLUMNS if column.name != 'message')}, "
        "CASE WHEN row_number() OVER (PARTITION BY session, job_id, hash ORDER BY via, at_ms) = 1 "
        f"THEN left(message, {MESSAGE_CHARACTERS}) END AS message FROM rooted "
        "WHERE counted OR hash IN (SELECT root FROM rooted WHERE counted)"
    )


def some(kinds: Collection[str]) -> str:
    """
    Return the SELECT of whether anything failed that was not only open at the end: one row with one value.

    Args:
        kinds: Which of `READ` may have failed: those of which there is a state.
    """
    parts = {"task": "FROM attempts", "actor": _died("true"), "node": _lost("true"), "job": _jobs("true")}
    rows = " UNION ALL ".join(f"SELECT counted AND NOT ended AS failed FROM ({parts[kind]})" for kind in kinds)
    return f"WITH attempts AS ({_attempts('true')}) SELECT coalesce(bool_or(failed), false) FROM ({rows})"


def _attempts(condition: str) -> str:
    """Return the SELECT of attempts that failed, those that Ray counts."""
    return (
        "SELECT session, 'task' AS kind, task_id AS id, attempt_number, job_id, node_id, actor_id, "
        f"func_or_class_name AS function, type, error_type, coalesce(traceback, error_message) AS message, "
        f"coalesce(contains(traceback, '{_DEPENDENCY}') OR contains(error_message, {_ARGUMENT}), false) "
        "AS argument, "
        "end_time_ms AS at_ms, "
        f"coalesce({_ENDED.format('error_message')}, false) AS ended, true AS counted "
        "FROM task WHERE state = 'FAILED' AND type IS NOT NULL AND type != 'DRIVER_TASK' "
        f"AND {condition}"
    )


def _died(condition: str) -> str:
    """Return the SELECT of actors that died, of an error or because somebody wanted it."""
    return (
        "SELECT session, 'actor' AS kind, actor_id AS id, job_id, node_id, actor_id, class_name AS function, "
        f"'ACTOR_DIED' AS error_type, message, end_time_ms AS at_ms, false AS ended, NOT ({_ORDERLY}) AS counted, "
        f"{_ACTOR_REASON} = 'NODE_DIED' AS by_node "
        f"FROM (SELECT *, {_ACTOR_MESSAGE} AS message FROM actor WHERE state = 'DEAD' AND {condition}) "
        "WHERE message IS NOT NULL AND (counted OR actor_id IN (SELECT actor_id FROM attempts))"
    )


def _lost(condition: str) -> str:
    """Return the SELECT of nodes that died, unexpectedly or because somebody wanted it."""
    return (
        f"SELECT session, 'node' AS kind, node_id AS id, node_id, '{NODE_DIED}' AS error_type, "
        "coalesce(state_message, 'The node died.') AS message, end_time_ms AS at_ms, false AS ended, "
        f"coalesce(death_info ->> '$.reason', '') NOT IN ({_EXPECTED}) AS counted "
        f"FROM node WHERE state = 'DEAD' AND inferred IS NULL AND {condition}"
    )


def _jobs(condition: str) -> str:
    return (
        "SELECT session, 'job' AS kind, coalesce(submission_id, job_id) AS id, job_id, driver_node_id AS node_id, "
        "entrypoint AS function, error_type, message, end_time_ms AS at_ms, false AS ended, true AS counted "
        f"FROM job WHERE status = 'FAILED' AND {condition}"
    )


def _again(condition: str) -> str:
    """Return the SELECT of the tasks of which an attempt failed and a later one succeeded, and when."""
    return (
        "SELECT session, task_id AS id, min(end_time_ms) AS recovered_ms, max(attempt_number) AS succeeded FROM task "
        "WHERE state = 'FINISHED' AND attempt_number > 0 AND type IS NOT NULL "
        f"AND task_id IN (SELECT id FROM attempts) AND {condition} GROUP BY ALL"
    )


def _causes() -> str:
    """Return the relations of the signatures of nodes and actors that died, by which those of their tasks are told."""
    return (
        "nodes AS (SELECT session, node_id, any_value(hash) AS hash, min(at_ms) AS at_ms FROM signed "
        "WHERE kind = 'node' GROUP BY ALL), "
        "actors AS (SELECT s.session, s.actor_id, any_value(coalesce(n.hash, s.hash)) AS hash, min(s.at_ms) AS at_ms, "
        "bool_or(n.hash IS NOT NULL) AS by_node FROM signed s "
        "LEFT JOIN nodes n ON s.by_node AND n.session = s.session AND n.node_id = s.node_id "
        "WHERE s.kind = 'actor' GROUP BY ALL)"
    )


def _rooted() -> str:
    """Return the SELECT of failures with what each follows from."""
    # what a task said last: it may have waited for others, and said something of its own
    last = "list_last(string_split(s.message, 'above exception'))"
    of_node = (
        f"NOT s.ended AND s.error_type IN ({_OF_WORKERS}) AND n.hash IS NOT NULL "
        f"AND s.at_ms >= n.at_ms - {_NODE_SLACK_MS}"
    )
    of_actor = (
        f"NOT s.ended AND s.type IN ('ACTOR_TASK', 'ACTOR_CREATION_TASK') AND s.error_type IN ({_OF_ACTORS}) "
        f"AND a.hash IS NOT NULL AND s.at_ms >= a.at_ms - {_ACTOR_SLACK_MS}"
    )
    return (
        "SELECT s.*, r.recovered_ms, CASE WHEN s.kind = 'node' THEN '' "
        "WHEN s.kind = 'actor' THEN CASE WHEN a.by_node THEN 'node' ELSE '' END "
        f"WHEN {of_node} THEN 'node' "
        f"WHEN {of_actor} THEN CASE WHEN a.by_node THEN 'node' ELSE 'actor' END "
        "WHEN s.argument THEN 'argument' "
        f"WHEN contains({last}, 'RayTaskError') THEN 'task' ELSE '' END AS via, "
        f"CASE WHEN s.kind = 'actor' THEN a.hash WHEN {of_node} THEN n.hash WHEN {of_actor} THEN a.hash "
        "ELSE s.hash END AS root "
        "FROM signed s LEFT JOIN nodes n ON s.session = n.session AND s.node_id = n.node_id "
        "LEFT JOIN actors a ON s.session = a.session AND s.actor_id = a.actor_id "
        "LEFT JOIN again r ON s.kind = 'task' AND s.session = r.session AND s.id = r.id "
        "AND r.succeeded > s.attempt_number"
    )
