"""
Ray's State API over a snapshot: the same questions as to a live cluster, answered from its history.

Listing and filtering follow from the declarations in `raytrail.server.ray.resources`. The order of rows and the limits
are those of Ray 2.60 (ray/dashboard/state_aggregator.py). Its filters are in `raytrail.server.ray.filters`. Where we
differ, the comment says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from raytrail.errors import ConfigError
from raytrail.server.ray.filters import FLAGS, Filters, read_filters
from raytrail.server.ray.resources import NO_DRIVERS, TASKS, Resource
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
        return self.resource is TASKS and any(
            (condition.column, condition.op) == ("task_id", "=") for condition in self.where
        )


class Rows(NamedTuple):
    """How many rows there are, and the rows, page by page."""

    total: int
    returned: int
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
    returned = query.filters.count_returned(
        snapshot, noun, query.resource.order[0] if query.resource.order else "", total
    )
    if query.empty:
        return no_rows()._replace(total=total, returned=returned)
    filtered = total if query.where == query.counted else snapshot.count(noun, query.where)
    return Rows(total, returned, filtered, _pages(snapshot, query, filtered))


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
            rows.returned,
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
