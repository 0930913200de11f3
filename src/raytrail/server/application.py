"""
The store over HTTP: Ray's own API for each cluster at any time, and pages for people.

    /                                    the clusters, each with how complete its history is
    /clusters/<id>/                      Ray's dashboard of one cluster
    /clusters/<id>/api/...               what Ray's clients ask a live cluster
    /clusters/<id>/about                 our own page of it: its counts, its commands, how complete it is
    /clusters/<id>/at/<time>/...         the same, as it would have been answered then
    /clusters/<id>/final/...             the same, at the very end; without, just before the shutdown began
    /api/clusters[/<id>]                 clusters and their ledgers as JSON
    /ingest                              what agents and foreign collectors post, on its way to a broker
    /metrics                             what Prometheus asks
    /healthz, /readyz                    what Kubernetes asks
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from raytrail.config import ServerConfig
from raytrail.errors import ConfigError, NotFoundError, StoreError
from raytrail.server import pages
from raytrail.server.access_log import access_log
from raytrail.server.auth import Access
from raytrail.server.base_path import BasePath
from raytrail.server.cache import AnswerCache
from raytrail.server.context import Answer, StoreView, View, encode
from raytrail.server.dashboard_files import Build, find_build
from raytrail.server.every_answer import EveryAnswer
from raytrail.server.ingest import Bounds, Take, ingest
from raytrail.server.live_links import LiveLinks
from raytrail.server.metrics import Measured, ServerMetrics, Slots, Stream
from raytrail.server.openapi import describe
from raytrail.server.pages import about
from raytrail.server.pages.declared import PAGES
from raytrail.server.pages.moments import PARAMETERS, go, marks, read
from raytrail.server.pages.page import iso
from raytrail.server.proxies import Proxies
from raytrail.server.ray import logs
from raytrail.server.ray.routes import ROUTES
from raytrail.server.routing import NamedRoute, NamedWebSocketRoute, Route, wants_html
from raytrail.server.stores import Stores
from raytrail.server.users import Users, reader_of
from raytrail.store import Cluster, Store, TablesLost
from raytrail.tokens import Tries

CLUSTER = "/clusters/{id}"
MOMENTS = (f"{CLUSTER}/at/{{ms}}", f"{CLUSTER}/final")
"""Where the same routes are as below the cluster itself, and answer of another moment."""
QUERIES_AT_ONCE = 4
"""Requests that read the store at the same time; the engine spreads each over the cores by itself."""
LARGE_AT_ONCE = 2
"""Of these, those that ask for many rows: each takes some 200 MB while it is made, and others need not wait."""
LARGE_ROWS = 2_000
"""More rows than so many are many."""
CHANGED, ENDED = "event: changed\ndata:\n\n", "event: ended\ndata:\n\n"
"""The events that who follows a living cluster hears."""
LIVE_SECONDS = 1.0
"""How often a living cluster is looked at for who follows its page."""
SILENT_SECONDS = 15
"""How long such an answer may say nothing."""
CACHE_BYTES = 64 * 1024 * 1024
"""Answers about sealed sessions that are kept, so that who polls a page is answered at once, whoever it is."""
STATUSES: Mapping[type[Exception], int] = {ConfigError: 400, NotFoundError: 404, StoreError: 500}

T = TypeVar("T")


def app(
    store: Store,
    config: ServerConfig,
    take: Take | None = None,
    *,
    check_host: bool = False,
    stop: asyncio.Event | None = None,
    mask: Callable[[str], str] = str,
) -> Starlette:
    """
    Make the ASGI application. It only reads the store.

    Args:
        store: What is served.
        config: Its settings.
        take: Stores what is posted to ``/ingest``; None: nothing is taken.
        check_host: Whether, without a token, only the server's own names are answered (`raytrail.server.auth`).
        stop: Ends the answers that go on as long as a cluster lives.
        mask: Masks the secrets of an address, for the access log.

    Raises:
        ConfigError: The users file or the dashboard cannot be read.
    """
    build = find_build(config.dashboard)
    metrics = ServerMetrics(store)
    users, stores, closing = Users(config), Stores(store), ExitStack()
    closing.callback(stores.close)
    server = _Server(stores, metrics, config, users, dashboard=build is not None, stop=stop or asyncio.Event())
    tries = Tries(config.wrong_tokens_per_minute)
    routes = [
        NamedRoute(Route("/scripts/{name}", _script, api="ours")),
        NamedRoute(Route("/openapi.json", _openapi, api="ours")),
        *_routes_over_store(server),
        NamedRoute(Route("/metrics", metrics.page, api="ours")),
        NamedRoute(Route("/healthz", _healthz, api="ours")),
        NamedRoute(Route("/readyz", _readyz, api="ours"), partial(_readyz, store)),
        ingest(take, tries, token="" if users.have_names else config.ingest_token, bounds=Bounds.of(config))
        if take
        else NamedRoute(Route("/ingest", _no_ingest, api="ours", method="POST")),
        NamedRoute(Route("/api/clusters", server.clusters, api="ours")),
        NamedRoute(Route("/api/clusters/{id}", server.cluster, api="ours")),
        NamedRoute(Route("/api/clusters/{id}/live", server.live, api="ours")),
        *_routes_of_clusters(server, build),
    ]
    served = Starlette(
        routes=routes,
        middleware=[
            Middleware(BasePath, base_path=config.base_path),
            Middleware(Proxies, config=config),
            *access_log(config, mask, closing),
            Middleware(Measured, metrics=metrics),
            Middleware(EveryAnswer, config=config),
            Middleware(Access, config=config, users=users, tries=tries, check_host=check_host),
        ],
        exception_handlers=dict.fromkeys((HTTPException, *STATUSES), _error),
    )
    served.state.closing = closing
    return served


def _routes_of_clusters(server: _Server, build: Build | None) -> Iterator[BaseRoute]:
    """Yield what is answered below each cluster, and below each of its moments. The first that fits answers."""
    routes: tuple[Route[Answer], ...] = (
        *(build.routes() if build else (Route("/", about.PAGE.routes()[-1].handler, api="ours"),)),
        *(route for page in PAGES if not page.over_store for route in page.routes()),
        Route("/marks", marks, api="ours"),
        Route("/go", go, api="ours", parameters=PARAMETERS),
        *ROUTES,
        Route("/{rest:path}", _not_served, api="ours"),
    )
    for below, final in ((MOMENTS[0], False), (MOMENTS[1], True), (CLUSTER, False)):
        yield NamedRoute(Route("", _with_slash, api="ours"), below=below)
        for route in routes:
            yield NamedRoute(route, server.view(route.handler, final=final), below=below)
        yield NamedWebSocketRoute(logs.TAIL, server.follow(logs.TAIL.handler), below=below)


def _routes_over_store(server: _Server) -> Iterator[BaseRoute]:
    for page in PAGES:
        if page.over_store:
            for route in page.routes():
                yield NamedRoute(route, server.over_store(route.handler, large=page.large))


class _Server:
    """The endpoints: each a plain function, called on a thread, as few at a time as the engine can use."""

    def __init__(
        self,
        stores: Stores,
        metrics: ServerMetrics,
        config: ServerConfig,
        users: Users,
        *,
        dashboard: bool,
        stop: asyncio.Event,
    ) -> None:
        self._stores = stores
        self._live_links = LiveLinks(config)
        self._users = users
        self._metrics = metrics
        self._stop = stop
        self._dashboard = dashboard
        self._slots = Slots(QUERIES_AT_ONCE, metrics.waiting.labels("all"))
        self._large = Slots(LARGE_AT_ONCE, metrics.waiting.labels("large"))
        self._version = version("raytrail")
        self._cache = AnswerCache(CACHE_BYTES)

    async def clusters(self, request: Request) -> Response:
        """All clusters, newest first, as JSON."""
        return encode({"clusters": await self._call(lambda: self._stores.of(request.scope).clusters())})

    async def cluster(self, request: Request) -> Response:
        """One cluster with its whole ledger, as JSON."""

        def read() -> dict[str, Any]:
            store = self._stores.of(request.scope)
            cluster = store.find(request.path_params["id"])
            with _unless_deleted(store, cluster.session):
                return {"cluster": cluster, "ledger": store.ledger(cluster.session)}

        return encode(await self._call(read))

    def over_store(
        self, answer: Callable[[StoreView], Response], *, large: bool
    ) -> Callable[[Request], Awaitable[Response]]:
        """Make the endpoint of what `answer` says of all clusters; `large`: of which few are answered at a time."""

        async def endpoint(request: Request) -> Response:
            def work_out() -> Response:
                view = self._store_view(request)
                with _unless_deleted(view.store):
                    return answer(view)

            return await self._call(work_out, large)

        return endpoint

    def view(self, answer: Answer, *, final: bool) -> Callable[[Request], Awaitable[Response]]:
        """Make the endpoint of what `answer` says of one cluster, at one moment; `final`: its very end by default."""

        async def endpoint(request: Request) -> Response:
            # not among the slots: what is known already need not wait for what is being worked out
            store, cluster, etag = await asyncio.to_thread(self._look, request)
            if etag and _knows(request, etag):
                return Response(status_code=304, headers=_revalidated(etag))
            if answered := self._cache.get(etag):
                self._metrics.cached.inc()
                return Response(answered.body, headers={**answered.headers, **_revalidated(etag)})

            def work_out() -> Response:
                with _unless_deleted(store, cluster.session):
                    try:
                        return answer(self._view(request, store, cluster, final=final))
                    except TablesLost:
                        return answer(self._view(request, store, cluster, final=final))

            response = await self._call(work_out, _is_large(request))
            if etag and "cache-control" not in response.headers:  # which a file of the dashboard has
                self._metrics.uncached.inc()
                self._cache.put(etag, response)
                response.headers.update(_revalidated(etag))
            return response

        return endpoint

    async def live(self, request: Request) -> Response:
        """An event `changed` whenever there is something new of a living cluster, as server-sent events."""
        store = await asyncio.to_thread(self._stores.of, request.scope)
        cluster = await asyncio.to_thread(store.find, request.path_params["id"])
        return Stream(self._changes(store, cluster), self._metrics.streams)

    async def _changes(self, store: Store, cluster: Cluster) -> AsyncIterator[str]:
        session = cluster.session
        if cluster.sealed:
            yield f"{CHANGED}{ENDED}"
            return
        known, silent = await asyncio.to_thread(store.mark, session), 0.0
        readings = self._users.readings
        yield "retry: 5000\n\n"
        while not await is_set_within(self._stop, LIVE_SECONDS):
            await asyncio.to_thread(self._users.look_again)
            if self._users.readings != readings:
                return  # a browser comes back by itself, if it may
            mark = await asyncio.to_thread(store.mark, session)
            silent = 0 if mark != known else silent + LIVE_SECONDS
            if mark != known:
                yield CHANGED
                if (await asyncio.to_thread(store.find, session)).sealed:
                    yield ENDED
                    return
            elif silent % SILENT_SECONDS < LIVE_SECONDS:
                yield ":\n\n"  # a proxy closes what is silent for long
            known = mark

    def follow(self, texts: Callable[[View], Iterator[str]]) -> Callable[[WebSocket], Awaitable[None]]:
        """Make the endpoint that sends what `texts` gives, piece by piece; at its end there is no more."""

        async def endpoint(socket: WebSocket) -> None:
            def read() -> Iterator[str]:
                store = self._stores.of(socket.scope)
                return texts(self._view(socket, store, store.find(socket.path_params["id"]), final=True))

            try:
                pieces = await self._call(read)
            except tuple(STATUSES) as error:
                status = next(code for kind, code in STATUSES.items() if isinstance(error, kind))
                await socket.send_denial_response(PlainTextResponse(str(error), status))
                return
            await socket.accept()
            try:
                while text := await self._call(lambda: next(pieces, "")):
                    await socket.send_text(text)
                await socket.close()
            except WebSocketDisconnect:
                pass  # who asked has seen enough

        return endpoint

    def _look(self, request: Request) -> tuple[Store, Cluster, str]:
        store = self._stores.of(request.scope)
        cluster = store.find(request.path_params["id"])
        return store, cluster, self._etag(cluster, request)

    def _store_view(self, request: Request) -> StoreView:
        return StoreView(
            store=self._stores.of(request.scope),
            params=_params(request),
            root=str(request.base_url),
            base=request.base_url.path,
            user=self._user(request),
            live_link=self._live_links.of,
        )

    def _user(self, request: HTTPConnection) -> str:
        return reader_of(request.scope).name if self._users.have_names else ""

    def _view(self, request: HTTPConnection, store: Store, cluster: Cluster, *, final: bool) -> View:
        home = f"{request.base_url}clusters/{cluster.session}/"
        at_ms, moment = _moment(request.path_params.get("ms"), cluster, final)
        return View(
            store=store,
            cluster=cluster,
            snapshot=store.snapshot(cluster.session, at_ms),
            params=_params(request),
            path=request.path_params,
            url=f"{home}{moment}",
            home=home,
            root=str(request.base_url),
            base=request.base_url.path,
            moment=moment,
            dashboard=self._dashboard,
            user=self._user(request),
            live_link=self._live_links.of,
            stream=partial(self._stream, large=_is_large(request)),
        )

    def _etag(self, cluster: Cluster, request: Request) -> str:
        """Return what names the answer for good, or nothing while the answer may still change."""
        if not cluster.sealed:
            return ""
        # with all of the cluster's counts: a session that late events open again is sealed with others
        sent = (request.scope.get("raw_path") or b"").decode("latin-1")  # in which an encoded slash is none
        # answers of ours tell how long ago things were, and of other sessions: they are worked out anew each minute
        minute = time.time_ns() // 60_000_000_000 if _is_ours(request) else 0
        # of who asks: it may tell of other sessions that they may read, and says who they are
        named = msgspec.json.encode((self._version, cluster, str(request.url), sent, minute, reader_of(request.scope)))
        return f'"{hashlib.blake2b(named, digest_size=16).hexdigest()}"'

    async def _stream(self, pieces: Iterator[bytes], *, large: bool) -> AsyncIterator[bytes]:
        while piece := await self._call(lambda: next(pieces, b""), large):
            yield piece

    async def _call(self, function: Callable[[], T], large: bool = False) -> T:
        async with self._large if large else nullcontext(), self._slots:
            return await asyncio.to_thread(function)


@contextmanager
def _unless_deleted(store: Store, session: str = "") -> Iterator[None]:
    """
    Answer about a session, or about several of which an error names one.

    Raises:
        NotFoundError: Its files are gone since it was deleted meanwhile.
    """
    try:
        yield
    except StoreError as error:
        store.marks.check_not_deleted(session or getattr(error, "session", ""))
        raise


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait until an event is set, so many seconds at most, and return whether it is."""
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


