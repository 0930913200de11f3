"""
Read the collection of KubeRay's history server, which is RayEvents as JSON lines, in a bucket or a copy of one.

    [.../cluster-history/<kind>/<namespace>/[<owner>/]]<cluster>/<session>/<node>/node_events/<name>.jsonl[.gz]
                                                                                  job_events/<job>/<name>.jsonl[.gz]
                                                                           fetched_endpoints/restful__<path>
    [...]<cluster>_<namespace>/<session>/node_events/<node>-<hour>           an array of events, as KubeRay 1.6 had it
                                         job_events/<job>/<node>-<hour>

Its collector takes what Ray's HTTP export posts, as our receiver does, and so its files say what ours say once each of
them has become one for each event type. The same file becomes the same files, however often that is done. An event
names its session, and the folder does not: a pod that is restarted writes on into the folder of the session before.

The layout is that of KubeRay 1.6 to 1.8 (historyserver/pkg/storage/clusterlogs, pkg/collector/eventcollector).
"""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timezone
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import msgspec

from raytrail import disk
from raytrail.errors import ConfigError, EventError
from raytrail.event import COLLECTED, SET_ASIDE, UNDECODABLE
from raytrail.sources import endpoints
from raytrail.sources.kuberay_files import OF_NODE, File, Unread, blocks, words_of
from raytrail.sources.ray_event import Converter
from raytrail.sources.set_aside import line as set_aside

_ROOT = "cluster-history"
_SESSION = r"(?P<session>session_[^/]+)/"
_FILE = re.compile(
    rf"{_SESSION}([^/]+/)?({OF_NODE}|job_events/.+)/[^/]*(\.jsonl(\.gz)?|-\d{{4}}-\d\d-\d\d-\d\d(-\d+)?(\.gz)?)\Z"
)
_ENDPOINT = re.compile(rf"{_SESSION}fetched_endpoints/restful__[^/]+\Z")
_UNLISTED = re.compile(rf"{_SESSION}(.+/)?\Z")
_AHEAD = 8


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

    @property
    def read_bytes(self) -> int:
        """How much `convert` reads: those of nodes twice."""
        return sum(file.size_bytes * (1 if file.of_job else 2) for file in (*self.files, *self.answers))


def below(path: Path) -> Iterator[File]:
    """Yield what may be its files below a directory, and directories that cannot be listed."""
    unlisted: list[OSError] = []
    root = path.resolve()
    for directory, _, names in os.walk(root, onerror=unlisted.append):
        for name in names:
            file = Path(directory, name)
            if _FILE.search(file.as_posix()) or _ENDPOINT.search(file.as_posix()):
                # a name of any bytes, as text: it goes into reports
                yield File(disk.escape_name(file.as_posix()), _size(file), partial(_open, file, root))
    for error in unlisted:
        yield File(f"{disk.escape_name(Path(error.filename).as_posix())}/", 0, partial(_refuse, error))


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0  # to open it tells why


def _open(path: Path, root: Path) -> IO[bytes]:
    return open(disk.open_file(path, root), "rb")


def _refuse(error: OSError) -> IO[bytes]:
    raise error


