"""The directory of a store. One process writes to it, and a crash may leave files in it that nobody names."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from raytrail import disk
from raytrail.errors import StoreError, StoreLocked
from raytrail.store.catalogue import Catalogue

_PARQUET = r".+-\d{20}(-\d{6,})?\.parquet"

KINDS: Mapping[str, re.Pattern[str]] = {
    "log": re.compile(_PARQUET),
    "logs": re.compile(r"\d{20}(-\d{6,})?\.zst"),
    "state": re.compile(_PARQUET + r"|\d{20}\.duckdb(\.wal)?"),
}
"""The directories that a store has of sessions, and the names that it gives to files there."""

LEFT_SECONDS = 600.0
"""
How long ago a file that nobody names must have been changed to be deleted: whoever brings files and a catalogue back
from a copy does not do both at the same moment.
"""

_SCRATCH = ("spool-", "divided-", "divided_", "ranges-", "duckdb_temp")


def lock(root: Path) -> IO[str]:
    """
    Return a file that nobody else writes to the store for as long as it is open.

    Raises:
        StoreLocked: Another process writes to it.
    """
    file = os.fdopen(disk.open_private(root / "lock", os.O_WRONLY), "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise StoreLocked(f"{root}: another process writes to this store; stop it, or open another store") from None
    return file


def refuse_nameless(root: Path) -> None:
    """
    Refuse a store whose catalogue is gone. With a new one, all its files would be leftovers.

    Raises:
        StoreError: It is gone.
    """
    if not (root / "catalogue.sqlite").exists() and any(root.glob("log/*/*")):
        raise StoreError(
            f"{root / 'catalogue.sqlite'}: it is gone, and what it names is not; bring it back from a copy, or move "
            "the store away and import again"
        )


def unnamed(root: Path, catalogue: Catalogue) -> list[str]:
    """
    Return the files that a crash left behind: of names that only a store gives, older than `LEFT_SECONDS`, and named by
    no row of the catalogue.

    Nothing that lies behind a link is among them.
    """
    named = {
        path
        for (path,) in catalogue.query(
            "SELECT path FROM log UNION SELECT path FROM state UNION SELECT path FROM bodies"
        )
    }
    before_s = time.time() - LEFT_SECONDS
    return [
        path
        for kind, is_ours in KINDS.items()
        for path, changed_s in _list_files(root, kind, is_ours)
        if path not in named and changed_s <= before_s
    ]


def _list_files(root: Path, kind: str, is_ours: re.Pattern[str]) -> Iterator[tuple[str, float]]:
    """Yield the files of a kind that have a store's names, and when each was changed. Links are not followed."""
    with suppress(FileNotFoundError, disk.Refused), disk.listed(root / kind, root) as sessions:
        for session, entry in sessions.items():
            if entry.is_dir(follow_symlinks=False):
                with suppress(FileNotFoundError), disk.listed(root / kind / session, root) as files:
                    for name, file in files.items():
                        if is_ours.fullmatch(name) and file.is_file(follow_symlinks=False):
                            yield f"{kind}/{session}/{name}", file.stat(follow_symlinks=False).st_mtime


def empty_scratch(root: Path) -> None:
    """Delete what the engine and the history of a process that is gone left in ``tmp``, and nothing else."""
    for path in (root / "tmp").iterdir():
        if path.name.startswith(_SCRATCH) and not path.is_symlink():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def delete_file(root: Path, path: str) -> None:
    """
    Delete a file of a store: one that lies in a directory of a session, which is reached through no link.

    Args:
        root: The store's directory.
        path: Its place below it, as the catalogue names it. One that is gone is passed over.

    Raises:
        disk.Refused: A link is in the way, or it is no place as `check_place` has it.
        OSError: It cannot be deleted.
    """
    check_place(path)
    with suppress(FileNotFoundError), disk.directory((root / path).parent, root) as there:
        os.unlink(Path(path).name, dir_fd=there)


def check_place(path: str) -> None:
    """
    Check that a path is the place of a file of a store, below its directory.

    Raises:
        disk.Refused: It is not.
    """
    parts = Path(path).parts
    if len(parts) != 3 or parts[0] not in KINDS or ".." in parts:
        raise disk.Refused(errno.EINVAL, "no place of a file of a store", disk.escape_name(path))
