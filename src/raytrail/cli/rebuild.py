"""``raytrail rebuild``: state from events alone."""

from __future__ import annotations

import click

from raytrail.config import Config
from raytrail.terminal import note, options, stores


@click.command(cls=options.Command)
@options.cluster
@options.settings("store")
def rebuild(cluster_id: str, config: Config) -> None:
    """
    Make a session's state anew from its events alone.

    Use it after an upgrade that reads events better, or when state files were lost or damaged.
    """
    with stores.writing(config) as store:
        session = stores.chosen(store, cluster_id).session
        store.rebuild(session)
        store.cache(session)
    note(f"rebuilt {session}")
