"""
The HTTP server of an agent, for its receiver and its metrics, and of a history, for its metrics: the standard
library's, with few connections.

It is there on every node, and enough: one Ray posts, and a Prometheus or two ask. Starlette on uvicorn, as the server
has it, would need packages that Ray's environment need not have. A silent client cannot fill it or stop it.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from raytrail.errors import ConfigError

CONNECTIONS = 32
"""At the same time: a node has one Ray that posts, and a Prometheus or two."""


class Handler(BaseHTTPRequestHandler):
    """Answers what is asked on a connection, and says nothing of it: there is a request every second or so."""

    def answer(
        self,
        status: int,
        body: bytes = b"",
        kind: str = "text/plain; charset=utf-8",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if body:
            self.send_header("Content-Type", kind)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Has a thread for each connection, and few of them."""

    _thread: threading.Thread
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

    @classmethod
    def begin(
        cls, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], *, setting: str, example: str
    ) -> Server:
        """
        Answer from a thread of its own until it is ended.

        Args:
            address: Host and port.
            handler: Answers the requests of a connection.
            setting: What an error calls the address.
            example: An address that an error names.

        Raises:
            ConfigError: One cannot listen there.
        """
        try:
            server = cls(address, handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"{setting}: {error}; give host:port of a free port, e.g. {example}") from error
        server._thread = threading.Thread(target=server.serve_forever, name="raytrail-http", daemon=True)
        server._thread.start()
        return server

    def end(self) -> None:
        """Answer no more; what is being answered is."""
        self.shutdown()
        self.server_close()
        self._thread.join()

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
