"""``raytrail verify``: whether all files of the history are what was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import click

from raytrail import words
from raytrail.config import Config
from raytrail.errors import StoreDamaged
from raytrail.exit_codes import DIFFERENT
from raytrail.store import Finding
from raytrail.terminal import note, options, printing, stores
from raytrail.terminal.progress import progress


@click.command(cls=options.Command)
@click.option(
    "--cluster",
    "cluster_id",
    metavar="ID",
    help="Check only the session of this name, or of a part of it that no other has, or of this cluster's name.",
)
@options.output_format("table", "json")
@options.settings("store.dir")
def verify(cluster_id: str | None, form: str, config: Config) -> None:
    """
    Check that the history's files are what was written.

    It reads every file: the catalogue, the log of events, the states, and the logs of Ray and its workers.
    Each file that is damaged, cut or gone is printed with what to do, and the exit code is 1. Files that a version
    without checksums wrote cannot be checked, and are only counted. A history may go on meanwhile.
    """
    findings = list(_findings(cluster_id, config))
    damaged = [finding for finding in findings if finding.verdict == "damaged"]
    if form == "json":
        printing.write_json(findings)
    else:
        for finding in damaged:
            click.echo(finding.reason)
        note(_summary(findings))
    if damaged:
        click.get_current_context().exit(DIFFERENT)


def _summary(findings: list[Finding]) -> str:
    count = Counter(finding.verdict for finding in findings)
    unknown, damaged = count["no checksum"], count["damaged"]
    size = words.size(sum(finding.bytes for finding in findings))
    return (
        f"{len(findings):,} file{'' if len(findings) == 1 else 's'}, {size}: "
        + (f"{damaged:,} damaged" if damaged else "none is damaged")
        + (f"; {unknown:,} of an older version have no checksum" if unknown else "")
    )


def _findings(cluster_id: str | None, config: Config) -> Iterator[Finding]:
    try:
        with stores.reading(config) as store:
            session = None if cluster_id is None else stores.chosen(store, cluster_id).session
            with progress(store.stored_bytes(session), "verifying") as advance:
                for finding in store.verify(session):
                    yield finding
                    advance(finding.bytes, 0)
    except StoreDamaged as damage:
        if damage.session:
            raise
        # without the catalogue nobody knows what the other files should hold
        yield Finding(path="catalogue.sqlite", bytes=0, verdict="damaged", reason=str(damage))
