"""``raytrail rebuild``: state from events alone."""

from __future__ import annotations

import click

from raytrail.cli import _history, _options, _output
from raytrail.config import Config


@click.command(cls=_options.Command)
@_options.cluster
@_options.settings("store")
def rebuild(cluster_id: str, config: Config) -> None:
    """
    Make a session's state anew from its events alone.

    For after an upgrade that reads events better, or when state files were lost or damaged.
    """
    with _history.writing(config) as store:
        session = _history.chosen(store, cluster_id).session
        store.rebuild(session)
        store.cache(session)
    _output.note(f"rebuilt {session}")
