"""
One file, as it is read: whole lines from a position on, as long as it is still the same file.

A log's lines are nobody's business but its readers': it may be cut anywhere. It is cut at a line's end where there is
one, and half a line is waited for a moment, so that what is read at once belongs together.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import sys
import zlib
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from raytrail import disk, ray_event
from raytrail.event import UNDECODABLE, FileId
from raytrail.tail.birth import birth_ns
from raytrail.tail.checkpoint import Mark
from raytrail.tail.discovery import FileName

Inode = tuple[int, int]
"""Device and inode."""

_HEAD_BYTES = 1024
_BLOCK_BYTES = 256 * 1024
_SEARCH_BYTES = 64 * 1024 * 1024
"""How much is searched at once for the end of a line: one file has no end for hours, and others are to have a turn."""
_SEEK_DATA = getattr(os, "SEEK_DATA", None)

# C++ sorts its keys, so the line's own `timestamp` is the last thing in it. Python's is before `event_data`. Either way
# it is found without a look at `event_data`, which may hold the word too, and be 20 MB long.
_TIMESTAMP_LAST = re.compile(rb'"timestamp":\s*(\d{1,10})\s*\}\s*\Z')
# What Ray posts has a text there.
_TIMESTAMP_FIRST = re.compile(
    rb'\s*\{(?:\s*"\w+":\s*"[^"\\]*",)*?\s*"timestamp":\s*(?:(\d{1,10})|"([\d.:TZ-]{20,30})")\s*[,}]'
)


def _began_s(head: bytes, tail: bytes) -> int:
    """Return the timestamp of a line, by its beginning and its end, in seconds since the epoch, or 0."""
    if last := _TIMESTAMP_LAST.search(tail):
        return int(last[1])
    first = _TIMESTAMP_FIRST.match(head)
    if first is None:
        return 0
    return int(first[1]) if first[1] else ray_event.in_ns(first[2].decode()) // 1_000_000_000


class Changed(Exception):
    """The file is not the one that was read: it shrank, or begins otherwise."""


class Piece(NamedTuple):
    """Whole lines of one file, or one line that is too long to ship. The last line of a file may have no newline."""

    start: int
    length: int
    data: bytes | None
    """None: too long."""


class EventFile:
    """
    A file by its inode, whatever it is called by now.

    Its descriptor pins the inode: as long as it is open, no other file can come to have it, and the file can
    be read to its end even when it has been deleted.
    """

    def __init__(
        self, path: Path, name: FileName, inode: Inode, most_bytes: int | None = None, *, root: Path | None = None
    ) -> None:
        self.path = path
        self.root = root or path.parent
        """Below it no link is followed."""
        self.name = name
        self.inode = inode
        self.most_bytes = most_bytes
        """The most bytes of it that are read. None means all."""
        self.fd: int | None = None
        self.mark: Mark | None = None
        """None until it is known which file it is: an event file by its first line, once that is complete."""
        self.size = 0
        """The bytes that are known to be on disk, and are to be read."""
        self.beyond = 0
        """The bytes on disk after that, over `most_bytes`."""
        self.flush = False
        """True if the next read takes half a line, too. Only of a log."""
        self.seen = (0, 0)
        """Size and modification time, for `changed`."""
        self.position = 0
        """The bytes before it have been read."""
        self.again: deque[tuple[int, int]] = deque()
        """Start and end of what was read, but could not be published."""
        self.more = False
        """True if the last read left something that another one would find."""
        self.queued = False
        """True if it is among those to read."""
        self.shrunk = False
        """True if its inode was seen to hold something else before."""
        self.gone = False
        """True if it had no name when its directory was last listed."""
        self.over = False
        """True if its writer is gone. The last line of an event file is then as whole as it will ever be."""
        self.unread = ""
        """Why what is there after `position` is not read, once it is `over`."""
        self.searching = False
        """True if the end of its next line is still searched for."""
        self._searched = 0  # no line ends in [position, searched)
        self._head = (0, 0)  # length and checksum

    @property
    def done(self) -> bool:
        """True if all that is there was read and acknowledged."""
        return self.position == self.size and self.settled

    @property
    def settled(self) -> bool:
        """True if all that was read is acknowledged."""
        return not self.again and (self.mark is None or self.mark.acknowledged >= self.position)

    @property
    def tried(self) -> bool:
        """True if it is known, or known to have no complete line yet."""
        return self.mark is not None or self._searched >= self.size

    def open(self) -> None:
        """
        Hold on to the file.

        Raises:
            FileNotFoundError: It has another name by now, or none. Its name may be something else's that is no file.
        """
        if self.fd is None:
            try:
                fd = disk.open_file(self.path, self.root)
            except disk.Refused as error:
                raise FileNotFoundError(errno.ENOENT, error.strerror, error.filename) from error
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) != self.inode:
                os.close(fd)
                raise FileNotFoundError(self.path)
            _keep_access_time(fd)
            self.fd = fd

    def close(self) -> None:
        """Let go of the file. It may be opened again while it has a name."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def changed(self, status: os.stat_result) -> bool:
        """Say whether it was written to since this was last asked. `measure` tells what that means."""
        before, self.seen = self.seen, (status.st_size, status.st_mtime_ns)
        return before != self.seen

    def update_mark(self) -> None:
        """Bring its mark, if there is one, up to date with what is known to be on disk."""
        if self.mark is not None:
            self.mark.written = max(self.mark.written, self.size)
            if self.name.is_log:
                self.mark.skipped = self.beyond
            self.mark.unread = (self.position, self.size - self.position, self.unread) if self.unread else None

    @property
    def half(self) -> bool:
        """True if there is more of it, be it half a line: nothing of that is shipped while its writer lives."""
        return not self.name.is_log and self.position < self.size

    def identify(self, session: str, max_line_bytes: int = sys.maxsize) -> FileId | None:
        """
        Make the file's id from its first line, however long. It gives None as long as that is not complete.

        The line is read in blocks and not kept, so that any length will do. For one of more than 64 MiB, these and its
        length are what counts. A log's id is made of what the file system calls it.

        Args:
            session: The session's name.
            max_line_bytes: A last line without a newline is not looked at where it is longer than that.
        """
        if self.name.is_log:
            return self._identify_log(session)
        self.size = os.fstat(self._open_fd).st_size
        if self.size < self._searched:
            self._searched = 0
        end = self._find_line_end()
        ended = end is not None
        if end is None and not self.searching:
            end = self._check_last_line(max_line_bytes)
        if not end:
            return None
        digest = hashlib.blake2b(session.encode() + b"\n", digest_size=16)
        head, tail = b"", b""
        for start in range(0, min(end, _SEARCH_BYTES), _BLOCK_BYTES):
            block = self._pread(start, min(_BLOCK_BYTES, end - start))
            digest.update(block)
            head, tail = head or block[:_HEAD_BYTES], (tail + block)[-_HEAD_BYTES:]
        if end > _SEARCH_BYTES:
            digest.update(b"%d" % end)
        if not ended:
            digest.update(b"\n")  # it is then the same file where the newline comes after all
        self._head = (len(head), zlib.crc32(head))
        return f"{_began_s(head, tail):010d}-{digest.hexdigest()}"

    def _identify_log(self, session: str) -> FileId:
        self._note_size(os.fstat(self._open_fd).st_size)
        born_ns = birth_ns(self._open_fd)
        # without a birth time, another file that comes to have the inode of a deleted one passes for that one
        known_by = f"{self.inode[1]} {self.name.stem if born_ns is None else born_ns}"
        digest = hashlib.blake2b(f"{session}\nLOG {known_by}".encode(errors="surrogateescape"), digest_size=16)
        return f"{(born_ns or 0) // 10**9:010d}-{digest.hexdigest()}"

    def measure(self) -> None:
        """
        Look how large the file is.

        Raises:
            Changed: It is smaller than it was, or its first line is not the one by which it is known: an
                offset is worth nothing in it. Ray never does that to a file, people do.
        """
        length, checksum = self._head
        size = os.fstat(self._open_fd).st_size
        if size < self.size + self.beyond or zlib.crc32(os.pread(self._open_fd, length, 0)) != checksum:
            raise Changed
        if self.name.is_log and length < _HEAD_BYTES and size > length:
            head = os.pread(self._open_fd, _HEAD_BYTES, 0)
            self._head = (len(head), zlib.crc32(head))
        self._note_size(size)

    def _note_size(self, size: int) -> None:
        self.size = size if self.most_bytes is None else min(size, self.most_bytes)
        self.beyond = size - self.size

    def read(self, room: int, *, long: bool, max_line_bytes: int) -> Piece | None:
        """
        Return the next whole lines, `room` bytes at most. It gives None if there are none, or (`more`) none that fit.

        Args:
            room: Bytes.
            long: Whether a line may be longer than that.
            max_line_bytes: A line longer than that is not read at all.

        Raises:
            Changed: The file is not the one that it was.
        """
        self.measure()
        self.more = True
        if self.again:
            start, end = self.again[0]
            if end - start > room and not long:
                return None
            self.again.popleft()
            return Piece(start, end - start, self._pread(start, end - start))
        if self.position >= self.size:  # it is beyond it in a log whose limit was lowered
            self.more = False
            return None
        block = os.pread(self._open_fd, min(room, self.size - self.position), self.position)
        if self.name.is_log:
            return self._read_log(block, whole=self.position + len(block) >= self.size, long=long)
        length = block.rfind(b"\n") + 1
        if length:
            self.more = len(block) == room or (self.over and length < len(block))
            return self._take_piece(block if length == len(block) else block[:length], length)
        if len(block) < room:
            return self._read_last_line(max_line_bytes, alone=long)
        return self._read_long_line(max_line_bytes) if long else None

    def _read_log(self, block: bytes, *, whole: bool, long: bool) -> Piece | None:
        """Return the part of a block that should be shipped. With `whole`, the block holds all that is there."""
        length = block.rfind(b"\n") + 1
        if (self.flush or self.beyond) if whole else (long and not length):
            length = len(block)
        if not length:
            self.more = not whole
            return None
        self.more, self.flush = not whole, False
        return self._take_piece(block[:length], length)

    def _read_long_line(self, max_line_bytes: int) -> Piece | None:
        end = self._find_line_end()
        if self.searching:
            return None
        if end is None:
            return self._read_last_line(max_line_bytes, alone=True)
        length = end - self.position
        return self._take_piece(None if length > max_line_bytes else self._pread(self.position, length), length)

    def _read_last_line(self, max_line_bytes: int, *, alone: bool) -> Piece | None:
        """
        Return the last line, which has no newline, once its writer is gone, or None where it is not a whole event.

        Args:
            max_line_bytes: A longer one is not read.
            alone: Whether nothing is in its chunk before it. It is in one of its own, so that no other line has to be
                without a newline for it.
        """
        length = self._check_last_line(max_line_bytes)
        self.more = bool(length) and not alone  # else its writer will say when there is more
        if not length or self.more:
            return None
        piece = self._take_piece(self._pread(self.position, length), length)
        self.more = self.position < self.size  # NUL bytes
        return piece

    def _check_last_line(self, max_line_bytes: int) -> int:
        """
        Return the length of the last line, which has no newline, if it is a whole event.

        Otherwise note why it is not.
        """
        length = self.size - self.position
        if not self.over or not length:
            return 0
        if length > max_line_bytes:
            self.unread = f"no end of its line within max_line_bytes {max_line_bytes}"
            return 0
        line = self._pread(self.position, length)
        event = line.rstrip(b"\0")
        self.unread = (
            _find_flaw(event) if event else "NUL bytes: its machine stopped before the disk had what was written"
        )
        return 0 if self.unread else len(event)

    def _take_piece(self, data: bytes | None, length: int) -> Piece:
        piece = Piece(self.position, length, data)
        self.position += length
        return piece

    def _find_line_end(self) -> int | None:
        """
        Return the offset after the line at `position`, in blocks, never looking at a byte twice.

        It gives None where the line has no end, or, while `searching`, where none was found yet.
        """
        self._searched = max(self.position, self._searched)
        until, self.searching = self._searched + _SEARCH_BYTES, False
        while self._searched < until:
            if self._searched - self.position >= _SEARCH_BYTES:
                self._skip_hole()
            block = os.pread(self._open_fd, _BLOCK_BYTES, self._searched)
            if not block:
                return None
            newline = block.find(b"\n")
            if newline >= 0:
                return self._searched + newline + 1
            self._searched += len(block)
        self.searching = True
        return None

    def _skip_hole(self) -> None:
        """Go on where the disk holds something: a file of terabytes may be made in a moment, and be empty."""
        if _SEEK_DATA is None:
            return
        try:
            self._searched = os.lseek(self._open_fd, self._searched, _SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # there is nothing from here on
                self._searched = max(self._searched, os.fstat(self._open_fd).st_size)

    def _pread(self, start: int, length: int) -> bytes:
        data = os.pread(self._open_fd, length, start)
        if len(data) != length:
            raise Changed
        return data

    @property
    def _open_fd(self) -> int:
        assert self.fd is not None, self.path
        return self.fd


def _keep_access_time(fd: int) -> None:
    """Have reads of a file not noted in it, which costs a third of a read of few lines. Only its owner may say so."""
    if sys.platform == "linux":
        with suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NOATIME)


def _find_flaw(line: bytes) -> str:
    """Return why a line that has no newline is no whole event, or an empty text where it is one."""
    try:
        msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except UNDECODABLE as error:
        return f"torn: {error}"
    return ""
