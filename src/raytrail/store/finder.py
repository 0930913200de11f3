"""Find the log of a task, an actor, a job or a process, and the place in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

from raytrail.errors import NotFoundError
from raytrail.store.filters import Filter
from raytrail.store.logs import Log, matches
from raytrail.store.owners import Owners
from raytrail.store.read import Snapshot

BLOCK_BYTES = 256 * 1024
_WORKER_LOG = re.compile(r".*worker-([0-9a-f]+)-([0-9a-f]+)-(\d+).(out|err)")  # WORKER_LOG_PATTERN in log_manager.py
_TASK_NAME = b":task_name:"
"""Begins the line that a worker writes into its logs just before it notes where a task's output starts."""

Pieces = Callable[[Log, int, int], Iterator[tuple[int, bytes]]]
"""Gives what is stored of a range of a log, each piece with its offset, as `Store.log_pieces`."""


class LogPart(NamedTuple):
    """A part of a log."""

    log: Log
    start: int = 0
    end: int | None = None


class LogFinder:
    """
    Finds logs as Ray 2.60 does (ray/dashboard/modules/log/log_manager.py). Its errors are worded as Ray's.

    Args:
        snapshot: The snapshot that says which nodes, tasks and the like there are.
        logs: The session's logs, by the nodes that their agents shipped them under.
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
        # the owner of a log does not change with the moment
        self._owners = Owners(snapshot.at_last(), logs)
        self._pieces = pieces

    def of_actor(self, actor_id: str, suffix: str) -> tuple[str, LogPart | None]:
        """
        Return an actor's node, and what its last process printed there, if that is here.

        Raises:
            NotFoundError: There is no such actor, or it never had a process.
        """
        columns = ["node_id", "pid", "death_cause", "_leased_node_id"]
        rows = self._snapshot.rows("actor", columns=columns, where=[Filter("actor_id", "=", actor_id)], limit=1)
        if not rows:
            raise NotFoundError(f"Actor ID {actor_id} not found.")
        # one that ends in its constructor may do so before the GCS hears that it lives: the task that created it says
        # where, or why it died
        node_id, pid = rows[0]["node_id"] or rows[0]["_leased_node_id"], rows[0]["pid"]
        died = (rows[0]["death_cause"] or {}).get("actor_died_error_context") or {}
        if not node_id and died.get("node_ip_address"):
            node_id = self.node(died["node_ip_address"])
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
        part = (name and self.named(node_id, name)) or self.of_worker(node_id, suffix, worker_id=task["worker_id"])
        if not part:
            raise NotFoundError(f"A file is not found at: {name}")
        start, end = known.get(f"std{suffix}_start") or 0, known.get(f"std{suffix}_end")
        if not start and end:
            start = output_start(self._pieces, part.log, end) or 0
        return LogPart(part.log, start, end)

    def of_job(self, submission_id: str) -> tuple[str, LogPart | None]:
        """Return the node of a submission job's entrypoint, and what that printed, as far as they are known."""
        name = f"job-driver-{submission_id}.log"
        rows = self._snapshot.rows(
            "job", columns=["driver_node_id"], where=[Filter("submission_id", "=", submission_id)], limit=1
        )
        node_id = rows[0]["driver_node_id"] or "" if rows else ""
        if part := self.named(node_id, name):
            return node_id, part
        # its events are lost, or of before its driver began: its name is no other job's
        anywhere = [log for log in self._logs if log.name == name]
        if not anywhere:
            return node_id, None
        log = _newest(anywhere)
        return node_id or log.node_id, LogPart(log)

    def of_worker(
        self, node_id: str, suffix: str, *, pid: int | None = None, worker_id: str | None = None
    ) -> LogPart | None:
        """Return what a worker printed, by its process's id or its own, or None where that is not here."""
        # a worker's id is no other's, so that it tells the log whatever node that was shipped under
        logs = [log for log in self._logs if worker_id in log.name] if worker_id else self.of_node(node_id)
        for log in reversed(logs):  # a process's id comes again, so the last one of it is meant
            match = _WORKER_LOG.fullmatch(log.name)
            if match and match[4] == suffix and (match[1] == worker_id if worker_id else int(match[3]) == pid):
                return LogPart(log)
        return None

    def named(self, node_id: str, name: str) -> LogPart | None:
        """
        Return a node's log of that name, if there is one.

        Otherwise return the one that all nodes of its directory share.
        """
        for logs in (self.of_node(node_id), self._find_shared(node_id)):
            if same_name := [log for log in logs if log.name == name]:
                return LogPart(same_name[0])
        return None

    def of_node(self, node_id: str) -> list[Log]:
        """
        Return a node's logs, oldest first.

        Those are the logs that its agent shipped under its id. If several nodes may share a directory, they are those
        that are its own by events, and for the newest head also those whose owner nothing tells. If there are none,
        they are the logs of a node on the same machine, with which it shares a directory.
        """
        if self._owners.are_plain:
            logs = [log for log in self._logs if log.node_id == node_id]
        else:
            logs = self._owners.owned.by_node.get(node_id, []) or self._find_of_peers(node_id)
        return sorted(logs, key=_age)

    def listed(self, node_id: str | None = None, glob: str = "**") -> list[Log]:
        """
        Return logs by node and name, each by the node whose it is.

        Args:
            node_id: The node, or None for all.
            glob: The pattern of their names in ``logs/``, as in `matches`.
        """
        every = self._logs if self._owners.are_plain else chain.from_iterable(self._owners.owned.by_node.values())
        chosen = every if node_id is None else self.of_node(node_id)
        matching = [log for log in chosen if matches(log.name, glob)]
        return sorted(matching, key=lambda log: (log.node_id, log.name, *_age(log)))

    def _find_of_peers(self, node_id: str) -> list[Log]:
        of_node = [Filter("node_id", "=", node_id)]
        here = self._snapshot.rows("node", columns=["node_ip"], where=of_node, limit=1)
        if not here or not here[0]["node_ip"]:
            return []
        peers = [Filter("node_ip", "=", here[0]["node_ip"])]
        ids = {row["node_id"] for row in self._snapshot.rows("node", columns=["node_id"], where=peers)}
        return [log for log in self._logs if log.node_id in ids]

    def _find_shared(self, node_id: str) -> list[Log]:
        return [] if self._owners.are_plain else sorted(self._owners.owned.shared.get(node_id, []), key=_age)

    def node(self, ip: str) -> str:
        """Return the id of the node that has an address, or of the newest such node, or else of the head node."""
        nodes = self._snapshot.rows("node", columns=["node_id", "node_ip", "is_head_node", "state", "start_time_ms"])
        nodes.sort(key=lambda node: node["start_time_ms"] or 0, reverse=True)
        nodes.sort(key=lambda node: (node["node_ip"] != ip, node["state"] != "ALIVE", not node["is_head_node"]))
        if nodes and nodes[0]["node_ip"] != ip:
            nodes.sort(key=lambda node: not node["is_head_node"])
        return nodes[0]["node_id"] if nodes else ""

    def last_lines(self, log: Log, end: int, lines: int) -> int:
        """
        Return where the last lines before an offset begin, as Ray counts them.

        The log is read backwards, a block at a time.
        """
        remaining = lines - (_block(self._pieces, log, max(0, end - 1), end) != b"\n")
        at = end
        while at > 0:
            low = max(0, at - BLOCK_BYTES)
            block = _block(self._pieces, log, low, at)
            count = block.count(b"\n")
            if count > remaining:
                return at - len(block.split(b"\n", count - remaining)[-1])
            remaining -= count
            at = low
        return 0


def output_start(pieces: Pieces, log: Log, end: int, most_blocks: int | None = None) -> int | None:
    """
    Return where a task's output starts that ends there, or None where that is not found in so many blocks.

    Ray's event leaves it out where a task's start and end are written at once (`TaskLogInfoToExport`). Its worker has
    written the task's name just before.
    """
    at, after = min(end, log.size), b""
    while at > 0 and most_blocks != 0:
        low = max(0, at - BLOCK_BYTES)
        block = _block(pieces, log, low, at) + after
        line = len(block)
        while (line := block.rfind(_TASK_NAME, 0, line)) >= 0:
            if line == 0 and low:
                break  # the text before it decides
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


def _age(log: Log) -> tuple[str, int]:
    return log.file, log.generation


def _newest(logs: list[Log]) -> Log:
    return max(logs, key=_age)