def _params(request: HTTPConnection) -> dict[str, list[str]]:
    return {name: request.query_params.getlist(name) for name in request.query_params}


def _is_ours(request: Request) -> bool:
    path = request.scope["path"]
    return wants_html(request.scope) or ("/api/" not in path and path.endswith((".json", ".csv", ".sql")))


def _is_large(request: HTTPConnection) -> bool:
    limit = request.query_params.get("limit", "")
    # of a number without end, its beginning says enough
    return limit.isdecimal() and int(limit[:9]) > LARGE_ROWS


def _not_served(view: View) -> Response:
    """501, with a word on what is served. See [Errors](#errors)."""
    # never 404, even for what is no route of Ray's: its dashboard, as our proxy, answers a 404 from the
    # cluster that it lives in, which is another one
    raise HTTPException(501, f"/{view.path['rest']} is not served by this version; see {view.home}")


def _moment(text: str | None, cluster: Cluster, final: bool) -> tuple[int | None, str]:
    """Return the moment that is asked for, None for the end or now, and the part of the URL that says so."""
    if text is None:
        return (None, "final/") if final else (cluster.before_shutdown_ms, "")
    at_ms = read(text, cluster)
    return at_ms, f"at/{text if text.isdigit() else iso(at_ms)}/"


async def _no_ingest(request: Request) -> Response:
    """501: the server was started without `--ingest`."""
    return PlainTextResponse("nothing is taken here; start the server with --ingest URL\n", 501)


