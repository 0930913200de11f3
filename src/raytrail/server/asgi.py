"""
The store over HTTP: Ray's own API for each cluster at any time, and pages for people.

    /                                    the clusters, each with how complete its history is
    /clusters/<id>/                      one cluster
    /clusters/<id>/api/...               what Ray's clients ask a live cluster
    /clusters/<id>/at/<ms>/...           the same, as it would have been answered then
    /api/clusters[/<id>]                 clusters and their ledgers as JSON
    /ingest                              what agents and foreign collectors post, on its way to a broker
    /healthz
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, NamedTuple, TypeVar

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raytrail.config import ServerConfig
from raytrail.errors import ConfigError, NotFoundError, StoreError
from raytrail.server import jobs_api, pages
from raytrail.server.ingest import Take, ingest
from raytrail.server.state_api import (
    ACTORS,
    ASKED_FOR,
    PAGE_ROWS,
    RESOURCES,
    TASKS,
    Params,
    Resource,
    encode_rows,
    find_rows,
    read_query,
    summarize,
)
from raytrail.store import Cluster, Snapshot, Store

QUERIES_AT_ONCE = 4
"""Requests that read the store at the same time; the engine spreads each over the cores by itself."""
MOMENT_DIGITS = 15
"""Most digits of a moment in milliseconds: enough for some 30 000 years."""
GRACE_SECONDS = 5
"""How long a stopping server lets running answers finish."""
NOT_EXPORTED = ("runtime_envs",)
"""Resources of Ray's State API that no event tells of, of Ray 2.60's or of ours."""
STATUSES: Mapping[type[Exception], int] = {ConfigError: 400, NotFoundError: 404, StoreError: 500}

T = TypeVar("T")

log = logging.getLogger(__name__)


class View(NamedTuple):
    """What a request under ``/clusters/<id>`` looks at."""

    store: Store
    cluster: Cluster
    snapshot: Snapshot
    params: Params
    path: Mapping[str, Any]
    url: str
    """Where the view begins, with a slash at its end."""
    home: str
    """The same without the moment, if there is one: the cluster's own page."""
    root: str
    """Where all begins."""
    stream: Callable[[Iterator[bytes]], AsyncIterator[bytes]]
    """Takes the pieces of an answer that is too large to be made at once."""


def app(store: Store, config: ServerConfig, take: Take | None = None) -> Starlette:
    """
    Make the ASGI application. It only reads the store.

    Args:
        store: What is served.
        config: Its settings.
        take: Stores what is posted to ``/ingest``; None: nothing is taken.
    """
    server = _Server(store)
    routes = [
        Route("/", server.home),
        Route("/healthz", _healthz),
        ingest(take, token=config.ingest_token) if take else Route("/ingest", _no_ingest, methods=["POST"]),
        Route("/api/clusters", server.clusters),
        Route("/api/clusters/{id}", server.cluster),
        *(
            Route(f"{prefix}{path}", endpoint)
            for prefix in ("/clusters/{id}/at/{ms}", "/clusters/{id}")
            for path, endpoint in (
                ("", _with_slash),
                ("/", server.view(_page)),
                ("/api/v0/{noun}", server.view(_list)),
                ("/api/v0/{noun}/summarize", server.view(_summarize)),
                ("/api/version", server.view(_ray_version)),
                ("/api/ray/version", server.view(_ray_version)),
                ("/api/jobs/", server.view(_jobs)),
                ("/api/jobs/{job}", server.view(_job)),
                ("/{rest:path}", server.view(_not_served)),
            )
        ),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(_EveryAnswer)],
        exception_handlers=dict.fromkeys((HTTPException, *STATUSES), _error),
    )


async def serve(
    store: Store,
    config: ServerConfig,
    *,
    ready: Callable[[str], None],
    stop: asyncio.Event,
    take: Take | None = None,
) -> None:
    """
    Serve until `stop` is set; running answers may then finish.

    Args:
        store: What is served; it is only read.
        config: Where to listen.
        ready: Called with the URL once requests are answered.
        stop: Ends the server.
        take: Stores what is posted to ``/ingest``; None: nothing is taken.

    Raises:
        ConfigError: The address cannot be listened on.
    """
    listener = _listen(config)
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if take and not config.ingest_token and not ipaddress.ip_address(host).is_loopback:
        log.warning("whoever reaches %s may post events to /ingest; set server.ingest_token", url)
    server = _Uvicorn(
        uvicorn.Config(
            app(store, config, take),
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=GRACE_SECONDS,
        ),
        lambda: ready(url),
    )

    async def end() -> None:
        await stop.wait()
        server.should_exit = True

    ending = asyncio.create_task(end())
    try:
        await server.serve(sockets=[listener])
    finally:
        ending.cancel()
        listener.close()


