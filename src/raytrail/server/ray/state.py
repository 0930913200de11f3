"""
Ray's State API over a snapshot: the same questions as to a live cluster, answered from its history.

What each resource shows, and what it can be filtered by, is declared once below; listing and filtering follow
from it. Columns and behaviour are those of Ray 2.60: ray/util/state/common.py (columns) and
ray/dashboard/state_aggregator.py (order and limit); its filters are in `raytrail.server.ray.filters`. Where we differ,
the comment says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from raytrail.errors import ConfigError
from raytrail.server.ray.filters import FLAGS, Filters, read_filters
from raytrail.store import Filter, Snapshot

DEFAULT_LIMIT = 100
"""Rows of a list whose request names no limit, as Ray's."""
MAX_LIMIT = 1_000_000
"""Most rows of one list. Ray's own servers refuse more than `RAYS_MAX_LIMIT`."""
RAYS_MAX_LIMIT = 10_000
"""
Most rows that Ray lists (`RAY_MAX_LIMIT_FROM_API_SERVER`), and most tasks that it looks at, which are the newest
(`RAY_MAX_LIMIT_FROM_DATA_SOURCE`).
"""
PAGE_ROWS = 10_000
"""Rows asked of the store at once; bounds the memory of a long list. The dashboard asks for no more."""

Params = Mapping[str, Sequence[str]]
"""The query of a URL: each name with its values, in order."""


class Field(NamedTuple):
    """One of Ray's columns: where it comes from, and how a filter's text meets it."""

    name: str
    kind: Literal["id", "enum", "text", "int", "bool", "json"]
    default: Any = None
    """What Ray shows where nothing is known. The store keeps null for it."""
    filterable: bool = False
    detail: bool = False
    """Shown only to who asks for detail."""
    optional: bool = True
    """
    Ray may show null. It then compares numbers and flags with the filter's text as it stands, which ``!=``
    always finds unequal: ``worker_pid!=2888`` keeps every row, there as here.
    """
    absent: bool = False
    """Ray's row does not have the column where nothing is known. It then passes no filter of it, not even ``!=``."""
    gcs: Literal["", "equal", "cut", "select", "both"] = ""
    """
    Ray's GCS filters by it: by ``=`` alone, or by ``both`` predicates. It then parses ids, and refuses what is none.
    By ``both``, `total` counts only the rows that pass. By ``cut``, `num_after_truncation` does. By ``select``, that
    counts the rows that pass any filter of such columns.
    """
    id_bytes: int = 0
    """How many bytes an id has that the GCS parses."""
    values: tuple[str, ...] = ()
    """Ray refuses to look for any other value."""
    exact: bool = False
    """Ray's GCS looks for it letter by letter; otherwise case does not matter."""
    column: str = ""
    """Our column, where its name differs."""
    exported: bool = True
    """False: no event of Ray's says it, so it is always the default."""
    wire: Literal["", "text", "float", "floats"] = ""
    """
    What a whole number looks like in JSON, if not as such: as text, as protobuf writes 64 bits; with a point, as
    Python writes what it has divided; in an object each with a point, as protobuf writes doubles.
    """

    @property
    def stored(self) -> str:
        """Our column."""
        return self.column or self.name


class Resource(NamedTuple):
    """One of Ray's resources: its columns, and their order."""

    noun: str
    entity: str
    order: tuple[str, ...]
    """Our columns, ``-`` before one that descends."""
    fields: tuple[Field, ...]
    listed: tuple[Filter, ...] = ()
    """What holds of each row that Ray lists, and that `total` counts."""
    conclude: Callable[[dict[str, Any]], None] | None = None
    """Fills in what no column holds, in a row with details."""
    wrong_status: int = 400
    """The status of a wrong question. Where Ray's own server does not catch its error, that is 500."""
    no_failure: str | None = ""
    """Ray's value where no node failed to answer. It is null for resources that Ray asks the nodes for."""
    is_asked_for: bool = False
    """Ray exports no event of it: an agent asks Ray for it, if it is told to."""

    def find(self, key: str) -> Field | None:
        """Return the column that a filter names, in any case; None where Ray does not filter by such a one."""
        for field in self.fields:
            if field.filterable and field.name == key.lower():
                return field
        return None

    def shown(self, detail: bool) -> list[Field]:
        """Return the columns of a row."""
        return [field for field in self.fields if detail or not field.detail]


