"""A chunk as the messages of a stream: one, or as many parts as the server's `max_payload` makes of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from raytrail.errors import EventError
from raytrail.event import Chunk

_RESERVED_BYTES = 2048  # of max_payload, for what is added to the headers
ID, PART, _MSG_ID, STATUS = "raytrail-id", "raytrail-part", "Nats-Msg-Id", "Status"
NUMBERED = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
"""Which part of a chunk a message is, of how many."""


def as_messages(chunk: Chunk, max_payload: int) -> Iterator[tuple[bytes, dict[str, str]]]:
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
        part = {ID: name, PART: f"{number}/{count}", _MSG_ID: f"{name}:{number}/{count}"}
        # the ranges are long, and needed once
        common = headers if number == 1 else {}
        yield chunk.data[(number - 1) * room : number * room], {**common, **part}


def durable_name(group: str) -> str:
    """Return a consumer's name for a group's, which may be any."""
    return re.sub(r"[^A-Za-z0-9_-]", lambda match: f"={ord(match[0]):x}=", group)
