"""
KubeRay's collection as a source of chunks, which is followed: ``kuberay+s3://bucket/log``, ``gs``, ``az`` or ``file``.

The collector uploads a new file of a node every few minutes, and answers of Ray's dashboard in the place of older ones.
A reader lists what there is every ``poll_seconds`` (30), and reads the files that are new or have changed. A file that
cannot be read is tried again the next time. It is then reported, and tried every ten minutes. The reader writes nothing
there, so the right to list and read is enough. The history keeps in its store which files were read. Without that, all
are read again, and the history stores nothing twice.

The URL's query may say what that of a bucket may (see `raytrail.pubsub.objects`), ``timeout_seconds``, ``endpoint`` and
settings of obstore, and ``poll_seconds``.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from functools import partial
from itertools import takewhile
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from raytrail.errors import ConfigError
from raytrail.event import MOST_OFFSET, SESSION_NAME, Chunk
from raytrail.kuberay import layout
from raytrail.kuberay.files import File, Unread
from raytrail.kuberay.layout import Collected
from raytrail.kuberay.places import Places
from raytrail.kuberay.reading import Piece, Redact, read
from raytrail.kuberay.report import report_collected
from raytrail.pubsub import Delivery, Guarantee, open_bucket
from raytrail.pubsub.url import shown
from raytrail.redact import default

PREFIX = "kuberay+"
_POLL_SECONDS = 30.0
_LEAST_POLL_SECONDS = 0.05
_RETRY_SECONDS = 600.0  # a bucket bills each try, and all its old files may be in an archive


class KubeRay:
    """What KubeRay's collector has stored. It can be read, and nothing can be published there."""

    guarantee: Guarantee = "at-least-once"

    def __init__(
        self,
        url: str,
        *,
        redact: Redact | None = None,
        wants: Callable[[str], bool] | None = None,
        wants_log: Callable[[str], bool] | None = None,
        redact_logs: Redact | None = None,
        log_bytes: int = MOST_OFFSET,
        cluster: str = "",
        places: Path | None = None,
    ) -> None:
        """
        Open nothing yet.

        Args:
            url: Where it is, as ``kuberay+s3://bucket/path``.
            redact: Masks what is secret. None: what is masked by default.
            wants: Whether events of a type are taken. None: all are.
            wants_log: Whether a log of that name is taken. None: none is.
            redact_logs: Masks what is secret in logs. None: nothing is masked there.
            log_bytes: The most bytes of one log that are taken.
            cluster: The name of all clusters. Empty: each has that of its folder.
            places: The directory for the file that says what was read. None: that is forgotten with this process.

        Raises:
            ConfigError: The URL names no collection, or a setting in it is wrong.
        """
        self._url, self._cluster = url, cluster
        self._redact = default() if redact is None else redact
        self._wants = wants or (lambda _: True)
        self._wants_log = wants_log or (lambda _: False)
        self._redact_logs: Redact = redact_logs or (lambda data, _: data)
        self._log_bytes = log_bytes
        self._places = places
        inner, self._poll_seconds = _settings(url)
        self._files = _files_of_directory(inner) if inner.startswith("file:") else _files_of_bucket(inner)
        self._reading: set[str] = set()

    async def publish(self, chunk: Chunk) -> None:
        """
        Refuse, as KubeRay's collector alone writes there.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{shown(self._url)} is read only: KubeRay's collector writes there; publish to a broker")

    async def subscribe(self, group: str, *, from_start: bool = False) -> AsyncGenerator[Delivery, None]:
        """
        Yield chunks of the files that `group` has not read, and then of those that come or change.

        An ack that comes after the generator was closed is lost, and its file is read again.

        Args:
            group: Who reads.
            from_start: Forget what the group has read.

        Raises:
            ConfigError: Somebody of this process reads as that group, or we may not read there.
            BrokerUnavailable: The bucket is away.
        """
        if group in self._reading:
            raise ConfigError(
                f"group {group!r} of {shown(self._url)} is being read; close that reader, or use another group"
            )
        places = Places(self._place(group))
        self._reading.add(group)
        try:
            if from_start:
                places.clear()
            retry_at = 0.0
            while True:
                began = time.monotonic()
                retry = began >= retry_at
                retry_at = began + _RETRY_SECONDS if retry else retry_at
                for part in await asyncio.to_thread(partial(self._look, places, retry=retry)):
                    cluster = self._cluster or part.cluster
                    reader = _Reader(part, cluster, places)
                    pieces = _Pieces(
                        read(
                            part,
                            cluster=cluster,
                            redact=self._redact,
                            wants=self._wants,
                            unread=reader.note,
                            redact_logs=self._redact_logs,
                            log_bytes=self._log_bytes,
                            since_ns=places.last_ns(part.session),
                        )
                    )
                    try:
                        async for piece, is_last in _with_last(pieces):
                            for delivery in reader.deliver(piece, is_last=is_last):
                                yield delivery
                    finally:
                        await asyncio.to_thread(pieces.close)
                await asyncio.sleep(max(0.0, began + self._poll_seconds - time.monotonic()))
                places.commit()
        finally:
            places.close()
            self._reading.remove(group)

    def _look(self, places: Places, *, retry: bool) -> list[Collected]:
        """Return the sessions with the files that are to be read now."""
        parts = []
        names: set[str] = set()
        choose = partial(places.new, retry=retry)
        # whoever waited for this may have been cancelled meanwhile: a large bucket takes minutes to list
        files = takewhile(lambda _: not places.closed, self._files())
        for collected in layout.find(files):
            if not SESSION_NAME.fullmatch(collected.session):
                continue
            logs = {piece.file.name: piece for piece in collected.logs if self._wants_log(piece.name)}
            names.update(file.name for file in (*collected.files, *collected.answers))
            names.update(logs)
            new = collected._replace(
                files=choose(collected.files),
                answers=choose(collected.answers),
                logs=tuple(logs[file.name] for file in choose(piece.file for piece in logs.values())),
            )
            if new.files or new.answers or new.logs:
                parts.append(new)
        places.keep(names)
        return parts

    def _place(self, group: str) -> Path | None:
        if self._places is None:
            return None
        # the query may hold what is secret, and says nothing of where the files are
        where = hashlib.blake2b(f"{self._url.partition('?')[0]}\n{group}".encode(), digest_size=16).hexdigest()
        return self._places / f"kuberay-{where}.sqlite"

    async def aclose(self) -> None:
        """Hold nothing, so there is nothing to let go of."""


class _Pieces:
    """Pieces, each read in whatever thread, one at a time: whoever waits for one may be cancelled, and close them."""

    def __init__(self, pieces: Generator[Piece, None, None]) -> None:
        self._pieces = pieces
        self._lock = threading.Lock()

    def read(self) -> Piece | None:
        """Return the next one, or None at the end."""
        with self._lock:
            return next(self._pieces, None)

    def close(self) -> None:
        """Close the files, once the piece that is being read has been."""
        with self._lock:
            self._pieces.close()


async def _with_last(pieces: _Pieces) -> AsyncGenerator[tuple[Piece, bool], None]:
    """Yield pieces, and whether each is the last one of its file: once that is acknowledged, so is the file."""
    piece = await asyncio.to_thread(pieces.read)
    while piece is not None:
        following = await asyncio.to_thread(pieces.read)
        while following is not None and following.file.name == piece.file.name and not following.chunks:
            following = await asyncio.to_thread(pieces.read)
        yield piece, following is None or following.file.name != piece.file.name
        piece = following


class _Reader:
    """What is being read of a session, and which of its files are safe with whoever takes the chunks."""

    def __init__(self, part: Collected, cluster: str, places: Places) -> None:
        self._part, self._cluster, self._places = part, cluster, places
        self._broken: dict[str, Unread] = {}
        self._reported: set[str] = set()
        """The files that the ledger names as not read to their end, once all chunks are acknowledged."""
        self._unacknowledged: dict[str, int] = {}
        """How many chunks of a file are not acknowledged, and one more until it was read to its end."""

    def note(self, unread: Unread) -> None:
        """Note that a file could not be read to its end."""
        self._broken[unread.file.name] = unread

    def deliver(self, piece: Piece, *, is_last: bool) -> Iterator[Delivery]:
        """Yield the chunks of a piece, and, after a file's last one, that it could not be read whole, or now could."""
        file, chunks = piece.file, list(piece.chunks)
        if is_last:
            chunks += self._report_end(file)
        self._places.happened(self._part.session, piece.last_ns)
        self._unacknowledged[file.name] = self._unacknowledged.get(file.name, 1) + len(chunks)
        if is_last:
            self._acknowledge(file)
        for chunk in chunks:
            yield Delivery(chunk, partial(self._acknowledge_once, file, []))

    def _report_end(self, file: File) -> list[Chunk]:
        """Return the report of a file that could not be read to its end, or now could."""
        broken, known = self._broken.get(file.name), self._places.was_broken(file)
        if broken is None:
            return [self._report(file, None)] if known else []
        if broken.comes_again and not known and not self._places.was_closed(file):
            return []  # it may have been deleted since it was listed, or its disk may have failed this once
        self._reported.add(file.name)
        return [] if broken.comes_again and known else [self._report(file, broken)]

    def _report(self, file: File, broken: Unread | None) -> Chunk:
        return Chunk(
            cluster=self._cluster,
            session=self._part.session,
            node_id="",
            event_type="FILE",
            segments=(),
            data=report_collected(self._part.session, broken or file),
        )

    async def _acknowledge_once(self, file: File, done: list[bool]) -> None:
        if not done:
            done.append(True)
            self._acknowledge(file)

    def _acknowledge(self, file: File) -> None:
        self._unacknowledged[file.name] -= 1
        if not self._unacknowledged[file.name]:
            del self._unacknowledged[file.name]
            broken = self._broken.get(file.name)
            self._places.done(
                file, broken=file.name in self._reported, closed=broken is not None and broken.comes_again
            )


