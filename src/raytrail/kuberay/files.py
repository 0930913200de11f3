"""Read a file of KubeRay's collection as far as it can be read: lines or an array, compressed, cut or damaged."""

from __future__ import annotations

import json
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import IO, Any, NamedTuple

import msgspec

from raytrail.errors import ConfigError
from raytrail.event import UNDECODABLE

OF_NODE = "node_events"
_BLOCK_BYTES = 1 << 20
_MOST_LINE_BYTES = 64 << 20
_MOST_TEXT_BYTES = 512 << 20  # an hour's events in one array, or an answer
_JSON = json.JSONDecoder()
_BETWEEN = re.compile(rb"[ \t\r\n,]*")
_AHEAD = 8
_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 16 + zlib.MAX_WBITS  # with a header and a trailer of gzip's


class File(NamedTuple):
    """One of its files, wherever it is kept."""

    name: str
    """The whole path or URL, with slashes. One at its end marks a directory that cannot be listed."""
    size_bytes: int
    open: Callable[[], IO[bytes]]
    """Several are opened at once, each in a thread."""
    version: str = ""
    """Another one whenever its content may be another."""

    @property
    def of_job(self) -> bool:
        """Whether it holds a job's events, and not a node's."""
        return f"/{OF_NODE}/" not in self.name

    @property
    def place(self) -> str:
        """Its path from its session's folder on: the same in a bucket and in a copy."""
        return self.name[self.name.index("/session_") + 1 :] if "/session_" in self.name else self.name


class Unread(NamedTuple):
    """The place where reading a file ended before its end."""

    file: File
    offset: int
    """In what it holds: after it was decompressed."""
    length: int
    """Bytes that are there and were not read, as far as that is known."""
    reason: str

    @property
    def comes_again(self) -> bool:
        """Whether another try may read it."""
        return isinstance(self.reason, Closed)


class Closed(str):
    """The reason why a file cannot be read. It lies outside of the file, so another try may read it."""

    __slots__ = ()


def words_of(error: OSError | ConfigError) -> Closed:
    """Return the reason why a file cannot be read."""
    return Closed(f"cannot be read: {(error.strerror if isinstance(error, OSError) else None) or error}")


class Block(NamedTuple):
    """Some lines of a file, or elements of an array."""

    lines: list[bytes]
    offset: int
    """Where the first of them begins, in what the file holds."""
    offsets: list[int]
    """Where each of them begins. Empty where one comes after the other, with a newline between them."""
    read_bytes: int
    """How many bytes of the file have been read since the last block."""
    data: bytes = b""
    """The lines as they stand in the file, one after the other. Empty where others stand between them."""

    def offset_of(self, number: int) -> int:
        """Return where a line begins, in what the file holds."""
        if self.offsets:
            return self.offsets[number]
        return self.offset + sum(len(line) + 1 for line in self.lines[:number])


def blocks(
    file: File, raw: IO[bytes] | str, unread: Callable[[Unread], None], *, whole: bool = False
) -> Iterator[Block]:
    """
    Yield a file's lines, some at once, up to where it can be read.

    Args:
        file: The file.
        raw: The stream it was opened as, or why it was not.
        unread: Takes the rest, if there is one.
        whole: Whether its content is one text, which comes at once.
    """
    content = _Content(file, raw)
    before = offset = 0
    rest = b""
    is_array = False
    for data in content:
        is_array = is_array or (not (offset or rest or whole) and data.lstrip().startswith(b"["))
        rest += data
        end = 0 if whole or is_array else rest.rfind(b"\n") + 1
        yield _block(rest[:end], offset, content.read_bytes - before)
        before, offset, rest = content.read_bytes, offset + end, rest[end:]
        if len(rest) > (most := _MOST_TEXT_BYTES if whole or is_array else _MOST_LINE_BYTES):
            unread(Unread(file, offset, len(rest), f"a line of more than {most} bytes"))
            yield Block([], offset, [], file.size_bytes - before)
            return
    last, torn = _elements(rest) if is_array else _last_line(rest, offset, whole=whole)
    if content.reason or torn:
        unread(
            Unread(
                file,
                offset + len(rest) - len(torn),
                len(torn) if offset or rest else file.size_bytes,
                content.reason or "torn: its end is missing",
            )
        )
    yield _placed(last, offset, file.size_bytes - before)


def _block(data: bytes, offset: int, read_bytes: int) -> Block:
    """Return whole lines, blank ones apart."""
    lines = data.split(b"\n")
    lines.pop()
    if all(map(bytes.strip, lines)):
        return Block(lines, offset, [], read_bytes, data)
    placed = []
    at = offset
    for line in lines:
        if line.strip():
            placed.append((at, line))
        at += len(line) + 1
    return _placed(placed, offset, read_bytes)


