"""Records of others' making in a body, as many as so many bytes may hold: each costs time and memory, however short."""

from __future__ import annotations

import msgspec

from raytrail.errors import EventError
from raytrail.event import UNDECODABLE

MOST = 500_000
"""The most records that are taken at once. 65 MB of events are fewer."""
LEAST_BYTES = 64
"""The least average length of records, where there are more than a few. No event is as short."""
FEW = 1_000
_OBJECT_BYTES = 16
"""The same of all objects, those within records too: what may be counted without taking much memory for it."""
_COMMAS = 100_000
"""Up to so many, an array holds no more than may be looked at one by one, whatever it holds."""


class _Object(msgspec.Struct, gc=False):
    """Any object, of which nothing is kept."""


def check(count: int, size: int) -> None:
    """
    Refuse what costs more than it can be worth.

    Args:
        count: The number of records, or lines.
        size: Bytes that they lie in.

    Raises:
        EventError: They are too many, or too short to be events.
    """
    if count > MOST:
        raise EventError(f"{count} records at once; send {MOST} at most")
    if count > FEW and size < count * LEAST_BYTES:
        raise EventError(f"{count} records in {size} bytes are too short to be events; look at what is sent")


def array(body: bytes) -> list[msgspec.Raw]:
    """
    Return what a JSON array holds, undecoded.

    Raises:
        EventError: It is none, or holds too much, or is a long one with anything but objects.
    """
    try:
        if body.count(b",") > _COMMAS:
            _count(body)
        elements = msgspec.json.decode(body, type=list[msgspec.Raw])
    except UNDECODABLE as error:
        raise EventError(f"JSON array of {len(body)} bytes: {error}; send one that is whole, or NDJSON") from error
    check(len(elements), len(body))
    return elements


def _count(body: bytes) -> None:
    """Refuse an array of too many objects before there is a list of them, which takes 130 bytes for each."""
    if (count := body.count(b"{")) > FEW + len(body) // _OBJECT_BYTES:
        raise EventError(f"{count} objects in {len(body)} bytes are too short to be events; look at what is sent")
    check(len(msgspec.json.decode(body, type=list[_Object])), len(body))
