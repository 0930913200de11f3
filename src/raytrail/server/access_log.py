"""
A line of the log for each request: who asked for what, what was answered, and how long it took.

    2026-11-30T15:32:04.120Z INFO raytrail.access: team-a 10.0.0.7 GET /clusters/train/about 200 18230 41.2

With ``--log-format json`` the same stands in fields: user, client, method, path, status, bytes and duration_ms.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raytrail.config import ServerConfig
from raytrail.errors import ConfigError
from raytrail.server.auth import peer
from raytrail.server.users import reader_of

NAME = "raytrail.access"
MOST = 2_000
"""Characters of a column that are logged. A client may send 64 KiB of each."""
MODE = 0o640
"""The permissions of the file. Its lines name users and clusters."""
ACCEPTED = 101
NOTHING = 0
"""The status of a request that was not answered, as the client went away."""

log = logging.getLogger(__name__)


def access_log(config: ServerConfig, mask: Callable[[str], str], closing: ExitStack) -> list[Middleware]:
    """
    Return what logs the requests, which is nothing where the setting says so.

    Args:
        config: The server's settings.
        mask: Masks the secrets of an address.
        closing: Is given what is to be done at the server's end.

    Raises:
        ConfigError: The file cannot be written.
    """
    if config.access_log == "off":
        return []
    lines = logging.getLogger(NAME)
    if config.access_log != "on":
        handler = _open(Path(config.access_log).expanduser())
        closing.callback(handler.close)
        lines = logging.Logger(NAME, logging.INFO)
        lines.addHandler(handler)
    return [Middleware(AccessLog, log=lines, mask=mask)]


def _open(path: Path) -> logging.Handler:
    """Return what writes to a file in the form of the other lines."""
    try:
        os.close(_descriptor(path))
    except OSError as error:
        raise ConfigError(
            f"server.access_log {str(path)!r}: {error.strerror}; write on, off, or a file that can be written"
        ) from error
    handler = _File(path, encoding="utf-8", delay=True)
    handler.setFormatter(next((of.formatter for of in logging.getLogger().handlers if of.formatter), None))
    return handler


class _File(WatchedFileHandler):
    """Writes to a file that may be renamed, and is then made anew. Answers do not depend on it."""

    _fault = ""

    def emit(self, record: logging.LogRecord) -> None:
        before, self._fault = self._fault, ""
        try:
            super().emit(record)
        except OSError:  # it cannot be opened, which the library leaves to us
            self.handleError(record)
        if self._fault and self._fault != before:
            log.error("server.access_log: %s; lines are lost until it can be written", self._fault)

    def handleError(self, record: logging.LogRecord) -> None:
        self._fault = str(sys.exc_info()[1])

    def _open(self) -> TextIOWrapper:
        return open(_descriptor(Path(self.baseFilename)), "a", encoding=self.encoding)


def _descriptor(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, MODE)


class AccessLog:
    """Logs what an application answers."""

    def __init__(self, app: ASGIApp, log: logging.Logger, mask: Callable[[str], str]) -> None:
        """
        Stand before an application.

        Args:
            app: The application.
            log: Takes the lines.
            mask: Masks the secrets of an address.
        """
        self._app = app
        self._log = log
        self._mask = mask

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        began, status, size = time.perf_counter(), NOTHING, 0

        async def count(message: Message) -> None:
            nonlocal status, size
            status = _status(message) or status
            size += len(message.get("body") or message.get("bytes") or (message.get("text") or "").encode())
            await send(message)

        try:
            await self._app(scope, receive, count)
        except Exception:
            status = status or 500  # Starlette answers for us, further out
            raise
        finally:
            self._write(scope, status, size, time.perf_counter() - began)

    def _write(self, scope: Scope, status: int, size: int, seconds: float) -> None:
        # whatever is sent stands in one line, and in one column
        fields = {
            "user": _plain(reader_of(scope).name) or "-",
            "client": _plain(peer(scope)) or "-",
            "method": _plain(scope.get("method", "WebSocket")),
            "path": self._path(scope),
            "status": status,
            "bytes": size,
            "duration_ms": round(1000 * seconds, 1),
        }
        self._log.info("%s", " ".join(map(str, fields.values())), extra={"fields": fields})

    def _path(self, scope: Scope) -> str:
        path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        if query := scope.get("query_string", b"").decode("latin-1"):
            path = self._mask(f"{path.partition('?')[0]}?{query}")
        return _plain(path)


def _status(message: Message) -> int:
    """Return the status that a message tells, or nothing."""
    match message["type"]:
        case "http.response.start" | "websocket.http.response.start":
            return int(message["status"])
        case "websocket.accept":
            return ACCEPTED
    return NOTHING


def _plain(text: str) -> str:
    """Return a text in printable ASCII without spaces, in which a backslash begins what was none, and not too long."""
    text = text if len(text) <= MOST else f"{text[:MOST]}..."
    if text.isascii() and text.isprintable() and " " not in text and "\\" not in text:
        return text
    return text.encode("unicode_escape").decode().replace(" ", "\\x20")
