"""
Chunks by POST, as ``https://host/ingest``, to our own server or to a collector's HTTP input.

A chunk is the body of a request. The body has its lines as NDJSON. The headers are ``raytrail-version``,
``raytrail-cluster``, ``raytrail-session``, ``raytrail-node-id``, ``raytrail-event-type`` and ``raytrail-segments``,
percent-encoded. An answer of 2xx says that the chunk is stored, and the promise is worth what that answer is worth.
Our own ``/ingest`` gives it once its broker has stored the chunk. Vector's and Fluent Bit's inputs give it once they
have the chunk in memory, unless told otherwise. A chunk of many files is posted in parts of 64 segments, as proxies
take some 8 KB of a header.

The query is the endpoint's own and is sent on as it is. Only names that begin with ``raytrail.`` are our settings:

    raytrail.compression       identity  of the body: identity, gzip (any receiver), or zstd (a fifth of its CPU)
    raytrail.format            ndjson    or array: a JSON array of the events, for inputs that take nothing else
    raytrail.timeout_seconds   30        how long a request may take, and how long a Retry-After is waited for
    raytrail.connections       8         most requests at once; with 1, chunks arrive in order unless one fails
    raytrail.ca_file                     PEM file of who signs the server's certificate, where the system knows none

``user:password@`` in the URL is basic authentication. Without it, ``RAYTRAIL_HTTP_TOKEN`` in the environment is sent
as a bearer token. Proxies are as ``HTTP_PROXY`` and its like say.

With ``array``, a line that is not JSON makes the receiver refuse the whole chunk. NDJSON carries any line. Logs are
neither, and are sent as they are, as ``application/octet-stream``. Send no logs to a receiver that is not ours
(``tail.logs``).
"""

from __future__ import annotations

import asyncio
import gzip
import os
import ssl
import time
from collections.abc import AsyncGenerator, Iterator
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Annotated, Literal
from urllib.parse import urlsplit

import httpx
import msgspec

from raytrail.errors import BrokerUnavailable, ChunkRefused, ConfigError, RaytrailError
from raytrail.event import LOG, Chunk
from raytrail.pubsub import Delivery, Guarantee
from raytrail.pubsub.collector import to_http
from raytrail.pubsub.url import parse, shown
from raytrail.zstd import compress

_OURS = "raytrail."
_SEGMENTS = 64
_THREAD_BYTES = 64 * 1024  # below, a thread costs more than compressing does
_ANSWER_BYTES = 4096
_PAUSE_SECONDS = (0.1, 300.0)  # what of a Retry-After is believed
_KEEP_SECONDS = 4.0  # less than the 5 after which uvicorn and Node close an idle connection


class _Settings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=lambda name: f"{_OURS}{name}"
):
    """What the URL's query may say; the module's docstring says what it means."""

    compression: Literal["identity", "gzip", "zstd"] = "identity"
    format: Literal["ndjson", "array"] = "ndjson"
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0)] = 30
    connections: Annotated[int, msgspec.Meta(ge=1)] = 8
    ca_file: str | None = None


