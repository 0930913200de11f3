"""Byte ranges of files: which are stored, what is missing between them, and what they add up to."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class FileKey(NamedTuple):
    """Which file a range belongs to."""

    session: str
    file: str
    generation: int


class Ranges:
    """Byte ranges of one file, none touching the next."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        ordered = sorted(ranges)
        self.changes: dict[int, int | None] = {}
        """
        The changes that `add` made, as ends by their starts. None stands for a range that is part of another one by
        now.
        """
        self._starts = [start for start, _ in ordered]
        self._ends = [end for _, end in ordered]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def end(self) -> int:
        """The end of the last range, or 0 where there is none."""
        return self._ends[-1] if self._ends else 0

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the parts of ``[start, end)`` that are not in here."""
        gaps = []
        for index in range(bisect_right(self._ends, start), len(self._starts)):
            low = self._starts[index]
            if low >= end:
                break
            if low > start:
                gaps.append((start, low))
            start = max(start, self._ends[index])
        if start < end:
            gaps.append((start, end))
        return gaps

    def add(self, start: int, end: int) -> None:
        """Add ``[start, end)``, joining what it touches."""
        if start >= end:
            return
        # those that it touches: they end at its start or later, and start at its end or earlier
        first, after = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < after:
            start, end = min(start, self._starts[first]), max(end, self._ends[after - 1])
            if after == first + 1 and (start, end) == (self._starts[first], self._ends[first]):
                return
        self.changes.update(dict.fromkeys(self._starts[first:after]))
        self.changes[start] = end
        self._starts[first:after] = [start]
        self._ends[first:after] = [end]

    def length(self) -> int:
        """Return how many bytes are in here."""
        return sum(self._ends) - sum(self._starts)

    def extent(self) -> Extent:
        """Return what they add up to."""
        return Extent(1 if self._starts else 0, self.end, self.length())


class Extent(NamedTuple):
    """The sum of the ranges of some files."""

    files: int
    ends: int
    """The sum of the ends of each file's last range."""
    stored: int
    """Bytes in all ranges."""

    def plus(self, other: Extent) -> Extent:
        """Return what both add up to."""
        return Extent(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def minus(self, other: Extent) -> Extent:
        """Return what this one has and the other has not."""
        return Extent(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


NOTHING = Extent(0, 0, 0)
