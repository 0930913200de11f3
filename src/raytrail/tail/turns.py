"""The files that have something to read, in the order in which they take turns."""

from __future__ import annotations

import math

from raytrail.event import LOG
from raytrail.ray_event import FILE_TYPES
from raytrail.tail.directory import Directory
from raytrail.tail.file import EventFile
from raytrail.tail.limits import Limits

Group = tuple[Directory, str]
"""The files of one event type in one directory. One chunk holds lines of one group."""


class Turns:
    """
    The files that have something to read.

    The small event types come first, then ``TASK``, then logs. The writers of a group take turns. The files of one
    writer are read from the oldest to the newest.

    Args:
        limits: How fast each event type may be read.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._groups: dict[Group, dict[str, dict[EventFile, None]]] = {}
        """The files of each group by their stem, which stands for their writer."""

    def __bool__(self) -> bool:
        return bool(self._groups)

    @property
    def searching(self) -> bool:
        """True if the end of a long line is still searched for in any of the files."""
        return any(file.searching for stems in self._groups.values() for files in stems.values() for file in files)

    def add(self, directory: Directory, file: EventFile) -> None:
        """Have a file read when its turn comes."""
        group = self._groups.setdefault((directory, file.name.event_type), {})
        group.setdefault(file.name.stem, {})[file] = None
        file.queued = True

    def remove(self, directory: Directory, file: EventFile) -> None:
        """Have a file read no more until it is added again."""
        file.queued = False
        group = (directory, file.name.event_type)
        stems = self._groups.get(group, {})
        files = stems.get(file.name.stem, {})
        files.pop(file, None)
        if not files:
            stems.pop(file.name.stem, None)
        if not stems:
            self._groups.pop(group, None)

    def by_priority(self) -> list[Group]:
        """Return all groups, those that are read first at the beginning."""
        return sorted(self._groups, key=_priority)

    def may_read(self, group: Group) -> bool:
        """Say whether a group may be read now, as far as the limits go."""
        return self.limits.wait_seconds(group[1]) == 0 and not self._must_wait(group)

    def wait_seconds(self) -> float:
        """Return how long the limits let none of the files be read. Infinite where there is no file."""
        return min((self.limits.wait_seconds(event_type) for _, event_type in self._groups), default=math.inf)

    def next_file(self, group: Group) -> EventFile | None:
        """Return the file of a group that is read next."""
        stems = self._groups.get(group)
        if not stems:
            return None
        files = next(iter(stems.values()))
        # a file that is already deleted is older than all others of its writer
        return max(files, key=lambda file: math.inf if file.gone else file.name.rotation)

    def let_others(self, group: Group, file: EventFile) -> None:
        """Have all other writers of a group read before this file's writer."""
        stems = self._groups[group]
        stems[file.name.stem] = stems.pop(file.name.stem)

    def let_other_groups(self, group: Group) -> None:
        """Have all other groups of the same priority read before this one, if it has still something to read."""
        if group in self._groups:
            self._groups[group] = self._groups.pop(group)

    def _must_wait(self, group: Group) -> bool:
        """Say whether all event types share a limit, and one of a higher priority may be read."""
        return self.limits.shared and any(
            _priority(other) < _priority(group) and self.limits.wait_seconds(other[1]) == 0 for other in self._groups
        )


def _priority(group: Group) -> int:
    """Return the rank of a group's event type. The lowest is read first."""
    return {"TASK": 1, LOG: 2}.get(FILE_TYPES.get(group[1], group[1]), 0)
