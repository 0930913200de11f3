"""Which sessions there are, whose events they hold, and what the names of their event files say."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from raytrail.errors import ConfigError
from raytrail.event import LOG

_EVENTS, _CLUSTER_EVENTS = "export_events", "events"
_FILE = re.compile(r"(?P<stem>event_(?P<type>[A-Z][A-Z0-9_]*?)(_\d+)?)(\.(?P<n>\d+))?\.log(\.(?P<m>\d+))?")
_LOG = re.compile(r"(?P<stem>.+?)(\.(?P<n>\d+))?(?P<suffix>\.(log|out|err|txt))(\.(?P<m>\d+))?")
_NODE = re.compile(r"(metrics_agent|metrics_export|dashboard_agent_listen|runtime_env_agent)_port_([0-9a-f]+)")
_HEAD = re.compile(r"gcs_server_port_([0-9a-f]+)")


class FileName(NamedTuple):
    """What the name of an event file says, e.g. ``event_EXPORT_TASK_123.log.2``."""

    stem: str
    """``event_EXPORT_TASK_123``: the same for all files of one writer."""
    event_type: str
    """``TASK``; ``CLUSTER_EVENT`` for what Ray writes for its dashboard's Overview, e.g. ``event_GCS.log``; `LOG`."""
    rotation: int
    """2; 0 for the file that is being written. The oldest has the highest."""

    @property
    def is_log(self) -> bool:
        """Whether it is a log: bytes of which nothing is known, not lines of JSON."""
        return self.event_type == LOG


class Nodes(NamedTuple):
    """The nodes that have worked in a session directory, by the port files that they left in it."""

    ids: tuple[str, ...]
    """Hex ids, sorted; the head's among them."""
    head: str
    """The head's id; empty where the head is on another machine."""

    @property
    def main(self) -> str:
        """
        The id that the directory's events go by; empty where there is none yet.

        Two raylets on one host write into the same directory, and no file's name tells whose worker wrote it
        (its events do). So one of them stands for all: the head, or the first.
        """
        return self.head or next(iter(self.ids), "")


class Session(NamedTuple):
    """One session of Ray on this node's disk; one of its directories of event files, of which it has two."""

    name: str
    """Ray's name for it, which is its directory's."""
    events: Path
    """Where its event files are; it may not be there yet."""
    directory: Path | None
    """Ray's session directory; None for event files that were taken out of theirs."""


@lru_cache(maxsize=100_000)
def parse(name: str) -> FileName | None:
    """
    Read an event file's name; None if it is not one.

    Ray 2.60 names rotated files ``x.log.1``, from C++ and from Python; spdlog's own way, which Ray's sources
    mention, is ``x.1.log``.
    """
    match = _FILE.fullmatch(name)
    if match is None:
        return None
    exported = match["type"].removeprefix("EXPORT_")
    event_type = "CLUSTER_EVENT" if exported == match["type"] else exported
    return FileName(match["stem"], event_type, int(match["m"] or match["n"] or 0))


@lru_cache(maxsize=100_000)
def parse_log(name: str) -> FileName:
    """
    Read a log's name, relative to ``logs/``: ``serve/controller_17.log.1``.

    Ray's Python loggers and its pipes of workers' output rotate ``x.out`` to ``x.out.1``, spdlog to ``x.1.out``. A
    name of another form is one that does not rotate.
    """
    match = _LOG.fullmatch(name)
    if match is None:
        return FileName(name, LOG, 0)
    return FileName(match["stem"] + match["suffix"], LOG, int(match["m"] or match["n"] or 0))


def logs(session: Session) -> Path | None:
    """
    Return the directory of the logs that belong to a session's exported events; None where there are none.

    That is what holds ``export_events``. A copy of it may have any name, and is known by the raylet's log.
    """
    around = session.events.parent
    if session.events.name != _EVENTS or session.directory is None:
        return None
    return around if around.name == "logs" or (around / "raylet.out").exists() else None


def is_events(directory: str) -> bool:
    """Say whether a directory in ``logs/`` holds events."""
    return directory in (_EVENTS, _CLUSTER_EVENTS)


