"""How the templates write numbers and times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone

from markupsafe import Markup, escape

from raytrail import times, words
from raytrail.store import Cluster, LedgerRow

CELL_CHARACTERS = 500
"""The beginning of a long text that a table shows."""


def number(count: int) -> str:
    """Return a number with its thousands apart."""
    return f"{count:,}"


def lasted(cluster: Cluster) -> str:
    """Return how long a cluster lived, or has lived so far; nothing where no event says."""
    until = cluster.last_event_ms if cluster.alive else cluster.ended_ms
    if cluster.began_ms is None or until is None:
        return ""
    seconds = max(0, until - cluster.began_ms) // 1000
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def moment(ms: int) -> datetime | None:
    """Return a time in UTC; None beyond the year 9999, which somebody may write into an address."""
    try:
        return datetime.fromtimestamp(ms / 1000, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return None


def ago(ms: int, now_ms: int) -> str:
    """Return how long ago a time was, in its largest unit: ``3 h ago``."""
    past = now_ms - ms
    for unit_ms, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min")):
        if abs(past) >= unit_ms:
            count = abs(past) // unit_ms
            return f"{count:,} {unit} ago" if past > 0 else f"in {count:,} {unit}"
    return "just now"


def code(text: str) -> Markup:
    """Return a sentence as HTML: what stands between backticks in it is code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # one of them ends nothing
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if at % 2 else escape(part) for at, part in enumerate(parts)
    )


def moment_text(ms: int) -> str:
    """Return a time as people write it, in UTC; as a number beyond the year 9999."""
    return times.show(ms, digits=3 * (ms % 1000 != 0)).removesuffix("Z") if moment(ms) else str(ms)


def missing_lines(ledger: Iterable[LedgerRow]) -> list[str]:
    """Return a line for each range of a file that is missing."""
    return [
        f"{gap.name} ({gap.file}): bytes {number(gap.start)} to {number(gap.end)}"
        for row in ledger
        for gap in row.missing
    ]


def unreadable_lines(ledger: Iterable[LedgerRow]) -> list[str]:
    """Return a line for each line, and for each end of a file, that cannot be read."""
    ledger = list(ledger)
    return [
        *(f"{line.file} at {number(line.offset)}: {line.reason}" for row in ledger for line in row.rejected),
        *(
            f"{end.name} ({end.file}) from {number(end.start)} to {number(end.end)}: {end.reason}"
            for row in ledger
            for end in row.unread
        ),
    ]


def percent(share: float) -> str:
    """Return a share of 0 to 1 as text: ``17.8 %``."""
    return f"{share * 100:.1f} %"


def resources(amounts: Mapping[str, float]) -> str:
    """Return amounts of resources as text, memory in bytes as people write them."""
    return ", ".join(
        f"{name} {words.size(round(amount)) if name.endswith('memory') else f'{amount:g}'}"
        for name, amount in amounts.items()
    )


def cell(value: object) -> str:
    """Return a value of an answer in SQL as text, a long one cut."""
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= CELL_CHARACTERS else f"{text[:CELL_CHARACTERS]}…"


def is_numeric_type(kind: str) -> bool:
    """Return whether a column of the engine's type has numbers."""
    return kind.endswith("INT") or kind.startswith(("INTEGER", "UINTEGER", "FLOAT", "DOUBLE", "DECIMAL"))
