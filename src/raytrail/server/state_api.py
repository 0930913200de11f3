"""
Ray's State API over a snapshot: the same questions as to a live cluster, answered from its history.

What each resource shows, and what it can be filtered by, is declared once below; listing and filtering follow
from it. Columns and behaviour are those of Ray 2.60: ray/util/state/common.py (columns),
ray/util/state/state_manager.py (filters that the GCS applies, and so what ``total`` counts) and
ray/dashboard/state_api_utils.py (the other filters). Where we differ, the comment says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import msgspec

from raytrail.errors import ConfigError
from raytrail.store import Filter, Snapshot

DEFAULT_LIMIT = 100
"""Rows of a list whose request names no limit, as Ray's."""
MAX_LIMIT = 1_000_000
"""Most rows of one list. Ray's own servers refuse more than 10 000."""
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
    id_bytes: int = 0
    """Ray parses the filter's value as an id of so many bytes, and refuses others. 0: it compares texts."""
    values: tuple[str, ...] = ()
    """Ray refuses to look for any other value."""
    counted: bool = False
    """Ray's GCS filters by it, so that ``total`` counts only the rows that pass."""
    exact: bool = False
    """Ray's GCS looks for it letter by letter; otherwise case does not matter."""
    column: str = ""
    """Our column, where its name differs."""
    exported: bool = True
    """False: no event of Ray's says it, so it is always the default."""


class Resource(NamedTuple):
    """One of Ray's resources: its columns, and their order."""

    noun: str
    entity: str
    order: tuple[str, ...]
    """Our columns, ``-`` before one that descends."""
    fields: tuple[Field, ...]

    def field(self, name: str) -> Field:
        """
        Return the column that a filter names, in any case.

        Raises:
            ConfigError: There is none, or Ray does not filter by it.
        """
        for field in self.fields:
            if field.filterable and field.name == name.lower():
                return field
        names = sorted(field.name for field in self.fields if field.filterable)
        raise ConfigError(f"filter column {name!r}: {self.noun} are filtered by {', '.join(names)}")

    def shown(self, detail: bool) -> list[Field]:
        """Return the columns of a row."""
        return [field for field in self.fields if detail or not field.detail]


TASKS = Resource(
    noun="tasks",
    entity="task",
    # Ray orders by task alone; the newest attempt first, as `ray get tasks` and the dashboard show one
    order=("task_id", "-attempt_number"),
    fields=(
        Field("task_id", "id", "", filterable=True, optional=False, id_bytes=24, counted=True),
        Field("attempt_number", "int", filterable=True, optional=False),
        Field("name", "text", "", filterable=True, optional=False, counted=True),
        Field("state", "enum", "NIL", filterable=True, optional=False, counted=True),
        Field("job_id", "id", "", filterable=True, optional=False, id_bytes=4, counted=True),
        Field("actor_id", "id", filterable=True, id_bytes=16, counted=True),
        Field("type", "enum", "NORMAL_TASK", filterable=True, optional=False),
        Field("func_or_class_name", "text", "", filterable=True, optional=False),
        Field("parent_task_id", "id", "", filterable=True, optional=False),
        Field("node_id", "id", filterable=True),
        Field("worker_id", "id", filterable=True),
        Field("worker_pid", "int", filterable=True),
        Field("error_type", "enum", filterable=True),
        Field("language", "enum", filterable=True, detail=True),
        Field("required_resources", "json", {}, detail=True),
        Field("runtime_env_info", "json", detail=True),
        Field("placement_group_id", "id", filterable=True, detail=True),
        Field("events", "json", [], detail=True),
        Field("profiling_data", "json", {}, detail=True),
        Field("creation_time_ms", "int", detail=True),
        Field("start_time_ms", "int", detail=True),
        Field("end_time_ms", "int", detail=True),
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
        Field("actor_id", "id", "", filterable=True, optional=False, id_bytes=16),
        Field("class_name", "text", "", filterable=True, optional=False),
        Field(
            "state",
            "enum",
            "DEPENDENCIES_UNREADY",
            filterable=True,
            optional=False,
            values=("DEPENDENCIES_UNREADY", "PENDING_CREATION", "ALIVE", "RESTARTING", "DEAD"),
        ),
        Field("job_id", "id", "", filterable=True, optional=False, id_bytes=4),
        Field("name", "text", "", filterable=True),
        Field("node_id", "id", filterable=True),
        Field("pid", "int", 0, filterable=True),
        Field("ray_namespace", "text", "", filterable=True),
        Field("serialized_runtime_env", "text", "", detail=True),
        Field("required_resources", "json", {}, detail=True),
        Field("death_cause", "json", detail=True),
        Field("is_detached", "bool", False, detail=True),
        Field("placement_group_id", "id", filterable=True, detail=True),
        Field("repr_name", "text", "", filterable=True, detail=True),
        Field("num_restarts", "int", 0, detail=True, optional=False),
        Field("num_restarts_due_to_lineage_reconstruction", "int", 0, detail=True),
        Field("num_restarts_due_to_node_preemption", "int", 0, detail=True),
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
        Field("node_id", "id", "", filterable=True, optional=False, id_bytes=28),
        Field("node_ip", "text", "", filterable=True, optional=False),
        Field("is_head_node", "bool", False, filterable=True, optional=False),
        Field("state", "enum", "ALIVE", filterable=True, optional=False, values=("ALIVE", "DEAD")),
        Field("state_message", "text"),
        Field("node_name", "text", "", filterable=True, optional=False, exact=True),
        Field("resources_total", "json", {}, optional=False),
        Field("labels", "json", {}, optional=False),
        Field("start_time_ms", "int", 0, detail=True),
        Field("end_time_ms", "int", 0, detail=True),
    ),
)

