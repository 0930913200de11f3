"""
Find the strings and numbers of a value, by its bytes. It may be JSON at any depth of quoting, or Python's own notation.

Nothing here looks at a byte twice, so that a hostile line takes time in proportion to its length.
"""

from __future__ import annotations

import re
from typing import NamedTuple

Spans = list[tuple[int, int]]
"""Start and end of what is to be masked."""

_MARK = re.compile(rb'["{}\[\]\n]|-?\d[\d.eE+-]*')
_END = re.compile(rb'["\n]')
_KEY = re.compile(rb"\s{0,8}:")
_REPR_MARK = re.compile(rb"[\"'{}\[\]()\n]")
_REPR_END = re.compile(rb"['\"\\\n]")
_OPENING, _CLOSING = b"{[(", b"}])"
_QUOTE, _APOSTROPHE, _NEWLINE, _BACKSLASH = b"\"'\n\\"


class Value(NamedTuple):
    """A value, and what is in it."""

    strings: Spans
    keys: Spans
    numbers: Spans
    end: int


def slashes_before(data: bytes, start: int, at: int) -> int:
    """Return how many backslashes stand before `at`, at most back to `start`."""
    before = data[start:at]
    return len(before) - len(before.rstrip(b"\\"))


def _own_slashes(data: bytes, start: int, at: int) -> int:
    """
    Return how many of the backslashes before a quote are its own: 2 ** k - 1 where it is quoted k times.

    Those that belong to the text before it come in twice as many.
    """
    following = slashes_before(data, start, at) + 1
    return (following & -following) - 1


def closing_quote(data: bytes, at: int, slashes: int) -> tuple[int, int]:
    """
    Return where a string ends, and where what follows it begins.

    A line's end ends it, and so does a quote of what it is quoted in.

    Args:
        data: Lines.
        at: After its first quote.
        slashes: Backslashes before each of its quotes: 2 ** k - 1 of them where it is quoted k times.
    """
    while mark := _END.search(data, at):
        end = mark.start()
        if data[end] == _NEWLINE:
            return end, end
        own = _own_slashes(data, at, end)
        if own < slashes:
            return end - own, end - own
        if own == slashes:
            return end - slashes, end + 1
        at = end + 1
    return len(data), len(data)


def json_value(data: bytes, at: int, slashes: int) -> Value:
    """
    Return what is in the JSON value that begins at `at`. It ends with its line where it is cut.

    Args:
        data: Lines.
        at: The beginning of the value.
        slashes: Backslashes before each quote, as of `closing_quote`.
    """
    value = Value([], [], [], 0)
    depth = 0
    while mark := _MARK.search(data, at):
        begins, last = mark.start(), data[mark.start()]
        if last == _NEWLINE:
            return value._replace(end=begins)
        if last == _QUOTE:
            if _own_slashes(data, at, begins) < slashes:
                return value._replace(end=begins)
            end, at = closing_quote(data, begins + 1, slashes)
            (value.keys if depth and _KEY.match(data, at) else value.strings).append((begins + 1, end))
        else:
            at = mark.end()
            depth += (last in _OPENING) - (last in _CLOSING)
            if last not in _OPENING + _CLOSING:
                value.numbers.append(mark.span())
        if depth <= 0:
            return value._replace(end=at)
    return value._replace(end=len(data))


def repr_value(data: bytes, at: int, *, is_json: bool) -> Value:
    """
    Return what is in a value in Python's notation that begins at `at`.

    Args:
        data: Lines.
        at: Its beginning.
        is_json: Whether it is part of a JSON string, which a quote without a backslash ends.
    """
    value = Value([], [], [], 0)
    depth = 0
    while mark := _REPR_MARK.search(data, at):
        begins, last = mark.start(), data[mark.start()]
        slashes = _own_slashes(data, at, begins) if last == _QUOTE else 0
        if last == _NEWLINE or (last == _QUOTE and is_json and not slashes):
            return value._replace(end=begins)
        at = begins + 1
        if last in (_QUOTE, _APOSTROPHE):
            quote = closing_quote(data, at, slashes) if last == _QUOTE else closing_apostrophe(data, at, is_json)
            (value.keys if _KEY.match(data, quote[1]) else value.strings).append((at, quote[0]))
            at = quote[1]
        else:
            depth += (last in _OPENING) - (last in _CLOSING)
        if depth <= 0:
            return value._replace(end=at)
    return value._replace(end=len(data))


def closing_apostrophe(data: bytes, at: int, is_json: bool) -> tuple[int, int]:
    """Return where a string in apostrophes ends, and where what follows it begins, as `closing_quote` does."""
    while mark := _REPR_END.search(data, at):
        end = mark.start()
        last = data[end]
        if last == _APOSTROPHE:
            return end, end + 1
        if last == _NEWLINE or (last == _QUOTE and is_json):
            return end, end
        # Python's own backslash, which is two in JSON, or JSON's
        escaped = 3 if data[end : end + 3] == b"\\\\'" else 2
        at = end + (escaped if last == _BACKSLASH else 1)
    return len(data), len(data)
