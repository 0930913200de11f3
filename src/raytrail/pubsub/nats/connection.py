"""A connection to one server, over which many chunks are published at once."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js import errors as js_errors

from raytrail.errors import BrokerUnavailable, RaytrailError
from raytrail.pubsub.nats.wire import STATUS

CONNECT_SECONDS = 5.0


class Connection:
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
        self._last_error: Exception | None = None
        self._closing = False

    async def open(self, options: dict[str, Any]) -> None:
        """Connect to the first server that answers."""
        try:
            await self.client.connect(
                name="raytrail",
                allow_reconnect=False,
                max_reconnect_attempts=1,  # of the first connection, which is tried again by us
                reconnect_time_wait=0,
                connect_timeout=int(CONNECT_SECONDS),
                error_cb=self._hear,
                closed_cb=self._end,
                **options,
            )
        except nats.errors.NoServersError as error:
            raise self._last_error or error from error
        self.stream: JetStreamContext = self.client.jetstream(timeout=CONNECT_SECONDS)
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
            if (message.headers or {}).get(STATUS) == "503":
                raise nats.errors.NoRespondersError
            reply = json.loads(message.data)
            if "error" in reply:
                raise js_errors.APIError.from_error(reply["error"])
        except nats.errors.Error as error:
            answer.set_exception(error)
        else:
            answer.set_result(None)

    async def _hear(self, error: Exception) -> None:
        self._last_error = error

    async def _end(self) -> None:
        self.lost.set()
        why = f" ({self._last_error})" if self._last_error else ""
        self._fail(BrokerUnavailable(f"the connection to {self._shown} was lost{why}"))

    def _fail(self, error: RaytrailError) -> None:
        answers, self._under_way = self._under_way, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # whoever waits for it may have gone
