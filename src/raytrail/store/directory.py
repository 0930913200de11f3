"""The directory of a store. One process writes to it, and a crash may leave files in it that nobody names."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import IO

from raytrail import disk
from raytrail.errors import StoreError, StoreLocked
from raytrail.store.catalogue import Catalogue


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


def sweep(root: Path, catalogue: Catalogue) -> None:
    """Delete what a crash left behind: files that the catalogue does not name."""
    named = {
        path
        for (path,) in catalogue.query(
            "SELECT path FROM log UNION SELECT path FROM state UNION SELECT path FROM bodies"
        )
    }
    for kind in ("log", "logs", "state"):
        for path in (root / kind).glob("*/*"):
            if str(path.relative_to(root)) not in named:
                path.unlink()
    for path in (root / "tmp").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
