"""
Workers, on the head node: the GCS's table of them, asked for again and again, as ``WORKER`` events.

Dead workers stay in the table for a while, so that one that lives shorter than the time between two answers is seen all
the same: the table has the times of its beginning and its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from raytrail.sources.event_file import EventFiles
from raytrail.sources.messages import digest, enumerated, in_base64
from raytrail.sources.snapshots import Snapshots

EVENT_TYPE = "WORKER"
_MOST = 1_000_000
_DETAIL_LETTERS = 10_000

TIMES = ("start_time_ms", "end_time_ms", "worker_launch_time_ms", "worker_launched_time_ms")
"""The fields of the GCS's table that are times. -1 stands for one that is not known."""
_OPTIONAL = ("exit_type", "exit_detail", "debugger_port", "num_paused_threads")


class Workers:
    """
    Turns the GCS's answers into events: one for each change of a worker, with all that is known of it.

    Args:
        events: The files to write to.
    """

    def __init__(self, events: EventFiles) -> None:
        self._events = events
        self._snapshots = Snapshots[bytes](_MOST)
        self._alive: set[bytes] = set()

    def take(self, answer: Iterable[Any]) -> None:
        """Write what has changed. `answer` is all `WorkerTableData` that there are."""
        workers = {bytes(worker.worker_address.worker_id): worker for worker in answer}
        changes = self._snapshots.take({key: digest(worker) for key, worker in workers.items()})
        for key in (*changes.created, *changes.updated):
            for event in steps(_row(workers[key]), began=key in self._alive):
                self._events.append(EVENT_TYPE, event)
        self._alive = {key for key, worker in workers.items() if worker.is_alive}


def steps(row: dict[str, Any], *, began: bool) -> Iterator[dict[str, Any]]:
    """
    Yield the events that lead to `row`: its beginning, too, where that was not seen.

    The first and the last of a worker say when that was, in nanoseconds, where Ray knows.
    """
    started_ns, ended_ns = (max(0, int(row[name])) * 1_000_000 for name in ("start_time_ms", "end_time_ms"))
    if row["is_alive"]:
        yield {**row, "since_ns": 0 if began else started_ns}
        return
    if not began:
        so_far = {name: value for name, value in row.items() if name not in ("exit_type", "exit_detail", "end_time_ms")}
        yield {**so_far, "is_alive": True, "since_ns": started_ns}
    yield {**row, "since_ns": ended_ns}


def _row(worker: Any) -> dict[str, Any]:
    """Return the event's fields: ids as Ray's own events have them, what is not known left out."""
    address = worker.worker_address
    node = "node_id" if "node_id" in address.DESCRIPTOR.fields_by_name else "raylet_id"  # its name in Ray 2.48
    row = {
        "worker_id": in_base64(address.worker_id),
        "node_id": in_base64(getattr(address, node)),
        "ip": address.ip_address,
        "is_alive": worker.is_alive,
        "worker_type": enumerated(worker, "worker_type"),
        "pid": worker.pid,
        **{name: signed(getattr(worker, name)) for name in TIMES},
    }
    known = [name for name in _OPTIONAL if name in worker.DESCRIPTOR.fields_by_name and worker.HasField(name)]
    row |= {name: getattr(worker, name) for name in known}
    if "exit_type" in row:
        row["exit_type"] = enumerated(worker, "exit_type")
    if "exit_detail" in row:
        row["exit_detail"] = row["exit_detail"][:_DETAIL_LETTERS]
    return row


def signed(number: int) -> int:
    """Return -1 where Ray put that, for a time that it does not know, into an unsigned field."""
    return number - (1 << 64) if number >= 1 << 63 else number
