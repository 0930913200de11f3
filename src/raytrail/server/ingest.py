"""
``POST /ingest``: chunks of our agents and records of foreign collectors, on their way to a broker.

An answer of 204 says that everything in the request is stored by the broker. Else the answer says what to do:

    400  the headers or the body cannot be read        413  too long, here or for the broker
    401  no token, or another one                      415  an encoding or type that is not taken
    403  posted by a page of another origin            503  the broker is away, or too much comes at once;
    408  the body came too slowly                           come back after `Retry-After`
    429  another token, after many of them

A body is decompressed while it comes, and never further than it may be long: what it unpacks to costs nobody anything.
However slowly some bodies come, others are taken meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from raytrail.config import ServerConfig
from raytrail.errors import ChunkRefused, ConfigError, EventError, PublishError
from raytrail.posts import Refused, check_length, check_token, come_back, too_long, too_slow
from raytrail.server.auth import peer
from raytrail.server.routing import NamedRoute, Route
from raytrail.server.unpacking import ENCODINGS, UnpackError, unpacker
from raytrail.tokens import Guard, Tries

Take = Callable[[Mapping[str, str], bytes], Awaitable[None]]
"""What is done with a request's headers (names in lower case) and body: `raytrail.pubsub.collector.Collector.take`."""

TAKEN_AT_ONCE = 8
"""Requests whose bodies are read and published at the same time; others wait, with their bodies."""
FREE_BYTES = 16 * 1024**2
"""What a body may unpack to, however little was sent: a long line that says the same again and again is one, too."""
SLOW_SECONDS, SLOW_BYTES = 5.0, 64 * 1024
"""A body that brings less than so much in so long makes room for others, where there is none left."""

PIECE_BYTES = 64 * 1024
"""What is unpacked at a time."""

log = logging.getLogger(__name__)


class Bounds(NamedTuple):
    """What bodies may cost."""

    body_bytes: int = ServerConfig().ingest_body_bytes
    memory_bytes: int = ServerConfig().ingest_memory_bytes
    ratio: float = ServerConfig().ingest_ratio
    seconds: float = ServerConfig().body_seconds

    @classmethod
    def of(cls, config: ServerConfig) -> Bounds:
        """Return those of the settings."""
        return cls(config.ingest_body_bytes, config.ingest_memory_bytes, config.ingest_ratio, config.body_seconds)


def ingest(take: Take, tries: Tries, *, token: str = "", bounds: Bounds = Bounds()) -> NamedRoute:  # noqa: B008 (it cannot be changed)
    """
    Make the route.

    Args:
        take: Stores what a request holds.
        tries: Counts the wrong tokens.
        token: What senders must know, as bearer token or as the password of basic authentication; empty lets
            everybody in.
        bounds: What bodies may cost.
    """
    room, guard = _Room(bounds.memory_bytes), Guard(tries, token)
    slots = asyncio.Semaphore(TAKEN_AT_ONCE)

    async def endpoint(request: Request) -> Response:
        """Chunks of agents and records of foreign collectors, with `--ingest`; 204 once all is stored."""
        try:
            check_token(guard, peer(request.scope), request.headers.get("authorization", ""), of="server")
            with room.place() as place:
                body = await place.come(_body(request, bounds, place.grow), bounds.seconds)
                async with slots:
                    await take(request.headers, body)
        except Refused as error:
            return _refusal(error)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except asyncio.TimeoutError:
            return _refusal(too_slow(bounds.seconds))
        except EventError as error:
            return _refusal(Refused(400, str(error)))
        except ChunkRefused as error:
            return _refusal(Refused(413, str(error)))
        except (PublishError, ConfigError) as error:
            # also what a person must mend: the sender's part is to keep it, and to come back
            log.warning("/ingest: %s", error)
            return _refusal(come_back(503, "not stored"))
        return Response(status_code=204)

    return NamedRoute(Route("/ingest", endpoint, api="ours", method="POST"))


def _refusal(refused: Refused) -> Response:
    return PlainTextResponse(f"{refused}\n", refused.status, refused.headers)