def _conclude_task(row: dict[str, Any]) -> None:
    # no event in a file tells it: what has no label_selector has nothing to fall back from
    if row["fallback_strategy"] is None and not row["label_selector"]:
        row["fallback_strategy"] = None if row["type"] == "DRIVER_TASK" else {"options": []}
    for event in row["events"]:
        event["created_ms"] = float(event["created_ms"])


def _conclude_job(row: dict[str, Any]) -> None:
    # null is the end of a submission that still runs; Ray shows a driver's as 0
    if row["type"] == "DRIVER" and row["end_time"] is None:
        row["end_time"] = 0


TASKS = Resource(
    noun="tasks",
    entity="task",
    # the GCS does not show an attempt whose owner's part never came
    listed=(Filter("type", "!=", None),),
    conclude=_conclude_task,
    # Ray orders by task alone; the newest attempt first, as `ray get tasks` and the dashboard show one
    order=("task_id", "-attempt_number"),
    fields=(
        Field("task_id", "id", "", filterable=True, optional=False, id_bytes=24, gcs="both"),
        Field("attempt_number", "int", filterable=True, optional=False),
        Field("name", "text", "", filterable=True, optional=False, gcs="both"),
        Field("state", "enum", "NIL", filterable=True, optional=False, gcs="both"),
        Field("job_id", "id", "", filterable=True, optional=False, id_bytes=4, gcs="both"),
        Field("actor_id", "id", filterable=True, id_bytes=16, gcs="both"),
        Field("type", "enum", "NORMAL_TASK", filterable=True, optional=False),
        Field("func_or_class_name", "text", "", filterable=True, optional=False),
        Field("parent_task_id", "id", "", filterable=True, optional=False),
        Field("node_id", "id", filterable=True),
        Field("worker_id", "id", filterable=True),
        Field("worker_pid", "int", filterable=True),
        Field("error_type", "enum", filterable=True, absent=True),
        Field("language", "enum", filterable=True, detail=True),
        Field("required_resources", "json", {}, detail=True, wire="floats"),
        Field("runtime_env_info", "json", detail=True),
        Field("placement_group_id", "id", filterable=True, detail=True),
        Field("events", "json", [], detail=True),
        Field("profiling_data", "json", {}, detail=True),
        Field("creation_time_ms", "int", detail=True, wire="float"),
        Field("start_time_ms", "int", detail=True, wire="float"),
        Field("end_time_ms", "int", detail=True, wire="float"),
        Field("task_log_info", "json", detail=True),
        Field("error_message", "text", detail=True),
        Field("is_debugger_paused", "bool", filterable=True, detail=True),
        Field("call_site", "text", detail=True),
        Field("label_selector", "json", {}, detail=True),
        Field("fallback_strategy", "json", detail=True),
    ),
)

ACTORS = Resource(
    noun="actors",
    entity="actor",
    order=("actor_id",),
    fields=(
        Field("actor_id", "id", "", filterable=True, optional=False, id_bytes=16, gcs="equal"),
        Field("class_name", "text", "", filterable=True, optional=False),
        Field(
            "state",
            "enum",
            "DEPENDENCIES_UNREADY",
            filterable=True,
            optional=False,
            gcs="equal",
            values=("DEPENDENCIES_UNREADY", "PENDING_CREATION", "ALIVE", "RESTARTING", "DEAD"),
        ),
        Field("job_id", "id", "", filterable=True, optional=False, id_bytes=4, gcs="equal"),
        Field("name", "text", "", filterable=True),
        Field("node_id", "id", filterable=True, absent=True),
        Field("pid", "int", 0, filterable=True),
        Field("ray_namespace", "text", "", filterable=True),
        Field("serialized_runtime_env", "text", "", detail=True),
        Field("required_resources", "json", {}, detail=True, wire="floats"),
        Field("death_cause", "json", detail=True),
        Field("is_detached", "bool", False, detail=True),
        Field("placement_group_id", "id", filterable=True, detail=True, absent=True),
        Field("repr_name", "text", "", filterable=True, detail=True),
        Field("num_restarts", "int", 0, detail=True, optional=False, wire="text"),
        Field("num_restarts_due_to_lineage_reconstruction", "int", 0, detail=True, wire="text"),
        Field("num_restarts_due_to_node_preemption", "int", 0, detail=True, wire="text"),
        Field("call_site", "text", detail=True),
        Field("label_selector", "json", {}, detail=True),
        Field("fallback_strategy", "json", detail=True, exported=False),
    ),
)

