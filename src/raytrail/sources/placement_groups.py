"""
Placement groups, on the head node: the GCS's table of them, asked for again and again, as ``PLACEMENT_GROUP`` events.

Ray has no channel and no event for them. Removed groups stay in the table, so that one that lives shorter than the time
between two answers is seen all the same. Its times are in its statistics.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from raytrail.sources.event_file import EventFiles
from raytrail.sources.messages import digest, in_base64, plain
from raytrail.sources.recall import recall
from raytrail.sources.snapshots import Snapshots

EVENT_TYPE = "PLACEMENT_GROUP"
_MOST = 1_000_000
_RECALLED_BYTES = 64 * 1024**2


class PlacementGroups:
    """
    Turns the GCS's answers into events: one for each change of a group, with all that is known of it.

    Args:
        events: The files to write to.
        directory: The directory that a process before this one may have written to.
    """

    def __init__(self, events: EventFiles, directory: Path) -> None:
        self._events = events
        self._snapshots = Snapshots[bytes](_MOST)
        self._states: dict[bytes, str] = {}
        for row in recall(directory, EVENT_TYPE, most_bytes=_RECALLED_BYTES):
            with suppress(KeyError, TypeError, ValueError):  # the line is no event of ours
                self._states[base64.b64decode(row["placement_group_id"])] = str(row["state"])
        self._snapshots.remember(self._states)

    def take(self, answer: Iterable[Any]) -> None:
        """Write what has changed. `answer` is all `PlacementGroupTableData` that there are."""
        groups = {bytes(group.placement_group_id): group for group in answer}
        changes = self._snapshots.take({key: _digest(group) for key, group in groups.items()})
        for key in (*changes.created, *changes.updated):
            row = _row(groups[key])
            for event in steps(self._states.get(key, ""), row):
                self._events.append(EVENT_TYPE, event)
            self._states[key] = str(row["state"])
        for key in changes.deleted:
            if self._states.pop(key) != "REMOVED":
                self._events.append(EVENT_TYPE, {"placement_group_id": in_base64(key), "state": "REMOVED"})


def steps(before: str, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """
    Yield the events from a state to that of `row`: those between them, too, where its statistics tell when they were.

    Each that begins a state says since when, in nanoseconds, where Ray does.
    """
    state, requested_ns = row["state"], int(row.get("stats", {}).get("creation_request_received_ns", 0))
    placed_ns = int(row["placement_group_final_bundle_placement_timestamp_ms"]) * 1_000_000
    since_ns = {"PENDING": requested_ns, "CREATED": placed_ns}
    if not before and state != "PENDING":
        bundles = [{**bundle, "node_id": ""} for bundle in row["bundles"]]
        unplaced = {name: value for name, value in row.items() if name not in ("stats", _PLACED)}
        yield {**unplaced, "bundles": bundles, "state": "PENDING", "since_ns": requested_ns}
    if state == "REMOVED" and before in ("", "PENDING", "PREPARED") and placed_ns:
        yield {**row, "state": "CREATED", "since_ns": placed_ns}
    yield {**row, "since_ns": since_ns.get(state, 0) if state != before else 0}


_PLACED = "placement_group_final_bundle_placement_timestamp_ms"


def _row(group: Any) -> dict[str, Any]:
    """Return the event's fields: ids as Ray's own events have them, what is nested as its State API shows it."""
    row = plain(group)
    for name in ("placement_group_id", "creator_job_id", "creator_actor_id", "soft_target_node_id"):
        value = getattr(group, name)
        row[name] = "" if not value.strip(b"\xff") else in_base64(value)
    return row


def _digest(group: Any) -> bytes:
    """
    Return what changes when the group does.

    One that waits for resources is tried once a second, and so are a thousand: its attempts count as a change each time
    that their number doubles.
    """
    still = type(group)()
    still.CopyFrom(group)
    attempts = group.stats.scheduling_attempt.bit_length()
    for name in ("scheduling_attempt", "scheduling_started_time_ns", "highest_retry_delay_ms"):
        still.stats.ClearField(name)
    return digest(still) + bytes([attempts])
