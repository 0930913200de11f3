"""Which sessions there are, whose events they hold, and what the names of their event files say."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from raytrail import disk
from raytrail.errors import ConfigError
from raytrail.event import LOG, SESSION_NAME

_EVENTS, _CLUSTER_EVENTS = "export_events", "events"
_FILE = re.compile(r"(?P<stem>event_(?P<type>[A-Z][A-Z0-9_]*?)(_[0-9]+)?)(\.(?P<n>[0-9]+))?\.log(\.(?P<m>[0-9]+))?")
_LOG = re.compile(r"(?P<stem>.+?)(\.(?P<n>[0-9]+))?(?P<suffix>\.(log|out|err|txt))(\.(?P<m>[0-9]+))?")
_PORT = re.compile(
    r"(?P<what>gcs_server|metrics_agent|metrics_export|dashboard_agent_listen|runtime_env_agent)_port_(?P<id>[0-9a-f]+)"
)
_SOCKET = re.compile(r"/(?P<session>[^/\s]+)/sockets/raylet(\.\d+)?$", re.MULTILINE)
_LATEST = "session_latest"

Refuse = Callable[[Path, str], None]
"""Is told of a path that nothing is read at, and why."""


class FileName(NamedTuple):
    """The parts of an event file's name, e.g. ``event_EXPORT_TASK_123.log.2``."""

    stem: str
    """``event_EXPORT_TASK_123``: the same for all files of one writer."""
    event_type: str
    """
    ``TASK``, or ``CLUSTER_EVENT`` for the events that Ray writes for its dashboard's Overview, e.g. ``event_GCS.log``,
    or `LOG`.
    """
    rotation: int
    """2. It is 0 for the file that is being written. The oldest has the highest."""

    @property
    def is_log(self) -> bool:
        """True if it is a log: bytes of which nothing is known, not lines of JSON."""
        return self.event_type == LOG


class Nodes(NamedTuple):
    """
    The nodes that have worked in a session directory, by the port files that they left in it.

    A head that restarts with its GCS's tables in Redis keeps the session's name and directory, and is a node of its
    own. A raylet that is started anew on the same disk is one, too. The port files of those before it stay.
    """

    ids: tuple[str, ...]
    """Hex ids, the one that came last at the end. The heads' are among them."""
    heads: tuple[str, ...] = ()
    """The heads' ids, in the same order. Empty where the head is on another machine."""
    since_ms: Mapping[str, int] = {}
    """When the first port file of each appeared, in milliseconds since the epoch, as far as a copy has kept that."""

    @property
    def head(self) -> str:
        """The newest head's id. Empty where the head is on another machine."""
        return self.heads[-1] if self.heads else ""

    @property
    def main(self) -> str:
        """
        The id that the directory's events go by. Empty where there is none yet.

        Several nodes may write into one directory, one after the other or at once, and no file's name tells whose
        worker wrote it (its events do). One of them therefore stands for all, which is the newest head, or the newest.
        """
        return self.head or (self.ids[-1] if self.ids else "")


class Raylet(NamedTuple):
    """A raylet that runs on this machine, by its command line."""

    pid: int
    session: str
    node_id: str
    """Hex. Empty where its command line does not name it."""
    directory: str
    """Its session's directory, as it sees it. Empty where its command line does not name it."""


class Running(NamedTuple):
    """The raylets that run on this machine, as far as they are seen from here."""

    raylets: tuple[Raylet, ...]
    """Those whose processes are seen."""
    sockets: Mapping[str, int]
    """
    How many raylets listen, by session: a sidecar shares its pod's network, but seldom its processes.
    """
    proc: Path
    """The kernel's view of the processes."""

    def alive(self, session: str) -> bool:
        """Say whether a raylet of a session runs here."""
        return session in self.sockets or any(raylet.session == session for raylet in self.raylets)

    def unnamed(self, session: str) -> int:
        """Return how many raylets of a session run of which none says its node's id: of sockets, and of old Rays."""
        ids = [raylet.node_id for raylet in self.raylets if raylet.session == session]
        return 0 if any(ids) else max(len(ids), self.sockets.get(session, 0))


class Session(NamedTuple):
    """One session of Ray on this node's disk, with one of its two directories of event files."""

    name: str
    """Ray's name for it, which is its directory's."""
    events: Path
    """The directory of its event files. It may not be there yet."""
    directory: Path | None
    """Ray's session directory, or None for event files that were taken out of theirs."""

    @property
    def root(self) -> Path:
        """The directory below which no link is followed."""
        return self.directory or self.events


