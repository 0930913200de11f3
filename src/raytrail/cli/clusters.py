"""``raytrail clusters``: what this history holds."""

from __future__ import annotations

import click
import msgspec

from raytrail import times, words
from raytrail.config import Config
from raytrail.store import Cluster
from raytrail.terminal import note, options, printing, stores
from raytrail.terminal.printing import Field

FIELDS = (
    Field("cluster", rank=1),
    Field("session", whole=True),
    Field("state"),
    Field("began", rank=8),
    Field("lasted", rank=4),
    Field("nodes", rank=5, right=True),
    Field("jobs", rank=3, right=True),
    Field("actors", rank=2, right=True),
    Field("tasks", right=True),
    Field("events", rank=6, right=True),
    Field("stored", rank=7, right=True),
    Field("ledger"),
)


@click.command(cls=options.Command)
@options.output_format("table", "json", "csv")
@options.settings("store.dir", "store.threads", "store.memory_bytes")
def clusters(form: str, config: Config) -> None:
    """List the clusters of a history."""
    with stores.reading(config) as store:
        listed = store.clusters()
    rows = [msgspec.structs.asdict(cluster) for cluster in listed]
    if form == "json":
        printing.write_json(rows)
    elif form == "csv":
        printing.write_csv(Cluster.__struct_fields__, rows)
    elif not listed:
        note("no clusters yet; bring one in with `raytrail import`, `raytrail up` or `raytrail history`")
    else:
        fields = [field for field in FIELDS if field.name != "cluster" or any(c.cluster for c in listed)]
        printing.leave_note(printing.table(fields, [_shown(cluster) for cluster in listed]))


def _shown(cluster: Cluster) -> dict[str, str]:
    began_ms, ended_ms = cluster.began_ms, cluster.ended_ms or cluster.last_event_ms
    return {
        "cluster": cluster.cluster,
        "session": cluster.session,
        "state": "alive" if cluster.alive else "sealed" if cluster.sealed else "ended",
        "began": "" if began_ms is None else times.show(began_ms, digits=0),
        "lasted": "" if began_ms is None or ended_ms is None else times.show_span(ended_ms - began_ms),
        "nodes": f"{cluster.nodes:,}",
        "jobs": f"{cluster.jobs:,}",
        "actors": f"{cluster.actors:,}",
        "tasks": f"{cluster.tasks:,}",
        "events": f"{cluster.events:,}",
        "stored": words.size(cluster.stored_bytes),
        "ledger": "damaged, see raytrail verify"
        if cluster.damaged
        else balance(cluster.missing_bytes, cluster.rejected, cluster.inferred),
    }


def balance(missing_bytes: int, rejected: int, inferred: int) -> str:
    """Return in a few words whether all that was written is here."""
    parts = [
        f"{words.size(missing_bytes)} missing" if missing_bytes else "" if rejected else "complete",
        f"{rejected:,} rejected" if rejected else "",
        f"{inferred:,} inferred" if inferred else "",
    ]
    return ", ".join(part for part in parts if part)
