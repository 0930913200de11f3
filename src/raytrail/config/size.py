"""Sizes as people write them, e.g. ``256 KiB``."""

from __future__ import annotations

import re

_UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKMG]?(?:iB|B)?)\s*")


def as_bytes(text: str) -> str | int:
    """Return the bytes of a size such as ``256 KiB``. Other text stays, since the type's error says more about it."""
    match = _SIZE.fullmatch(text)
    return int(float(match[1]) * _UNITS[match[2]]) if match and match[2] in _UNITS else text


def shown_bytes(count: int) -> str:
    """Return a number of bytes in the largest unit of which it is a whole number, e.g. ``256 KiB``."""
    for unit in ("GiB", "MiB", "KiB", "GB", "MB", "kB"):
        if count and count % _UNITS[unit] == 0:
            return f"{count // _UNITS[unit]} {unit}"
    return f"{count} B"
