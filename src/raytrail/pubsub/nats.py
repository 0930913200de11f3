"""
Chunks through NATS JetStream: ``nats://host:4222/ray-events``.

The path names a stream with one subject of the same name, made where it is missing. A message is a chunk: its lines
as the data, its headers as the message's, percent-encoded. A chunk that is longer than the server's ``max_payload``
(1 MB by default) travels as several messages, ``raytrail-part`` 1/n to n/n of one ``raytrail-id``, and is joined again.
``Nats-Msg-Id`` is made of the byte ranges, so that a chunk that is sent again, after an answer that was lost say, is
stored once if that is within the stream's duplicate window.

A group is a durable consumer. Its readers, in any processes, share the messages. Who leaves in good order gives back
what it has not acknowledged; what a reader that was killed had comes again after 30 seconds, and so out of order.

Settings, in the URL's query:

    create           true    make the stream where it is missing, on disk
    replicas         1       how many servers keep a stream that is made
    retain_bytes     4 GiB   beyond this the oldest are deleted once every group has acknowledged them
    retain_seconds   7 days  a group that nobody read as for so long is forgotten, and holds nothing back
    timeout_seconds  30      how long the server may take to store a chunk
    tls              false   speak TLS, and check the server's certificate
    ca_file                  PEM file of who signs it, where that is not one of the system's
    creds_file               a user's credentials, as ``nsc`` writes them

Retention is looked at every 10 seconds while somebody reads; where there is no group, everything is kept. A stream that
was made by hand keeps its own limits; what they delete before a group has read it is warned of. When the server has no
room, publishing waits.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
import re
import ssl
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any, ClassVar

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext, api
from nats.js import errors as js_errors

from raytrail.errors import BrokerUnavailable, ConfigError, EventError, RaytrailError
from raytrail.event import Chunk, received, unquoted
from raytrail.pubsub import Delivery, Guarantee
from raytrail.pubsub.groups import gone_after_seconds
from raytrail.pubsub.in_order import Turn
from raytrail.pubsub.url import parse, shown

_CONNECT_SECONDS = 5.0
_ACK_WAIT_SECONDS = 30.0
_PULL_SECONDS, _PULL_MESSAGES = 2.0, 64
_TIDY_SECONDS = 10.0
_JOIN_SECONDS = 600.0  # a chunk in parts whose publisher died is given up after this; its agent sends it again
_RESERVED_BYTES = 2048  # of max_payload, for what is added to the headers
_ID, _PART, _MSG_ID, _STATUS = "raytrail-id", "raytrail-part", "Nats-Msg-Id", "Status"

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
    """A JetStream stream: ``nats://[user:password@|token@]host[:4222][,...]/stream?retain_bytes=...``."""

    guarantee: ClassVar[Guarantee] = "at-least-once"

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
        self._connection: _Connection | None = None
        self._turn = Turn()

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
            async with self._turn.taken():
                with self._ours():
                    if self._connection is None:
                        self._connection = await self._connect()
                    for data, headers in _messages(chunk, self._connection.max_payload):
                        answers.append(await self._connection.publish(self._stream, data, headers))
            with self._ours():
                left = began + self._settings.timeout_seconds - time.monotonic()
                await asyncio.wait_for(asyncio.gather(*answers), max(left, 1))
        except RaytrailError as error:
            if error is not self._turn.failure:
                await self._drop(error)
            raise

    async def _drop(self, error: RaytrailError) -> None:
        """Give up the connection and all that is under way on it, so that nothing overtakes what failed."""
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
        reader = _Reader(connection, self._stream, _durable(group))
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
            keeping = asyncio.create_task(self._keep(connection, reader, group))
            while True:
                with self._ours():
                    came = await reader.take()
                for delivery in came:
                    yield delivery
                if keeping.done():
                    keeping.result()
        finally:
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
                return await _Reader(connection, self._stream, _durable(group)).forget()
        finally:
            await connection.aclose(BrokerUnavailable(f"{self._shown} was closed"))

    async def _keep(self, connection: _Connection, reader: _Reader, group: str) -> None:
        """Say that we are still at it, and delete what every group has; until cancelled."""
        tidied = time.monotonic()
        while True:
            await asyncio.sleep(_ACK_WAIT_SECONDS / 10)
            with self._ours():
                await reader.beat()
                if time.monotonic() - tidied >= _TIDY_SECONDS:
                    tidied = time.monotonic()
                    await self._tidy(connection)
                    await self._warn_of_missed(connection, reader, group)

    async def _tidy(self, connection: _Connection) -> None:
        state = (await connection.stream.stream_info(self._stream)).state
        over = state.bytes - self._settings.retain_bytes
        if over <= 0 or not state.messages:
            return
        consumers = await connection.stream.consumers_info(self._stream)
        floor = min((one.ack_floor.stream_seq for one in consumers if one.ack_floor), default=0)
        # messages are of much the same size
        enough = state.first_seq + state.messages * over // state.bytes
        upto = min(floor, enough)
        if upto >= state.first_seq:
            await connection.stream.purge_stream(self._stream, seq=upto + 1)

    async def _warn_of_missed(self, connection: _Connection, reader: _Reader, group: str) -> None:
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

    async def _connect(self) -> _Connection:
        """Return a connection to a server that has the stream."""
        connection = _Connection(self._shown)
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

    async def _find_stream(self, connection: _Connection) -> None:
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


