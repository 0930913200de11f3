"""``raytrail seal``: close a session for good."""

from __future__ import annotations

import click

from raytrail.config import Config
from raytrail.terminal import note, options, stores


@click.command(cls=options.Command)
@options.cluster
@options.settings("store")
def seal(cluster_id: str, config: Config) -> None:
    """
    Close a session for good.

    Tasks, actors and all else that is still open is closed as Ray would have closed it, and marked as inferred. The
    history does this by itself when a session has ended or gone quiet. Events that come later are folded in all the
    same.
    """
    with stores.writing(config) as store:
        session = stores.chosen(store, cluster_id).session
        store.fold()
        store.seal(session)
        store.cache(session)
    note(f"sealed {session}")
