"""What a broker holds for a group that the group has not acknowledged: how far a history is behind."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable


class Backlog(NamedTuple):
    """What a group has not acknowledged yet, as far as its broker counts it."""

    chunks: int | None = None
    """Messages of the broker: each is a chunk, or a part of one."""
    bytes: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the group has everything."""
        return not self.chunks and not self.bytes


@runtime_checkable
class Measurable(Protocol):
    """A broker that knows what it holds for a group, and says so at little cost."""

    async def backlog(self, group: str) -> Backlog | None:
        """
        Return what a group has not acknowledged; None if the broker cannot say just now.

        Raises:
            PublishError: The broker is away.
            ConfigError: It does not let us in.
        """
        ...
