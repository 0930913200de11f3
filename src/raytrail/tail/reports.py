"""Reports of files and raylets. They are chunks of event type ``FILE`` that no file holds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from raytrail.config import HEARTBEAT_SECONDS
from raytrail.event import LOG, Chunk
from raytrail.tail import discovery
from raytrail.tail.checkpoint import Mark
from raytrail.tail.directory import Directory
from raytrail.tail.discovery import Running
from raytrail.tail.follow import Followed
from raytrail.tail.selection import wants_type

_AGAIN_SECONDS = 0.2
"""How soon an agent that ends looks once more for a raylet that it has just missed."""

_Marks = dict[tuple[str, str], list[Mark]]
"""The files to report, by session and node."""


class Reports:
    """
    Reports the files that have changed, and the raylets.

    Args:
        followed: The files and the lives of the sessions' directories.
    """

    def __init__(self, followed: Followed) -> None:
        self._followed = followed
        self._reported: dict[Mark, tuple[object, ...]] = {}
        """The state of each file that was last reported."""
        self._ended: list[Mark] = []
        """The files that were last reported as gone."""

    def forget_ended(self) -> None:
        """Forget the files that were last reported as gone, now that this is published."""
        for mark in self._ended:
            self._reported.pop(mark, None)
            if not self._followed.files_of(mark.key):  # else it has come back
                self._followed.checkpoint.forget(mark)
        self._ended = []

    def report(self, others: Iterable[Mark]) -> list[Chunk]:
        """
        Return what is to be said of the files that have changed since the last call, and of the raylets.

        Args:
            others: Marks of files that no checkpoint knows, which are reported as well.
        """
        changed: _Marks = {}
        for mark in (*filter(self._has_news, self._followed.checkpoint.marks()), *others):
            changed.setdefault((mark.session, mark.node_id), []).append(mark)
        tells_lives = self._followed.config.export and not self._followed.fixed
        chunks = self._report_lives(changed) if tells_lives else []
        return chunks + [
            self._make_chunk(*key, lines) for key, marks in changed.items() for lines in self._write_lines(marks)
        ]

    def _report_lives(self, changed: _Marks) -> list[Chunk]:
        """Return the reports of raylets. Add a file to what has `changed` where a sign of life has no other form."""
        now, running = time.monotonic(), self._look_for_raylets()
        now_ms = time.time_ns() // 1_000_000
        lives = [(life, list(life.reports(now, now_ms))) for life in self._followed.lives.values()]
        for directory in self._followed.directories.values():
            key = (directory.session.name, directory.node_id)
            if key not in changed and not directory.node_id and now - directory.reported_at >= HEARTBEAT_SECONDS:
                self._add_sign_of_life(changed, directory, running)
            if key in changed:
                directory.reported_at = now
        return [self._make_chunk(life.session, life.nodes.main, lines) for life, lines in lives if lines]

    def _add_sign_of_life(self, changed: _Marks, directory: Directory, running: Running | None) -> None:
        """Have a directory's last file reported again, if its session may be alive."""
        marks = [file.mark for file in directory.files.values() if file.mark is not None]
        if marks and (running is None or running.alive(directory.session.name)):
            changed[directory.session.name, directory.node_id] = [marks[-1]]

    def _look_for_raylets(self) -> Running | None:
        """
        Look which raylets run. Return None where none may.

        An agent that ends looks again where it has missed one that did run, as nobody looks later.
        """
        lives = self._followed.lives
        while any(life.may_change for life in lives.values()):
            running, now_ms = discovery.running(), time.time_ns() // 1_000_000
            for life in lives.values():
                life.look(running, time.monotonic(), now_ms)
            if self._followed.waits or not any(life.is_in_doubt for life in lives.values()):
                return running
            time.sleep(_AGAIN_SECONDS)
        return None

    def _has_news(self, mark: Mark) -> bool:
        """Bring `mark` up to date, and say whether it differs from what was last reported."""
        files = self._followed.files_of(mark.key)
        for file in files:
            file.update_mark()
            mark.node_id = mark.node_id or self._followed.directory_of(file).node_id
        ended = not files and self._is_gone(mark)
        if ended:
            self._ended.append(mark)
        missing = mark.missing if ended else 0
        state = (
            *(mark.name, mark.node_id, mark.written, mark.acknowledged, mark.events, mark.skipped, missing),
            mark.unread,
        )
        if (not files and not ended) or self._reported.get(mark) == state:
            return False
        self._reported[mark] = state
        self._followed.checkpoint.touch(mark)  # how much was written, for whoever comes after us
        return True

    def _is_gone(self, mark: Mark) -> bool:
        """Say whether there is no file for `mark` any more, and nothing of it is on its way."""
        directory = self._followed.directories.get(Path(mark.directory))
        if mark.reading or not wants_type(self._followed.config, mark.event_type):
            return False
        if directory is None:
            return mark.directory in self._followed.listed
        return directory.listed and all(file.tried for file in directory.files.values())

    def _write_lines(self, marks: list[Mark]) -> Iterator[list[bytes]]:
        """Yield the lines that report files, as many at a time as a chunk holds."""
        now_ms = time.time_ns() // 1_000_000
        ended = set(self._ended)
        lines = [_write_line(mark, now_ms, lost_bytes=mark.missing if mark in ended else 0) for mark in marks]
        size = max(1, self._followed.config.chunk_bytes // max(map(len, lines)))
        for first in range(0, len(lines), size):
            yield lines[first : first + size]

    def _make_chunk(self, session: str, node_id: str, lines: list[bytes]) -> Chunk:
        return Chunk(
            cluster=self._followed.config.cluster,
            session=session,
            node_id=node_id,
            event_type="FILE",
            segments=(),
            data=b"".join(lines),
        )


def _write_line(mark: Mark, now_ms: int, *, lost_bytes: int) -> bytes:
    """Return the line that reports a file."""
    report = {
        "event_data": {
            "file": mark.file,
            "generation": mark.generation,
            **_describe_name(mark, now_ms),
            "event_type": mark.event_type,
            "node_id": mark.node_id,
            "written_bytes": mark.written + (mark.skipped if mark.event_type == LOG else 0),
            "published_bytes": mark.acknowledged,
            "published_events": mark.events,
            "skipped_bytes": mark.skipped,
            "lost_bytes": lost_bytes,
            "unread": _describe_unread(mark, now_ms),
            "reported_ms": now_ms,
        },
        "source_type": "RAYTRAIL_FILE",
        "timestamp": now_ms // 1000,
    }
    return msgspec.json.encode(report) + b"\n"


def _describe_name(mark: Mark, now_ms: int) -> dict[str, str]:
    """Return what a file is called, in its report. A log's says also where it is by now."""
    if mark.event_type != LOG:
        return {"name": mark.name}
    return {"name": discovery.parse_log(mark.name).stem, "seen": f"{now_ms:013d} {mark.name}"}


def _describe_unread(mark: Mark, now_ms: int) -> str:
    """Return what is not read of a file whose writer is gone, in its report. Any other file has the moment alone."""
    if mark.unread is None:
        return f"{now_ms:013d}"
    offset, length, reason = mark.unread
    return f"{now_ms:013d} {offset:020d} {length:020d} {reason}"
