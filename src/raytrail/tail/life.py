"""The life of a session's directory: which nodes worked in it, whose raylets run, and which have gone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from raytrail import disk
from raytrail.config import HEARTBEAT_SECONDS
from raytrail.tail import discovery
from raytrail.tail.checkpoint import Checkpoint
from raytrail.tail.discovery import Nodes, Running

LOOKS = 2
"""How many looks in a row must miss a raylet before it has gone."""
STILL_SECONDS = 300.0
"""
How long nothing is written into a session's directory before its raylets have gone, where they were never seen.

A raylet writes ``debug_state.txt`` every ten seconds, and a head its list of metrics endpoints. A raylet that has a
port file may take as long to begin.
"""


class _Raylet(msgspec.Struct, frozen=True):
    """The reports on one node's raylet. They are written down, so that the next agent knows them."""

    seen_ms: int = 0
    """When it was last seen to run. For one that was never seen, it is when its directory was last written to."""
    gone_ms: int | None = None
    """When it ended, once it has."""


class _Watched:
    """A raylet, and what this process has made of it."""

    def __init__(self, known: _Raylet) -> None:
        self.known = known
        self.witnessed = False
        """True if it was seen itself, so that it has gone once it is not seen any more."""
        self.missed = 0
        """How many looks in a row have missed it."""
        self.missed_ms = 0
        """When the first of them was."""
        self.reported_at = -math.inf
        """When it was last reported, on the monotonic clock."""
        self.reported: int | None = known.gone_ms
        """The end that was last reported."""


