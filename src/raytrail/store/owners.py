"""
Find the node of each log, where several nodes have written into one directory.

A head that restarted with its tables in Redis, a raylet that was started anew on the same disk, and two raylets on one
machine share a session's directory. An agent ships its logs under one node's id, the directory's. Events about workers,
drivers and jobs tell the node of each. The number in a name tells the processes of a node, since each new process
begins a file. The rest belong to the head that came last.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import PurePosixPath
from typing import NamedTuple, TypeVar

import msgspec

from raytrail.store.logs import Log
from raytrail.store.read import Snapshot

_WORKER = re.compile(r"(?:\w+-)?(?:core-)?worker-(?P<worker>[0-9a-f]+)(?:-[0-9a-f]+-|_)(?P<pid>\d+)\b.*")
"""``worker-<worker>-<job>-<pid>.out``, ``python-core-worker-<worker>_<pid>.log``"""
_SUBMISSION = re.compile(r"(?:job-driver|supervisor)-(?P<submission>.+)\.log")
"""``job-driver-<submission>.log``, ``jobs/supervisor-<submission>.log``"""
_JOB = re.compile(
    r"(?:python-core-driver-(?P<driver>[0-9a-f]{8})[0-9a-f]*_\d+|runtime_env_setup-(?P<job>[0-9a-f]+))\.log"
)
"""``python-core-driver-<the job's worker>_<pid>.log``, ``runtime_env_setup-<job>.log``"""
_DATASET = re.compile(r"ray-data-(?P<dataset>.+)\.log")
_OF_HEAD = ("gcs_server", "dashboard", "monitor", "ray_client_server")
_OF_NODE = ("raylet", "dashboard_agent", "runtime_env_agent", "log_monitor")
_PROCESS = re.compile(
    rf"(?P<process>{'|'.join((*_OF_HEAD, *_OF_NODE))}|dashboard_\w+Head)"
    r"(\.(?P<number>\d+))?(?P<suffix>\.(out|err|log))"
)
"""``raylet.out``, and ``raylet.1.out`` of the next raylet in the same directory (`Node._make_inc_temp`, node.py)."""
_Key = TypeVar("_Key")
_SERVE = ("serve_replica", "serve_proxy", "serve_instance")


class Owned(NamedTuple):
    """The logs of a session by the nodes whose they are."""

    by_node: Mapping[str, list[Log]]
    """Each with its node's id."""
    shared: Mapping[str, list[Log]]
    """By node: those of its directory of which nothing tells whose they are, and which go by the main node's id."""


class _Node(NamedTuple):
    start_ms: int
    node_id: str
    ip: str
    is_head: bool
    end_ms: int | None


