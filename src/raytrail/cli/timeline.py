"""``raytrail timeline``: what each process did, drawn by chrome://tracing or Perfetto."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from raytrail.config import Config
from raytrail.terminal import note, options, service, stores

STDOUT = Path("-")


@click.command(cls=options.Command)
@options.cluster
@options.at
@click.option("--job", default="", metavar="ID", help="Write only what this driver job did.  [default: all]")
@click.option(
    "--style",
    type=click.Choice(["legacy", "dashboard"]),
    default="legacy",
    show_default=True,
    help="Write it as `ray timeline` does, or as Ray's dashboard does, which names each event's task.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False, writable=True, allow_dash=True),
    help="File to write to. - is stdout.  [default: timeline-SESSION.json here]",
)
@options.settings("store.dir", "store.threads", "store.memory_bytes")
def timeline(cluster_id: str, at: str | None, job: str, style: str, out: Path | None, config: Config) -> None:
    """
    Write what each process did, and when, to a file.

    The file is what `ray timeline` writes of a live cluster. Open it in chrome://tracing or https://ui.perfetto.dev.
    The number of tasks has no limit.
    """
    service.server()  # these are its answers, and it comes with an extra
    from raytrail.server.ray.timeline import draw

    with stores.reading(config) as store:
        cluster = stores.chosen(store, cluster_id)
        pieces = draw(stores.snapshot(store, cluster, at), job, style)
        if out == STDOUT:
            for piece in pieces:
                sys.stdout.buffer.write(piece)
            return
        path = out or Path(f"timeline-{cluster.session}.json")
        with path.open("wb") as file:
            for piece in pieces:
                file.write(piece)
    note(f"{path}: {path.stat().st_size:,} bytes; open it in chrome://tracing or https://ui.perfetto.dev")
