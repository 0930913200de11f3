"""
Connections to the server, bounded: how many there are, and how long one may take to ask, to send and to read.

uvicorn bounds what a header holds and how long an idle connection stays; whoever sends a byte a minute it waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from raytrail.config import ServerConfig

_FULL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 5\r\nconnection: close\r\n\r\n"
_CLOSING = object()
_SETTLE_SECONDS = 1.0
"""What an application that refuses a body for its slowness has, to say so, before the connection is closed."""


def connections(config: ServerConfig) -> Callable[..., asyncio.Protocol]:
    """Make what makes the protocol of each connection, as ``uvicorn.Config`` takes it."""
    idle: dict[_Connection, None] = {}
    return lambda **given: _Connection(config, idle, **given)


class _Connection(H11Protocol):
    def __init__(self, bounds: ServerConfig, idle: dict[_Connection, None], **given: Any) -> None:
        """
        Wait for a connection.

        Args:
            bounds: The server's settings.
            idle: Connections that nothing was asked on yet, the oldest first; shared by all of a server.
            given: What uvicorn gives.
        """
        super().__init__(**given)
        self._bounds, self._idle = bounds, idle
        self._awaited: object = None
        self._timer: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connections:
            # who has not asked for anything makes room for who may
            if self._idle:
                next(iter(self._idle)).transport.abort()
            else:
                transport.write(_FULL)
                transport.close()
                return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        if self._reading is not None:
            self._reading.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """
        Answer what is not HTTP, and let the application of a request that turns out to be none say no more.

        uvicorn does not tell the application. What that says then is an error of the protocol, with its traceback in
        the log.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # an answer has begun, or ended before all of the request came
            self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading = self.loop.call_later(self._bounds.answer_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _watch(self) -> None:
        """Wait so long for the rest of a request, from its beginning, and for the last answer to be read."""
        awaited: object = self.conn.their_state if self.conn.their_state in (h11.IDLE, h11.SEND_BODY) else None
        if self.transport.is_closing():
            awaited = _CLOSING
        if awaited is self._awaited:
            return
        self._stop()
        self._awaited = awaited
        if awaited is h11.IDLE:
            self._idle[self] = None
            self._timer = self.loop.call_later(self._bounds.header_seconds, self.transport.abort)
        elif awaited is h11.SEND_BODY:
            self._timer = self.loop.call_later(self._bounds.body_seconds + _SETTLE_SECONDS, self.transport.abort)
        elif awaited is _CLOSING:  # what was written is still to be read, and little of it pauses no writing
            self._timer = self.loop.call_later(self._bounds.answer_seconds, self.transport.abort)

    def _stop(self) -> None:
        self._idle.pop(self, None)
        self._awaited = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
