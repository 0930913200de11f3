"""The small server of a process that has no other: an agent's, and a history's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from raytrail.sources import address
from raytrail.sources.http_server import Handler, Server

_ANSWER_SECONDS = 5.0
_SILENT_SECONDS = 30.0


class Page(NamedTuple):
    """What is answered."""

    status: int
    kind: str
    """Its content type."""
    body: bytes


Pages = Mapping[str, Callable[[], Page]]
"""Says what each path answers. Any thread may ask."""


@contextmanager
def answering(listen: str, pages: Pages, *, setting: str, example: str) -> Iterator[str]:
    """
    Answer over HTTP meanwhile, from a thread of its own. Give the URL.

    Args:
        listen: ``host:port``. Port 0 takes a free one.
        pages: The answers.
        setting: The name of the setting, for errors.
        example: An address that an error names.

    Raises:
        ConfigError: One cannot listen there.
    """
    host, port = address.where(listen, f"{setting}=", example)
    handler = type("_Handler", (_Handler,), {"pages": pages})
    server = Server.begin((host, port), handler, setting=f"{setting}={listen!r}", example=example)
    try:
        yield address.base(host, server.server_address[1])
    finally:
        server.end()


def registry_of(*collectors: Collector) -> CollectorRegistry:
    """Return the registry of these figures, and of those of the process and of Python."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def exposed(registry: CollectorRegistry) -> Page:
    """Return all figures as Prometheus reads them."""
    return Page(200, CONTENT_TYPE_LATEST, generate_latest(registry))


def health(collect: Callable[[], dict[str, object]], whose: str) -> Callable[[], Page]:
    """
    Make the page that is 200 while the loop that runs here turns, and says what `collect` does there.

    Args:
        collect: Called on the loop.
        whose: The process, for the message about a loop that stands still.
    """
    loop = asyncio.get_running_loop()

    async def collect_there() -> dict[str, object]:
        return collect()

    def page() -> Page:
        answer: dict[str, object] = {"status": "ok"}
        try:
            answer |= asyncio.run_coroutine_threadsafe(collect_there(), loop).result(_ANSWER_SECONDS)
        except concurrent.futures.TimeoutError:
            answer["status"] = f"the {whose}'s loop has not turned for {_ANSWER_SECONDS:g} seconds"
        return as_json(answer, 200 if answer["status"] == "ok" else 503)

    return page


def as_json(answer: Mapping[str, object], status: int) -> Page:
    """Return an answer as JSON that people can read."""
    return Page(status, "application/json", json.dumps(answer, indent=2).encode() + b"\n")


class _Handler(Handler):
    pages: Pages
    timeout = _SILENT_SECONDS

    def do_GET(self) -> None:
        page = self.pages.get(self.path.partition("?")[0])
        status, kind, body = page() if page else Page(404, "text/plain", f"{', '.join(self.pages)}\n".encode())
        self.answer(status, body, kind)