class _Room:
    """The memory that bodies take, those that come and those that wait to be published."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._places: dict[_Place, None] = {}

    def place(self) -> _Place:
        return _Place(self)

    def enter(self, place: _Place) -> None:
        self._places[place] = None

    def leave(self, place: _Place) -> None:
        self._places.pop(place, None)
        self._free += place.size
        place.size = 0

    def take(self, place: _Place, size: int) -> None:
        """
        Give a place so many bytes more.

        Raises:
            Refused: There is no room, even without those who are slow.
        """
        while size > self._free and (
            slow := next((other for other in self._places if other.is_slow and other is not place), None)
        ):
            slow.give_up()
            self.leave(slow)
        if size > self._free:
            raise _busy()
        self._free -= size
        place.size += size


class _Place:
    """What one body takes of the room."""

    def __init__(self, room: _Room) -> None:
        self.size = 0
        self._room = room
        self._coming: asyncio.Task[bytes] | None = None
        self._gave_up = False
        self._mark, self._marked_at = 0, time.monotonic()

    def __enter__(self) -> _Place:
        self._room.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._room.leave(self)

    @property
    def is_slow(self) -> bool:
        """Whether it is still coming, and hardly."""
        return self._coming is not None and time.monotonic() - self._marked_at > SLOW_SECONDS

    async def come(self, body: Awaitable[bytes], seconds: float) -> bytes:
        """
        Wait for a body.

        Raises:
            asyncio.TimeoutError: It takes too long.
            Refused: It had to make room for others.
        """
        self._coming = asyncio.ensure_future(body)
        try:
            return await asyncio.wait_for(self._coming, seconds)
        except asyncio.CancelledError:
            if self._gave_up:
                raise _busy() from None
            raise
        finally:
            self._coming = None

    def grow(self, size: int) -> None:
        """
        Take so many bytes more.

        Raises:
            Refused: There is no room.
        """
        self._room.take(self, size)
        if self.size - self._mark >= SLOW_BYTES:
            self._mark, self._marked_at = self.size, time.monotonic()

    def give_up(self) -> None:
        """Make room for others."""
        if self._coming is not None:
            self._gave_up = True
            self._coming.cancel()


def _busy() -> Refused:
    return come_back(503, "too much is sent at once")


async def _body(request: Request, bounds: Bounds, grow: Callable[[int], None]) -> bytes:
    """Return a body as it was before it was compressed; `grow` is told of every byte that it takes."""
    encoding = _encoding(request)
    check_length(request.headers.get("content-length", ""), bounds.body_bytes)
    body, sent, unpacking = bytearray(), 0, unpacker(encoding)

    async def unpack(piece: bytes) -> None:
        most = bounds.body_bytes
        if encoding != "identity":
            most = min(most, int(FREE_BYTES + bounds.ratio * sent))
            # in a thread at any size: few bytes may hold many
            piece = await asyncio.to_thread(unpacking.feed, piece, most + 1 - len(body))
        if len(body) + len(piece) > most:
            raise _too_long(encoding, most, bounds)
        grow(len(piece))
        body.extend(piece)

    try:
        waiting = bytearray()
        async for piece in request.stream():
            sent += len(piece)
            waiting += piece
            if len(waiting) >= PIECE_BYTES or encoding == "identity":
                await unpack(bytes(waiting))
                waiting.clear()
        if waiting:
            await unpack(bytes(waiting))
        unpacking.end()
    except UnpackError as error:
        raise Refused(400, f"the body is not {encoding}: {error}") from error
    return bytes(body)


def _encoding(request: Request) -> str:
    if "msgpack" in request.headers.get("content-type", ""):
        raise Refused(415, "msgpack is not taken; send NDJSON or a JSON array (Fluent Bit: format json)")
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ENCODINGS:
        raise Refused(415, f"encodings taken: {', '.join(ENCODINGS)}", {"Accept-Encoding": ", ".join(ENCODINGS)})
    return encoding


def _too_long(encoding: str, most: int, bounds: Bounds) -> Refused:
    if most < bounds.body_bytes:
        return Refused(413, f"the body unpacks to more than {bounds.ratio:g} times what was sent; send it uncompressed")
    return too_long(most, "" if encoding == "identity" else " when decompressed")
