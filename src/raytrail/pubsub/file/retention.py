"""Which files are deleted, and which groups are waited for before."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raytrail import disk
from raytrail.pubsub.file.frames import unlocked
from raytrail.pubsub.file.layout import CHUNK_FILE, Settings, groups_directory, read_positions
from raytrail.pubsub.groups import Standing, standing

log = logging.getLogger(__name__)
_STILLBORN_SECONDS = 3600.0


@contextmanager
def undisturbed(directory: Path) -> Iterator[None]:
    """Keep joining and retention apart: one tries the locks that the other takes, and counts who is there."""
    fd = disk.open_private(groups_directory(directory) / ".lock", os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def tidy(directory: Path, settings: Settings) -> None:
    """Delete what retention no longer keeps. Where that fails, a warning says so; nothing else is held up."""
    try:
        with undisturbed(directory):
            _retain(directory, settings)
    except OSError as error:
        log.warning("%s: old files could not be deleted: %s; mend it, or it grows", directory, error)


def forget_group(directory: Path, group: str) -> bool:
    """Remove a group, unless somebody reads as it; return whether it is gone."""
    path = groups_directory(directory) / f"{group}.json"
    if path.parent.exists():
        with undisturbed(directory):
            if not _is_unlocked(path.with_suffix(".lock")):
                return False
            _remove(path)
    return True


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_suffix(".lock").unlink(missing_ok=True)


def _retain(directory: Path, settings: Settings) -> None:
    now = time.time()
    counting, away = _groups_by_standing(directory, settings, now)
    files = {path.name: path.stat() for path in sorted(directory.glob("*.chunks")) if CHUNK_FILE.fullmatch(path.name)}
    total = sum(stat.st_size for stat in files.values())
    unread: set[str] = set()
    for name, stat in files.items():
        if not _is_due(
            now - stat.st_mtime, stat.st_size, settings, full=total > settings.retain_bytes and bool(counting)
        ):
            continue
        behind = _behind(counting, name, stat.st_size)
        unread.update(behind)
        path = directory / name
        if behind or not _is_unlocked(path):
            continue
        if missed := _behind(away, name, stat.st_size):
            log.warning(
                "%s is deleted unread by the groups %s, which have been away longer than retain_seconds=%d",
                path,
                missed,
                settings.retain_seconds,
            )
        path.unlink(missing_ok=True)
        total -= stat.st_size
    if total > settings.retain_bytes and unread:
        log.warning(
            "%s holds %d bytes, more than retain_bytes=%d, since the groups %s have not acknowledged them; "
            "start their readers, or delete the files of those no longer used in %s",
            directory,
            total,
            settings.retain_bytes,
            sorted(unread),
            groups_directory(directory),
        )


_Positions = dict[str, dict[str, int]]
"""Where each group is: by group and file, the bytes acknowledged."""


def _groups_by_standing(directory: Path, settings: Settings, now: float) -> tuple[_Positions, _Positions]:
    """Return the groups that count and those that are away, and forget those that will not come back."""
    by_standing: dict[Standing, _Positions] = {Standing.COUNTS: {}, Standing.AWAY: {}}
    for path in sorted(groups_directory(directory).glob("*.json")):
        present, silent_seconds = not _is_unlocked(path.with_suffix(".lock")), now - path.stat().st_mtime
        how = standing(
            path.stem, present=present, silent_seconds=silent_seconds, retain_seconds=settings.retain_seconds
        )
        if how is Standing.GONE:
            _remove(path)
        else:
            by_standing[how][path.stem] = read_positions(path)
    return by_standing[Standing.COUNTS], by_standing[Standing.AWAY]


def _is_due(age_seconds: float, size: int, settings: Settings, *, full: bool) -> bool:
    """Say whether a file is to go once every group that counts has it; `full` is whether all of them are too large."""
    if size == 0:
        return age_seconds >= _STILLBORN_SECONDS  # until then its publisher may be about to lock it
    return full or age_seconds > settings.retain_seconds


def _behind(groups: _Positions, name: str, size: int) -> list[str]:
    """Return which groups have not acknowledged all of a file."""
    return sorted(group for group, positions in groups.items() if positions.get(name, 0) < size)


def _is_unlocked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        return unlocked(fd)
    finally:
        os.close(fd)
