"""A member of a group: what a durable consumer gives it, and what of that it has acknowledged."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import time
from contextlib import suppress
from typing import Any

import nats.errors
from nats.js import api
from nats.js import errors as js_errors

from raytrail.event import received, unquoted
from raytrail.pubsub import Delivery
from raytrail.pubsub.nats.connection import CONNECT_SECONDS, Connection
from raytrail.pubsub.nats.wire import ID, NUMBERED, PART, STATUS

log = logging.getLogger(__name__)
ACK_WAIT_SECONDS = 30.0
_PULL_SECONDS, _PULL_MESSAGES = 2.0, 64
_JOIN_SECONDS = 600.0  # a chunk in parts whose publisher died is given up after this; its agent sends it again


class Reader:
    """A member of a group."""

    def __init__(self, connection: Connection, stream: str, durable: str) -> None:
        self._connection, self._stream, self._durable = connection, stream, durable
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
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
            ack_wait=ACK_WAIT_SECONDS,
            max_ack_pending=20_000,
            max_waiting=64,
            inactive_threshold=idle_seconds,
        )
        try:
            await self._connection.stream.consumer_info(self._stream, self._durable)
        except js_errors.NotFoundError:
            await self._connection.stream.add_consumer(self._stream, config)

        async def hear(message: Any) -> None:
            self._messages.put_nowait(message)

        self._subscription = await self._connection.client.subscribe(self._inbox, cb=hear)

    async def missed_before(self, first: int) -> int:
        """Return how many messages before `first` the group has not acknowledged; each is told once."""
        known = await self._connection.stream.consumer_info(self._stream, self._durable)
        floor = max(known.ack_floor.stream_seq if known.ack_floor else 0, self._warned_before)
        self._warned_before = max(self._warned_before, first - 1)
        return max(0, first - 1 - floor)

    async def unacknowledged(self) -> int:
        """Return how many messages the group has not acknowledged."""
        known = await self._connection.stream.consumer_info(self._stream, self._durable)
        return int(known.num_pending or 0) + int(known.num_ack_pending or 0)

    async def take(self) -> list[Delivery]:
        """Return what has come, waiting for it."""
        while True:
            if self._messages.empty():
                await self._ask()
            message = await self._wait()
            if message is None:
                continue
            status = (message.headers or {}).get(STATUS)
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
        if not self._messages.empty():
            return self._messages.get_nowait()
        await self._check()
        coming, lost = asyncio.ensure_future(self._messages.get()), asyncio.ensure_future(self._connection.lost.wait())
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
        part = NUMBERED.fullmatch(headers.get(PART, ""))
        place = f"stream {self._stream}, message {sequence}"
        if part is None or ID not in headers:
            return Delivery(received(headers, message.data, place), functools.partial(self._ack, [sequence]))
        number, count = int(part[1]), int(part[2])
        joining = self._joining.setdefault(headers[ID], _Joining(time.monotonic()))
        joining.parts[number] = message.data
        joining.sequences.append(sequence)
        joining.headers |= headers
        if len(joining.parts) < count:
            return None
        del self._joining[headers[ID]]
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
        while not self._messages.empty():
            message = self._messages.get_nowait()
            if STATUS not in (message.headers or {}):
                self._replies[int(message.metadata.sequence.stream)] = message.reply
        # what was asked for is still open there, and would be given to nobody: only then comes the next one's turn
        over = max(0.0, self._asked_at + _PULL_SECONDS - time.monotonic()) + 0.1
        for reply in self._replies.values():
            await self._connection.client.publish(reply, b'-NAK {"delay": %d}' % (over * 1e9))
        self._replies.clear()
        await self._connection.client.flush(timeout=int(CONNECT_SECONDS))


class _Joining:
    """A chunk that comes in parts."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.parts: dict[int, bytes] = {}
        self.sequences: list[int] = []
        self.headers: dict[str, str] = {}
