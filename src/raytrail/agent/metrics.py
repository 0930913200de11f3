"""``/metrics`` and ``/healthz`` of an agent: what Prometheus, Kubernetes and people ask while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from raytrail.agent.agent import Agent
from raytrail.metrics import answering as page_server
from raytrail.metrics.answering import Pages, exposed, health, registry_of

_EXAMPLE = "127.0.0.1:8366"


class AgentCollector(Collector):
    """The agent's figures, read when they are asked for: nothing is counted on the way of the events."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with a sample for each destination."""
        destination, by_type = ["destination"], ["destination", "event_type"]
        events = CounterMetricFamily(
            "raytrail_agent_published_events", "Events that the broker stored, dead letters included.", None, by_type
        )
        size = CounterMetricFamily("raytrail_agent_published_bytes", "Bytes of them, as Ray wrote them.", None, by_type)
        failed = CounterMetricFamily(
            "raytrail_agent_failed_chunks", "Chunks that were not stored, and are sent again.", None, destination
        )
        refused = CounterMetricFamily(
            "raytrail_agent_refused_events", "Events that the broker will never take: dead letters.", None, destination
        )
        up = GaugeMetricFamily("raytrail_agent_broker_up", "1, or 0 since the broker last failed.", None, destination)
        stored = GaugeMetricFamily(
            "raytrail_agent_last_stored_timestamp_seconds", "When the broker last stored something.", None, destination
        )
        in_flight = GaugeMetricFamily(
            "raytrail_agent_in_flight_bytes", "Bytes that were read and are not yet stored.", None, destination
        )
        unread = GaugeMetricFamily(
            "raytrail_tail_unread_bytes", "Bytes on disk that are not yet stored by the broker.", None, destination
        )
        until_deleted = GaugeMetricFamily(
            "raytrail_tail_bytes_until_deleted",
            "What a writer may write until Ray deletes unread bytes of it; of the nearest file, none if all is read.",
            None,
            destination,
        )
        files = GaugeMetricFamily("raytrail_tail_open_files", "Event files that are held open.", None, destination)
        mismatches = CounterMetricFamily(
            "raytrail_tail_moved_files", "Known files that were found elsewhere, and read again.", None, destination
        )
        names = CounterMetricFamily(
            "raytrail_tail_refused_names",
            "Names that a link, a FIFO, a socket, a device or a directory had, and that were not followed.",
            None,
            destination,
        )
        skipped = GaugeMetricFamily(
            "raytrail_tail_skipped_bytes",
            "Lines over max_line_bytes and what of logs is over log_file_bytes, of files that are there.",
            None,
            destination,
        )
        age = GaugeMetricFamily(
            "raytrail_tail_checkpoint_age_seconds", "How long acknowledgements wait to be written.", None, destination
        )
        now, wall = time.monotonic(), time.time()
        for shipping in list(self._agent.shippings.values()):
            labels, outlet, tailer, checkpoint = [shipping.label], shipping.outlet, shipping.tailer, shipping.checkpoint
            for event_type, (count, length) in sorted(checkpoint.published.items()):
                events.add_metric([*labels, event_type], count)
                size.add_metric([*labels, event_type], length)
            failed.add_metric(labels, outlet.failures)
            refused.add_metric(labels, outlet.refused_events)
            up.add_metric(labels, not outlet.failure)
            stored.add_metric(labels, wall - (now - outlet.stored_at))
            in_flight.add_metric(labels, outlet.in_flight_bytes)
            unread.add_metric(labels, tailer.unread_bytes())
            size_until_deleted = tailer.bytes_until_deleted()
            if size_until_deleted is not None:
                until_deleted.add_metric(labels, size_until_deleted)
            files.add_metric(labels, tailer.open_files)
            mismatches.add_metric(labels, tailer.mismatches)
            names.add_metric(labels, tailer.refused)
            skipped.add_metric(labels, sum(mark.skipped for mark in checkpoint.marks()))
            age.add_metric(labels, checkpoint.age_seconds)
        yield from (events, size, failed, refused, up, stored, in_flight)
        yield from (unread, until_deleted, files, mismatches, names, skipped, age)


@contextmanager
def answering(listen: str, agent: Agent) -> Iterator[str]:
    """
    Answer over HTTP meanwhile, from a thread of its own. Give the URL.

    ``/healthz`` is 200 while the agent's loop turns. A broker that is away is no ill health, as a restart would
    not bring it back: it is told in the answer.

    Args:
        listen: ``host:port``. Port 0 takes a free one.
        agent: The agent of the figures.

    Raises:
        ConfigError: One cannot listen there.
    """
    pages: Pages = {
        "/metrics": partial(exposed, registry_of(AgentCollector(agent))),
        "/healthz": health(partial(_collect_figures, agent), "agent"),
    }
    with page_server.answering(listen, pages, setting="listen", example=_EXAMPLE) as url:
        yield url


def _collect_figures(agent: Agent) -> dict[str, object]:
    return {"destinations": {shipping.label: shipping.figures() for shipping in agent.shippings.values()}}
