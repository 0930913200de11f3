"""``raytrail restore``: a history from a backup."""

from __future__ import annotations

from pathlib import Path

import click

from raytrail import times, words
from raytrail.config import Config, store_dir
from raytrail.exit_codes import DIFFERENT
from raytrail.store import read_manifest
from raytrail.store import restore as bring_back
from raytrail.terminal import note, options, stores
from raytrail.terminal.progress import progress


@click.command(cls=options.Command)
@click.argument("backup", type=click.Path(path_type=Path), metavar="DIRECTORY")
@options.settings("store.dir")
def restore(backup: Path, config: Config) -> None:
    """
    Bring a history back from a backup.

    DIRECTORY is what `raytrail backup` made. --store is where the history is to be, which must be empty, or not there
    yet. Every file is checked against its checksum. Damaged ones are named, and the exit code is 1. All else of the
    history can be used.

    The history that is brought back counts as another one. A broker gives it all that it still holds, so that events
    since the backup come again.
    """
    target = store_dir(config).absolute()
    with progress(read_manifest(backup.absolute()).bytes, "restoring") as advance:
        manifest = bring_back(backup.absolute(), target, advance=lambda count: advance(count, 0))
    with stores.reading(config) as store:
        damaged = [finding for finding in store.verify() if finding.verdict == "damaged"]
    for finding in damaged:
        click.echo(finding.reason)
    note(
        f"{manifest.files:,} files, {words.size(manifest.bytes)}, of {times.show(manifest.made_ms, digits=0)}, in "
        f"{target}: {len(damaged) or 'none'} damaged"
    )
    if damaged:
        click.get_current_context().exit(DIFFERENT)
