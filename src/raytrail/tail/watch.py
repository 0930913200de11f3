"""The files that the kernel says have grown. It is asked by inotify, through ctypes, on whole directories."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

# <sys/inotify.h>
_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _OVERFLOW, _IGNORED, _ONLYDIR, _DONT_FOLLOW = 0x400, 0x800, 0x4000, 0x8000, 1 << 24, 1 << 25
_MASK = _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR | _DONT_FOLLOW
_EVENT = struct.Struct("iIII")
"""
struct inotify_event: | wd: int | mask: uint32 | cookie: uint32 | len: uint32 | name: len bytes, zeros |
"""


_MOST_READS = 32
"""How often 64 KiB of events are read at once. Whoever writes without pause makes news faster than they are read."""


class News(NamedTuple):
    """The events since `Watch.read` was last called."""

    grown: set[tuple[Path, str]]
    """Directory and name of files that were written to."""
    changed: set[Path]
    """Directories in which a file appeared, vanished or was renamed, or that vanished themselves."""
    overflow: bool
    """True if the kernel dropped events, so that everything is to be looked at."""


class Watch:
    """
    Directories under watch.

    Raises:
        OSError: There is no inotify here, or no more of it.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(self._libc, "inotify_init1"):
            raise OSError(errno.ENOSYS, "no inotify on this system")
        self._fd = self._call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)
        self._directories: dict[int, Path] = {}

    def add(self, directory: Path) -> None:
        """
        Watch `directory`, if it is not watched yet.

        Raises:
            OSError: It is not there, or the user's watches are used up (fs.inotify.max_user_watches).
        """
        if directory not in self._directories.values():
            self._directories[self._call("inotify_add_watch", self._fd, os.fsencode(directory), _MASK)] = directory

    def wait(self, seconds: float) -> None:
        """Return when there are news, or the time is over."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.poll(max(0, seconds) * 1000)

    def read(self) -> News:
        """Return the news, without waiting for any. The next call returns the rest of a flood."""
        news = News(set(), set(), False)
        for _ in range(_MOST_READS):
            try:
                events = os.read(self._fd, 64 * 1024)
            except BlockingIOError:
                return news
            for watch, mask, name in _split(events):
                if mask & _OVERFLOW:
                    news = news._replace(overflow=True)
                elif directory := self._directories.get(watch):
                    self._note(news, watch, directory, mask, name)
        return news

    def close(self) -> None:
        """Stop watching."""
        os.close(self._fd)

    def _note(self, news: News, watch: int, directory: Path, mask: int, name: str) -> None:
        """Add an event of a directory to the news. End its watch where the directory went away."""
        if mask & _MODIFY:
            news.grown.add((directory, name))
        else:
            news.changed.add(directory)
        if mask & _MOVE_SELF:
            with suppress(OSError):  # it was moved twice, or deleted since, and is watched no more
                self._call("inotify_rm_watch", self._fd, watch)  # its path is another's now
        if mask & _IGNORED:
            del self._directories[watch]

    def _call(self, name: str, *arguments: object) -> int:
        result: int = getattr(self._libc, name)(*arguments)
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


def _split(events: bytes) -> Iterator[tuple[int, int, str]]:
    """Yield the watch, the mask and the name of each event."""
    offset = 0
    while offset < len(events):
        watch, mask, _, length = _EVENT.unpack_from(events, offset)
        offset += _EVENT.size + length
        yield watch, mask, os.fsdecode(events[offset - length : offset].rstrip(b"\0"))