class Life:
    """
    The nodes of a session's directory, and whether their raylets run.

    Args:
        session: Its name.
        directory: The session's directory.
        checkpoint: Keeps what was reported, for an agent that is started after Ray's end.
    """

    def __init__(self, session: str, directory: Path, checkpoint: Checkpoint) -> None:
        self.session = session
        self.directory = directory
        self.nodes = Nodes(())
        self.has_news = False
        """True if a file that is followed in it has changed since the files were last looked at."""
        self._looked_at = -math.inf
        """When the files were last looked at, on the monotonic clock."""
        self._checkpoint = checkpoint
        self._raylets = {id: _Watched(known) for id, known in _recall(checkpoint, directory).items()}
        self._news = False
        """True if what was last reported is to be remembered, once that is published."""

    @property
    def is_over(self) -> bool:
        """True if every node's raylet has gone, and that was reported."""
        ids = {*self.nodes.ids, *self._raylets}
        return bool(ids) and all(id in self._raylets and self._raylets[id].reported is not None for id in ids)

    @property
    def may_change(self) -> bool:
        """True if a look may tell something new."""
        return self.has_news or not self.is_over

    @property
    def is_in_doubt(self) -> bool:
        """True if a raylet was missed, but not often enough to say that it has gone."""
        return any(0 < raylet.missed < LOOKS for raylet in self._raylets.values())

    def find_nodes(self) -> None:
        """Look which nodes have worked in the directory: a head that is started anew leaves a new port file."""
        self.nodes = discovery.nodes(self.directory)

    def runs(self, seen: Running) -> bool:
        """Say whether a raylet of this directory is among those that are seen to run."""
        living = discovery.living(self.session, self.directory, self.nodes, seen)
        return bool(living) or (not self.nodes.ids and seen.unnamed(self.session) > 0)

    def look(self, seen: Running | None, now: float, now_ms: int) -> None:
        """
        Take note of what runs now.

        Args:
            seen: The raylets that are seen from here. None where nothing can be.
            now: When that was, on the monotonic clock.
            now_ms: The same since the epoch.
        """
        run = discovery.living(self.session, self.directory, self.nodes, seen) if seen else frozenset[str]()
        for id in run:
            raylet = self._watch(id)
            raylet.known, raylet.witnessed, raylet.missed = _Raylet(now_ms), True, 0
        if run or any(raylet.witnessed for raylet in self._raylets.values()):
            self.has_news = False
            self._miss(run, now_ms)
        elif self.nodes.ids and self._may_show_news and now - self._looked_at >= HEARTBEAT_SECONDS:
            self._looked_at, self.has_news = now, False
            self._look_at_files(now_ms)

    def reports(self, now: float, now_ms: int) -> Iterator[bytes]:
        """
        Yield a line for each raylet of which there is something to say: it has gone, or it is time for a sign of life.

        Call it again only once the last lines are published: by then, what they said is remembered.

        Args:
            now: On the monotonic clock.
            now_ms: The same since the epoch.
        """
        self._remember()
        for id, raylet in self._raylets.items():
            gone_ms = raylet.known.gone_ms
            beats = gone_ms is None and raylet.known.seen_ms and now - raylet.reported_at >= HEARTBEAT_SECONDS
            if beats or gone_ms != raylet.reported:
                raylet.reported_at, raylet.reported, self._news = now, gone_ms, True
                yield _write_line(id, raylet.known, now_ms)

    @property
    def _may_show_news(self) -> bool:
        """True if the files may tell something new: never, of a directory of which nothing is shipped."""
        return self.has_news or (bool(self._raylets) and not self.is_over)

    def _watch(self, id: str) -> _Watched:
        return self._raylets.setdefault(id, _Watched(_Raylet()))

    def _miss(self, run: frozenset[str], now_ms: int) -> None:
        """Note that raylets are not seen, where they would be."""
        for id in {*self.nodes.ids, *self._raylets} - run:
            raylet = self._watch(id)
            begins = not raylet.witnessed and now_ms - self.nodes.since_ms.get(id, 0) < STILL_SECONDS * 1000
            if raylet.known.gone_ms is not None or begins:
                continue
            raylet.missed_ms = raylet.missed_ms if raylet.missed else now_ms
            raylet.missed += 1
            if raylet.missed >= LOOKS:
                # its last writing is later than when it was last seen, and its end is no later than the first miss
                end_ms = min(raylet.missed_ms, max(raylet.known.seen_ms, self._find_written_ms()))
                self._end(id, raylet, end_ms)

    def _look_at_files(self, now_ms: int) -> None:
        """
        Judge by what is written, where no raylet was ever seen.

        An agent may see Ray's files alone, and one that is started after Ray's end sees no more either.
        """
        written_ms = self._find_written_ms()
        if now_ms - written_ms < STILL_SECONDS * 1000:
            self._watch(self.nodes.main).known = _Raylet(written_ms)
            return
        for id in self.nodes.ids:
            raylet = self._watch(id)
            if raylet.known.gone_ms is None:
                self._end(id, raylet, written_ms)

    def _end(self, id: str, raylet: _Watched, end_ms: int) -> None:
        """Take note of a raylet's end. A head has ended when the next one begins."""
        heads = self.nodes.heads
        later = [self.nodes.since_ms[head] for head in heads[heads.index(id) + 1 :]] if id in heads else []
        end_ms = max(raylet.known.seen_ms, min([end_ms, *later]))
        raylet.known, raylet.missed = _Raylet(end_ms, end_ms), 0

    def _find_written_ms(self) -> int:
        """Return when anything was last written into the directory, its logs or its events."""
        logs = self.directory / "logs"
        directories = (self.directory, logs, logs / "export_events", logs / "events")
        return max(
            (written_ms for directory in directories for written_ms in _read_times_ms(directory, self.directory)),
            default=0,
        )

    def _remember(self) -> None:
        if self._news:
            self._news = False
            known = {id: raylet.known for id, raylet in self._raylets.items()}
            self._checkpoint.remember(note(self.directory), msgspec.json.encode(known).decode())


def note(directory: Path) -> str:
    """Return the name under which a checkpoint remembers the raylets of a session's directory."""
    return f"{NOTE}{directory}"


NOTE = "raylets of "
"""Begins such a name."""


def _recall(checkpoint: Checkpoint, directory: Path) -> dict[str, _Raylet]:
    known = checkpoint.note(note(directory))
    return msgspec.json.decode(known, type=dict[str, _Raylet]) if known else {}


def _read_times_ms(directory: Path, root: Path) -> Iterator[int]:
    with suppress(OSError), disk.listed(directory, root) as entries:
        for entry in entries.values():
            with suppress(OSError):  # it has gone meanwhile
                yield entry.stat(follow_symlinks=False).st_mtime_ns // 1_000_000


def _write_line(node_id: str, known: _Raylet, now_ms: int) -> bytes:
    report = {"node_id": node_id, "seen_ms": known.seen_ms, "gone_ms": known.gone_ms, "reported_ms": now_ms}
    event = {"event_data": report, "source_type": "RAYTRAIL_RAYLET", "timestamp": now_ms // 1000}
    return msgspec.json.encode(event) + b"\n"