NODES = Resource(
    noun="nodes",
    entity="node",
    order=("node_id",),
    fields=(
        Field("node_id", "id", "", filterable=True, optional=False, id_bytes=28, gcs="select"),
        Field("node_ip", "text", "", filterable=True, optional=False),
        Field("is_head_node", "bool", False, filterable=True, optional=False),
        Field("state", "enum", "ALIVE", filterable=True, optional=False, gcs="cut", values=("ALIVE", "DEAD")),
        Field("state_message", "text"),
        Field("node_name", "text", "", filterable=True, optional=False, exact=True, gcs="select"),
        Field("resources_total", "json", {}, optional=False, wire="floats"),
        Field("labels", "json", {}, optional=False),
        Field("start_time_ms", "int", 0, detail=True),
        Field("end_time_ms", "int", 0, detail=True),
    ),
)

JOBS = Resource(
    noun="jobs",
    entity="job",
    conclude=_conclude_job,
    wrong_status=500,
    # the store's own, which is Ray's: by job, those without one first
    order=(),
    fields=(
        Field("type", "enum", "DRIVER", filterable=True, optional=False),
        Field("job_id", "id", filterable=True),
        Field("submission_id", "text", filterable=True),
        Field("driver_info", "json"),
        Field("status", "enum", "PENDING", filterable=True, optional=False),
        Field("entrypoint", "text", "", optional=False),
        Field("message", "text"),
        Field("error_type", "text"),
        Field("start_time", "int", detail=True, column="start_time_ms"),
        Field("end_time", "int", detail=True, column="end_time_ms"),
        Field("metadata", "json", {}, detail=True),
        Field("runtime_env", "json", {}, detail=True),
        Field("driver_agent_http_address", "text", detail=True),
        Field("driver_node_id", "text", detail=True),
        Field("driver_exit_code", "int", detail=True),
    ),
)

PLACEMENT_GROUPS = Resource(
    noun="placement_groups",
    entity="placement_group",
    is_asked_for=True,
    order=("placement_group_id",),
    fields=(
        Field("placement_group_id", "id", "", filterable=True, optional=False),
        Field("name", "text", "", filterable=True, optional=False),
        Field("creator_job_id", "id", "", filterable=True, optional=False),
        Field("state", "enum", "PENDING", filterable=True, optional=False),
        Field("bundles", "json", [], detail=True),
        Field("is_detached", "bool", False, filterable=True, detail=True),
        Field("stats", "json", detail=True),
        Field("topology_strategy", "json", {}, detail=True),
        Field("topology_assignments", "json", {}, detail=True),
    ),
)

_UNKNOWN_MS = (1 << 64) - 1
"""What Ray shows for a worker's time that it does not know: its -1, in an unsigned field."""

WORKERS = Resource(
    noun="workers",
    entity="worker",
    is_asked_for=True,
    order=("worker_id",),
    fields=(
        Field("worker_id", "id", "", filterable=True, optional=False),
        Field("is_alive", "bool", False, filterable=True, optional=False, gcs="cut"),
        Field("worker_type", "enum", "WORKER", filterable=True, optional=False),
        Field("exit_type", "enum", filterable=True, absent=True),
        Field("node_id", "id", "", filterable=True, optional=False),
        Field("ip", "text", "", filterable=True, optional=False),
        Field("pid", "int", 0, filterable=True, optional=False),
        Field("exit_detail", "text", detail=True),
        Field("worker_launch_time_ms", "int", _UNKNOWN_MS, detail=True),
        Field("worker_launched_time_ms", "int", _UNKNOWN_MS, detail=True),
        Field("start_time_ms", "int", 0, detail=True),
        Field("end_time_ms", "int", 0, detail=True),
        Field("debugger_port", "int", filterable=True, detail=True, absent=True),
        Field("num_paused_threads", "int", filterable=True, detail=True, absent=True),
    ),
)

