"""
Which end closes what: all that Ray concludes without an event, and what follows where an event was lost.

One set of rules for a living cluster, for an earlier moment and for a sealed session. Each rule says which end closes
a state that no event ended, when it ended, how long after that Ray concludes it, and with which words. Rules name the
state that they close ``s``, and those beside it by the alias of their `Beside`. The rule that is due first closes a
state; the end of the session closes what is open then.

Sources: task_event_manager.py and task_event_storage.py in ray/dashboard/modules/task_events (Ray 2.60), which say what
the GCS itself does by default (gcs_task_manager.cc, Ray 2.48 to 2.60); ray_config_def.h for the delays.
"""

from __future__ import annotations

from raytrail.entities import Beside, End, task_sql
from raytrail.entities.enumerations import WORKER_EXIT_TYPES

WORKER_DEAD_DELAY_MS = 1_000
"""How long after a worker's end its tasks are FAILED (``gcs_mark_task_failed_on_worker_dead_delay_ms``)."""
JOB_DONE_DELAY_MS = 15_000
"""How long after a job's end what is open of it is FAILED, once (``gcs_mark_task_failed_on_job_done_delay_ms``)."""

NODE_SILENT_MS = 60_000
"""
How long after its raylet has gone a node is DEAD, if the GCS does not say so before.

By default it finds out within 20 s (``health_check_initial_delay_ms``, ``health_check_period_ms`` times
``health_check_failure_threshold``).
"""
LEFT_OPEN_MS = 600_000
"""
How long after its node's end a task is closed that Ray leaves open.

Ray closes it only when its job ends, and says so then: nobody reports the workers of a node that died, and its owner
died with it. Owners that live tell of it within seconds. Jobs may go on for weeks.
"""


def _ns(ms: str) -> str:
    return f"{ms} * 1000000"


# -- tasks

_NUMBERS = " ".join(f"WHEN '{name}' THEN {number}" for number, name in enumerate(WORKER_EXIT_TYPES))
_DIED = "json_extract_string(a._death_cause, '$.actor_died_error_context.error_message')"
_WORKER_DIED = "'Worker running the task (' || lower(hex(s.worker_id)) || ') died with exit_type: ' || "
_JOB_FINISHES = (
    "'Job finishes (' || lower(hex(s.job_id)) || ') as driver exits. Marking all non-terminal tasks as failed.'"
)
_OUTLIVES = "(coalesce(a.is_detached, false) OR coalesce(p.is_detached, false))"
"""Whether a detached actor runs the task or submitted it: then it may outlive the job."""
_JOB_OUTLIVED = "x.job_id IS NOT NULL"
"""Whether the job has a detached actor, and so perhaps others that outlive it: what such an actor owns does."""
_DETACHED = Beside(
    "x",
    "actor",
    "x.job_id = s.job_id",
    ("job_id", "is_detached"),
    "SELECT DISTINCT {session}job_id FROM {actor} WHERE is_detached",
)
_JOB = ("job_id", "is_dead", "end_time_ms")
_NODE = ("node_id", "state", "end_time_ms")
_WORKER = ("worker_id", "end_time_ms")
_WORKER_TOLD = "coalesce(NOT w.is_alive AND w.exit_type IS NOT NULL AND w.end_time_ms IS NOT NULL, false)"
"""Whether an event told how its worker ended."""
_NODE_DIED_FIRST = "coalesce(n.state = 'DEAD' AND n.end_time_ms // 1000 <= {} // 1000, false)"
"""Whether its node had died by then, in whole seconds, as of actors: nobody reports the workers of such a node."""

TASK_BESIDE = (
    Beside(
        "a",
        "actor",
        "a.actor_id = s.actor_id",
        ("actor_id", "name", "repr_name", "state", "is_detached", "_dead_ms", "_death_cause"),
    ),
    # a task's id ends with that of the actor that runs it (id.h): this is the actor that submitted the task
    Beside("p", "actor", "p.actor_id = s.parent_task_id[9:]", ("actor_id", "is_detached")),
    Beside("w", "worker", "w.worker_id = s.worker_id", (*_WORKER, "is_alive", "exit_type", "exit_detail")),
    Beside("d", "driver_job", "d.job_id = s.job_id", _JOB),
    Beside("n", "node", "n.node_id = s.node_id", (*_NODE, "_death_message")),
    _DETACHED,
)
_EXIT_TYPE = f"regexp_extract({_DIED}, 'Worker exit type: (\\w+) Worker exit detail: ', 1)"
_DETAIL = f"regexp_extract({_DIED}, 'Worker exit detail: (.*)', 1, 's')"
_BY_ACTOR = f"{_WORKER_DIED}CASE {_EXIT_TYPE} {_NUMBERS} END || ' with error_message: ' || {_DETAIL}"
TASK_ENDS = (
    End(
        "worker died",
        "An event told how its worker ended. It is FAILED at that very time, in Ray's words.",
        _WORKER_TOLD,
        _ns("w.end_time_ms"),
        WORKER_DEAD_DELAY_MS,
        f"{_WORKER_DIED}CASE w.exit_type {_NUMBERS} END || ' with error_message: ' || coalesce(w.exit_detail, '')",
    ),
    End(
        "job ended",
        "Its driver has gone, it had a worker, and no event tells of workers. It is FAILED at the job's end, "
        "as the raylet ends the job's workers then. Not in a job with a detached actor.",
        # where no event tells of workers: the raylet ends those of a finished job, which Ray hears of first
        f"d.is_dead AND s.worker_id IS NOT NULL AND w.worker_id IS NULL AND NOT ({_JOB_OUTLIVED}) "
        f"AND NOT {_NODE_DIED_FIRST.format('d.end_time_ms')}",
        _ns("d.end_time_ms"),
        WORKER_DEAD_DELAY_MS,
        f"{_WORKER_DIED}'3 with error_message: Worker force exited because its job has finished'",
        backdated=True,
    ),
    End(
        "job ended",
        "Its driver has gone, and it is open when Ray looks. It is FAILED at the job's end. Tasks that begin "
        "later are not touched, as detached actors, and what they submit, outlive the job.",
        "d.is_dead",
        _ns("d.end_time_ms"),
        JOB_DONE_DELAY_MS,
        _JOB_FINISHES,
        # what a detached actor goes on with may finish afterwards: Ray leaves it FAILED
        open=f"s._open OR (s.failed_ns IS NULL AND {_OUTLIVES} AND s.finished_ns > "
        f"{_ns('d.end_time_ms')} + {JOB_DONE_DELAY_MS * 1_000_000})",
        backdated=True,
    ),
    End(
        "actor died",
        "Its actor died, it had a worker, and no event tells of workers. It is FAILED at the actor's death.",
        # likewise: its worker died with the actor
        "s.worker_id IS NOT NULL AND w.worker_id IS NULL AND a.state = 'DEAD' AND s.type = 'ACTOR_TASK' "
        f"AND NOT {_NODE_DIED_FIRST.format('a._dead_ms')}",
        f"greatest({_ns('a._dead_ms')}, {task_sql.LAST_OF_S})",
        WORKER_DEAD_DELAY_MS,
        f"coalesce({_BY_ACTOR}, {_DIED}, '')",
    ),
    End(
        "node died",
        "Its node died, and its owner did not tell what became of it. It is FAILED at the node's death. Ray "
        "leaves it open until its job ends.",
        f"s.worker_id IS NOT NULL AND n.state = 'DEAD' AND NOT {_WORKER_TOLD}",
        f"greatest({_ns('n.end_time_ms')}, {task_sql.LAST_OF_S})",
        LEFT_OPEN_MS,
        "'Node ' || lower(hex(s.node_id)) || ' died: ' || coalesce(n._death_message, '')",
    ),
)


