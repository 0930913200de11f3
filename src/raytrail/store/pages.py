"""
The checksums of a database's pages, in a file beside it, as SQLite keeps none.

    catalogue.sqlite-sums    how many transactions there were, and of each page, in their order, its CRC-32:
                             8 bytes each, the number, and the same with each bit turned

A page changes by a checkpoint alone, which copies it from the write-ahead log. Its checksum is written after that, and
before the log is written over. A page that is in the log is therefore not looked at: the log tells what it holds, and
has checksums of SQLite's own. If one of those is wrong, SQLite takes the log to end there, and the number of
transactions shows that some are gone. The turned bits tell a damaged checksum from a damaged page.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from raytrail import disk

ROUNDS = 5
"""How often a page is read, with its checksum, that a writer may have been changing: it takes a fsync for each."""

BLOCK_PAGES = 256
"""How many pages are read at once."""

_ENTRY = 8
_BITS = 0xFFFFFFFF
_LOG_HEADER, _FRAME_HEADER = 32, 24
"""Bytes of the log's header, and of that of each frame (https://sqlite.org/walformat.html)."""


class Pages:
    """
    The pages of a database in WAL mode.

    Args:
        database: Its file.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._log = Path(f"{database}-wal")
        self._sums = Path(f"{database}-sums")

    def damaged(self) -> list[int]:
        """
        Return the numbers, from 1 on, of the pages that differ from what was written. Somebody may write meanwhile.

        For a database that an older version has written, nothing is known and no page is returned.

        Raises:
            OSError: It cannot be read.
        """
        try:
            differing = list(self._find_differing())
        except FileNotFoundError:
            return []
        for _ in range(ROUNDS):
            differing = sorted(set(differing) - self._find_logged())
            if not differing:
                break
            differing = list(self._find_differing(differing))
        return differing

    def commits(self) -> int:
        """Return how many transactions there were at least."""
        noted = self._read_notes()
        return noted[0] & _BITS if _whole(noted[:1]) else 0

    def count(self, commits: int) -> None:
        """
        Note that there were so many transactions: not durably, as a crash of the machine may only set it back.

        Raises:
            OSError: The disk is full, or fails.
        """
        self._write({0: _entry(commits & _BITS)}, durably=False)

    def unknown(self) -> list[int]:
        """Return the numbers of the pages of which no checksum is known, or none that can be right."""
        noted = self._read_notes()
        with self._database.open("rb") as file:
            pages = os.fstat(file.fileno()).st_size // _page_bytes(file.read(18)[16:])
        suspect = [number for number in range(1, pages + 1) if not _whole(noted[number : number + 1])]
        return sorted(set(suspect) - self._find_logged()) if suspect else []

    def complete(self) -> None:
        """
        Note the pages of which nothing is known as they lie there.

        Raises:
            OSError: The disk is full, or fails.
        """
        if missing := self.unknown():
            with self._database.open("rb") as file:
                size = _page_bytes(file.read(18)[16:])
                self._write({number: _sum(number, _page(file.fileno(), number, size)) for number in missing})

    def forget(self) -> None:
        """Know of no page any more."""
        self._sums.unlink(missing_ok=True)

    def note(self, frames: int) -> None:
        """
        Note the pages that lie in these first frames of the log, durably.

        Raises:
            OSError: The disk is full, or fails. Try it again before the log is written over.
        """
        if frames > 0:
            with self._log.open("rb") as file:
                size = int.from_bytes(file.read(_LOG_HEADER)[8:12], "big")
                sums = {}
                for _ in range(frames):
                    number = int.from_bytes(file.read(_FRAME_HEADER)[:4], "big")
                    sums[number] = _sum(number, file.read(size))
            self._write(sums)

    def _write(self, entries: Mapping[int, int], *, durably: bool = True) -> None:
        descriptor = disk.open_private(self._sums, os.O_WRONLY)
        try:
            for number, entry in sorted(entries.items()):
                os.pwrite(descriptor, entry.to_bytes(_ENTRY, "little"), _ENTRY * number)
            if durably:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _read_notes(self) -> tuple[int, ...]:
        try:
            entries = self._sums.read_bytes()
        except FileNotFoundError:
            return ()
        count = len(entries) // _ENTRY
        return struct.unpack(f"<{count}Q", entries[: count * _ENTRY])

    def _find_differing(self, numbers: Iterable[int] | None = None) -> Iterator[int]:
        """Yield which of these pages, or of all, differ from their checksums."""
        if len(noted := self._read_notes()) < 2:
            return
        with self._database.open("rb") as file:
            try:
                size = _page_bytes(file.read(18)[16:])
            except ValueError:
                yield 1
                return
            read = _all_pages(file.fileno(), size, len(noted) - 1) if numbers is None else (
                (number, _page(file.fileno(), number, size)) for number in numbers
            )  # fmt: skip
            for number, page in read:
                if number < len(noted) and _sum(number, page) != noted[number] and _whole(noted[number : number + 1]):
                    yield number

    def _find_logged(self) -> set[int]:
        """Return the pages that are in the log. Frames that it had before it was written over have another salt."""
        pages: set[int] = set()
        with suppress(FileNotFoundError), self._log.open("rb") as file:
            header = file.read(_LOG_HEADER)
            size, salt, place = int.from_bytes(header[8:12], "big"), header[16:24], _LOG_HEADER
            while (frame := os.pread(file.fileno(), _FRAME_HEADER, place)) and frame[8:16] == salt:
                pages.add(int.from_bytes(frame[:4], "big"))
                place += _FRAME_HEADER + size
        return pages


def _page_bytes(field: bytes) -> int:
    """Return the size of pages as the database's header has it."""
    size = int.from_bytes(field, "big")
    size = 65536 if size == 1 else size
    if size < 512 or size & (size - 1):
        raise ValueError(size)
    return size


def _page(descriptor: int, number: int, size: int) -> bytes:
    return os.pread(descriptor, size, (number - 1) * size)


def _all_pages(descriptor: int, size: int, most: int) -> Iterator[tuple[int, bytes | memoryview]]:
    """Yield the pages with their numbers. Pages that the file does not have are empty."""
    for first in range(0, most, BLOCK_PAGES):
        block = memoryview(os.pread(descriptor, BLOCK_PAGES * size, first * size))
        for index in range(min(BLOCK_PAGES, most - first)):
            yield first + index + 1, block[index * size : (index + 1) * size]


def _sum(number: int, page: bytes | memoryview) -> int:
    """Return the note of a page. It includes the page's number, so that two cannot change places."""
    return _entry(zlib.crc32(page, number))


def _entry(number: int) -> int:
    return number | (number ^ _BITS) << 32


def _whole(entry: tuple[int, ...]) -> bool:
    """Return whether the note of a page can be right. An empty one cannot."""
    return bool(entry) and entry[0] & _BITS ^ _BITS == entry[0] >> 32
