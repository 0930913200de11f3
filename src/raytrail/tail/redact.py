"""
Secrets out of lines, before they leave the node.

A masked line is as long as it was, each byte of a secret an asterisk, so that the ranges of the source file stay
true; what is not masked is not touched. Ray writes runtime environments as JSON within JSON, so names and values
are found at any depth of quoting, by their bytes: a line that is cut, or is no JSON, is masked to its end.

A job's entrypoint is a shell's command, and may begin with variables: ``TOKEN=... python train.py``.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable

# every byte passes here: the C library's search takes a third of the time that `bytes.find` does
_memmem = ctypes.CDLL(None).memmem
_memmem.restype = ctypes.c_void_p
_memmem.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)

_TOKEN = re.compile(rb'(\\*)"|[{}\[\]\n]')
_COLON = re.compile(rb'(\\*)"\s*:\s*')
_FLAT = re.compile(rb'(\\*)"\s*:\s*\{[^{}\n]*\}')
_KEY = re.compile(rb"\s*:")
_PASSWORD = re.compile(rb"://[^\s/\"'\\@:]*:([^\s/\"'\\@]+)@")
_ENTRYPOINT = re.compile(rb'"entrypoint"\s*:\s*"((?:[^"\\\n]|\\.)*)')
_COMMAND = re.compile(rb"(?:\A|[;&|(]|\\n|\b(?:env|export)(?:\s+-\S+)*(?=\s))\s*")
_VARIABLE = re.compile(rb"""[A-Za-z_]\w*=((?:\\"(?:[^"\\]|\\[^"])*(?:\\")?|'[^']*'?|\\[^"n]|[^\s;&|()'\\])*)\s*""")
_WITH_ENTRYPOINT = ("DRIVER_JOB", "SUBMISSION_JOB")  # tasks, by far the most bytes, are not searched for what they lack
_QUOTE, _NEWLINE = b'"\n'
_OPENING, _CLOSING = b"{[", b"}]"
_KNOWN = 1000  # values that are remembered
_URL_BYTES = 4096  # longest user and password that are looked for


Spans = list[tuple[int, int]]
"""Start and end of what is to be masked."""


class Redactor:
    """
    Masks the values of `names`, passwords in URLs, and the variables that a job's entrypoint sets.

    A value is a string, or all strings in an object or array but its keys. Numbers stay.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = [name.encode() for name in names]
        # All tasks of a job have the same runtime environment: from its text to the quote that its name begins with,
        # and the text with its strings masked.
        self._known: dict[bytes, tuple[bytes, bytes]] = {}

    def __call__(self, data: bytes, event_type: str) -> bytes:
        """Return `data`, lines of JSON of one event type, with what is secret masked; the same object if nothing is."""
        if not self._names:
            return data
        masked: bytearray | None = None
        for name in self._names:
            if not _memmem(data, len(data), name, len(name)):
                continue
            masked = bytearray(data) if masked is None else masked
            at = data.find(name)
            while at >= 0:
                end = at + len(name)
                value = _FLAT.match(data, end)
                quote, hidden = self._hidden(value) if value else (b"", b"")
                if not hidden:
                    _mask_value(data, at, end, masked)
                elif data.endswith(quote, 0, at) and data[at - len(quote) - 1 : at - len(quote)] != b"\\":
                    masked[end : end + len(hidden)] = hidden
                at = data.find(name, end)
        at = data.find(b"@")  # far rarer than "://"
        while at >= 0:
            begins = data.rfind(b"://", max(0, at - _URL_BYTES), at)
            if begins >= 0 and (password := _PASSWORD.fullmatch(data, begins, at + 1)):
                masked = bytearray(data) if masked is None else masked
                _mask(masked, [password.span(1)])
            at = data.find(b"@", at + 1)
        for entrypoint in _ENTRYPOINT.finditer(data) if event_type in _WITH_ENTRYPOINT else ():
            begins = entrypoint.start(1)
            if spans := [(begins + start, begins + end) for start, end in _variables(entrypoint[1])]:
                masked = bytearray(data) if masked is None else masked
                _mask(masked, spans)
        return data if masked is None else bytes(masked)

    def _hidden(self, value: re.Match[bytes]) -> tuple[bytes, bytes]:
        """Return the quote that a name ends with, and what follows it, masked; nothing where a brace is in a string."""
        known = self._known.get(value[0])
        if known is None:
            text, slashes = bytearray(value[0]), len(value[1])
            strings = _strings(value[0], value[0].index(b"{"), slashes)
            _mask(text, strings)
            whole = not strings or strings[-1][1] < len(text)
            if len(self._known) >= _KNOWN:
                self._known.clear()
            known = self._known[value[0]] = bytes(text[: slashes + 1]), bytes(text) if whole else b""
        return known


def _variables(command: bytes) -> Spans:
    """Return the values of the variables that a shell's command, as text within JSON, sets for what it runs."""
    found: Spans = []
    for begins in _COMMAND.finditer(command):
        at = begins.end()
        while variable := _VARIABLE.match(command, at):
            found.append(variable.span(1))
            at = variable.end()
    return found


def _mask(line: bytearray, spans: Spans) -> None:
    for start, end in spans:
        line[start:end] = b"*" * (end - start)


def _mask_value(data: bytes, start: int, end: int, masked: bytearray) -> None:
    """Mask the value of a name that lies in ``[start, end)``, if it is the whole name of one."""
    colon = _COLON.match(data, end)
    if colon is None or not _opens(data, start, colon[1]):
        return
    at = colon.end()
    if at < len(data) and data[at] in b'{["\\':  # else it is a number, true, false or null
        _mask(masked, _strings(data, at, len(colon[1])))


def _opens(data: bytes, start: int, backslashes: bytes) -> bool:
    """Say whether a name that begins at `start` is a whole one, in quotes with that many backslashes."""
    quote = start - len(backslashes) - 1
    return data[max(0, quote) : start] == backslashes + b'"' and data[max(0, quote - 1) : quote] != b"\\"


def _strings(data: bytes, at: int, slashes: int) -> Spans:
    """
    Return the strings, but for keys, of the value that begins at `at`; up to the line's end where it is cut.

    Args:
        data: Lines.
        at: Where the value begins.
        slashes: Backslashes before each quote: 2 ** k - 1 of them where it is quoted k times.
    """
    found: Spans = []
    opened, depth = -1, 0
    for token in _TOKEN.finditer(data, at):
        last = data[token.end() - 1]
        if last == _NEWLINE:
            if opened >= 0:
                found.append((opened, token.start()))
            return found
        if last == _QUOTE:
            # backslashes before it that belong to the string come in twice as many
            if len(token[1]) % (2 * (slashes + 1)) != slashes:
                continue
            if opened < 0:
                opened = token.end()
                continue
            if not (depth and _KEY.match(data, token.end())):
                found.append((opened, token.end() - 1 - slashes))
            opened = -1
        elif opened < 0:
            depth += (last in _OPENING) - (last in _CLOSING)
        if depth <= 0 and opened < 0:
            return found
    if opened >= 0:
        found.append((opened, len(data)))
    return found
