"""What a timeline is asked for: which attempts, and in which window of time."""

from __future__ import annotations

from typing import NamedTuple

from raytrail.answers.timeline.relations import NS, Tables
from raytrail.entities import MOST_SECONDS
from raytrail.errors import ConfigError, NotFoundError
from raytrail.fold.literals import literal

LEAST_MS = 1
"""The shortest window."""


class Chosen(NamedTuple):
    """What of a session is asked for. Ids are hex; empty means all."""

    job: str = ""
    node: str = ""
    actor: str = ""
    worker: str = ""

    def condition(self) -> str:
        """
        Return the condition of the lanes that are asked for.

        Raises:
            ConfigError: One is no id.
        """
        return " AND ".join(f"{name}_id = {_blob(name, text)}" for name, text in self._given()) or "true"

    def of_tasks(self) -> str:
        """Return the same of the tasks, in a query of `raytrail sql`, with an AND before each condition."""
        return "".join(f" AND {name}_id = {literal(text.lower())}" for name, text in self._given())

    def __str__(self) -> str:
        return " and ".join(f"{name} {text!r}" for name, text in self._given())

    def _given(self) -> list[tuple[str, str]]:
        return [(name, text) for name, text in self._asdict().items() if text]


EVERYTHING = Chosen()


def _blob(name: str, text: str) -> str:
    try:
        return f"unhex('{bytes.fromhex(text).hex()}')"
    except ValueError:
        raise ConfigError(f"{name} {text!r} is no id; give it in hex, as `raytrail list {name}s` shows it") from None


class Window(NamedTuple):
    """A window of a session, of what is asked for."""

    chosen: Chosen
    from_ms: int
    to_ms: int
    first_ms: int
    last_ms: int

    @property
    def begin_ns(self) -> int:
        """When it begins."""
        return self.from_ms * NS

    @property
    def end_ns(self) -> int:
        """When it ends."""
        return self.to_ms * NS

    def overlaps(self, tables: Tables) -> str:
        """Return the condition of the slices that have a time in it. What is open has run until now."""
        return f"began_ns < {self.end_ns} AND coalesce(ended_ns, {tables.now_ns}) >= {self.begin_ns}"


def find_window(tables: Tables, chosen: Chosen, from_ms: int | None, to_ms: int | None) -> Window:
    """
    Return the window, which is all of the time of what is chosen unless it is given.

    Raises:
        ConfigError: It is empty, or an id is none.
        NotFoundError: There is no attempt of what is chosen.
    """
    [(first, last, still_open)] = tables.run(
        f"SELECT min(first_ns), max(last_ns), bool_or(last_ns IS NULL) FROM {tables.lanes} WHERE {chosen.condition()}"
    )
    if first is None and any(chosen):
        raise NotFoundError(f"no attempt of {chosen} in this session; `raytrail list tasks` shows those that it has")
    first_ms = (tables.now_ns if first is None else first) // NS
    last_ns = tables.now_ns if still_open or last is None else min(last, tables.now_ns)
    last_ms = max(last_ns // NS, first_ms) + LEAST_MS
    begin_ms, end_ms = first_ms if from_ms is None else from_ms, last_ms if to_ms is None else to_ms
    if not 0 <= begin_ms <= end_ms - LEAST_MS or end_ms > MOST_SECONDS * 1000:
        raise ConfigError(f"window from {begin_ms} to {end_ms}: it is empty; its end comes after its beginning")
    return Window(chosen, begin_ms, end_ms, first_ms, last_ms)
