"""
Events of KubeRay's collection as chunks, as an agent would have published them.

A chunk's file is a file of the collection, as far as it holds events of one session and type: the events of each type
lie in it one after the other. The same file always becomes the same chunks, also when it has grown, so that nothing is
stored twice, however often it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from datetime import datetime, timezone
from typing import NamedTuple

from raytrail import ray_event
from raytrail.errors import EventError
from raytrail.event import MOST_OFFSET, SET_ASIDE, Chunk, Segment
from raytrail.file_report import file_id
from raytrail.kuberay.files import Block, File, Unread, blocks, opened
from raytrail.kuberay.layout import Collected
from raytrail.kuberay.logs import read_logs
from raytrail.sources import endpoints

Redact = Callable[[bytes, str], bytes]
"""Masks what is secret in lines of an event type. Masked lines are as long as they were."""


class Piece(NamedTuple):
    """Something that was read. Of each file there is one at least, and all of a file come one after the other."""

    file: File
    chunks: list[Chunk]
    read_bytes: int
    """How many bytes of the files have been read since the last piece."""
    last_ns: int
    """When the last thing happened in the session that is known of, in nanoseconds since the epoch."""


def read(
    collected: Collected,
    *,
    cluster: str,
    redact: Redact,
    wants: Callable[[str], bool],
    unread: Callable[[Unread], None],
    redact_logs: Redact = lambda data, _: data,
    log_bytes: int = MOST_OFFSET,
    since_ns: int = 0,
) -> Generator[Piece, None, None]:
    """
    Yield the chunks of a session's folder.

    A line that is no event is set aside, for the ledger. Data that is cut off, or cannot be read at all, ends its own
    file and no other.

    Args:
        collected: The session's folder.
        cluster: The name that its operator gave the cluster.
        redact: Masks what is secret.
        wants: Whether events of a type are taken.
        unread: Takes what cannot be read of a file.
        redact_logs: Masks what is secret in logs.
        log_bytes: The most bytes of one log that are taken.
        since_ns: When the last thing happened that was read before.

    Raises:
        BrokerUnavailable: The bucket is away.
    """
    last_ns = max(since_ns, _began_ns(collected.session))
    for file, raw in opened(collected.files):
        reading = Reading(file, collected.session, cluster, redact, wants)
        for block in blocks(file, raw, unread):
            chunks = reading.take(block)
            last_ns = max(last_ns, reading.last_ns)
            yield Piece(file, chunks, block.read_bytes, last_ns)
    if since_ns and collected.answers:
        # these take the place of the answers before, which tell the time in whole seconds
        last_ns = max(last_ns, since_ns + 1_000_000_000)
    for file, raw in opened(collected.answers):
        body, read_bytes = b"", 0
        for block in blocks(file, raw, unread, whole=True):
            body += b"".join(block.lines)
            read_bytes += block.read_bytes
        reading = Reading(file, collected.session, cluster, redact, wants)
        try:
            chunks = reading.take_answer(body, last_ns)
        except EventError as error:
            chunks = []
            unread(Unread(file, 0, len(body), str(error)))
        yield Piece(file, chunks, read_bytes, last_ns)
    for some in read_logs(collected.session, cluster, collected.logs, redact_logs, unread, log_bytes):
        yield Piece(*some, last_ns)


class Reading:
    """
    A file of the collection, as it is read from its beginning.

    Args:
        file: The file.
        session: The session of its folder.
        cluster: As `read`.
        redact: As `read`.
        wants: As `read`.
    """

    def __init__(self, file: File, session: str, cluster: str, redact: Redact, wants: Callable[[str], bool]) -> None:
        self.last_ns = 0
        """When the last of its events was made, as far as it is known, in nanoseconds since the epoch."""
        self._file, self._session, self._cluster = file, session, cluster
        self._redact, self._wants = redact, wants
        # of this file alone, as the content of another must not change what becomes of it
        self._seen: dict[str, set[str]] = {}
        self._ends: dict[tuple[str, str], Segment] = {}

    def take(self, block: Block) -> list[Chunk]:
        """Return the chunks of its next lines. An event that comes twice is in them once."""
        lines = block.lines
        aside: list[bytes] = []

        def refuse(number: int, reason: str) -> None:
            place = f"{self._file.place} at {block.offset_of(number)}"
            aside.append(ray_event.set_aside_line(lines[number], f"{place}: {reason}"))

        chunks = []
        heads = ray_event.of_lines(block.data or b"\n".join(lines))
        for (session, event_type), numbers in ray_event.by_type(heads, lines, refuse).items():
            seen = self._seen.setdefault(session, set())
            known = not seen.isdisjoint(numbers)
            new = [lines[number] for id, number in numbers.items() if not (known and id in seen)]
            seen.update(numbers)
            if new:
                if session == self._session:
                    self.last_ns = max(self.last_ns, ray_event.time_ns(new[-1]))
                chunks.append(self._chunk(session, event_type, ray_event.as_lines(new, are_lines=bool(block.data))))
        if aside:
            chunks.append(self._chunk(self._session, SET_ASIDE, b"".join(aside)))
        return [chunk for chunk in chunks if self._wants(chunk.event_type)]

    def take_answer(self, body: bytes, at_ns: int) -> list[Chunk]:
        """
        Return the chunks of what the file says as an answer of Ray's dashboard.

        Args:
            body: The answer.
            at_ns: When all stood so.

        Raises:
            EventError: It is no answer.
        """
        lines: dict[str, bytes] = {}
        for event_type, line in endpoints.events(self._file.name.rpartition("/")[2], body, at_ns):
            lines[event_type] = lines.get(event_type, b"") + line
        # another answer takes its place in the same file
        version = hashlib.blake2b(body, digest_size=8).hexdigest()
        chunks = [self._chunk(self._session, event_type, of_type, version) for event_type, of_type in lines.items()]
        return [chunk for chunk in chunks if self._wants(chunk.event_type)]

    def _chunk(self, session: str, event_type: str, data: bytes, version: str = "") -> Chunk:
        before = self._ends.get((session, event_type))
        if before is None:
            text = f"{session}\n{self._file.place}\n{event_type}\n{version}"
            began_s = ray_event.time_ns(data[: data.index(b"\n")]) // 1_000_000_000
            before = Segment(file_id(text, began_s), 0, 0, 0)
        segment = Segment(before.file, 0, before.end, len(data))
        self._ends[session, event_type] = segment
        return Chunk(
            cluster=self._cluster,
            session=session,
            node_id="",
            event_type=event_type,
            segments=(segment,),
            data=self._redact(data, event_type),
        )


def _began_ns(session: str) -> int:
    """Return when a session began, by its name, in nanoseconds since the epoch, or 0 where that does not say it."""
    try:
        began = datetime.strptime(session[:27], "session_%Y-%m-%d_%H-%M-%S")
    except ValueError:
        return 0
    return int(began.replace(tzinfo=timezone.utc).timestamp()) * 1_000_000_000
