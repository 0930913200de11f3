"""What a session lacks that was taken from a living cluster's answers, and not from its events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytrail import times
from raytrail.store import Cluster, Store


def asked(store: Store, cluster: Cluster) -> dict[str, Mapping[str, Any]]:
    """Return what Ray was last asked for, by `ray list`'s nouns. Nothing where the session is of its events."""
    if cluster.snapshot_ms is None:
        return {}
    return {row["resource"]: row for row in store.snapshot(cluster.session).rows("snapshot")}


def lacking(row: Mapping[str, Any]) -> str:
    """Return what one of these lacks, in words. Empty where Ray gave all that it had."""
    noun = str(row["resource"]).replace("_", " ")
    if not row["truncated"]:
        return ""
    if row["total_rows"] is None:
        return f"Ray did not list its {noun}: {row['message']}"
    if row["total_rows"] > row["listed_rows"]:
        return f"Ray gave {row['listed_rows']:,} of its {row['total_rows']:,} {noun}"
    return f"Ray says of its {noun}: {row['message']}"


def remark(cluster: Cluster) -> str:
    """Return what whoever reads of a session should know of it. Empty where it is of the cluster's events."""
    if cluster.snapshot_ms is None:
        return ""
    return (
        f"This is a snapshot of {times.show(cluster.snapshot_ms, digits=0)}, made of a living cluster's answers, not "
        "of its events: what Ray had forgotten by then, or came and went between two snapshots, is not here"
    )
