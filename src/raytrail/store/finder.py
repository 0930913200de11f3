"""Whose log is which: of a task, an actor, a job or a process, and where in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from raytrail.errors import NotFoundError
from raytrail.store.logs import Log
from raytrail.store.read import Filter, Snapshot

BLOCK_BYTES = 256 * 1024
_WORKER_LOG = re.compile(r".*worker-([0-9a-f]+)-([0-9a-f]+)-(\d+).(out|err)")  # WORKER_LOG_PATTERN in log_manager.py
_TASK_NAME = b":task_name:"
"""Begins the line that a worker writes into its logs just before it notes where a task's output starts."""

_CREATION = "ff" * 8
"""Begins the id of the task that creates an actor; the actor's follows (`TaskID::ForActorCreationTask`, id.cc)."""

Pieces = Callable[[Log, int, int], Iterator[tuple[int, bytes]]]
"""Gives what is stored of a range of a log, each piece with its offset, as `Store.log_pieces`."""


class LogPart(NamedTuple):
    """A part of a log."""

    log: Log
    start: int = 0
    end: int | None = None


class LogFinder:
    """
    Finds logs as Ray 2.60 does (ray/dashboard/modules/log/log_manager.py); its words, where there are none.

    Args:
        snapshot: Who there is.
        logs: The session's logs.
        pieces: Gives what is stored of a range of one.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        logs: list[Log],
        pieces: Pieces,
    ) -> None:
        self._snapshot = snapshot
        self._logs = logs
        self._pieces = pieces

    def of_actor(self, actor_id: str, suffix: str) -> tuple[str, LogPart | None]:
        """
        Return an actor's node, and what its last process printed there, if that is here.

        Raises:
            NotFoundError: There is no such actor, or it never had a process.
        """
        rows = self._snapshot.rows(
            "actor", columns=["node_id", "pid"], where=[Filter("actor_id", "=", actor_id)], limit=1
        )
        if not rows:
            raise NotFoundError(f"Actor ID {actor_id} not found.")
        node_id, pid = rows[0]["node_id"], rows[0]["pid"]
        if not node_id or not pid:
            # one whose constructor fails may end before GCS hears that it lives; the task that created it says where
            created = [Filter("task_id", "=", _CREATION + actor_id)]
            for task in self._snapshot.rows(
                "task", columns=["node_id", "worker_pid"], where=created, order=["attempt_number"]
            ):
                node_id, pid = task["node_id"] or node_id, task["worker_pid"] or pid
        if not node_id or not pid:
            raise NotFoundError(f"Worker ID for Actor ID {actor_id} not found. Actor is not scheduled yet.")
        return node_id, self.of_worker(node_id, suffix, pid=pid)

    def of_task(self, task_id: str, attempt: int, suffix: str) -> LogPart:
        """
        Return what an attempt of a task printed.

        Raises:
            NotFoundError: It is not known.
        """
        columns = ["attempt_number", "type", "node_id", "worker_id", "worker_pid", "actor_id", "task_log_info"]
        rows = self._snapshot.rows("task", columns=columns, where=[Filter("task_id", "=", task_id)])
        if not rows:
            raise NotFoundError(
                f"Could not find log file for task: {task_id} (attempt {attempt}) with suffix: {suffix}"
            )
        task = next((row for row in rows if row["attempt_number"] == attempt), None)
        if task is None:
            raise NotFoundError(f"Could not find log file for task attempt:{task_id}({attempt})")
        node_id, actor_id, known = task["node_id"], task["actor_id"], task["task_log_info"]
        if node_id is None:
            raise NotFoundError(
                f"Could not find log file for task attempt.{task_id}({attempt}) due to missing node info."
            )
        if known is None and actor_id is not None:
            raise NotFoundError(
                f"For actor task, please query actor log for actor({actor_id}): e.g. ray logs actor --id {actor_id} . "
                "Or set RAY_ENABLE_RECORD_ACTOR_TASK_LOGGING=1 in actor's runtime env or when starting the cluster. "
                "Recording actor task's log could be expensive, so Ray turns it off by default."
            )
        if known is None:
            raise NotFoundError(
                f"Could not find log file for task attempt:{task_id}({attempt}).Worker id = {task['worker_id']}, "
                f"node id = {node_id},log_info = None"
            )
        name = known.get(f"std{suffix}_file") or ""
        # a worker that was started in advance has another job in its logs' names than its task's events say
        found = (name and self.named(node_id, name)) or self.of_worker(node_id, suffix, worker_id=task["worker_id"])
        if not found:
            raise NotFoundError(f"A file is not found at: {name}")
        start, end = known.get(f"std{suffix}_start") or 0, known.get(f"std{suffix}_end")
        if not start and end:
            start = output_start(self._pieces, found.log, end) or 0
        return LogPart(found.log, start, end)

    def of_job(self, submission_id: str) -> tuple[str, LogPart | None]:
        """Return the node of a submission job's entrypoint, and what that printed, as far as they are known."""
        rows = self._snapshot.rows(
            "job", columns=["driver_node_id"], where=[Filter("submission_id", "=", submission_id)], limit=1
        )
        if not rows:
            return "", None
        name, node_id = _job_log(submission_id), rows[0]["driver_node_id"] or ""
        if not node_id:  # only its driver tells of it, and Ray's files do not say where that ran
            node_id = next((log.node_id for log in reversed(self._logs) if log.name == name), "")
        return node_id, self.named(node_id, name)

    def of_worker(
        self, node_id: str, suffix: str, *, pid: int | None = None, worker_id: str | None = None
    ) -> LogPart | None:
        """Return what a worker printed, by its process's id or its own; None where that is not here."""
        for log in reversed(self.of_node(node_id)):  # a process's id comes again; the last one of it is meant
            match = _WORKER_LOG.fullmatch(log.name)
            if match and match[4] == suffix and (int(match[3]) == pid or match[1] == worker_id):
                return LogPart(log)
        return None

    def named(self, node_id: str, name: str) -> LogPart | None:
        """Return a node's log of that name, if there is one."""
        return next((LogPart(log) for log in self.of_node(node_id) if log.name == name), None)

    def of_node(self, node_id: str) -> list[Log]:
        """
        Return a node's logs, oldest first.

        Where none go by its id: those of no node, as of a session that was copied without what names its nodes, or of
        another one on the same machine, with which it shares a directory.
        """
        every = self._logs
        one = [Filter("node_id", "=", node_id)]
        here = self._snapshot.rows("node", columns=["node_ip"], where=one, limit=1)
        peers = [Filter("node_ip", "=", here[0]["node_ip"])] if here and here[0]["node_ip"] else one
        shared = {row["node_id"] for row in self._snapshot.rows("node", columns=["node_id"], where=peers)}
        for nodes in ({node_id}, {""} if here else set(), shared):
            if found := [log for log in every if log.node_id in nodes]:
                return sorted(found, key=lambda log: (log.file, log.generation))
        return []

    def node(self, ip: str) -> str:
        """Return the id of the node that has an address, or else of the head node."""
        nodes = self._snapshot.rows("node", columns=["node_id", "node_ip", "is_head_node", "state"])
        nodes.sort(key=lambda node: (node["node_ip"] != ip, node["state"] != "ALIVE", not node["is_head_node"]))
        if nodes and nodes[0]["node_ip"] != ip:
            nodes.sort(key=lambda node: not node["is_head_node"])
        return nodes[0]["node_id"] if nodes else ""

    def last_lines(self, log: Log, end: int, lines: int) -> int:
        """Return where the last lines before an offset begin, as Ray counts them; read backwards, a block at a time."""
        left = lines - (_block(self._pieces, log, max(0, end - 1), end) != b"\n")
        at = end
        while at > 0:
            low = max(0, at - BLOCK_BYTES)
            block = _block(self._pieces, log, low, at)
            count = block.count(b"\n")
            if count > left:
                return at - len(block.split(b"\n", count - left)[-1])
            left -= count
            at = low
        return 0


