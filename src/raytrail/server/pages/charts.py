"""Charts as SVG, made here so that a page needs no script: paths and places, which templates draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from raytrail.answers.progress import Progress
from raytrail.answers.steps import Mark

WIDTH, HEIGHT = 1000, 120
"""The size of a chart, in its own units. The page stretches it."""
LINKS = 100
"""In how many parts a chart leads to a moment."""


class Part(NamedTuple):
    """A part of a chart that leads to a moment."""

    x: float
    width: float
    at_ms: int
    """The end of the part."""
    words: str
    """What was then."""


class MarkPlace(NamedTuple):
    """Where a mark stands."""

    x: float
    kind: str
    at_ms: int
    words: str


class ProgressChart(NamedTuple):
    """The chart of tasks by state over time."""

    width: int
    height: int
    running: str
    """The path of those that run."""
    waiting: str
    """The path of those that wait, above them."""
    failed: tuple[tuple[float, float, float], ...]
    """The bars of those that failed: x, width, height."""
    most: int
    """The number at the top."""
    most_failed: int
    """The most that failed in one part of the time."""
    parts: tuple[Part, ...]
    marks: tuple[MarkPlace, ...]
    began_ms: int
    ended_ms: int
    words: str
    """What the chart shows, for who does not see it."""


def progress_chart(progress: Progress, marks: Sequence[Mark]) -> ProgressChart:
    """Return the chart of how a run went on, with what failed and died meanwhile."""
    bins = len(progress.running)
    stacked = [running + waiting for running, waiting in zip(progress.running, progress.waiting, strict=True)]
    most, most_failed = max(*stacked, 1), max(*progress.failed, 0)
    step = WIDTH / bins
    ended_ms = progress.began_ms + max(1, round(bins * progress.step_ms))
    return ProgressChart(
        width=WIDTH,
        height=HEIGHT,
        running=_area([0] * bins, progress.running, most),
        waiting=_area(progress.running, stacked, most),
        failed=tuple(
            (round(at * step, 1), round(max(step, 2), 1), round(max(4.0, HEIGHT / 3 * count / most_failed), 1))
            for at, count in enumerate(progress.failed)
            if count
        ),
        most=most,
        most_failed=most_failed,
        parts=tuple(_parts(progress)),
        marks=tuple(_marks(progress, marks, ended_ms)),
        began_ms=progress.began_ms,
        ended_ms=ended_ms,
        words=f"At most {max(progress.running):,} ran and {max(progress.waiting):,} waited at once. "
        f"{sum(progress.finished):,} finished and {sum(progress.failed):,} failed.",
    )


def _area(low: Sequence[int], high: Sequence[int], most: int) -> str:
    """Return the path of the area between two rows of numbers, a step for each."""
    step = WIDTH / len(high)

    def y(value: int) -> float:
        return round(HEIGHT - HEIGHT * max(0, value) / most, 1)

    def along(values: Sequence[int]) -> list[tuple[float, float]]:
        points: list[tuple[float, float]] = []
        for at, value in enumerate(values):
            points += [(round(at * step, 1), y(value)), (round((at + 1) * step, 1), y(value))]
        # a point between two of one height says nothing
        return [
            point
            for at, point in enumerate(points)
            if at in (0, len(points) - 1) or not points[at - 1][1] == point[1] == points[at + 1][1]
        ]

    outline = [*along(high), *reversed(along(low))]
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in outline) + "Z"


def _parts(progress: Progress) -> Iterator[Part]:
    bins = len(progress.running)
    count = min(LINKS, bins)
    for number in range(count):
        low, high = number * bins // count, (number + 1) * bins // count
        failed, finished = sum(progress.failed[low:high]), sum(progress.finished[low:high])
        yield Part(
            round(low * WIDTH / bins, 1),
            round((high - low) * WIDTH / bins, 1),
            progress.began_ms + round(high * progress.step_ms),
            f"{progress.running[high - 1]:,} running, {progress.waiting[high - 1]:,} waiting, "
            f"{finished:,} finished, {failed:,} failed",
        )


def _marks(progress: Progress, marks: Sequence[Mark], ended_ms: int) -> Iterator[MarkPlace]:
    span = max(1, ended_ms - progress.began_ms)
    for mark in marks:
        x = (mark.at_ms - progress.began_ms) / span * WIDTH
        if mark.kind != "failure" and 0 <= x <= WIDTH:
            many = f"{mark.count:,} {mark.kind}s" if mark.count > 1 else mark.kind
            yield MarkPlace(round(x, 1), mark.kind, mark.at_ms, many)


def spark(counts: Sequence[int]) -> str:
    """Return the path of a row of small bars, 100 wide and 20 high."""
    most, step = max([*counts, 1]), 100 / max(1, len(counts))
    bars = [
        f"M{at * step:.4g} 20v{-max(2.0, 20 * count / most):.3g}h{step * 0.8:.3g}V20Z"
        for at, count in enumerate(counts)
        if count
    ]
    return "".join(bars)
