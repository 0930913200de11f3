"""
Chunks through NATS JetStream, as ``nats://host:4222/ray-events``.

The path names a stream with one subject of the same name. The stream is made if it is missing. A message is a chunk.
The chunk's lines are the data, and its headers are the message's, percent-encoded. A chunk that is longer than the
server's ``max_payload`` (1 MB by default) travels as several messages, ``raytrail-part`` 1/n to n/n of one
``raytrail-id``, and is joined again. ``Nats-Msg-Id`` is made of the byte ranges. A chunk may be sent again, for
example after an answer was lost. It is then stored once if that is within the stream's duplicate window.

A group is a durable consumer. Its readers, in any processes, share the messages. A reader that leaves in good order
gives back the messages that it has not acknowledged. The messages of a reader that was killed come again after 30
seconds, and so out of order.

Settings, in the URL's query:

    create           true    make the stream where it is missing, on disk
    replicas         1       how many servers keep a stream that is made
    retain_bytes     4 GiB   beyond this the oldest are deleted once every group has acknowledged them
    retain_seconds   7 days  a group that nobody read as for so long is forgotten, and holds nothing back
    timeout_seconds  30      how long the server may take to store a chunk
    tls              false   speak TLS, and check the server's certificate
    ca_file                  PEM file of who signs it, where that is not one of the system's
    creds_file               a user's credentials, as ``nsc`` writes them

Retention runs every 10 seconds while somebody reads. If there is no group, everything is kept. A stream that was made
by hand keeps its own limits. A warning names what they delete before a group has read it. When the server has no
room, publishing waits.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import msgspec
import nats.errors
from nats.js import api
from nats.js import errors as js_errors

from raytrail.errors import BrokerUnavailable, ConfigError, RaytrailError
from raytrail.event import Chunk
from raytrail.pubsub import Delivery, Guarantee
from raytrail.pubsub.backlog import Backlog
from raytrail.pubsub.groups import gone_after_seconds
from raytrail.pubsub.in_order import Turn
from raytrail.pubsub.nats.connection import Connection
from raytrail.pubsub.nats.reader import ACK_WAIT_SECONDS, Reader
from raytrail.pubsub.nats.wire import as_messages, durable_name
from raytrail.pubsub.url import parse, shown

_TIDY_SECONDS = 10.0
log = logging.getLogger(__name__)


class _Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the URL's query may say; the module's docstring says what it means."""

    create: bool = True
    replicas: Annotated[int, msgspec.Meta(ge=1, le=5)] = 1
    retain_bytes: Annotated[int, msgspec.Meta(ge=0)] = 4 * 1024**3
    retain_seconds: Annotated[int, msgspec.Meta(ge=60)] = 7 * 24 * 3600
    timeout_seconds: Annotated[float, msgspec.Meta(ge=1)] = 30
    tls: bool = False
    ca_file: str | None = None
    creds_file: str | None = None


