"""What a history has done, counted as it does it, and whether it is well."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from typing import NamedTuple

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from raytrail.errors import RaytrailError
from raytrail.event import LOG, Chunk, Unreadable
from raytrail.metrics import answering as page_server
from raytrail.metrics.answering import Page, Pages, as_json, exposed, health, registry_of
from raytrail.metrics.lag import Lag
from raytrail.metrics.totals import StoreCollector
from raytrail.pubsub import Delivery, Subscriber
from raytrail.pubsub.groups import OwnGroup
from raytrail.store import Store

_EXAMPLE = "127.0.0.1:8368"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_MOST_TYPES = 100
"""How many event types have figures of their own: their names are whatever publishers send."""
_LONGEST_TYPE = 100
_OTHER = "other"
_UNREADABLE = "unreadable"


class Watch(Collector):
    """A store as a history writes to it, with what became of it. Any thread may read the figures."""

    def __init__(self, store: Store) -> None:
        self._store = store
        by_type = ["event_type"]
        self._chunks = Counter(
            "raytrail_history_appended_chunks",
            "Chunks that were stored, or set aside as unreadable. Those that came again count again.",
            by_type,
            registry=None,
        )
        self._events = Counter("raytrail_history_appended_events", "Lines of events in them.", by_type, registry=None)
        self._bytes = Counter("raytrail_history_appended_bytes", "Bytes of them.", by_type, registry=None)
        self._seconds = Histogram(
            "raytrail_history_step_seconds",
            "How long it took to append a batch, to fold what was appended, to look for what ended and seal it, and to "
            "tidy: to look for what is to be deleted, and delete some of it.",
            ["step"],
            buckets=_SECONDS,
            registry=None,
        )
        self._failures = Counter(
            "raytrail_history_failed_steps", "Steps that failed, and are tried again.", ["step"], registry=None
        )
        self._last = Gauge(
            "raytrail_history_last_chunk_timestamp_seconds", "When a chunk was last stored. 0: none yet.", registry=None
        )
        self._folded = Gauge(
            "raytrail_history_last_fold_timestamp_seconds",
            "When what was appended was last folded, or this process began.",
            registry=None,
        )
        self._folded.set_to_current_time()
        self._waiting = Gauge("raytrail_history_waiting_chunks", "Chunks that wait for the store.", registry=None)
        self._sealing = Gauge(
            "raytrail_history_seal_queue_clusters", "Sessions that are due to be sealed and are not.", registry=None
        )
        self._sealing.set_function(lambda: store.seal_queue)
        self._deleted = Counter(
            "raytrail_history_deleted_clusters",
            "Sessions that were deleted, and of which nothing is left.",
            registry=None,
        )
        self._deleted_bytes = Counter("raytrail_history_deleted_bytes", "Bytes of the files of these.", registry=None)
        self._broker_failures = Counter(
            "raytrail_history_broker_failures", "How often reading from the broker failed.", registry=None
        )
        self._broker_failure: tuple[float, str] | None = None
        self._lag = Lag()
        self._types: set[str] = set()
        self._failed: dict[str, str] = {}

    def append(self, chunks: Sequence[Chunk | Unreadable]) -> None:
        """Append as the store does."""
        with self._step("append"):
            self._store.append(chunks)
        for chunk in chunks:
            self._count(chunk)
        self._last.set_to_current_time()

    def fold(self) -> None:
        """Fold as the store does."""
        with self._step("fold"):
            self._store.fold()
        self._folded.set_to_current_time()

    def seal_due(self, now_ms: int) -> list[str]:
        """Seal as the store does."""
        with self._step("seal"):
            return self._store.seal_due(now_ms)

    def tidy(self, now_ms: int) -> None:
        """Tidy as the store does."""
        with self._step("tidy"):
            tidied = self._store.tidy(now_ms)
        for deleted in tidied.deleted:
            self._deleted.inc()
            self._deleted_bytes.inc(deleted.bytes)

    def follow_queue(self, length: Callable[[], int]) -> None:
        """Tell, from now on, how many chunks wait."""
        self._waiting.set_function(length)
        self._lag.follow_queue(length)

    def reading(self, broker: OwnGroup) -> Subscriber:
        """Return the broker, of which failures are counted, and what waits there is measured, from now on."""
        return _Reading(broker, self._lag, self._note_broker)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        for metric in (
            self._chunks,
            self._events,
            self._bytes,
            self._seconds,
            self._failures,
            self._last,
            self._folded,
            self._waiting,
            self._sealing,
            self._deleted,
            self._deleted_bytes,
            self._broker_failures,
        ):
            yield from metric.collect()
        yield from self._lag.collect()
        failing = GaugeMetricFamily(
            "raytrail_history_failing_clusters",
            "Sessions that could not be folded or sealed, and are let be for a while.",
            None,
            ["step"],
        )
        for step, number in self._store.failing.items():
            failing.add_metric([step], number)
        yield failing

    def state(self) -> dict[str, object]:
        """Return what people want to know of it."""
        broker: dict[str, object] = {"failure": ""}
        if self._broker_failure is not None:
            when, failure = self._broker_failure
            broker = {"failure": failure, "seconds_ago": round(time.time() - when, 1)}
        return {"store": {"failures": dict(self._failed)}, "broker": broker}

    def readiness(self) -> Page:
        """Return 503 while the last append, fold, seal or tidy failed. A broker that is away is waited for."""
        state = self.state()
        failure = next(iter(self._failed.values()), "")
        return as_json({"status": failure or "ok", **state}, 503 if failure else 200)

    def _note_broker(self, error: RaytrailError) -> None:
        self._broker_failures.inc()
        self._broker_failure = time.time(), str(error)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except Exception as error:
            self._failed[name] = str(error)
            self._failures.labels(name).inc()
            raise
        self._failed.pop(name, None)
        self._seconds.labels(name).observe(time.monotonic() - began)

    def _count(self, chunk: Chunk | Unreadable) -> None:
        event_type = self._type_of(chunk)
        self._chunks.labels(event_type).inc()
        self._bytes.labels(event_type).inc(len(chunk.data))
        events = 0
        if event_type not in (LOG, _UNREADABLE):
            events = chunk.data.count(b"\n")
            self._events.labels(event_type).inc(events)
        self._lag.note_stored(chunk.data, events)

    def _type_of(self, chunk: Chunk | Unreadable) -> str:
        if isinstance(chunk, Unreadable):
            return _UNREADABLE
        if chunk.event_type in self._types:
            return chunk.event_type
        is_name = chunk.event_type.isascii() and len(chunk.event_type) <= _LONGEST_TYPE
        if not is_name or len(self._types) >= _MOST_TYPES:
            return _OTHER
        self._types.add(chunk.event_type)
        return chunk.event_type


class _Reading(NamedTuple):
    broker: OwnGroup
    lag: Lag
    note: Callable[[RaytrailError], None]

    async def subscribe(self, group: str, *, from_start: bool = False) -> AsyncGenerator[Delivery, None]:
        measuring = asyncio.create_task(self.lag.measure(self.broker, group))
        try:
            async with aclosing(self.broker.subscribe(group, from_start=from_start)) as deliveries:
                async for delivery in deliveries:
                    yield delivery
        except RaytrailError as error:
            self.note(error)
            raise
        finally:
            measuring.cancel()
            await asyncio.gather(measuring, return_exceptions=True)


@contextmanager
def answering(listen: str, watch: Watch, store: Store) -> Iterator[str]:
    """
    Answer over HTTP meanwhile, from a thread of its own. Give the URL.

    ``/healthz`` is 200 while the history's loop turns, and ``/readyz`` while it can also write to its store.

    Args:
        listen: ``host:port``. Port 0 takes a free one.
        watch: The history's figures.
        store: What it writes to.

    Raises:
        ConfigError: One cannot listen there.
    """
    pages: Pages = {
        "/metrics": partial(exposed, registry_of(watch, StoreCollector(store))),
        "/healthz": health(watch.state, "history"),
        "/readyz": watch.readiness,
    }
    with page_server.answering(listen, pages, setting="metrics", example=_EXAMPLE) as url:
        yield url
