"""Text without its escapes, and where each byte of it stood before: what is masked there is masked in the file."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable

_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_CONTROLS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"b": b"\b", b"f": b"\f"}
_NEEDLESS = re.compile(rb"(\\+)u00([2-7][0-9a-fA-F])")


class Unescaped:
    """
    Text, and the place of each of its bytes in the text that it was made of.

    Args:
        text: The text that it was made of.
        changes: The begin and the end of each escape, and the text that it stands for.
    """

    def __init__(self, text: bytes, changes: Iterable[tuple[int, int, bytes]]) -> None:
        pieces, self._starts, self._places = list[bytes](), array("q", [0]), array("q", [0])
        at = length = 0
        for start, end, instead in changes:
            pieces += (text[at:start], instead)
            length += start - at
            for _ in instead:  # each byte of it stands for the whole escape
                self._note(length, start)
                length += 1
            self._note(length, end)
            at = end
        pieces.append(text[at:])
        self.text = b"".join(pieces)

    def place(self, at: int) -> int:
        """Return where a byte of the text stood."""
        number = bisect_right(self._starts, at) - 1
        return self._places[number] + at - self._starts[number]

    def _note(self, start: int, place: int) -> None:
        self._starts.append(start)
        self._places.append(place)


def without_needless_escapes(line: bytes) -> Unescaped:
    r"""
    Return a line of JSON in which every letter stands as itself, at each depth of quoting: a key may be ``"\u0070wd"``.

    A quote or a backslash that is written by its number gets the backslashes that it needs at its depth.
    """

    def changes() -> Iterable[tuple[int, int, bytes]]:
        for escape in _NEEDLESS.finditer(line):
            slashes = len(escape[1])
            own = slashes & -slashes  # those before them stand for themselves
            letter = bytes([int(escape[2], 16)])
            if letter in b'"\\':
                letter = b"\\" * (2 * own - 1) + letter
            yield escape.end(1) - own, escape.end(), letter

    return Unescaped(line, changes())


def unquoted(text: bytes, levels: int) -> tuple[bytes, Callable[[int], int]]:
    """
    Return what a JSON string says, and a function that tells where a byte of it stood.

    Args:
        text: The text between its quotes.
        levels: How many times it is quoted, at least once.
    """
    places: list[Callable[[int], int]] = []
    for _ in range(levels):
        level = Unescaped(text, _changes(text))
        text = level.text
        places.append(level.place)

    def place(at: int) -> int:
        for level_place in reversed(places):
            at = level_place(at)
        return at

    return text, place


def _changes(text: bytes) -> Iterable[tuple[int, int, bytes]]:
    for escape in _ESCAPE.finditer(text):
        if escape[1]:
            number = int(escape[1], 16)
            yield escape.start(), escape.end(), bytes([number]) if number < 0x80 else b"?"
        else:
            yield escape.start(), escape.end(), _CONTROLS.get(escape[2], escape[2])
