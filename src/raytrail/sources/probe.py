"""
Poll a node in a process of its own, since `import ray` costs memory and time that an agent must not have.

It asks so seldom that it never takes more than a hundredth of a core, ends when its raylet or its parent does, and
leaves the node to another process that asks it already.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from raytrail import disk
from raytrail.config import SourcesConfig
from raytrail.errors import SourceTaken, SourceUnavailable
from raytrail.sources import objects, placement_groups, serve_poll, workers
from raytrail.sources.event_file import EventFiles
from raytrail.sources.objects import Objects
from raytrail.sources.placement_groups import PlacementGroups
from raytrail.sources.ray_node import RayNode
from raytrail.sources.serve_poll import ServePoll
from raytrail.sources.workers import Workers

OF_HEAD = (placement_groups.EVENT_TYPE, workers.EVENT_TYPE, *serve_poll.EVENT_TYPES)
"""Those that are told for the whole cluster, and asked for on its head node."""
TYPES = (*OF_HEAD, objects.EVENT_TYPE)
"""Event types that are polled for, as in `SourcesConfig.types`."""

_SHARE = 100  # a poll may take one part in so many of a core
_GONE_SECONDS = 60.0
_LOST_SECONDS = 60.0

log = logging.getLogger(__name__)


class Probe(msgspec.Struct, frozen=True):
    """The questions to ask."""

    session_dir: str
    gcs_address: str
    node_id: str
    """Hex."""
    raylet_pid: int
    """The process of the node's raylet, or 0 where its processes cannot be seen from here."""
    types: tuple[str, ...]
    """Some of `TYPES`. Those of `OF_HEAD` are asked for on the head node only."""
    sources: SourcesConfig

    @property
    def events(self) -> Path:
        """The directory of the node's event files."""
        return Path(self.session_dir, "logs", "export_events")


class End:
    """
    The end of the process, which is its raylet's end or its parent's.

    Args:
        parent: A file descriptor that is at its end once the parent is gone.
        raylet_pid: The raylet's process, or 0.
        node_id: Stands on the raylet's command line. Without it the process is another one.
    """

    def __init__(self, parent: int, raylet_pid: int, node_id: str) -> None:
        self._waited = [parent]
        self.certain = self.ended = False
        """`certain`: the raylet's end is heard of at once, and need not be guessed from its silence."""
        if raylet_pid:
            try:
                self._waited.append(os.pidfd_open(raylet_pid))
            except ProcessLookupError:
                self.ended = True
            except (AttributeError, OSError):
                return  # a system without them
            self.ended = self.ended or node_id.encode() not in _command(raylet_pid)
            self.certain = True

    def wait(self, seconds: float) -> bool:
        """Wait for it, for so long at most, and say whether it came."""
        self.ended = self.ended or bool(select.select(self._waited, [], [], max(0.0, seconds))[0])
        return self.ended


class Pace:
    """
    When to ask again.

    Args:
        of: The things that are asked for, in the plural.
        ask: Asks once.
        seconds: How long to wait, at least.
        most_seconds: How long, at most, for an answer that is slow.
    """

    def __init__(self, of: str, ask: Callable[[], None], seconds: float, most_seconds: float) -> None:
        self._of, self._ask = of, ask
        self._seconds, self._most_seconds = seconds, max(seconds, most_seconds)
        self._failures = 0
        self.heard_at = self.due_at = time.monotonic()

    def ask(self) -> None:
        """
        Ask once, and settle when to do so again, if ever.

        A source that does not answer is asked less and less often.
        """
        cpu, began = time.process_time(), time.monotonic()
        try:
            self._ask()
        except SourceUnavailable as error:
            if not self._failures:
                log.warning("%s; asking it again until it does", error)
            self._failures = min(self._failures + 1, 10)
            self.due_at = time.monotonic() + min(self._seconds * 2**self._failures, self._most_seconds)
            return
        except (AttributeError, KeyError) as error:  # an answer that lacks a field
            log.error("%s are not asked for: this version of Ray has no %s", self._of, error)
            self.due_at = math.inf
            return
        self._failures, self.heard_at = 0, time.monotonic()
        wait = patience(time.process_time() - cpu, self.heard_at - began, self._seconds, self._most_seconds)
        self.due_at = self.heard_at + wait


