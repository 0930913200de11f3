"""From one answer to the next: what came, what changed and what went, for the sources that poll."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Generic, TypeVar

import msgspec

Key = TypeVar("Key", bound=Hashable)


class Changes(msgspec.Struct, Generic[Key], frozen=True):
    """The differences between two answers."""

    created: list[Key]
    updated: list[Key]
    deleted: list[Key]


class Snapshots(Generic[Key]):
    """
    The content of the last answers.

    Args:
        most: How many are remembered, where answers are not whole. The others are never reported as gone.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[Key, object] = {}

    def remember(self, keys: Iterable[Key]) -> None:
        """Take it that these are there, whatever they are like: a process before this one said so."""
        for key in keys:
            self._known.setdefault(key, None)

    def take(self, now: Mapping[Key, object], *, whole: bool = True) -> Changes[Key]:
        """
        Return what has changed since the last answer.

        Args:
            now: The things that there are, each with all that may change about it.
            whole: False where the answer was cut short: then nothing that it lacks is known to have gone.
        """
        known = self._known
        changes = Changes[Key](
            created=[key for key in now if key not in known],
            updated=[key for key, value in now.items() if key in known and known[key] != value],
            deleted=[key for key in known if key not in now] if whole else [],
        )
        if whole:
            self._known = dict(now)
            return changes
        # the rest first: what was not heard of for longest is forgotten first
        self._known = {key: value for key, value in known.items() if key not in now} | dict(now)
        for key in list(self._known)[: max(0, len(self._known) - self._most)]:
            del self._known[key]
        return changes