class Owners:
    """
    Tells the owners of a session's logs.

    Args:
        snapshot: The states of the session.
        logs: The logs, by the ids that their agents shipped them under.
    """

    def __init__(self, snapshot: Snapshot, logs: Iterable[Log]) -> None:
        self._snapshot = snapshot
        self._logs: dict[str, list[Log]] = defaultdict(list)
        for log in logs:
            self._logs[log.node_id].append(log)

    @cached_property
    def are_plain(self) -> bool:
        """Whether every node has a directory of its own, as far as is known, so that nothing has to be found out."""
        ips = [node.ip for node in self._nodes if node.ip]
        alone = len(set(ips)) == len(ips) and sum(node.is_head for node in self._nodes) <= 1
        return alone and all(node.node_id in self._logs for node in self._nodes)

    @cached_property
    def owned(self) -> Owned:
        """The logs, each by the node that it is of."""
        by_node, shared = defaultdict[str, list[Log]](list), defaultdict[str, list[Log]](list)
        if len(self._nodes) == 1 and self._logs.keys() <= {"", self._nodes[0].node_id}:
            # nobody else can have written them, and there may be millions of tasks to ask
            [node] = self._nodes
            every = [log for logs in self._logs.values() for log in logs]
            return Owned({node.node_id: [msgspec.structs.replace(log, node_id=node.node_id) for log in every]}, {})
        for labels in self._group_directories():
            logs = [log for label in labels for log in self._logs[label]]
            owners = [self._find_owner(log.name) for log in logs]
            nodes = self._find_nodes(labels, set(owners), [log.name for log in logs])
            numbered = _by_number([log.name for log in logs], nodes)
            for log, owner in zip(logs, owners, strict=True):
                node_id = owner or numbered.get(log.name) or self._guess_owner(log, labels, nodes)
                log = msgspec.structs.replace(log, node_id=node_id)
                by_node[node_id].append(log)
                if not owner and log.name not in numbered:
                    for node in nodes:
                        shared[node.node_id].append(log)
        return Owned(by_node, shared)

    def _guess_owner(self, log: Log, labels: list[str], nodes: list[_Node]) -> str:
        """Return the node of a log that neither events nor a number tell."""
        # an agent that was there when the next node began has shipped what came before under the one before it
        seen_at_the_time = len(labels) > 1 and not _PROCESS.fullmatch(log.name)
        return log.node_id if seen_at_the_time else _main(nodes) or log.node_id

    # -- which nodes there are

    @cached_property
    def _nodes(self) -> list[_Node]:
        columns = ["start_time_ms", "node_id", "node_ip", "is_head_node", "end_time_ms"]
        rows = [[row[name] for name in columns] for row in self._snapshot.rows("node", columns=columns)]
        return sorted(_Node(start or 0, id, ip or "", bool(head), end) for start, id, ip, head, end in rows)

    def _group_directories(self) -> list[list[str]]:
        """Return the ids that logs were shipped under, those of one directory together."""
        directories: list[list[str]] = []
        ips = {node.node_id: node.ip for node in self._nodes}
        heads = {node.node_id for node in self._nodes if node.is_head}
        order = {node.node_id: place for place, node in enumerate(self._nodes)}
        for label in sorted(self._logs, key=lambda label: order.get(label, -1)):
            # the number of a process says that there was one before it, which may go by the id of a node before
            first = min(
                (min(numbers) for numbers in _series(log.name for log in self._logs[label]).values()), default=0
            )
            before = [
                labels
                for labels in directories
                if ips.get(label, "") == ips.get(labels[-1]) or (label in heads and labels[-1] in heads)
            ]
            if first and before:
                before[-1].append(label)
            else:
                directories.append([label])
        return directories

    def _find_nodes(self, labels: list[str], owners: set[str], names: list[str]) -> list[_Node]:
        """Return the nodes that have worked in a directory, oldest first, as far as its logs tell."""
        known = owners.union(labels)
        nodes = [node for node in self._nodes if node.node_id in known]
        others = [node for node in self._nodes if node.node_id not in known and node.node_id not in self._logs]
        if "" in labels:
            return sorted([*nodes, *(node for node in others if node.is_head or not nodes)])
        ips = {node.ip for node in nodes if node.ip}
        # each process more than there are nodes is that of another one
        there = [node for node in nodes if node.is_head]
        heads = _last([node for node in others if node.is_head], _most_numbers(names, _OF_HEAD) - len(there))
        near = [node for node in others if node not in heads and (node.is_head or node.ip in ips)]
        return sorted([*nodes, *heads, *_last(near, _most_numbers(names, _OF_NODE) - len(nodes) - len(heads))])

    # -- what events tell

    def _find_owner(self, name: str) -> str:
        """Return the node of a log as events tell it, or an empty text where they do not."""
        path = PurePosixPath(name)
        if match := _WORKER.fullmatch(path.name):
            return self._workers.get(match["worker"], "") or self._pids.get(int(match["pid"]), "")
        if match := _SUBMISSION.fullmatch(path.name):
            return self._submissions.get(match["submission"], "")
        if match := _JOB.fullmatch(path.name):
            return self._jobs.get(match["driver"] or match["job"], "")
        if match := _DATASET.fullmatch(path.name):
            return self._datasets.get(match["dataset"], "")
        return self._files.get(name, "")

    @cached_property
    def _workers(self) -> dict[str, str]:
        rows = self._snapshot.group("task", ["worker_id", "node_id"])
        rows += self._snapshot.rows("worker", columns=["worker_id", "node_id"])
        return {row["worker_id"]: row["node_id"] for row in rows if row["worker_id"] and row["node_id"]}

    @cached_property
    def _pids(self) -> dict[int, str]:
        """The nodes of actors' processes. A number that two nodes had is left out."""
        rows = self._snapshot.group("actor", ["pid", "node_id"])
        return _only((row["pid"], row["node_id"]) for row in rows if row["pid"] and row["node_id"])

    @cached_property
    def _submissions(self) -> dict[str, str]:
        jobs = self._snapshot.rows("submission_job", columns=["submission_id", "driver_node_id"])
        drivers = self._snapshot.rows("driver_job", columns=["submission_id", "job_id"], order=["job_id"])
        by_submission = {
            row["submission_id"]: self._jobs.get(row["job_id"], "") for row in drivers if row["submission_id"]
        }
        return by_submission | {row["submission_id"]: row["driver_node_id"] for row in jobs if row["driver_node_id"]}

    @cached_property
    def _jobs(self) -> dict[str, str]:
        """The nodes of jobs' drivers."""
        actors = self._snapshot.group("actor", ["job_id", "node_id"])
        by_job = _only((row["job_id"], row["node_id"]) for row in actors if row["job_id"] and row["node_id"])
        columns = ["job_id", "driver_node_id", "driver_ip_address", "start_time_ms"]
        for row in self._snapshot.rows("driver_job", columns=columns):
            if node_id := row["driver_node_id"] or self._find_node_at(
                row["driver_ip_address"] or "", row["start_time_ms"] or 0
            ):
                by_job[row["job_id"]] = node_id
        return by_job

    def _find_node_at(self, ip: str, ms: int) -> str:
        """Return the node that had an address at a moment, or an empty text where it is not exactly one."""
        there = [node for node in self._nodes if node.ip == ip and node.start_ms <= ms]
        there = [node for node in there if node.end_ms is None or node.end_ms >= ms] or there[-1:]
        return there[0].node_id if len(there) == 1 else ""

    @cached_property
    def _datasets(self) -> dict[str, str]:
        rows = self._snapshot.rows("dataset", columns=["dataset_id", "job_id"])
        return {row["dataset_id"]: self._jobs[row["job_id"]] for row in rows if row["job_id"] in self._jobs}

    @cached_property
    def _files(self) -> dict[str, str]:
        """The nodes of Serve's processes by their logs."""
        rows = [row for noun in _SERVE for row in self._snapshot.rows(noun, columns=["log_file_path", "node_id"])]
        return _only(
            (row["log_file_path"].lstrip("/"), row["node_id"])
            for row in rows
            if row["log_file_path"] and row["node_id"]
        )


