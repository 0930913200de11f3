"""Words on stderr, and numbers as words: apart from the tables, whose libraries an agent need not hold in memory."""

from __future__ import annotations

import click


def note(text: str) -> None:
    """Say something about what is printed, out of its way."""
    click.echo(text, err=True)


def size(count: int) -> str:
    """Return a number of bytes as text, in decimal units: ``12.3 MB``."""
    if count < 1_000:
        return f"{count} B"
    scaled, unit = float(count), ""
    for unit in ("kB", "MB", "GB", "TB"):  # noqa: B007 (read after the loop)
        scaled /= 1_000
        if scaled < 999.95:
            break
    return f"{scaled:.1f} {unit}"
