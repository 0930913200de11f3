"""
Objects, on each node: what its workers refer to, asked of the raylet again and again, as ``OBJECT`` events.

Ray has no channel and no event for objects: what lives and dies between two answers is not seen. How many did, is:
the raylet counts the objects that its store creates. An ``OBJECT_GAP`` event says so when an answer did not tell all.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from raytrail.sources.event_file import EventFiles
from raytrail.sources.messages import enumerated, in_base64
from raytrail.sources.recall import recall
from raytrail.sources.snapshots import Snapshots

EVENT_TYPE = "OBJECT"
GAP_EVENT_TYPE = "OBJECT_GAP"

_TASK_BYTES = 24  # an object's id begins with the task that made it
_JOB_AT = 20  # in a task's id: its last four bytes
# objects that tasks put are numbered from here on, those that they return from 1 (kMaxReturnIndex in Ray's id.h)
_FIRST_PUT = 100_000_000
_INLINED_BYTES = 100 * 1024  # max_direct_call_object_size: a smaller object is returned without the store
_CALL_SITE_LETTERS = 2000
_RECALLED_BYTES = 64 * 1024**2

_Key = tuple[bytes, bytes]


class _Reference(NamedTuple):
    """The parts of a worker's reference to an object that may change."""

    object_size: int
    reference_type: str
    task_status: str
    attempt_number: int
    call_site: str
    pid: int
    ip: str
    type: str


class Objects:
    """
    Turns a raylet's answers into events: one for each reference, by object and worker, that came, changed or went.

    Args:
        events: The files to write to.
        node_id: The node's id, in hex.
        limit: How many references were asked for. Twice as many are remembered where answers are cut short.
        directory: The directory that a process before this one may have written to.
    """

    def __init__(self, events: EventFiles, node_id: str, limit: int, directory: Path) -> None:
        self._events = events
        self._limit = limit
        self._node_id = in_base64(bytes.fromhex(node_id))
        self._snapshots = Snapshots[_Key](2 * limit)
        self._snapshots.remember(self._recall_references(directory))
        self._stored: set[bytes] = set()
        self._since_ns = self._accounted = 0

    def take(self, answer: Any, created: int, now_ns: int) -> None:
        """
        Write what has changed.

        Args:
            answer: A `GetObjectsInfoReply`.
            created: How many objects the node's store has created since it began.
            now_ns: When it was asked, in nanoseconds since the epoch.
        """
        references = dict(_references(answer))
        listed = sum(len(worker.object_refs) for worker in answer.core_workers_stats)
        total = max(answer.total, sum(worker.objects_total for worker in answer.core_workers_stats))
        whole = total <= listed
        changes = self._snapshots.take(references, whole=whole)
        for key in changes.created:
            self._write("CREATED", key, references[key])
        for key in changes.updated:
            self._write("UPDATED", key, references[key])
        for key in changes.deleted:
            self._write("DELETED", key)
        unseen = self._count_unseen(references, created, whole=whole)
        if unseen or not whole:
            gap = {"node_id": self._node_id, "since_ns": self._since_ns, "until_ns": now_ns, "unseen_objects": unseen}
            gap |= {"listed_references": listed, "total_references": total, "truncated": not whole}
            self._events.append(GAP_EVENT_TYPE, gap)
        self._since_ns = now_ns

    def _count_unseen(self, references: dict[_Key, _Reference], created: int, *, whole: bool) -> int:
        """Return how many objects the store has created, since it was last asked, that are in no answer."""
        stored = {object_id for (object_id, _), ref in references.items() if _in_store(object_id, ref)}
        new = stored - self._stored
        self._stored = stored if whole else self._stored | stored
        if len(self._stored) > 2 * self._limit:
            self._stored = stored
        if not self._since_ns:  # an object that was there at the beginning may have been created at any time
            self._accounted = created
            return 0
        # objects that were created between the two questions are counted in the next answer, but seen in this one.
        # Objects that another node's store created for a worker here are never counted, and must not make up for those
        # that are
        self._accounted = min(self._accounted, created) + len(new)
        unseen = max(0, created - self._accounted)
        self._accounted += unseen
        return unseen

    def _write(self, change: str, key: _Key, reference: _Reference | None = None) -> None:
        object_id, worker_id = key
        event = {
            "change": change,
            "object_id": in_base64(object_id),
            "worker_id": in_base64(worker_id),
            "node_id": self._node_id,
        }
        if reference:
            task_id = object_id[:_TASK_BYTES]
            event |= {"task_id": in_base64(task_id), "job_id": in_base64(task_id[_JOB_AT:]), **reference._asdict()}
        self._events.append(EVENT_TYPE, event)

    def _recall_references(self, directory: Path) -> set[_Key]:
        """Return the references of this node that a process before this one left behind."""
        references: set[_Key] = set()
        for row in recall(directory, EVENT_TYPE, most_bytes=_RECALLED_BYTES):
            with suppress(KeyError, TypeError, ValueError):  # the line is no event of ours
                key = (base64.b64decode(row["object_id"]), base64.b64decode(row["worker_id"]))
                if row["node_id"] == self._node_id:
                    (references.discard if row["change"] == "DELETED" else references.add)(key)
        return references


def _references(answer: Any) -> Iterator[tuple[_Key, _Reference]]:
    """Yield what Ray's State API would list (`construct_memory_table`, ray/dashboard/memory_utils.py, Ray 2.60)."""
    for worker in answer.core_workers_stats:
        worker_id, pid, ip = worker.worker_id, worker.pid, worker.ip_address
        kind = "DRIVER" if enumerated(worker, "worker_type") == "DRIVER" else "WORKER"
        for ref in worker.object_refs:
            reference_type = _reference_type(ref)
            if reference_type:
                yield (
                    (ref.object_id, worker_id),
                    _Reference(
                        *(ref.object_size, reference_type, enumerated(ref, "task_status"), ref.attempt_number + 1),
                        *(ref.call_site[:_CALL_SITE_LETTERS] or "disabled", pid, ip, kind),
                    ),
                )


def _reference_type(ref: Any) -> str:
    """Return why the object is kept, in the State API's words, or nothing where it is not."""
    if not (ref.pinned_in_memory or ref.submitted_task_ref_count or ref.local_ref_count or ref.contained_in_owned):
        return ""
    # an actor's creation task is named after the actor alone: its handle is that task's return value
    if ref.object_id[:8] == b"\xff" * 8 and ref.object_id[8:20] != b"\xff" * 12:
        return "ACTOR_HANDLE"
    if ref.pinned_in_memory:
        return "PINNED_IN_MEMORY"
    if ref.submitted_task_ref_count:
        return "USED_BY_PENDING_TASK"
    return "LOCAL_REFERENCE" if ref.local_ref_count else "CAPTURED_IN_OBJECT"


def _in_store(object_id: bytes, reference: _Reference) -> bool:
    """Say whether the node's store had to create the object, and not only its owner's memory."""
    put = int.from_bytes(object_id[_TASK_BYTES:], "little") > _FIRST_PUT
    return put or reference.object_size > _INLINED_BYTES
