"""The standard library's HTTP server with few connections: whoever says nothing neither fills it nor shuts it."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CONNECTIONS = 32
"""At the same time: a node has one Ray that posts, and a Prometheus or two."""


class Server(ThreadingHTTPServer):
    """Has a thread for each connection, and few of them."""

    daemon_threads = True
    request_queue_size = 128  # senders that wait to be let in. With the default of five, a few make others wait seconds

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        """
        Listen.

        Args:
            address: Host and port.
            handler: Answers the requests of a connection.

        Raises:
            OSError: One cannot listen there.
        """
        self._open: dict[Any, bool] = {}
        self._open_lock = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin with a connection. If there are too many, end the oldest on which nothing is being done."""
        with self._open_lock:
            if len(self._open) >= CONNECTIONS:
                idle = next((connection for connection, busy in self._open.items() if not busy), request)
                self._open.pop(idle, None)
                with suppress(OSError):
                    idle.shutdown(socket.SHUT_RDWR)
            self._open[request] = False
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._open_lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a connection that failed, which anybody's may at any time."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    @contextmanager
    def busy(self, request: Any) -> Iterator[None]:
        """Say that a connection's events are being taken, and not to end it."""
        with self._open_lock:
            self._open[request] = True
        try:
            yield
        finally:
            with self._open_lock:
                # as the newest: the next request's time begins
                self._open.pop(request)
                self._open[request] = False