def _placed(lines: list[tuple[int, bytes]], offset: int, read_bytes: int) -> Block:
    return Block([line for _, line in lines], offset, [at for at, _ in lines], read_bytes)


def _last_line(line: bytes, offset: int, *, whole: bool) -> tuple[list[tuple[int, bytes]], bytes]:
    """Return the last line, which has no newline, if it is a whole event, and else what is left of one."""
    if not line.strip():
        return [], b""
    try:
        msgspec.json.decode(line, type=msgspec.Raw if whole else dict[str, msgspec.Raw])
    except UNDECODABLE:
        return [], line
    return [(offset, line)], b""


def _elements(text: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Return the elements of an array of JSON that are whole, and what is left of it where it was cut."""
    elements: list[tuple[int, bytes]] = []
    characters = text.decode("latin-1")  # one for each byte: only where an element ends is asked
    at = text.index(b"[") + 1
    while True:
        between = _BETWEEN.match(text, at)
        start = between.end() if between else at
        if text[start : start + 1] == b"]":
            return elements, b""
        try:
            _, at = _JSON.raw_decode(characters, start)
        except (ValueError, RecursionError):
            return elements, text[start:]
        elements.append((start, text[start:at]))


class _Content:
    """
    A file's content, in blocks, decompressed, up to where it can be read.

    Its first bytes show whether it is compressed, since some stores decompress what they hand out, and keep its name.
    """

    def __init__(self, file: File, raw: IO[bytes] | str) -> None:
        self._file, self._raw = file, raw
        self.read_bytes = 0
        """How many bytes of the file have been read."""
        self.reason = ""
        """Why it ended early. Empty where it did not."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield blocks of some size, though a gzip may have a member for each event."""
        held, size = list[bytes](), 0
        try:
            for data in self._read_pieces():
                held.append(data)
                size += len(data)
                if size >= _BLOCK_BYTES:
                    yield b"".join(held)
                    held, size = [], 0
        except (OSError, ConfigError) as error:
            self.reason = words_of(error)
        except zlib.error as error:
            self.reason = f"damaged: {error}"
        if size:
            yield b"".join(held)

    def _read_pieces(self) -> Iterator[bytes]:
        if isinstance(self._raw, str):
            self.reason = self._raw
            return
        data = self._read()
        if data.startswith(_GZIP):
            yield from self._unzip(data)
        elif self._file.name.endswith(".gz") and not data.lstrip().startswith((b"{", b"[")):
            self.reason = "no gzip, though its name says so" if data else "cut off: it is empty, and no gzip is"
        else:
            while data:
                yield data
                data = self._read()

    def _unzip(self, data: bytes) -> Iterator[bytes]:
        """Yield what the members of a gzip hold."""
        member = zlib.decompressobj(_GZIP_WINDOW)
        while data:
            if member.eof:
                if not data.startswith(_GZIP[: len(data)]):
                    self.reason = "what follows its gzip is none"
                    return
                member = zlib.decompressobj(_GZIP_WINDOW)
            before = member.copy()
            try:
                yield member.decompress(data, _BLOCK_BYTES)
            except zlib.error:
                yield from _up_to_error(before, data)
            data = member.unconsumed_tail or member.unused_data or self._read()
        yield member.flush()
        if not member.eof:
            self.reason = "cut off: its gzip has no end"

    def _read(self) -> bytes:
        assert not isinstance(self._raw, str)
        data = self._raw.read(_BLOCK_BYTES)
        self.read_bytes += len(data)
        return data


def _up_to_error(member: Any, data: bytes) -> Iterator[bytes]:
    """
    Yield what of a gzip comes before where it is damaged: a call that meets an error returns nothing.

    Args:
        member: The decompressor, as it was before `data`.
        data: The data that it fails at.

    Raises:
        zlib.error: Where it is damaged.
    """
    for index in range(len(data)):
        yield member.decompress(data[index : index + 1])


def opened(files: Iterable[File]) -> Iterator[tuple[File, IO[bytes] | str]]:
    """
    Open files in their order, and the next few while one is read: a bucket takes its time for each.

    If one cannot be opened, the reason comes in its place.
    """
    rest, coming = iter(files), deque[tuple[File, "Future[IO[bytes]]"]]()
    with ThreadPoolExecutor(_AHEAD) as pool:
        try:
            while True:
                coming += ((file, pool.submit(file.open)) for file in islice(rest, _AHEAD - len(coming)))
                if not coming:
                    return
                file, opened = coming.popleft()
                try:
                    raw = opened.result()
                except (OSError, ConfigError) as error:
                    yield file, words_of(error)
                else:
                    with raw:
                        yield file, raw
        finally:
            for _, opened in coming:
                opened.cancel()
                opened.add_done_callback(_close)


def _close(opened: Future[IO[bytes]]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        opened.result().close()