def patience(cpu_seconds: float, answer_seconds: float, least_seconds: float, most_seconds: float) -> float:
    """
    Return how long to wait after a poll so that it takes no more than a hundredth of the time.

    The CPU time it took of others is not known, but is not more than the time until they answered. On a busy machine it
    is far less, so that this has a limit.

    Args:
        cpu_seconds: The CPU time it took of this process.
        answer_seconds: How long it was under way.
        least_seconds: The least to return.
        most_seconds: The most that a slow answer leads to.
    """
    return max(least_seconds, _SHARE * cpu_seconds, min(_SHARE * answer_seconds, most_seconds))


def run(probe: Probe, parent: int) -> None:
    """
    Ask until the raylet's or the parent's end.

    Args:
        probe: The questions to ask.
        parent: A file descriptor that is at its end once the parent is gone.

    Raises:
        ConfigError: Ray is not installed here, or does not let us in.
        OSError: The session's directory cannot be written.
        SourceTaken: Another process asks that node.
        SourceUnavailable: There is no such node, it does not answer from the beginning, or not for a minute where its
            end cannot be seen.
    """
    end = End(parent, probe.raylet_pid, probe.node_id)
    if end.wait(0):  # a raylet that has ended does not answer, which is no news
        return
    with _alone(probe), closing(RayNode(probe.gcs_address, probe.node_id)) as node:
        events = EventFiles(probe.events)
        paces = list(_paces(probe, node, events))
        reported_lost, tell_at = 0, 0.0
        while not end.wait(min(_LOST_SECONDS, *(pace.due_at - time.monotonic() for pace in paces))):
            pace = min(paces, key=lambda pace: pace.due_at)
            if pace.due_at > time.monotonic():
                continue
            pace.ask()
            if not end.certain and time.monotonic() - max(pace.heard_at for pace in paces) > _GONE_SECONDS:
                raise SourceUnavailable(f"node {probe.node_id} has not answered for a minute; it may have ended")
            if events.lost > reported_lost and time.monotonic() >= tell_at:
                log.warning("%d events could not be written into %s, and are lost", events.lost, probe.events)
                reported_lost, tell_at = events.lost, time.monotonic() + _LOST_SECONDS


def _paces(probe: Probe, node: RayNode, events: EventFiles) -> Iterator[Pace]:
    sources = probe.sources
    if placement_groups.EVENT_TYPE in probe.types:
        groups = PlacementGroups(events, probe.events)
        yield Pace(
            "placement groups",
            lambda: groups.take(node.placement_groups()),
            sources.placement_group_seconds,
            sources.wait_seconds,
        )
    if workers.EVENT_TYPE in probe.types:
        known = Workers(events)
        yield Pace("workers", lambda: known.take(node.workers()), sources.worker_seconds, sources.wait_seconds)
    if served := tuple(event_type for event_type in serve_poll.EVENT_TYPES if event_type in probe.types):
        poll = ServePoll(events, probe.events, served)
        yield Pace("Serve's applications", lambda: _ask_serve(node, poll), sources.serve_seconds, sources.wait_seconds)
    if objects.EVENT_TYPE in probe.types:
        limit = sources.objects_limit
        held = Objects(events, probe.node_id, limit, probe.events)
        yield Pace("objects", lambda: held.take(*node.objects(limit)), sources.object_seconds, sources.wait_seconds)


def _ask_serve(node: RayNode, poll: ServePoll) -> None:
    runs = node.serve_runs()  # also where hooks write: that the GCS answers says that the node is there
    if poll.hooked():
        return
    answer = node.serve() if runs else {}
    if not poll.hooked():  # Serve that has just begun is answered for when its hooks have written their first
        poll.take(answer)


@contextmanager
def _alone(probe: Probe) -> Iterator[None]:
    """Hold the lock of that node, which no two processes hold at once, whatever they are part of."""
    path = Path(probe.session_dir, f"raytrail_probe_{probe.node_id}.lock")
    try:
        lock = disk.open_file(path, path.parent, os.O_RDWR | os.O_CREAT, 0o644)
    except disk.Refused as error:
        raise SourceTaken(f"{path}: it is {error.strerror}; remove it, as node {probe.node_id} is not asked") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SourceTaken(f"node {probe.node_id} is asked by another agent on this machine") from None
        yield
    finally:
        os.close(lock)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
