"""Chunks are cut from files. One chunk takes the new lines of several files when they are few."""

from __future__ import annotations

import io
import logging
import math
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from raytrail.event import LOG, Chunk, Segment
from raytrail.redact import Redactor
from raytrail.tail.checkpoint import Mark
from raytrail.tail.complaints import Complaints
from raytrail.tail.directory import Directory
from raytrail.tail.file import Changed, EventFile, Piece
from raytrail.tail.follow import Followed
from raytrail.tail.identify import Identifier
from raytrail.tail.turns import Group

log = logging.getLogger(__name__)


class _Draft:
    """A chunk that is being put together."""

    def __init__(self, room: int, *, is_log: bool) -> None:
        self.is_log = is_log
        self.room = room
        """How many bytes may still be added."""
        self.segments: list[Segment] = []
        self.parts: list[bytes] = []
        self.lines = 0

    def add(self, mark: Mark, piece: Piece, data: bytes) -> None:
        self.segments.append(Segment(*mark.key, piece.start, piece.length))
        self.parts.append(data)
        self.lines += mark.reading[piece.start]
        # nothing can follow a line that has no newline
        can_go_on = self.is_log or data.endswith(b"\n")
        self.room = self.room - piece.length if can_go_on else 0

    def data(self) -> bytes:
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)


class Cutter:
    """
    Reads files, and cuts chunks.

    Args:
        followed: The files, and whose turn it is.
        identifier: Finds out which file it is that is read for the first time.
        complaints: Says which files cannot be read.
    """

    def __init__(self, followed: Followed, identifier: Identifier, complaints: Complaints) -> None:
        self.redact = Redactor(followed.config.redact)
        self._followed = followed
        self._identifier = identifier
        self._complaints = complaints
        self._rewound: deque[Segment] = deque()
        self._capped: set[Path] = set()
        """The logs that were said to be over their limit."""

    @property
    def has_rewound(self) -> bool:
        """True if there is anything to be read again that has no turn yet."""
        return bool(self._rewound)

    def rewind(self, segments: Iterable[Segment]) -> None:
        """Note that `segments` are to be read again. Any thread may say so."""
        self._rewound.extend(segments)

    def queue_rewound(self) -> None:
        """Give what is to be read again its turn."""
        while self._rewound:
            self._queue_again(self._rewound.popleft())

    def cut(self, group: Group) -> Chunk | None:
        """Cut the next chunk of a group. None where nothing of it can be shipped now."""
        directory, event_type = group
        draft = _Draft(self._followed.config.chunk_bytes, is_log=event_type == LOG)
        self._fill(draft, group)
        self._followed.turns.let_other_groups(group)
        if not draft.parts:
            return None
        data = draft.data()
        self._followed.turns.limits.spend(event_type, draft.lines, len(data))
        config = self._followed.config
        return Chunk(
            cluster=config.cluster,
            session=directory.session.name,
            node_id=directory.node_id,
            event_type=event_type,
            segments=tuple(draft.segments),
            data=self.redact(data, event_type) if config.redact_logs or not draft.is_log else data,
        )

    def _fill(self, draft: _Draft, group: Group) -> None:
        """Read what there is room for in a chunk."""
        directory, turns = group[0], self._followed.turns
        while draft.room > 0 and (file := turns.next_file(group)):
            piece = self._read(directory, file, draft.room, long=not draft.parts)
            if piece is None and file.more:  # its next line does not fit, and begins the next chunk
                if file.searching:
                    turns.let_others(group, file)
                return
            if piece is not None and piece.data is not None:
                assert file.mark is not None
                draft.add(file.mark, piece, piece.data)
            if file.more:
                turns.let_others(group, file)
            else:
                turns.remove(directory, file)

    def _read(self, directory: Directory, file: EventFile, room: int, *, long: bool) -> Piece | None:
        """
        Read the next piece of a file. Return None where nothing of it can be shipped now.

        Args:
            directory: The directory of the file.
            file: The file.
            room: How many bytes it may have.
            long: Whether it may also be one line that is longer.
        """
        try:
            self._followed.open_files.open(file)
            if file.mark is None and not self._identifier.identify(directory, file):
                file.more = file.searching
                return None
            file.flush = file.flush or (file.name.is_log and not self._followed.waits)
            piece = file.read(room, long=long, max_line_bytes=self._followed.config.max_line_bytes)
        except Changed:
            file.more = False
            self._followed.begin_again(directory, file)
            return None
        except OSError as error:
            file.more = False
            self._leave(directory, file, error)
            return None
        if file.name.is_log:
            self._followed.halves.note(file, piece)
            self._warn_of_cap(file)
        if piece is not None:
            self._note_read(file, piece)
        if self._followed.fixed and not file.more:
            # nothing is written to it any more, and to choose among thousands of open files takes long
            self._followed.open_files.close(file)
        return piece

    def _leave(self, directory: Directory, file: EventFile, error: OSError) -> None:
        """Leave a file that cannot be read until the next listing."""
        if isinstance(error, FileNotFoundError):
            directory.due = -math.inf  # it has another name by now, or none, as the next listing tells
            return
        file.seen = (0, 0)  # the next listing finds it changed, and it is tried again
        file.unread = f"cannot be read: {error.strerror}" if file.over else ""
        self._complaints.warn(f"{file.path}: {error.strerror}; it is not read until it can be")

    def _warn_of_cap(self, file: EventFile) -> None:
        if file.beyond and file.path not in self._capped:
            self._capped.add(file.path)
            log.warning(
                "%s: what is over log_file_bytes %d is not shipped; it shows as skipped in the ledger",
                file.path,
                file.most_bytes,
            )

    def _note_read(self, file: EventFile, piece: Piece) -> None:
        """Note how many lines a piece holds until it is acknowledged, or that it is skipped."""
        assert file.mark is not None
        if piece.data is None:
            log.warning(
                "%s: the line at offset %d is %d bytes long, over max_line_bytes %d; it is skipped",
                file.path,
                piece.start,
                piece.length,
                self._followed.config.max_line_bytes,
            )
            self._followed.checkpoint.skip(file.mark, piece.start, piece.start + piece.length)
        elif file.name.is_log:
            file.mark.reading[piece.start] = 0  # lines, and no events
        else:
            # `bytes.count` looks at each byte. This one leaps from line to line, at a third of the cost.
            file.mark.reading[piece.start] = len(io.BytesIO(piece.data).readlines()) - piece.data.startswith(b"\n")

    def _queue_again(self, segment: Segment) -> None:
        key = segment.file, segment.generation
        self._followed.checkpoint.mark(key).reading.pop(segment.start, None)
        for file in self._followed.files_of(key)[:1]:
            file.again.append((segment.start, segment.end))
            self._followed.turns.add(self._followed.directory_of(file), file)
