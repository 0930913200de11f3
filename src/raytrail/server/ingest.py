"""
``POST /ingest``: chunks of our agents and records of foreign collectors, on their way to a broker.

An answer of 204 says that everything in the request is stored by the broker. Else the answer says what to do:

    400  the headers or the body cannot be read        413  too long, here or for the broker
    401  no token, or another one                      415  an encoding or type that is not taken
    408  the body came too slowly                      503  the broker is away; come back after `Retry-After`
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import gzip
import hmac
import io
import logging
import sys
import zlib
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from raytrail.errors import ChunkRefused, ConfigError, EventError, PublishError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    import zstandard

Take = Callable[[Mapping[str, str], bytes], Awaitable[None]]
"""What is done with a request's headers (names in lower case) and body: `raytrail.pubsub.collector.Collector.take`."""

MAX_BODY_BYTES = 65 * 1024**2
"""Most bytes of a body, as sent and as decompressed: the longest line that an agent ships by default, and some."""
BODIES_AT_ONCE = 8
"""Requests whose bodies are held at the same time; the others wait, unread."""
BODY_SECONDS = 60.0
"""How long a body may take to come."""
RETRY_SECONDS = 5
_ZSTD_BYTES = 256
_ENCODINGS = ("gzip", "zstd", "identity")

log = logging.getLogger(__name__)


class _Refused(Exception):
    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


def ingest(take: Take, *, token: str = "", max_body_bytes: int = MAX_BODY_BYTES) -> Route:
    """
    Make the route.

    Args:
        take: Stores what a request holds.
        token: What senders must know, as bearer token or as the password of basic authentication; empty lets
            everybody in.
        max_body_bytes: Of a body, as sent and as decompressed.
    """
    slots = asyncio.Semaphore(BODIES_AT_ONCE)

    async def endpoint(request: Request) -> Response:
        try:
            _let_in(request, token)
            async with slots:
                sent = await asyncio.wait_for(_body(request, max_body_bytes), BODY_SECONDS)
                body = await _decoded(request, sent, max_body_bytes)
                await take(request.headers, body)
        except _Refused as error:
            return PlainTextResponse(f"{error}\n", error.status, error.headers)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except asyncio.TimeoutError:
            return PlainTextResponse(f"the body did not come within {BODY_SECONDS:g} seconds\n", 408)
        except EventError as error:
            return PlainTextResponse(f"{error}\n", 400)
        except ChunkRefused as error:
            return PlainTextResponse(f"{error}\n", 413)
        except (PublishError, ConfigError) as error:
            # also what a person must mend: the sender's part is to keep it, and to come back
            log.warning("/ingest: %s", error)
            return PlainTextResponse("not stored; come back\n", 503, {"Retry-After": str(RETRY_SECONDS)})
        return Response(status_code=204)

    return Route("/ingest", endpoint, methods=["POST"])


def _let_in(request: Request, token: str) -> None:
    scheme, _, said = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            said = base64.b64decode(said).partition(b":")[2].decode()
        except (binascii.Error, ValueError):
            said = ""
    if token and not hmac.compare_digest(said.encode(), token.encode()):
        raise _Refused(401, "send the token of this server", {"WWW-Authenticate": 'Bearer, Basic realm="raytrail"'})


async def _body(request: Request, most: int) -> bytes:
    if "msgpack" in request.headers.get("content-type", ""):
        raise _Refused(415, "msgpack is not taken; send NDJSON or a JSON array (Fluent Bit: format json)")
    if request.headers.get("content-encoding", "identity").lower() not in _ENCODINGS:
        raise _Refused(415, f"encodings taken: {', '.join(_ENCODINGS)}", {"Accept-Encoding": ", ".join(_ENCODINGS)})
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise _Refused(413, f"the body is longer than {most} bytes; send less at once")
    return bytes(body)


async def _decoded(request: Request, sent: bytes, most: int) -> bytes:
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding == "identity":
        return sent
    decompress = _gunzip if encoding == "gzip" else _unzstd
    try:
        # in a thread at any size: few bytes may hold many
        body = await asyncio.to_thread(decompress, sent, most + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _Refused(400, f"the body is not {encoding}: {error}") from error
    if len(body) > most:
        raise _Refused(413, f"the body is longer than {most} bytes when decompressed; send less at once")
    return body


def _gunzip(data: bytes, most: int) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        return file.read(most)


def _unzstd(data: bytes, most: int) -> bytes:
    if sys.version_info >= (3, 14):
        decompressor, errors = zstd.ZstdDecompressor(), zstd.ZstdError
        pieces = [(data, most)]
    else:
        # its client cannot be told how much to return, but a few bytes hold a few megabytes at most
        decompressor, errors = zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError
        pieces = [(data[start : start + _ZSTD_BYTES],) for start in range(0, len(data), _ZSTD_BYTES)]
    body = bytearray()
    try:
        for piece in pieces:
            body += decompressor.decompress(*piece)
            if len(body) >= most:
                return bytes(body)
    except errors as error:
        raise ValueError(error) from error
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("it is cut off, or has more than one frame")
    return bytes(body)
