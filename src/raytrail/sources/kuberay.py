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
import json
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
from typing import IO, Any, NamedTuple

import msgspec

from raytrail import disk
from raytrail.errors import ConfigError, EventError
from raytrail.event import COLLECTED, SET_ASIDE, UNDECODABLE
from raytrail.sources import endpoints
from raytrail.sources.ray_event import Converter
from raytrail.sources.set_aside import line as set_aside

_ROOT = "cluster-history"
_OF_NODE = "node_events"
_SESSION = r"(?P<session>session_[^/]+)/"
_FILE = re.compile(
    rf"{_SESSION}([^/]+/)?({_OF_NODE}|job_events/.+)/[^/]*(\.jsonl(\.gz)?|-\d{{4}}-\d\d-\d\d-\d\d(-\d+)?(\.gz)?)\Z"
)
_ENDPOINT = re.compile(rf"{_SESSION}fetched_endpoints/restful__[^/]+\Z")
_UNLISTED = re.compile(rf"{_SESSION}(.+/)?\Z")
_BLOCK_BYTES = 1 << 20
_MOST_LINE_BYTES = 64 << 20
_MOST_TEXT_BYTES = 512 << 20  # an hour's events in one array, or an answer
_AHEAD = 8
_JSON = json.JSONDecoder()
_BETWEEN = re.compile(rb"[ \t\r\n,]*")
_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 16 + zlib.MAX_WBITS  # with a header and a trailer of gzip's


class File(NamedTuple):
    """One of its files, wherever it is kept."""

    name: str
    """The whole path or URL, with slashes. One at its end marks a directory that cannot be listed."""
    size_bytes: int
    open: Callable[[], IO[bytes]]
    """Several are opened at once, each in a thread."""

    @property
    def of_job(self) -> bool:
        """Whether it holds a job's events, and not a node's."""
        return f"/{_OF_NODE}/" not in self.name

    @property
    def place(self) -> str:
        """Its path from its session's folder on: the same in a bucket and in a copy."""
        return self.name[self.name.index("/session_") + 1 :] if "/session_" in self.name else self.name


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


class Unread(NamedTuple):
    """The place where reading a file ended before its end."""

    file: File
    offset: int
    """In what it holds: after it was decompressed."""
    length: int
    """Bytes that are there and were not read, as far as that is known."""
    reason: str


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
        for block in _blocks(file, raw, unread):
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
        for block in _blocks(file, raw, unread, whole=True):
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
        for block in _blocks(file, raw, lambda _: None):
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
                    yield file, _words(error)
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


def _words(error: OSError | ConfigError) -> str:
    return f"cannot be read: {(error.strerror if isinstance(error, OSError) else None) or error}"


class _Block(NamedTuple):
    """Some lines of a file."""

    lines: list[tuple[int, bytes]]
    """Each with its offset in what the file holds."""
    read_bytes: int
    """How many bytes of the file have been read since the last block."""


def _blocks(
    file: File, raw: IO[bytes] | str, unread: Callable[[Unread], None], *, whole: bool = False
) -> Iterator[_Block]:
    """
    Yield a file's lines, some at once, up to where it can be read.

    Args:
        file: The file.
        raw: The stream it was opened as, or why it was not.
        unread: Takes the rest, if there is one.
        whole: Whether its content is one text, which comes at once.
    """
    content = _Content(file, raw)
    before = offset = 0
    rest = b""
    is_array = False
    for data in content:
        is_array = is_array or (not (offset or rest or whole) and data.lstrip().startswith(b"["))
        rest += data
        end = 0 if whole or is_array else rest.rfind(b"\n") + 1
        yield _Block(_lines(rest[:end], offset), content.read_bytes - before)
        before, offset, rest = content.read_bytes, offset + end, rest[end:]
        if len(rest) > (most := _MOST_TEXT_BYTES if whole or is_array else _MOST_LINE_BYTES):
            unread(Unread(file, offset, len(rest), f"a line of more than {most} bytes"))
            yield _Block([], file.size_bytes - before)
            return
    last, torn = _elements(rest) if is_array else _last_line(rest, offset, whole=whole)
    if content.reason or torn:
        unread(
            Unread(
                file,
                offset + len(rest) - len(torn),
                len(torn) if offset or rest else file.size_bytes,
                content.reason or "torn: its end is missing",
            )
        )
    yield _Block(last, file.size_bytes - before)


