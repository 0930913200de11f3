"""``raytrail ledger``: the completeness of a session, type by type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import msgspec

from raytrail import words
from raytrail.config import Config
from raytrail.store import LedgerRow
from raytrail.terminal import note, options, printing, stores
from raytrail.terminal.printing import Field

SHOWN_RANGES = 20
"""Most missing ranges, rejected lines and unread files that are shown to people."""


@click.command(cls=options.Command)
@options.cluster
@click.option("--check", is_flag=True, help="Exit with 1 if anything is missing, rejected, skipped, lost or unread.")
@options.output_format("table", "json")
@options.settings("store.dir", "store.threads", "store.memory_bytes")
def ledger(cluster_id: str, check: bool, form: str, config: Config) -> None:
    """Show what was written, what was stored, and what is missing."""
    with stores.reading(config) as store:
        rows = store.ledger(stores.chosen(store, cluster_id).session)
    if form == "json":
        printing.write_json(rows)
    else:
        show(rows)
        details(rows)
    if check and not all(map(complete, rows)):
        click.get_current_context().exit(1)


def complete(row: LedgerRow) -> bool:
    """Return whether all that was written is stored."""
    return not (row.missing_bytes or row.rejected_events or row.skipped_bytes or row.lost_bytes or row.unread)


def show(rows: Sequence[LedgerRow]) -> None:
    """Print the table, with a line for all types together."""
    fields = [
        Field("type"),
        Field("files", right=True, rank=2),
        Field("written", right=True),
        Field("stored", right=True),
        Field("missing", right=True),
        Field("events", right=True),
        Field("rejected", right=True),
        Field("unknown", right=True, rank=1),
        Field("inferred", right=True),
    ]
    fields += [
        Field(name, right=True)
        for name in ("skipped", "lost", "unread")
        if any(getattr(r, f"{name}_bytes") for r in rows)
    ]
    lines = [_line(row) for row in rows]
    if len(rows) > 1:
        lines.append(_line(_sum(rows)))
    printing.table(fields, lines)


def _line(row: LedgerRow) -> dict[str, str]:
    return {
        "type": row.event_type,
        "files": f"{row.files:,}",
        "written": words.size(row.written_bytes),
        "stored": words.size(row.stored_bytes),
        "missing": words.size(row.missing_bytes) if row.missing_bytes else "-",
        "events": f"{row.stored_events:,}",
        "rejected": f"{row.rejected_events:,}" if row.rejected_events else "-",
        "unknown": f"{row.unknown_events:,}" if row.unknown_events else "-",
        "inferred": f"{row.inferred:,}" if row.inferred else "-",
        "skipped": words.size(row.skipped_bytes) if row.skipped_bytes else "-",
        "lost": words.size(row.lost_bytes) if row.lost_bytes else "-",
        "unread": words.size(row.unread_bytes) if row.unread_bytes else "-",
    }


def _sum(rows: Sequence[LedgerRow]) -> LedgerRow:
    totals: dict[str, Any] = {
        field: sum(getattr(row, field) for row in rows)
        for field in LedgerRow.__struct_fields__
        if field not in ("event_type", "missing", "rejected", "unread")
    }
    return msgspec.structs.replace(rows[0], event_type="all", **totals)


def details(rows: Sequence[LedgerRow]) -> None:
    """Print which ranges are missing, which lines were rejected, and which files end unread, and why."""
    missing = [gap for row in rows for gap in row.missing]
    rejected = [line for row in rows for line in row.rejected]
    if missing:
        click.echo("\nmissing")
        printing.table(
            [
                Field("file", whole=True, rank=1),
                Field("name", whole=True),
                Field("from", right=True),
                Field("to", right=True),
            ],
            [
                {"file": g.file, "name": g.name, "from": f"{g.start:,}", "to": f"{g.end:,}"}
                for g in missing[:SHOWN_RANGES]
            ],
        )
        _more(len(missing), "ranges")
    if rejected:
        click.echo("\nrejected")
        printing.table(
            [Field("file", whole=True), Field("offset", right=True), Field("reason")],
            [{"file": r.file, "offset": f"{r.offset:,}", "reason": r.reason} for r in rejected[:SHOWN_RANGES]],
        )
        _more(len(rejected), "lines")
    if unread := [end for row in rows for end in row.unread]:
        click.echo("\nunread")
        printing.table(
            [
                Field("name", whole=True),
                Field("from", right=True),
                Field("to", right=True),
                Field("reason"),
            ],
            [
                {"name": u.name, "from": f"{u.start:,}", "to": f"{u.end:,}", "reason": u.reason}
                for u in unread[:SHOWN_RANGES]
            ],
        )
        _more(len(unread), "files")


def _more(count: int, what: str) -> None:
    if count > SHOWN_RANGES:
        note(f"{count - SHOWN_RANGES:,} more {what}; --format json has them")
