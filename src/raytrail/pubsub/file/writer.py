"""The file that a publisher appends to."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path

from raytrail import disk
from raytrail.errors import BrokerUnavailable
from raytrail.event import Chunk
from raytrail.pubsub.file.frames import encode
from raytrail.pubsub.file.layout import CHUNK_FILE, Settings, groups_directory, make_directory, sync_directory
from raytrail.pubsub.file.retention import tidy

_BUFFERS_A_WRITE = 1024  # IOV_MAX of Linux and macOS
_sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class Writer:
    """The file that a publisher appends to."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self._directory = directory
        self._settings = settings
        self._id = uuid.uuid4().hex[:12]
        self._number = 0
        self._path = directory
        self._file: FileIO | None = None
        self._stored_bytes = 0
        # a cancelled event loop leaves its thread behind, still writing
        self._one_at_a_time = threading.Lock()

    def append(self, chunks: Sequence[Chunk]) -> None:
        """
        Append and sync `chunks`, all or none.

        Raises:
            BrokerUnavailable: They could not be written. The next append begins a new file.
        """
        buffers = [buffer for chunk in chunks for buffer in encode(chunk)]
        with self._one_at_a_time:
            stored = False
            try:
                file = self._file or self._create()
                _write(file.fileno(), buffers)
                _sync(file.fileno())
                if os.fstat(file.fileno()).st_nlink == 0:
                    raise FileNotFoundError(errno.ENOENT, "deleted while it was written to")
                stored = True
            except OSError as error:
                raise BrokerUnavailable(
                    f"{self._path}: {len(chunks)} chunks could not be stored: {error}; "
                    f"make room or mend the disk, then send them again"
                ) from error
            finally:
                if not stored:
                    self._abandon()
            self._stored_bytes += sum(map(len, buffers))
            if self._stored_bytes >= self._settings.file_bytes:
                self._close()

    def close(self) -> None:
        """Give up the file, so that readers know it as finished."""
        with self._one_at_a_time:
            self._close()

    def _create(self) -> FileIO:
        self._path = self._directory
        make_directory(groups_directory(self._directory))
        tidy(self._directory, self._settings)
        names = [CHUNK_FILE.fullmatch(name) for name in os.listdir(self._directory)]
        self._number = 1 + max([self._number, *(int(name[1]) for name in names if name)])
        self._path = self._directory / f"{self._number:020}-{self._id}.chunks"
        self._stored_bytes = 0
        self._file = file = FileIO(disk.open_private(self._path, os.O_WRONLY | os.O_EXCL), "wb")
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)  # before its first byte: see Source.look
        sync_directory(self._directory)
        return file

    def _abandon(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        # where the disk refuses this too, readers skip what is torn; a whole frame that remains comes twice
        with suppress(OSError):
            os.ftruncate(file.fileno(), self._stored_bytes)
            if self._stored_bytes == 0:
                self._path.unlink()
        file.close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _write(fd: int, buffers: Sequence[bytes]) -> None:
    pending = deque(memoryview(buffer) for buffer in buffers)
    while pending:
        written = os.writev(fd, [pending[index] for index in range(min(len(pending), _BUFFERS_A_WRITE))])
        while pending and written >= len(pending[0]):
            written -= len(pending.popleft())
        if written:
            pending[0] = pending[0][written:]
