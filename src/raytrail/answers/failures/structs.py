"""What the questions about failures are answered with."""

from __future__ import annotations

import msgspec

from raytrail.answers.steps import Mark

BINS = 40
"""In how many parts of the time failures are counted."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """How many of a group's failures are of one function, or were on one node."""

    name: str
    """The function or class, or the node's id."""
    count: int
    """How many of the group's failures."""


class Consequence(msgspec.Struct, frozen=True, kw_only=True):
    """Failures that follow from those of a group."""

    kind: str
    """What failed: ``task``, ``actor`` or ``job``."""
    via: str
    """
    Why: its ``node`` died, its ``actor`` died, an ``argument`` could not be computed, or it waited for a ``task``.
    """
    error: str
    """The type of its exception, else Ray's type of the error."""
    text: str
    """What it said, masked."""
    count: int
    """How many of them."""


class FailureGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Failures of one signature, and those that follow from them."""

    hash: str
    """The name of the signature, the same in all clusters."""
    kind: str
    """What failed: ``task``, ``actor``, ``job`` or ``node``. ``actor`` and ``node`` also where one was ended wanted."""
    error: str
    """The type of the exception, else Ray's type of the error."""
    text: str
    """What it said: one line, with numbers, ids, addresses, paths and quoted text masked."""
    frame: str
    """The file and function of the user's own code that are deepest in the traceback. Empty where there is none."""
    count: int
    """How many failures there are of it, and because of it."""
    share: float
    """Their share of all failures, from 0 to 1."""
    own: int
    """How many of them failed by themselves. The others are its consequences."""
    recovered: int
    """How many of them are attempts of tasks that a later attempt brought to a good end."""
    ended: bool
    """Whether these were only open when their job or the session ended: no error of their own."""
    first_ms: int | None
    """When the first of them was, in milliseconds since the epoch."""
    last_ms: int | None
    """When the last one was."""
    bins: tuple[int, ...]
    """How many of them were in each fortieth of the time from ``began_ms`` to ``ended_ms``."""
    functions: tuple[Part, ...]
    """The functions and classes that failed most often."""
    functions_count: int
    """How many functions and classes failed."""
    nodes: tuple[Part, ...]
    """The nodes on which most of them were."""
    nodes_count: int
    """On how many nodes they were."""
    consequences: tuple[Consequence, ...]
    """What follows from these failures."""
    example_id: str
    """The id of what failed first: a task, actor, node or job."""
    example_attempt: int | None
    """Of a task, the number of its attempt."""
    example_job_id: str
    """Its driver job."""
    traceback: str
    """The text of its error. Where it is long, three dots on a line stand for its middle."""
    runs_seen: int
    """In how many of the ``runs`` sessions before this one of the cluster's name there was the same signature."""
    new: bool
    """Whether there are earlier sessions, and none of the last ones has it."""


class Failures(msgspec.Struct, frozen=True, kw_only=True):
    """What failed in a session, or in one of its jobs."""

    session: str
    """The session."""
    job: str
    """The job that is asked for. Empty means all."""
    at_ms: int | None
    """The moment that is asked for. None is the end, or now."""
    began_ms: int | None
    """The beginning of the time that is looked at."""
    ended_ms: int | None
    """Its end."""
    count: int
    """How many failures there are: attempts of tasks, actors, jobs and nodes."""
    tasks: int
    """How many of them are attempts of tasks."""
    recovered: int
    """How many of these attempts a later attempt of the same task made good."""
    ended: int
    """How many were only open when their job or the session ended."""
    consequences: int
    """How many follow from others."""
    groups_count: int
    """How many groups there are. Those with the most failures are given."""
    marks: tuple[Mark, ...]
    """When what failed, died, restarted and waited to be placed, added up by parts of the time."""
    groups: tuple[FailureGroup, ...]
    """The groups: those with the most failures first, and last what was only open at the end."""
    runs: int
    """How many earlier sessions of the cluster's name ``runs_seen`` speaks of."""
    sql: str
    """The statement that gives the failures one by one, for `raytrail sql`."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One failure of a group."""

    kind: str
    """What failed: ``task``, ``actor``, ``job`` or ``node``."""
    id: str
    """Its id."""
    attempt_number: int | None
    """Of a task, the attempt."""
    job_id: str | None
    """The driver job that it belongs to."""
    function: str | None
    """The function, class or entrypoint."""
    node_id: str | None
    """The node that it was on."""
    at_ms: int | None
    """When it failed, in milliseconds since the epoch."""
    via: str
    """What it follows from: ``node``, ``actor``, ``argument``, ``task``, or nothing."""
    recovered_ms: int | None
    """When a later attempt of the same task succeeded."""
    error: str
    """The type of its own exception, else Ray's type of the error."""
    text: str
    """What it said, masked."""


class FailureRows(msgspec.Struct, frozen=True, kw_only=True):
    """The failures of one group, one by one."""

    session: str
    """The session."""
    hash: str
    """The name of the group's signature."""
    job: str
    """The job that is asked for. Empty means all."""
    error: str
    """The type of the group's exception, else Ray's type of the error."""
    text: str
    """What it said, masked."""
    frame: str
    """The file and function of the user's own code that are deepest in the traceback."""
    count: int
    """How many failures the group has."""
    failures: tuple[Failure, ...]
    """The failures, the first ones first."""


class SeenGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Failures of one signature in many sessions."""

    hash: str
    """The name of the signature."""
    error: str
    """The type of the exception, else Ray's type of the error."""
    text: str
    """What it said, masked."""
    frame: str
    """The file and function of the user's own code that are deepest in the traceback."""
    count: int
    """How many failures there are of it, and because of it."""
    share: float
    """Their share of all failures, from 0 to 1."""
    sessions_count: int
    """In how many sessions."""
    jobs_count: int
    """In how many jobs."""
    first_ms: int | None
    """When the first of them was, in milliseconds since the epoch."""
    last_ms: int | None
    """When the last one was."""
    bins: tuple[int, ...]
    """How many of them were in sessions that began in each fortieth of the time from ``began_ms`` to ``ended_ms``."""
    last_session: str
    """The newest session that has it."""
    last_cluster: str
    """The name of its cluster."""
    new: bool
    """Whether there are older sessions of that cluster's name among those that are looked at, and none has it."""


class AllFailures(msgspec.Struct, frozen=True, kw_only=True):
    """What failed in all sessions, or in those of one cluster's name."""

    name: str
    """The cluster's name that is asked for. Empty means all."""
    sessions_count: int
    """How many sessions are looked at."""
    sessions_failed: int
    """How many of them have failures."""
    sessions_left: int
    """How many are not looked at, as their failures are not worked out yet, or their states are damaged."""
    began_ms: int | None
    """When the first of them began."""
    ended_ms: int | None
    """When the last of the failures was."""
    count: int
    """How many failures there are."""
    groups_count: int
    """How many groups there are. Those with the most failures are given."""
    groups: tuple[SeenGroup, ...]
    """The groups, those with the most failures first."""