class _Connection:
    """
    One connection, which ends when it is lost.

    The client's own reconnecting would send old messages after new ones.
    """

    def __init__(self, shown: str) -> None:
        self.lost = asyncio.Event()
        self.client = Client()
        self._shown = shown
        self._inbox = ""
        self._number = 0
        self._under_way: dict[str, asyncio.Future[None]] = {}
        self._said: Exception | None = None
        self._closing = False

    async def open(self, options: dict[str, Any]) -> None:
        """Connect to the first server that answers."""
        try:
            await self.client.connect(
                name="raytrail",
                allow_reconnect=False,
                max_reconnect_attempts=1,  # of the first connection, which is tried again by us
                reconnect_time_wait=0,
                connect_timeout=int(_CONNECT_SECONDS),
                error_cb=self._hear,
                closed_cb=self._end,
                **options,
            )
        except nats.errors.NoServersError as error:
            raise self._said or error from error
        self.stream: JetStreamContext = self.client.jetstream(timeout=_CONNECT_SECONDS)
        self._inbox = self.client.new_inbox()
        await self.client.subscribe(f"{self._inbox}.*", cb=self._answer)

    @property
    def max_payload(self) -> int:
        """Most bytes of a message and its headers."""
        return self.client.max_payload

    async def publish(self, subject: str, data: bytes, headers: dict[str, str]) -> asyncio.Future[None]:
        """Send one message, returning what ends once JetStream has answered."""
        # not the client's own `publish_async`: in 2.16 it never hears of a refusal
        self._number += 1
        answer = self._under_way[str(self._number)] = asyncio.get_running_loop().create_future()
        await self.client.publish(subject, data, reply=f"{self._inbox}.{self._number}", headers=headers)
        return answer

    async def aclose(self, error: RaytrailError) -> None:
        """Close it; what is under way fails with `error`."""
        self._fail(error)
        if not self._closing:
            self._closing = True
            with suppress(nats.errors.Error, OSError, asyncio.TimeoutError):
                await self.client.close()
            # what was pending could not be sent, and the client has left the socket open
            if self.client._transport is not None:
                self.client._transport.close()  # type: ignore[no-untyped-call]  # nats-py has no types there
                await asyncio.sleep(0)

    async def _answer(self, message: Any) -> None:
        answer = self._under_way.pop(message.subject.rpartition(".")[2], None)
        if answer is None or answer.done():
            return
        try:
            if (message.headers or {}).get(_STATUS) == "503":
                raise nats.errors.NoRespondersError
            said = json.loads(message.data)
            if "error" in said:
                raise js_errors.APIError.from_error(said["error"])
        except nats.errors.Error as error:
            answer.set_exception(error)
        else:
            answer.set_result(None)

    async def _hear(self, error: Exception) -> None:
        self._said = error

    async def _end(self) -> None:
        self.lost.set()
        why = f" ({self._said})" if self._said else ""
        self._fail(BrokerUnavailable(f"the connection to {self._shown} was lost{why}"))

    def _fail(self, error: RaytrailError) -> None:
        answers, self._under_way = self._under_way, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # whoever waits for it may have gone


