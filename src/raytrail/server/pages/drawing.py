"""A timeline as SVG, for browsers without scripts, as the script draws it on a canvas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from raytrail.answers.timeline import CHARACTERS, LEVELS, Bins, Slices, Timeline

WIDTH = 1000
"""How wide it is, in units of its own."""
ROW = 16
"""How high a row is."""
MOST_SHAPES = 6_000
"""Most rectangles of a drawing: a page has at most some 100 kB."""
COLOURS = 12
"""How many colours functions have."""

_NUMBER = {character: number for number, character in enumerate(CHARACTERS)}


class Drawing(NamedTuple):
    """Paths by the class of their colour, and the place of each row's name."""

    height: int
    paths: tuple[tuple[str, str], ...]
    labels: tuple[tuple[int, str], ...]


class _Shape(NamedTuple):
    kind: str
    x: float
    y: float
    width: float
    height: float


def colour(function: str) -> int:
    """Return the number of a function's colour, which is the same in every window: what the script works out, too."""
    number = 0
    for character in function:
        number = (number * 31 + ord(character)) % 65_521
    return number % COLOURS


def draw(answer: Timeline) -> Drawing:
    """Return the drawing of a timeline."""
    shapes: dict[str, list[str]] = defaultdict(list)
    drawn = _draw_bins(answer, answer.bins) if answer.bins else ()
    drawn = _draw_slices(answer, answer.slices) if answer.slices else drawn
    for shape in drawn:
        shapes[shape.kind].append(f"M{shape.x:g} {shape.y:g}h{shape.width:g}v{shape.height:g}h-{shape.width:g}z")
    in_order = sorted(shapes, key=lambda kind: (kind == "failed", kind))  # failures on top
    return Drawing(
        height=max(1, len(answer.rows.label)) * ROW,
        paths=tuple((kind, "".join(shapes[kind])) for kind in in_order),
        labels=tuple((number * ROW, label) for number, label in enumerate(answer.rows.label)),
    )


def _draw_bins(answer: Timeline, bins: Bins) -> Iterator[_Shape]:
    span_us = (answer.to_ms - answer.from_ms) * 1000
    together = -(-bins.count * max(1, len(bins.busy)) // MOST_SHAPES)
    width = bins.bin_us * together / span_us * WIDTH
    for row, (busy, functions) in enumerate(zip(bins.busy, bins.function, strict=True)):
        for first in range(0, bins.count, together):
            steps = [_NUMBER[character] for character in busy[first : first + together]]
            level = max(step % (LEVELS + 1) for step in steps)
            if not level:
                continue
            place = _NUMBER[functions[first + max(range(len(steps)), key=lambda step: steps[step] % (LEVELS + 1))]]
            name = answer.functions[place] if place < len(answer.functions) else ""
            x = round((bins.start_us + first * bins.bin_us) / span_us * WIDTH, 1)
            height = max(2, round(level / LEVELS * (ROW - 2)))
            yield _Shape(f"f{colour(name)}", x, row * ROW + ROW - 1 - height, round(width, 1), height)
            if any(step > LEVELS for step in steps):
                yield _Shape("failed", x, row * ROW + ROW - 4, round(max(width, 1), 1), 3)


def _draw_slices(answer: Timeline, slices: Slices) -> Iterator[_Shape]:
    span_us = (answer.to_ms - answer.from_ms) * 1000
    failed = set(slices.failed)
    for number, (row, function, start_us, run_us) in enumerate(
        zip(slices.row, slices.function, slices.start_us, slices.run_us, strict=True)
    ):
        end_us = span_us if run_us < 0 else min(start_us + run_us, span_us)
        x = round(max(0, start_us) / span_us * WIDTH, 1)
        width = round(max(1.0, (end_us - max(0, start_us)) / span_us * WIDTH), 1)
        yield _Shape(f"f{colour(answer.functions[function])}", x, row * ROW + 1, width, ROW - 2)
        if number in failed:
            yield _Shape("failed", x, row * ROW + ROW - 4, width, 3)
