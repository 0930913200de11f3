"""The completeness ledger: of each event type, what was written, published, stored, missing, rejected and inferred."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from raytrail.entities import installed, of_file_type
from raytrail.event import COLLECTED, LOG
from raytrail.store.catalogue import Catalogue, FileKey
from raytrail.store.read import Snapshot

SHOWN = 100
"""How many missing ranges, rejected lines and unread ends a row names; the counts are of all."""


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """
    Bytes that are not stored though an agent published them, or, of a sealed session, saw them: ``[start, end)``.

    What it saw of a session that lives may be on its way.
    """

    file: str
    name: str
    generation: int
    start: int
    end: int


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """A line that arrived and cannot be read."""

    file: str
    generation: int
    offset: int
    length: int
    reason: str


class Unread(msgspec.Struct, frozen=True, kw_only=True):
    """What nobody can read of a file whose writer is gone: half a line at its end, or all of it: ``[start, end)``."""

    file: str
    name: str
    generation: int
    start: int
    end: int
    reason: str


class LedgerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One event type of a session. Bytes are those of the files that Ray wrote."""

    event_type: str
    files: int
    written_bytes: int
    """What the agents saw on their disks; without an agent, what is stored."""
    published_bytes: int
    published_events: int
    stored_bytes: int
    stored_events: int
    missing_bytes: int
    missing: tuple[Missing, ...]
    """The first hundred ranges."""
    rejected_events: int
    rejected: tuple[Rejected, ...]
    """The first hundred lines."""
    unknown_events: int
    """Lines of event types that this version does not know; they are kept until one that does."""
    skipped_bytes: int
    """Lines that were too long to ship."""
    lost_bytes: int
    """Gone from the disk before the agent could read them."""
    unread_bytes: int
    """Bytes at which reading ended for good: half a line whose writer is gone, or a file that cannot be read."""
    unread: tuple[Unread, ...]
    """The first hundred of those files."""
    inferred: int
    """States that no event ended; we closed them."""


def ledger(catalogue: Catalogue, snapshot: Snapshot) -> list[LedgerRow]:
    """Return the ledger of a snapshot's session, by event type."""
    session = snapshot.session
    reports = _reports(snapshot)
    sealed = bool(catalogue.query("SELECT 1 FROM sessions WHERE session = ? AND sealed_ms IS NOT NULL", session))
    types = dict(catalogue.query("SELECT file, event_type FROM file_types WHERE session = ?", session))
    keys: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for file, generation in catalogue.query("SELECT DISTINCT file, generation FROM ranges WHERE session = ?", session):
        keys[types[file]].add((file, generation))
    for (file, generation), report in reports.items():
        keys[report["event_type"] or ""].add((file, generation))
    counts = {
        event_type: rest
        for event_type, *rest in catalogue.query(
            "SELECT event_type, events, bytes, rejected, unknown FROM counts "
            "WHERE session = ? AND event_type != 'FILE'",
            session,
        )
    }
    rows = []
    for event_type in sorted(keys.keys() | counts.keys()):
        events, _, rejected, unknown = counts.get(event_type, (0, 0, 0, 0))
        written = published = published_events = stored = skipped = lost = 0
        missing: list[Missing] = []
        unread: list[Unread] = []
        for file, generation in sorted(keys[event_type]):
            ranges = catalogue.ranges(FileKey(session, file, generation))
            report = reports.get((file, generation), {})
            last = max((end for _, end in ranges), default=0)
            sent = report.get("published_bytes") or last
            ends = list(_unread(report))
            seen = max([report.get("written_bytes") or 0, last, *(one.end for one in ends)])
            stored += ranges.length()
            written += seen
            published += max(sent, last)
            published_events += report.get("published_events") or 0
            skipped += report.get("skipped_bytes") or 0
            lost += report.get("lost_bytes") or 0
            unread += ends
            missing += [
                Missing(file=file, name=report.get("name") or "", generation=generation, start=start, end=end)
                for start, end in ranges.missing(0, _due(report, max(sent, last), sealed=sealed))
            ]
        rows.append(
            LedgerRow(
                event_type=event_type,
                files=len(keys[event_type]),
                written_bytes=written,
                published_bytes=published,
                published_events=published_events,
                stored_bytes=stored,
                stored_events=events,
                missing_bytes=sum(one.end - one.start for one in missing),
                missing=tuple(missing[:SHOWN]),
                rejected_events=rejected,
                rejected=tuple(
                    Rejected(file=file, generation=generation, offset=offset, length=length, reason=reason)
                    for file, generation, offset, length, reason in catalogue.query(
                        "SELECT file, generation, line_offset, length, reason FROM rejected "
                        "WHERE session = ? AND event_type = ? ORDER BY file, line_offset LIMIT ?",
                        session,
                        event_type,
                        SHOWN,
                    )
                ),
                unknown_events=unknown,
                skipped_bytes=skipped,
                lost_bytes=lost,
                unread_bytes=sum(one.end - one.start for one in unread),
                unread=tuple(unread[:SHOWN]),
                inferred=_inferred(snapshot, event_type),
            )
        )
    return rows


def _due(report: Mapping[str, Any], sent: int, *, sealed: bool) -> int:
    """Return up to where all of a file is to be stored: what was published; at a session's end all that was seen."""
    if not sealed or not report or report["event_type"] == COLLECTED or report["lost_bytes"]:
        return sent
    seen: int = report["written_bytes"] or 0
    if report["event_type"] == LOG:
        seen -= report["skipped_bytes"] or 0  # what is over its limit
    unread = report["unread_offset"]
    return max(sent, seen if unread is None else min(seen, unread))


def _reports(snapshot: Snapshot) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the last report of each file, of those that say anything: what once could not be read may be read now."""
    return {
        (row["file"], row["generation"]): row
        for row in snapshot.rows("file")
        if row["written_bytes"] or row["published_bytes"] or row["unread_reason"]
    }


def _unread(report: Mapping[str, Any]) -> Iterator[Unread]:
    """Yield what is not read of a file, if anything is not."""
    if reason := report.get("unread_reason"):
        start = report["unread_offset"]
        yield Unread(
            file=report["file"],
            name=report["name"] or "",
            generation=report["generation"],
            start=start,
            end=start + report["unread_bytes"],
            reason=reason,
        )


def _inferred(snapshot: Snapshot, event_type: str) -> int:
    """Return how many states of an event type we closed."""
    return sum(
        group["count"]
        for one in of_file_type(event_type)
        if one.name in installed()
        for group in snapshot.group(one.name, ["inferred"])
        if group["inferred"] is not None
    )