class _Reader:
    """A member of a group."""

    def __init__(self, connection: _Connection, stream: str, durable: str) -> None:
        self._connection, self._stream, self._durable = connection, stream, durable
        self._came: asyncio.Queue[Any] = asyncio.Queue()
        self._inbox = connection.client.new_inbox()
        self._subscription: Any = None
        self._asked_for, self._asked_at = 0, 0.0  # messages that are still to come of what was asked for
        self._replies: dict[int, str] = {}  # where to acknowledge what is not yet: by sequence number
        self._joining: dict[str, _Joining] = {}
        self._warned_before = 0

    async def forget(self) -> bool:
        """Forget the group's place; return whether nobody reads as it."""
        try:
            known = await self._connection.stream.consumer_info(self._stream, self._durable)
        except js_errors.NotFoundError:
            return True
        if known.num_waiting:
            return False
        await self._connection.stream.delete_consumer(self._stream, self._durable)
        return True

    async def join(self, idle_seconds: float) -> None:
        """Become a member of the group, which is made if there is none."""
        config = api.ConsumerConfig(
            durable_name=self._durable,
            deliver_policy=api.DeliverPolicy.ALL,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=_ACK_WAIT_SECONDS,
            max_ack_pending=20_000,
            max_waiting=64,
            inactive_threshold=idle_seconds,
        )
        try:
            await self._connection.stream.consumer_info(self._stream, self._durable)
        except js_errors.NotFoundError:
            await self._connection.stream.add_consumer(self._stream, config)

        async def hear(message: Any) -> None:
            self._came.put_nowait(message)

        self._subscription = await self._connection.client.subscribe(self._inbox, cb=hear)

    async def missed_before(self, first: int) -> int:
        """Return how many messages before `first` the group has not acknowledged; each is told once."""
        known = await self._connection.stream.consumer_info(self._stream, self._durable)
        floor = max(known.ack_floor.stream_seq if known.ack_floor else 0, self._warned_before)
        self._warned_before = max(self._warned_before, first - 1)
        return max(0, first - 1 - floor)

    async def take(self) -> list[Delivery]:
        """Return what has come, waiting for it."""
        while True:
            if self._came.empty():
                await self._ask()
            message = await self._wait()
            if message is None:
                continue
            status = (message.headers or {}).get(_STATUS)
            if status is not None and not message.reply:  # what somebody has published has where to acknowledge it
                self._asked_for = 0  # it is over
                if status in ("404", "408", "409", "100"):
                    await self._check()
                    continue
            delivery = self._read(message)
            if delivery is not None:
                return [delivery]

    async def _check(self) -> None:
        if self._connection.lost.is_set():
            raise nats.errors.ConnectionClosedError

    async def _ask(self) -> None:
        now = time.monotonic()
        if self._asked_for and now < self._asked_at + _PULL_SECONDS + 1:
            return
        self._asked_for, self._asked_at = _PULL_MESSAGES, now
        wanted = json.dumps({"batch": _PULL_MESSAGES, "expires": int(_PULL_SECONDS * 1e9)}).encode()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._durable}"
        await self._connection.client.publish(subject, wanted, reply=self._inbox)

    async def _wait(self) -> Any:
        """Return the next message, or None after a while; raise once the connection is lost."""
        if not self._came.empty():
            return self._came.get_nowait()
        await self._check()
        coming, lost = asyncio.ensure_future(self._came.get()), asyncio.ensure_future(self._connection.lost.wait())
        try:
            await asyncio.wait([coming, lost], timeout=_PULL_SECONDS + 1, return_when=asyncio.FIRST_COMPLETED)
            return coming.result() if coming.done() else None
        finally:
            coming.cancel()
            lost.cancel()

    def _read(self, message: Any) -> Delivery | None:
        """Return the chunk that a message completes."""
        self._asked_for = max(0, self._asked_for - 1)
        sequence = int(message.metadata.sequence.stream)
        again = sequence in self._replies
        self._replies[sequence] = message.reply
        if again:
            return None  # it took us long, and it was sent once more
        headers = {name: unquoted(value) for name, value in (message.headers or {}).items()}
        part = _NUMBERED.fullmatch(headers.get(_PART, ""))
        place = f"stream {self._stream}, message {sequence}"
        if part is None or _ID not in headers:
            return Delivery(received(headers, message.data, place), functools.partial(self._ack, [sequence]))
        number, count = int(part[1]), int(part[2])
        joining = self._joining.setdefault(headers[_ID], _Joining(time.monotonic()))
        joining.parts[number] = message.data
        joining.sequences.append(sequence)
        joining.headers |= headers
        if len(joining.parts) < count:
            return None
        del self._joining[headers[_ID]]
        data = b"".join(joining.parts[number] for number in sorted(joining.parts))
        return Delivery(received(joining.headers, data, place), functools.partial(self._ack, joining.sequences))

    async def _ack(self, sequences: list[int]) -> None:
        for sequence in sequences:
            reply = self._replies.pop(sequence, None)
            if reply is not None and not self._connection.lost.is_set():
                with suppress(nats.errors.Error, OSError):  # it comes again
                    await self._connection.client.publish(reply, b"+ACK")

    async def beat(self) -> None:
        """Say that we still have what is not acknowledged; give up chunks of which a part never came."""
        for reply in list(self._replies.values()):
            await self._connection.client.publish(reply, b"+WPI")
        late = [id for id, joining in self._joining.items() if joining.began < time.monotonic() - _JOIN_SECONDS]
        for id in late:
            joining = self._joining.pop(id)
            log.info("chunk %s of stream %r came in part; its publisher died, and sends it again", id, self._stream)
            await self._ack(joining.sequences)

    async def leave(self) -> None:
        """Give back what is not acknowledged."""
        if self._subscription is None or self._connection.lost.is_set():
            return
        await self._subscription.drain()  # what is on its way here would else be withheld for 30 seconds
        while not self._came.empty():
            message = self._came.get_nowait()
            if _STATUS not in (message.headers or {}):
                self._replies[int(message.metadata.sequence.stream)] = message.reply
        # what was asked for is still open there, and would be given to nobody: only then comes the next one's turn
        over = max(0.0, self._asked_at + _PULL_SECONDS - time.monotonic()) + 0.1
        for reply in self._replies.values():
            await self._connection.client.publish(reply, b'-NAK {"delay": %d}' % (over * 1e9))
        self._replies.clear()
        await self._connection.client.flush(timeout=int(_CONNECT_SECONDS))