def find(files: Iterable[File]) -> list[Collected]:
    """Return the sessions of its files, which may be among others."""
    files_of: dict[tuple[str, str], list[File]] = {}
    answers_of: dict[tuple[str, str], list[File]] = {}
    for file in files:
        event_file = _FILE.search(file.name) or _UNLISTED.search(file.name)
        if match := event_file or _ENDPOINT.search(file.name):
            key = match["session"], _cluster(PurePosixPath(file.name[: match.start()]))
            (files_of if event_file else answers_of).setdefault(key, []).append(file)
    return [
        Collected(
            *key, tuple(sorted(files_of.get(key, ()), key=_order)), tuple(sorted(answers_of.get(key, ()), key=_order))
        )
        for key in sorted(files_of.keys() | answers_of.keys())
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


def convert(collected: Collected, into: Path, unread: Callable[[Unread], None]) -> Iterator[int]:
    """
    Write the event files of a session's folder, yielding now and then how many bytes have been read since.

    A line that is no event is written as such, for the ledger. Data that is cut off, or cannot be read at all, ends its
    own file and no other.

    Args:
        collected: The session's folder.
        into: Ray's temporary directory, as it were: the event files of each session that is told of are made in it.
        unread: Takes what cannot be read of a file.

    Raises:
        OSError: A file cannot be written.
        BrokerUnavailable: The bucket is away.
    """
    converter = Converter()
    _events(into, collected.session).mkdir(parents=True, exist_ok=True)
    yield from _learn_addresses(converter, collected)
    last_ns = _began_ns(collected.session)
    for number, (file, raw) in enumerate(_opened(collected.files)):
        # of this file alone, as the content of another must not change what becomes of it
        seen: set[tuple[str, str]] = set()
        for block in blocks(file, raw, unread):
            written = _Written(collected.session)
            for offset, line in block.lines:
                try:
                    received = converter.convert(msgspec.json.decode(line))
                except (EventError, *UNDECODABLE) as error:
                    written.add(collected.session, SET_ASIDE, set_aside(line, f"{file.place} at {offset}: {error}"))
                    continue
                if (received.session, received.id) not in seen:
                    seen.add((received.session, received.id))
                    written.add(received.session, received.event_type, received.lines, received.address_of)
                    if received.session == collected.session:
                        last_ns = max(last_ns, received.time_ns)
            written.append(into, number)
            yield block.read_bytes
    yield from _answers(collected, into, last_ns, unread)


class _Written:
    """The result of a block of a file, which is lines by session and event type."""

    def __init__(self, session: str) -> None:
        self._session = session
        self._lines: dict[tuple[str, str, str], list[bytes]] = {}

    def add(self, session: str, event_type: str, lines: bytes, address_of: str = "") -> None:
        self._lines.setdefault((session, event_type, address_of), []).append(lines)

    def append(self, into: Path, number: int) -> None:
        for (session, event_type, address_of), lines in self._lines.items():
            # the lines of a node's address are in files of their own. Another address, or none, is another file, so the
            # same bytes never mean something else
            part = f"0{number:08d}{zlib.crc32(address_of.encode()):010d}" if address_of else f"{number}"
            path = _events(into, session) / f"event_EXPORT_{event_type}_0{part}.log"
            if session != self._session:  # the directory of the other is there
                path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.writelines(lines)


def _began_ns(session: str) -> int:
    """Return when a session began, by its name, in nanoseconds since the epoch, or 0 where that does not say it."""
    try:
        began = datetime.strptime(session[:27], "session_%Y-%m-%d_%H-%M-%S")
    except ValueError:
        return 0
    return int(began.replace(tzinfo=timezone.utc).timestamp()) * 1_000_000_000


def _events(into: Path, session: str) -> Path:
    return into / session / "logs" / "export_events"


def _answers(collected: Collected, into: Path, last_ns: int, unread: Callable[[Unread], None]) -> Iterator[int]:
    """Write what the polled answers say: they are of the session's end, as each takes the place of the one before."""
    for number, (file, raw) in enumerate(_opened(collected.answers), len(collected.files)):
        body = b""
        for block in blocks(file, raw, unread, whole=True):
            body += b"".join(line for _, line in block.lines)
            yield block.read_bytes
        written = _Written(collected.session)
        try:
            for event_type, line in endpoints.events(file.name.rpartition("/")[2], body, last_ns):
                written.add(collected.session, event_type, line)
        except EventError as error:
            unread(Unread(file, 0, len(body), str(error)))
        written.append(into, number)


def _learn_addresses(converter: Converter, collected: Collected) -> Iterator[int]:
    """
    Let every line that refers to a node find its address, whichever file that is in.

    Yield the bytes that were read.
    """
    for file, raw in _opened(file for file in collected.files if not file.of_job):
        for block in blocks(file, raw, lambda _: None):
            for _, line in block.lines:
                if b'"NODE_DEFINITION_EVENT"' in line:
                    try:
                        converter.convert(msgspec.json.decode(line))
                    except (EventError, *UNDECODABLE):
                        continue  # said when its file is converted
            yield block.read_bytes


def report(session: str, unread: Unread | File, now_ms: int) -> bytes:
    """
    Return the line that says of one of its files that reading it ended early, or, of a mere file, that it did not.

    None of its bytes is stored, but what became of them, and so there is nothing to count but what was not read.

    Args:
        session: The session of its folder.
        unread: The place where reading ended, or the file that was read whole.
        now_ms: When that was.
    """
    file = unread if isinstance(unread, File) else unread.file
    ending = f"{now_ms:013d}"
    if isinstance(unread, Unread):
        ending += f" {unread.offset:020d} {unread.length:020d} {unread.reason}"
    event_data = {
        "file": file_id(session, file),
        "generation": 0,
        "name": file.place,
        "event_type": COLLECTED,
        "node_id": "",
        "written_bytes": 0,
        "unread": ending,
        "reported_ms": now_ms,
    }
    event = {"event_data": event_data, "source_type": "RAYTRAIL_FILE", "timestamp": now_ms // 1000}
    return msgspec.json.encode(event) + b"\n"


def file_id(session: str, file: File) -> str:
    """Return what one of its files goes by in the ledger."""
    digest = hashlib.blake2b(f"{session}\n{COLLECTED} {file.place}".encode(errors="surrogateescape"), digest_size=16)
    return f"{0:010d}-{digest.hexdigest()}"


def _opened(files: Iterable[File]) -> Iterator[tuple[File, IO[bytes] | str]]:
    """
    Open files in their order, and the next few while one is read: a bucket takes its time for each.

    If one cannot be opened, the reason comes in its place.
    """
    rest, coming = iter(files), deque[tuple[File, "Future[IO[bytes]]"]]()
    with ThreadPoolExecutor(_AHEAD) as pool:
        try:
            while True:
                coming += ((file, pool.submit(file.open)) for file in islice(rest, _AHEAD - len(coming)))
                if not coming:
                    return
                file, opened = coming.popleft()
                try:
                    raw = opened.result()
                except (OSError, ConfigError) as error:
                    yield file, words_of(error)
                else:
                    with raw:
                        yield file, raw
        finally:
            for _, opened in coming:
                opened.cancel()
                opened.add_done_callback(_close)


def _close(opened: Future[IO[bytes]]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        opened.result().close()
