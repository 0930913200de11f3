"""The completeness ledger: of each event type, what was written, published, stored, missing, rejected and inferred."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from raytrail.entities import installed, of_file_type
from raytrail.event import COLLECTED, LOG
from raytrail.store.catalogue import NOTHING, Catalogue, Extent, FileKey, Ranges
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


class Told(NamedTuple):
    """What the states of a session say for its ledger."""

    reports: dict[tuple[str, int], dict[str, Any]]
    """The last report of each file and generation."""
    inferred: Callable[[str], int]
    """Gives how many states of an entity we closed."""


def told(snapshot: Snapshot) -> Told:
    """Return what a session's states say for its ledger."""

    def inferred(name: str) -> int:
        groups = snapshot.group(name, ["inferred"])
        return sum(group["count"] for group in groups if group["inferred"] is not None)

    return Told(last_reports(snapshot.rows("file", columns=REPORTED)), inferred)


def ledger(catalogue: Catalogue, session: str, told: Told) -> list[LedgerRow]:
    """Return the ledger of a session, by event type."""
    reports = told.reports
    sealed = bool(catalogue.query("SELECT 1 FROM sessions WHERE session = ? AND sealed_ms IS NOT NULL", session))
    stored = catalogue.ranges_of(session, reports.keys())
    extents = catalogue.extents(session)
    counts = {
        event_type: rest
        for event_type, *rest in catalogue.query(
            "SELECT event_type, events, bytes, rejected, unknown FROM counts "
            "WHERE session = ? AND event_type != 'FILE'",
            session,
        )
    }
    reported: dict[str, _Reported] = defaultdict(_Reported)
    for key, report in sorted(reports.items()):
        reported[report["event_type"] or ""].add(key, report, stored.get(key, Ranges()), sealed=sealed)
    return [
        _row(catalogue, session, told, event_type, reported[event_type], extents.get(event_type, NOTHING), counts)
        for event_type in sorted(extents.keys() | counts.keys() | reported.keys())
    ]


class _Reported:
    """What is known of the files of an event type that an agent has reported."""

    def __init__(self) -> None:
        self.keys: set[tuple[str, int]] = set()
        self.extent = NOTHING
        self.written = self.published = self.published_events = self.skipped = self.lost = 0
        self.missing: list[Missing] = []
        self.unread: list[Unread] = []

    def add(self, key: tuple[str, int], report: Mapping[str, Any], ranges: Ranges, *, sealed: bool) -> None:
        """Add a file, with its report and what is stored of it."""
        self.keys.add(key)
        self.extent = self.extent.plus(ranges.extent())
        last = ranges.end
        sent = max(report["published_bytes"] or 0, last)
        ends = list(_unread(report))
        self.written += max([report["written_bytes"] or 0, last, *(one.end for one in ends)])
        self.published += sent
        self.published_events += report["published_events"] or 0
        self.skipped += report["skipped_bytes"] or 0
        self.lost += report["lost_bytes"] or 0
        self.unread += ends
        self.missing += _missing(key, report["name"] or "", ranges, _due(report, sent, sealed=sealed))


def _missing(key: tuple[str, int], name: str, ranges: Ranges, due: int) -> Iterator[Missing]:
    """Yield what is not stored of a file's first bytes."""
    file, generation = key
    for start, end in ranges.missing(0, due):
        yield Missing(file=file, name=name, generation=generation, start=start, end=end)


def _row(
    catalogue: Catalogue,
    session: str,
    told: Told,
    event_type: str,
    reported: _Reported,
    extent: Extent,
    counts: Mapping[str, list[int]],
) -> LedgerRow:
    # of files that nobody has reported, of which there may be a million, what they add up to is enough
    rest = extent.minus(reported.extent)
    events, _, rejected, unknown = counts.get(event_type, (0, 0, 0, 0))
    missing = list(reported.missing)
    if rest.ends != rest.stored:
        missing += _holes(catalogue, session, event_type, reported.keys)
    return LedgerRow(
        event_type=event_type,
        files=rest.files + len(reported.keys),
        written_bytes=rest.ends + reported.written,
        published_bytes=rest.ends + reported.published,
        published_events=reported.published_events,
        stored_bytes=extent.stored,
        stored_events=events,
        missing_bytes=rest.ends - rest.stored + sum(one.end - one.start for one in reported.missing),
        missing=tuple(sorted(missing, key=_place)[:SHOWN]),
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
        skipped_bytes=reported.skipped,
        lost_bytes=reported.lost,
        unread_bytes=sum(one.end - one.start for one in reported.unread),
        unread=tuple(reported.unread[:SHOWN]),
        inferred=sum(told.inferred(one.name) for one in of_file_type(event_type) if one.name in installed()),
    )


def _holes(
    catalogue: Catalogue, session: str, event_type: str, reported: Collection[tuple[str, int]]
) -> Iterator[Missing]:
    """Yield what is not stored of the first files that nobody has reported, before what is stored of them."""
    files = catalogue.files_with_holes(session, event_type, SHOWN + len(reported))
    for key in [key for key in files if key not in reported][:SHOWN]:
        ranges = catalogue.ranges(FileKey(session, *key))
        yield from _missing(key, "", ranges, ranges.end)


def _place(one: Missing) -> tuple[str, int, int]:
    return one.file, one.generation, one.start


def _due(report: Mapping[str, Any], sent: int, *, sealed: bool) -> int:
    """Return up to where all of a file is to be stored: what was published; at a session's end all that was seen."""
    if not sealed or not report or report["event_type"] == COLLECTED or report["lost_bytes"]:
        return sent
    seen: int = report["written_bytes"] or 0
    if report["event_type"] == LOG:
        seen -= report["skipped_bytes"] or 0  # what is over its limit
    unread = report["unread_offset"]
    return max(sent, seen if unread is None else min(seen, unread))


REPORTED = (
    *("file", "generation", "name", "event_type", "written_bytes", "published_bytes", "published_events"),
    *("skipped_bytes", "lost_bytes", "unread_offset", "unread_bytes", "unread_reason"),
)
"""The columns of a file's report."""


def last_reports(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the last report of each file, of those that say anything: what once could not be read may be read now."""
    return {
        (row["file"], row["generation"]): row
        for row in rows
        if row["written_bytes"] or row["published_bytes"] or row["unread_reason"]
    }


def _unread(report: Mapping[str, Any]) -> Iterator[Unread]:
    """Yield what is not read of a file, if anything is not."""
    if reason := report.get("unread_reason"):
        start, length = report["unread_offset"] or 0, report["unread_bytes"] or 0  # as anybody may have written them
        yield Unread(
            file=report["file"],
            name=report["name"] or "",
            generation=report["generation"],
            start=start,
            end=start + length,
            reason=reason,
        )