def _only(pairs: Iterable[tuple[_Key, str]]) -> dict[_Key, str]:
    """Return the node of each key of which there is one alone."""
    node_ids = defaultdict[_Key, set[str]](set)
    for key, node_id in pairs:
        node_ids[key].add(node_id)
    return {key: next(iter(ids)) for key, ids in node_ids.items() if len(ids) == 1}


def _last(nodes: list[_Node], count: int) -> list[_Node]:
    return nodes[-count:] if count > 0 else []


def _main(nodes: list[_Node]) -> str:
    """Return the newest head, or the newest of all, or an empty text where there is none."""
    chosen = [node for node in nodes if node.is_head] or nodes
    return chosen[-1].node_id if chosen else ""


def _series(names: Iterable[str]) -> dict[tuple[str, str], dict[int, str]]:
    """Return the logs of a node's own processes, by process and suffix, each by its number."""
    series = defaultdict[tuple[str, str], dict[int, str]](dict)
    for name in names:
        if match := _PROCESS.fullmatch(name):
            series[match["process"], match["suffix"]][int(match["number"] or 0)] = name
    return series


def _most_numbers(names: Iterable[str], processes: tuple[str, ...]) -> int:
    return max((len(numbers) for (process, _), numbers in _series(names).items() if process in processes), default=0)


def _by_number(names: Iterable[str], nodes: list[_Node]) -> dict[str, str]:
    """
    Return the nodes of logs whose names are numbered: the newest has the highest number.

    A log that has no number and no other beside it is written by all, one after the other.
    """
    by_name: dict[str, str] = {}
    for (process, _), numbers in _series(names).items():
        those = nodes if process in _OF_NODE else [node for node in nodes if node.is_head]
        if those and numbers.keys() != {0}:
            for back, number in enumerate(sorted(numbers, reverse=True)):
                by_name[numbers[number]] = those[max(0, len(those) - 1 - back)].node_id
    return by_name
