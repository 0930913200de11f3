"""``raytrail backup``: the history, as it is at one moment."""

from __future__ import annotations

from pathlib import Path

import click

from raytrail import words
from raytrail.config import Config, store_dir
from raytrail.store import back_up
from raytrail.terminal import note, options
from raytrail.terminal.progress import progress


@click.command(cls=options.Command)
@click.argument("target", type=click.Path(path_type=Path), metavar="DIRECTORY")
@click.option("--copy", is_flag=True, help="Copy all files, though they could be linked on the same file system.")
@options.settings("store.dir")
def backup(target: Path, copy: bool, config: Config) -> None:
    """
    Back the history up.

    A history and servers may go on meanwhile. The backup is the history as it was at one moment. DIRECTORY is empty, or
    not there yet, or an earlier backup of the same history, to which only what is new is copied then.

    On the same file system files are linked, which takes no room and no time. Links do not help when the disk fails.
    For that, give a directory on another disk.
    """
    with progress(0, "backing up") as advance:
        made = back_up(store_dir(config), target.absolute(), copy=copy, advance=lambda count: advance(count, 0))
    note(f"{made.files:,} files, {words.size(made.bytes)}, in {target}; `raytrail restore {target}` brings them back")