@lru_cache(maxsize=100_000)
def parse(name: str) -> FileName | None:
    """
    Read an event file's name. It gives None if it is not one.

    Ray 2.60 names rotated files ``x.log.1``, from C++ and from Python. Ray's sources also mention spdlog's own way,
    which is ``x.1.log``.
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

    Args:
        name: Escaped (`raytrail.disk.escape_name`), as any byte may be in it.
    """
    match = _LOG.fullmatch(name)
    if match is None:
        return FileName(name, LOG, 0)
    return FileName(match["stem"] + match["suffix"], LOG, int(match["m"] or match["n"] or 0))


def logs(session: Session) -> Path | None:
    """
    Return the directory of the logs that belong to a session's exported events, or None where there are none.

    That is what holds ``export_events``. A copy of it may have any name, and is known by the raylet's log.
    """
    around = session.events.parent
    if session.events.name != _EVENTS or session.directory is None:
        return None
    return around if around.name == "logs" or (around / "raylet.out").exists() else None


def is_events(directory: str) -> bool:
    """Say whether a directory in ``logs/`` holds events."""
    return directory in (_EVENTS, _CLUSTER_EVENTS)


def sessions(temp_dir: Path, refuse: Refuse = lambda _path, _why: None) -> list[Session]:
    """
    Return all sessions in Ray's ``--temp-dir``, oldest first. There are none where the directory is not there.

    A link named as a session counts as one, for a session that was moved to another disk: it goes by the link's name.
    It must lead to a directory itself, of the user who made the link, or have been made by root.

    Args:
        temp_dir: The directory.
        refuse: Is told what is named as a session and is none, and why.

    Raises:
        OSError: It cannot be read.
    """
    try:
        with os.scandir(temp_dir) as entries:
            named = [entry for entry in entries if entry.name.startswith("session_") and entry.name != _LATEST]
    except (FileNotFoundError, NotADirectoryError):
        return []
    valid = [entry for entry in named if SESSION_NAME.fullmatch(entry.name)]
    for entry in set(named) - set(valid):
        if entry.is_symlink() or entry.is_dir(follow_symlinks=False):
            refuse(temp_dir / entry.name, "no session of Ray's has such a name")
    names = [entry.name for entry in valid if entry.is_dir(follow_symlinks=False)]
    links = [entry for entry in valid if entry.is_symlink()]
    if links:
        places = set(filter(None, (_place(temp_dir / name) for name in names)))
        for link in sorted(links, key=lambda entry: entry.name):
            place = _linked(link)
            if place is None:
                refuse(temp_dir / link.name, "it is a link, but not to a directory of the user who made it")
            elif place not in places:  # else it is another name of a session that is there already
                places.add(place)
                names.append(link.name)
    return [session for name in sorted(names) for session in _directories(temp_dir / name)]


def latest(temp_dir: Path) -> str | None:
    """Return the name of the session that ``session_latest`` points to, if any."""
    try:
        return Path(os.readlink(temp_dir / _LATEST)).name
    except OSError:
        return None


def locate(path: Path, refuse: Refuse = lambda _path, _why: None) -> list[Session]:
    """
    Say what `path` is: a session's directory, its ``logs`` or ``export_events``, or a directory of sessions.

    A session goes by the name of its directory, whichever of these is given. Event files outside any
    session's directory go by the name of the directory that is given.

    Args:
        path: The directory.
        refuse: As of `sessions`, where it is a directory of sessions.

    Raises:
        ConfigError: It is none of these, or cannot be read.
    """
    try:
        located, link = _locate(path.resolve(strict=True), refuse), _named_link(path)
        moved = link.resolve() if link else None
    except OSError as error:
        raise ConfigError(f"no Ray session in {path}: {error.strerror}; give a directory that can be read") from error
    named = [
        session._replace(name=link.name) if link and session.directory == moved else session for session in located
    ]
    for session in named:
        if not SESSION_NAME.fullmatch(session.name):
            raise ConfigError(
                f"no session can be called {session.name!r}, as {disk.escape_name(str(path))} would have it; rename "
                "the directory: letters, digits and ._=+@-, 201 at most, a letter or digit first"
            )
    return named


