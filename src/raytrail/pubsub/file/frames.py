"""
One file of chunks: the frames in which `raytrail.pubsub.file` keeps them, whose bytes are drawn there.

What is no frame is damage, or the write in which a publisher was killed, or one that is under way; which of these it
is follows from the lock that a publisher holds on its file, and from whether frames come after it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import zlib
from collections import deque
from pathlib import Path
from typing import NamedTuple

from raytrail.event import Chunk

_MAGIC = b"#raytrail "
_PREFIX = re.compile(_MAGIC + rb"(([0-9]{8}) ([0-9]{12})) ([0-9a-f]{8}) ([0-9a-f]{8})\n")
_PREFIX_BYTES = 50
_BLOCK_BYTES = 1024 * 1024


def encode(chunk: Chunk) -> tuple[bytes, bytes]:
    """Return a chunk's frame in two parts, of which the second is its lines."""
    # the standard library's JSON, since it keeps the lone surrogates that names from the environment may hold
    headers = b"#" + json.dumps(chunk.headers()).encode("ascii") + b"\n"
    lengths = b"%08d %012d" % (len(headers), len(chunk.data))
    check = zlib.crc32(headers, zlib.crc32(lengths))
    return _MAGIC + b"%b %08x %08x\n" % (lengths, check, zlib.crc32(chunk.data)) + headers, chunk.data


class Frame(NamedTuple):
    """A chunk in its file, or a range that holds none."""

    start: int
    end: int
    headers: dict[str, str] | None = None
    """None: the range is set aside."""
    data: bytes = b""
    torn: bool = False
    """Set aside because its publisher was killed in the middle of it."""


class Source:
    """One file of chunks, as one group reads it."""

    def __init__(self, path: Path, offset: int) -> None:
        self.path = path
        self.position = offset
        """Read up to here."""
        self.acknowledged = offset
        """All before this is acknowledged."""
        self.size = 0
        """Its bytes when it was last looked at; reading goes no further."""
        self.finished = False
        """Whether its writer had given it up by then."""
        self._searched_size = 0
        self._sent: deque[int] = deque()
        self._acked: set[int] = set()

    def look(self) -> None:
        """See how far the file goes now, and whether it may still grow."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            # in this order: with a first byte there was a lock; without the lock the size is the last
            self.finished = os.fstat(fd).st_size > 0 and unlocked(fd)
            self.size = os.fstat(fd).st_size
        finally:
            os.close(fd)

    def read(self) -> list[Frame]:
        """Return the next frames, about a block of them; none at `size`, or where one is being written."""
        if self.position >= self.size:
            return []
        fd = os.open(self.path, os.O_RDONLY)
        try:
            frames, rest = self._frames(fd, self.position)
            if not frames:
                frames = self._without_frame(fd, rest)
        finally:
            os.close(fd)
        if frames:
            self.position = frames[-1].end
        return frames

    def sent(self, end: int) -> None:
        """Note that the frame that ends at `end` was handed out."""
        self._sent.append(end)

    async def ack(self, end: int) -> None:
        """Acknowledge the frame that ends at `end`; a second time is harmless."""
        if end > self.acknowledged:
            self._acked.add(end)
        while self._sent and self._sent[0] in self._acked:
            self.acknowledged = self._sent.popleft()
            self._acked.remove(self.acknowledged)

    def _frames(self, fd: int, start: int) -> tuple[list[Frame], _Rest]:
        block = os.pread(fd, min(_BLOCK_BYTES, self.size - start), start)
        frames, rest = _decode(block, start)
        if not frames and len(block) < rest.length <= self.size - start:
            frames, rest = _decode(os.pread(fd, rest.length, start), start)
        return frames, rest

    def _without_frame(self, fd: int, rest: _Rest) -> list[Frame]:
        if rest.begun:
            return [Frame(self.position, self.size, torn=True)] if self.finished else []
        if not self.finished and self.size == self._searched_size:
            return []
        end = self._next_frame(fd, self.position + 1)
        if end is not None:
            return [Frame(self.position, end)]
        if self.finished:
            return [Frame(self.position, self.size, torn=rest.length > 0)]
        self._searched_size = self.size  # what is there now may be a frame half written
        return []

    def _next_frame(self, fd: int, start: int) -> int | None:
        while start < self.size and (block := os.pread(fd, min(_BLOCK_BYTES, self.size - start), start)):
            offset = block.find(_MAGIC)
            if offset < 0:
                start += max(1, len(block) - len(_MAGIC) + 1)
            elif self._frames(fd, start + offset)[0]:
                return start + offset
            else:
                start += offset + 1
        return None


class _Rest(NamedTuple):
    """What follows the last whole frame of a block."""

    length: int
    """Of the frame that seems to follow; 0 if nothing like a frame does."""
    begun: bool = False
    """Whether its headers are all there and as they were written."""


def _decode(block: bytes, start: int) -> tuple[list[Frame], _Rest]:
    """Return the frames that `block`, which lies at `start` of its file, begins with."""
    frames: list[Frame] = []
    at, view = 0, memoryview(block)
    while len(block) - at >= _PREFIX_BYTES:
        prefix = _PREFIX.match(block, at)
        if prefix is None:
            return frames, _Rest(0)
        data_at = at + _PREFIX_BYTES + int(prefix[2])
        end = data_at + int(prefix[3])
        headers = view[at + _PREFIX_BYTES : data_at]
        begun = data_at <= len(block)
        if begun and zlib.crc32(headers, zlib.crc32(prefix[1])) != int(prefix[4], 16):
            return frames, _Rest(0)
        if end > len(block):
            return frames, _Rest(end - at, begun)
        frame = Frame(start + at, start + end)
        if zlib.crc32(view[data_at:end]) == int(prefix[5], 16):
            frame = frame._replace(headers=_headers(bytes(headers[1:])), data=block[data_at:end])
        frames.append(frame)
        at = end
    return frames, _Rest(_PREFIX_BYTES)


def _headers(text: bytes) -> dict[str, str]:
    """Return the headers of a frame that is whole; none where they are no chunk's, whoever wrote them."""
    try:
        headers = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(headers, dict):
        return {}
    return {name: value for name, value in headers.items() if isinstance(value, str)}


def unlocked(fd: int) -> bool:
    """Say whether nobody holds the exclusive lock on an open file."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True