JOBS = Resource(
    noun="jobs",
    entity="job",
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
    order=("worker_id",),
    fields=(
        Field("worker_id", "id", "", filterable=True, optional=False),
        Field("is_alive", "bool", False, filterable=True, optional=False),
        Field("worker_type", "enum", "WORKER", filterable=True, optional=False),
        Field("exit_type", "enum", filterable=True),
        Field("node_id", "id", "", filterable=True, optional=False),
        Field("ip", "text", "", filterable=True, optional=False),
        Field("pid", "int", 0, filterable=True, optional=False),
        Field("exit_detail", "text", detail=True),
        Field("worker_launch_time_ms", "int", _UNKNOWN_MS, detail=True),
        Field("worker_launched_time_ms", "int", _UNKNOWN_MS, detail=True),
        Field("start_time_ms", "int", 0, detail=True),
        Field("end_time_ms", "int", 0, detail=True),
        Field("debugger_port", "int", filterable=True, detail=True),
        Field("num_paused_threads", "int", filterable=True, detail=True),
    ),
)

OBJECTS = Resource(
    noun="objects",
    entity="object",
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
ASKED_FOR = (PLACEMENT_GROUPS, WORKERS, OBJECTS)
"""Those that Ray exports no event of: an agent asks Ray for them, if it is told to."""
NO_CALL_SITES = (
    # ray/dashboard/state_aggregator.py, Ray 2.60
    "Callsite is not being recorded. To record callsite information for each ObjectRef created, set env variable "
    "RAY_record_ref_creation_sites=1 during `ray start` and `ray.init`."
)
"""What Ray says with its objects, unless it was told to record where they were made."""


class Query(NamedTuple):
    """What a request asks of a resource."""

    resource: Resource
    where: tuple[Filter, ...]
    counted: tuple[Filter, ...]
    """Those of `where` that ``total`` minds."""
    empty: bool
    """No row can pass: a filter asks for what its column never holds."""
    limit: int
    detail: bool

    @property
    def of_one_task(self) -> bool:
        """Whether it asks for the attempts of one task."""
        return self.resource is TASKS and any((one.column, one.op) == ("task_id", "=") for one in self.where)


class Rows(NamedTuple):
    """How many rows there are, and the rows, page by page."""

    total: int
    filtered: int
    pages: Iterator[list[dict[str, Any]]]


def read_query(resource: Resource, params: Params) -> Query:
    """
    Read the parameters that Ray's clients send.

    Raises:
        ConfigError: One of them is wrong: no such column, not an id, not a number, too many rows.
    """
    where: list[Filter] = []
    counted: list[Filter] = []
    empty = False
    if resource is TASKS:
        # the GCS does not show an attempt whose owner's part never came
        counted.append(Filter("type", "!=", None))
        if _flag("exclude_driver", _first(params, "exclude_driver", "True")):
            counted.append(Filter("type", "!=", "DRIVER_TASK"))
    if resource is OBJECTS:  # Ray forgets what is gone; `raytrail list objects` does not
        counted.append(Filter("state", "!=", "DELETED"))
    keys, predicates, values = (params.get(f"filter_{part}", ()) for part in ("keys", "predicates", "values"))
    if not len(keys) == len(predicates) == len(values):
        raise ConfigError(
            f"filters: {len(keys)} keys, {len(predicates)} predicates and {len(values)} values; "
            "give one of each for every filter"
        )
    for key, predicate, value in zip(keys, predicates, values, strict=True):
        field = resource.field(key)
        outcome = _filter(field, predicate, value)
        if isinstance(outcome, bool):
            empty = empty or not outcome
        else:
            (counted if field.counted else where).append(outcome)
    limit = _number("limit", _first(params, "limit", str(DEFAULT_LIMIT)))
    if not 0 <= limit <= MAX_LIMIT:
        raise ConfigError(f"limit {limit} is not within 0 and {MAX_LIMIT}; ask for fewer rows, or narrow by a filter")
    return Query(
        resource=resource,
        where=(*counted, *where),
        counted=tuple(counted),
        empty=empty,
        limit=limit,
        detail=_flag("detail", _first(params, "detail", "False")),
    )


def find_rows(snapshot: Snapshot, query: Query) -> Rows:
    """Look up what the query asks for; the pages are read as they are taken."""
    entity = query.resource.entity
    if query.empty:
        return no_rows()._replace(total=snapshot.count(entity, query.counted))
    pages = _pages(snapshot, query)
    first = next(pages, [])
    every = len(first) < min(query.limit, PAGE_ROWS)
    if every and query.where == query.counted:
        return Rows(len(first), len(first), iter([first]))
    total = snapshot.count(entity, query.counted)
    if every:
        return Rows(total, len(first), iter([first]))
    filtered = total if query.where == query.counted else snapshot.count(entity, query.where)
    return Rows(total, filtered, chain([first], pages))


def no_rows() -> Rows:
    """Return the rows of what is not known."""
    return Rows(0, 0, iter(()))


def encode_rows(rows: Rows, warnings: Sequence[str]) -> Iterator[bytes]:
    """Yield Ray's answer to a list, one piece a page."""
    # the rows come last, so that they can be sent while the next page is read
    yield (
        b'{"result":true,"msg":"","data":{"result":{"total":%d,"num_after_truncation":%d,"num_filtered":%d,'
        b'"partial_failure_warning":"","warnings":%b,"result":['
        % (rows.total, rows.total, rows.filtered, msgspec.json.encode(list(warnings) or None))
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


def _filter(field: Field, predicate: str, text: str) -> Filter | bool:
    """Return the store's filter; or whether every row passes, or none."""
    if predicate not in ("=", "!="):
        raise ConfigError(f"filter predicate {predicate!r} on {field.name}: it is = or !=")
    op: Literal["=", "!="] = "=" if predicate == "=" else "!="
    column = field.column or field.name
    if field.kind == "id":
        if field.id_bytes and not _is_id(text, field.id_bytes):
            raise ConfigError(
                f"filter {field.name}{op}{text}: the id is not {field.id_bytes * 2} hex digits; copy it whole"
            )
        return Filter(column, op, text.lower()) if _is_id(text) else op == "!="
    if field.kind == "enum":
        if field.values and op == "=" and text.upper() not in field.values:
            raise ConfigError(f"filter {field.name}={text}: it is one of {', '.join(field.values)}")
        return Filter(column, op, text.upper())
    if field.kind == "text":
        if not text:
            # the store holds null where Ray prints an empty text
            return Filter(column, op, None) if field.default == "" else op == "!="
        return Filter(column, op, text, ignore_case=not (field.exact and op == "="))
    if field.optional and op == "!=":
        return True
    if field.kind == "bool":
        return Filter(column, op, _flag(f"filter {field.name}", text))
    number = _number(f"filter {field.name}", text)
    if not -(2**63) <= number < 2**63:
        return op == "!="
    return Filter(column, op, None if number == field.default else number)


def _pages(snapshot: Snapshot, query: Query) -> Iterator[list[dict[str, Any]]]:
    resource, fields = query.resource, query.resource.shown(query.detail)
    limit = query.limit
    columns = [field.column or field.name for field in fields if field.exported]
    renamed = [(field.column, field.name) for field in fields if field.column]
    defaults = [(field.name, field.default) for field in fields if field.exported and field.default is not None]
    absent = {field.name: field.default for field in fields if not field.exported}
    # a page goes on from the key of the last row, so that the store skips what was sent; rows of one key (a
    # task's attempts) may be on both sides
    key = resource.order[0] if resource.order else None
    after: tuple[Filter, ...] = ()
    offset = 0
    while limit > 0:
        page = snapshot.rows(
            resource.entity,
            columns=columns,
            where=(*query.where, *after),
            # of more rows than are asked for, the first that are found are shown, in order: as GCS and Ray do
            order=resource.order if query.limit > PAGE_ROWS else (),
            limit=min(limit, PAGE_ROWS),
            offset=offset,
        )
        if not page:
            return
        if query.limit <= PAGE_ROWS:
            for name in reversed(resource.order):
                page.sort(key=itemgetter(name.removeprefix("-")), reverse=name.startswith("-"))
        limit -= len(page)
        offset += len(page)
        if key is not None and (not after or after[0].value != page[-1][key]):
            last = page[-1][key]
            after, offset = (Filter(key, ">=", last),), sum(row[key] == last for row in page)
        for row in page:
            for column, name in renamed:
                row[name] = row.pop(column)
            for name, default in defaults:
                if row[name] is None:
                    row[name] = default
            row.update(absent)
            # no event in a file tells it: what has no label_selector has nothing to fall back from
            if resource is TASKS and query.detail and row["fallback_strategy"] is None and not row["label_selector"]:
                row["fallback_strategy"] = None if row["type"] == "DRIVER_TASK" else {"options": []}
            # null is the end of a submission that still runs; Ray shows a driver's as 0
            if resource is JOBS and query.detail and row["type"] == "DRIVER" and row["end_time"] is None:
                row["end_time"] = 0
        yield page


def _first(params: Params, name: str, default: str) -> str:
    values = params.get(name)
    return values[0] if values else default


def _flag(name: str, text: str) -> bool:
    if text in ("True", "true", "1"):
        return True
    if text in ("False", "false", "0"):
        return False
    raise ConfigError(f"{name} {text!r} is not a flag; write true or false")


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name} {text!r} is not a whole number; write digits") from None


def _is_id(text: str, size: int | None = None) -> bool:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        return False
    # fromhex reads over white space
    return len(value) * 2 == len(text) and (size is None or len(value) == size)
