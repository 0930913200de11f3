"""
Read the collection of KubeRay's history server, which is RayEvents as JSON lines, in a bucket or a copy of one.

    [.../cluster-history/<kind>/<namespace>/[<owner>/]]<cluster>/<session>/<node>/node_events/<name>.jsonl[.gz]
                                                                                  job_events/<job>/<name>.jsonl[.gz]
                                                                  logs/<log>
                                                                  logs/<log>.chunks/<offset>
                                                                           fetched_endpoints/restful__<path>
    [...]<cluster>_<namespace>/<session>/node_events/<node>-<hour>           an array of events, as KubeRay 1.6 had it
                                         job_events/<job>/<node>-<hour>

Its collector takes what Ray's HTTP export posts, as our receiver does, and so its files hold the same lines. An event
names its session, and the folder does not: a pod that is restarted writes on into the folder of the session before.

The layout is that of KubeRay 1.6 to 1.8 (historyserver/pkg/storage/clusterlogs, pkg/collector/eventcollector).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from raytrail import disk
from raytrail.event import MOST_OFFSET
from raytrail.kuberay.files import OF_NODE, File

_ROOT = "cluster-history"
_SESSION = r"(?P<session>session_[^/]+)/"
_FILE = re.compile(
    rf"{_SESSION}([^/]+/)?({OF_NODE}|job_events/.+)/[^/]*(\.jsonl(\.gz)?|-\d{{4}}-\d\d-\d\d-\d\d(-\d+)?(\.gz)?)\Z"
)
_LOG = re.compile(
    rf"{_SESSION}(?P<node>[^/]+)/logs/(?!events/|export_events/)(?P<log>.+?)(\.chunks/(?P<offset>\d{{1,20}}))?\Z"
)
_ENDPOINT = re.compile(rf"{_SESSION}fetched_endpoints/restful__[^/]+\Z")
_UNLISTED = re.compile(rf"{_SESSION}(.+/)?\Z")


class LogPiece(NamedTuple):
    """A log, or a piece of one."""

    file: File
    node_id: str
    """Hex."""
    name: str
    """Its name in ``logs/`` on its node."""
    offset: int
    """Where in the log it begins."""


class Collected(NamedTuple):
    """A session's folder."""

    session: str
    """The session of its folder. Its events may be of another."""
    cluster: str
    """``<namespace>_<cluster>``, as KubeRay's own list has it, and as much of that as the path says."""
    files: tuple[File, ...]
    """The files of nodes first, then by name, which is by time."""
    answers: tuple[File, ...] = ()
    """The files that its collector has polled of Ray's dashboard."""
    logs: tuple[LogPiece, ...] = ()

    @property
    def size_bytes(self) -> int:
        """How much there is to read."""
        return sum(file.size_bytes for file in (*self.files, *self.answers, *(piece.file for piece in self.logs)))


def below(path: Path) -> Iterator[File]:
    """Yield what may be its files below a directory, and directories that cannot be listed."""
    unlisted: list[OSError] = []
    root = path.resolve()
    for directory, _, names in os.walk(root, onerror=unlisted.append):
        for name in names:
            file = Path(directory, name)
            if any(pattern.search(file.as_posix()) for pattern in (_FILE, _ENDPOINT, _LOG)):
                # a name of any bytes, as text: it goes into reports
                size, version = _status(file)
                yield File(disk.escape_name(file.as_posix()), size, partial(_open, file, root), version)
    for error in unlisted:
        yield File(f"{disk.escape_name(Path(error.filename).as_posix())}/", 0, partial(_refuse, error))


def _status(path: Path) -> tuple[int, str]:
    """Return a file's size, and what changes with its content."""
    try:
        status = path.lstat()
    except OSError:
        return 0, ""  # to open it tells why
    return status.st_size, f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"


def _open(path: Path, root: Path) -> IO[bytes]:
    return open(disk.open_file(path, root), "rb")


def _refuse(error: OSError) -> IO[bytes]:
    raise error


def find(files: Iterable[File]) -> list[Collected]:
    """Return the sessions of its files, which may be among others."""
    sessions: dict[tuple[str, str], tuple[list[File], list[File], list[LogPiece]]] = {}
    for file in files:
        event_file = _FILE.search(file.name) or _UNLISTED.search(file.name)
        answer = _ENDPOINT.search(file.name)
        if match := event_file or answer or _LOG.search(file.name):
            key = match["session"], _cluster(PurePosixPath(file.name[: match.start()]))
            events, answers, logs = sessions.setdefault(key, ([], [], []))
            if event_file or answer:
                (events if event_file else answers).append(file)
            else:
                offset = min(int(match["offset"] or 0), MOST_OFFSET)
                logs.append(LogPiece(file, match["node"], match["log"], offset))
    return [
        Collected(*key, tuple(sorted(events, key=_order)), tuple(sorted(answers, key=_order)), tuple(sorted(logs)))
        for key, (events, answers, logs) in sorted(sessions.items())
        if events or answers
    ]


def _order(file: File) -> tuple[bool, str, str]:
    return file.of_job, file.name.rpartition("/")[2], file.name


def _cluster(above: PurePosixPath) -> str:
    """Return the cluster's name, of the directory that holds its sessions."""
    parts = above.parts
    if _ROOT in parts:
        below = parts[parts.index(_ROOT) + 1 :]
        return f"{below[1]}_{below[-1]}" if len(below) > 2 else below[-1] if below else ""
    return above.name
