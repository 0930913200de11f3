"""A store in figures, of its catalogue alone: what is asked every few seconds must cost little."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from raytrail.errors import StoreUnavailable
from raytrail.event import SET_ASIDE
from raytrail.store.catalogue import Catalogue

_VALUE = re.compile(r"""'[^']*'?|"[^"]*"?|\([^)]*\)?|\d+""")
"""What of a reason is a value of the one chunk."""
_MOST_REASONS = 20
_LONGEST_REASON = 100
_OTHER = "other"


class Totals(NamedTuple):
    """A store in figures."""

    living: int
    """Sessions that are not sealed."""
    sealed: int
    chunks_set_aside: int
    """Chunks that arrived and were not stored. Those that are kept no more count, too."""
    rejected_lines: int
    unknown_lines: int
    bytes: int
    """Bytes of its files, as far as a version wrote them down."""
    deleting: int
    """Sessions that are marked as deleted, and whose files are still there."""
    kept_aside: dict[str, int]
    """Chunks of those that were set aside that are kept, by the reason."""


def check_readable(catalogue: Catalogue) -> None:
    """
    Ask one cheap question.

    Raises:
        StoreError: The catalogue cannot be read, or is not where it was.
    """
    with _errors(catalogue):
        _ = catalogue.size_bytes  # an open database answers on after its file was deleted
        catalogue.query("SELECT 1 FROM sessions LIMIT 1")


def totals(catalogue: Catalogue) -> Totals:
    """
    Return the store in figures.

    Raises:
        StoreError: The catalogue cannot be read, or is not where it was.
    """
    with _errors(catalogue):
        [(sealed, sessions)] = catalogue.query("SELECT count(sealed_ms), count(*) FROM sessions")
        [(aside, rejected, unknown)] = catalogue.query(
            "SELECT coalesce(sum(rejected) FILTER (WHERE event_type = ?), 0), "
            "coalesce(sum(rejected) FILTER (WHERE event_type != ?), 0), coalesce(sum(unknown), 0) FROM counts",
            SET_ASIDE,
            SET_ASIDE,
        )
        gone = _of_deleted(catalogue)
        return Totals(
            living=sessions - sealed,
            sealed=sealed,
            chunks_set_aside=aside + gone.chunks_set_aside,
            rejected_lines=rejected + gone.rejected_lines,
            unknown_lines=unknown + gone.unknown_lines,
            bytes=catalogue.size_bytes + _bytes(catalogue),
            deleting=gone.deleting,
            kept_aside=_kept_aside(catalogue),
        )


class _OfDeleted(NamedTuple):
    """What the catalogue still counts of deleted sessions, as a count that went back would look like a new one."""

    chunks_set_aside: int = 0
    rejected_lines: int = 0
    unknown_lines: int = 0
    deleting: int = 0


def _of_deleted(catalogue: Catalogue) -> _OfDeleted:
    if not catalogue.keeps_deletions:
        return _OfDeleted()
    [row] = catalogue.query(
        "SELECT coalesce(sum(chunks_set_aside + late_chunks), 0), coalesce(sum(rejected_lines), 0), "
        "coalesce(sum(unknown_lines), 0), count(*) FILTER (WHERE done_ms IS NULL) FROM deleted"
    )
    return _OfDeleted(*row)


def _kept_aside(catalogue: Catalogue) -> dict[str, int]:
    if not catalogue.keeps_set_aside:
        return {}
    counts: Counter[str] = Counter()
    for reason, count in catalogue.query("SELECT reason, count(*) FROM set_aside GROUP BY reason"):
        counts[_VALUE.sub("...", reason.partition(";")[0])[:_LONGEST_REASON]] += count
    common = dict(counts.most_common(_MOST_REASONS))
    rest = counts.total() - sum(common.values())
    return common | ({_OTHER: common.get(_OTHER, 0) + rest} if rest else {})


def _bytes(catalogue: Catalogue) -> int:
    tables = ["log", *(["bodies"] if catalogue.keeps_logs else []), *(["state"] if catalogue.keeps_sums else [])]
    sums = " + ".join(f"(SELECT coalesce(sum(bytes), 0) FROM {table})" for table in tables)
    [(size,)] = catalogue.query(f"SELECT {sums}")
    return int(size)


@contextmanager
def _errors(catalogue: Catalogue) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise StoreUnavailable(
            f"{catalogue.name}: {error}; see that the store is there and its disk can be read"
        ) from error