class NatsPubSub:
    """A JetStream stream, as ``nats://[user:password@|token@]host[:4222][,...]/stream?retain_bytes=...``."""

    guarantee: Guarantee = "at-least-once"

    def __init__(self, url: str) -> None:
        address, self._settings = parse(url, _Settings)
        self._shown, self._stream = shown(url), address.path
        if not address.hosts or not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", address.path):
            raise ConfigError(
                f"{self._shown!r} names no stream; write nats://host:4222/stream, with letters, digits, '_' and '-' in "
                f"its name"
            )
        self._servers = [f"nats://{host}" for host in address.hosts]
        self._user, self._password = address.user, address.password
        self._connection: Connection | None = None
        self._turn = Turn()
        self._readers: dict[str, Reader] = {}

    async def publish(self, chunk: Chunk) -> None:
        """
        Send one chunk, returning once JetStream has stored it.

        Raises:
            BrokerUnavailable: The servers are away, slow or full, or have no JetStream.
            ConfigError: They do not let us in, or there is no such stream and none is to be made.
        """
        began = time.monotonic()
        answers: list[asyncio.Future[None]] = []
        try:
            async with self._turn:
                with self._ours():
                    if self._connection is None:
                        self._connection = await self._connect()
                    for data, headers in as_messages(chunk, self._connection.max_payload):
                        answers.append(await self._connection.publish(self._stream, data, headers))
            with self._ours():
                remaining = began + self._settings.timeout_seconds - time.monotonic()
                await asyncio.wait_for(asyncio.gather(*answers), max(remaining, 1))
        except RaytrailError as error:
            if error is not self._turn.failure:
                await self._drop(error)
            raise

    async def _drop(self, error: RaytrailError) -> None:
        """Give up the connection and all that is under way on it."""
        self._turn.fail(error)
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose(error)

    async def subscribe(self, group: str, *, from_start: bool = False) -> AsyncGenerator[Delivery, None]:
        """
        Yield chunks from where `group` left off: first what was not acknowledged, then what is new.

        An ack that comes after the generator was closed is lost, and its chunk comes again.

        Args:
            group: Who reads; any name.
            from_start: Forget where the group left off. Nobody else may read as it meanwhile.

        Raises:
            ConfigError: The servers do not let us in, there is no such stream, or `from_start` and somebody reads.
            BrokerUnavailable: The servers are away, or were lost.
        """
        with self._ours():
            connection = await self._connect()
        reader = Reader(connection, self._stream, durable_name(group))
        keeping: asyncio.Task[None] | None = None
        try:
            with self._ours():
                if from_start and not await reader.forget():
                    raise ConfigError(
                        f"{self._shown}: group {group!r} is being read; stop its readers to read it from the start, "
                        f"or read as another group"
                    )
                await reader.join(gone_after_seconds(group, self._settings.retain_seconds))
                await self._warn_of_missed(connection, reader, group)
            self._readers[group] = reader
            keeping = asyncio.create_task(self._keep(connection, reader, group))
            while True:
                with self._ours():
                    deliveries = await reader.take()
                for delivery in deliveries:
                    yield delivery
                if keeping.done():
                    keeping.result()
        finally:
            self._readers.pop(group, None)
            if keeping is not None:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
            with suppress(nats.errors.Error, asyncio.TimeoutError, OSError):
                await reader.leave()
            await connection.aclose(BrokerUnavailable(f"{self._shown} was closed"))

    async def forget(self, group: str) -> bool:
        """
        Forget where `group` is; return whether it is gone, which it is not while somebody reads as it.

        Raises:
            ConfigError: The servers do not let us in, or there is no such stream.
            BrokerUnavailable: The servers are away.
        """
        with self._ours():
            connection = await self._connect()
        try:
            with self._ours():
                return await Reader(connection, self._stream, durable_name(group)).forget()
        finally:
            await connection.aclose(BrokerUnavailable(f"{self._shown} was closed"))

    async def backlog(self, group: str) -> Backlog | None:
        """
        Return how many messages `group` has not acknowledged; None if nobody reads as it here.

        Raises:
            BrokerUnavailable: The servers are away.
        """
        reader = self._readers.get(group)
        if reader is None:
            return None
        with self._ours():
            return Backlog(chunks=await reader.unacknowledged())

    async def _keep(self, connection: Connection, reader: Reader, group: str) -> None:
        """Say that we are still at it, and delete what every group has; until cancelled."""
        tidied = time.monotonic()
        while True:
            await asyncio.sleep(ACK_WAIT_SECONDS / 10)
            with self._ours():
                await reader.beat()
                if time.monotonic() - tidied >= _TIDY_SECONDS:
                    tidied = time.monotonic()
                    await self._tidy(connection)
                    await self._warn_of_missed(connection, reader, group)

    async def _tidy(self, connection: Connection) -> None:
        state = (await connection.stream.stream_info(self._stream)).state
        over = state.bytes - self._settings.retain_bytes
        if over <= 0 or not state.messages:
            return
        consumers = await connection.stream.consumers_info(self._stream)
        floor = min((consumer.ack_floor.stream_seq for consumer in consumers if consumer.ack_floor), default=0)
        # messages are of much the same size
        enough = state.first_seq + state.messages * over // state.bytes
        upto = min(floor, enough)
        if upto >= state.first_seq:
            await connection.stream.purge_stream(self._stream, seq=upto + 1)

    async def _warn_of_missed(self, connection: Connection, reader: Reader, group: str) -> None:
        first = (await connection.stream.stream_info(self._stream)).state.first_seq
        missed = await reader.missed_before(first)
        if missed:
            log.warning(
                "%s: %d messages were deleted before group %r had acknowledged them, by the stream's own limits; "
                "raise its max_age and max_bytes",
                *(self._shown, missed, group),
            )

    async def aclose(self) -> None:
        """Drop the connection; what is being published fails. Safe to call twice."""
        await self._drop(BrokerUnavailable(f"{self._shown} was closed"))

    async def _connect(self) -> Connection:
        """Return a connection to a server that has the stream."""
        connection = Connection(self._shown)
        try:
            await connection.open(self._options())
            await self._find_stream(connection)
        except BaseException:
            await connection.aclose(BrokerUnavailable(f"{self._shown} was closed"))
            raise
        return connection

    def _options(self) -> dict[str, Any]:
        settings = self._settings
        tls: dict[str, Any] = {}
        if settings.tls:
            try:
                tls = {"tls": ssl.create_default_context(cafile=settings.ca_file)}
            except OSError as error:
                raise ConfigError(f"ca_file {settings.ca_file!r}: {error}; name a PEM file") from error
        who: dict[str, Any] = {}
        if settings.creds_file:
            who = {"user_credentials": settings.creds_file}
        elif self._password:
            who = {"user": self._user, "password": self._password}
        elif self._user:
            who = {"token": self._user}
        return {"servers": self._servers, **who, **tls}

    async def _find_stream(self, connection: Connection) -> None:
        try:
            await connection.stream.stream_info(self._stream)
        except js_errors.NotFoundError as error:
            if not self._settings.create:
                raise ConfigError(f"{self._shown}: no such stream; make it, or leave create=false out") from error
            await connection.stream.add_stream(
                name=self._stream,
                subjects=[self._stream],
                storage=api.StorageType.FILE,
                discard=api.DiscardPolicy.NEW,
                num_replicas=self._settings.replicas,
            )

    @contextmanager
    def _ours(self) -> Iterator[None]:
        """Make the client's errors ours."""
        try:
            yield
        except js_errors.APIError as error:
            if error.code == 400:
                raise ConfigError(f"{self._shown}: {error.description}; mend the stream, or name another") from error
            raise BrokerUnavailable(
                f"{self._shown}: {error.description or error}; make room there, or switch JetStream on "
                f"(nats-server -js)"
            ) from error
        except (nats.errors.AuthorizationError, nats.errors.InvalidUserCredentialsError) as error:
            raise self._denied() from error
        except nats.errors.BadSubjectError as error:
            raise ConfigError(f"{self._shown}: {error}; name another stream") from error
        except (asyncio.TimeoutError, nats.errors.TimeoutError) as error:
            raise BrokerUnavailable(
                f"{self._shown} did not answer within {self._settings.timeout_seconds:g} seconds; "
                f"look after its servers, or raise timeout_seconds"
            ) from error
        except (nats.errors.Error, OSError) as error:
            if "authorization violation" in str(error).lower():
                raise self._denied() from error
            why = str(error) or type(error).__name__
            raise BrokerUnavailable(f"{self._shown} does not answer: {why}; start it, or mend the URL") from error

    def _denied(self) -> ConfigError:
        return ConfigError(f"{self._shown} does not let us in; mend user, password, token or creds_file")