class HttpPubSub:
    """
    An HTTP endpoint, as ``http[s]://[user:password@]host[:port]/path?...&raytrail.compression=zstd``.

    Agents publish to it, and nobody reads from it.
    """

    guarantee: Guarantee = "at-least-once"

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        pairs = parts.query.split("&") if parts.query else []
        ours = "&".join(pair for pair in pairs if pair.startswith(_OURS))
        address, self._settings = parse(parts._replace(query=ours).geturl(), _Settings)
        self._shown = shown(url)
        try:
            if len(address.hosts) != 1:
                raise ValueError("it names no host, or several")
            theirs = "&".join(pair for pair in pairs if not pair.startswith(_OURS))
            self._url = httpx.URL(parts._replace(netloc=address.hosts[0], query=theirs).geturl())
        except (ValueError, httpx.InvalidURL) as error:
            raise ConfigError(f"{self._shown!r}: {error}; write http[s]://host[:port]/path") from error
        token = os.environ.get("RAYTRAIL_HTTP_TOKEN", "")
        self._auth = httpx.BasicAuth(address.user, address.password) if address.user or address.password else None
        self._headers = {
            "content-type": "application/json" if self._settings.format == "array" else "application/x-ndjson",
            **({"authorization": f"Bearer {token}"} if token and not self._auth else {}),
            **({"content-encoding": c} if (c := self._settings.compression) != "identity" else {}),
        }
        self._slots = asyncio.Semaphore(self._settings.connections)
        self._client: httpx.AsyncClient | None = None
        self._resume_at = 0.0

    async def publish(self, chunk: Chunk) -> None:
        """
        Post one chunk, returning once the endpoint has answered 2xx.

        Where a 429 or 503 says when to come back, that is waited for, up to `timeout_seconds`.

        Raises:
            BrokerUnavailable: No connection, no answer in time, 408, 425, 429, or 5xx.
            ChunkRefused: 413, 400 or 422.
            ConfigError: Any other answer, or the certificates of `ca_file` cannot be read.
        """
        async with self._slots:
            for part in _parts(chunk):
                await self._send(part)

    async def _send(self, chunk: Chunk) -> None:
        deadline = time.monotonic() + self._settings.timeout_seconds
        headers = self._headers | to_http(chunk)
        if chunk.event_type == LOG:
            headers["content-type"] = "application/octet-stream"
        large = len(chunk.data) >= _THREAD_BYTES and self._settings.compression != "identity"
        body = await asyncio.to_thread(self._body, chunk) if large else self._body(chunk)
        while True:
            await self._pause(deadline)
            status, after, words = await self._answer(body, headers)
            if 200 <= status < 300:
                return
            if status not in (429, 503) or after is None or time.monotonic() >= deadline:
                raise self._error(status, words, len(chunk.data))
            self._resume_at = max(self._resume_at, time.monotonic() + after)

    async def _answer(self, body: bytes, headers: dict[str, str]) -> tuple[int, float | None, str]:
        """Return what `_post` does, its errors made ours."""
        try:
            return await asyncio.wait_for(self._post(body, headers), self._settings.timeout_seconds)
        except (asyncio.TimeoutError, httpx.TimeoutException) as error:
            raise BrokerUnavailable(
                f"{self._shown} did not answer within {self._settings.timeout_seconds:g} seconds; "
                f"look at its server, or raise raytrail.timeout_seconds"
            ) from error
        except httpx.RequestError as error:
            why = str(error) or type(error).__name__
            raise BrokerUnavailable(
                f"{self._shown} does not answer: {why}; start its server, or mend the URL"
            ) from error

    async def _pause(self, deadline: float) -> None:
        """Wait as long as the endpoint asked us to, all chunks alike."""
        while (wait := self._resume_at - (now := time.monotonic())) > 0:
            if now >= deadline:
                raise BrokerUnavailable(f"{self._shown} asks us to come back in {wait:.0f} seconds; it is too busy")
            await asyncio.sleep(min(wait, deadline - now))

    async def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int, float | None, str]:
        """Return the status, the seconds to wait before another try if it says so, and its first words."""
        if self._client is None:
            self._client = self._connect()
        request = self._client.build_request("POST", self._url, content=body, headers=headers)
        response = await self._client.send(request, stream=True, auth=self._auth)
        try:
            received = b""
            async for piece in response.aiter_raw():
                received += piece
                if len(received) > _ANSWER_BYTES:
                    break
        finally:
            await response.aclose()
        words = " ".join(received[:200].decode(errors="replace").split())
        return response.status_code, _seconds(response.headers.get("retry-after", "")), words

    def _connect(self) -> httpx.AsyncClient:
        verify: ssl.SSLContext | bool = False  # of no effect where there is no TLS
        if self._url.scheme == "https":
            try:
                verify = ssl.create_default_context(cafile=self._settings.ca_file)
            except OSError as error:
                raise ConfigError(f"raytrail.ca_file {self._settings.ca_file!r}: {error}; name a PEM file") from error
        connections = self._settings.connections
        return httpx.AsyncClient(
            verify=verify,
            timeout=self._settings.timeout_seconds,
            limits=httpx.Limits(max_connections=connections, keepalive_expiry=_KEEP_SECONDS),
            headers={"user-agent": "raytrail", "accept-encoding": "identity"},
        )

    def _body(self, chunk: Chunk) -> bytes:
        data = chunk.data
        if self._settings.format == "array" and chunk.event_type != LOG:
            data = b"[" + data.rstrip(b"\n").replace(b"\n", b",") + b"]"
        if self._settings.compression == "gzip":
            return gzip.compress(data, 1, mtime=0)
        if self._settings.compression == "zstd":
            return compress(data, 1)
        return data

    def _error(self, status: int, words: str, length: int) -> RaytrailError:
        answer = f"{status} {words}".rstrip()
        if status in (408, 425, 429) or status >= 500:
            return BrokerUnavailable(f"{self._shown} answers {answer}; look at its server")
        if status == 413:
            return ChunkRefused(
                f"{self._shown} refuses a chunk of {length} bytes: {answer}; raise its limit, or lower chunk_bytes"
            )
        if status in (400, 422):
            return ChunkRefused(f"{self._shown} refuses a chunk of {length} bytes: {answer}; look at what it expects")
        if status == 415:
            return ConfigError(
                f"{self._shown} answers {answer}; choose another raytrail.compression or raytrail.format"
            )
        return ConfigError(f"{self._shown} answers {answer}; mend the URL, its password or RAYTRAIL_HTTP_TOKEN")

    def subscribe(self, group: str, *, from_start: bool = False) -> AsyncGenerator[Delivery, None]:
        """
        Refuse.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            f"{self._shown} is only written to; read what its server writes to: `raytrail history --from` the URL "
            f"that `raytrail serve --ingest` was given"
        )

    async def aclose(self) -> None:
        """Drop the connections. Safe to call twice."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


def _parts(chunk: Chunk) -> Iterator[Chunk]:
    if len(chunk.segments) <= _SEGMENTS:
        yield chunk
        return
    start, segments = 0, iter(chunk.segments)
    while some := tuple(islice(segments, _SEGMENTS)):
        end = start + sum(segment.length for segment in some)
        yield msgspec.structs.replace(chunk, segments=some, data=chunk.data[start:end])
        start = end


def _seconds(retry_after: str) -> float | None:
    try:
        wait = (
            float(retry_after)
            if retry_after.isdigit()
            else parsedate_to_datetime(retry_after).timestamp() - time.time()
        )
    except ValueError:
        return None
    shortest, longest = _PAUSE_SECONDS
    return min(max(wait, shortest), longest)
