"""The common parts of the commands, which are options, tables, times, and notes on stderr."""

from __future__ import annotations

import logging

import click

from raytrail.log import log_format


def note(text: str) -> None:
    """Say something about what is printed, out of its way."""
    if log_format() == "json":
        logging.getLogger("raytrail").info("%s", text)
    else:
        click.echo(text, err=True)
