"""A chunk as Kafka's messages: one with all its lines, or one a line."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import TypedDict

import msgspec

from raytrail.errors import EventError
from raytrail.event import Chunk, encoded

_COMMON = ("raytrail-version", "cluster", "session", "node_id", "event_type")
HEADERS = (*_COMMON, "segments")
LINE = "raytrail-line"
"""The header in which older agents sent what is the key of a line now."""
_LINE_KEY = re.compile(rb'\["\d+",[^\n]*\] \S* \d+/\d+')


class WireMessage(TypedDict, total=False):
    """A message, as both `Producer.produce` and `Producer.produce_batch` take it. The latter takes no headers."""

    value: bytes
    key: bytes
    headers: list[tuple[str, str | bytes | None]]


def as_one(chunk: Chunk) -> list[WireMessage]:
    """Return the one message that a chunk is."""
    return [{"value": chunk.data, "key": encoded(key_of(chunk)), "headers": list(chunk.encoded_headers().items())}]


def by_line(chunk: Chunk) -> list[WireMessage]:
    """Return a message for each line, whose key says what a reader of ours has to know of it."""
    if not chunk.data.endswith(b"\n"):  # the last line of a file, which never got its newline: it is alone in its chunk
        return as_one(chunk)
    headers = chunk.headers()
    # ASCII, with escapes: names may hold lone surrogates
    of_all = json.dumps([headers[name] for name in _COMMON], separators=(",", ":")).encode()
    lines = chunk.data.split(b"\n")[:-1]
    messages: list[WireMessage] = []
    last = b"/%d" % len(lines)
    segments = list(reversed(chunk.segments))
    file, generation, start, length = segments.pop() if segments else ("", 0, 0, 0)
    of_file = f"{file}:{generation}:".encode()
    head = b"%b %b" % (of_all, of_file)
    for number, line in enumerate(lines, 1):
        need = len(line) + 1
        if need <= length:
            messages.append({"value": line, "key": b"%b%d:%d %d%b" % (head, start, need, number, last)})
            start, length = start + need, length - need
            continue
        ranges = b""  # a line that is in more than one segment, or begins the next one, or is in none
        while need > length and segments:
            ranges += b"%b%d:%d," % (of_file, start, length) if length else b""
            need -= length
            file, generation, start, length = segments.pop()
            of_file = f"{file}:{generation}:".encode()
            head = b"%b %b" % (of_all, of_file)
        if length:
            ranges += b"%b%d:%d" % (of_file, start, need)
            start, length = start + need, length - need
        messages.append({"value": line, "key": b"%b %b %d%b" % (of_all, ranges, number, last)})
    return messages


def find_line_place(headers: Mapping[str, bytes], key: bytes) -> tuple[str, bytes] | None:
    """Return what says which line of a chunk a message is, and where that stands. None where it is not one line."""
    if LINE in headers:
        return f"header {LINE}=", headers[LINE]
    if "raytrail-version" not in headers and _LINE_KEY.fullmatch(key):
        return "key ", key
    return None


def read_line_place(stands: str, place: bytes) -> tuple[dict[str, str], int, int]:
    """Return the headers of a line's chunk with the line's own segments, its number, and the chunk's lines."""
    try:
        of_all, ranges, of_lines = place.rsplit(b" ", 2)
        number, count = of_lines.split(b"/")
        return {**_common(of_all), "segments": ranges.decode()}, int(number), int(count)
    except (ValueError, msgspec.ValidationError, RecursionError) as error:
        raise EventError(f"{stands}{place!r:.500}: {error}; it was cut or altered") from error


@functools.lru_cache(maxsize=1000)
def _common(text: bytes) -> dict[str, str]:
    """Read what all lines of a chunk have in common."""
    return dict(zip(_COMMON, msgspec.convert(json.loads(text), list[str]), strict=True))


def key_of(chunk: Chunk) -> str:
    """Return a chunk's key, its first file, by which its partition is chosen."""
    return chunk.segments[0].file if chunk.segments else chunk.node_id