# -- nodes, actors, workers, objects

NODE_BESIDE = (Beside("r", "raylet", "r.node_id = lower(hex(s.node_id))", ("node_id", "seen_ms", "gone_ms")),)
NODE_ENDS = (
    # while the GCS lives it says so itself, within seconds; it does not where it ended with the node
    End(
        "raylet gone",
        "The agent on it saw that its raylet had gone, and the GCS did not tell. It is DEAD when the raylet "
        "was last seen.",
        "r.gone_ms >= coalesce(r.seen_ms, 0)",
        _ns("r.gone_ms"),
        NODE_SILENT_MS,
    ),
)

ACTOR_BESIDE = (
    Beside("d", "driver_job", "d.job_id = s.job_id", _JOB),
    Beside("n", "node", "n.node_id = s.node_id", _NODE),
    _DETACHED,
    # the task that created it tells where that runs, or ran, before any event of the actor does
    Beside(
        "c",
        "task",
        "c.actor_id = s.actor_id",
        ("task_id", "attempt_number", "worker_pid", "worker_id", "node_id", "_profile_component_id"),
        "SELECT {session}task_id[9:] AS actor_id, max_by(worker_pid, attempt_number) AS pid, "
        "max_by(coalesce(worker_id, _profile_component_id), attempt_number) AS worker_id, "
        f"max_by(node_id, attempt_number) AS node_id FROM {{task}} WHERE {task_sql.CREATES} GROUP BY ALL",
    ),
    Beside("l", "worker", "l.worker_id = c.worker_id", ("worker_id", "node_id", "ip")),
)
ACTOR_ENDS = (
    # the GCS says so itself at once: this is for where it could not
    End(
        "job ended",
        "Its driver has gone. It is DEAD at the job's end. Not in a job with a detached actor.",
        f"d.is_dead AND NOT ({_JOB_OUTLIVED})",
        _ns("d.end_time_ms"),
        0,
    ),
    End(
        "node died",
        "Its node died. It is DEAD with it.",
        "n.state = 'DEAD' AND s.state = 'ALIVE'",
        _ns("n.end_time_ms"),
        0,
    ),
)

# Ray's own list of workers keeps those of a node that died as alive, so that only their state says that they are not
WORKER_BESIDE = (Beside("n", "node", "n.node_id = s.node_id", (*_NODE, "node_ip")),)
WORKER_ENDS = (
    End(
        "node died",
        "Its node died. Its state is DEAD. Ray's own list keeps it, and so does the State API.",
        "n.state = 'DEAD'",
        _ns("n.end_time_ms"),
        0,
    ),
)

OBJECT_BESIDE = (
    Beside("w", "worker", "w.worker_id = s.worker_id", (*_WORKER, "state")),
    # a driver's worker id is its job's, filled up with ones (ComputeDriverIdFromJob, id.cc)
    Beside("d", "driver_job", "d.job_id = s.worker_id[:4]", _JOB),
    Beside("n", "node", "n.node_id = s.node_id", _NODE),
)
OBJECT_ENDS = (
    End(
        "worker died",
        "The worker that refers to it ended. It is DELETED then.",
        "w.state = 'DEAD'",
        _ns("w.end_time_ms"),
        0,
    ),
    End(
        "job ended",
        "The driver that refers to it has gone. It is DELETED at the job's end.",
        "d.is_dead AND s.type = 'DRIVER'",
        _ns("d.end_time_ms"),
        0,
    ),
    End(
        "node died",
        "The node of the worker that refers to it died. It is DELETED then.",
        "n.state = 'DEAD'",
        _ns("n.end_time_ms"),
        0,
    ),
)