def sessions(temp_dir: Path) -> list[Session]:
    """
    Return all sessions in Ray's ``--temp-dir``, oldest first; none where the directory is not there.

    Raises:
        OSError: It cannot be read.
    """
    try:
        with os.scandir(temp_dir) as entries:
            names = [
                entry.name
                for entry in entries
                if entry.name.startswith("session_") and entry.is_dir(follow_symlinks=False)
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [session for name in sorted(names) for session in _directories(temp_dir / name)]


def latest(temp_dir: Path) -> str | None:
    """Return the name of the session that ``session_latest`` points to, if any."""
    try:
        return Path(os.readlink(temp_dir / "session_latest")).name
    except OSError:
        return None


def locate(path: Path) -> list[Session]:
    """
    Say what `path` is: a session's directory, its ``logs`` or ``export_events``, or a directory of sessions.

    A session goes by the name of its directory, whichever of these is given. Event files outside any
    session's directory go by the name of the directory that is given.

    Raises:
        ConfigError: It is none of these, or cannot be read.
    """
    try:
        return _locate(path.resolve(strict=True))
    except OSError as error:
        raise ConfigError(f"no Ray session in {path}: {error.strerror}; give a directory that can be read") from error


def nodes(directory: Path) -> Nodes:
    """Return the nodes that have worked in a session's directory; none where it cannot be read."""
    try:
        names = os.listdir(directory)
    except OSError:
        names = []
    heads = _matches(_HEAD, names)
    return Nodes(tuple(sorted(_matches(_NODE, names) | heads)), min(heads, default=""))


def alive(session: str, proc: Path = Path("/proc")) -> bool | None:
    """
    Say whether a raylet of `session` runs on this node; None where there is no ``/proc`` to tell.

    Its socket is looked for first: a sidecar shares its pod's network, but seldom its processes.
    """
    if not (proc / "self").exists():
        return None
    try:
        sockets = (proc / "net" / "unix").read_text(errors="replace")
    except OSError:
        sockets = ""
    if re.search(rf"/{re.escape(session)}/sockets/raylet(\.\d+)?$", sockets, re.MULTILINE):
        return True
    return any(_is_raylet(command, session.encode()) for command in _commands(proc))


def _directories(session: Path) -> list[Session]:
    return [Session(session.name, session / "logs" / name, session) for name in (_EVENTS, _CLUSTER_EVENTS)]


def _locate(path: Path) -> list[Session]:
    if (path / "logs" / _EVENTS).is_dir():
        return _directories(path)
    if (path / _EVENTS).is_dir():
        directory = path.parent if path.name == "logs" else path
        return [Session(directory.name, path / name, directory) for name in (_EVENTS, _CLUSTER_EVENTS)]
    in_logs = path.name in (_EVENTS, _CLUSTER_EVENTS) and path.parent.name == "logs"
    if in_logs or path.name == _EVENTS or any(map(parse, os.listdir(path))):
        if in_logs:
            return [Session(path.parents[1].name, path, path.parents[1])]
        around = next((parent for parent in path.parents if parent.name.startswith("session_")), None)
        return [Session(around.name if around else path.name, path, around)]
    here = sessions(path)
    exported = {session.name for session in here if session.events.name == _EVENTS and session.events.is_dir()}
    found = [session for session in here if session.name in exported]
    if not found and (here or path.name.startswith("session_")):
        raise ConfigError(
            f"no events in {path}: it has no logs/{_EVENTS}; Ray's export was off: "
            "`raytrail doctor` says how to switch it on"
        )
    if not found:
        raise ConfigError(
            f"no Ray session in {path}: it is neither a session's directory, nor its logs or {_EVENTS}, "
            "and holds no session_* directory; give one of these"
        )
    return found


def _matches(pattern: re.Pattern[str], names: Iterable[str]) -> set[str]:
    return {match[pattern.groups] for name in names if (match := pattern.fullmatch(name))}


def _commands(proc: Path) -> Iterable[list[bytes]]:
    for pid in os.listdir(proc):
        if pid.isdigit():
            try:
                yield (proc / pid / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended, or is somebody else's


def _is_raylet(command: list[bytes], session: bytes) -> bool:
    if os.path.basename(command[0]) != b"raylet":
        return False
    return any(
        option.startswith((b"--session-name=", b"--session_name=", b"--session_dir=", b"--session-dir="))
        and os.path.basename(option.partition(b"=")[2].rstrip(b"/")) == session
        for option in command
    )
