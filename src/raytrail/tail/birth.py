"""When a file came to be, which with its inode is what no other file on the disk has: statx(2), by ctypes."""

from __future__ import annotations

import ctypes
import os
import struct
from functools import cache

_AT_EMPTY_PATH, _STATX_BTIME = 0x1000, 0x800  # <linux/stat.h>
_STATX = struct.Struct("I76xqI")
"""
struct statx: | mask: uint32 | 76 bytes | birth, seconds: int64 | birth, nanoseconds: uint32 | ... 256 bytes in all |
"""


def birth_ns(fd: int) -> int | None:
    """Return when an open file was made, in nanoseconds since the epoch, or None where the file system keeps none."""
    known = getattr(os.fstat(fd), "st_birthtime", None)  # macOS and the BSDs
    if known is not None:
        return int(known * 10**9)
    libc = _libc()
    if not hasattr(libc, "statx"):
        return None
    buffer = ctypes.create_string_buffer(256)
    if libc.statx(fd, b"", _AT_EMPTY_PATH, _STATX_BTIME, buffer) < 0:
        return None
    mask, seconds, nanoseconds = _STATX.unpack_from(buffer.raw)
    return int(seconds * 10**9 + nanoseconds) if mask & _STATX_BTIME else None


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
