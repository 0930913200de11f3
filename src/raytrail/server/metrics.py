"""``/metrics`` of a server: what was asked of it, how long the answers took, and what waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import cache, cached_property
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raytrail.metrics.answering import exposed, registry_of
from raytrail.metrics.totals import StoreCollector
from raytrail.server.routing import ROUTE
from raytrail.store import Store

NO_ROUTE = "none"
"""The route of what was refused before it was known which one it is, and of what is no page."""
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class ServerMetrics:
    """
    The figures of a server.

    Args:
        store: What it serves.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.requests = Counter(
            "raytrail_server_requests", "Requests that were answered.", ["route", "status"], registry=None
        )
        self.seconds = Histogram(
            "raytrail_server_answer_seconds",
            "How long it took until an answer began. Of one that is sent in pieces, its first.",
            ["route"],
            buckets=_SECONDS,
            registry=None,
        )
        self.cached = Counter(
            "raytrail_server_cached_answers", "Answers that were made before, for somebody else.", registry=None
        )
        self.uncached = Counter(
            "raytrail_server_uncached_answers", "Answers about sealed sessions that had to be made.", registry=None
        )
        self.streams = Gauge(
            "raytrail_server_open_streams", "Connections that follow a living cluster's page.", registry=None
        )
        self.waiting = Gauge(
            "raytrail_server_waiting_questions",
            "Questions that wait for their turn: for that of those with many rows, and for that of all.",
            ["questions"],
            registry=None,
        )

    @cached_property
    def _registry(self) -> CollectorRegistry:
        of_requests = (self.requests, self.seconds, self.cached, self.uncached, self.streams, self.waiting)
        return registry_of(*of_requests, StoreCollector(self._store))

    async def page(self, request: Request) -> Response:
        """All figures of the server, its store and its process, as Prometheus reads them. Needs the token."""
        status, kind, body = await asyncio.to_thread(exposed, self._registry)
        return Response(body, status, media_type=kind)

    def note(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        counter, histogram = self._of(route, status)
        counter.inc()
        histogram.observe(seconds)

    @cached_property
    def _of(self) -> Callable[[str, int], tuple[Counter, Histogram]]:
        # to look a figure up by its labels takes longer than to change it. Routes are as few as are declared
        return cache(lambda route, status: (self.requests.labels(route, status), self.seconds.labels(route)))


class Measured:
    """Counts answers by the route that answered."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        """
        Measure an application.

        Args:
            app: The application.
            metrics: The figures.
        """
        self._app = app
        self._note = metrics.note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        answered = False

        async def note(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                self._note(scope.get(ROUTE, NO_ROUTE), message["status"], time.perf_counter() - began)
            await send(message)

        try:
            await self._app(scope, receive, note)
        except Exception:
            if not answered:  # Starlette answers for us, further out
                self._note(scope.get(ROUTE, NO_ROUTE), 500, time.perf_counter() - began)
            raise


class Slots(asyncio.Semaphore):
    """Lets some in at a time, and counts those who wait."""

    def __init__(self, value: int, waiting: Gauge) -> None:
        super().__init__(value)
        self._waiting_gauge = waiting

    async def acquire(self) -> Literal[True]:
        """Wait until there is room."""
        if not self.locked():
            return await super().acquire()
        with self._waiting_gauge.track_inprogress():
            return await super().acquire()


class Stream(StreamingResponse):
    """Server-sent events, counted while somebody follows them."""

    def __init__(self, events: AsyncIterator[str], open_streams: Gauge) -> None:
        # a proxy would keep back what comes in so small pieces
        super().__init__(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._open_streams = open_streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        with self._open_streams.track_inprogress():
            await super().__call__(scope, receive, send)
