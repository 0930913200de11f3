"""Which files the settings ask for."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from raytrail.config import TailConfig
from raytrail.event import LOG, SET_ASIDE
from raytrail.tail.discovery import FileName


def wants_type(config: TailConfig, event_type: str) -> bool:
    """Say whether events of a type are shipped."""
    # a line that could not be read may be of any type
    selected = not config.event_types or event_type in (*config.event_types, SET_ASIDE)
    return (
        config.export
        and selected
        and event_type not in config.without_event_types
        and (config.logs or event_type != LOG)
    )


def wants_file(config: TailConfig, name: FileName) -> bool:
    """Say whether a file is shipped."""
    if not name.is_log or not wants_type(config, LOG):
        return wants_type(config, name.event_type)
    include, exclude = config.log_include, config.log_exclude
    return (not include or _matches(name.stem, include)) and not _matches(name.stem, exclude)


def _matches(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)
