"""``raytrail clusters``: what this history holds."""

from __future__ import annotations

import click
import msgspec

from raytrail import times, words
from raytrail.answers.landing import EVERY, Listed, landing
from raytrail.config import Config
from raytrail.store.overviews import SORTS
from raytrail.terminal import note, options, printing, stores
from raytrail.terminal.printing import Field

FIELDS = (
    Field("cluster"),
    Field("session", whole=True),
    Field("state"),
    Field("began", rank=10),
    Field("lasted", rank=6),
    Field("nodes", rank=7, right=True),
    Field("jobs", rank=5, right=True),
    Field("failed jobs", rank=2, right=True),
    Field("actors", rank=4, right=True),
    Field("tasks", rank=3, right=True),
    Field("failed tasks", rank=1, right=True),
    Field("events", rank=8, right=True),
    Field("stored", rank=9, right=True),
    Field("ledger"),
    Field("found in", rank=1),
)


@click.command(cls=options.Command)
@click.option(
    "--search",
    metavar="TEXT",
    default="",
    help="Only those with all of these words in a name, job, function, class or error.",
)
@click.option("--name", help="Only those of a cluster's name.")
@click.option(
    "--sort",
    metavar="FIGURE",
    default="-began",
    show_default=True,
    help=f"name, {', '.join(SORTS)}. -FIGURE begins with the largest.",
)
@options.output_format("table", "json", "csv")
@options.settings("store.dir", "store.threads", "store.memory_bytes")
def clusters(search: str, name: str | None, sort: str, form: str, config: Config) -> None:
    """
    List the clusters of a history.

    \b
    raytrail clusters --search "ValueError train.py"
    raytrail clusters --name nightly --sort -failed_tasks
    """
    with stores.reading(config) as store:
        listed = landing(store, search=search, name=name, sort=sort, rows=EVERY).rows
    rows = [msgspec.structs.asdict(cluster) for cluster in listed]
    if form == "json":
        printing.write_json(rows)
    elif form == "csv":
        printing.write_csv(Listed.__struct_fields__, rows)
    elif not listed and (search or name is not None):
        note("no cluster is like that; `raytrail clusters` lists all")
    elif not listed:
        note("no clusters yet; bring one in with `raytrail import`, `raytrail up` or `raytrail history`")
    else:
        shown = [_shown(cluster) for cluster in listed]
        fields = [field for field in FIELDS if field.name not in OPTIONAL or any(row[field.name] for row in shown)]
        printing.leave_note(printing.table(fields, shown))


OPTIONAL = ("cluster", "failed jobs", "failed tasks", "found in")
"""The columns that are left out where they say nothing of any cluster."""


def _shown(cluster: Listed) -> dict[str, str]:
    return {
        "cluster": cluster.cluster,
        "session": cluster.session,
        "state": ("alive" if cluster.alive else "sealed" if cluster.sealed else "ended")
        + (", held" if cluster.held else ""),
        "began": "" if cluster.began_ms is None else times.show(cluster.began_ms, digits=0),
        "lasted": "" if cluster.lasted_ms is None else times.show_span(cluster.lasted_ms),
        "nodes": f"{cluster.nodes:,}",
        "jobs": f"{cluster.jobs:,}",
        "failed jobs": f"{cluster.failed_jobs:,}" if cluster.failed_jobs else "",
        "actors": f"{cluster.actors:,}",
        "tasks": f"{cluster.tasks:,}",
        "failed tasks": f"{cluster.failed_tasks:,}" if cluster.failed_tasks else "",
        "events": f"{cluster.events:,}",
        "stored": words.size(cluster.stored_bytes),
        "ledger": "damaged, see raytrail verify"
        if cluster.damaged
        else balance(cluster.missing_bytes, cluster.rejected, cluster.inferred)
        if cluster.snapshot_ms is None
        else f"snapshot of {times.show(cluster.snapshot_ms, digits=0)}"
        + (f", {cluster.rejected:,} lists cut" if cluster.rejected else ""),
        "found in": ", ".join(f"{match.kind} {match.text}" for match in cluster.matched),
    }


def balance(missing_bytes: int, rejected: int, inferred: int) -> str:
    """Return in a few words whether all that was written is here."""
    parts = [
        f"{words.size(missing_bytes)} missing" if missing_bytes else "" if rejected else "complete",
        f"{rejected:,} rejected" if rejected else "",
        f"{inferred:,} inferred" if inferred else "",
    ]
    return ", ".join(part for part in parts if part)