def _listen(config: ServerConfig) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET)
    try:
        # a server that has just stopped does not block its port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {config.host}:{config.port}: {error.strerror}; "
            "choose another host or port, or 0 for a free port"
        ) from error
    return listener


class _Uvicorn(uvicorn.Server):
    """Says when it is ready, and leaves signals to the caller."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Server:
    """The endpoints: each a plain function, called on a thread, as few at a time as the engine can use."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._slots = asyncio.Semaphore(QUERIES_AT_ONCE)
        self._version = version("raytrail")

    async def home(self, request: Request) -> Response:
        clusters = await self._call(self._store.clusters)
        return _html(pages.home(clusters, str(request.base_url)))

    async def clusters(self, request: Request) -> Response:
        return _json({"clusters": await self._call(self._store.clusters)})

    async def cluster(self, request: Request) -> Response:
        def read() -> dict[str, Any]:
            cluster = self._store.find(request.path_params["id"])
            return {"cluster": cluster, "ledger": self._store.ledger(cluster.session)}

        return _json(await self._call(read))

    def view(self, answer: Callable[[View], Response]) -> Callable[[Request], Awaitable[Response]]:
        """Make the endpoint of what `answer` says of one cluster, at one moment."""

        async def endpoint(request: Request) -> Response:
            return await self._call(lambda: self._answer(request, answer))

        return endpoint

    def _answer(self, request: Request, answer: Callable[[View], Response]) -> Response:
        cluster = self._store.find(request.path_params["id"])
        etag = self._etag(cluster, request)
        if etag and _knows(request, etag):
            return Response(status_code=304, headers=_revalidated(etag))
        at_ms = _moment(request.path_params.get("ms"))
        home = f"{request.base_url}clusters/{cluster.session}/"
        response = answer(
            View(
                store=self._store,
                cluster=cluster,
                snapshot=self._store.snapshot(cluster.session, at_ms),
                params={name: request.query_params.getlist(name) for name in request.query_params},
                path=request.path_params,
                url=home if at_ms is None else f"{home}at/{at_ms}/",
                home=home,
                root=str(request.base_url),
                stream=self._stream,
            )
        )
        if etag:
            response.headers.update(_revalidated(etag))
        return response

    def _etag(self, cluster: Cluster, request: Request) -> str:
        """Return what names the answer for good, or nothing while the answer may still change."""
        if not cluster.sealed:
            return ""
        # with all of the cluster's counts: a session that late events open again is sealed with others
        named = msgspec.json.encode((self._version, cluster, str(request.url)))
        return f'"{hashlib.blake2b(named, digest_size=16).hexdigest()}"'

    async def _stream(self, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
        while piece := await self._call(lambda: next(pieces, b"")):
            yield piece

    async def _call(self, function: Callable[[], T]) -> T:
        async with self._slots:
            return await asyncio.to_thread(function)


def _list(view: View) -> Response:
    query = read_query(_resource(view), view.params)
    rows = find_rows(view.snapshot, query)
    pieces = encode_rows(rows, _warnings(view))
    if min(query.limit, rows.filtered) > PAGE_ROWS:
        return StreamingResponse(view.stream(pieces), media_type="application/json")
    return Response(b"".join(pieces), media_type="application/json")


def _summarize(view: View) -> Response:
    resource = _resource(view)
    if resource not in (TASKS, ACTORS):
        raise HTTPException(501, f"summary of {resource.noun}: Ray sums up tasks and actors only")
    by = view.params.get("summary_by", ["func_name"])[0]
    if by == "lineage":
        raise HTTPException(501, "summary_by=lineage is not served by this version; ask for summary_by=func_name")
    if by not in ("func_name", "task_name"):
        raise ConfigError(f"summary_by {by!r}: it is func_name, task_name or lineage")
    summary = summarize(view.snapshot, read_query(resource, view.params), _warnings(view))
    return _json({"result": True, "msg": "", "data": {"result": summary}})


def _ray_version(view: View) -> Response:
    return _json(jobs_api.version(view.cluster.session))


def _jobs(view: View) -> Response:
    return _json(jobs_api.list_jobs(view.snapshot))


def _job(view: View) -> Response:
    return _json(jobs_api.get_job(view.snapshot, view.path["job"]))


def _page(view: View) -> Response:
    counts = {
        resource.noun: view.snapshot.group(resource.entity, [state], where) for resource, state, where in pages.COUNTED
    }
    ledger = view.store.ledger(view.cluster.session)
    return _html(
        pages.cluster(view.cluster, view.snapshot.at_ms, counts, ledger, url=view.url, home=view.home, root=view.root)
    )


def _not_served(view: View) -> Response:
    # never 404, even for what is no route of Ray's: its dashboard, as our proxy, answers a 404 from the
    # cluster that it lives in, which is another one
    raise HTTPException(501, f"/{view.path['rest']} is not served by this version; see {view.home}")


def _resource(view: View) -> Resource:
    noun = str(view.path["noun"])
    if noun in RESOURCES:
        resource = RESOURCES[noun]
        kind = resource.entity.upper()
        if resource in ASKED_FOR and kind not in {row.event_type for row in view.store.ledger(view.cluster.session)}:
            raise HTTPException(501, f"{noun}: no event of them has come; agents ask Ray for them with --types {kind}")
        return resource
    if noun in NOT_EXPORTED:
        raise HTTPException(501, f"{noun}: Ray exports no event of them, so this history does not know them")
    raise HTTPException(501, f"/api/v0/{noun} is not served by this version; {', '.join(RESOURCES)} are")


def _moment(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= MOMENT_DIGITS):
        raise ConfigError(f"moment {text!r} is not in milliseconds since 1970; write {MOMENT_DIGITS} digits at most")
    return int(text)


def _warnings(view: View) -> list[str]:
    lost, rejected = view.cluster.missing_bytes, view.cluster.rejected
    if not lost and not rejected:
        return []
    return [
        f"The history of this cluster is not complete: {lost:,} bytes of events are missing and {rejected:,} "
        f"lines were unreadable. {view.home} says which."
    ]


async def _no_ingest(request: Request) -> Response:
    return PlainTextResponse("nothing is taken here; start the server with --ingest URL\n", 501)


async def _healthz(request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _with_slash(request: Request) -> Response:
    # relative, as we may be behind a proxy that adds a path
    return RedirectResponse(f"./{request.url.path.rsplit('/', 1)[1]}/")


async def _error(request: Request, error: Exception) -> Response:
    headers = dict(getattr(error, "headers", None) or {})
    if isinstance(error, HTTPException):
        status, message = error.status_code, error.detail
    else:
        status, message = next(code for kind, code in STATUSES.items() if isinstance(error, kind)), str(error)
    path = request.url.path
    if status == 404 and isinstance(error, HTTPException):
        message = f"{path}: no such page; the clusters are at {request.base_url}"
    if status == 405:
        message = f"{request.method} {path}: this is a read-only history; only GET and HEAD are answered"
    if "/api/v0/" in path or status == 501:
        body = {"result": False, "msg": message, "data": {"result": None}}
        return _json(body, status, headers)
    if "/api/" not in path and "text/html" in request.headers.get("accept", ""):
        return _html(pages.error(status, message, str(request.base_url)), status, headers)
    return PlainTextResponse(message, status, headers)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


def _html(page: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return HTMLResponse(page, status, {**(headers or {}), **pages.HEADERS})


def _revalidated(etag: str) -> dict[str, str]:
    # to be asked for again each time, at the cost of a look-up: "latest" may mean another cluster by then
    return {"ETag": etag, "Cache-Control": "private, no-cache"}


def _knows(request: Request, etag: str) -> bool:
    known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    return etag in known or "*" in known


class _EveryAnswer:
    """Forbids browsers to guess what an answer is, and to keep it unless it says so."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def say(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, say)
