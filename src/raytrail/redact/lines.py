"""Lines of one event type, what is to stand in them instead, and where names in them begin."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from raytrail.event import LOG
from raytrail.redact.quoted import Spans, slashes_before

Patch = tuple[int, bytes]
"""The places where something else should stand, and what."""
Take = Callable[["Lines", int, int], int]
"""Masks what a word says, that stands at these places, and returns up to where that is done."""

_NAME_BYTES = 64
_IN_NAMES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"
_ESCAPED_LETTERS, _ESCAPED_NUMBER = b"nrtbf", ord("u")


class Lines:
    """Lines of one event type, and what is to stand in them instead."""

    def __init__(self, data: bytes, event_type: str, *, again: bool) -> None:
        self.data, self.event_type = data, event_type
        self.patches: list[Patch] = []
        self.again = again
        """Whether these are lines whose needless escapes were taken out."""
        self.commands_end = 0
        """Up to where commands have been looked for."""

    @property
    def is_json(self) -> bool:
        """Whether each line is JSON."""
        return self.event_type != LOG

    def mask(self, spans: Iterable[tuple[int, int]]) -> None:
        """Have asterisks stand there, but for the ends of lines."""
        for start, end in spans:
            for line in self.data[start:end].splitlines(keepends=True) if end > start else ():
                text = line.rstrip(b"\r\n")
                self.patches.append((start, b"*" * len(text)))
                start += len(line)

    def mask_numbers(self, spans: Spans) -> None:
        """Have a 1 stand for each digit, so that a number stays one."""
        for start, end in spans:
            self.patches.append((start, re.sub(rb"\d", b"1", self.data[start:end])))


def line_end(data: bytes, at: int) -> int:
    """Return where the line that holds `at` ends."""
    end = data.find(b"\n", at)
    return len(data) if end < 0 else end


def name_begins(data: bytes, start: int) -> int:
    """Return where the name begins that has a part at `start`. The letter of an escape before it is not in it."""
    head = data[max(0, start - _NAME_BYTES) : start]
    begins = start - len(head) + len(head.rstrip(_IN_NAMES))
    if begins < start and slashes_before(data, max(0, begins - 16), begins) % 2:
        begins += 5 if data[begins] == _ESCAPED_NUMBER else data[begins] in _ESCAPED_LETTERS
    return min(begins, start)
