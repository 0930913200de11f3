"""Look at Ray on this machine from the outside, at its processes and its session directories."""

from __future__ import annotations

import base64
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from raytrail import disk
from raytrail.event import UNDECODABLE

PROC = Path("/proc")
"""The kernel's view of the processes."""

EVENT_FILE = re.compile(r"event_EXPORT_(?P<type>[A-Z_]+?)(?:_(?P<pid>\d+))?\.log(?:\.(?P<backup>\d+))?")
"""``event_EXPORT_TASK_4711.log.3``: its type, its process (where each has its own), its age among backups."""

_DRIVER_LOG = re.compile(r"python-core-driver-[0-9a-f]+_(\d+)\.log")


class Process(NamedTuple):
    """A raylet or a GCS server."""

    pid: int
    name: str
    arguments: Mapping[str, str]
    """Its flags, with underscores: raylet takes both ``--session_dir`` and ``--session-name``."""
    environ: Mapping[str, str] | None
    """None where it belongs to somebody else."""

    @property
    def session_dir(self) -> Path:
        """The directory of its session."""
        return Path(self.arguments.get("session_dir", ""))

    @property
    def temp_dir(self) -> Path:
        """Ray's temp dir, where all its sessions are."""
        return self.session_dir.resolve().parent

    def system_config(self) -> Mapping[str, Any]:
        """Return the value of ``ray start --system-config``. Only the GCS server has it on its command line."""
        try:
            return msgspec.json.decode(base64.b64decode(self.arguments["config_list"]), type=dict[str, Any])
        except (KeyError, ValueError, *UNDECODABLE):  # none, or what is no base64 or no JSON
            return {}


class EventFile(NamedTuple):
    """A file of ``export_events``."""

    name: str
    type: str
    pid: int | None
    backup: int
    """0 for the one that is written to, 1 for the newest backup, ..."""
    size: int
    changed_s: float
    inode: str
    """``<device>:<inode>`` in hex, as the agent's checkpoint has it."""


class Session(NamedTuple):
    """A session directory."""

    dir: Path
    files: tuple[EventFile, ...]
    drivers: frozenset[int]
    """Processes that joined as drivers."""
    unreadable: tuple[str, ...]
    """The paths that could not be read, and why."""

    @property
    def export_dir(self) -> Path:
        """The directory of its event files."""
        return self.dir / "logs" / "export_events"


def processes(proc: Path) -> list[Process]:
    """Return the raylets and GCS servers that run here. Other containers' are not seen."""
    return sorted(_processes(proc))


def _processes(proc: Path) -> Iterator[Process]:
    for directory in proc.glob("[0-9]*"):  # none at all where the system has no /proc
        try:
            argv = (directory / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended just now
            continue
        name = Path(argv[0]).name
        if name in ("raylet", "gcs_server"):
            flags = (argument[2:].partition("=") for argument in argv[1:] if argument.startswith("--"))
            arguments = {flag.replace("-", "_"): value for flag, _, value in flags}
            yield Process(int(directory.name), name, arguments, environ(int(directory.name), proc))


def environ(pid: int, proc: Path) -> dict[str, str] | None:
    """Return the environment that a process was started with, or None where it cannot be read."""
    try:
        text = (proc / str(pid) / "environ").read_bytes().decode(errors="replace")
    except OSError:
        return None
    return {name: value for name, _, value in (line.partition("=") for line in text.split("\0")) if name}


def acknowledged(*checkpoints: Path) -> dict[str, int]:
    """
    Return how many bytes of each inode the agent of this node has shipped to all its destinations.

    The agent may run.
    """
    shipped = [_acknowledged(checkpoint) for checkpoint in checkpoints]
    return {inode: min(bytes_of.get(inode, 0) for bytes_of in shipped) for inode in set().union(*shipped)}


def _acknowledged(checkpoint: Path) -> dict[str, int]:
    if not checkpoint.exists():
        return {}
    with closing(sqlite3.connect(f"{checkpoint.absolute().as_uri()}?mode=ro", uri=True)) as database:
        try:
            return dict(database.execute("SELECT inode, max(acknowledged) FROM file GROUP BY inode"))
        except sqlite3.Error:  # it is another version's, or damaged. The agent says so when it starts
            return {}


def session(directory: Path) -> Session:
    """Read what a session directory holds, as far as it can be read."""
    unreadable: list[str] = []
    files = tuple(_event_files(directory, unreadable))
    drivers = frozenset(_driver_pids(directory / "logs", unreadable))
    return Session(directory, files, drivers, tuple(unreadable))


def _event_files(directory: Path, unreadable: list[str]) -> Iterator[EventFile]:
    """Yield the event files of a session directory. Name in `unreadable` what cannot be read."""
    # Ray makes the directory with the first event file, and none where export is off
    for path in sorted(_list(directory / "logs" / "export_events", unreadable)):
        match = EVENT_FILE.fullmatch(path.name)
        if match is None:
            continue
        try:
            with open(disk.open_file(path, directory), "rb") as file:
                file.read(1)
                status = os.stat(file.fileno())
        except disk.Refused as error:
            unreadable.append(f"{disk.escape_name(str(path))}: it is {error.strerror}")
        except FileNotFoundError:  # rotated away between the two
            pass
        except OSError as error:
            unreadable.append(f"{path}: {error.strerror}")
        else:
            yield _event_file(path.name, match, status)


def _event_file(name: str, match: re.Match[str], status: os.stat_result) -> EventFile:
    pid = int(match["pid"]) if match["pid"] else None
    inode = f"{status.st_dev:x}:{status.st_ino:x}"
    backup = int(match["backup"] or 0)
    return EventFile(name, match["type"], pid, backup, status.st_size, status.st_mtime, inode)


def _driver_pids(logs: Path, unreadable: list[str]) -> Iterator[int]:
    for path in _list(logs, unreadable):
        if match := _DRIVER_LOG.fullmatch(path.name):
            yield int(match[1])


def _list(directory: Path, unreadable: list[str]) -> list[Path]:
    """Return what is in a directory, which need not be there. Name it in `unreadable` if it cannot be read."""
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        unreadable.append(f"{directory}: {error.strerror}")
        return []
