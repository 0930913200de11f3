"""The common parts of the commands, which are options, tables, times, and notes on stderr."""

from __future__ import annotations

import click


def note(text: str) -> None:
    """Say something about what is printed, out of its way."""
    click.echo(text, err=True)