def output_start(pieces: Pieces, log: Log, end: int, most_blocks: int | None = None) -> int | None:
    """
    Return where a task's output starts that ends there; None where that is not found in so many blocks.

    Ray's event leaves it out where a task's start and end are written at once (`TaskLogInfoToExport`); its worker has
    written the task's name just before.
    """
    at, after = min(end, log.size), b""
    while at > 0 and most_blocks != 0:
        low = max(0, at - BLOCK_BYTES)
        block = _block(pieces, log, low, at) + after
        line = len(block)
        while (line := block.rfind(_TASK_NAME, 0, line)) >= 0:
            if line == 0 and low:
                break  # what is before it decides
            if line == 0 or block[line - 1 : line] == b"\n":
                newline = block.find(b"\n", line)
                return min(end, low + newline + 1) if newline >= 0 else end
        at, after = low, block[:4096]
        most_blocks = None if most_blocks is None else most_blocks - 1
    return None


def _block(pieces: Pieces, log: Log, start: int, end: int) -> bytes:
    """Return a range, spaces where it is missing."""
    block = bytearray(b" " * (end - start))
    for offset, data in pieces(log, start, end):
        block[offset - start : offset - start + len(data)] = data
    return bytes(block)


def _job_log(submission_id: str) -> str:
    return f"job-driver-{submission_id}.log"
