"""Ray's routes, as its clients and its dashboard ask a live cluster, each with who answers it from the history."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from raytrail.errors import ConfigError
from raytrail.server.context import Answer, View, encode, ray_answer, refusing_with
from raytrail.server.ray import dashboard, data, jobs, logs, serve, train
from raytrail.server.ray.coverage import coverage, unknown
from raytrail.server.ray.lineage import summarize_by_lineage
from raytrail.server.ray.resources import ACTORS, OBJECTS, RESOURCES, TASKS, Resource
from raytrail.server.ray.state import (
    DEFAULT_LIMIT,
    NO_CALL_SITES,
    PAGE_ROWS,
    Query,
    Rows,
    encode_rows,
    find_rows,
    no_rows,
    read_query,
    read_summary_query,
    records_call_sites,
)
from raytrail.server.ray.summaries import summarize, summarize_objects
from raytrail.server.ray.timeline import timeline
from raytrail.server.routing import Route
from raytrail.store import Snapshot

FEW_ATTEMPTS = 20
"""Of so many attempts of one task, each has it read from the logs where its output starts."""
Summarize = Callable[[Snapshot, Query, Sequence[str]], dict[str, Any]]
"""Sums up a resource for an answer that carries these warnings."""
PLATFORM_EVENTS = "no event of a platform such as Kubernetes is among what Ray exports"
"""Why its dashboard's tab of them stays hidden, as it does wherever Ray has none."""


def _list(view: View) -> Response:
    """Ray's State API: a list. See [below](#rays-state-api)."""
    resource = _resource(view)
    why = unknown(view, resource)
    with refusing_with(resource.wrong_status):
        query = read_query(resource, view.params)
        rows = _no_rows(query) if why else find_rows(view.snapshot, query)
    if query.of_one_task and query.detail and rows.filtered <= FEW_ATTEMPTS:
        pages = list(rows.pages)
        logs.begun(view, itertools.chain(*pages))
        rows = rows._replace(pages=iter(pages))
    pieces = encode_rows(resource, rows, _warnings(view, resource, why))
    if min(query.limit, rows.filtered) > PAGE_ROWS:
        return StreamingResponse(view.stream(pieces), media_type="application/json")
    return Response(b"".join(pieces), media_type="application/json")


def _summarize(view: View) -> Response:
    """Ray's State API: a summary of `tasks`, `actors` or `objects`."""
    resource = _resource(view)
    if resource not in (TASKS, ACTORS, OBJECTS):
        raise HTTPException(501, f"summary of {resource.noun}: Ray sums up tasks, actors and objects only")
    why = unknown(view, resource)
    with refusing_with(500):
        sum_up = _summary_of(resource, view.param("summary_by"))
        query = read_summary_query(resource, view.params)
        if not why:
            query.filters.refuse(view.snapshot, resource.entity)
    summary = sum_up(view.snapshot, query, _warnings(view, resource, why))
    return encode({"result": True, "msg": "", "data": {"result": summary}})


def _summary_of(resource: Resource, by: str) -> Summarize:
    if resource is not TASKS:  # of the others Ray minds no such word
        return summarize_objects if resource is OBJECTS else summarize
    if by not in ("", "func_name", "task_name", "lineage"):
        raise ConfigError(f"summary_by {by!r}: it is func_name, task_name or lineage")
    return summarize_by_lineage if by == "lineage" else summarize


def _no_rows(query: Query) -> Rows:
    """Return the rows of what is not known, if Ray, which knows some, would not refuse to look for them."""
    if query.filters.refusals:
        raise ConfigError(query.filters.refusals[0].message)
    return no_rows()


def _platform_events(view: View) -> Response:
    """404, by which Ray's dashboard knows that there are none."""
    return ray_answer({}, PLATFORM_EVENTS, 404)


def _jobs(view: View) -> Response:
    """Ray's Jobs API: all jobs, submissions first."""
    return encode(jobs.list_jobs(view.snapshot))


def _job(view: View) -> Response:
    """Ray's Jobs API: the job of that job id or submission id."""
    return encode(jobs.get_job(view.snapshot, view.path["job"]))


def _serve(view: View) -> Response:
    """Ray Serve's REST API, for `serve status`: applications, deployments, replicas and proxies."""
    return encode(serve.instance_details(view.snapshot, view.param("api_type")))


def _datasets(view: View) -> Response:
    """Ray Data's datasets of a driver job, and how far each operator is."""
    return encode({"datasets": data.list_datasets(view.snapshot, view.path["job"])})


def _train_runs(view: View) -> Response:
    """Ray Train's runs, with their attempts and workers."""
    runs = train.list_runs(view.snapshot)
    # as Ray, whose state actor is there once there is a run
    return encode({"train_runs": runs}) if runs else PlainTextResponse(train.NO_STATE, 500)


def _train_v1_runs(view: View) -> Response:
    """Runs of Ray Train's first generation, of which no event tells: what Ray answers where it has none."""
    return PlainTextResponse(train.NO_STATE, 500)


_FILTERS = {
    "filter_keys": "a column to filter by. Repeat all three for each filter",
    "filter_predicates": "`=` or `!=`",
    "filter_values": "what the column is compared with",
    "timeout": "how long Ray's own server would wait for others",
}
ROUTES: tuple[Route[Answer], ...] = (
    *dashboard.ROUTES,
    *logs.ROUTES,
    Route("/coverage", coverage, api="ours"),
    Route("/api/v0/platform_events", _platform_events),
    Route(
        "/api/v0/{noun}",
        _list,
        parameters={
            **_FILTERS,
            "limit": f"how many rows at most, {DEFAULT_LIMIT} unless given",
            "detail": "`true` shows every column",
            "exclude_driver": "`false` lists the drivers' own tasks, too",
        },
    ),
    Route(
        "/api/v0/{noun}/summarize",
        _summarize,
        parameters={**_FILTERS, "summary_by": "of tasks: `func_name`, or `lineage` for a tree"},
    ),
    Route(
        "/api/v0/tasks/timeline",
        timeline,
        parameters={
            "job_id": "a driver job, else all",
            "style": "`legacy` is what `ray timeline` writes, else what the dashboard shows",
            "download": "`1` has a browser keep it as a file",
            "from": "only attempts that ended at this time or later, in milliseconds since 1970. Ray has none of these",
            "to": "only attempts that began before this time",
            "node": "only attempts on this node",
            "actor": "only attempts of this actor",
            "worker": "only attempts in this worker",
        },
    ),
    Route("/api/jobs/", _jobs),
    Route("/api/jobs/{job}", _job),
    Route(
        "/api/serve/applications/",
        _serve,
        parameters={"api_type": "`imperative` or `declarative`: applications of that API alone"},
    ),
    Route("/api/data/datasets/{job}", _datasets),
    Route("/api/train/v2/runs/v1", _train_runs),
    Route("/api/train/v2/runs", _train_v1_runs),
)
"""Each route below ``/clusters/<id>`` and ``/clusters/<id>/at/<ms>``; the first that fits answers."""


def _resource(view: View) -> Resource:
    noun = str(view.path["noun"])
    if noun in RESOURCES:
        return RESOURCES[noun]
    raise HTTPException(501, f"/api/v0/{noun} is not served by this version; {', '.join(RESOURCES)} are")


def _warnings(view: View, resource: Resource, why: str) -> list[str]:
    warnings = view.warnings()
    if why:
        # no error, which would keep pages and commands from showing the rest
        warnings.append(why)
    elif resource is OBJECTS and not records_call_sites(view.snapshot):
        warnings.append(NO_CALL_SITES)
    return warnings
