"""
What KubeRay's history server has collected: RayEvents as JSON lines, in a bucket or a copy of one.

    [.../cluster-history/<kind>/<namespace>/[<owner>/]]<cluster>/<session>/<node>/node_events/<name>.jsonl[.gz]
                                                                                  job_events/<job>/<name>.jsonl[.gz]

Its collector takes what Ray's HTTP export posts, as our receiver does, and so its files say what ours say once each of
them has become one for each event type. The same file becomes the same files, however often that is done.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import msgspec

from raytrail.errors import EventError
from raytrail.sources.ray_event import Converter
from raytrail.sources.set_aside import SetAside

_ROOT = "cluster-history"
_SUFFIXES = (".jsonl", ".jsonl.gz")
_OF_NODE = "node_events"
_FILE = re.compile(rf"(?P<session>session_[^/]+)/[^/]+/({_OF_NODE}|job_events/[^/]+)/[^/]+\.jsonl(\.gz)?\Z")
_BLOCK_BYTES = 1 << 20
_AHEAD = 8


class File(NamedTuple):
    """One of its files, wherever it is kept."""

    name: str
    """The whole path or URL, with slashes."""
    size_bytes: int
    open: Callable[[], IO[bytes]]
    """Several are opened at once, each in a thread."""

    @property
    def of_job(self) -> bool:
        """Whether a job's events are in it, and not those of a node."""
        return self.name.rsplit("/", 2)[-2] != _OF_NODE


class Collected(NamedTuple):
    """A session's files."""

    session: str
    cluster: str
    """``<namespace>_<cluster>``, as KubeRay's own list has it; as much of that as the path says."""
    files: tuple[File, ...]
    """Those of nodes first; then by name, which is by time."""

    @property
    def read_bytes(self) -> int:
        """How much `convert` reads: those of nodes twice."""
        return sum(file.size_bytes * (1 if file.of_job else 2) for file in self.files)


def below(path: Path) -> Iterator[File]:
    """Yield what may be one of its files below a directory; nothing where it is no such directory."""
    for directory, _, names in os.walk(path.resolve()):
        for name in names:
            if name.endswith(_SUFFIXES):
                file = Path(directory, name)
                yield File(file.as_posix(), file.stat().st_size, partial(_open, file))


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


def find(files: Iterable[File]) -> list[Collected]:
    """Return the sessions of its files, which may be among others."""
    found: dict[tuple[str, str], list[File]] = {}
    for file in files:
        match = _FILE.search(file.name)
        if match is not None:
            cluster = _cluster(PurePosixPath(file.name[: match.start()]))
            found.setdefault((match["session"], cluster), []).append(file)
    return [
        Collected(session, cluster, tuple(sorted(files, key=_order)))
        for (session, cluster), files in sorted(found.items())
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


def convert(collected: Collected, into: Path, set_aside: SetAside) -> Iterator[int]:
    """
    Write a session's event files, yielding now and then how many bytes of its files have been read since.

    Args:
        collected: The session.
        into: The directory for its event files.
        set_aside: Takes what cannot be read.

    Raises:
        OSError: A file cannot be read or written, or is no gzip.
    """
    converter = Converter()
    yield from _learn_addresses(converter, collected)
    for number, (file, raw) in enumerate(_opened(collected.files)):
        seen: set[str] = set()  # of this file alone: what another has must not change what becomes of it
        for lines, read in _blocks(file, raw):
            written: dict[str, list[bytes]] = {}
            for line in lines:
                try:
                    received = converter.convert(msgspec.json.decode(line))
                    if received.session != collected.session:
                        raise EventError(f"it is of {received.session}, and not of {collected.session}")
                except (EventError, msgspec.DecodeError, UnicodeDecodeError) as error:
                    set_aside.put(line, f"{file.name}: {error}")
                else:
                    if received.id not in seen:
                        seen.add(received.id)
                        written.setdefault(received.event_type, []).append(received.lines)
            _append(written, into, number)
            yield read


def _learn_addresses(converter: Converter, collected: Collected) -> Iterator[int]:
    """Let all that refers to a node find its address, whichever file that is in; yield what was read."""
    for file, raw in _opened(file for file in collected.files if not file.of_job):
        for lines, read in _blocks(file, raw):
            for line in lines:
                if b'"NODE_DEFINITION_EVENT"' in line:
                    with suppress(EventError, msgspec.DecodeError, UnicodeDecodeError):
                        converter.convert(msgspec.json.decode(line))
            yield read


def _opened(files: Iterable[File]) -> Iterator[tuple[File, IO[bytes]]]:
    """Open files in their order, and the next few while one is read: a bucket takes its time for each."""
    rest, coming = iter(files), deque[tuple[File, "Future[IO[bytes]]"]]()
    with ThreadPoolExecutor(_AHEAD) as pool:
        try:
            while True:
                coming += ((file, pool.submit(file.open)) for file in islice(rest, _AHEAD - len(coming)))
                if not coming:
                    return
                file, opened = coming.popleft()
                with opened.result() as raw:
                    yield file, raw
        finally:
            for _, opened in coming:
                opened.cancel()
                opened.add_done_callback(_close)


def _close(opened: Future[IO[bytes]]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        opened.result().close()


def _blocks(file: File, raw: IO[bytes]) -> Iterator[tuple[list[bytes], int]]:
    """Yield a file's lines, some at once, and each time how many of its bytes have been read since."""
    before = 0
    try:
        with gzip.open(raw) if file.name.endswith(".gz") else nullcontext(raw) as lines:
            while some := lines.readlines(_BLOCK_BYTES):
                read = raw.tell()
                yield [line for line in some if line.strip()], read - before
                before = read
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise OSError(f"{file.name} is cut off, or no gzip: {error}") from error
    yield [], file.size_bytes - before


def _append(written: dict[str, list[bytes]], into: Path, number: int) -> None:
    for event_type, lines in written.items():
        with Path(into, f"event_EXPORT_{event_type}_0{number}.log").open("ab") as file:
            file.writelines(lines)