def _settings(url: str) -> tuple[str, float]:
    """Return the URL of the bucket or directory, and how often it is looked into, in seconds."""
    parts = urlsplit(url.removeprefix(PREFIX))
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    values = [value for name, value in pairs if name == "poll_seconds"]
    rest = urlencode([pair for pair in pairs if pair[0] != "poll_seconds"])
    try:
        seconds = float(values[-1]) if values else _POLL_SECONDS
    except ValueError:
        seconds = -1.0
    if not seconds >= _LEAST_POLL_SECONDS:
        raise ConfigError(
            f"{shown(url)!r}: poll_seconds {values[-1]!r:.80} is no number of seconds; write one from 0.05 on"
        )
    return parts._replace(query=rest).geturl(), seconds


def _files_of_directory(url: str) -> Callable[[], Iterable[File]]:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or parts.query or not parts.path.startswith("/"):
        raise ConfigError(f"{PREFIX}{url!r:.200} is no path of this machine; write {PREFIX}file:///path")
    directory = Path(unquote(parts.path))

    def files() -> Iterable[File]:
        if not directory.is_dir():
            raise ConfigError(f"{directory} is no directory; give a copy of what KubeRay's collector stored")
        return layout.below(directory)

    return files


def _files_of_bucket(url: str) -> Callable[[], Iterable[File]]:
    bucket = open_bucket(url)
    return lambda: (
        File(f"{bucket.url}/{stored.path}", stored.size_bytes, partial(bucket.open, stored), stored.version)
        for stored in bucket.find()
    )