_NUMBERED = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
"""Which part of a chunk a message is, of how many."""


class _Joining:
    """A chunk that comes in parts."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.parts: dict[int, bytes] = {}
        self.sequences: list[int] = []
        self.headers: dict[str, str] = {}


def _messages(chunk: Chunk, max_payload: int) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Yield the data and headers of the messages that a chunk travels as."""
    headers = chunk.quoted_headers()
    # a report has no ranges, and is itself
    ranges = headers["segments"].encode() if chunk.segments else chunk.data
    name = hashlib.blake2b(headers["session"].encode() + b"\n" + ranges, digest_size=16).hexdigest()
    room = max_payload - sum(len(name) + len(value) + 4 for name, value in headers.items()) - _RESERVED_BYTES
    if room < _RESERVED_BYTES:
        raise EventError(f"headers of {max_payload - room} bytes leave no room in a max_payload of {max_payload}")
    if len(chunk.data) <= room:
        yield chunk.data, {**headers, _MSG_ID: name}
        return
    count = -(-len(chunk.data) // room)
    for number in range(1, count + 1):
        part = {_ID: name, _PART: f"{number}/{count}", _MSG_ID: f"{name}:{number}/{count}"}
        # the ranges are long, and needed once
        common = headers if number == 1 else {}
        yield chunk.data[(number - 1) * room : number * room], {**common, **part}


def _durable(group: str) -> str:
    """Return a consumer's name for a group's, which may be any."""
    return re.sub(r"[^A-Za-z0-9_-]", lambda match: f"={ord(match[0]):x}=", group)