OBJECTS = Resource(
    noun="objects",
    entity="object",
    # Ray forgets what is gone; `raytrail list objects` does not
    listed=(Filter("state", "!=", "DELETED"),),
    no_failure=None,
    is_asked_for=True,
    order=("object_id",),
    fields=(
        Field("object_id", "id", "", filterable=True, optional=False),
        Field("object_size", "int", -1, filterable=True, optional=False),
        Field("task_status", "enum", "NIL", filterable=True, optional=False),
        Field("attempt_number", "int", 1, filterable=True, optional=False),
        Field("reference_type", "enum", "UNKNOWN_STATUS", filterable=True, optional=False),
        Field("call_site", "text", "disabled", filterable=True, optional=False),
        Field("type", "enum", "WORKER", filterable=True, optional=False),
        Field("pid", "int", 0, filterable=True, optional=False),
        Field("ip", "text", "", filterable=True, optional=False),
    ),
)

CLUSTER_EVENTS = Resource(
    noun="cluster_events",
    entity="cluster_event",
    order=("time",),
    fields=(
        Field("severity", "enum", "", filterable=True, optional=False),
        Field("time", "text", "", optional=False),
        Field("source_type", "enum", "", filterable=True, optional=False),
        Field("message", "text", "", optional=False),
        Field("event_id", "text", "", filterable=True, optional=False),
        Field("custom_fields", "json", {}, detail=True),
    ),
)

RUNTIME_ENVS = Resource(
    noun="runtime_envs",
    entity="",
    no_failure=None,
    order=(),
    fields=(
        Field("runtime_env", "json", {}, filterable=True, optional=False, exported=False),
        Field("success", "bool", filterable=True, optional=False, exported=False),
        Field("creation_time_ms", "int", exported=False),
        Field("node_id", "id", "", filterable=True, optional=False, exported=False),
        Field("ref_cnt", "int", detail=True, exported=False),
        Field("error", "text", filterable=True, detail=True, exported=False),
    ),
)

RESOURCES = {
    resource.noun: resource
    for resource in (TASKS, ACTORS, NODES, JOBS, PLACEMENT_GROUPS, WORKERS, OBJECTS, CLUSTER_EVENTS, RUNTIME_ENVS)
}
NO_DRIVERS = Filter("type", "!=", "DRIVER_TASK")
"""Leaves out the drivers' own tasks, as Ray's clients do by default."""
NO_CALL_SITES = (
    # ray/dashboard/state_aggregator.py, Ray 2.60
    "Callsite is not being recorded. To record callsite information for each ObjectRef created, set env variable "
    "RAY_record_ref_creation_sites=1 during `ray start` and `ray.init`."
)
"""What Ray says with its objects, unless it was told to record where they were made."""


class Query(NamedTuple):
    """What a request asks of a resource."""

    resource: Resource
    filters: Filters
    limit: int = DEFAULT_LIMIT
    detail: bool = False
    of_dashboard: bool = False
    """It asks as the dashboard does, for its table of tasks: for as many rows as there may be, without a timeout."""

    @property
    def where(self) -> tuple[Filter, ...]:
        """The conditions that all must hold."""
        return self.filters.where

    @property
    def counted(self) -> tuple[Filter, ...]:
        """Those of `where` that ``total`` minds."""
        return self.filters.counted

    @property
    def empty(self) -> bool:
        """No row can pass: a filter asks for what its column never holds."""
        return self.filters.empty

    @property
    def of_one_task(self) -> bool:
        """Whether it asks for the attempts of one task."""
        return self.resource is TASKS and any((one.column, one.op) == ("task_id", "=") for one in self.where)


class Rows(NamedTuple):
    """How many rows there are, and the rows, page by page."""

    total: int
    found: int
    """How many of them Ray's GCS would have sent: ``num_after_truncation``."""
    filtered: int
    pages: Iterator[list[dict[str, Any]]]