async def _readyz(store: Store, request: Request) -> Response:
    """`ok`, while the store can be read, else 503 and why."""
    try:
        await asyncio.to_thread(store.check_readable)
    except StoreError as error:
        return PlainTextResponse(f"{error}\n", 503)
    return PlainTextResponse("ok\n")


async def _healthz(request: Request) -> Response:
    """`ok`, while the process answers."""
    return PlainTextResponse("ok\n")


async def _openapi(request: Request) -> Response:
    """The description of our own API, in OpenAPI 3.1."""
    return encode(describe(PAGES))


async def _script(request: Request) -> Response:
    """The scripts of pages, and their icon."""
    name = request.path_params["name"]
    if name not in pages.scripts():
        raise HTTPException(404)
    kind = "image/svg+xml" if name.endswith(".svg") else "text/javascript"
    return Response(pages.scripts()[name], media_type=kind, headers={"Cache-Control": "private, no-cache"})


async def _with_slash(request: Request) -> Response:
    """To the same with a slash at its end."""
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
        return encode(body, status, headers)
    if "/api/" not in path and "text/html" in request.headers.get("accept", ""):
        return pages.answer(pages.error(status, message, request.base_url.path), status, headers)
    return PlainTextResponse(message, status, headers)


def _revalidated(etag: str) -> dict[str, str]:
    # to be asked for again each time, at the cost of a look-up: "latest" may mean another cluster by then
    return {"ETag": etag, "Cache-Control": "private, no-cache"}


def _knows(request: Request, etag: str) -> bool:
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return etag in known or "*" in known
