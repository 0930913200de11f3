"""Which files the settings ask for."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from raytrail.config import TailConfig
from raytrail.event import LOG, SET_ASIDE
from raytrail.ray_event import FILE_TYPES
from raytrail.tail.discovery import FileName, parse_log


def wants_type(config: TailConfig, event_type: str) -> bool:
    """Say whether events of a type are shipped."""
    # an event that Ray posted tells what a file's event does
    names = {event_type, FILE_TYPES.get(event_type, event_type)}
    # a line that could not be read may be of any type
    selected = not config.event_types or not names.isdisjoint((*config.event_types, SET_ASIDE))
    return (
        config.export
        and selected
        and names.isdisjoint(config.without_event_types)
        and (config.logs or event_type != LOG)
    )


def wants_file(config: TailConfig, name: FileName) -> bool:
    """Say whether a file is shipped."""
    if not name.is_log or not wants_type(config, LOG):
        return wants_type(config, name.event_type)
    include, exclude = config.log_include, config.log_exclude
    return (not include or _matches(name.stem, include)) and not _matches(name.stem, exclude)


def wants_log(config: TailConfig, name: str) -> bool:
    """Say whether a log is shipped, by its name relative to ``logs/``."""
    return wants_file(config, parse_log(name))


def _matches(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)
