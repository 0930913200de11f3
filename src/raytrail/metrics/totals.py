"""The figures of a store, for whoever writes or serves it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from raytrail.errors import StoreError
from raytrail.store import Store


class StoreCollector(Collector):
    """A store's figures, read from its catalogue when they are asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def describe(self) -> Iterator[Metric]:
        """Name nothing beforehand: whoever registers this need not read the store."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield every metric. Of a store that cannot be read, that alone."""
        readable = GaugeMetricFamily("raytrail_store_readable", "1, or 0 where its catalogue cannot be read.")
        try:
            metrics = list(self._collect_totals())
        except (StoreError, OSError):
            metrics = []
        readable.add_metric([], bool(metrics))
        yield readable
        yield from metrics

    def _collect_totals(self) -> Iterator[Metric]:
        totals = self._store.totals()
        clusters = GaugeMetricFamily(
            "raytrail_store_clusters", "Sessions of clusters, living ones and sealed ones.", None, ["state"]
        )
        clusters.add_metric(["living"], totals.living)
        clusters.add_metric(["sealed"], totals.sealed)
        yield GaugeMetricFamily(
            "raytrail_store_deleting_clusters", "Deleted sessions whose files are still there.", totals.deleting
        )
        rejected = CounterMetricFamily(
            "raytrail_store_rejected",
            "What arrived and could not be stored: chunks that were set aside, and lines that are no events.",
            None,
            ["what"],
        )
        rejected.add_metric(["chunk"], totals.chunks_set_aside)
        rejected.add_metric(["line"], totals.rejected_lines)
        aside = GaugeMetricFamily(
            "raytrail_store_set_aside_chunks",
            "Chunks that were set aside and are kept, by the reason, of which values are left out.",
            None,
            ["reason"],
        )
        for reason, count in totals.kept_aside.items():
            aside.add_metric([reason], count)
        yield from (clusters, rejected, aside)
        yield CounterMetricFamily(
            "raytrail_store_unknown_events", "Lines of a type that this version does not know.", totals.unknown_lines
        )
        yield GaugeMetricFamily("raytrail_store_bytes", "Bytes of all its files that are named.", totals.bytes)
        yield GaugeMetricFamily(
            "raytrail_store_open_tables", "Tables of sealed sessions that are held open.", self._store.open_tables
        )
        disk = shutil.disk_usage(self._store.root)
        yield GaugeMetricFamily("raytrail_store_disk_bytes", "Bytes of the disk that it lies on.", disk.total)
        yield GaugeMetricFamily("raytrail_store_disk_free_bytes", "Those that are free on it.", disk.free)