def read_query(resource: Resource, params: Params) -> Query:
    """
    Read the parameters that Ray's clients send for a list.

    Raises:
        ConfigError: One of them is wrong: not an id, not a number, too many rows.
        HTTPException: There is not one value for each key of a filter, at which Ray fails.
    """
    limit = _number("limit", _first(params, "limit", str(DEFAULT_LIMIT)))
    if not 0 <= limit <= MAX_LIMIT:
        raise ConfigError(f"limit {limit} is not within 0 and {MAX_LIMIT}; ask for fewer rows, or narrow by a filter")
    exclude_driver = _flag("exclude_driver", _first(params, "exclude_driver", "True"))
    detail = _flag("detail", _first(params, "detail", "False"))
    query = _filtered(resource, params, exclude_driver=exclude_driver)._replace(limit=limit, detail=detail)
    return query._replace(
        of_dashboard=resource is TASKS and detail and limit == RAYS_MAX_LIMIT and "timeout" not in params
    )


def read_summary_query(resource: Resource, params: Params) -> Query:
    """
    Read the parameters that Ray's clients send for a summary; it minds no limit.

    Raises:
        ConfigError: One of them is wrong.
        HTTPException: There is not one value for each key of a filter, at which Ray fails.
    """
    return _filtered(resource, params, exclude_driver=True)


def _filtered(resource: Resource, params: Params, *, exclude_driver: bool) -> Query:
    _number("timeout", _first(params, "timeout", "30"))
    drivers = (NO_DRIVERS,) if resource is TASKS and exclude_driver else ()
    return Query(resource, read_filters(resource, params, (*resource.listed, *drivers)))


def find_rows(snapshot: Snapshot, query: Query) -> Rows:
    """
    Look up what the query asks for; the pages are read as they are taken.

    Raises:
        ConfigError: Ray would come to a row that it cannot compare with a filter.
    """
    noun = query.resource.entity
    query.filters.refuse(snapshot, noun)
    total = snapshot.count(noun, query.counted)
    found = query.filters.count_returned(snapshot, noun, query.resource.order[0] if query.resource.order else "", total)
    if query.empty:
        return no_rows()._replace(total=total, found=found)
    filtered = total if query.where == query.counted else snapshot.count(noun, query.where)
    return Rows(total, found, filtered, _pages(snapshot, query, filtered))


def no_rows() -> Rows:
    """Return the rows of what is not known."""
    return Rows(0, 0, 0, iter(()))


def encode_rows(resource: Resource, rows: Rows, warnings: Sequence[str]) -> Iterator[bytes]:
    """Yield Ray's answer to a list, one piece a page."""
    # the rows come last, so that they can be sent while the next page is read
    yield (
        b'{"result":true,"msg":"","data":{"result":{"total":%d,"num_after_truncation":%d,"num_filtered":%d,'
        b'"partial_failure_warning":%b,"warnings":%b,"result":['
        % (
            rows.total,
            rows.found,
            rows.filtered,
            msgspec.json.encode(resource.no_failure),
            msgspec.json.encode(list(warnings) or None),
        )
    )
    comma = b""
    for page in rows.pages:
        yield comma + msgspec.json.encode(page)[1:-1]
        comma = b","
    yield b"]}}}"


def records_call_sites(snapshot: Snapshot) -> bool:
    """Return whether Ray was told to record where objects are made, as far as they say."""
    # some that it makes itself have one in any case
    unsaid = sum(snapshot.count("object", [Filter("call_site", "=", value)]) for value in ("disabled", None))
    return not unsaid and bool(snapshot.count("object"))


def _pages(snapshot: Snapshot, query: Query, filtered: int) -> Iterator[list[dict[str, Any]]]:
    complete = _completion(query)
    for page in _chosen(snapshot, query, filtered):
        for row in page:
            complete(row)
        yield page


