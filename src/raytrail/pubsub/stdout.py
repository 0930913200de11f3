"""Chunks to standard output, as ``stdout:``, for pipes and for looking at what an agent sends."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from typing import Literal

import msgspec

from raytrail.errors import BrokerUnavailable, ConfigError, RaytrailError
from raytrail.event import LOG, Chunk
from raytrail.pubsub import Delivery, Guarantee
from raytrail.pubsub.in_order import Turn
from raytrail.pubsub.url import parse, shown


class _Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    envelope: Literal["event", "chunk"] = "event"


class StdoutPubSub:
    """
    NDJSON on standard output, as ``stdout:?envelope=event|chunk``.

    ``event`` writes the lines as Ray wrote them and nothing else, without logs. ``chunk`` writes each chunk's headers
    as one more line before its lines. A chunk counts as stored once it is written and flushed. In a pipe it may still
    be lost with the process that reads it.
    """

    guarantee: Guarantee = "at-least-once"

    def __init__(self, url: str) -> None:
        address, self._settings = parse(url, _Settings)
        if address.hosts or address.path:
            raise ConfigError(f"{shown(url)!r} names a place; write stdout: or stdout:?envelope=chunk")
        self._turn = Turn()

    async def publish(self, chunk: Chunk) -> None:
        """
        Write one chunk. A reader that is slow is waited for.

        Raises:
            ConfigError: Nobody reads any more, or there is no standard output.
            BrokerUnavailable: It cannot be written, as to a file on a full disk.
        """
        # the standard library's JSON, since it keeps the lone surrogates that names from the environment may hold
        if chunk.event_type == LOG and self._settings.envelope == "event":
            return
        head = json.dumps(chunk.headers()).encode() + b"\n" if self._settings.envelope == "chunk" else b""
        async with self._turn:
            try:
                await asyncio.to_thread(_write, head + chunk.data)
            except RaytrailError as error:
                self._turn.fail(error)
                raise

    def subscribe(self, group: str, *, from_start: bool = False) -> AsyncGenerator[Delivery, None]:
        """
        Refuse.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "stdout: is only written to; read the pipe that it goes to, or name a broker, as file:///dir, at both ends"
        )

    async def aclose(self) -> None:
        """Do nothing: standard output belongs to the process."""


def _write(data: bytes) -> None:
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        # Python would complain once more when it flushes at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ConfigError("stdout: nobody reads it any more; start both again") from error
    except OSError as error:
        raise BrokerUnavailable(f"stdout: {error.strerror}; make room, or write to another place") from error
    except (AttributeError, ValueError) as error:  # None, or closed
        raise ConfigError("stdout: this process has no standard output; give it one, or name another URL") from error
