"""
Requests to the one process that writes to a store, from commands that cannot write to it themselves meanwhile.

    requests/<time>-<digits>.json      one request; whoever writes to the store does it, and deletes the file

Whoever may make a file there may write to the store anyway.
"""

from __future__ import annotations

import logging
import os
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from raytrail import disk
from raytrail.errors import ConfigError, NotFoundError, StoreUnavailable
from raytrail.event import UNDECODABLE

MOST_BYTES = 64 * 1024
_DIRECTORY = "requests"
_NAME = re.compile(r"\d{20}-[0-9a-f]{8}\.json")

log = logging.getLogger(__name__)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request about one session."""

    verb: Literal["delete", "hold", "release", "forget"]
    session: str
    reason: str = ""


class Requests:
    """
    The requests to a store's writer.

    Args:
        root: The store's directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._directory = root / _DIRECTORY

    def leave(self, request: Request) -> Path:
        """
        Leave a request. It is durable when this returns.

        Returns:
            Its file, which is gone once the request was done or refused.

        Raises:
            OSError: The store's directory cannot be written.
        """
        disk.make_private_directory(self._directory)
        self._give(self._directory)
        path = self._directory / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
        new = path.with_suffix(".new")
        with open(disk.open_private(new, os.O_WRONLY), "wb") as file:
            file.write(msgspec.json.encode(request))
            file.flush()
            os.fsync(file.fileno())
        self._give(new)
        os.rename(new, path)
        return path

    def _give(self, path: Path) -> None:
        """Give what root has made to whom the store is, as the history is not root."""
        if os.geteuid() == 0:
            owner = self._root.stat()
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)

    def take(self, do: Callable[[Request], None]) -> None:
        """
        Do all requests, the oldest first. One that is refused is logged, and not done again.

        Args:
            do: Does one. What it raises beside a refusal leaves the request where it is.

        Raises:
            StoreUnavailable: The disk is full, or fails. What is not done is done the next time.
        """
        try:
            for name in self._list():
                if request := self._read(name):
                    self._do(do, request)
                with disk.directory(self._directory, self._root) as there:
                    os.unlink(name, dir_fd=there)
        except OSError as error:
            raise StoreUnavailable(f"{self._directory}: {error}; put it right, and what waits there is done") from error

    @staticmethod
    def _do(do: Callable[[Request], None], request: Request) -> None:
        try:
            do(request)
        except (ConfigError, NotFoundError) as refusal:
            log.warning("asked to %s session %s: %s", request.verb, request.session, refusal)

    def _list(self) -> list[str]:
        with suppress(FileNotFoundError), disk.listed(self._directory, self._root) as entries:
            names = (name for name, entry in entries.items() if not entry.is_dir(follow_symlinks=False))
            return sorted(filter(_NAME.fullmatch, names))
        return []

    def _read(self, name: str) -> Request | None:
        try:
            text = disk.read_file(self._directory / name, self._root, MOST_BYTES)
            return msgspec.json.decode(text, type=Request)
        except (disk.Refused, PermissionError, *UNDECODABLE) as error:
            log.warning("%s: no request: %s; it is passed over", self._directory / name, error)
            return None