def _chosen(snapshot: Snapshot, query: Query, filtered: int) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows that are shown, page by page."""
    # Ray never lists more; asked for more than that, all are shown in order
    if query.resource is not TASKS or query.limit > RAYS_MAX_LIMIT or filtered <= RAYS_MAX_LIMIT:
        return _in_order(snapshot, query, query.where)
    if query.of_dashboard:
        return iter([_worth_a_look(snapshot, query)])
    # of more tasks than Ray looks at, it takes the newest
    since = _nth_newest(snapshot, query, RAYS_MAX_LIMIT)
    return _in_order(snapshot, query, (*query.where, *([] if since is None else [Filter("_earliest_ns", ">=", since)])))


def _nth_newest(snapshot: Snapshot, query: Query, number: int) -> int | None:
    """Return when the task came that so many are not older than; None where that many have no times at all."""
    tasks, params = snapshot.relation("task", ["_earliest_ns"], query.where)
    newest = f"SELECT _earliest_ns FROM {tasks} ORDER BY 1 DESC NULLS LAST LIMIT 1 OFFSET {number - 1}"
    [(since,)] = snapshot.run(newest, params) or [(None,)]
    return None if since is None else int(since)


def _worth_a_look(snapshot: Snapshot, query: Query) -> list[dict[str, Any]]:
    """Return as many tasks as are asked for: those that failed, those that are open, and the newest of the others."""
    page: list[dict[str, Any]] = []
    failed, finished = Filter("state", "=", "FAILED"), Filter("state", "=", "FINISHED")
    for of_state in ([failed], [failed._replace(op="!="), finished._replace(op="!=")], [finished]):
        page += snapshot.rows(
            query.resource.entity,
            columns=_columns(query),
            where=[*query.where, *of_state],
            order=["-_earliest_ns"],
            limit=query.limit - len(page),
        )
    return page


def _in_order(snapshot: Snapshot, query: Query, where: Sequence[Filter]) -> Iterator[list[dict[str, Any]]]:
    """Yield rows in Ray's order, page by page."""
    resource, limit = query.resource, query.limit
    # a page goes on from the key of the last row, so that the store skips what was sent; rows of one key (a
    # task's attempts) may be on both sides
    key = resource.order[0] if resource.order else None
    after: tuple[Filter, ...] = ()
    offset = 0
    while limit > 0:
        page = snapshot.rows(
            resource.entity,
            columns=_columns(query),
            where=(*where, *after),
            order=resource.order,
            limit=min(limit, PAGE_ROWS),
            offset=offset,
        )
        if not page:
            return
        limit -= len(page)
        offset += len(page)
        if key is not None and (not after or after[0].value != page[-1][key]):
            last = page[-1][key]
            after, offset = (Filter(key, ">=", last),), sum(row[key] == last for row in page)
        yield page


def _columns(query: Query) -> list[str]:
    return [field.stored for field in query.resource.shown(query.detail) if field.exported]


def _completion(query: Query) -> Callable[[dict[str, Any]], None]:
    """Return what makes a row of the store one of Ray's."""
    resource, fields = query.resource, query.resource.shown(query.detail)
    renamed = [(field.column, field.name) for field in fields if field.column]
    defaults = [(field.name, field.default) for field in fields if field.exported and field.default is not None]
    absent = {field.name: field.default for field in fields if not field.exported}
    wire = [(field.name, _WIRE[field.wire]) for field in fields if field.wire]
    conclude = resource.conclude if query.detail else None

    def complete(row: dict[str, Any]) -> None:
        for column, name in renamed:
            row[name] = row.pop(column)
        row.update({name: default for name, default in defaults if row[name] is None})
        row.update(absent)
        row.update({name: write(row[name]) for name, write in wire if row[name] is not None})
        if conclude:
            conclude(row)

    return complete


def _floats(amounts: Mapping[str, int | float]) -> dict[str, float]:
    return {name: float(amount) for name, amount in amounts.items()}


_WIRE: Mapping[str, Callable[[Any], Any]] = {"text": str, "float": float, "floats": _floats}


def _first(params: Params, name: str, default: str) -> str:
    values = params.get(name)
    return values[0] if values else default


def _flag(name: str, text: str) -> bool:
    flag = FLAGS.get(text)
    if flag is None:
        raise ConfigError(f"{name} {text!r} is not a flag; write true or false")
    return flag


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name} {text!r} is not a whole number; write digits") from None