def _lines(data: bytes, offset: int) -> list[tuple[int, bytes]]:
    """Return lines with their offsets, blank ones apart."""
    lines = []
    for line in data.split(b"\n"):
        if line.strip():
            lines.append((offset, line))
        offset += len(line) + 1
    return lines


def _last_line(line: bytes, offset: int, *, whole: bool) -> tuple[list[tuple[int, bytes]], bytes]:
    """Return the last line, which has no newline, if it is a whole event, and else what is left of one."""
    if not line.strip():
        return [], b""
    try:
        msgspec.json.decode(line, type=msgspec.Raw if whole else dict[str, msgspec.Raw])
    except UNDECODABLE:
        return [], line
    return [(offset, line)], b""


def _elements(text: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Return the elements of an array of JSON that are whole, and what is left of it where it was cut."""
    elements: list[tuple[int, bytes]] = []
    characters = text.decode("latin-1")  # one for each byte: only where an element ends is asked
    at = text.index(b"[") + 1
    while True:
        between = _BETWEEN.match(text, at)
        start = between.end() if between else at
        if text[start : start + 1] == b"]":
            return elements, b""
        try:
            _, at = _JSON.raw_decode(characters, start)
        except (ValueError, RecursionError):
            return elements, text[start:]
        elements.append((start, text[start:at]))


class _Content:
    """
    A file's content, in blocks, decompressed, up to where it can be read.

    Its first bytes show whether it is compressed, since some stores decompress what they hand out, and keep its name.
    """

    def __init__(self, file: File, raw: IO[bytes] | str) -> None:
        self._file, self._raw = file, raw
        self.read_bytes = 0
        """How many bytes of the file have been read."""
        self.reason = ""
        """Why it ended early. Empty where it did not."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield blocks of some size, though a gzip may have a member for each event."""
        held, size = list[bytes](), 0
        try:
            for data in self._read_pieces():
                held.append(data)
                size += len(data)
                if size >= _BLOCK_BYTES:
                    yield b"".join(held)
                    held, size = [], 0
        except (OSError, ConfigError) as error:
            self.reason = _words(error)
        except zlib.error as error:
            self.reason = f"damaged: {error}"
        if size:
            yield b"".join(held)

    def _read_pieces(self) -> Iterator[bytes]:
        if isinstance(self._raw, str):
            self.reason = self._raw
            return
        data = self._read()
        if data.startswith(_GZIP):
            yield from self._unzip(data)
        elif self._file.name.endswith(".gz") and not data.lstrip().startswith((b"{", b"[")):
            self.reason = "no gzip, though its name says so" if data else "cut off: it is empty, and no gzip is"
        else:
            while data:
                yield data
                data = self._read()

    def _unzip(self, data: bytes) -> Iterator[bytes]:
        """Yield what the members of a gzip hold."""
        member = zlib.decompressobj(_GZIP_WINDOW)
        while data:
            if member.eof:
                if not data.startswith(_GZIP[: len(data)]):
                    self.reason = "what follows its gzip is none"
                    return
                member = zlib.decompressobj(_GZIP_WINDOW)
            before = member.copy()
            try:
                yield member.decompress(data, _BLOCK_BYTES)
            except zlib.error:
                yield from _up_to_error(before, data)
            data = member.unconsumed_tail or member.unused_data or self._read()
        yield member.flush()
        if not member.eof:
            self.reason = "cut off: its gzip has no end"

    def _read(self) -> bytes:
        assert not isinstance(self._raw, str)
        data = self._raw.read(_BLOCK_BYTES)
        self.read_bytes += len(data)
        return data


def _up_to_error(member: Any, data: bytes) -> Iterator[bytes]:
    """
    Yield what of a gzip comes before where it is damaged: a call that meets an error returns nothing.

    Args:
        member: The decompressor, as it was before `data`.
        data: The data that it fails at.

    Raises:
        zlib.error: Where it is damaged.
    """
    for index in range(len(data)):
        yield member.decompress(data[index : index + 1])
