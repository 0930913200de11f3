"""
Secrets out of lines, before they leave the node.

A masked line is as long as it was, each byte of a secret an asterisk, so that the ranges of the source file stay
true; what is not masked is not touched. Ray writes runtime environments as JSON within JSON, so names and values
are found at any depth of quoting, by their bytes: a line that is cut, or is no JSON, is masked to its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_TOKEN = re.compile(rb'(\\*)"|[{}\[\]\n]')
_COLON = re.compile(rb'(\\*)"\s*:\s*')
_KEY = re.compile(rb"\s*:")
_PASSWORD = re.compile(rb"://[^\s/\"'\\@:]*:([^\s/\"'\\@]+)@")
_QUOTE, _NEWLINE = b'"\n'
_OPENING, _CLOSING = b"{[", b"}]"


class Redactor:
    """
    Masks the values of `names`, and passwords in URLs.

    A value is a string, or all strings in an object or array but its keys. Numbers stay.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = [name.encode() for name in names]

    def __call__(self, data: bytes) -> bytes:
        """Return `data`, lines of JSON, with what is secret masked; the same object where nothing is."""
        masked: bytearray | None = None
        for start, end in self._secrets(data):
            masked = bytearray(data) if masked is None else masked
            masked[start:end] = b"*" * (end - start)
        return data if masked is None else bytes(masked)

    def _secrets(self, data: bytes) -> Iterable[tuple[int, int]]:
        if not self._names:
            return
        for name in self._names:
            at = data.find(name)
            while at >= 0:
                yield from _value(data, at, at + len(name))
                at = data.find(name, at + len(name))
        if b"://" in data:
            yield from (match.span(1) for match in _PASSWORD.finditer(data))


def _value(data: bytes, start: int, end: int) -> Iterable[tuple[int, int]]:
    """Yield what is to be masked of the value that a name has, if it is the whole name of one."""
    colon = _COLON.match(data, end)
    if colon is None:
        return
    # a quote that is quoted k times has 2 ** k - 1 backslashes before it
    slashes = len(colon[1])
    quote = start - slashes - 1
    if data[max(0, quote) : start] != colon[1] + b'"' or data[max(0, quote - 1) : quote] == b"\\":
        return
    at = colon.end()
    if at < len(data) and data[at] not in b'{["\\':
        return  # a number, true, false or null
    opened, depth = -1, 0
    for token in _TOKEN.finditer(data, at):
        last = data[token.end() - 1]
        if last == _NEWLINE:
            if opened >= 0:
                yield opened, token.start()
            return
        if last == _QUOTE:
            # backslashes before it that belong to the string come in twice as many
            if len(token[1]) % (2 * (slashes + 1)) != slashes:
                continue
            if opened < 0:
                opened = token.end()
                continue
            if not (depth and _KEY.match(data, token.end())):
                yield opened, token.end() - 1 - slashes
            opened = -1
        elif opened < 0:
            depth += (last in _OPENING) - (last in _CLOSING)
        if depth <= 0 and opened < 0:
            return
    if opened >= 0:
        yield opened, len(data)
