"""What lies where in the directory, how a group's place is read, and the settings that go with it."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Annotated

import msgspec

from raytrail import disk
from raytrail.event import UNDECODABLE

log = logging.getLogger(__name__)

CHUNK_FILE = re.compile(r"([0-9]{20})-[0-9a-f]{12}\.chunks")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the URL's query may say; the docstring of `raytrail.pubsub.file` says what it means."""

    retain_bytes: Annotated[int, msgspec.Meta(ge=0)] = 4 * 1024**3
    retain_seconds: Annotated[int, msgspec.Meta(ge=1)] = 7 * 24 * 3600
    file_bytes: Annotated[int, msgspec.Meta(ge=1)] = 64 * 1024**2


def make_directory(directory: Path) -> None:
    """Make a directory and those above it, for their owner alone, so that a power loss does not undo it."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        disk.make_private_directory(path)
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Have the names in a directory survive a power loss."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def groups_directory(directory: Path) -> Path:
    """Return where the groups' places and locks are."""
    return directory / "groups"


def read_positions(path: Path) -> dict[str, int]:
    """Return where a group is, by file; nowhere, if what was written down of it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Annotated[int, msgspec.Meta(ge=0)]])
    except FileNotFoundError:
        return {}
    except UNDECODABLE as error:  # the machine went down before it was on disk
        log.warning("%s: %s; the group reads from the start again", path, error)
        return {}
