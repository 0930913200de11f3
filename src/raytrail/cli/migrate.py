"""``raytrail migrate``: an older history in the newest layout."""

from __future__ import annotations

import click

from raytrail.config import Config
from raytrail.terminal import note, options, stores


@click.command(cls=options.Command)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@options.settings("store")
def migrate(dry_run: bool, config: Config) -> None:
    """
    Bring a history of an older version to the newest layout.

    It says what it adds. Every command that writes to a history does the same when it starts, so this is for those who
    want to see it first, or do it while nobody waits. Nothing that is stored is changed. A version that does not know
    the new layout says so, where it cannot go on with it.
    """
    with stores.reading(config) as store:
        missing = store.missing_layouts
    if not missing:
        note("the history has the newest layout")
        return
    for layout in missing:
        click.echo(layout)
    if dry_run:
        note("nothing was changed; leave out --dry-run to do it")
        return
    with stores.writing(config):
        note("done")
