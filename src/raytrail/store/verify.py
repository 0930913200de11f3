"""Verify: all files of a store, whether they are what was written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Literal

import msgspec

from raytrail.errors import StoreDamaged
from raytrail.store.catalogue import Catalogue, LogFile, StateFile
from raytrail.store.files import Files
from raytrail.store.logs import Logs


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one file."""

    path: str
    """Below the store's directory."""
    bytes: int
    """How many were read, or were to be."""
    verdict: Literal["ok", "damaged", "no checksum"]
    reason: str = ""
    """The fault, and the cure."""


def verify(catalogue: Catalogue, files: Files, logs: Logs, sessions: Iterable[str]) -> Iterator[Finding]:
    """Yield what is found of the catalogue, and of each file of these sessions."""
    yield _finding(catalogue.name, catalogue.size_bytes, catalogue.has_sums, catalogue.verify)
    for session in sessions:
        for finding in _of_session(catalogue, files, logs, session):
            # a history that goes on meanwhile may have written it anew, with others, and deleted it
            if finding.verdict != "damaged" or catalogue.names(session, finding.path):
                yield finding


def stored_bytes(catalogue: Catalogue, logs: Logs, sessions: Iterable[str]) -> int:
    """Return about how many bytes `verify` reads. States that an older version wrote are not counted."""
    return catalogue.size_bytes + sum(
        sum(file.bytes for file in catalogue.log_files(session))
        + sum(file.bytes or 0 for file in catalogue.state_files(session))
        + sum(body.bytes for body in logs.bodies(session))
        for session in sessions
    )


def _of_session(catalogue: Catalogue, files: Files, logs: Logs, session: str) -> Iterator[Finding]:
    named: list[LogFile | StateFile] = [*catalogue.log_files(session), *catalogue.state_files(session)]
    for file in named:
        if not _is_deleted(files, file):
            yield _finding(file.path, file.bytes or 0, file.crc32 is not None, partial(files.verify, file))
    for body in logs.bodies(session):
        known = all(frame.crc32 is not None for frame in body.frames)
        yield _finding(body.path, body.bytes, known, partial(logs.verify, body))


def _is_deleted(files: Files, file: LogFile | StateFile) -> bool:
    """Return whether it is a cache that somebody has deleted, which may be."""
    return isinstance(file, StateFile) and file.kind == "cache" and not files.exists(file)


def _finding(path: str, size: int, known: bool, check: Callable[[], None]) -> Finding:
    try:
        check()
    except StoreDamaged as damage:
        return Finding(path=path, bytes=size, verdict="damaged", reason=str(damage))
    return Finding(path=path, bytes=size, verdict="ok" if known else "no checksum")
