"""Logs of KubeRay's collection as chunks, and what an agent would have reported of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from raytrail.errors import ConfigError
from raytrail.event import LOG, Chunk, FileId, Segment
from raytrail.file_report import file_id, report_line
from raytrail.kuberay.files import File, Unread, opened, words_of
from raytrail.kuberay.layout import LogPiece
from raytrail.tail.discovery import parse_log

_BLOCK_BYTES = 1 << 20


def read_logs(
    session: str,
    cluster: str,
    pieces: Sequence[LogPiece],
    redact: Callable[[bytes, str], bytes],
    unread: Callable[[Unread], None],
    most_bytes: int,
) -> Iterator[tuple[File, list[Chunk], int]]:
    """
    Yield some of a log at a time: its file, chunks and reports of it, and how many bytes have been read since the last.

    Args:
        session: The session of their folder.
        cluster: The name that its operator gave the cluster.
        pieces: The logs.
        redact: Masks what is secret, or nothing.
        unread: Takes what cannot be read of a file.
        most_bytes: The most bytes of one log that are taken.
    """
    for piece, (file, raw) in zip(pieces, opened(piece.file for piece in pieces), strict=True):
        at, reason = piece.offset, raw if isinstance(raw, str) else ""
        id = file_id(f"{session}\n{piece.node_id}\n{piece.name}")

        def chunk(event_type: str, data: bytes, *segments: Segment, node_id: str = piece.node_id) -> Chunk:
            return Chunk(
                cluster=cluster,
                session=session,
                node_id=node_id,
                event_type=event_type,
                segments=segments,
                data=data,
            )

        while not isinstance(raw, str) and at < most_bytes:
            try:
                data = raw.read(min(_BLOCK_BYTES, most_bytes - at))
            except (OSError, ConfigError) as error:
                reason = words_of(error)
                break
            if not data:
                break
            segment = Segment(id, 0, at, len(data))
            at += len(data)
            yield file, [chunk(LOG, redact(data, LOG), segment)], len(data)
        if reason:
            unread(Unread(file, at - piece.offset, max(0, piece.offset + file.size_bytes - at), reason))
        read = at - piece.offset
        end = piece.offset + file.size_bytes if not reason and at >= most_bytes else at
        skipped = max(0, end - most_bytes)
        reports = [chunk("FILE", _report(id, piece, end, skipped))] if read or skipped else []
        yield file, reports, max(0, file.size_bytes - read)


def _report(id: FileId, piece: LogPiece, end: int, skipped: int) -> bytes:
    now_ms = time.time_ns() // 1_000_000
    fields = {
        "name": parse_log(piece.name).stem,
        "seen": f"{now_ms:013d} {piece.name}",
        "event_type": LOG,
        "node_id": piece.node_id,
        "written_bytes": end,
        "skipped_bytes": skipped,
    }
    return report_line(id, now_ms, fields)
