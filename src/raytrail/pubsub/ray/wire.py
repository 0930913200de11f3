"""What the two keys of a topic carry: messages of chunks, and reports of what the acking reader has."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, NamedTuple, TypeVar

import msgspec

from raytrail.errors import EventError
from raytrail.event import UNDECODABLE, Chunk, Unreadable, received
from raytrail.zstd import ZstdError, compress, decompress_at_most

log = logging.getLogger(__name__)
MESSAGE_BYTES = 1024**2
CHUNK_BYTES = 32 * 1024**2  # the GCS takes 512 MiB, but a message of 100 MB holds it up for seconds
BEAT_SECONDS = 1.0
ID_BYTES = 28  # of a Ray UniqueID
_Struct = TypeVar("_Struct", bound=msgspec.Struct)
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""Of a chunk. Those of a whole message after it can be written into a report, which holds 64 bits."""


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Chunks that one connection publishes at once; it numbers its chunks from 1."""

    producer: str
    """Host, process and a random part: a producer that starts again is another one."""
    after: _Number
    """The last number that the GCS took before; 0 where there was none. A reader that has not heard it missed some."""
    first: _Number
    chunks: list[tuple[dict[str, bytes], int]]
    """Each one's headers, in UTF-8, and how many bytes of `lines` are its."""
    lines: bytes
    """Of all chunks, compressed with zstd."""


class Report(msgspec.Struct, frozen=True, array_like=True):
    """How the acking reader stands; at least one every `BEAT_SECONDS`."""

    group: str
    reader: Annotated[bytes, msgspec.Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
    """Its id as a subscriber; a GCS dies of one of another length."""
    behind: bool
    """It has not yet fetched all that was published."""
    acked: dict[str, list[int]]
    """Numbers that are safe, by producer; each is told once."""
    missed: dict[str, list[tuple[int, int]]]
    """Ranges, first and last, that it did not hear."""


class Topic(NamedTuple):
    """What the URL says."""

    shown: str
    address: str
    """Of the GCS; empty for that of this machine."""
    chunks: bytes
    acks: bytes
    """The keys."""
    group: str | None
    """Whose acks count; None for nobody's."""
    timeout_seconds: float


def pack(producer: str, after: int, first: int, chunks: Sequence[Chunk]) -> bytes:
    """Return the message of those chunks, numbered from `first`."""
    heads = [(chunk.encoded_headers(), len(chunk.data)) for chunk in chunks]
    lines = compress(b"".join(chunk.data for chunk in chunks), 1)
    return msgspec.msgpack.encode(Message(producer, after, first, heads, lines))


def unpack(message: Message, topic: Topic) -> Iterator[tuple[Sequence[int], Chunk | Unreadable]]:
    """Yield each chunk with its number, or all of a message whose lines cannot be read with those of its chunks."""
    try:
        lines, offset = decompress_at_most(message.lines, CHUNK_BYTES + MESSAGE_BYTES), 0
    except ZstdError as error:
        altered = EventError(f"a message of {message.producer} at {topic.shown} was altered: {error}")
        numbers = range(message.first, message.first + len(message.chunks))
        yield numbers, unreadable(message.lines, altered, topic)
        return
    for number, (head, length) in enumerate(message.chunks, message.first):
        place = f"{topic.shown}, chunk {number} of {message.producer}"
        yield [number], received(head, lines[offset : offset + length], place)
        offset += length


def unreadable(data: bytes, error: EventError, topic: Topic) -> Unreadable:
    """Return what came in place of a message."""
    return Unreadable(place=topic.shown, reason=str(error), headers={}, data=data)


def read_reports(payloads: Iterable[bytes], topic: Topic) -> Iterator[Report]:
    """Yield what readers report; what somebody else wrote there says nothing."""
    for payload in payloads:
        try:
            yield decode_message(payload, Report, topic)
        except EventError as error:
            log.warning("%s; it is passed over", error)


def decode_message(payload: bytes, kind: type[_Struct], topic: Topic) -> _Struct:
    """
    Read a message of ours.

    Raises:
        EventError: It is none.
    """
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except UNDECODABLE as error:
        raise EventError(
            f"a message at {topic.shown} is not ours: {error}; a newer agent or reader wrote it: upgrade, or take "
            f"another topic"
        ) from error
