"""A chunk as Kafka's messages: one with all its lines, or one a line."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator

import msgspec

from raytrail.errors import EventError
from raytrail.event import Chunk

LINE = "raytrail-line"
_COMMON = ("raytrail-version", "cluster", "session", "node_id", "event_type")
HEADERS = (*_COMMON, "segments")

WireMessage = tuple[str, bytes, list[tuple[str, str | bytes | None]]]
"""Key, value and headers."""


def as_one(chunk: Chunk) -> WireMessage:
    """Return the one message that a chunk is."""
    return key_of(chunk), chunk.data, list(chunk.encoded_headers().items())


def by_line(chunk: Chunk) -> Iterator[WireMessage]:
    """Yield a message for each line, with one short header: what there is in it is sent with each event."""
    if not chunk.data.endswith(b"\n"):  # the last line of a file, which never got its newline: it is alone in its chunk
        yield as_one(chunk)
        return
    key = key_of(chunk)
    headers = chunk.headers()
    # ASCII, with escapes: names may hold lone surrogates
    of_all = json.dumps([headers[name] for name in _COMMON], separators=(",", ":")).encode()
    lines = chunk.data.split(b"\n")[:-1]
    last = b"/%d" % len(lines)
    left = list(reversed(chunk.segments))
    file, generation, start, length = left.pop() if left else ("", 0, 0, 0)
    of_file = f"{file}:{generation}:".encode()
    head = b"%b %b" % (of_all, of_file)
    for number, line in enumerate(lines, 1):
        need = len(line) + 1
        if need <= length:
            yield key, line, [(LINE, b"%b%d:%d %d%b" % (head, start, need, number, last))]
            start, length = start + need, length - need
            continue
        ranges = b""  # a line that is in more than one segment, or begins the next one, or is in none
        while need > length and left:
            ranges += b"%b%d:%d," % (of_file, start, length) if length else b""
            need -= length
            file, generation, start, length = left.pop()
            of_file = f"{file}:{generation}:".encode()
            head = b"%b %b" % (of_all, of_file)
        if length:
            ranges += b"%b%d:%d" % (of_file, start, need)
            start, length = start + need, length - need
        yield key, line, [(LINE, b"%b %b %d%b" % (of_all, ranges, number, last))]


def read_line_header(said: bytes) -> tuple[dict[str, str], int, int]:
    """Return the headers of a line's chunk with the line's own segments, its number, and the chunk's lines."""
    try:
        of_all, ranges, place = said.rsplit(b" ", 2)
        number, count = place.split(b"/")
        return {**_common(of_all), "segments": ranges.decode()}, int(number), int(count)
    except (ValueError, msgspec.ValidationError, RecursionError) as error:
        raise EventError(f"header {LINE}={said!r:.500}: {error}; it was cut or altered") from error


@functools.lru_cache(maxsize=1000)
def _common(said: bytes) -> dict[str, str]:
    """Read what all lines of a chunk have in common."""
    return dict(zip(_COMMON, msgspec.convert(json.loads(said), list[str]), strict=True))


def key_of(chunk: Chunk) -> str:
    """Return a chunk's key, its first file, by which its partition is chosen."""
    return chunk.segments[0].file if chunk.segments else chunk.node_id
