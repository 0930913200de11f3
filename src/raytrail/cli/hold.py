"""``raytrail hold``: sessions that nobody deletes."""

from __future__ import annotations

import click

from raytrail.config import Config
from raytrail.store import Request
from raytrail.terminal import changes, note, options, printing, stores
from raytrail.terminal.printing import Field


@click.command(cls=options.Command)
@click.argument("cluster_ids", nargs=-1, metavar="CLUSTER...")
@click.option("--name", help="All sessions of a cluster's name, too.")
@click.option("--reason", default="", metavar="TEXT", help="The reason, which is shown beside the hold.")
@click.option("--release", is_flag=True, help="Hold them no more.")
@options.output_format("table", "json")
@options.settings("store")
def hold(cluster_ids: tuple[str, ...], name: str | None, reason: str, release: bool, form: str, config: Config) -> None:
    """
    Keep sessions from being deleted, by the settings or by anybody.

    Without a CLUSTER it lists what is held. `raytrail clusters` and the pages show a hold, too. A history may go on
    meanwhile.

    \b
    raytrail hold latest --reason "incident 4711"
    raytrail hold --release latest
    """
    if not cluster_ids and name is None:
        _list(config, form)
        return
    with stores.reading(config) as store:
        sessions = [cluster.session for cluster in changes.chosen(store, cluster_ids, name)]
    changes.change(
        config,
        [Request(verb="release" if release else "hold", session=session, reason=reason) for session in sessions],
    )
    for session in sessions:
        note(f"{session} is held no more" if release else f"{session} is held")


def _list(config: Config, form: str) -> None:
    with stores.reading(config) as store:
        holds = [{"session": session, "reason": reason} for session, reason in store.marks.holds().items()]
    if form == "json":
        printing.write_json(holds)
    elif not holds:
        note("no session is held")
    else:
        printing.leave_note(printing.table((Field("session", whole=True), Field("reason")), holds))