def nodes(directory: Path) -> Nodes:
    """
    Return the nodes that have worked in a session's directory. There are none where it cannot be read.

    The order is that in which their first port files appeared. A copy that did not keep the times of its files leaves
    it to chance.
    """
    since: dict[str, int] = {}
    heads: set[str] = set()
    try:
        with disk.listed(directory, directory) as entries:
            for entry in entries.values():
                if port := _PORT.fullmatch(entry.name):
                    written_ns = entry.stat(follow_symlinks=False).st_mtime_ns
                    since[port["id"]] = min(written_ns, since.get(port["id"], written_ns))
                    heads |= {port["id"]} if port["what"] == "gcs_server" else set()
    except OSError:
        return Nodes(())
    ids = tuple(sorted(since, key=lambda id: (since[id], id)))
    since_ms = {id: since[id] // 1_000_000 for id in ids}
    return Nodes(ids, tuple(id for id in ids if id in heads), since_ms)


def running(proc: Path = Path("/proc")) -> Running | None:
    """Look which raylets run on this machine. It gives None where there is no ``/proc`` to tell."""
    if not (proc / "self").exists():
        return None
    try:
        table = (proc / "net" / "unix").read_text(errors="replace")
    except OSError:
        table = ""
    # a process that is connected to a socket stands there by the same path
    sockets = {match[0]: match["session"] for match in _SOCKET.finditer(table)}
    raylets = tuple(raylet for pid, command in _commands(proc) if (raylet := _raylet(pid, command)))
    return Running(raylets, Counter(sockets.values()), proc)


def living(session: str, directory: Path, there: Nodes, seen: Running) -> frozenset[str]:
    """
    Return the nodes of a session's directory whose raylets run, as far as they are seen from here.

    Processes tell it, where the agent sees them. Else the sockets do, of which it is known only how many there are:
    they are those of the nodes that came last.

    Args:
        session: Its name.
        directory: The session's directory.
        there: The nodes that have worked in it.
        seen: The processes of this machine, raylets of other directories and of other containers among them.
    """
    named = [raylet for raylet in seen.raylets if raylet.session == session and raylet.node_id]
    if named:
        return frozenset(raylet.node_id for raylet in named if works_in(raylet, directory, there, seen.proc))
    count = seen.unnamed(session)
    return frozenset(there.ids[-count:]) if count else frozenset()


def works_in(raylet: Raylet, directory: Path, there: Nodes, proc: Path) -> bool:
    """
    Say whether a raylet works in a directory. It is taken to where nothing tells.

    If agents share the processes of their machine, another pod's raylet may have the same session's name and the same
    path, which is another directory there. Its own port files tell it, or what its process sees at that path.
    """
    if there.ids:
        return raylet.node_id in there.ids
    try:
        seen_there = os.stat(f"{proc}/{raylet.pid}/root{raylet.directory}")
        return os.path.samestat(seen_there, os.stat(directory))
    except OSError:
        return True


def _directories(session: Path) -> list[Session]:
    return [Session(session.name, session / "logs" / name, session) for name in (_EVENTS, _CLUSTER_EVENTS)]


def _locate(path: Path, refuse: Refuse) -> list[Session]:
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
    here = sessions(path, refuse)
    exported = {session.name for session in here if session.events.name == _EVENTS and session.events.is_dir()}
    with_events = [session for session in here if session.name in exported]
    if not with_events and (here or path.name.startswith("session_")):
        raise ConfigError(
            f"no events in {path}: it has no logs/{_EVENTS}; Ray's export was off: "
            "`raytrail doctor` says how to switch it on"
        )
    if not with_events:
        raise ConfigError(
            f"no Ray session in {path}: it is neither a session's directory, nor its logs or {_EVENTS}, "
            "and holds no session_* directory; give one of these"
        )
    return with_events


def _place(directory: Path) -> tuple[int, int] | None:
    """Return a directory's device and inode, or None where it has just gone."""
    try:
        status = os.stat(directory)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _linked(link: os.DirEntry[str]) -> tuple[int, int] | None:
    """Return the device and inode of the directory that a link leads to, or None where it must not be followed."""
    try:
        target = os.path.join(os.path.dirname(link.path), os.readlink(link.path))
        there, owner = os.stat(target, follow_symlinks=False), link.stat(follow_symlinks=False).st_uid
    except OSError:
        return None
    follow = stat.S_ISDIR(there.st_mode) and owner in (there.st_uid, 0)
    return (there.st_dev, there.st_ino) if follow else None


def _named_link(path: Path) -> Path | None:
    """Return the link named as a session that a path leads through, if any."""
    above = Path(os.path.abspath(path))
    for part in (above, *above.parents):
        latest = part.name == _LATEST and part.is_symlink()
        named = part.parent / Path(os.readlink(part)).name if latest else part
        if named.name.startswith("session_") and named.is_symlink():
            return named
    return None


def _commands(proc: Path) -> Iterable[tuple[int, list[str]]]:
    for pid in os.listdir(proc):
        if pid.isdigit():
            try:
                command = (proc / pid / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended, or is somebody else's
            yield int(pid), os.fsdecode(command).split("\0")


def _raylet(pid: int, command: list[str]) -> Raylet | None:
    """
    Read a command line.

    It gives None where it is no raylet's. Its options are spelt with underscores and with hyphens.
    """
    if os.path.basename(command[0]) != "raylet":
        return None
    options = (option.removeprefix("--").partition("=") for option in command[1:])
    values = {name.replace("-", "_"): value for name, _, value in options}
    directory = values.get("session_dir", "").rstrip("/")
    session = values.get("session_name") or os.path.basename(directory)
    return Raylet(pid, session, values.get("node_id", ""), directory) if session else None
