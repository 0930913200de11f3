"""What a timeline answers."""

from __future__ import annotations

from typing import Literal

import msgspec


class TimelineNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node that rows are of."""

    node_id: str
    """Its id. Empty where no event tells it, as of what failed before it ran."""
    address: str
    """Its address, where that is known."""


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of a timeline, from above to below. Each field has a value for each of them."""

    node: tuple[int, ...]
    """The node, by its number in `Timeline.nodes`."""
    worker_id: tuple[str, ...]
    """The worker. Empty where the row is a whole node."""
    pid: tuple[int | None, ...]
    """The worker's process."""
    actor_id: tuple[str, ...]
    """The actor that lives in the worker, if any."""
    label: tuple[str, ...]
    """What the row is, in few words."""
    attempts: tuple[int, ...]
    """How many attempts were there, in the whole session."""


class Bins(msgspec.Struct, frozen=True, kw_only=True):
    """
    How busy each row was, by steps of time.

    A text has a character for each step, which stands for a number from 0 to 63: 0-9, A-Z, a-z, - and _.
    """

    start_us: float
    """When the first step begins, in microseconds after the window begins. It may be before it."""
    bin_us: float
    """How long a step is, in microseconds."""
    count: int
    """How many steps there are."""
    busy: tuple[str, ...]
    """
    A text for each row: how busy it was, from 0, not at all, to 31; 32 more where something failed in that step. The
    square of it is in proportion to how many ran, so that little can be told from nothing.
    """
    full: tuple[float, ...]
    """For each row, how many attempts ran on average in a step that is as busy as 31. It is one for all nodes."""
    function: tuple[str, ...]
    """A text for each row: the number in `Timeline.functions` of the function that took most of the step."""


class Slices(msgspec.Struct, frozen=True, kw_only=True):
    """The attempts, one by one, in the order of rows and times. Each field has a value for each of them."""

    row: tuple[int, ...]
    """The row, by its number in `Timeline.rows`."""
    function: tuple[int, ...]
    """The function, by its number in `Timeline.functions`."""
    start_us: tuple[int, ...]
    """When it began to run, in microseconds after the window begins. Below 0 it had begun before."""
    run_us: tuple[int, ...]
    """How long it ran, in microseconds. -1 where it did not end: it is open."""
    waited_ms: tuple[tuple[int, ...], ...]
    """How long it waited before, in milliseconds, for each of `Timeline.waits`. Empty where none waited for it."""
    failed: tuple[int, ...]
    """The numbers of those that failed, among the slices."""
    error: tuple[str, ...]
    """The error type of each of these."""
    attempt: tuple[int, ...]
    """Which attempt of the task it was, from 0."""
    task: tuple[str, ...]
    """The first half of the task's id in hex, or all of it."""
    task_end: tuple[int, ...]
    """The rest of the id, by its number in `task_ends`."""
    task_ends: tuple[str, ...]
    """The ends of ids: the actor and the job, which many tasks have in common."""


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """Which process worked on what, in a window of time."""

    job: str
    """The driver job that alone is shown. Empty: all."""
    node: str
    """The node, likewise."""
    actor: str
    """The actor, likewise."""
    worker: str
    """The worker, likewise."""
    from_ms: int
    """When the window begins, in milliseconds since 1970."""
    to_ms: int
    """When it ends."""
    first_ms: int
    """When the first attempt began, of all that are asked for."""
    last_ms: int
    """When the last ended."""
    at_ms: int | None
    """The moment that is shown, in milliseconds since 1970: nothing later is. Null at last, or now."""
    by: Literal["worker", "node"]
    """Whether a row is a worker, or a node where there are too many workers."""
    nodes: tuple[TimelineNode, ...]
    rows: Rows
    rows_in_all: int
    """How many rows there would be. Those of the window with most attempts are shown."""
    functions: tuple[str, ...]
    """The names of functions that the steps or slices refer to. The last one may stand for all others."""
    waits: tuple[str, ...]
    """What an attempt can wait for: its arguments, a node, room and its arguments in the object store, a worker."""
    attempts: int
    """How many attempts ran in the window: of steps, how many began in it."""
    failed: int
    """How many of them failed in it."""
    bins: Bins | None
    """The steps, where there are too many attempts to show each."""
    slices: Slices | None
    """The attempts, where they are few."""
    sql: str
    """A query with the same attempts."""


class FunctionSpan(msgspec.Struct, frozen=True, kw_only=True):
    """What the attempts of a function in a window add up to."""

    function: str
    """The function, or method of a class. Empty: all of them."""
    attempts: int
    """How many of them ran in the window."""
    failed: int
    """How many of these failed, whenever."""
    p50_ms: float | None
    """Half of them ran no longer, in milliseconds, within 2 %. Null where none ended."""
    p95_ms: float | None
    """95 % ran no longer."""
    p99_ms: float | None
    """99 % ran no longer."""
    running_ms: float
    """How long they ran in the window, all together."""
    busy_share: float
    """The share of the window, on all workers that worked in it, that they took."""
    arguments_ms: float
    """How long one waited on average for its arguments to be made."""
    node_ms: float
    """How long for a node to be assigned."""
    object_store_ms: float
    """How long for room in the object store, and for its arguments to come there."""
    worker_ms: float
    """How long for the worker it was sent to."""


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of what ran in a window of a timeline."""

    from_ms: int
    """When the window begins, in milliseconds since 1970."""
    to_ms: int
    """When it ends."""
    workers: int
    """How many workers worked in it."""
    total: FunctionSpan
    """All functions together."""
    functions: tuple[FunctionSpan, ...]
    """Each function, by how long it ran in the window."""
    functions_in_all: int
    """How many functions there are. The first of them are shown."""
    sql: str
    """A query with the same attempts, by function."""
